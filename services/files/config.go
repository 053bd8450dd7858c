package files

// Config says where objects are kept.
type Config struct {
	Backend         string `env:"VEGA_FILE_STORAGE_BACKEND, default=local" doc:"Where snapshots, artifacts and exports are kept: local (under the data folder) or s3."`
	SourceBucket    string `env:"VEGA_S3_SOURCE_BUCKET" doc:"S3 bucket for source snapshots; required with s3."`
	ArtifactsBucket string `env:"VEGA_S3_ARTIFACTS_BUCKET" doc:"S3 bucket for scan artifacts; required with s3."`
	ExportsBucket   string `env:"VEGA_S3_EXPORTS_BUCKET" doc:"S3 bucket for exports; without one, exports are streamed in the response."`
}

// The values of Config.Backend.
const (
	BackendLocal = "local"
	BackendS3    = "s3"
)

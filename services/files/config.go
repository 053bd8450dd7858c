package files

// Config says where objects are kept.
type Config struct {
	// Backend is the kind of store.
	Backend Backend `env:"VEGA_FILE_STORAGE_BACKEND, default=local" oneof:"local s3" doc:"Where snapshots, artifacts and exports are kept: local stores files under the data folder, s3 stores them in S3 buckets (required for production)."`

	// S3 names the buckets of BackendS3.
	S3 S3
}

// S3 names the buckets. Source and Artifacts are required with BackendS3.
type S3 struct {
	Source    string `env:"VEGA_S3_SOURCE_BUCKET" doc:"S3 bucket for source snapshots (code archives)."`
	Artifacts string `env:"VEGA_S3_ARTIFACTS_BUCKET" doc:"S3 bucket for scan artifacts (reports, debug bundles)."`
	Exports   string `env:"VEGA_S3_EXPORTS_BUCKET" doc:"S3 bucket for user-downloadable exports. Without one they are streamed in the response."`
}

// Backend is a kind of store.
type Backend string

const (
	BackendLocal Backend = "local" // [Local], under the data folder
	BackendS3    Backend = "s3"    // the buckets of S3
)

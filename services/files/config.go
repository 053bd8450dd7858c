package files

import "time"

// Config says where objects are kept.
type Config struct {
	// Backend is the kind of store.
	Backend Backend `env:"VEGA_FILE_STORAGE_BACKEND, default=local" oneof:"local s3" doc:"Where snapshots, artifacts and exports are kept: local stores files under the data folder, s3 stores them in S3 buckets (required for production)."`

	// S3 is what BackendS3 needs.
	S3 S3
}

// S3 names the buckets and says how they are used. Source and Artifacts are required with BackendS3. Endpoint, region and credentials come from where the
// AWS SDK looks for them: AWS_ENDPOINT_URL_S3, AWS_REGION, AWS_PROFILE, the machine's role and the rest of its chain.
type S3 struct {
	Source    string `env:"VEGA_S3_SOURCE_BUCKET" doc:"S3 bucket for source snapshots (code archives)."`
	Artifacts string `env:"VEGA_S3_ARTIFACTS_BUCKET" doc:"S3 bucket for scan artifacts (reports, debug bundles)."`
	Exports   string `env:"VEGA_S3_EXPORTS_BUCKET" doc:"S3 bucket for user-downloadable exports. Without one they are streamed in the response."`

	PathStyle      bool          `env:"VEGA_S3_PATH_STYLE, default=false" doc:"Address buckets as https://host/bucket instead of https://bucket.host: for S3-compatible servers whose certificate or name service does not know bucket.host."`
	SSE            SSE           `env:"VEGA_S3_SSE" oneof:"AES256 aws:kms" doc:"Server-side encryption that is asked for with each object: AES256 or aws:kms. Unset, the bucket's own default applies."`
	SSEKMSKeyID    string        `env:"VEGA_S3_SSE_KMS_KEY_ID" doc:"KMS key (id or ARN) of VEGA_S3_SSE=aws:kms. Unset, the account's aws/s3 key is used."`
	PresignLife    time.Duration `env:"VEGA_S3_PRESIGN_SECONDS, default=900" unit:"seconds" min:"1" max:"604800" doc:"How long a signed link for a download or for one part of an upload is valid. A link never outlives the credentials that signed it."`
	PublicEndpoint string        `env:"VEGA_S3_PUBLIC_ENDPOINT" form:"http-url" doc:"Where clients reach the S3 server, when that is another address than the one this process uses (AWS_ENDPOINT_URL_S3): signed links name it."`
}

// SSE is a kind of server-side encryption.
type SSE string

const (
	SSENone SSE = ""        // the bucket's default
	SSES3   SSE = "AES256"  // with keys of S3
	SSEKMS  SSE = "aws:kms" // with a key of KMS
)

// Backend is a kind of store.
type Backend string

const (
	BackendLocal Backend = "local" // [Local], under the data folder
	BackendS3    Backend = "s3"    // the buckets of S3
)

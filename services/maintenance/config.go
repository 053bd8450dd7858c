package maintenance

import "time"

// Config says what maintenance recovers.
type Config struct {
	// RunningStale is the age at which a running scan is recovered whatever its worker's heartbeat says.
	RunningStale time.Duration `env:"VEGA_SCAN_RUNNING_STALE_SECONDS, default=21600" unit:"seconds" min:"1" max:"2592000" doc:"A running scan older than this threshold is considered stale and eligible for recovery, whatever its worker's heartbeat says."`

	// IngestStale is the age at which an ingestion that no living process works on is ended.
	IngestStale time.Duration `env:"VEGA_INGEST_STALE_SECONDS, default=3600" unit:"seconds" min:"60" max:"2592000" doc:"A source that has been coming in for longer than this, and that no living process takes in any more, is recorded as failed (upload_interrupted), so that it can be sent again."`

	// ExportRetentionDays is how long exports are kept in the file storage; 0 keeps them for ever.
	ExportRetentionDays int `env:"VEGA_EXPORT_RETENTION_DAYS, default=7" min:"0" max:"36500" doc:"Exports in the file storage are removed after as many days. 0 keeps them for ever."`

	// UploadRetentionHours is how long a direct upload may stand still before it counts as abandoned; 0 keeps them for ever.
	UploadRetentionHours int `env:"VEGA_UPLOAD_RETENTION_HOURS, default=24" min:"0" max:"87600" doc:"Direct uploads that received nothing for as many hours are aborted, and archives that were uploaded and never taken in are removed. 0 keeps them for ever."`
}

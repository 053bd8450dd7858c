package maintenance

import "time"

// Config says what maintenance recovers.
type Config struct {
	// RunningStale is the age at which a running scan is recovered whatever its worker's heartbeat says.
	RunningStale time.Duration `env:"VEGA_SCAN_RUNNING_STALE_SECONDS, default=21600" unit:"seconds" min:"1" max:"2592000" doc:"A running scan older than this threshold is considered stale and eligible for recovery, whatever its worker's heartbeat says."`

	// IngestStale is the age at which an ingestion that no living process works on is ended.
	IngestStale time.Duration `env:"VEGA_INGEST_STALE_SECONDS, default=3600" unit:"seconds" min:"60" max:"2592000" doc:"A source that has been coming in for longer than this, and that no living process takes in any more, is recorded as failed (upload_interrupted), so that it can be sent again."`
}

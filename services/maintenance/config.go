package maintenance

import "time"

// Config says what maintenance recovers.
type Config struct {
	// RunningStale is the age at which a running scan is recovered whatever its worker's heartbeat says.
	RunningStale time.Duration `env:"VEGA_SCAN_RUNNING_STALE_SECONDS, default=21600" unit:"seconds" min:"1" max:"2592000" doc:"A running scan older than this threshold is considered stale and eligible for recovery, whatever its worker's heartbeat says."`
}

package fleet

import "time"

// Config says when a silent worker counts as gone.
type Config struct {
	// HeartbeatTTL is the life of a worker's heartbeat entry.
	HeartbeatTTL time.Duration `env:"VEGA_WORKER_HEARTBEAT_TTL_SECONDS, default=120" unit:"seconds" min:"1" max:"86400" doc:"A worker that hasn't sent a heartbeat in this long is considered stale: its scans go back to the queue."`

	// DisconnectGrace is how long a worker whose connection vanished has to come back.
	DisconnectGrace time.Duration `env:"VEGA_WORKER_DISCONNECT_GRACE_SECONDS, default=5" unit:"seconds" min:"0" max:"3600" doc:"How long a worker whose connection vanished has to come back before its scans go back to the queue."`
}

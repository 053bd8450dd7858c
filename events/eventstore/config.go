package eventstore

import "vega/config/secret"

// Config says where the log is and how surely it is kept.
type Config struct {
	// NATSURL is the external server, or several of one cluster by comma. Empty: this machine's embedded server.
	NATSURL secret.URL `env:"VEGA_NATS_URL" form:"nats-url" secret:"true" doc:"An external NATS server, or several of one cluster by comma. Without it the API embeds one under the data folder, and a worker on the same machine finds it there."`

	// NATSCreds is the path of the credentials file for NATSURL.
	NATSCreds string `env:"VEGA_NATS_CREDS" doc:"Path of the NATS credentials file that goes with VEGA_NATS_URL."`

	// Replicas is the number of servers that keep each stream.
	Replicas int `env:"VEGA_NATS_REPLICAS, default=1" oneof:"1 3 5" doc:"How many servers of the cluster keep each stream."`

	// Sync says when the embedded server's writes reach the disk.
	Sync SyncPolicy `env:"VEGA_NATS_SYNC, default=always" oneof:"always default" doc:"When the embedded server's writes reach the disk: always before they are acknowledged (survives power loss), or default, every two minutes (survives a crash of the process)."`

	// MinFree is how much of the disk stays free, in bytes.
	MinFree int64 `env:"VEGA_MIN_FREE_BYTES, default=67108864" min:"1048576" doc:"How much of the disk that holds VEGA_DATA_DIR stays free, in bytes. With less, writes are answered 503 until there is room again."`
}

// SyncPolicy says when the embedded server's writes reach the disk.
type SyncPolicy string

const (
	SyncAlways  SyncPolicy = "always"  // before each acknowledgement: an acknowledged event survives power loss
	SyncDefault SyncPolicy = "default" // every two minutes: an acknowledged event survives the process, not the machine
)

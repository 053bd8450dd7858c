package projections

import (
	"time"

	"vega/config/secret"
)

// Config says where the read models are kept.
type Config struct {
	// Backend chooses the store. Both answer every query identically.
	Backend Backend `env:"VEGA_PERSISTENCE_BACKEND, default=json" oneof:"json postgres" doc:"Where the read models are: json keeps files under the data folder, postgres keeps tables (required for production)."`

	// DatabaseURL is the Postgres connection; used with BackendPostgres alone.
	DatabaseURL secret.URL `env:"VEGA_DATABASE_URL" alias:"DATABASE_URL" aliasif:"VEGA_PERSISTENCE_BACKEND=postgres" form:"postgres-url" secret:"true" doc:"Postgres connection string, such as postgresql://user:pass@host:5432/vega. DATABASE_URL is accepted too, when the backend is postgres and this one is not set."`

	// Postgres says how it is used.
	Postgres Postgres
}

// Postgres are the settings of a Postgres that holds the read models.
type Postgres struct {
	// ReplicaURL is a copy that follows the primary; queries go there.
	ReplicaURL secret.URL `env:"VEGA_DATABASE_REPLICA_URL" form:"postgres-url" secret:"true" doc:"Connection string of one read-only replica, which answers the queries; a read that must see a write waits until the replica has it. Without it, and while it does not answer, the primary does."`
	// MaxConnections bounds the pool of queries.
	MaxConnections int `env:"VEGA_DATABASE_MAX_CONNECTIONS, default=10" min:"1" max:"1000" doc:"How many connections each API process opens for queries at most. Projecting, following and rebuilding take up to nine more on the primary, which also takes over the queries of a replica that does not answer."`
	// StatementTimeout bounds one statement.
	StatementTimeout time.Duration `env:"VEGA_DATABASE_STATEMENT_TIMEOUT_SECONDS, default=30" unit:"seconds" min:"1" max:"3600" doc:"How long one statement may take before Postgres ends it; migrations and rebuilds have no limit."`
	// AutoMigrate applies migrations at start.
	AutoMigrate bool `env:"VEGA_DATABASE_AUTO_MIGRATE, default=true" doc:"Whether an API process applies pending migrations when it starts; otherwise it refuses to start until 'vega migrate up' was run."`
}

// Backend names a store of read models.
type Backend string

const (
	BackendJSON     Backend = "json"     // files under the data folder, owned by one API process
	BackendPostgres Backend = "postgres" // tables, shared by any number of API processes
)

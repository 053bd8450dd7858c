package projections

import "vega/config/secret"

// Config says where the read models are kept.
type Config struct {
	// Backend chooses the store. Both answer every query identically.
	Backend Backend `env:"VEGA_PERSISTENCE_BACKEND, default=json" oneof:"json postgres" doc:"Where the read models are: json keeps files under the data folder, postgres keeps tables (required for production)."`

	// DatabaseURL is the Postgres connection; used with BackendPostgres alone.
	DatabaseURL secret.URL `env:"VEGA_DATABASE_URL" alias:"DATABASE_URL" aliasif:"VEGA_PERSISTENCE_BACKEND=postgres" form:"postgres-url" secret:"true" doc:"Postgres connection string, such as postgresql://user:pass@host:5432/vega. DATABASE_URL is accepted too, when the backend is postgres and this one is not set."`
}

// Backend names a store of read models.
type Backend string

const (
	BackendJSON     Backend = "json"     // files under the data folder, owned by one API process
	BackendPostgres Backend = "postgres" // tables, shared by any number of API processes
)

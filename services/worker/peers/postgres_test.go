package peers

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"vega/projections/pgtest"
)

// settings make a server fast on a small machine without making it less safe than one in production: enough memory, no checkpoint in the middle of a
// measurement. Whether a commit waits for the disk is each connection's choice.
var settings = []string{
	"fsync=on", "full_page_writes=on", "max_connections=300", "shared_buffers=1GB", "wal_buffers=64MB", "max_wal_size=8GB", "min_wal_size=1GB",
	"checkpoint_timeout=1h", "jit=off", "autovacuum_naptime=5s", "autovacuum_vacuum_cost_delay=0", "log_checkpoints=off",
}

// startPostgres makes and starts a throwaway server.
func startPostgres(b *testing.B) *pgtest.Server {
	b.Helper()
	return pgtest.Start(b, pgtest.Options{Settings: settings})
}

// database makes an empty one and returns a pool on it over the server's socket, as large as was fastest for River and the plain queue: commits that wait for
// the disk share a sync, so many connections help; otherwise they only take the processors from each other, and survive the server's death, not the machine's.
func database(b *testing.B, s *pgtest.Server, powerSafe bool) *pgxpool.Pool {
	b.Helper()
	cfg, err := pgxpool.ParseConfig(s.SocketURL(b, s.Database(b)))
	if err != nil {
		b.Fatal(err)
	}
	cfg.MaxConns = slots
	if !powerSafe {
		cfg.MaxConns = 16
		cfg.ConnConfig.RuntimeParams["synchronous_commit"] = "off"
	}
	cfg.MinConns = cfg.MaxConns
	pool, err := pgxpool.NewWithConfig(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	return pool
}

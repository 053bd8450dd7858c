package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"vega/migrations"
	"vega/projections"
)

// versionTable lists the applied migrations; it lies in the schema that they made.
const versionTable = "migrations"

// The locks of a database that are ours: the first number of each is the same.
const (
	lockFamily  = 0x76656761 // "vega"
	lockLead    = 1          // the process that projects
	lockMigrate = 2          // a transaction that makes or changes tables
	lockRebuild = 3          // the process that rebuilds
)

// Migration is one step of the tables' history.
type Migration struct {
	Version   int64     `json:"version"`
	Name      string    `json:"name"`
	AppliedAt time.Time `json:"applied_at,omitzero"` // zero: it is pending
}

// Migrate applies what is pending and returns the whole list. Any number of processes may do it at once: one works, the others wait.
func Migrate(ctx context.Context, o Options) ([]Migration, error) {
	m, err := connect(ctx, o)
	if err != nil {
		return nil, err
	}
	rows, err := []Migration(nil), m.isNewEnough(ctx)
	if err == nil {
		err = m.migrate(ctx)
	}
	if err == nil {
		rows, err = m.migrations(ctx)
	}
	if err != nil {
		err = fmt.Errorf("migrate read models: %w", named(err))
	}
	return rows, errors.Join(err, m.Close())
}

// Status lists the migrations, applied or pending, and those that a newer release applied. It changes nothing.
func Status(ctx context.Context, o Options) ([]Migration, error) {
	m, err := connect(ctx, o)
	if err != nil {
		return nil, err
	}
	rows, err := m.migrations(ctx)
	if err != nil {
		err = fmt.Errorf("migrations of the read models: %w", named(err))
	}
	return rows, errors.Join(err, m.Close())
}

// CheckRights says what the connection's user lacks to apply migrations, which make a schema, or tables in the one that is there. Nothing is changed.
func CheckRights(ctx context.Context, o Options) error {
	m, err := connect(ctx, o)
	if err != nil {
		return err
	}
	var there, may bool
	err = m.use(ctx, m.work, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT s.oid IS NOT NULL, CASE WHEN s.oid IS NULL THEN has_database_privilege(current_database(), 'CREATE') ELSE has_schema_privilege(s.oid, 'CREATE') END
			FROM (SELECT to_regnamespace($1)::oid) AS s(oid)`, liveSchema).Scan(&there, &may)
	})
	switch {
	case err != nil:
		err = m.tell(ctx, "ask for the user's rights", err)
	case may:
	case there:
		err = fmt.Errorf("the user may make no tables in the schema %s: GRANT CREATE ON SCHEMA %s, or run 'vega migrate up' as its owner", liveSchema, liveSchema)
	default:
		err = errors.New("the user may make no schema in the database: GRANT CREATE ON DATABASE, or run 'vega migrate up' as a user who may")
	}
	return errors.Join(err, m.Close())
}

// prepare makes the tables fit for this release, or says why they are not.
func (m *Model) prepare(ctx context.Context, migrate bool) error {
	if err := m.isNewEnough(ctx); err != nil {
		return err
	}
	rows, err := m.migrations(ctx)
	if err != nil {
		return err
	}
	var pending []string
	for _, r := range rows {
		if r.AppliedAt.IsZero() {
			pending = append(pending, fmt.Sprintf("%05d_%s", r.Version, r.Name))
		}
	}
	known, err := embedded()
	if err != nil {
		return err
	}
	if last := rows[len(rows)-1]; last.Version > known[len(known)-1].Version {
		return fmt.Errorf("the tables are those of a newer release (migration %d, this one knows %d): start the newer release, or %s to build them anew with this one", last.Version, known[len(known)-1].Version, m.Removal())
	}
	if len(pending) > 0 {
		if !migrate {
			return fmt.Errorf("the tables lack %s, and VEGA_DATABASE_AUTO_MIGRATE is false: run 'vega migrate up'", strings.Join(pending, ", "))
		}
		if err := m.migrate(ctx); err != nil {
			return err
		}
	}
	return m.refit(ctx)
}

// refit empties tables whose rows are of an older shape; the leader fills them again.
func (m *Model) refit(ctx context.Context) error {
	conn, err := m.acquire(ctx, m.work)
	if err != nil {
		return m.tell(ctx, "read the checkpoint", err)
	}
	defer conn.Release()
	err = pgx.BeginFunc(ctx, conn.Conn(), func(tx pgx.Tx) error {
		var s standing
		if err := tx.QueryRow(ctx, "SELECT "+standingColumns+" FROM checkpoint").Scan(s.into()...); err != nil {
			return err
		}
		if s.rows == projections.Schema {
			return nil
		}
		if err := tx.QueryRow(ctx, "SELECT "+standingColumns+" FROM checkpoint FOR UPDATE").Scan(s.into()...); err != nil {
			return err
		}
		switch {
		case s.rows == projections.Schema: // another process was quicker
			return nil
		case s.rows > projections.Schema:
			return fmt.Errorf("the rows are those of a newer release (shape %d, this one makes %d): start the newer release, or %s to build them anew with this one", s.rows, projections.Schema, m.Removal())
		case s.Seq > 0:
			m.log.Info("read models emptied, to be filled from the log", "seq", s.Seq, "schema", projections.Schema)
		}
		if _, err := tx.Exec(ctx, "TRUNCATE "+strings.Join(tableNames, ", ")); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT pg_notify($1, $2)", channel, emptied); err != nil {
			return err
		}
		return restart(ctx, tx)
	})
	// A crash before the commit leaves the old rows, and the next start does this again.
	return m.tell(ctx, "read the checkpoint", err)
}

// restart makes the checkpoint that of an empty set of rows.
func restart(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, "UPDATE checkpoint SET seq = 0, stream = '', created_ns = NULL, rows_schema = $1, edition = gen_random_uuid()::text", projections.Schema)
	return err
}

// oldestServer is the first version of Postgres that takes all our settings (client_connection_check_interval).
const oldestServer = 14

// isNewEnough refuses a server that is older.
func (m *Model) isNewEnough(ctx context.Context) error {
	var version string
	err := m.use(ctx, m.work, func(_ context.Context, conn *pgx.Conn) error {
		version = conn.PgConn().ParameterStatus("server_version")
		return nil
	})
	if err != nil {
		return m.tell(ctx, "connect", err)
	}
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err == nil && n < oldestServer { // what is no number is "19beta1", or a proxy's own
		return fmt.Errorf("Postgres at %s is version %s: the read models need %d or newer", m.address.host, version, oldestServer)
	}
	return nil
}

// embedded are the migrations of this release, oldest first.
func embedded() ([]Migration, error) {
	names, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		return nil, err
	}
	var out []Migration
	for _, n := range names {
		number, name, _ := strings.Cut(strings.TrimSuffix(path.Base(n), ".sql"), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("migration %s has no number", n)
		}
		out = append(out, Migration{Version: version, Name: name})
	}
	slices.SortFunc(out, func(a, b Migration) int { return int(a.Version - b.Version) })
	return out, nil
}

// migrations lists what is embedded and what was applied, in order.
func (m *Model) migrations(ctx context.Context) ([]Migration, error) {
	out, err := embedded()
	if err != nil {
		return nil, err
	}
	err = m.use(ctx, m.work, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT version_id, tstamp FROM "+pgx.Identifier{liveSchema, versionTable}.Sanitize()+" WHERE is_applied AND version_id > 0 ORDER BY version_id")
		if err != nil {
			return err
		}
		var version int64
		var at time.Time
		_, err = pgx.ForEachRow(rows, []any{&version, &at}, func() error {
			i, known := slices.BinarySearchFunc(out, version, func(m Migration, v int64) int { return int(m.Version - v) })
			if !known {
				out = slices.Insert(out, i, Migration{Version: version, Name: "(of a newer release)"})
			}
			out[i].AppliedAt = at.UTC()
			return nil
		})
		return err
	})
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && (e.Code == codeUndefinedTable || e.Code == codeUndefinedSchema) {
		return out, nil // none was applied
	}
	return out, m.tell(ctx, "read the migrations", err)
}

// migrate makes the live schema and applies what is pending.
func (m *Model) migrate(ctx context.Context) error {
	conn, err := m.dial(ctx, liveSchema)
	if err != nil {
		return m.tell(ctx, "connect", err)
	}
	defer m.hangUp(conn)
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1, $2)", lockFamily, lockMigrate); err != nil {
		return m.tell(ctx, "wait for other migrations", err)
	}
	// A crash from here on takes the lock back; each file is one transaction with its line in the table of versions.
	return m.tell(ctx, "migrate", m.makeTables(ctx, conn, liveSchema))
}

// makeTables makes a schema, unless it is there, and applies to it what is pending.
func (m *Model) makeTables(ctx context.Context, conn *pgx.Conn, schema string) error {
	// Not IF NOT EXISTS alone: that asks for the right to create schemas even where an administrator made this one.
	var there bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema).Scan(&there); err != nil {
		return err
	}
	if !there {
		if _, err := conn.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+pgx.Identifier{schema}.Sanitize()); err != nil {
			return err
		}
	}
	// goose would try for seconds what it may not do.
	var may bool
	if err := conn.QueryRow(ctx, "SELECT has_schema_privilege($1, 'CREATE') OR EXISTS (SELECT FROM pg_class WHERE relnamespace = $1::regnamespace AND relname = $2)", schema, versionTable).Scan(&may); err != nil {
		return err
	}
	if !may {
		return fmt.Errorf("the role may not make tables in the schema (%s)", m.address.remedy("for schema"))
	}
	cfg := m.primary.Copy()
	unbound(cfg, schema)
	db := stdlib.OpenDB(*cfg)
	err := gooseUp(ctx, db)
	return errors.Join(err, db.Close())
}

func gooseUp(ctx context.Context, db *sql.DB) error {
	p, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS, goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// unbound makes a configuration for work that may take long in a schema.
func unbound(c *pgx.ConnConfig, schema string) {
	c.RuntimeParams["search_path"] = schema
	c.RuntimeParams["statement_timeout"] = "0"
	c.RuntimeParams["idle_in_transaction_session_timeout"] = "0"
	c.RuntimeParams["idle_session_timeout"] = "0"
}

// dial makes a connection of its own, whose session and locks end with it.
func (m *Model) dial(ctx context.Context, schema string) (*pgx.Conn, error) {
	cfg := m.primary.Copy()
	unbound(cfg, schema)
	return pgx.ConnectConfig(ctx, cfg)
}

// hangUp closes a connection made by dial.
func (m *Model) hangUp(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // the server notices all the same
}

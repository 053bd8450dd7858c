package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"vega/config/secret"
	"vega/events"
	"vega/projections"
)

// The schemas of the database that are ours.
const (
	liveSchema  = "vega"
	draftSchema = "vega_draft"
	oldSchema   = "vega_old"
)

// Bounds of what is asked of a server that may be gone.
const (
	connectTime = 3 * time.Second // to make a connection, unless the address says otherwise (connect_timeout)
	acquireTime = 5 * time.Second // to get one out of the pool
	pingTime    = 2 * time.Second // to see that an idle one works
)

// Options of a model.
type Options struct {
	Config projections.Config
	Log    *slog.Logger
}

// Model is the read model in a database. It implements projections.Model, projections.Shared and projections.Rebuilder, for concurrent use except that
// transactions run one at a time.
type Model struct {
	log     *slog.Logger
	address address
	primary *pgx.ConnConfig // for connections of their own
	timeout time.Duration   // of a statement

	reads   *pgxpool.Pool // queries that the primary answers
	work    *pgxpool.Pool // transactions and what surrounds them, on the primary
	replica *replica      // nil: there is none

	live writer
	sight
}

// Open connects to the database, applies pending migrations if it may, and returns the model that is there, perhaps an empty one. Its errors begin with "open read models:", name the server and the
// setting and never the password; they wrap projections.ErrUnavailable when it does not answer. A replica that does not answer is logged and no error.
func Open(ctx context.Context, o Options) (m *Model, err error) {
	m, err = connect(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open read models: %w", named(err)), m.Close())
			m = nil
		}
	}()
	if err := m.prepare(ctx, o.Config.Postgres.AutoMigrate); err != nil {
		return m, err
	}
	c, err := m.Checkpoint(ctx)
	if err != nil {
		return m, err
	}
	m.saw(onPrimary, c.Seq)
	if m.replica == nil {
		return m, nil
	}
	return m, m.engage(ctx)
}

// connect makes the pools. Nothing is asked of the server yet.
func connect(ctx context.Context, o Options) (*Model, error) {
	fail := func(err error) (*Model, error) { return nil, fmt.Errorf("open read models: %w", err) }
	cfg := o.Config.Postgres
	m := &Model{log: cmp.Or(o.Log, slog.New(slog.DiscardHandler)), timeout: cmp.Or(cfg.StatementTimeout, 30*time.Second), sight: newSight()}
	m.live = writer{schema: liveSchema}
	work, err := m.poolConfig(o.Config.DatabaseURL, primarySetting, 4)
	if err != nil {
		return fail(err)
	}
	m.primary, m.address = work.ConnConfig.Copy(), addressOf(work.ConnConfig)
	work.ConnConfig.RuntimeParams["enable_seqscan"] = "off" // rows are found by key, also in tables that grow faster than their statistics
	reads, err := m.poolConfig(o.Config.DatabaseURL, primarySetting, cmp.Or(cfg.MaxConnections, 10))
	if err != nil {
		return fail(err)
	}
	forQueries(reads)
	reads.AfterConnect = m.lookFirst
	if !cfg.ReplicaURL.IsZero() {
		if err := m.addReplica(ctx, cfg); err != nil {
			return fail(err)
		}
	}
	if m.reads, err = pgxpool.NewWithConfig(ctx, reads); err != nil {
		return fail(errors.Join(errors.New(m.address.clean(err)), m.Close()))
	}
	if m.work, err = pgxpool.NewWithConfig(ctx, work); err != nil {
		return fail(errors.Join(errors.New(m.address.clean(err)), m.Close()))
	}
	return m, nil
}

// The settings that name the servers, for whoever has to change them.
const (
	primarySetting = "VEGA_DATABASE_URL"
	replicaSetting = "VEGA_DATABASE_REPLICA_URL"
)

// named adds the setting that names the primary to an error of its, unless a setting is named already.
func named(err error) error {
	if strings.Contains(err.Error(), "VEGA_DATABASE_") {
		return err
	}
	return fmt.Errorf("%w (%s)", err, primarySetting)
}

// forQueries makes a configuration for connections that only answer queries.
func forQueries(c *pgxpool.Config) {
	c.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on"
	c.ConnConfig.RuntimeParams["plan_cache_mode"] = "force_custom_plan" // a page of few and a page of many need other plans
}

// poolConfig reads a connection string. What it says about TLS, hosts and the rest holds; the schema and the time-out of statements are ours.
func (m *Model) poolConfig(u secret.URL, variable string, connections int) (*pgxpool.Config, error) {
	c, err := pgxpool.ParseConfig(u.Reveal())
	if err != nil {
		return nil, fmt.Errorf("%s cannot be used: %s", variable, whyUnparsed(err, u.Reveal()))
	}
	c.MaxConns, c.MinConns, c.MinIdleConns = int32(connections), 0, 0
	c.PingTimeout = pingTime
	c.MaxConnIdleTime = 5 * time.Minute
	if c.ConnConfig.ConnectTimeout <= 0 || c.ConnConfig.ConnectTimeout > 30*time.Second {
		c.ConnConfig.ConnectTimeout = connectTime
	}
	c.ConnConfig.DialFunc = (&net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}}).DialContext
	p := c.ConnConfig.RuntimeParams
	if p["application_name"] == "" {
		p["application_name"] = "vega"
	}
	p["search_path"] = liveSchema
	p["jit"] = "off" // no statement runs long enough for it
	p["statement_timeout"] = strconv.FormatInt(m.timeout.Milliseconds(), 10)
	p["idle_in_transaction_session_timeout"] = strconv.FormatInt((m.timeout + 30*time.Second).Milliseconds(), 10)
	return c, nil
}

// whyUnparsed is what is wrong with a connection string, without the string.
func whyUnparsed(err error, given string) string {
	said := err.Error()
	if i := strings.LastIndex(said, "`: "); i >= 0 {
		said = said[i+3:]
	}
	if strings.Contains(said, given) || given == "" {
		return "it is not a connection string such as postgresql://user:pass@host:5432/vega"
	}
	if i := strings.IndexByte(said, '('); i > 0 { // the reason with it may quote
		if j := strings.LastIndexByte(said, ')'); j > i && strings.Contains(said[i:j], "://") {
			said = strings.TrimSpace(said[:i])
		}
	}
	return said
}

func severalHosts(c *pgx.ConnConfig) bool {
	for _, f := range c.Fallbacks { // the same host once more is for trying without TLS
		if f.Host != c.Host || f.Port != c.Port {
			return true
		}
	}
	return false
}

// Close closes the connections. Lead and Watch have ended.
func (m *Model) Close() error {
	var closing sync.WaitGroup
	pools := []*pgxpool.Pool{m.reads, m.work}
	if m.replica != nil {
		pools = append(pools, m.replica.pool, m.replica.scout)
	}
	for _, p := range pools {
		if p != nil { // connect failed half-way
			closing.Go(p.Close)
		}
	}
	closing.Wait()
	return nil
}

// Removal says how to remove the model.
func (m *Model) Removal() string {
	return fmt.Sprintf("drop the schema of the read models (DROP SCHEMA %s CASCADE, in the database %s)", liveSchema, m.address.database)
}

// Checkpoint is that of the last commit, on the primary.
func (m *Model) Checkpoint(ctx context.Context) (projections.Checkpoint, error) {
	var c projections.Checkpoint
	err := m.use(ctx, m.work, func(ctx context.Context, conn *pgx.Conn) error {
		s, err := readStanding(ctx, conn)
		if err == nil {
			c, err = s.Checkpoint, s.fits()
		}
		return err
	})
	return c, m.tell(ctx, "read the checkpoint", err)
}

// standing is the row of the table checkpoint.
type standing struct {
	projections.Checkpoint
	rows    int    // the shape of the rows
	edition string // which set of rows it is
}

// fits says that the rows are those that this release makes; otherwise it wraps ErrOutdated.
func (s *standing) fits() error {
	if s.rows == projections.Schema {
		return nil
	}
	return fmt.Errorf("%w: their rows have shape %d and this process makes %d", projections.ErrOutdated, s.rows, projections.Schema)
}

const standingColumns = "seq, stream, created_ns, rows_schema, edition"

func (s *standing) into() []any {
	return []any{numberInto[events.Seq]{&s.Seq}, textInto[string]{&s.Stream}, momentInto{&s.Created}, numberInto[int]{&s.rows}, textInto[string]{&s.edition}}
}

func readStanding(ctx context.Context, conn *pgx.Conn) (standing, error) {
	var s standing
	err := conn.QueryRow(ctx, "SELECT "+standingColumns+" FROM checkpoint").Scan(s.into()...)
	return s, err
}

// use runs f with a connection of a pool, once more when that may help. f only reads.
func (m *Model) use(ctx context.Context, pool *pgxpool.Pool, f func(context.Context, *pgx.Conn) error) error {
	begun := time.Now()
	for try := 0; ; try++ {
		err := m.useOnce(ctx, pool, f)
		if err == nil || try > 0 || ctx.Err() != nil || !again(err) || time.Since(begun) > connectTime {
			return err
		}
		if lost(err) {
			pool.Reset() // the others are of the same server
		}
	}
}

func (m *Model) useOnce(ctx context.Context, pool *pgxpool.Pool, f func(context.Context, *pgx.Conn) error) error {
	conn, err := m.acquire(ctx, pool)
	if err != nil {
		return err
	}
	defer conn.Release()
	// The server ends a statement that takes too long; a server that is gone does not.
	ctx, cancel := context.WithTimeout(ctx, m.timeout+2*time.Second)
	defer cancel()
	return f(ctx, conn.Conn())
}

func (m *Model) acquire(ctx context.Context, pool *pgxpool.Pool) (*pgxpool.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, acquireTime)
	defer cancel()
	conn, err := pool.Acquire(ctx)
	if err != nil && ctx.Err() != nil && pool.Stat().AcquiredConns() >= pool.Config().MaxConns {
		return nil, fmt.Errorf("%w: all %d connections are busy", projections.ErrUnavailable, pool.Config().MaxConns)
	}
	return conn, err
}

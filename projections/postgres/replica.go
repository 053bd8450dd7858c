package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"vega/events"
	"vega/projections"
)

// side is a server that can answer queries.
type side int

const (
	onPrimary side = iota
	onReplica
)

// turn is a time during which one server answers the queries.
type turn struct {
	on   side
	over context.Context // ends with the turn
	end  context.CancelFunc
}

func newTurn(on side) *turn {
	t := &turn{on: on}
	t.over, t.end = context.WithCancel(context.Background())
	return t
}

// replica is a copy of the primary that answers queries while it can.
type replica struct {
	address address
	pool    *pgxpool.Pool // queries; each connection was made in the replica's turn and found to be where it has to be
	scout   *pgxpool.Pool // the one connection that asks how far it is, so that this waits for no query
}

// errBehind says that the replica has not got what it, or the primary in its place, has already shown. It may have restarted and be catching up.
var errBehind = errors.New("it is behind what queries have shown")

// addReplica makes the replica's pools. Nothing is asked of it yet.
func (m *Model) addReplica(ctx context.Context, cfg projections.Postgres) error {
	queries, err := m.poolConfig(cfg.ReplicaURL, replicaSetting, cmp.Or(cfg.MaxConnections, 10))
	if err != nil {
		return err
	}
	if severalHosts(queries.ConnConfig) {
		return errors.New(replicaSetting + " names several hosts; each would be behind in its own way, so name one")
	}
	forQueries(queries)
	r := &replica{address: addressOf(queries.ConnConfig)}
	r.address.readOnly = true
	m.address.secrets = append(m.address.secrets, r.address.secrets...)
	scout := queries.Copy()
	scout.MaxConns = 1
	queries.AfterConnect = m.admit
	m.replica = r
	if r.pool, err = pgxpool.NewWithConfig(ctx, queries); err == nil {
		r.scout, err = pgxpool.NewWithConfig(ctx, scout)
	}
	if err != nil {
		return errors.Join(errors.New(r.address.clean(err)), m.Close())
	}
	return nil
}

// query runs f, which only reads, on the server whose turn it is. When that is the replica and it does not answer, the primary does, which has all that
// the replica has shown.
func (m *Model) query(ctx context.Context, f func(context.Context, *pgx.Conn) error) error {
	t, _ := m.now()
	if t.on == onReplica {
		err := m.queryReplica(ctx, t, f)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if t.over.Err() == nil && !absent(err) {
			return err
		}
		m.fallBack(t, err)
	}
	return m.use(ctx, m.reads, f)
}

// queryReplica runs f on the replica. It is interrupted at the end of the turn: the replica may be one that hangs, and what it says then is no longer true
// enough for who asked.
func (m *Model) queryReplica(ctx context.Context, t *turn, f func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(t.over, cancel)
	defer stop()
	return m.use(ctx, m.replica.pool, f)
}

// admit runs on each new connection for queries to the replica. A server that restarted shows for a while less than it had shown.
func (m *Model) admit(ctx context.Context, conn *pgx.Conn) error {
	t, at := m.now()
	if t.on != onReplica {
		return fmt.Errorf("%w: it is not its turn", errBehind)
	}
	seq, err := howFar(ctx, conn)
	if err != nil {
		return err
	}
	if seq < at {
		return fmt.Errorf("%w: it is at sequence %d, they at %d", errBehind, seq, at)
	}
	return nil
}

// askReplica asks the replica how far it is. It answers soon or not at all.
func (m *Model) askReplica(ctx context.Context) (seq events.Seq, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	err = m.use(ctx, m.replica.scout, func(ctx context.Context, conn *pgx.Conn) (err error) {
		seq, err = howFar(ctx, conn)
		return err
	})
	return seq, err
}

// engage gives the replica a second to be where the primary was at the start. It logs why it does not answer queries yet, and returns nothing but ctx's error.
func (m *Model) engage(ctx context.Context) error {
	tick := time.NewTicker(lookClose)
	defer tick.Stop()
	for end := time.Now().Add(lookEvery); ; {
		t, at := m.now()
		seq, err := m.askReplica(ctx)
		late := time.Now().After(end)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil && m.comeBack(seq):
			return nil
		case err == nil && late:
			m.fallBack(t, fmt.Errorf("%w: it is at sequence %d, the primary at %d", errBehind, seq, at))
			return nil
		case err != nil && (late || !passing(err) && !lacksTables(err)): // those that were made a moment ago are on their way
			m.fallBack(t, err)
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// lookAtReplica asks the replica how far it is, in its turn to keep Seen true, and otherwise to see whether its turn may come.
func (m *Model) lookAtReplica(ctx context.Context, hurried bool) time.Duration {
	t, at := m.now()
	seq, err := m.askReplica(ctx)
	switch {
	case ctx.Err() != nil:
		return lookEvery
	case err != nil && passing(err):
		return lookEvery / 4
	case err == nil && t.on == onReplica && seq < at:
		err = fmt.Errorf("%w: it is at sequence %d, they at %d", errBehind, seq, at)
	}
	if err != nil {
		m.fallBack(t, err)
		return lookEvery / 4
	}
	if t.on == onReplica {
		m.saw(onReplica, seq)
		if hurried {
			return lookSoon
		}
		return lookEvery
	}
	if m.comeBack(seq) {
		return lookEvery
	}
	if at < seq+closeBy {
		return lookClose
	}
	return lookEvery / 4
}

// closeBy is how many events behind a replica is that will soon be where it may answer again.
const closeBy = 10_000

// fallBack ends the replica's turn t, or takes note that none comes, and says why, once until it comes.
func (m *Model) fallBack(t *turn, err error) {
	m.mu.Lock()
	if m.turn != t { // somebody else did
		m.mu.Unlock()
		return
	}
	if t.on == onReplica {
		m.turn = newTurn(onPrimary)
	}
	news := !m.told
	m.told = true
	m.mu.Unlock()
	if t.on == onReplica {
		t.end()
		m.replica.pool.Reset()
		m.Hurry() // who waits wants to know how far the primary is
	}
	if news {
		m.log.Error("replica does not answer, the primary answers queries", "setting", replicaSetting, "err", m.replica.address.clean(err))
	}
}

// comeBack begins the replica's turn, if seq, where it is, is no less than what was seen: nothing that was promised is taken back.
func (m *Model) comeBack(seq events.Seq) bool {
	m.mu.Lock()
	if m.turn.on == onReplica || seq < m.at {
		m.mu.Unlock()
		return false
	}
	before := m.turn
	m.turn = newTurn(onReplica)
	if seq > m.at {
		m.move(seq)
	}
	told := m.told
	m.told = false
	m.mu.Unlock()
	before.end()
	if told {
		m.log.Info("replica answers queries again", "setting", replicaSetting)
	}
	m.answers(onReplica, nil)
	return true
}

// absent says that a server does not do its work at all for us: it is away, does not let us in, or has not got our tables.
func absent(err error) bool {
	if errors.Is(err, errBehind) || lost(err) {
		return true
	}
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || passing(err) {
		return false
	}
	switch classOf(e.Code) {
	case "08", "28", "53", "57", "58":
		return true
	}
	return e.Code == codeNoDatabase || e.Code == codePrivilege || lacksTables(err)
}

// passing says that a statement was ended for its own sake, by a server that is well.
func passing(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	switch e.Code {
	case codeSerialization, codeDeadlock, codeLockTimeout, codeCanceled:
		return true
	}
	return false
}

// lacksTables says that our tables are not there.
func lacksTables(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == codeUndefinedTable || e.Code == codeUndefinedSchema)
}

// CheckReplica asks the replica that is configured, if any, whether it would answer queries. The error is one sentence that names the setting and never the password. It says nothing about how far behind the
// replica is, and finds nothing wrong with one without tables when the primary has none either.
func CheckReplica(ctx context.Context, o Options) error {
	if o.Config.Postgres.ReplicaURL.IsZero() {
		return nil
	}
	m, err := connect(ctx, o)
	if err != nil {
		return err // of a setting, which it names
	}
	_, err = m.askReplica(ctx)
	if err != nil && lacksTables(err) {
		if _, none := m.Checkpoint(ctx); none == nil {
			err = fmt.Errorf("Postgres at %s has no tables of the read models, and the primary has: it does not follow the primary, or %s names another database", m.replica.address.host, replicaSetting)
		} else {
			err = nil
		}
	}
	switch {
	case err != nil && ctx.Err() != nil:
		err = context.Cause(ctx)
	case err != nil:
		err = fmt.Errorf("replica of the read models: %s (%s)", m.replica.address.clean(err), replicaSetting)
	}
	return errors.Join(err, m.Close())
}

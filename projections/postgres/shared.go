package postgres

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"vega/events"
	"vega/projections"
)

// How often a process asks whether it may lead, and how far the rows are when nothing tells it.
const (
	leadEvery = 500 * time.Millisecond
	lookEvery = time.Second
	lookSoon  = 2 * time.Millisecond   // while somebody waits for a replica
	lookClose = 10 * time.Millisecond  // while a replica is about to be where it may answer again
	hurryTime = 150 * time.Millisecond // how long a Hurry holds: longer than who waits repeats it
)

// channel is what a committed transaction notifies, with its sequence, or with emptied when the tables were emptied for rows of another shape.
const (
	channel = "vega_read_models"
	emptied = "emptied"
)

// sight is how far the rows are that this process reads, and which server it reads them from.
type sight struct {
	hurry [2]chan struct{} // by server, buffered 1: somebody waits

	mu      sync.Mutex // guards what follows, never held over I/O
	turn    *turn
	at      events.Seq
	changed chan struct{}
	trouble error // why the server whose turn it is does not answer
	told    bool  // that there is a replica and the primary answers instead
}

func newSight() sight {
	return sight{hurry: [2]chan struct{}{make(chan struct{}, 1), make(chan struct{}, 1)}, changed: make(chan struct{}), turn: newTurn(onPrimary)}
}

// Seen is the sequence up to which queries are answered truly.
func (s *sight) Seen() (events.Seq, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at, s.changed, s.trouble
}

// Hurry makes Watch look now and for a while.
func (s *sight) Hurry() {
	for _, c := range s.hurry {
		select {
		case c <- struct{}{}:
		default: // it was told
		}
	}
}

// now is whose turn it is, and what has been seen.
func (s *sight) now() (*turn, events.Seq) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.turn, s.at
}

// saw takes note of rows of a server that are at least as far as seq. It means nothing while another server answers.
func (s *sight) saw(on side, seq events.Seq) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turn.on == on && seq > s.at {
		s.move(seq)
	}
}

// fell takes note that the server is at seq, which is before where it was when it was asked in that turn: it lost commits, or it is another one.
func (s *sight) fell(t *turn, seq events.Seq) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turn == t && seq < s.at {
		s.move(seq)
	}
}

func (s *sight) move(seq events.Seq) {
	s.at = seq
	close(s.changed)
	s.changed = make(chan struct{})
}

// troubled keeps why a server does not answer, nil when it does, if it is its turn, and reports whether that is news.
func (s *sight) troubled(on side, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turn.on != on {
		return false
	}
	news := (err == nil) != (s.trouble == nil)
	s.trouble = err
	return news
}

// howFar asks a connection how far its server is.
func howFar(ctx context.Context, conn *pgx.Conn) (seq events.Seq, err error) {
	err = conn.QueryRow(ctx, "SELECT seq FROM checkpoint").Scan(numberInto[events.Seq]{&seq})
	return seq, err
}

// observe asks a connection of the primary how far it is and takes note.
func (m *Model) observe(ctx context.Context, conn *pgx.Conn) error {
	t, before := m.now()
	seq, err := howFar(ctx, conn)
	if err != nil {
		return err
	}
	if t.on == onPrimary && seq < before {
		m.fell(t, seq)
	} else {
		m.saw(onPrimary, seq)
	}
	return nil
}

// lookFirst runs on each new connection for queries to the primary: its server may be another one than before, or have lost its last commits.
func (m *Model) lookFirst(ctx context.Context, conn *pgx.Conn) error {
	if _, at := m.now(); at == 0 {
		return nil // nothing was told to anybody
	}
	return m.observe(ctx, conn)
}

// Watch keeps Seen true until ctx ends: by notifications from the primary and by looking once a second while that one answers queries, and by looking on a replica, which sends none.
func (m *Model) Watch(ctx context.Context) {
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { m.listen(ctx) })
	watching.Go(func() { keepLooking(ctx, m.hurry[onPrimary], m.lookAtPrimary) })
	if m.replica != nil {
		watching.Go(func() { keepLooking(ctx, m.hurry[onReplica], m.lookAtReplica) })
	}
}

// keepLooking calls look until ctx ends, whenever the pause that it returned is over or somebody is in a hurry. look learns whether somebody was lately.
func keepLooking(ctx context.Context, hurry <-chan struct{}, look func(ctx context.Context, hurried bool) (pause time.Duration)) {
	var last time.Time
	for pause := lookEvery; ; {
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-hurry:
			last = time.Now()
		case <-ctx.Done():
			t.Stop()
			return
		}
		t.Stop()
		pause = look(ctx, time.Since(last) < hurryTime)
	}
}

// lookAtPrimary asks the primary while it answers queries.
func (m *Model) lookAtPrimary(ctx context.Context, _ bool) time.Duration {
	if t, _ := m.now(); t.on != onPrimary {
		return lookEvery
	}
	err := m.tell(ctx, "read the checkpoint", m.use(ctx, m.reads, m.observe))
	if ctx.Err() != nil {
		return lookEvery
	}
	m.answers(onPrimary, err)
	if err != nil {
		return lookEvery / 4
	}
	return lookEvery
}

// answers keeps and logs whether the server whose turn it is answers.
func (m *Model) answers(on side, err error) {
	if !m.troubled(on, err) {
		return
	}
	if err != nil {
		m.log.Error("read models do not answer", "err", err)
	} else {
		m.log.Info("read models answer again")
	}
}

// listen takes note of the notifications of committed transactions until ctx ends. While its connection is away, looking has to do.
func (m *Model) listen(ctx context.Context) {
	for pause := leadEvery; ; pause = min(2*pause, 5*time.Second) {
		if m.listenOnce(ctx) {
			pause = leadEvery
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// listenOnce listens until the connection breaks and reports whether there was one.
func (m *Model) listenOnce(ctx context.Context) bool {
	conn, err := m.dial(ctx, liveSchema)
	if err != nil {
		return false // Watch tells
	}
	defer m.hangUp(conn)
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return false
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return true
		}
		if seq, err := strconv.ParseUint(n.Payload, 10, 63); err == nil {
			m.saw(onPrimary, events.Seq(seq))
		}
	}
}

// Lead waits for the lock of the database that one process holds, on a connection of its own, runs do, and gives the lock back. The server notices within about two seconds
// when this process's machine is gone, and at once when the process is.
func (m *Model) Lead(ctx context.Context, do func(context.Context) error) error {
	cfg := m.primary.Copy()
	unbound(cfg, liveSchema)
	for k, v := range map[string]string{"tcp_keepalives_idle": "1", "tcp_keepalives_interval": "1", "tcp_keepalives_count": "1", "tcp_user_timeout": "2000", "client_connection_check_interval": "1000"} {
		cfg.RuntimeParams[k] = v
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return m.tell(ctx, "lead the read models", err)
	}
	defer m.hangUp(conn)
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return m.tell(ctx, "lead the read models", err)
	}
	// Asking again and again rather than waiting in the server: a session that waits there for days keeps old rows from being cleaned up.
	for {
		var leads bool
		if err := m.ask(ctx, conn, "SELECT pg_try_advisory_lock($1, $2)", []any{lockFamily, lockLead}, &leads); err != nil {
			return m.tell(ctx, "lead the read models", err)
		}
		if leads {
			break
		}
		select {
		case <-time.After(leadEvery):
		case <-ctx.Done():
			return nil
		}
	}
	// A crash from here on: the server ends the session and another process takes over.
	within, end := context.WithCancelCause(ctx)
	var guard sync.WaitGroup
	guard.Go(func() {
		for within.Err() == nil {
			n, err := conn.WaitForNotification(within)
			switch {
			case within.Err() != nil: // do has returned
			case err != nil:
				end(fmt.Errorf("lead the read models: %w: the connection was lost: %s", projections.ErrUnavailable, m.address.clean(err)))
			case n.Payload == emptied: // by a process of a newer release, which wants to fill them
				end(fmt.Errorf("lead the read models: %w: one has emptied them", projections.ErrOutdated))
			}
		}
	})
	err = do(within)
	cause := context.Cause(within)
	end(nil)
	guard.Wait()
	if cause != nil && ctx.Err() == nil {
		return cause
	}
	return err
}

// ask asks one short question that a server which is there answers at once.
func (m *Model) ask(ctx context.Context, conn *pgx.Conn, sql string, args []any, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, acquireTime)
	defer cancel()
	return conn.QueryRow(ctx, sql, args...).Scan(answer)
}

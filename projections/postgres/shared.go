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
	hurryTime = 150 * time.Millisecond // how long a Hurry holds: longer than who waits repeats it
)

// channel is what a committed transaction notifies, with its sequence, or with emptied when the tables were emptied for rows of another shape.
const (
	channel = "vega_read_models"
	emptied = "emptied"
)

// sight is how far the rows are that this process reads.
type sight struct {
	hurry chan struct{} // buffered 1: somebody waits

	mu      sync.Mutex // guards what follows, never held over I/O
	at      events.Seq
	changed chan struct{}
	trouble error
}

func newSight() sight { return sight{hurry: make(chan struct{}, 1), changed: make(chan struct{})} }

// Seen is the sequence up to which queries are answered truly.
func (s *sight) Seen() (events.Seq, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at, s.changed, s.trouble
}

// Hurry makes Watch look now and for a while.
func (s *sight) Hurry() {
	select {
	case s.hurry <- struct{}{}:
	default: // it was told
	}
}

// saw takes note of rows that are at least as far as seq.
func (s *sight) saw(seq events.Seq) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seq > s.at {
		s.move(seq)
	}
}

// fell takes note that the server is at seq, which is before where it was when it was asked: it lost commits, or it is another one.
func (s *sight) fell(seq events.Seq) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seq < s.at {
		s.move(seq)
	}
}

func (s *sight) move(seq events.Seq) {
	s.at = seq
	close(s.changed)
	s.changed = make(chan struct{})
}

// troubled keeps why the server does not answer, nil when it does, and reports whether that is news.
func (s *sight) troubled(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	news := (err == nil) != (s.trouble == nil)
	s.trouble = err
	return news
}

// observe asks a connection how far its server is and takes note.
func (m *Model) observe(ctx context.Context, conn *pgx.Conn) error {
	before, _, _ := m.Seen()
	var seq events.Seq
	if err := conn.QueryRow(ctx, "SELECT seq FROM checkpoint").Scan(numberInto[events.Seq]{&seq}); err != nil {
		return err
	}
	if seq < before {
		m.fell(seq)
	} else {
		m.saw(seq)
	}
	return nil
}

// lookFirst runs on each new connection of the queries' pool: its server may be another one than before, or have lost its last commits.
func (m *Model) lookFirst(ctx context.Context, conn *pgx.Conn) error {
	if at, _, _ := m.Seen(); at == 0 {
		return nil // nothing was told to anybody
	}
	return m.observe(ctx, conn)
}

// look asks the server that queries go to.
func (m *Model) look(ctx context.Context) error {
	return m.tell(ctx, "read the checkpoint", m.use(ctx, m.reads, m.observe))
}

// Watch keeps Seen true until ctx ends: by notifications from the primary, by looking on a replica, which sends none, and by looking once a second in any case.
func (m *Model) Watch(ctx context.Context) {
	var listening sync.WaitGroup
	defer listening.Wait()
	if !m.replica {
		listening.Go(func() { m.listen(ctx) })
	}
	var hurried time.Time
	for pause := lookEvery; ; {
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-m.hurry:
			hurried = time.Now()
		case <-ctx.Done():
			t.Stop()
			return
		}
		t.Stop()
		err := m.look(ctx)
		if ctx.Err() != nil {
			return
		}
		if m.troubled(err) {
			if err != nil {
				m.log.Error("read models do not answer", "err", err)
			} else {
				m.log.Info("read models answer again")
			}
		}
		pause = lookEvery
		switch {
		case err != nil:
			pause = lookEvery / 4
		case m.replica && time.Since(hurried) < hurryTime:
			pause = lookSoon
		}
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
			m.saw(events.Seq(seq))
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

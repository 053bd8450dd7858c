package maintenance_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/fleet"
	"vega/services/maintenance"
)

const (
	ttl     = 2 * time.Minute
	forever = 1000 * time.Hour
)

// world is a server on the virtual time of a bubble that can go and come back, and clients whose lines can be cut.
type world struct {
	t     testing.TB
	dir   string
	admin *eventstore.Store

	mu  sync.Mutex // guards srv
	srv *server.Server
}

// virtual runs f in a world of its own. Everything in it ends with f. The test must not be parallel: the client keeps timers for reuse in a pool of the
// process, and one that belongs to another bubble ends the process.
func virtual(t *testing.T, f func(*world)) {
	t.Helper()
	emptyPools()
	defer emptyPools()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, dir: dir}
		w.up()
		defer w.down()
		l := w.line()
		js, err := jetstream.New(l.nc)
		if err != nil {
			t.Fatal(err)
		}
		if err := eventstore.Setup(t.Context(), js, natstest.Region, 1); err != nil {
			t.Fatal(err)
		}
		w.admin = l.open()
		defer l.close()
		f(w)
	})
}

// emptyPools makes the process forget what is kept for reuse: that takes two collections.
func emptyPools() {
	runtime.GC()
	runtime.GC()
}

func (w *world) up() {
	w.t.Helper()
	srv, err := server.NewServer(&server.Options{ServerName: "world", DontListen: true, JetStream: true, StoreDir: w.dir, NoSigs: true, NoLog: true,
		JetStreamMaxStore: 1 << 40, JetStreamMaxMemory: 256 << 20, MaxPayload: 8 << 20})
	if err != nil {
		w.t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(time.Minute) {
		w.t.Fatal("the server is not ready")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.srv = srv
}

func (w *world) down() {
	w.mu.Lock()
	srv := w.srv
	w.srv = nil
	w.mu.Unlock()
	srv.Shutdown()
	srv.WaitForShutdown()
}

// pass lets time go by.
func (w *world) pass(d time.Duration) { <-time.After(d) }

// line is one client's connection.
type line struct {
	w      *world
	nc     *nats.Conn
	store  *eventstore.Store
	closed sync.Once

	mu   sync.Mutex // guards what follows
	dead bool       // it does not come back
	conn *gate
}

// gate is a connection that can stand still, as that of a stopped process does: the machine takes what comes in, and nobody reads it.
type gate struct {
	net.Conn
	mu    sync.Mutex // guards what follows
	turn  *sync.Cond
	shut  bool
	in    []byte
	out   []byte // said while it was shut
	ended error
}

func newGate(c net.Conn) *gate {
	g := &gate{Conn: c}
	g.turn = sync.NewCond(&g.mu)
	go func() {
		b := make([]byte, 32<<10)
		for {
			n, err := c.Read(b)
			g.mu.Lock()
			g.in, g.ended = append(g.in, b[:n]...), err
			g.mu.Unlock()
			g.turn.Broadcast()
			if err != nil {
				return
			}
		}
	}()
	return g
}

func (g *gate) set(shut bool) {
	g.mu.Lock()
	g.shut = shut
	out := g.out
	g.out = nil
	g.mu.Unlock()
	_, _ = g.Conn.Write(out)
	g.turn.Broadcast()
}

func (g *gate) Read(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.ended == nil && (g.shut || len(g.in) == 0) {
		g.turn.Wait()
	}
	if len(g.in) == 0 || g.shut {
		return 0, g.ended
	}
	n := copy(b, g.in)
	g.in = g.in[n:]
	return n, nil
}

func (g *gate) Write(b []byte) (int, error) {
	g.mu.Lock()
	if g.shut && g.ended == nil {
		g.out = append(g.out, b...)
		g.mu.Unlock()
		return len(b), nil
	}
	g.mu.Unlock()
	return g.Conn.Write(b)
}

func (g *gate) SetDeadline(time.Time) error      { return nil }
func (g *gate) SetReadDeadline(time.Time) error  { return nil }
func (g *gate) SetWriteDeadline(time.Time) error { return nil }

// pause makes the client neither speak nor hear, and leaves it connected.
func (l *line) pause() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn.set(true)
}

func (l *line) resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn.set(false)
}

func (w *world) line() *line {
	w.t.Helper()
	l := &line{w: w}
	nc, err := eventstore.Connect("", "", nats.InProcessServer(l))
	if err != nil {
		w.t.Fatal(err)
	}
	l.nc = nc
	return l
}

// InProcessConn is called by the client for each connection.
func (l *line) InProcessConn() (net.Conn, error) {
	l.w.mu.Lock()
	srv := l.w.srv
	l.w.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if srv == nil || l.dead {
		return nil, errors.New("there is no server")
	}
	c, err := srv.InProcessConn()
	if err != nil {
		return nil, err
	}
	l.conn = newGate(c)
	return l.conn, nil
}

// cut breaks the connection; the client comes again at once.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.conn.Close()
}

// kill breaks the connection for good, as the death of its process does.
func (l *line) kill() {
	l.mu.Lock()
	l.dead = true
	l.mu.Unlock()
	l.cut()
}

func (l *line) revive() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = false
}

func (l *line) open() *eventstore.Store {
	l.w.t.Helper()
	s, err := eventstore.Open(l.w.t.Context(), l.nc, eventstore.Options{Region: natstest.Region})
	if err != nil {
		l.w.t.Fatal(err)
	}
	l.store = s
	return s
}

func (l *line) close() {
	l.closed.Do(func() {
		if l.store != nil {
			l.store.Close()
		}
		l.nc.Close()
	})
}

// hand is a worker process that claims what it is told to and holds it.
type hand struct {
	*line
	*fleet.Member
	stop func()
}

func (w *world) worker(id events.WorkerID) *hand {
	w.t.Helper()
	l := w.line()
	return w.workerOn(l, l.open(), id)
}

func (w *world) workerOn(l *line, s *eventstore.Store, id events.WorkerID) *hand {
	w.t.Helper()
	m, err := fleet.Join(w.t.Context(), s, fleet.Worker{ID: id, Slots: 4}, ttl, slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = m.Run(ctx) })
	return &hand{l, m, func() { cancel(); running.Wait() }}
}

// end stops the worker's goroutines.
func (h *hand) end() {
	h.stop()
	h.close()
}

// die is kill -9.
func (h *hand) die() {
	h.kill()
	h.stop()
	h.close()
}

// take makes a scan that the worker claims and holds.
func (w *world) take(h *hand, id events.ScanID) events.Seq {
	w.t.Helper()
	g := w.put(id, queued, events.AttemptClaimed{Attempt: 1, Worker: h.ID()}, events.AttemptStarted{Attempt: 1, Worker: h.ID()})
	h.Took(id, g[1].Seq)
	return g[1].Seq
}

// put appends events to a scan.
func (w *world) put(id events.ScanID, evs ...events.Event) []events.Recorded {
	w.t.Helper()
	return put(w.t, w.admin, events.ScanOf(natstest.Region, id), evs...)
}

func put(t testing.TB, s *eventstore.Store, a events.Aggregate, evs ...events.Event) []events.Recorded {
	t.Helper()
	_, head, err := s.Load(t.Context(), a, events.Head{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Append(t.Context(), a, head, events.Meta{Command: events.NewCommandID(), Actor: events.BySystem("test"), At: time.Now()}, evs...)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// upkeep is a maintenance process.
type upkeep struct {
	*line
	*maintenance.Maintenance
	cancel context.CancelFunc
	ended  chan error
}

func (w *world) upkeep(grace time.Duration) *upkeep {
	w.t.Helper()
	return w.upkeepWith(maintenance.Options{HeartbeatTTL: ttl, DisconnectGrace: grace, Config: maintenance.Config{RunningStale: forever, IngestStale: time.Hour}}, maintenance.Parts{})
}

func (w *world) upkeepWith(o maintenance.Options, p maintenance.Parts) *upkeep {
	w.t.Helper()
	l := w.line()
	p.Store = l.open()
	return w.started(l, p, o)
}

func (w *world) started(l *line, p maintenance.Parts, o maintenance.Options) *upkeep {
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	u := &upkeep{line: l, Maintenance: maintenance.New(p, o), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	u.cancel = cancel
	go func() { u.ended <- u.Run(ctx) }()
	return u
}

func (u *upkeep) end() {
	u.cancel()
	if err := <-u.ended; err != nil {
		u.w.t.Errorf("Run = %v", err)
	}
	u.close()
}

// history is a scan's events with the reasons of those that ended an attempt, and when the last one happened.
func (w *world) history(id events.ScanID) string {
	w.t.Helper()
	past := w.load(id)
	var kinds []string
	for _, r := range past {
		k := strings.TrimPrefix(string(r.Kind), "scan.")
		if e, ok := r.Event.(events.AttemptExpired); ok {
			k += "(" + e.Reason + ")"
		}
		kinds = append(kinds, k)
	}
	return strings.Join(kinds, " ")
}

func (w *world) load(id events.ScanID) []events.Recorded {
	w.t.Helper()
	past, _, err := w.admin.Load(w.t.Context(), events.ScanOf(natstest.Region, id), events.Head{})
	if err != nil {
		w.t.Fatal(err)
	}
	return past
}

// until waits for an event of a scan and returns how long that took.
func (w *world) until(id events.ScanID, kinds ...events.Kind) time.Duration {
	w.t.Helper()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*ttl)
	defer cancel()
	for r, err := range w.admin.Follow(ctx, 0, events.ScanOf(natstest.Region, id).Filter()) {
		if err != nil {
			w.t.Fatal(err)
		}
		if slices.Contains(kinds, r.Kind) {
			return time.Since(begin)
		}
	}
	w.t.Fatalf("%s has %s and none of %v", id, w.history(id), kinds)
	return 0
}

const (
	claimedAndStarted = "queued claimed started"
	expired           = events.Kind("scan.expired")
)

func (w *world) wantHistory(id events.ScanID, want string) {
	w.t.Helper()
	if got := w.history(id); got != want {
		w.t.Errorf("%s: %s, want %s", id, got, want)
	}
}

// heard waits until maintenance has heard n workers.
func (w *world) heard(u *upkeep, n int) {
	w.t.Helper()
	for range 1000 {
		if s := u.Status(); s.Heard >= n && s.CaughtUp {
			return
		}
		w.pass(20 * time.Millisecond)
	}
	w.t.Fatalf("heard %+v, want %d workers", u.Status(), n)
}

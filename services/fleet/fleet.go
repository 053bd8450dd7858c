package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
)

// Worker is one entry: a worker process as it last described itself.
type Worker struct {
	ID        events.WorkerID `json:"id"`
	Host      string          `json:"host"`
	Version   string          `json:"version"`
	Slots     int             `json:"slots"`
	Mode      string          `json:"mode,omitempty"` // the queue it takes scans from
	Scans     []events.ScanID `json:"scans"`          // what runs in its slots now
	Draining  bool            `json:"draining"`
	StartedAt time.Time       `json:"started_at"`
	Beat      time.Time       `json:"last_heartbeat_at"`
}

// Member is this process's own entry. Make it with Join before the first claim, Run it, Leave at the end.
type Member struct {
	store *eventstore.Store
	ttl   time.Duration
	log   *slog.Logger
	subs  []*nats.Subscription
	kick  chan struct{}      // buffered 1: what is said has changed
	looks chan events.ScanID // buffered; written by the subscription and Run, read by the worker
	drain chan struct{}      // closed once, when draining begins

	mu      sync.Mutex // guards what follows, never held over I/O
	self    Worker
	held    map[events.ScanID]events.Seq // generation by scan
	rev     uint64
	renewed time.Time // start of the last renewal that succeeded
}

// beatEvery is the longest time between two renewals; a short TTL makes it shorter. changeEvery is the shortest: what changes meanwhile waits.
const (
	beatEvery   = 5 * time.Second
	changeEvery = 250 * time.Millisecond
)

// Join stores the process's entry and begins to answer pings and to take requests.
func Join(ctx context.Context, store *eventstore.Store, w Worker, ttl time.Duration, log *slog.Logger) (*Member, error) {
	m := &Member{
		store: store, ttl: max(ttl, time.Second), log: log, self: w, held: map[events.ScanID]events.Seq{},
		kick: make(chan struct{}, 1), looks: make(chan events.ScanID, 64), drain: make(chan struct{}),
	}
	if err := m.renew(ctx); err != nil {
		return nil, fmt.Errorf("join the fleet: %w: %w", eventstore.ErrUnavailable, err)
	}
	for subject, handle := range map[string]nats.MsgHandler{
		events.PingSubject(store.Region(), w.ID):  m.pong,
		events.LookSubject(store.Region(), w.ID):  func(msg *nats.Msg) { m.look(events.ScanID(msg.Data)) },
		events.DrainSubject(store.Region(), w.ID): func(msg *nats.Msg) { m.Drain(); _ = msg.Respond(nil) },
	} {
		sub, err := store.Conn().Subscribe(subject, handle)
		if err != nil {
			return nil, fmt.Errorf("join the fleet: %w", err)
		}
		m.subs = append(m.subs, sub)
	}
	return m, nil
}

func (m *Member) pong(msg *nats.Msg) {
	m.mu.Lock()
	body, err := json.Marshal(Pong{m.held})
	m.mu.Unlock()
	if err == nil {
		_ = msg.Respond(body) // an answer that does not arrive is asked for again
	}
}

// look passes on that a scan should be looked at; when too many wait, all of them.
func (m *Member) look(id events.ScanID) {
	select {
	case m.looks <- id:
		return
	default:
	}
	for len(m.looks) > 0 { // what waited is part of "all"
		select {
		case <-m.looks:
		default:
		}
	}
	select {
	case m.looks <- "":
	default: // another call has just said the same
	}
}

// Looks says which of its scans the worker should read again because something happened to them; an empty id means all.
func (m *Member) Looks() <-chan events.ScanID { return m.looks }

// Draining is closed when the worker was asked to take no more scans.
func (m *Member) Draining() <-chan struct{} { return m.drain }

// Run renews the entry until ctx ends. A renewal that fails is logged and tried again sooner; claims stop meanwhile (Fresh). After a renewal that
// came late the worker is told to look at all its scans: they may have been given away.
func (m *Member) Run(ctx context.Context) error {
	every := min(beatEvery, m.ttl/4)
	wait := every
	failing := false
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-m.kick:
			if recent := time.Since(m.lastRenewed()); recent < changeEvery {
				t.Reset(changeEvery - recent)
				continue
			}
		case <-ctx.Done():
			return nil
		}
		late := time.Since(m.lastRenewed()) > m.ttl/2
		wait = every
		if err := m.renew(ctx); err != nil && ctx.Err() == nil {
			if !failing {
				m.log.Warn("heartbeat not stored", "err", err)
			}
			failing, wait = true, min(every, 250*time.Millisecond)
		} else if failing {
			m.log.Info("heartbeat stored again")
			failing, late = false, true
		}
		if late && !failing {
			m.look("")
		}
		t.Reset(wait)
	}
}

func (m *Member) lastRenewed() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.renewed
}

// Fresh says that the last renewal is younger than half the TTL: only then may the process claim.
func (m *Member) Fresh(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return now.Sub(m.renewed) < m.ttl/2
}

// ID is the worker's id.
func (m *Member) ID() events.WorkerID { return m.self.ID }

// Took and Gave say which scans, of which generation, the process holds.
func (m *Member) Took(id events.ScanID, generation events.Seq) {
	m.change(func() { m.held[id] = generation })
}

// Gave says that an attempt has left the process, which may have the scan's next one already.
func (m *Member) Gave(id events.ScanID, generation events.Seq) {
	m.change(func() {
		if m.held[id] == generation {
			delete(m.held, id)
		}
	})
}

// Drain says that the process takes no more scans, here and to those who list it.
func (m *Member) Drain() {
	m.change(func() {
		if !m.self.Draining {
			m.self.Draining = true
			close(m.drain)
		}
	})
}

// Leave removes the entry and stops answering pings.
func (m *Member) Leave(ctx context.Context) error {
	var err error
	for _, sub := range m.subs {
		err = errors.Join(err, sub.Unsubscribe())
	}
	kv, kerr := m.store.Bucket(ctx, eventstore.HeartbeatBucket)
	if kerr == nil {
		kerr = kv.Purge(ctx, string(m.self.ID), jetstream.PurgeTTL(time.Minute))
	}
	if err := errors.Join(err, kerr); err != nil {
		return fmt.Errorf("leave the fleet: %w", err)
	}
	return nil
}

func (m *Member) change(f func()) {
	m.mu.Lock()
	f()
	m.mu.Unlock()
	select {
	case m.kick <- struct{}{}:
	default: // a renewal is due anyway
	}
}

// renew stores the entry with its TTL, fenced by its revision. Plain KV writes carry no TTL and would make it immortal.
func (m *Member) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	start := time.Now()
	m.mu.Lock()
	m.self.Beat = start.UTC()
	w, rev := m.self, m.rev
	w.Scans = append([]events.ScanID{}, slices.Sorted(maps.Keys(m.held))...)
	m.mu.Unlock()
	body, err := json.Marshal(w)
	if err != nil {
		return err
	}
	publish := func(rev uint64) (*jetstream.PubAck, error) {
		return m.store.JetStream().Publish(ctx, entrySubject(w.ID), body, jetstream.WithMsgTTL(m.ttl), jetstream.WithExpectLastSequencePerSubject(rev))
	}
	ack, err := publish(rev)
	if errors.Is(err, jetstream.ErrNoStreamResponse) {
		// The bucket went with the server that kept it. Whoever notices makes it again; two at once make one.
		if err = eventstore.EnsureHeartbeats(ctx, m.store.JetStream(), m.store.Region()); err != nil {
			return err
		}
		ack, err = publish(0)
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		// The entry expired, the bucket was lost with its server, or an answer of ours was: nobody else writes this key.
		var last entry
		if _, last, err = lastEntry(ctx, m.store, w.ID); err != nil {
			return err
		}
		ack, err = publish(last.Sequence)
	}
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rev, m.renewed = ack.Sequence, start
	return nil
}

// List returns the workers whose entries are alive, by id.
func List(ctx context.Context, store *eventstore.Store) ([]Worker, error) {
	kv, err := store.JetStream().KeyValue(ctx, eventstore.HeartbeatBucket)
	if err != nil {
		return nil, fmt.Errorf("list workers: %w: %w", eventstore.ErrUnavailable, err)
	}
	keys, err := kv.ListKeys(ctx)
	if err != nil {
		return nil, fmt.Errorf("list workers: %w: %w", eventstore.ErrUnavailable, err)
	}
	var out []Worker
	for key := range keys.Keys() {
		e, err := kv.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue // it has just expired
		}
		if err != nil {
			return nil, fmt.Errorf("list workers: %w: %w", eventstore.ErrUnavailable, err)
		}
		var w Worker
		if err := json.Unmarshal(e.Value(), &w); err != nil {
			return nil, fmt.Errorf("entry of worker %.60s: %w", key, err)
		}
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b Worker) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// Look tells a worker that something happened to a scan of its own. It may be lost; workers also look by themselves.
func Look(store *eventstore.Store, id events.WorkerID, scan events.ScanID) {
	_ = store.Conn().Publish(events.LookSubject(store.Region(), id), []byte(scan)) // lost: the worker looks by itself within a second
}

// RequestDrain asks a worker to take no more scans and returns when it has heard; ErrGone when it is not connected.
func RequestDrain(ctx context.Context, store *eventstore.Store, id events.WorkerID) error {
	_, err := store.Conn().RequestWithContext(ctx, events.DrainSubject(store.Region(), id), nil)
	if errors.Is(err, nats.ErrNoResponders) {
		err = ErrGone
	}
	if err != nil {
		return fmt.Errorf("drain %s: %w", id, err)
	}
	return nil
}

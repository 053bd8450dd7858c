package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
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
	Scans     []events.ScanID `json:"scans"` // what runs in its slots now
	Draining  bool            `json:"draining"`
	StartedAt time.Time       `json:"started_at"`
	Beat      time.Time       `json:"last_heartbeat_at"`
}

// Member is this process's own entry. Make it with Join before the first claim, Run it, Leave at the end.
type Member struct {
	store *eventstore.Store
	ttl   time.Duration
	log   *slog.Logger
	ping  *nats.Subscription
	kick  chan struct{} // buffered 1: what is said has changed

	mu      sync.Mutex // guards what follows, never held over I/O
	self    Worker
	rev     uint64
	renewed time.Time // start of the last renewal that succeeded
}

// beatEvery is the longest time between two renewals; a short TTL makes it shorter.
const beatEvery = 5 * time.Second

// Join stores the process's entry and begins to answer pings.
func Join(ctx context.Context, store *eventstore.Store, w Worker, ttl time.Duration, log *slog.Logger) (*Member, error) {
	m := &Member{store: store, ttl: max(ttl, time.Second), log: log, self: w, kick: make(chan struct{}, 1)}
	if err := m.renew(ctx); err != nil {
		return nil, fmt.Errorf("join the fleet: %w", err)
	}
	sub, err := store.Conn().Subscribe(events.PingSubject(store.Region(), w.ID), func(msg *nats.Msg) {
		_ = msg.Respond(nil) // an answer that does not arrive is asked for again
	})
	if err != nil {
		return nil, fmt.Errorf("join the fleet: %w", err)
	}
	m.ping = sub
	return m, nil
}

// Run renews the entry until ctx ends. A renewal that fails is logged and tried again sooner; claims stop meanwhile (Fresh).
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
		case <-ctx.Done():
			return nil
		}
		wait = every
		if err := m.renew(ctx); err != nil && ctx.Err() == nil {
			if !failing {
				m.log.Warn("heartbeat not stored", "err", err)
			}
			failing, wait = true, min(every, 250*time.Millisecond)
		} else if failing {
			m.log.Info("heartbeat stored again")
			failing = false
		}
		t.Reset(wait)
	}
}

// Fresh says that the last renewal is younger than half the TTL: only then may the process claim.
func (m *Member) Fresh(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return now.Sub(m.renewed) < m.ttl/2
}

// ID is the worker's id.
func (m *Member) ID() events.WorkerID { return m.self.ID }

// Took and Gave say which scans are in the process's slots.
func (m *Member) Took(id events.ScanID) {
	m.change(func(w *Worker) { w.Scans = append(slices.Clone(w.Scans), id) })
}

// Gave says that a scan has left its slot.
func (m *Member) Gave(id events.ScanID) {
	m.change(func(w *Worker) {
		w.Scans = slices.DeleteFunc(slices.Clone(w.Scans), func(x events.ScanID) bool { return x == id })
	})
}

// Drain says that the process takes no more scans.
func (m *Member) Drain() { m.change(func(w *Worker) { w.Draining = true }) }

// Leave removes the entry and stops answering pings.
func (m *Member) Leave(ctx context.Context) error {
	err := m.ping.Unsubscribe()
	kv, kerr := m.store.JetStream().KeyValue(ctx, eventstore.HeartbeatBucket)
	if kerr == nil {
		kerr = kv.Purge(ctx, string(m.self.ID), jetstream.PurgeTTL(time.Minute))
	}
	if err := errors.Join(err, kerr); err != nil {
		return fmt.Errorf("leave the fleet: %w", err)
	}
	return nil
}

func (m *Member) change(f func(*Worker)) {
	m.mu.Lock()
	f(&m.self)
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
	m.mu.Unlock()
	if w.Scans == nil {
		w.Scans = []events.ScanID{}
	}
	body, err := json.Marshal(w)
	if err != nil {
		return err
	}
	publish := func(rev uint64) (*jetstream.PubAck, error) {
		return m.store.JetStream().Publish(ctx, "$KV."+eventstore.HeartbeatBucket+"."+string(w.ID), body,
			jetstream.WithMsgTTL(m.ttl), jetstream.WithExpectLastSequencePerSubject(rev))
	}
	ack, err := publish(rev)
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
		// The entry expired, the bucket was lost with its server, or an answer of ours was: nobody else writes this key.
		var last uint64
		if last, err = m.revision(ctx, w.ID); err != nil {
			return err
		}
		ack, err = publish(last)
	}
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rev, m.renewed = ack.Sequence, start
	return nil
}

func (m *Member) revision(ctx context.Context, id events.WorkerID) (uint64, error) {
	st, err := m.store.JetStream().Stream(ctx, "KV_"+eventstore.HeartbeatBucket)
	if err != nil {
		return 0, err
	}
	last, err := st.GetLastMsgForSubject(ctx, "$KV."+eventstore.HeartbeatBucket+"."+string(id))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return last.Sequence, nil
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

// Alive pings a worker: false means that its process has no connection, which is known in a fraction of a millisecond. A worker that is
// connected but does not answer before ctx ends counts as alive.
func Alive(ctx context.Context, store *eventstore.Store, id events.WorkerID) (bool, error) {
	_, err := store.Conn().RequestWithContext(ctx, events.PingSubject(store.Region(), id), nil)
	switch {
	case err == nil, errors.Is(err, context.DeadlineExceeded):
		return true, nil
	case errors.Is(err, nats.ErrNoResponders):
		return false, nil
	default:
		return false, fmt.Errorf("ping %s: %w", id, err)
	}
}

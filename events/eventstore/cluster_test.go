package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
)

// progress is a number that grows, and that a test can wait for.
type progress struct {
	mu    sync.Mutex
	n     int
	moved chan struct{}
}

func (p *progress) set(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n = n
	if p.moved != nil {
		close(p.moved)
		p.moved = nil
	}
}

func (p *progress) now() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

func (p *progress) reach(t *testing.T, n int) {
	t.Helper()
	deadline := time.After(25 * time.Second)
	for {
		p.mu.Lock()
		if p.n >= n {
			p.mu.Unlock()
			return
		}
		if p.moved == nil {
			p.moved = make(chan struct{})
		}
		moved := p.moved
		p.mu.Unlock()
		select {
		case <-moved:
		case <-deadline:
			t.Fatalf("stuck at %d, want %d", p.now(), n)
		}
	}
}

// acked collects what callers were told is stored: command → sequence of its last event.
type acked struct {
	progress
	lock sync.Mutex
	seq  map[events.CommandID]events.Seq
}

func newAcked() *acked { return &acked{seq: map[events.CommandID]events.Seq{}} }

func (a *acked) add(rs ...events.Recorded) {
	a.lock.Lock()
	for _, r := range rs {
		a.seq[r.Command] = r.Seq
	}
	n := len(a.seq)
	a.lock.Unlock()
	a.set(n)
}

// checkLog reads the whole log: every acknowledged command is there at its sequence, no command twice, no sequence missing, every chain whole.
func checkLog(t *testing.T, s *eventstore.Store, a *acked) {
	t.Helper()
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v, err := eventstore.Verify(t.Context(), s)
	if err != nil || v.Events != info.Last {
		t.Errorf("Verify = %+v, %v; want %d events", v, err, info.Last)
	}
	stored := map[string]events.Seq{}
	last := map[events.CommandID]events.Seq{}
	if info.Last > 0 {
		for r, err := range s.Follow(t.Context(), 0) {
			if err != nil {
				t.Fatal(err)
			}
			if before, twice := stored[r.ID]; twice {
				t.Errorf("%s is stored twice: at %d and %d", r.ID, before, r.Seq)
			}
			stored[r.ID], last[r.Command] = r.Seq, r.Seq
			if r.Seq == info.Last {
				break
			}
		}
	}
	for c, seq := range a.seq {
		if last[c] != seq {
			t.Errorf("command %s was acknowledged at %d and is at %d", c, seq, last[c])
		}
	}
}

// On a replicated stream the server compares filters as strings, and a publish that is in flight is not seen by all: one winner per head all the same.
func TestOneWriterWinsEachHeadOnAReplicatedLog(t *testing.T) {
	t.Parallel()
	c := natstest.Cluster(t, 3)
	const writers, rounds = 12, 15
	stores := []*eventstore.Store{c.Open(), c.Open(), c.Open()}
	a := events.ScanOf(natstest.Region, "scan_test_hot")
	told := newAcked()
	var head events.Head
	for round := range rounds {
		var mu sync.Mutex
		var winners []events.Recorded
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				evs := []events.Event{events.CancelRequested{Reason: "alone"}}
				if w%3 == 0 { // a batch among singles
					evs = append(evs, events.CancelRequested{Reason: "with another"})
				}
				got, err := stores[w%len(stores)].Append(t.Context(), a, head, meta(fmt.Sprintf("r%dw%d", round, w)), evs...)
				if errors.Is(err, eventstore.ErrConflict) {
					return
				}
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				mu.Lock()
				winners = append(winners, got[len(got)-1])
				mu.Unlock()
				told.add(got...)
			})
		}
		wg.Wait()
		if len(winners) != 1 {
			t.Fatalf("round %d has %d winners, want 1", round, len(winners))
		}
		head = winners[0].Head()
	}
	got, end, err := stores[0].Load(t.Context(), a, events.Head{})
	if err != nil || end != head {
		t.Errorf("Load = %d events up to %+v, %v; want %+v", len(got), end, err, head)
	}
	checkLog(t, stores[1], told)
}

func TestNothingIsLostOrDoubledWhenLeadersStepDown(t *testing.T) {
	t.Parallel()
	c := natstest.Cluster(t, 3)
	told := newAcked()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writers sync.WaitGroup
	for w := range 8 {
		s := c.Open()
		writers.Go(func() {
			a := events.ScanOf(natstest.Region, events.ScanID(fmt.Sprintf("scan_test_%d", w%4))) // two writers each
			for i := 0; ctx.Err() == nil; i++ {
				_, got, err := eventstore.Do(t.Context(), s, a, meta(fmt.Sprintf("w%di%d", w, i)), func(state, events.Head) ([]events.Event, error) {
					evs := []events.Event{events.CancelRequested{}}
					if i%5 == 0 {
						evs = append(evs, events.CancelRequested{}, events.CancelRequested{})
					}
					return evs, nil
				})
				if err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
				told.add(got...)
			}
		})
	}
	follower := c.Open()
	following, stop := context.WithCancel(t.Context())
	defer stop()
	var follow sync.WaitGroup
	var seen progress
	follow.Go(func() { // it survives every change of leader and misses nothing
		for r, err := range follower.Follow(following, 0) {
			if err != nil {
				t.Errorf("Follow after %d: %v", seen.now(), err)
				return
			}
			if int(r.Seq) != seen.now()+1 {
				t.Errorf("the follower saw %d after %d", r.Seq, seen.now())
			}
			seen.set(int(r.Seq))
		}
	})
	for range stepDowns {
		told.reach(t, told.now()+20)
		within, done := context.WithTimeout(t.Context(), 20*time.Second)
		if err := c.StepDown(within); err != nil {
			t.Error(err)
		}
		done()
	}
	told.reach(t, told.now()+20)
	cancel()
	writers.Wait()
	s := c.Open()
	checkLog(t, s, told)
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen.reach(t, int(info.Last))
	stop()
	follow.Wait()
}

// What was stored in a bucket is there for everybody at once, whichever server they are connected to.
func TestABucketIsReadAsItIs(t *testing.T) {
	t.Parallel()
	c := natstest.Cluster(t, 3)
	first := c.Open()
	for _, name := range []string{eventstore.ExpiringBucket, eventstore.HeartbeatBucket} {
		kv, err := first.Bucket(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		// A replica that lags is hard to make; that none is asked can be seen.
		if st, err := first.JetStream().Stream(t.Context(), "KV_"+name); err != nil || st.CachedInfo().Config.AllowDirect {
			t.Errorf("%s: replicas answer reads, %v", name, err)
		}
		var readers []jetstream.KeyValue
		for range 6 {
			r, err := c.Open().Bucket(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			readers = append(readers, r)
		}
		var missed atomic.Int64
		var writing sync.WaitGroup
		for w, reader := range readers {
			writing.Go(func() {
				for i := range 100 {
					key := fmt.Sprintf("key.%d.%d", w, i)
					if _, err := kv.Create(t.Context(), key, nil, jetstream.KeyTTL(time.Minute)); err != nil {
						t.Error(err)
						return
					}
					if _, err := reader.Get(t.Context(), key); errors.Is(err, jetstream.ErrKeyNotFound) {
						missed.Add(1)
					} else if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		writing.Wait()
		if missed.Load() > 0 {
			t.Errorf("%s: %d of 600 keys were not there right after they were stored", name, missed.Load())
		}
	}
}

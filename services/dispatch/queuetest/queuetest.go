// Package queuetest is what every queue of package dispatch is held to: hints get lost nowhere, however often processes die, and whatever is brought
// twice or late is harmless, because the claim in the log decides.
package queuetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/dispatch"
	"vega/services/scan"
)

// Queue is the worker's side of a queue, and the loop behind it.
type Queue interface {
	Run(ctx context.Context) error
	Next(ctx context.Context) (dispatch.Hint, error)
	Done(dispatch.Hint)
	Retry(dispatch.Hint)
}

// System is one way of bringing hints.
type System struct {
	Ordered bool // the best priority comes first
	// Deploy prepares the log for it, as of a sequence before the oldest scan that waits, starts what runs beside the workers until the test ends, and
	// returns how to make the queue of one worker process.
	Deploy func(tb testing.TB, store *eventstore.Store, after events.Seq) func() Queue
	// Idle says that nothing waits and nothing is in flight; nil when the queue is in the memory of each process.
	Idle func(ctx context.Context, store *eventstore.Store) (bool, error)
}

// patience bounds what is waited for.
const patience = 30 * time.Second

// Run holds a system to the contract.
func Run(t *testing.T, system System) {
	deploy := func(t *testing.T) (*eventstore.Store, func() Queue) {
		t.Helper()
		store := natstest.Open(t)
		return store, system.Deploy(t, store, 0)
	}
	t.Run("every queued scan is brought once to each of many slots", func(t *testing.T) {
		t.Parallel()
		store, open := deploy(t)
		const scans = 300
		Create(t, store, 0, scans/2, events.Normal) // before there is a worker
		q := Start(t, open())
		w := Work(t, store, q, 16)
		Create(t, store, scans/2, scans, events.Low) // while they work
		w.WaitClaimed(t, scans)
		if w.Won() != scans {
			t.Errorf("%d claims stored, want %d", w.Won(), scans)
		}
		if system.Idle != nil {
			WaitIdle(t, system, store)
			if w.Hints() > scans*11/10 { // a machine that stands still for seconds has some brought twice
				t.Errorf("%d hints were brought for %d scans", w.Hints(), scans)
			}
		}
	})
	if system.Ordered {
		t.Run("the best priority comes first, then the oldest", func(t *testing.T) {
			t.Parallel()
			store := natstest.Open(t)
			order := []events.Priority{events.Low, events.Normal, events.High, events.Normal, events.High, events.Low}
			for i, p := range order {
				Create(t, store, i, i+1, p)
			}
			q := Start(t, system.Deploy(t, store, 0)())
			if system.Idle == nil {
				// A queue that fills while it is asked is full once all have come; then they are given back.
				var held []dispatch.Hint
				for range order {
					held = append(held, next(t, q))
				}
				for _, h := range held {
					q.Retry(h)
				}
			}
			var got []int
			for range order {
				h := next(t, q)
				got = append(got, index(h.Scan))
				q.Done(h)
			}
			if want := []int{2, 4, 1, 3, 0, 5}; !slices.Equal(got, want) {
				t.Errorf("scans of priorities %v came in the order %v, want %v", order, got, want)
			}
		})
	}
	t.Run("what is done does not come again", func(t *testing.T) {
		t.Parallel()
		store, open := deploy(t)
		Create(t, store, 0, 1, events.High)
		q := Start(t, open())
		h := next(t, q)
		if h.Scan != ID(0) || h.Seq == 0 {
			t.Fatalf("hint %+v, want scan %s and its sequence", h, ID(0))
		}
		q.Done(h)
		if system.Idle != nil {
			WaitIdle(t, system, store)
		}
		Create(t, store, 1, 2, events.Low)
		if h := next(t, q); h.Scan != ID(1) {
			t.Errorf("came again: %s", h.Scan)
		}
	})
	t.Run("what is given back comes again", func(t *testing.T) {
		t.Parallel()
		store, open := deploy(t)
		Create(t, store, 0, 1, events.Normal)
		q := Start(t, open())
		for range 3 {
			h := next(t, q)
			if h.Scan != ID(0) {
				t.Fatalf("brought %s, want %s", h.Scan, ID(0))
			}
			q.Retry(h)
		}
		w := Work(t, store, q, 1)
		w.WaitClaimed(t, 1)
	})
	t.Run("the hints of a process that died come to another", func(t *testing.T) {
		t.Parallel()
		store, open := deploy(t)
		const scans = 12
		Create(t, store, 0, scans, events.Normal)
		dying, die := context.WithCancel(t.Context())
		first := open()
		var ran sync.WaitGroup
		ran.Go(func() { _ = first.Run(dying) })
		for range scans / 2 {
			next(t, first) // and never a word about it again
		}
		die()
		ran.Wait()
		w := Work(t, store, Start(t, open()), 4)
		w.WaitClaimed(t, scans)
	})
	t.Run("slots at the same time get different hints", func(t *testing.T) {
		t.Parallel()
		store, open := deploy(t)
		const slots = 8
		q := Start(t, open())
		got := make(chan dispatch.Hint, slots)
		var asking sync.WaitGroup
		for range slots {
			asking.Go(func() {
				if h, err := q.Next(t.Context()); err == nil {
					got <- h
				}
			})
		}
		Create(t, store, 0, slots, events.High)
		asking.Wait()
		close(got)
		taken := map[events.ScanID]bool{}
		for h := range got {
			if taken[h.Scan] {
				t.Errorf("%s was brought to two slots", h.Scan)
			}
			taken[h.Scan] = true
			q.Done(h)
		}
	})
	t.Run("a slot that stops waiting loses no hint", func(t *testing.T) {
		t.Parallel()
		store, open := deploy(t)
		q := Start(t, open())
		const scans = 50
		w := newWork(store)
		// Slots give up at every moment, before, during and after a hint's arrival; what one of them got all the same is worked on.
		var slots sync.WaitGroup
		quit, stop := context.WithCancel(t.Context())
		for range 4 {
			slots.Go(func() {
				for i := 0; quit.Err() == nil; i++ {
					short, cancel := context.WithTimeout(quit, time.Duration(i%7)*time.Millisecond)
					h, err := q.Next(short)
					cancel()
					if err == nil {
						w.take(t, q, h)
					} else if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
						t.Errorf("Next = %v", err)
					}
				}
			})
		}
		Create(t, store, 0, scans, events.Normal)
		w.WaitClaimed(t, scans)
		stop()
		slots.Wait()
	})
	t.Run("Next ends with its context", func(t *testing.T) {
		t.Parallel()
		_, open := deploy(t)
		q := Start(t, open())
		ctx, cancel := context.WithCancelCause(t.Context())
		ended := make(chan error, 1)
		var asking sync.WaitGroup
		asking.Go(func() {
			_, err := q.Next(ctx)
			ended <- err
		})
		cancel(errors.New("enough"))
		asking.Wait()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Next = %v, want the context's error", err)
		}
	})
	t.Run("two processes share the work, and each scan is claimed once", func(t *testing.T) {
		t.Parallel()
		store, open := deploy(t)
		const scans = 200
		a, b := Work(t, store, Start(t, open()), 4), Work(t, store, Start(t, open()), 4)
		Create(t, store, 0, scans, events.Normal)
		deadline := time.After(patience)
		for a.Won()+b.Won() < scans {
			select {
			case <-a.changed:
			case <-b.changed:
			case <-deadline:
				t.Fatalf("%d + %d of %d scans claimed", a.Won(), b.Won(), scans)
			}
		}
		if n := a.Won() + b.Won(); n != scans {
			t.Errorf("%d claims stored, want %d", n, scans)
		}
	})
	t.Run("hints that come twice and in another order are harmless", func(t *testing.T) {
		t.Parallel()
		store, open := deploy(t)
		const scans = 40
		Create(t, store, 0, scans, events.Normal)
		q := Start(t, open())
		w := newWork(store)
		var late []dispatch.Hint
		for range scans {
			late = append(late, next(t, q))
		}
		slices.Reverse(late)
		for _, h := range append(late, late...) {
			w.take(t, q, h)
		}
		w.WaitClaimed(t, scans)
		if w.Won() != scans {
			t.Errorf("%d claims stored, want %d", w.Won(), scans)
		}
	})
	t.Run("ten thousand other events do not keep a hint", func(t *testing.T) {
		t.Parallel()
		store, open := deploy(t)
		q := Start(t, open())
		Create(t, store, 0, 1, events.Low)
		h := next(t, q)
		q.Done(h)
		others(t, store, 10_000)
		Create(t, store, 1, 2, events.Low)
		if h := next(t, q); h.Scan != ID(1) {
			t.Errorf("brought %s, want %s", h.Scan, ID(1))
		}
	})
	t.Run("a scan that expired or was released is brought again", func(t *testing.T) {
		t.Parallel()
		store, open := deploy(t)
		q := Start(t, open())
		Create(t, store, 0, 1, events.High)
		w := newWork(store)
		w.take(t, q, next(t, q))
		for i, give := range []func(scan.Scan) scan.Command{
			func(s scan.Scan) scan.Command { return scan.Release{Generation: s.Generation, Reason: "draining"} },
			func(s scan.Scan) scan.Command { return scan.Expire{Generation: s.Generation, Reason: "restarted"} },
		} {
			_, _, err := eventstore.Do(t.Context(), store, events.ScanOf(store.Region(), ID(0)), meta(fmt.Sprint("give", i)), func(s scan.Scan, _ events.Head) ([]events.Event, error) {
				return scan.Decide(s, give(s))
			})
			if err != nil {
				t.Fatal(err)
			}
			h := next(t, q)
			w.take(t, q, h)
			if w.Won() != i+2 {
				t.Errorf("hint %+v did not lead to a claim", h)
			}
		}
	})
}

// ID is the id of the n-th scan that Create makes.
func ID(n int) events.ScanID { return events.ScanID(fmt.Sprintf("scan_test_%06d", n)) }

func index(id events.ScanID) int {
	var n int
	_, _ = fmt.Sscanf(string(id), "scan_test_%d", &n) // ours
	return n
}

func meta(cmd string) events.Meta {
	return events.Meta{Command: events.CommandID(cmd), Actor: events.BySystem("test"), At: time.Now()}
}

// Create queues the scans from to to-1.
func Create(tb testing.TB, store *eventstore.Store, from, to int, p events.Priority) {
	tb.Helper()
	req := events.ScanQueued{Project: "p", Repository: "r", Snapshot: "sha256:0", User: "user_a", Priority: p, MaxAttempts: 9}
	parallel(tb, from, to, func(i int) error {
		_, err := store.Append(tb.Context(), events.ScanOf(store.Region(), ID(i)), events.Head{}, meta(fmt.Sprint("create", i)), req)
		return err
	})
}

// others appends n events that are no work.
func others(tb testing.TB, store *eventstore.Store, n int) {
	tb.Helper()
	parallel(tb, 0, n, func(i int) error {
		user := events.UserID(fmt.Sprint("user_", i))
		_, err := store.Append(tb.Context(), events.SlotsOf(store.Region(), user), events.Head{}, meta(fmt.Sprint("other", i)), events.Slots{User: user})
		return err
	})
}

func parallel(tb testing.TB, from, to int, f func(int) error) {
	tb.Helper()
	var all sync.WaitGroup
	const callers = 16
	for c := range callers {
		all.Go(func() {
			for i := from + c; i < to; i += callers {
				if err := f(i); err != nil {
					tb.Errorf("%d: %v", i, err)
					return
				}
			}
		})
	}
	all.Wait()
}

// Start runs a queue until the test ends.
func Start(tb testing.TB, q Queue) Queue {
	tb.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(tb.Context()))
	var ran sync.WaitGroup
	ran.Go(func() {
		if err := q.Run(ctx); err != nil {
			tb.Errorf("Run = %v", err)
		}
	})
	tb.Cleanup(func() {
		stop()
		ran.Wait()
	})
	return q
}

func next(tb testing.TB, q Queue) dispatch.Hint {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	h, err := q.Next(ctx)
	if err != nil {
		tb.Fatalf("no hint came: %v", err)
	}
	return h
}

// WaitIdle returns once the system has nothing left to bring.
func WaitIdle(tb testing.TB, system System, store *eventstore.Store) {
	tb.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		idle, err := system.Idle(tb.Context(), store)
		if err != nil {
			tb.Fatal(err)
		}
		if idle {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatal("the queue never ran dry")
		}
	}
}

// Worker is one process's slots, which claim what they are brought and do nothing else.
type Worker struct {
	store   *eventstore.Store
	id      events.WorkerID
	changed chan struct{} // buffered 1

	mu    sync.Mutex // guards what follows
	won   map[events.ScanID]int
	hints int
}

func newWork(store *eventstore.Store) *Worker {
	return &Worker{store: store, id: events.NewWorkerID(store.Region()), changed: make(chan struct{}, 1), won: map[events.ScanID]int{}}
}

// Work starts slots on q until the test ends.
func Work(tb testing.TB, store *eventstore.Store, q Queue, slots int) *Worker {
	tb.Helper()
	w := newWork(store)
	ctx, stop := context.WithCancel(context.WithoutCancel(tb.Context()))
	var all sync.WaitGroup
	for range slots {
		all.Go(func() {
			for {
				h, err := q.Next(ctx)
				if err != nil {
					return
				}
				w.take(tb, q, h)
			}
		})
	}
	tb.Cleanup(func() {
		stop()
		all.Wait()
	})
	return w
}

// take claims as the worker does.
func (w *Worker) take(tb testing.TB, q Queue, h dispatch.Hint) {
	agg := events.ScanOf(w.store.Region(), h.Scan)
	m := meta(fmt.Sprintf("claim-%s-%d", w.id, h.Seq))
	claim := scan.Claim{Worker: w.id}
	// A hint that comes to the same worker twice makes no second claim: the command is the same.
	s, recorded, err := eventstore.Do(context.WithoutCancel(tb.Context()), w.store, agg, m, func(s scan.Scan, _ events.Head) ([]events.Event, error) {
		if s.Seq < h.Seq {
			return nil, fmt.Errorf("%s ends at %d, before its hint %d", h.Scan, s.Seq, h.Seq)
		}
		return scan.Decide(s, claim)
	})
	_, over := errors.AsType[*scan.NotAllowedError](err)
	if err != nil && !over {
		tb.Errorf("claim of %s: %v", h.Scan, err)
		q.Retry(h)
		return
	}
	q.Done(h)
	w.mu.Lock()
	w.hints++
	if err == nil && len(recorded) > 0 && s.Generation == recorded[0].Seq {
		w.won[h.Scan] = s.Attempt
	}
	w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// Won is how many claims the worker's slots have stored; Hints how many hints they were given.
func (w *Worker) Won() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, attempts := range w.won {
		n += attempts
	}
	return n
}

// Hints is how many hints the slots were given.
func (w *Worker) Hints() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hints
}

// WaitClaimed returns once n claims are stored.
func (w *Worker) WaitClaimed(tb testing.TB, n int) {
	tb.Helper()
	deadline := time.After(patience)
	for w.Won() < n {
		select {
		case <-w.changed:
		case <-deadline:
			tb.Fatalf("%d of %d scans claimed", w.Won(), n)
		}
	}
}

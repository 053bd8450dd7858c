package dispatch

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"vega/events"
	"vega/events/eventstore"
)

// Hint says that a scan wants a worker. Seq is the event that says so; whoever acts on the hint must load at least up to it.
type Hint struct {
	Scan     events.ScanID
	Seq      events.Seq
	Priority events.Priority  // empty: the queue knows none
	Ready    *events.Recorded // the event itself, when the queue brought it
	receipt  any              // what the queue that gave the hint out knows it by
}

// Local hands the log's ready events to the workers of this process, best priority first, then oldest first. What it holds is in memory
// alone: the next process finds the same events in the log.
type Local struct {
	store *eventstore.Store

	mu    sync.Mutex // guards hints
	hints hints
	bell  chan struct{} // buffered 1: there may be a hint
}

// NewLocal returns a queue that is empty until Run.
func NewLocal(store *eventstore.Store) *Local {
	return &Local{store: store, bell: make(chan struct{}, 1)}
}

// Run follows the ready events after a sequence, which must lie before the oldest scan that is not over, until ctx ends.
func (l *Local) Run(ctx context.Context, after events.Seq) error {
	for ; ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
		for r, err := range l.store.Follow(ctx, after, events.AnyReadyFilter(l.store.Region())) {
			if bad, ok := errors.AsType[*eventstore.UnreadableError](err); ok {
				after = bad.Event.Seq // nobody could claim that scan either
				continue
			}
			if errors.Is(err, eventstore.ErrUnavailable) {
				break // it is tried again from here
			}
			if err != nil {
				return fmt.Errorf("follow queued scans: %w", err)
			}
			after = r.Seq
			_, priority, err := events.ParseSubject(r.Aggregate.Subject(r.Event))
			if err != nil || priority == "" {
				continue // a ready event of a newer release: its scan is not for this build
			}
			l.put(Hint{Scan: events.ScanID(r.Aggregate.ID), Seq: r.Seq, Priority: priority, Ready: &r})
		}
	}
	return nil
}

// Next waits for the best hint and takes it, or returns ctx's error.
func (l *Local) Next(ctx context.Context) (Hint, error) {
	for {
		l.mu.Lock()
		if len(l.hints) > 0 && ctx.Err() == nil {
			h := heap.Pop(&l.hints).(Hint)
			more := len(l.hints) > 0
			l.mu.Unlock()
			if more {
				l.ring() // for the next slot that waits
			}
			return h, nil
		}
		l.mu.Unlock()
		select {
		case <-l.bell:
		case <-ctx.Done():
			return Hint{}, ctx.Err()
		}
	}
}

// Done says that a hint has served: its scan is claimed, or wants no worker any more.
func (l *Local) Done(Hint) {}

// Retry gives back a hint that could not be acted on, because the log was away.
func (l *Local) Retry(h Hint) { l.put(h) }

func (l *Local) put(h Hint) {
	l.mu.Lock()
	heap.Push(&l.hints, h)
	l.mu.Unlock()
	l.ring()
}

func (l *Local) ring() {
	select {
	case l.bell <- struct{}{}:
	default: // one ring is enough: whoever hears it rings for the next
	}
}

// hints is a heap: best priority first, then lowest sequence.
type hints []Hint

func rank(p events.Priority) int {
	for i, x := range events.Priorities() {
		if x == p {
			return i
		}
	}
	return len(events.Priorities())
}

func (h hints) Len() int { return len(h) }
func (h hints) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(rank(h[i].Priority), rank(h[j].Priority)), cmp.Compare(h[i].Seq, h[j].Seq)) < 0
}
func (h hints) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *hints) Push(x any)   { *h = append(*h, x.(Hint)) }
func (h *hints) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

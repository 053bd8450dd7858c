package llmproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/scan"
)

// watch knows the scans that calls are made for, as the log has them. It is safe for concurrent use.
type watch struct {
	store *eventstore.Store

	mu    sync.Mutex // guards what follows, never held over I/O
	scans map[events.ScanID]seen
}

// seen is a scan as it was last read.
type seen struct {
	state scan.Scan
	head  events.Head
}

// maxSeen bounds what is remembered of scans. Forgetting one costs reading its events again.
const maxSeen = 10_000

func newWatch(store *eventstore.Store) *watch {
	return &watch{store: store, scans: map[events.ScanID]seen{}}
}

// known is a scan as it was last seen; false when it is not remembered.
func (w *watch) known(id events.ScanID) (seen, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.scans[id]
	return s, ok
}

// read is a scan as the log has it now: one question to the log's leader when nothing has happened to it.
func (w *watch) read(ctx context.Context, id events.ScanID) (seen, error) {
	was, _ := w.known(id)
	past, head, err := w.store.Load(ctx, events.ScanOf(w.store.Region(), id), was.head)
	if err != nil {
		return seen{}, fmt.Errorf("%w: %w", errNoLog, err)
	}
	if len(past) == 0 {
		return was, nil
	}
	now := seen{was.state, head}
	for _, r := range past {
		now.state = now.state.Evolve(r)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.scans) >= maxSeen {
		clear(w.scans)
	}
	if w.scans[id].head.Seq < head.Seq {
		w.scans[id] = now
	}
	return now, nil
}

// take folds an event of a scan that is remembered. It returns the scan as it is then, and false when there is none, or an event between is missing.
func (w *watch) take(r events.Recorded) (scan.Scan, bool) {
	id := events.ScanID(r.Aggregate.ID)
	w.mu.Lock()
	defer w.mu.Unlock()
	was, ok := w.scans[id]
	switch {
	case !ok:
		return scan.Scan{}, false
	case r.Version <= was.head.Version:
		return was.state, true
	case r.Version > was.head.Version+1:
		delete(w.scans, id) // the next question reads it again
		return scan.Scan{}, false
	}
	now := seen{was.state.Evolve(r), r.Head()}
	w.scans[id] = now
	return now.state, true
}

// ended says why the calls of an attempt are over; nil: they are not.
func ended(s scan.Scan, g Grant) *refusal {
	switch {
	case s.Status.Terminal() || s.Status == scan.None:
		return &refusal{code: "vega_scan_ended", message: fmt.Sprintf("the scan has ended (%s)", cmp.Or(s.Status, "unknown"))}
	case s.Generation != g.Generation || s.Attempt != g.Attempt || s.Status == scan.Queued:
		return &refusal{code: "vega_attempt_superseded", message: "the scan was given to another worker"}
	case s.Status == scan.Cancelling:
		return &refusal{code: "vega_scan_cancelled", message: "the scan is being cancelled"}
	}
	return nil
}

// Run watches the log until ctx ends and cuts the calls of scans that have ended, were cancelled or were given to another worker. Without it new calls are refused
// all the same, and those that are on their way go on to their end. While the log is away it tries again; its error is nil.
func (p *Proxy) Run(ctx context.Context) error {
	failing := false
	for ctx.Err() == nil {
		began, err := p.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		if !failing || began {
			p.log.Warn("ends of scans are not seen at once", "err", err)
		}
		failing = true
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	return nil
}

// follow looks at each scan with calls on their way to which something happens. It begins with all of them, because something may have happened before. It says whether it
// got that far.
func (p *Proxy) follow(ctx context.Context) (began bool, err error) {
	info, err := p.store.Info(ctx)
	if err != nil {
		return false, err
	}
	for _, a := range p.busy() {
		p.recheck(ctx, a)
	}
	for r, err := range p.store.Follow(ctx, info.Last, events.KindFilter(p.store.Region(), events.ScanAggregate)) {
		if err != nil {
			if _, unreadable := errors.AsType[*eventstore.UnreadableError](err); unreadable {
				continue
			}
			return true, err
		}
		if s, ok := p.watch.take(r); ok {
			p.cutEnded(events.ScanID(r.Aggregate.ID), s)
		} else if a := p.accountOf(events.ScanID(r.Aggregate.ID)); a != nil {
			p.recheck(ctx, a)
		}
	}
	return true, ctx.Err()
}

// recheck reads a scan with calls on their way and cuts those whose attempt is over.
func (p *Proxy) recheck(ctx context.Context, a *account) {
	a.mu.Lock()
	idle := len(a.live) == 0
	a.mu.Unlock()
	if idle {
		return
	}
	if s, err := p.watch.read(ctx, a.id); err == nil {
		p.cutEnded(a.id, s.state)
	}
}

// cutEnded cuts the calls on their way whose attempt is over.
func (p *Proxy) cutEnded(id events.ScanID, s scan.Scan) {
	a := p.accountOf(id)
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for c := range a.live {
		if no := ended(s, c.grant); no != nil {
			c.cut(no)
		}
	}
}

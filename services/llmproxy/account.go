package llmproxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/scan"
)

// account writes what one scan spends to the log. Whoever waits while an event is on its way shares the next one, so a busy scan costs one append for many
// calls. It is safe for concurrent use.
type account struct {
	p    *Proxy
	id   events.ScanID
	slot chan struct{} // a place for each call that may be on its way

	users int // calls that hold the account; guarded by the proxy's mu

	mu      sync.Mutex // guards what follows, never held over I/O
	queued  int        // calls that wait for a place
	live    map[*call]struct{}
	waiting []*step       // for the next event
	writing bool          // a goroutine writes events until nothing waits
	ended   chan struct{} // closed, and made anew, when calls have ended

	// The writing goroutine's, between two events nobody's.
	known bool
	last  events.UsageRecorded // the newest event, as far as is known
	head  events.Head
}

// step is one change of an account that waits to be recorded.
type step struct {
	apply func(l *ledger, s *step, of scan.Scan) // decides; it is called again when the log has moved on
	deny  *denial                                // set by apply
	over  *refusal                               // set by apply: the attempt does not run
	made  events.Reservation                     // set by apply
	err   error                                  // the log did not take it
	done  chan struct{}                          // closed once it is decided and stored, or failed
	must  bool                                   // it is tried until it is stored: the end of a call
	gone  atomic.Bool                            // nobody waits for it any more, so it need not be decided
}

// maxSteps bounds one event; a step takes up to about a kilobyte.
const maxSteps = 200

// errNoLog is what a call is told when its reservation could not be stored.
var errNoLog = errors.New("the event log does not answer")

// reserve admits a call of an attempt that runs, under the caps. It returns what is set aside, or which cap forbids the call, or a *refusal
// because the attempt is over, or an error of the log. Nothing stays reserved but for the first.
func (a *account) reserve(ctx context.Context, g Grant, k ask) (events.Reservation, *denial, error) {
	s := &step{done: make(chan struct{}), apply: func(l *ledger, s *step, of scan.Scan) {
		if s.gone.Load() {
			return
		}
		if s.over = ended(of, g); s.over == nil {
			if s.deny = l.reserve(a.p.caps.Within(of.Request.Budget), k); s.deny == nil {
				s.made = l.Open[len(l.Open)-1]
			}
		}
	}}
	a.enqueue(s)
	late := time.NewTimer(admitTime)
	defer late.Stop()
	select {
	case <-s.done:
	case <-late.C: // it may be on its way to the log
		s.gone.Store(true)
		a.release(k.id, false, "the log did not answer")
		return events.Reservation{}, nil, errNoLog
	case <-ctx.Done():
		s.gone.Store(true)
		a.release(k.id, false, "the agent went away")
		return events.Reservation{}, nil, ctx.Err()
	}
	if s.err != nil {
		a.release(k.id, false, "the log did not answer") // it may have been stored all the same
		return events.Reservation{}, nil, s.err
	}
	if s.over != nil {
		return events.Reservation{}, nil, s.over
	}
	return s.made, s.deny, nil
}

// settle records what a call cost, soon; nil is what the provider did not say. The first end of a call counts.
func (a *account) settle(id string, spent *events.Usage, tier, reason string) {
	a.enqueue(&step{must: true, done: make(chan struct{}), apply: func(l *ledger, _ *step, _ scan.Scan) { l.settle(id, spent, tier, reason) }})
}

// release records that a call cost nothing, soon; sent says that it reached the provider, which counts as a request.
func (a *account) release(id string, sent bool, reason string) {
	a.enqueue(&step{must: true, done: make(chan struct{}), apply: func(l *ledger, _ *step, _ scan.Scan) { l.release(id, sent, reason) }})
}

// change is closed once a call of the scan has ended in this process.
func (a *account) change() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ended
}

func (a *account) enqueue(s *step) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting = append(a.waiting, s)
	if !a.writing {
		a.writing = true
		a.p.writers.Go(a.write)
	}
}

// write records what waits, and what comes meanwhile. Steps that must be stored stay until they are, or until the process ends; then their reservations are
// charged in full by whoever finds them.
func (a *account) write() {
	pause := 10 * time.Millisecond
	for {
		a.mu.Lock()
		n := min(len(a.waiting), maxSteps)
		batch := a.waiting[:n:n]
		a.waiting = a.waiting[n:]
		if n == 0 {
			a.writing, a.waiting = false, nil
			a.mu.Unlock()
			return
		}
		a.mu.Unlock()
		err := a.record(batch)
		var again []*step
		for _, s := range batch {
			if err != nil && s.must {
				again = append(again, s)
				continue
			}
			s.err = err
			close(s.done)
		}
		if err == nil {
			pause = 10 * time.Millisecond
			a.mu.Lock()
			close(a.ended)
			a.ended = make(chan struct{})
			a.mu.Unlock()
			continue
		}
		a.p.log.Warn("usage not recorded", "scan_id", a.id, "steps", len(again), "err", err)
		if len(again) == 0 {
			continue
		}
		a.mu.Lock()
		a.waiting = append(again, a.waiting...)
		a.mu.Unlock()
		t := time.NewTimer(pause)
		pause = min(2*pause, time.Second)
		select {
		case <-t.C:
		case <-a.p.closing: // whoever finds the reservations later charges them
			t.Stop()
			a.mu.Lock()
			lost := a.waiting
			a.waiting, a.writing = nil, false
			a.mu.Unlock()
			for _, s := range lost {
				s.err = errNoLog
				close(s.done)
			}
			return
		}
	}
}

// record appends one event with what the steps decide on the newest one. Steps that change nothing append nothing. What they decide holds for the scan as it is when the event
// is stored: the log refuses it if anything has happened to either meanwhile.
func (a *account) record(batch []*step) error {
	ctx, cancel := context.WithTimeout(context.Background(), recordTime)
	defer cancel()
	fresh := false // both were read for this batch
	for range maxConflicts {
		of, remembered := a.p.watch.known(a.id)
		if !a.known || !remembered {
			var err error
			if of, err = a.load(ctx); err != nil {
				return err
			}
			fresh = true
		}
		now := a.p.now()
		l := after(a.last)
		l.chargeLost(overdue(now))
		refused := false
		for _, s := range batch {
			s.deny, s.over, s.made = nil, nil, events.Reservation{}
			s.apply(l, s, of.state)
			refused = refused || s.deny != nil || s.over != nil
		}
		if refused && !fresh { // that is said only of what the log has now
			a.known = false
			continue
		}
		if len(l.Calls) == 0 {
			return nil
		}
		meta := events.Meta{Command: events.NewCommandID(), Actor: events.BySystem("llm-proxy"), Cause: a.p.name, At: now.UTC()}
		made, err := a.p.store.AppendUsage(ctx, a.id, a.head, of.head.Seq, meta, l.UsageRecorded)
		if err == nil {
			// A crash from here on leaves the reservations open: whoever writes next after their time charges them.
			a.last, a.head = l.UsageRecorded, made[0].Head()
			return nil
		}
		a.known = false
		if !errors.Is(err, eventstore.ErrConflict) {
			return fmt.Errorf("%w: %w", errNoLog, err)
		}
	}
	return fmt.Errorf("%w: others were faster %d times in a row", errNoLog, maxConflicts)
}

const (
	recordTime   = 15 * time.Second // for one event, conflicts included
	admitTime    = 10 * time.Second // for a call to be admitted
	maxConflicts = 100
)

// load reads the scan and the newest event of its usage. The first one is begun with what the scan says about itself.
func (a *account) load(ctx context.Context) (seen, error) {
	of, err := a.p.watch.read(ctx, a.id)
	if err != nil {
		return of, err
	}
	r, _, err := a.p.store.LoadLast(ctx, events.UsageOf(a.p.store.Region(), a.id))
	if err != nil {
		return of, fmt.Errorf("%w: %w", errNoLog, err)
	}
	switch e := r.Event.(type) {
	case events.UsageRecorded:
		a.last, a.head = e, r.Head()
	case nil:
		q := of.state.Request
		a.last, a.head = events.UsageRecorded{Project: q.Project, Repository: q.Repository, User: q.User}, events.Head{}
	default:
		return of, fmt.Errorf("the scan's usage was written by a newer release (%s schema %d)", r.Kind, r.Schema)
	}
	a.known = true
	return of, nil
}

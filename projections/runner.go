package projections

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"vega/events"
	"vega/events/eventstore"
)

// Checkpoint says up to where, and of which log, the rows are true.
type Checkpoint struct {
	Seq     events.Seq `json:"seq"`
	Stream  string     `json:"stream"`
	Created time.Time  `json:"created"` // of the stream: one that was recreated is another one
}

// ErrRefused is wrapped by Model.Update when the store cannot hold a row for what it contains, whenever it is tried. The runner parks the aggregate to blame.
var ErrRefused = errors.New("the read models cannot hold it")

// ErrOutdated is returned by a model whose rows a newer release has taken over: this process leaves writing to that one.
var ErrOutdated = errors.New("the read models are those of another release")

// ErrMoved is returned by Model.Update when the model stands at or beyond the new checkpoint, and by a Draft that is not where it should be.
var ErrMoved = errors.New("the read models stand elsewhere")

// Model is a backend: rows and checkpoint that change together.
type Model interface {
	Reader
	// Checkpoint is that of the last commit.
	Checkpoint(context.Context) (Checkpoint, error)
	// Update runs f in a transaction and commits its rows together with c, or nothing when f or the commit fails. It returns ErrMoved, and does
	// nothing, unless c is beyond the checkpoint. One at a time.
	Update(ctx context.Context, c Checkpoint, f func(Tx) error) error
}

// Shared is a Model whose store several processes use at once, one of which writes. That it is only one saves work and no more: the checkpoint decides
// which transaction holds. Reads may be answered by a copy that is behind what Update has committed.
type Shared interface {
	Model
	// Lead waits until this process is the one that writes, then runs do, whose context ends when it no longer is. It returns do's error, or one that wraps
	// ErrUnavailable when the store does not answer or the leadership was lost; after either it may be called again. It takes over within seconds
	// from a process that vanished.
	Lead(ctx context.Context, do func(context.Context) error) error
	// Watch keeps Seen true until ctx ends, whatever happens to its connections.
	Watch(ctx context.Context)
	// Seen is the sequence up to which this process's reads are true, a channel that is closed when that has changed, and why the store does not answer
	// at the moment, or nil.
	Seen() (at events.Seq, changed <-chan struct{}, trouble error)
	// Hurry says that somebody waits for Seen to change. Who goes on waiting says it again every hurryEvery.
	Hurry()
}

// hurryEvery is how often somebody who waits says so to a Shared model.
const hurryEvery = 50 * time.Millisecond

// Runner keeps one model up to date with one region's log. Make it with NewRunner, then Run it; WaitFor may be called from anywhere.
type Runner struct {
	store  *eventstore.Store
	model  Model
	shared Shared // the model, when several processes use it; nil otherwise
	log    *slog.Logger

	asked chan struct{} // buffered 1: somebody waits for events that are not in yet

	mu      sync.Mutex // guards what follows, never held over I/O
	at      events.Seq // what was applied; where the reads of a shared model are, the model knows
	leads   bool
	skipped int // events of newer releases
	trouble error
	moved   chan struct{}
}

// batchLimit is how many events one transaction takes at most: the more, the fewer times a busy row is written.
const batchLimit = 8192

// gatherTime is how long events gather for the next transaction after one, unless somebody waits for them: a busy row is then written once for many
// events.
const gatherTime = 20 * time.Millisecond

// NewRunner returns a runner that stands at the model's checkpoint. It refuses a model of another log: a stream that was recreated,
// or one that ends before the checkpoint.
func NewRunner(ctx context.Context, store *eventstore.Store, model Model, log *slog.Logger) (*Runner, error) {
	r := &Runner{store: store, model: model, log: log, moved: make(chan struct{}), asked: make(chan struct{}, 1)}
	r.shared, _ = model.(Shared)
	if err := r.stand(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// stand looks where the model is, and whether it belongs to the log.
func (r *Runner) stand(ctx context.Context) error {
	c, err := r.model.Checkpoint(ctx)
	if err != nil {
		return fmt.Errorf("read the checkpoint: %w", err)
	}
	info, err := r.store.Info(ctx)
	if err != nil {
		return err
	}
	if c.Seq > 0 && (c.Stream != info.Name || !c.Created.Equal(info.Created)) {
		return fmt.Errorf("the read models belong to another event log (%s made %s, this one %s made %s): restore the log they came from, or %s to build them anew",
			c.Stream, c.Created.Format(time.RFC3339), info.Name, info.Created.Format(time.RFC3339), removal(r.model))
	}
	if err := r.store.Whole(ctx); err != nil {
		return fmt.Errorf("the event log is damaged: restore it from a backup ('vega log verify' names what is missing): %w", err)
	}
	if c.Seq > info.Last {
		return fmt.Errorf("the read models have seen sequence %d and the event log ends at %d: it lost events; restore it from a backup, or %s to accept the loss", c.Seq, info.Last, removal(r.model))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = c.Seq
	return nil
}

// removal is how an operator removes a model, to follow "or".
func removal(m Model) string {
	if m, ok := m.(interface{ Removal() string }); ok {
		return m.Removal()
	}
	return "remove the read models"
}

// Run applies events until ctx ends (nil) or the log fails for good. While the log is away, or the model does not take the events, it tries again, ever
// more slowly; Err says so meanwhile. Of the processes that share a model one applies events, and the others wait to take its place.
func (r *Runner) Run(ctx context.Context) error {
	if r.shared == nil {
		return r.project(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { r.shared.Watch(ctx) })
	defer watching.Wait()
	defer cancel()
	return r.lead(ctx)
}

// lead projects whenever this process is the one that does.
func (r *Runner) lead(ctx context.Context) error {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := r.shared.Lead(ctx, func(ctx context.Context) error {
			defer r.led()
			pause = 10 * time.Millisecond
			// Another process may have written until now.
			if err := r.stand(ctx); err != nil {
				return err
			}
			r.mu.Lock()
			r.leads = true
			r.mu.Unlock()
			r.tell(nil)
			return r.project(ctx)
		})
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrOutdated) {
			r.tell(err)
			pause = time.Second // somebody of that release wants to lead
		} else if err != nil && !errors.Is(err, ErrUnavailable) && !errors.Is(err, eventstore.ErrUnavailable) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// led ends this process's turn: whether the model takes events is another's trouble now.
func (r *Runner) led() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leads = false
	if !errors.Is(r.trouble, ErrOutdated) {
		r.trouble = nil
	}
}

// project applies events until ctx ends (nil) or the log fails for good.
func (r *Runner) project(ctx context.Context) error {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := r.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errGap) {
			// The store lost what it had committed, or another copy of it answers now. The log has it all.
			r.tell(err)
			err = r.stand(ctx)
		}
		if err != nil && !errors.Is(err, eventstore.ErrUnavailable) && !errors.Is(err, ErrUnavailable) {
			return err
		}
		if err != nil {
			r.tell(err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// follow applies events until ctx ends or the log cannot be followed; then it returns why.
func (r *Runner) follow(ctx context.Context) error {
	info, err := r.store.Info(ctx)
	if err != nil {
		return err
	}
	for batch, err := range r.store.FollowBatches(ctx, r.applied(), batchLimit) {
		batch, bad, err := readable(batch, err)
		if err != nil {
			return fmt.Errorf("read models: %w", err)
		}
		for pause := 10 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
			err := r.apply(ctx, info, batch, bad)
			if ctx.Err() != nil {
				return nil
			}
			r.tell(err)
			if err == nil {
				break
			}
			if errors.Is(err, errGap) || errors.Is(err, ErrOutdated) {
				return err
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil
			}
		}
		if len(batch) < batchLimit {
			r.gather(ctx)
		}
	}
	if ctx.Err() == nil {
		return fmt.Errorf("read models: %w: it stopped telling", eventstore.ErrUnavailable)
	}
	return nil
}

// gather waits for gatherTime, or until somebody waits for what has arrived meanwhile.
func (r *Runner) gather(ctx context.Context) {
	t := time.NewTimer(gatherTime)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.asked:
	case <-ctx.Done():
	}
}

// readable turns an event that cannot be decoded into one without contents, beside the reason.
func readable(batch []events.Recorded, err error) ([]events.Recorded, *eventstore.UnreadableError, error) {
	if u, ok := errors.AsType[*eventstore.UnreadableError](err); ok {
		return []events.Recorded{u.Event}, u, nil
	}
	return batch, nil, err
}

// tell keeps the state of the model for Err, and logs when it changes.
func (r *Runner) tell(err error) {
	r.mu.Lock()
	before := r.trouble
	r.trouble = err
	r.mu.Unlock()
	switch {
	case err != nil && before == nil:
		r.log.Error("read models not written", "err", err)
	case err == nil && before != nil:
		r.log.Info("read models written again")
	}
}

// apply brings one batch into the model. What the model has already, from a try whose outcome was not known or from another process, is left out.
func (r *Runner) apply(ctx context.Context, info eventstore.LogInfo, batch []events.Recorded, bad *eventstore.UnreadableError) error {
	last := batch[len(batch)-1].Seq
	skipped, err := commit(ctx, r.model, info, batch, problemOf(bad), r.log)
	if errors.Is(err, ErrMoved) {
		// All of it is in already. Not so when somebody exchanged the model under us for an older one.
		var c Checkpoint
		if c, err = r.model.Checkpoint(ctx); err == nil && c.Seq < last {
			err = fmt.Errorf("%w: back at sequence %d", ErrMoved, c.Seq)
		}
	}
	if err != nil {
		return err
	}
	// A crash before this line but after the commit: the next start begins at the new checkpoint.
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = max(r.at, last)
	r.skipped += skipped
	close(r.moved)
	r.moved = make(chan struct{})
	return nil
}

// updater is a Model or a Draft.
type updater interface {
	Update(ctx context.Context, c Checkpoint, f func(Tx) error) error
}

// commit applies events in one transaction and returns how many were those of newer releases. When the model refuses them for what they hold it halves them, until the
// one to blame is alone and its aggregate parked. problem says why an event cannot be applied; it is alone then.
func commit(ctx context.Context, to updater, info eventstore.LogInfo, batch []events.Recorded, problem error, log *slog.Logger) (skipped int, err error) {
	c := Checkpoint{batch[len(batch)-1].Seq, info.Name, info.Created}
	err = to.Update(ctx, c, func(tx Tx) (err error) {
		skipped, err = applyBatch(tx, batch, problem, log)
		return err
	})
	if !errors.Is(err, ErrRefused) || problem != nil {
		return skipped, err
	}
	if len(batch) == 1 {
		return commit(ctx, to, info, batch, err, log)
	}
	half := len(batch) / 2
	before, err := commit(ctx, to, info, batch[:half], nil, log)
	if err != nil && !errors.Is(err, ErrMoved) { // moved: it is in
		return 0, err
	}
	skipped, err = commit(ctx, to, info, batch[half:], nil, log)
	return before + skipped, err
}

func problemOf(bad *eventstore.UnreadableError) error {
	if bad == nil {
		return nil
	}
	return bad
}

// errGap says that the model stands before the events that it is given.
var errGap = errors.New("the read models lack events before these")

// Prefetcher is a Tx that reads at once what a batch of events will ask it for.
type Prefetcher interface {
	Prefetch([]events.Recorded) error
}

// applyBatch folds events in order, leaves out those that are in already, and returns how many were those of newer releases. problem says why the only one cannot be
// applied. An error is the model's, not an event's.
func applyBatch(tx Tx, batch []events.Recorded, problem error, log *slog.Logger) (skipped int, err error) {
	if batch[0].Seq > tx.At()+1 {
		return 0, fmt.Errorf("%w: they end at sequence %d, and the next is %d", errGap, tx.At(), batch[0].Seq)
	}
	if p, ok := tx.(Prefetcher); ok {
		if err := p.Prefetch(batch); err != nil {
			return 0, err
		}
	}
	for _, e := range batch {
		if e.Seq <= tx.At() {
			continue
		}
		if _, newer := e.Event.(events.Unknown); newer {
			skipped++
			continue
		}
		if err := applyOrPark(tx, e, problem, log); err != nil {
			return 0, err
		}
	}
	return skipped, nil
}

// applyOrPark applies e; when it cannot be, its aggregate is parked and left alone from then on. An error is the model's, not the event's.
func applyOrPark(tx Tx, e events.Recorded, problem error, log *slog.Logger) error {
	if !tx.NoneParked() {
		parked, is, err := tx.Parked(e.Aggregate.String())
		if err != nil {
			return err
		}
		if is {
			parked.Skipped++
			return tx.PutParked(parked)
		}
	}
	if problem == nil {
		problem = Apply(tx, e)
	}
	if problem == nil {
		return nil
	}
	if _, broken := errors.AsType[*ModelError](problem); broken {
		return problem
	}
	name := e.Aggregate.String()
	log.Error("aggregate parked", "subject", name, "seq", e.Seq, "err", problem)
	return tx.PutParked(Parked{Aggregate: name, Seq: e.Seq, Problem: problem.Error()})
}

// ModelError marks an error of the backend itself: the transaction is over, and no event is to blame.
type ModelError struct{ Err error }

func (e *ModelError) Error() string { return e.Err.Error() }
func (e *ModelError) Unwrap() error { return e.Err }

// At is the sequence up to which the rows that this process reads are true.
func (r *Runner) At() events.Seq {
	at, _ := r.seen()
	return at
}

func (r *Runner) seen() (events.Seq, <-chan struct{}) {
	if r.shared != nil {
		at, changed, _ := r.shared.Seen()
		return at, changed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at, r.moved
}

func (r *Runner) applied() events.Seq {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at
}

// Leads says that this process is the one that applies events.
func (r *Runner) Leads() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.shared == nil || r.leads
}

// Err is why the model does not take events or does not answer at the moment, or nil.
func (r *Runner) Err() error {
	if r.shared != nil {
		if _, _, trouble := r.shared.Seen(); trouble != nil {
			return trouble
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.trouble
}

// Skipped counts the events of newer releases that this process left out since its start.
func (r *Runner) Skipped() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.skipped
}

// WaitFor returns when the rows that this process reads are true up to seq, or with ctx's error.
func (r *Runner) WaitFor(ctx context.Context, seq events.Seq) error {
	var again <-chan time.Time // says to a shared model that somebody waits; never, for another
	if r.shared != nil {
		t := time.NewTicker(hurryEvery)
		defer t.Stop()
		again = t.C
	}
	for {
		at, moved := r.seen()
		if at >= seq {
			return nil
		}
		if r.shared != nil {
			r.shared.Hurry()
		}
		select {
		case r.asked <- struct{}{}:
		default: // somebody else has just asked
		}
		select {
		case <-moved:
		case <-again:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

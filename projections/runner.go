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

// Runner keeps one model up to date with one region's log. Make it with NewRunner, then Run it; WaitFor may be called from anywhere.
type Runner struct {
	store *eventstore.Store
	model Model
	log   *slog.Logger

	hold  sync.Mutex    // held for one transaction, and by a rebuild while the model must stand still
	asked chan struct{} // buffered 1: somebody waits for events that are not in yet

	mu      sync.Mutex // guards what follows, never held over I/O
	at      events.Seq
	skipped int // events of newer releases
	trouble error
	moved   chan struct{}
}

// batchLimit is how many events one transaction takes at most: the more, the fewer times a busy row is written.
const batchLimit = 4096

// gatherTime is how long events gather for the next transaction after one, unless somebody waits for them: a busy row is then written once for many
// events.
const gatherTime = 20 * time.Millisecond

// NewRunner returns a runner that stands at the model's checkpoint. It refuses a model of another log: a stream that was recreated,
// or one that ends before the checkpoint.
func NewRunner(ctx context.Context, store *eventstore.Store, model Model, log *slog.Logger) (*Runner, error) {
	c, err := model.Checkpoint(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the checkpoint: %w", err)
	}
	info, err := store.Info(ctx)
	if err != nil {
		return nil, err
	}
	if c.Seq > 0 && (c.Stream != info.Name || !c.Created.Equal(info.Created)) {
		return nil, fmt.Errorf("the read models belong to another event log (%s made %s, this one %s made %s): restore the log they came from, or remove them to build them anew",
			c.Stream, c.Created.Format(time.RFC3339), info.Name, info.Created.Format(time.RFC3339))
	}
	if err := store.Whole(ctx); err != nil {
		return nil, fmt.Errorf("the event log is damaged: restore it from a backup ('vega log verify' names what is missing): %w", err)
	}
	if c.Seq > info.Last {
		return nil, fmt.Errorf("the read models have seen sequence %d and the event log ends at %d: it lost events; restore it from a backup, or remove the read models to accept the loss", c.Seq, info.Last)
	}
	return &Runner{store: store, model: model, log: log, at: c.Seq, moved: make(chan struct{}), asked: make(chan struct{}, 1)}, nil
}

// Run applies events until ctx ends (nil) or the log fails for good. While the log is away, or the model does not take the events, it tries again, ever
// more slowly; Err says so meanwhile.
func (r *Runner) Run(ctx context.Context) error {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := r.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, eventstore.ErrUnavailable) {
			return err
		}
		r.tell(err)
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
	for batch, err := range r.store.FollowBatches(ctx, r.At(), batchLimit) {
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
	r.hold.Lock()
	defer r.hold.Unlock()
	last := batch[len(batch)-1].Seq
	skipped := 0
	err := r.model.Update(ctx, Checkpoint{last, info.Name, info.Created}, func(tx Tx) (err error) {
		skipped, err = applyBatch(tx, batch, bad, r.log)
		return err
	})
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

// applyBatch folds events in order, leaves out those that are in already, and returns how many were those of newer releases. bad says why an event has no contents. An error is the
// model's, not an event's.
func applyBatch(tx Tx, batch []events.Recorded, bad *eventstore.UnreadableError, log *slog.Logger) (skipped int, err error) {
	for _, e := range batch {
		if e.Seq <= tx.At() {
			continue
		}
		if _, newer := e.Event.(events.Unknown); newer {
			skipped++
			continue
		}
		if err := applyOrPark(tx, e, bad, log); err != nil {
			return 0, err
		}
	}
	return skipped, nil
}

// applyOrPark applies e; when it cannot be, its aggregate is parked and left alone from then on. An error is the model's, not the event's.
func applyOrPark(tx Tx, e events.Recorded, bad *eventstore.UnreadableError, log *slog.Logger) error {
	name := e.Aggregate.String()
	parked, is, err := tx.Parked(name)
	if err != nil {
		return err
	}
	if is {
		parked.Skipped++
		return tx.PutParked(parked)
	}
	if e.Event == nil {
		err = bad
	} else {
		err = Apply(tx, e)
	}
	if err == nil {
		return nil
	}
	if _, broken := errors.AsType[*ModelError](err); broken {
		return err
	}
	log.Error("aggregate parked", "subject", name, "seq", e.Seq, "err", err)
	return tx.PutParked(Parked{Aggregate: name, Seq: e.Seq, Problem: err.Error()})
}

// ModelError marks an error of the backend itself: the transaction is over, and no event is to blame.
type ModelError struct{ Err error }

func (e *ModelError) Error() string { return e.Err.Error() }
func (e *ModelError) Unwrap() error { return e.Err }

// At is the sequence up to which the rows are true.
func (r *Runner) At() events.Seq {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at
}

// Err is why the model does not take events at the moment, or nil.
func (r *Runner) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.trouble
}

// Skipped counts the events of newer releases that were left out since the start.
func (r *Runner) Skipped() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.skipped
}

// WaitFor returns when the rows are true up to seq, or with ctx's error.
func (r *Runner) WaitFor(ctx context.Context, seq events.Seq) error {
	for {
		r.mu.Lock()
		at, moved := r.at, r.moved
		r.mu.Unlock()
		if at >= seq {
			return nil
		}
		select {
		case r.asked <- struct{}{}:
		default: // somebody else has just asked
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

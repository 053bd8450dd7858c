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

// Model is a backend: rows and checkpoint that change together.
type Model interface {
	Reader
	// Checkpoint is that of the last commit.
	Checkpoint(context.Context) (Checkpoint, error)
	// Update runs f in a transaction and commits its rows together with c, or nothing when f or the commit fails. One at a time.
	Update(ctx context.Context, c Checkpoint, f func(Tx) error) error
}

// Runner keeps one model up to date with one region's log. Make it with NewRunner, then Run it; WaitFor may be called from anywhere.
type Runner struct {
	store *eventstore.Store
	model Model
	log   *slog.Logger

	mu      sync.Mutex // guards what follows, never held over I/O
	at      events.Seq
	skipped int // events of newer releases
	moved   chan struct{}
}

// batchLimit is how many events one transaction takes at most.
const batchLimit = 1000

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
	if c.Seq > info.Last {
		return nil, fmt.Errorf("the read models have seen sequence %d and the event log ends at %d: it lost events; restore it from a backup, or remove the read models to accept the loss", c.Seq, info.Last)
	}
	return &Runner{store: store, model: model, log: log, at: c.Seq, moved: make(chan struct{})}, nil
}

// Run applies events until ctx ends (nil) or the log or the model fails for good.
func (r *Runner) Run(ctx context.Context) error {
	info, err := r.store.Info(ctx)
	if err != nil {
		return err
	}
	for batch, err := range r.store.FollowBatches(ctx, r.At(), batchLimit) {
		if err != nil {
			return fmt.Errorf("read models: %w", err)
		}
		if err := r.apply(ctx, info, batch); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("read models: %w", err)
		}
	}
	return nil
}

func (r *Runner) apply(ctx context.Context, info eventstore.LogInfo, batch []events.Recorded) error {
	last := batch[len(batch)-1].Seq
	skipped := 0
	err := r.model.Update(ctx, Checkpoint{last, info.Name, info.Created}, func(tx Tx) error {
		skipped = 0
		for _, e := range batch {
			if _, newer := e.Event.(events.Unknown); newer {
				skipped++
				continue
			}
			if err := applyOrPark(tx, e, r.log); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	// A crash before this line but after the commit: the next start begins at the new checkpoint.
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = last
	r.skipped += skipped
	close(r.moved)
	r.moved = make(chan struct{})
	return nil
}

// applyOrPark applies e; when it cannot be, its aggregate is parked and left alone from then on. An error is the model's, not the event's.
func applyOrPark(tx Tx, e events.Recorded, log *slog.Logger) error {
	name := e.Aggregate.String()
	parked, is, err := tx.Parked(name)
	if err != nil {
		return err
	}
	if is {
		parked.Skipped++
		return tx.PutParked(parked)
	}
	err = Apply(tx, e)
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
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

package projections

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"vega/events"
	"vega/events/eventstore"
)

// Rebuilder is a Model that can be built anew beside itself.
type Rebuilder interface {
	Model
	// Beside makes an empty second model, and removes one that a crash left behind. There is one at a time: in one process another one replaces it,
	// and ErrRebuilding is returned while another process has one.
	Beside(context.Context) (Draft, error)
}

// Draft is a second model beside the live one, which goes on meanwhile. It is filled from the log's first event and then takes the live one's
// place. One goroutine uses it.
type Draft interface {
	// Checkpoint and Update are those of a Model.
	Checkpoint(context.Context) (Checkpoint, error)
	Update(ctx context.Context, c Checkpoint, f func(Tx) error) error
	// Hold keeps everybody, of other processes too, from writing to the live model until release is called, and returns where that stands. Compare
	// and Swap are called meanwhile.
	Hold(context.Context) (c Checkpoint, release func(), err error)
	// Save makes durable what the draft has, and from then on each Update. Call it once, when the draft has nearly caught up. It may run while
	// differences are read.
	Save(context.Context) error
	// Compare freezes both models and yields every row that differs. It returns ErrMoved when they do not stand at the same sequence; while
	// the differences are read, both may go on. The sequence of differences is read once.
	Compare(context.Context) (iter.Seq2[Difference, error], error)
	// Swap makes the draft the live model, at once and under the live one's identity: readers see one or the other. It returns ErrMoved when
	// they do not stand at the same checkpoint.
	Swap(context.Context) error
	// Discard removes the draft; nothing after Swap.
	Discard() error
}

// Difference is a row that is not the same in both models. A side that has no such row is nil.
type Difference struct {
	Kind    string          `json:"kind"`
	Key     string          `json:"key"`
	Live    json.RawMessage `json:"live,omitempty"`
	Rebuilt json.RawMessage `json:"rebuilt,omitempty"`
}

// RebuildReport says what a rebuild found. The rebuilt rows are the ones that hold from then on.
type RebuildReport struct {
	Seq         events.Seq   `json:"seq"`       // where the models were compared
	Different   int          `json:"different"` // rows that were not the same
	Differences []Difference `json:"differences"`
	Took        time.Duration
}

// maxDifferences is how many a report spells out.
const maxDifferences = 100

// ErrNoRebuild is returned by Rebuild for a model that cannot be built beside itself.
var ErrNoRebuild = errors.New("this model cannot be rebuilt while it is in use")

// ErrRebuilding is returned while another process rebuilds the same model.
var ErrRebuilding = errors.New("another process rebuilds the read models")

// Rebuild builds the model anew from the log's first event beside the live one, compares the two at the same sequence, and puts the new one
// in its place. Run goes on meanwhile; it waits twice for the moments in which both stand at the same place. A crash or an error at any point leaves
// one whole model: the old one before the swap, the new one after it.
func (r *Runner) Rebuild(ctx context.Context) (report RebuildReport, err error) {
	begin := time.Now()
	model, ok := r.model.(Rebuilder)
	if !ok {
		return report, ErrNoRebuild
	}
	info, err := r.store.Info(ctx)
	if err != nil {
		return report, err
	}
	draft, err := model.Beside(ctx)
	if err != nil {
		return report, fmt.Errorf("rebuild read models: %w", err)
	}
	defer func() { err = errors.Join(err, draft.Discard()) }()
	f := feed{store: r.store, info: info, draft: draft}
	defer f.stop()

	live, err := model.Checkpoint(ctx)
	if err != nil {
		return report, err
	}
	if err := f.upTo(ctx, live.Seq); err != nil {
		return report, err
	}
	var differences iter.Seq2[Difference, error]
	err = r.together(ctx, &f, func() error {
		report.Seq = f.at
		differences, err = draft.Compare(ctx)
		return err
	})
	if err != nil {
		return report, fmt.Errorf("compare read models: %w", err)
	}
	// The draft stands still now, so it is saved while it is compared.
	saved := make(chan error, 1)
	var saving sync.WaitGroup
	saving.Go(func() { saved <- draft.Save(ctx) })
	err = report.collect(differences)
	saving.Wait()
	if err = errors.Join(err, <-saved); err != nil {
		return report, fmt.Errorf("rebuild read models: %w", err)
	}
	if err := r.together(ctx, &f, func() error { return draft.Swap(ctx) }); err != nil {
		return report, fmt.Errorf("swap read models: %w", err)
	}
	report.Took = time.Since(begin)
	return report, nil
}

func (r *RebuildReport) collect(differences iter.Seq2[Difference, error]) error {
	for d, err := range differences {
		if err != nil {
			return err
		}
		if r.Different++; r.Different <= maxDifferences {
			r.Differences = append(r.Differences, d)
		}
	}
	return nil
}

// together brings the draft to where the live model is, holds the live one there, and calls do.
func (r *Runner) together(ctx context.Context, f *feed, do func() error) error {
	for {
		live, err := r.model.Checkpoint(ctx)
		if err != nil {
			return err
		}
		if live.Seq <= f.at+batchLimit {
			break
		}
		if err := f.upTo(ctx, live.Seq); err != nil {
			return err
		}
	}
	live, release, err := f.draft.Hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := f.upTo(ctx, live.Seq); err != nil {
		return err
	}
	return do()
}

// feed reads the log from its beginning into a draft, never beyond what it is told.
type feed struct {
	store *eventstore.Store
	info  eventstore.LogInfo
	draft Draft
	at    events.Seq
	next  func() ([]events.Recorded, error, bool)
	end   func()
	rest  []events.Recorded           // read and not applied yet
	bad   *eventstore.UnreadableError // why the only event of rest has no contents
}

func (f *feed) stop() {
	if f.end != nil {
		f.end()
	}
}

func (f *feed) upTo(ctx context.Context, seq events.Seq) error {
	if f.next == nil {
		f.next, f.end = iter.Pull2(f.store.FollowBatches(ctx, 0, batchLimit))
	}
	for f.at < seq {
		if len(f.rest) == 0 {
			batch, err, ok := f.next()
			if !ok {
				return fmt.Errorf("rebuild read models: %w", context.Cause(ctx))
			}
			if batch, f.bad, err = readable(batch, err); err != nil {
				return fmt.Errorf("rebuild read models: %w", err)
			}
			f.rest = batch
		}
		n := int(min(uint64(len(f.rest)), uint64(seq-f.at)))
		part := f.rest[:n]
		_, err := commit(ctx, f.draft, f.info, part, problemOf(f.bad), slog.New(slog.DiscardHandler)) // the live one has told it
		if err != nil {
			return fmt.Errorf("rebuild read models: %w", err)
		}
		f.at, f.rest = part[n-1].Seq, f.rest[n:]
	}
	return nil
}

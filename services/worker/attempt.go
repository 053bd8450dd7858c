package worker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/engine"
	"vega/services/files"
	"vega/services/llmproxy"
	"vega/services/scan"
)

// attempt is one claimed scan in one slot.
type attempt struct {
	w          *Worker
	agg        events.Aggregate
	id         events.ScanID
	generation events.Seq
	number     int

	mu    sync.Mutex // guards state and head; held over an append, so this attempt's writes are in order
	state scan.Scan
	head  events.Head
	wrote int // commands of this attempt, for their ids

	stop context.CancelCauseFunc // ends the work; set before the attempt is listed as running
}

// run fetches the source, runs the engine, and records how it ended. It returns when the attempt is over for this process, one way or
// another; what could not be recorded is for maintenance.
func (a *attempt) run(ctx context.Context) {
	log := a.w.Log.With("scan_id", a.id, "attempt", a.state.Attempt)
	log.Info("scan claimed")
	start := time.Now()
	dir, err := a.w.folder.take()
	if err == nil {
		defer func() {
			if err := a.w.folder.giveBack(dir); err != nil {
				log.Warn("runtime folder not removed", "err", err)
			}
		}()
	}

	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limited, stopTimer := context.WithTimeoutCause(work, a.w.opt.Timeout, errTimeout)
	defer stopTimer()
	a.stop = cancel
	a.w.list(a)
	defer a.w.unlist(a)

	if err == nil {
		err = a.work(limited, dir)
	}
	if cause := context.Cause(limited); cause != nil && err != nil {
		err = cause
	}
	// The work has stopped: nothing of it runs any more, so what is said now is true. It is said even while the process shuts down.
	patience := endTime
	if errors.Is(err, errDraining) {
		patience = drainTime
	}
	end, stopEnd := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer stopEnd()
	if err != nil {
		// What ended the work may be an event that this attempt has not seen itself.
		if serr := a.refresh(end); serr != nil {
			err = serr
		}
	}
	switch {
	case err == nil:
		log.Info("scan completed", "elapsed", time.Since(start))
	case errors.Is(err, scan.ErrCancelling):
		log.Info("scan cancelled", "elapsed", time.Since(start))
		err = a.do(end, scan.ConfirmCancel{Generation: a.generation})
	case errors.Is(err, scan.ErrSuperseded):
		log.Info("attempt superseded")
		return
	case errors.Is(err, eventstore.ErrNewerEvents):
		// Deciding without those events would be guessing. The scan is not held any more, which maintenance notices.
		log.Warn("attempt given up: the scan has events of a newer release", "err", err)
		return
	case errors.Is(err, errDraining):
		log.Info("scan released")
		err = a.do(end, scan.Release{Generation: a.generation, Reason: "worker shut down"})
	case errors.Is(err, errTimeout):
		log.Warn("scan timed out", "elapsed", time.Since(start))
		err = a.do(end, scan.Fail{Generation: a.generation, Code: "timed_out", Message: fmt.Sprintf("the attempt ran longer than %s", a.w.opt.Timeout)})
	case errors.Is(err, eventstore.ErrUnavailable), errors.Is(err, files.ErrFull):
		log.Warn("attempt given up: there is nothing to write to", "err", err)
		err = a.giveBack(ctx)
	case errors.Is(err, files.ErrUnavailable):
		// Nobody else reaches the files either. The attempt does not count, and this worker asks for more only now and then.
		log.Warn("attempt given up: the file storage does not answer; no scans are taken for a while", "err", err)
		a.w.rest()
		err = a.giveBack(ctx)
	case errors.Is(err, files.ErrNotFound) && isSource(err):
		// Another worker may see the files that this one does not. The attempt counts, so a snapshot that nobody sees ends as a dead letter.
		log.Error("the snapshot is not in this worker's file storage; no scans are taken for a while", "err", err, "hint", "VEGA_FILE_STORAGE_BACKEND, VEGA_DATA_DIR")
		a.w.rest()
		err = a.do(end, scan.Expire{Generation: a.generation, Reason: "source_missing", Detail: "the snapshot is not in the worker's file storage (VEGA_FILE_STORAGE_BACKEND, VEGA_DATA_DIR)"})
	default:
		log.Error("scan failed", "err", err)
		code, message := describe(err)
		err = a.do(end, scan.Fail{Generation: a.generation, Code: code, Message: message})
	}
	if errors.Is(err, scan.ErrCancelling) {
		err = a.do(end, scan.ConfirmCancel{Generation: a.generation})
	}
	if err != nil && !errors.Is(err, scan.ErrSuperseded) {
		log.Error("end of scan not recorded", "err", err)
	}
}

const (
	endTime   = 15 * time.Second // to record how an attempt ended
	drainTime = 3 * time.Second  // the same while the process stops; what is not recorded then is for maintenance
)

// giveBackEvery is the pause before a scan is given back that had no log or no room to write to: whoever takes it next needs both.
const giveBackEvery = 5 * time.Second

// giveBack releases the scan as soon as the log takes it, keeping the slot until then: without a log there is nothing else to do. When the process
// dies first, the next one finds the scan claimed by a worker that is no more.
func (a *attempt) giveBack(ctx context.Context) error {
	release := scan.Release{Generation: a.generation, Reason: "the worker could not read or write"}
	for {
		pause := time.NewTimer(giveBackEvery)
		select {
		case <-pause.C:
		case <-a.w.stopping:
			pause.Stop()
			last, stop := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
			defer stop()
			return a.do(last, release)
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		}
		err := a.refresh(ctx)
		if err == nil {
			err = a.do(ctx, release)
		}
		if !errors.Is(err, eventstore.ErrUnavailable) {
			return err
		}
	}
}

// work is the attempt itself: fetch, start, stages, complete.
func (a *attempt) work(ctx context.Context, dir string) error {
	source, scratch := filepath.Join(dir, sourceName), filepath.Join(dir, scratchName)
	if err := a.w.Source.Checkout(ctx, a.state.Request.Snapshot, source); err != nil {
		return &sourceError{err}
	}
	a.w.restored()
	profile, err := a.w.profileOf(ctx, a.state)
	if err != nil {
		return fmt.Errorf("threat profile: %w", err)
	}
	base, err := a.w.baseOf(ctx, a.state)
	if err != nil {
		return fmt.Errorf("the scan before: %w", err)
	}
	if err := a.do(ctx, scan.Start{Generation: a.generation, Engine: a.w.Engine.Version(), PackDigest: a.w.Engine.PackDigest()}); err != nil {
		return err
	}
	s := a.snapshot()
	access, err := a.access(ctx, s)
	if err != nil {
		return fmt.Errorf("access to the model: %w", err)
	}
	out, err := a.w.Engine.Run(ctx, engine.Job{
		Region:     a.w.Store.Region(),
		Scan:       a.id,
		Repository: s.Request.Repository,
		Snapshot:   s.Request.Snapshot,
		Attempt:    s.Attempt,
		Dir:        source,
		Paths:      s.Request.Paths,
		WorkDir:    scratch,
		Profile:    profile,
		Model:      s.Request.Model,
		Access:     access,
		Base:       base,
		Done:       s.Stages,
		Units:      s.Units,
		Findings:   s.Findings,
	}, &recorder{a: a, dir: dir})
	if err != nil {
		return err
	}
	if err := a.w.Store.FlushFeed(ctx); err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	spent, err := llmproxy.Spent(ctx, a.w.Store, a.id)
	if err != nil {
		return err
	}
	return a.do(ctx, scan.Complete{Generation: a.generation, Coverage: out.Coverage, Usage: spent})
}

// tokenMargin is how much longer than the attempt its token for the LLM proxy is good: what ends it is the attempt's own end.
const tokenMargin = 10 * time.Minute

// access says how this attempt reaches the model, with a token for the one model that the scan uses.
func (a *attempt) access(ctx context.Context, s scan.Scan) (engine.Access, error) {
	if a.w.Model == nil {
		return engine.Access{}, nil
	}
	g := llmproxy.Grant{Scan: a.id, Attempt: s.Attempt, Generation: a.generation, Models: []string{a.w.Engine.Model(s.Request.Model)}}
	return a.w.Model.Access(ctx, g, time.Now().Add(a.w.opt.Timeout+tokenMargin))
}

// sourceError says that the snapshot could not be brought here.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return "fetch source: " + e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

func isSource(err error) bool {
	_, ok := errors.AsType[*sourceError](err)
	return ok
}

func describe(err error) (code, message string) {
	if s, ok := errors.AsType[*sourceError](err); ok {
		return "source_unavailable", s.Error()
	}
	return "engine_failed", err.Error()
}

// do appends what a command decides after what this attempt has seen; on a conflict it sees the rest first. It returns scan.ErrSuperseded when
// the scan is no longer this attempt's.
func (a *attempt) do(ctx context.Context, c scan.Command) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wrote++
	meta := a.w.meta(events.CommandIDFor("attempt", string(a.id), strconv.FormatUint(uint64(a.generation), 10), strconv.Itoa(a.wrote)), "")
	for waited := false; ; {
		evs, err := scan.Decide(a.state, c)
		if err != nil || len(evs) == 0 {
			return err
		}
		recorded, err := a.w.Store.Append(ctx, a.agg, a.head, meta, evs...)
		if errors.Is(err, eventstore.ErrConflict) {
			if err = a.catchUp(ctx); err == nil {
				continue
			}
		}
		switch {
		case err == nil:
			for _, r := range recorded {
				a.state, a.head = a.state.Evolve(r), r.Head()
			}
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !errors.Is(err, eventstore.ErrUnavailable), errors.Is(err, eventstore.ErrFull):
			return err
		}
		// What was worked for is kept until the log is back, however long that takes: if the scan was given away meanwhile, the append conflicts.
		if !waited {
			a.w.Log.Warn("the event log is away: an attempt waits with its result", "scan_id", a.id, "attempt", a.number, "err", err)
			waited = true
		}
		pause := time.NewTimer(awayPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		}
	}
}

// awayPause is between two tries of an append that have each had the store's own patience.
const awayPause = 100 * time.Millisecond

func (a *attempt) refresh(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.catchUp(ctx)
}

// catchUp reads what happened to the scan meanwhile; the caller holds mu.
func (a *attempt) catchUp(ctx context.Context) error {
	past, head, err := a.w.Store.Load(ctx, a.agg, a.head)
	if err != nil {
		return err
	}
	for _, r := range past {
		if u, ok := r.Event.(events.Unknown); ok {
			return fmt.Errorf("%w: %s schema %d", eventstore.ErrNewerEvents, u.Kind, u.Schema)
		}
		a.state, a.head = a.state.Evolve(r), r.Head()
	}
	a.head = head
	return nil
}

func (a *attempt) snapshot() scan.Scan {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state
}

// look reads the scan again and ends the work when it is being cancelled or was taken away. An error means that the log did not answer soon.
func (a *attempt) look(ctx context.Context) error {
	if !a.mu.TryLock() {
		return nil // an append is on its way, and finds out itself
	}
	ctx, cancel := context.WithTimeout(ctx, lookEvery)
	defer cancel()
	err := a.catchUp(ctx)
	a.mu.Unlock()
	if errors.Is(err, eventstore.ErrNewerEvents) {
		a.stop(err)
		return nil
	}
	if err != nil {
		return err
	}
	switch s := a.snapshot(); {
	case s.Owns(a.generation) && s.Status == scan.Cancelling:
		a.stop(scan.ErrCancelling)
	case !s.Owns(a.generation): // or this attempt has just ended the scan, and then nothing works any more
		a.stop(scan.ErrSuperseded)
	}
	return nil
}

package worker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/scan"
)

// One is the attempt that a one-scan runner was started for.
type One struct {
	Scan       events.ScanID
	Generation events.Seq
	Token      string // the secret whose digest the claim holds; good for one join
}

// ErrUnrecorded is returned by RunOne when the attempt is over in this process and the log could not be told.
var ErrUnrecorded = errors.New("the end of the attempt was not recorded")

// RunOne takes over one claimed attempt from the worker that claimed it, runs it as a worker would, and returns when it is over. The parts need no
// Queue; Member is this process's own and is kept alive by the caller.
//
// It returns nil when this process recorded how the attempt ended: completed, failed, cancelled, or released because ctx ended first. Otherwise
// scan.ErrTokenSpent when another process has joined, scan.ErrTokenWrong when the token is not the attempt's or too old, scan.ErrSuperseded when the
// attempt is not the current one or was taken away, ErrUnrecorded, or what kept it from joining.
//
// What happens when the process dies: before the join is stored, the launcher sees the task stop and gives the scan back. After it, the attempt is
// this process's, and both the launcher and maintenance notice that it is gone.
func RunOne(ctx context.Context, p Parts, o Options, one One) error {
	generation := strconv.FormatUint(uint64(one.Generation), 10)
	w, err := New(p, o)
	if err != nil {
		return err
	}
	defer func() {
		if err := w.folder.close(); err != nil {
			p.Log.Warn("runtime folder not removed", "err", err) // the next start of any process does
		}
	}()

	// A request to stop must not come between the join and its answer: joined, the attempt has to be given back.
	running, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	agg := events.ScanOf(p.Store.Region(), one.Scan)
	p.Member.Took(one.Scan, one.Generation)
	defer p.Member.Gave(one.Scan, one.Generation)
	// The command id is this process's alone: trying again is the same join, a second process with the same token is another one.
	meta := w.meta(events.NewCommandID(), "runner of "+generation)
	s, recorded, err := eventstore.Do(running, p.Store, agg, meta, func(s scan.Scan, _ events.Head) ([]events.Event, error) {
		evs, err := scan.Decide(s, scan.Join{Generation: one.Generation, Token: one.Token, Worker: p.Member.ID(), Host: o.Host, At: meta.At})
		if _, no := errors.AsType[*scan.NotAllowedError](err); no && s.Joined != "" {
			err = scan.ErrTokenSpent // and its runner has begun
		}
		return evs, err
	})
	if err != nil {
		return fmt.Errorf("join %s: %w", one.Scan, err)
	}
	// A crash here: the attempt is owned by a worker that answers no ping. Maintenance or the launcher expires it.
	head := recorded[len(recorded)-1].Head()
	p.Log.Info("runner joined", "scan_id", one.Scan, "attempt", s.Attempt)
	a := &attempt{w: w, agg: agg, id: one.Scan, generation: one.Generation, number: s.Attempt, state: s, head: head}
	var beside sync.WaitGroup
	beside.Go(func() { w.lookOut(running) })
	beside.Go(func() { w.drainOne(ctx, running, stop) })
	a.run(running)
	stop(nil)
	beside.Wait()
	return w.outcome(ctx, agg, head, s)
}

// drainOne waits for ctx to end and then gives the attempt the grace to finish. A scan that is being cancelled gets none: that is why the task was asked
// to stop.
func (w *Worker) drainOne(ctx, running context.Context, stop context.CancelCauseFunc) {
	select {
	case <-ctx.Done():
	case <-running.Done():
		return
	}
	w.Member.Drain()
	for _, a := range w.attempts("") {
		_ = a.look(running) // the log is away: the next look is a second later
	}
	grace := time.NewTimer(w.opt.Grace)
	defer grace.Stop()
	select {
	case <-grace.C:
		stop(errDraining)
	case <-running.Done():
	}
}

// outcome asks the log what this process has recorded about the attempt since it joined.
func (w *Worker) outcome(ctx context.Context, agg events.Aggregate, joined events.Head, s scan.Scan) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	past, _, err := w.Store.Load(ctx, agg, joined)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnrecorded, err)
	}
	generation := s.Generation
	for _, r := range past {
		if r.Actor == events.ByWorker(w.Member.ID()) && endsAttempt(r.Event) {
			return nil
		}
		s = s.Evolve(r)
	}
	if s.Owns(generation) {
		return ErrUnrecorded
	}
	return scan.ErrSuperseded
}

// endsAttempt says that after e its attempt owns nothing any more.
func endsAttempt(e events.Event) bool {
	switch e.(type) {
	case events.ScanCompleted, events.ScanFailed, events.ScanCancelled, events.AttemptReleased, events.AttemptExpired:
		return true
	default:
		return false
	}
}

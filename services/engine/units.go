package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"vega/events"
	"vega/services/engine/codex"
	"vega/services/engine/process"
)

// piece is a part of a stage that is asked, paid for and recorded by itself: one component's audit, one claim's review.
type piece struct {
	unit  string // its name in the stage; it never changes between attempts
	title string // for people
	ask   func(context.Context, pacer) (unitResult, error)
}

type pacer = func(context.Context, codex.Call) (codex.Verdict, string)

// unitResult is what a piece came to.
type unitResult struct {
	detail    string
	object    *events.Object
	artifacts []events.Object
	reasons   []events.CoverageReason
}

// eachPiece works through the pieces that no attempt has recorded, a few at once, in their order, and records each as it ends. A piece that fails is recorded as
// failed, with its reason: it was paid for. It returns those that were not begun, and why. Errors: the cause of ctx, the recorder's, and process.ErrLeft.
func (r *run) eachPiece(ctx context.Context, a *agent, p *purse, stage string, pieces []piece) (left []piece, why gap, err error) {
	todo := slices.DeleteFunc(slices.Clone(pieces), func(x piece) bool { _, done := r.units[unitName{stage, x.unit}]; return done })
	p.waiting = len(todo)
	total := int64(len(pieces))
	r.mu.Lock()
	r.pieces(ctx, total-int64(len(todo)), total)
	r.mu.Unlock()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.parallel)
	notBegun := make([]*gap, len(todo)) // one writer per element
	for i, x := range todo {
		g.Go(func() error {
			if gctx.Err() != nil {
				return nil // whoever ended it says why
			}
			pace, over := p.begin(gctx)
			if over != nil {
				notBegun[i] = over // or ctx has ended, and nobody asks
				return nil
			}
			defer p.end()
			u := events.UnitCompleted{Attempt: r.job.Attempt, Stage: stage, Unit: x.unit, Status: events.StageDone, StartedAt: r.opt.Now().UTC().Round(0)}
			r.log(gctx, fmt.Sprintf("%s: %s begun", stage, x.title))
			res, err := x.ask(gctx, pace)
			switch {
			case gctx.Err() != nil:
				return context.Cause(gctx)
			case err != nil && (r.fatal() != nil || errors.Is(err, process.ErrLeft)):
				return err
			case err != nil:
				gap := a.gapOf(err)
				r.opt.Log.Warn("piece of a stage failed", "scan_id", r.job.Scan, "attempt", r.job.Attempt, "stage", stage, "unit", x.unit, "err", gap.why)
				u.Status = events.StageFailed
				res.detail = gap.why
				res.reasons = append(res.reasons, events.CoverageReason{Stage: stage, Code: gap.code, Message: cleanText(fmt.Sprintf("%s: %s", x.title, gap.why))})
			}
			u.Detail, u.Result, u.Artifacts, u.Reasons = cleanText(res.detail), res.object, res.artifacts, res.reasons
			return r.recordUnit(gctx, u, x.title, total)
		})
	}
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			return nil, gap{}, context.Cause(ctx)
		}
		return nil, gap{}, err
	}
	for i, over := range notBegun {
		if over != nil {
			left, why = append(left, todo[i]), *over
		}
	}
	return left, why, nil
}

type unitName struct{ stage, unit string }

// recordUnit makes a piece's result durable. Until that has happened a crash makes the next attempt ask again.
func (r *run) recordUnit(ctx context.Context, u events.UnitCompleted, title string, total int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.rec.Unit(ctx, u); err != nil {
		r.failed = fmt.Errorf("record %s of %s: %w", u.Unit, u.Stage, err)
		return r.failed
	}
	r.units[unitName{u.Stage, u.Unit}] = u
	var done int64
	for name := range r.units {
		if name.stage == u.Stage {
			done++
		}
	}
	r.logLine(ctx, fmt.Sprintf("%s: %s %s: %s", u.Stage, title, u.Status, u.Detail))
	r.pieces(ctx, done, total)
	return nil
}

// single asks the one question of a stage that asks only one. A stage whose question fails has failed; what was said is kept all the same.
func (r *run) single(ctx context.Context, a *agent, q question, use func(context.Context, reply) (result, error)) (result, error) {
	if over := a.asking(); over != nil {
		return result{status: events.StageFailed, detail: over.why, reasons: []events.CoverageReason{{Stage: q.stage, Code: over.code, Message: over.why}}}, nil
	}
	rep, err := a.ask(ctx, q)
	switch {
	case ctx.Err() != nil:
		return result{}, context.Cause(ctx)
	case r.fatal() != nil, errors.Is(err, process.ErrLeft):
		return result{}, err
	}
	var res result
	if err != nil {
		gap := a.gapOf(err)
		res = result{status: events.StageFailed, detail: cleanText(gap.why), reasons: []events.CoverageReason{{Stage: q.stage, Code: gap.code, Message: cleanText(gap.why)}}}
	} else if res, err = use(ctx, rep); err != nil {
		return result{}, err
	}
	if rep.transcript != nil {
		res.artifacts = append(res.artifacts, *rep.transcript)
	}
	return res, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// lifecycle runs the parts of a process and stops them in order: first the fronts, which take work in, then the parts that they stand on. A part that
// fails stops everything.
type lifecycle struct {
	base      context.Context // of the parts: outlives the caller's, so that fronts can finish what they began
	stopBase  context.CancelCauseFunc
	front     context.Context // of the fronts: ends with the caller's, or when a part fails or a front ends
	stopFront context.CancelFunc

	parts, fronts sync.WaitGroup
	mu            sync.Mutex // guards failed
	failed        error
}

func newLifecycle(ctx context.Context) *lifecycle {
	l := &lifecycle{}
	l.base, l.stopBase = context.WithCancelCause(context.WithoutCancel(ctx))
	l.front, l.stopFront = context.WithCancel(ctx)
	context.AfterFunc(l.base, l.stopFront)
	return l
}

// part starts what the fronts stand on; run returns nil once its context has ended.
func (l *lifecycle) part(what string, run func(context.Context) error) {
	l.parts.Go(func() {
		if err := run(l.base); err != nil {
			l.stopBase(fmt.Errorf("%s: %w", what, err))
		}
	})
}

// untilEnd makes a part of what returns its context's error when that ends.
func untilEnd(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := run(ctx); ctx.Err() == nil {
			return err
		}
		return nil
	}
}

// serve starts a front; when it ends, so do the others.
func (l *lifecycle) serve(run func(context.Context) error) {
	l.fronts.Go(func() {
		defer l.stopFront()
		if err := run(l.front); err != nil {
			l.fail(err)
		}
	})
}

func (l *lifecycle) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = errors.Join(l.failed, err)
}

// wait returns when the fronts have ended by themselves or because the caller's context did, last has run, and the parts have stopped. last is
// what is still to be said while the parts run.
func (l *lifecycle) wait(last func(context.Context) error) error {
	l.fronts.Wait()
	l.stopFront()
	if context.Cause(l.base) == nil {
		if err := last(l.base); err != nil {
			l.fail(err)
		}
	}
	cause := context.Cause(l.base)
	l.stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(cause, l.failed)
}

// stop ends everything at once, for a start that failed in the middle. It may be called more than once.
func (l *lifecycle) stop() {
	l.stopFront()
	l.fronts.Wait()
	l.stopBase(nil)
	l.parts.Wait()
}

package eventstore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"

	"vega/events"
)

const (
	// minBatch is where a batch becomes cheaper than pipelined single publishes under sync always.
	minBatch = 16
	// maxBatch stays below the server's 1000 messages per batch.
	maxBatch = 900
	// waryFor is how many submissions look before they join a batch after one was refused.
	waryFor = 512
)

// appender commits the commands of all callers of a process, one group after the other. It takes what is waiting and never waits
// itself: the group grows by itself while the disk is busy. It decides nothing about refused commands: their callers do, each for
// its own aggregate (Store.commit).
type appender struct {
	replies *replies
	stream  string
	in      chan *command
	stop    chan struct{}
	stopped sync.WaitGroup
	closing sync.Once
	refused atomic.Int64 // > 0: groups were refused lately, look first
}

func startAppender(r *replies, stream string) *appender {
	a := &appender{replies: r, stream: stream, in: make(chan *command, 4096), stop: make(chan struct{})}
	a.stopped.Go(a.run)
	return a
}

func (a *appender) close() {
	a.closing.Do(func() { close(a.stop) })
	a.stopped.Wait()
}

// wary says that looking at the aggregate's head before joining a group is worth it: one stale member refuses a whole group.
func (a *appender) wary() bool {
	if a == nil {
		return false
	}
	n := a.refused.Load()
	return n > 0 && a.refused.CompareAndSwap(n, n-1)
}

var errStopped = errors.New("event log closed")

// submit waits for c's commit. After ctx.Err() c may still be stored.
func (a *appender) submit(ctx context.Context, c *command) (events.Seq, error) {
	select {
	case a.in <- c:
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-a.stop:
		return 0, errStopped
	}
	select {
	case o := <-c.done:
		return o.seq, o.err
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-a.stop:
		a.stopped.Wait() // the last group's outcomes are in when this returns
		select {
		case o := <-c.done:
			return o.seq, o.err
		default:
			return 0, errStopped
		}
	}
}

func (a *appender) run() {
	var waiting []*command // first come, first served
	for {
		if len(waiting) == 0 {
			select {
			case c := <-a.in:
				waiting = append(waiting, c)
			case <-a.stop:
				return
			}
		}
		select {
		case <-a.stop:
			return
		default:
		}
		waiting = a.drain(waiting)
		var group []*command
		group, waiting = choose(waiting)
		a.send(group)
	}
}

func (a *appender) drain(waiting []*command) []*command {
	for len(waiting) < 4*maxBatch {
		select {
		case c := <-a.in:
			waiting = append(waiting, c)
		default:
			return waiting
		}
	}
	return waiting
}

// choose takes the next group: at most maxBatch messages and ONE command per aggregate. The server checks an expectation only
// once per batch and filter, so two commands that expect the same head would both be stored.
func choose(waiting []*command) (group, rest []*command) {
	seen := map[string]bool{}
	n := 0
	for i, c := range waiting {
		if c.alone && len(group) == 0 {
			return []*command{c}, waiting[i+1:]
		}
		if seen[c.filter] || c.alone || n+len(c.msgs) > maxBatch {
			rest = append(rest, c)
			continue
		}
		seen[c.filter] = true
		n += len(c.msgs)
		group = append(group, c)
	}
	return group, rest
}

// send commits one group and tells every member. Many messages share one batch and so one sync; few are pipelined.
func (a *appender) send(group []*command) {
	var msgs []*nats.Msg
	for _, c := range group {
		msgs = append(msgs, c.msgs...)
	}
	if len(msgs) < minBatch || len(group) == 1 {
		a.pipeline(group)
		return
	}
	wait, err := a.replies.publishAll(msgs)
	var last events.Seq
	if err == nil {
		last, err = wait(context.Background())
	}
	if err != nil {
		if errors.Is(err, errRefused) {
			a.refused.Store(waryFor)
		}
		for _, c := range group {
			c.done <- outcome{err: err}
		}
		return
	}
	seq := last - events.Seq(len(msgs))
	for _, c := range group {
		seq += events.Seq(len(c.msgs))
		c.done <- outcome{seq: seq}
	}
}

// pipeline publishes every command on its own, all before the first answer is awaited.
func (a *appender) pipeline(group []*command) {
	waits := make([]func(context.Context) (events.Seq, error), len(group))
	for i, c := range group {
		wait, err := a.replies.publish(c)
		if err != nil {
			wait = func(context.Context) (events.Seq, error) { return 0, err }
		}
		waits[i] = wait
	}
	for i, c := range group {
		seq, err := waits[i](context.Background())
		c.done <- outcome{seq, err}
	}
}

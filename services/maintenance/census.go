package maintenance

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/scan"
)

// census knows every scan that is not over, by following the log: its status, who has it, since when. What is over is forgotten, so its size is that
// of the work at hand. It may be a moment behind; whoever acts on it asks the log again.
type census struct {
	store *eventstore.Store
	log   *slog.Logger

	caught chan struct{} // closed once everything that was in the log at the start has been seen
	fresh  chan struct{} // buffered 1: somebody who held nothing holds a scan now

	mu         sync.Mutex // guards what follows, held for one batch or one question
	at, target events.Seq
	scans      map[events.ScanID]*entry
	holders    map[events.WorkerID]map[events.ScanID]*entry // by owner, and by launcher of what a runner owns
	changes    uint64                                       // counts arrivals and departures in holders
	ingesting  map[events.RepositoryID]ingestion
	reserved   map[events.ScanID]time.Time // scans with calls on their way to the provider: when the first of them counts as lost
	newer      int                         // events of a later release
	unreadable int
}

// entry is one unfinished scan. It is kept small: a hundred thousand may be waiting.
type entry struct {
	status     scan.Status
	priority   events.Priority
	snapshot   unique.Handle[events.SnapshotID]
	worker     events.WorkerID
	launcher   events.WorkerID
	generation events.Seq
	ready      events.Seq // its last ready event
	readyAt    time.Time
	claimedAt  time.Time
	attempt    int
	newer      bool // it has events of a later release: not for this one to decide about
}

// ingestion is a source that is coming in.
type ingestion struct {
	upload string
	since  time.Time
}

func newCensus(store *eventstore.Store, log *slog.Logger) *census {
	return &census{
		store: store, log: log, caught: make(chan struct{}), fresh: make(chan struct{}, 1),
		scans: map[events.ScanID]*entry{}, holders: map[events.WorkerID]map[events.ScanID]*entry{}, ingesting: map[events.RepositoryID]ingestion{}, reserved: map[events.ScanID]time.Time{},
	}
}

const censusBatch = 512

// run follows the log after a sequence, which must lie before the first event of every scan and ingestion that is not over, until ctx ends. When the
// log cannot be followed it is tried again from where it broke off.
func (c *census) run(ctx context.Context, after events.Seq) {
	c.mu.Lock()
	c.at = after
	c.mu.Unlock()
	for failing := false; ; {
		err := c.aim(ctx)
		if err == nil {
			if failing {
				c.log.Info("log followed again")
				failing = false
			}
			err = c.follow(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errGap) {
			continue
		}
		if !failing {
			c.log.Warn("log not followed", "err", err)
			failing = true
		}
		if wait(ctx, time.Second) != nil {
			return
		}
	}
}

// aim finds out what there is to catch up with.
func (c *census) aim(ctx context.Context) error {
	info, err := c.store.Info(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.target == 0 {
		c.target = info.Last
	}
	c.arrive()
	return nil
}

// arrive needs mu.
func (c *census) arrive() {
	select {
	case <-c.caught:
	default:
		if c.at >= c.target {
			close(c.caught)
		}
	}
}

// follow reads all kinds of events, though it needs two: a server brings those of two filters a hundred times slower, and only so is it seen where the
// log ends.
func (c *census) follow(ctx context.Context) error {
	for batch, err := range c.store.FollowBatches(ctx, c.position(), censusBatch) {
		if bad, ok := errors.AsType[*eventstore.UnreadableError](err); ok {
			c.log.Warn("unreadable event passed over", "seq", bad.Event.Seq, "err", bad.Err)
			c.take(bad.Event)
			continue
		}
		if gap, ok := errors.AsType[*eventstore.GapError](err); ok {
			c.log.Error("events missing from the log passed over", "seq", gap.After+1, "err", gap)
			c.skip(gap.Next - 1)
			return errGap
		}
		if err != nil {
			return fmt.Errorf("follow scans: %w", err)
		}
		c.take(batch...)
	}
	return ctx.Err()
}

// errGap says that the log goes on behind a hole.
var errGap = errors.New("the log has a hole")

func (c *census) skip(to events.Seq) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = max(c.at, to)
}

func (c *census) position() events.Seq {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// take folds events. One that could not be read has no contents; where its kind is known, at least its scan's status moves.
func (c *census) take(batch ...events.Recorded) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range batch {
		c.at = max(c.at, r.Seq)
		switch r.Event.(type) {
		case nil:
			c.unreadable++
		case events.Unknown:
			if c.newer++; c.newer == 1 {
				c.log.Warn("events of a newer release passed over: what they are about is for that release to recover", "seq", r.Seq, "type", r.Kind)
			}
		default:
		}
		switch r.Aggregate.Kind {
		case events.ScanAggregate:
			c.takeScan(r)
		case events.RepositoryAggregate:
			c.takeRepository(r)
		case events.UsageAggregate:
			c.takeUsage(r)
		case events.SlotsAggregate, events.FindingAggregate, events.ProjectAggregate, events.APIKeyAggregate:
		default:
		}
	}
	c.arrive()
}

// takeUsage needs mu.
func (c *census) takeUsage(r events.Recorded) {
	e, ok := r.Event.(events.UsageRecorded)
	if !ok {
		return
	}
	id := events.ScanID(r.Aggregate.ID)
	delete(c.reserved, id)
	for _, open := range e.Open {
		if first, ok := c.reserved[id]; !ok || open.Until.Before(first) {
			c.reserved[events.ScanID(strings.Clone(string(id)))] = open.Until
		}
	}
}

// lost lists the scans with a call whose time was over before now.
func (c *census) lost(now time.Time) []events.ScanID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []events.ScanID
	for id, until := range c.reserved {
		if now.After(until) {
			out = append(out, id)
		}
	}
	return out
}

func (c *census) takeScan(r events.Recorded) {
	id := events.ScanID(r.Aggregate.ID)
	e, known := c.scans[id]
	if !known {
		e = &entry{}
	}
	before := *e
	s := e.scan().Evolve(r)
	if s.Status == scan.None || s.Status.Terminal() {
		if known {
			c.unhold(id, before)
			delete(c.scans, id)
		}
		return
	}
	if !known {
		id = events.ScanID(strings.Clone(string(id))) // it is a part of the whole subject
		c.scans[id] = e
		e.priority, e.snapshot = unique.Make(s.Request.Priority).Value(), unique.Make(s.Request.Snapshot)
	}
	e.status, e.generation, e.attempt, e.claimedAt = s.Status, s.Generation, s.Attempt, s.ClaimedAt
	e.worker, e.launcher = unique.Make(s.Worker).Value(), unique.Make(s.Launcher).Value()
	if s.ReadySeq != e.ready {
		e.ready, e.readyAt = s.ReadySeq, r.At
	}
	if _, newer := r.Event.(events.Unknown); newer {
		e.newer = true
	}
	if before.owned() != e.owned() || before.worker != e.worker || before.launcher != e.launcher {
		c.unhold(id, before)
		c.hold(id, e)
	}
}

// scan is as much of the scan's state as the next event is folded into.
func (e *entry) scan() scan.Scan {
	return scan.Scan{Status: e.status, Worker: e.worker, Launcher: e.launcher, Generation: e.generation, ReadySeq: e.ready, ClaimedAt: e.claimedAt, Attempt: e.attempt}
}

func (e *entry) owned() bool {
	return e.status == scan.Claimed || e.status == scan.Running || e.status == scan.Cancelling
}

// parties are who is watched because of the scan.
func (e *entry) parties() iter.Seq[events.WorkerID] {
	return func(yield func(events.WorkerID) bool) {
		if e.owned() && yield(e.worker) && e.launcher != "" && e.launcher != e.worker {
			yield(e.launcher)
		}
	}
}

// hold needs mu.
func (c *census) hold(id events.ScanID, e *entry) {
	for w := range e.parties() {
		if c.holders[w] == nil {
			c.holders[w] = map[events.ScanID]*entry{}
			c.changes++
			select {
			case c.fresh <- struct{}{}:
			default: // it will be seen with the others
			}
		}
		c.holders[w][id] = e
	}
}

// unhold needs mu.
func (c *census) unhold(id events.ScanID, before entry) {
	for w := range before.parties() {
		delete(c.holders[w], id)
		if len(c.holders[w]) == 0 {
			delete(c.holders, w)
			c.changes++
		}
	}
}

func (c *census) takeRepository(r events.Recorded) {
	id := events.RepositoryID(r.Aggregate.ID)
	switch e := r.Event.(type) {
	case events.IngestStarted:
		c.ingesting[id] = ingestion{e.Upload, r.At}
	case events.SnapshotTaken:
		if c.ingesting[id].upload == e.Upload {
			delete(c.ingesting, id)
		}
	case events.IngestFailed:
		if c.ingesting[id].upload == e.Upload {
			delete(c.ingesting, id)
		}
	case events.RepositoryDeleted:
		delete(c.ingesting, id)
	default: // nothing about a source
	}
}

// holding is one scan in the hands of a worker.
type holding struct {
	scan       events.ScanID
	generation events.Seq
	attempt    int
	worker     events.WorkerID
	launcher   events.WorkerID // empty, or who started the runner that worker is
	claimedAt  time.Time
}

// watched are the workers that own a scan or have started the runner that does; nothing when that is as it was at changes.
func (c *census) watched(changes uint64) ([]events.WorkerID, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes == changes {
		return nil, changes
	}
	return slices.Collect(maps.Keys(c.holders)), c.changes
}

// of lists what a worker owns, except what only a later release can decide about.
func (c *census) of(w events.WorkerID) []holding {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []holding
	for id, e := range c.holders[w] {
		if e.worker == w && !e.newer {
			out = append(out, e.holding(id))
		}
	}
	return out
}

func (e *entry) holding(id events.ScanID) holding {
	return holding{id, e.generation, e.attempt, e.worker, e.launcher, e.claimedAt}
}

// claimedBefore lists what was claimed before a moment and is still going on.
func (c *census) claimedBefore(t time.Time) []holding {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []holding
	for id, e := range c.scans {
		if e.owned() && !e.newer && e.claimedAt.Before(t) {
			out = append(out, e.holding(id))
		}
	}
	return out
}

// waiting is a queued scan.
type waiting struct {
	scan  events.ScanID
	ready events.Seq
}

// queuedBefore lists what waits since before a moment, with a ready event at or below the given sequence of its priority.
func (c *census) queuedBefore(t time.Time, upTo map[events.Priority]events.Seq) []waiting {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []waiting
	for id, e := range c.scans {
		if e.status == scan.Queued && !e.newer && e.ready <= upTo[e.priority] && e.readyAt.Before(t) {
			out = append(out, waiting{id, e.ready})
		}
	}
	return out
}

// ingestingBefore lists the sources that have been coming in since before a moment.
func (c *census) ingestingBefore(t time.Time) map[events.RepositoryID]ingestion {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[events.RepositoryID]ingestion{}
	for id, in := range c.ingesting {
		if in.since.Before(t) {
			out[id] = in
		}
	}
	return out
}

// unfinished says that a scan is not over.
func (c *census) unfinished(id events.ScanID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.scans[id] != nil
}

// sources are the snapshots of the scans that are not over.
func (c *census) sources() map[events.SnapshotID]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[events.SnapshotID]bool{}
	for _, e := range c.scans {
		out[e.snapshot.Value()] = true
	}
	return out
}

// wait returns after d, or ctx's error before.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

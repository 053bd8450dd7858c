package maintenance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"sync"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/files"
	"vega/services/fleet"
	"vega/services/scan"
)

// Why an attempt is taken from its worker: the Reason of its event.
const (
	Restarted     = "restarted"      // the process that had it is known to be dead
	Disconnected  = "disconnected"   // its worker's connection is gone
	HeartbeatLost = "heartbeat_lost" // its worker's heartbeat entry has expired
	NotHeld       = "not_held"       // its worker lives and does not have it
	RunningStale  = "running_stale"  // it has been running for too long, whatever its worker says
)

// Delivered is what the queue of the execution mode has handed over for good.
type Delivered interface {
	// Delivered returns, by priority, the sequence at or below which every ready event has reached a worker that answered for it, with none of them
	// waiting, being delivered or in another queue (what lies in SQS has not been delivered). A scan that is still queued at or below it has lost its
	// hint. A priority that is absent is not judged. It may be called at any time and returns an error when the queue cannot be asked.
	Delivered(ctx context.Context) (map[events.Priority]events.Seq, error)
}

// Parts are what maintenance works with.
type Parts struct {
	Store     *eventstore.Store
	Files     files.Store // nil: objects are not cleaned up here
	Delivered Delivered   // nil: the queue loses no hints
	Log       *slog.Logger
}

// Options of maintenance.
type Options struct {
	Config
	HeartbeatTTL    time.Duration // life of a worker's heartbeat entry
	DisconnectGrace time.Duration // for a worker whose connection vanished; at least two pings
	// From is a sequence before the first event of every scan and every ingestion that is not over: the log is followed from there. 0 is always right.
	From events.Seq
}

// Maintenance recovers what was left behind. Make one with New, then Run it once. Its other methods may be called at any time, by anybody.
type Maintenance struct {
	Parts
	opt    Options
	census *census
	judge  *judge

	verdicts chan verdict // written by the judge, read by executors; what does not fit is said again soon

	sweeping sync.Mutex // held over a sweep or a clean-up
	clean    cleaner    // under sweeping

	mu      sync.Mutex // guards what follows, never held over I/O
	flying  map[verdict]bool
	expired map[string]int
	status  Status
	failing bool // the last verdict could not be recorded
	newer   bool // a scan of a newer release was met
}

// New returns a Maintenance that does nothing yet.
func New(p Parts, o Options) *Maintenance {
	o.HeartbeatTTL = max(o.HeartbeatTTL, time.Second)
	m := &Maintenance{Parts: p, opt: o, census: newCensus(p.Store, p.Log), verdicts: make(chan verdict, 256), flying: map[verdict]bool{}, expired: map[string]int{}}
	m.judge = newJudge(m)
	return m
}

// executors is how many verdicts are recorded at a time. Each may have to wait for a log that is away.
const executors = 8

// Run works until ctx ends and returns nil; an error means that it could not begin.
func (m *Maintenance) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	defer parts.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	parts.Go(func() { m.census.run(ctx, m.opt.From) })
	select {
	case <-m.census.caught:
	case <-ctx.Done():
		return nil
	}
	for range executors {
		parts.Go(func() { m.execute(ctx) })
	}
	parts.Go(func() { m.sweeps(ctx) })
	return m.judge.run(ctx)
}

// Status is what maintenance sees and has done since its process started.
type Status struct {
	CaughtUp   bool // it has seen the whole log that was there at its start
	Seen       events.Seq
	Unfinished int // scans
	Watched    int // workers that have scans
	Heard      int // of those, the ones that answer pings
	Suspects   []events.WorkerID
	Newer      int            // events of a later release, which were passed over
	Unreadable int            // events that could not be read
	Expired    map[string]int // attempts taken from their workers, by reason
	Requeued   int            // lost hints
	Ingestions int            // ended
	Removed    Removed
	LastSweep  time.Time // zero: none yet
	LastClean  time.Time
}

// Status returns a snapshot.
func (m *Maintenance) Status() Status {
	m.mu.Lock()
	s := m.status
	s.Expired = maps.Clone(m.expired)
	m.mu.Unlock()
	m.census.describe(&s)
	m.judge.describe(&s)
	return s
}

// verdict is that a worker has lost an attempt.
type verdict struct {
	scan       events.ScanID
	generation events.Seq
	worker     events.WorkerID
	launcher   events.WorkerID
	reason     string
}

// cause has no space at its end: a header's value would not come back with it.
func (v verdict) cause() string {
	if v.worker == "" {
		return v.reason
	}
	return v.reason + " of " + string(v.worker)
}

// submit hands a verdict to the executors, unless it is on its way or there are too many: it will be found again.
func (m *Maintenance) submit(v verdict) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.flying[v] {
		return
	}
	select {
	case m.verdicts <- v:
		m.flying[v] = true
	default:
	}
}

func (m *Maintenance) execute(ctx context.Context) {
	for {
		select {
		case v := <-m.verdicts:
			err := m.expire(ctx, v, m.judge.detail(v))
			m.mu.Lock()
			delete(m.flying, v)
			tell := err != nil && ctx.Err() == nil && !m.failing
			m.failing = err != nil
			m.mu.Unlock()
			if tell {
				m.Log.Warn("attempt not expired", "scan_id", v.scan, "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// expire lets the log decide about a verdict: nothing happens when the scan has another owner by now. Two processes that find the same make one event,
// because its command id comes from the generation.
func (m *Maintenance) expire(ctx context.Context, v verdict, detail string) error {
	meta := m.meta(events.CommandIDFor("expire", string(v.scan), strconv.FormatUint(uint64(v.generation), 10)), v.cause())
	s, recorded, err := eventstore.Do(ctx, m.Store, events.ScanOf(m.Store.Region(), v.scan), meta, func(s scan.Scan, _ events.Head) ([]events.Event, error) {
		if s.Worker != v.worker && v.reason != Restarted {
			return nil, nil // a runner has joined since, and it is not the one that was judged
		}
		return scan.Decide(s, scan.Expire{Generation: v.generation, Reason: v.reason, Detail: detail})
	})
	if errors.Is(err, eventstore.ErrNewerEvents) {
		m.mu.Lock()
		tell := !m.newer
		m.newer = true
		m.mu.Unlock()
		if tell {
			m.Log.Warn("scan of a newer release left to it", "scan_id", v.scan, "err", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("expire %s: %w", v.scan, err)
	}
	if len(recorded) == 0 {
		return nil
	}
	// The old worker may be alive after all: it stops sooner when it is told. Lost with a crash here, it finds out by itself.
	for _, w := range []events.WorkerID{v.worker, v.launcher} {
		if events.CheckID("worker", string(w)) == nil {
			fleet.Look(m.Store, w, v.scan)
		}
	}
	if recorded[0].At.Equal(meta.At) { // else another process was first
		m.mu.Lock()
		m.expired[v.reason]++
		m.mu.Unlock()
		m.Log.Info("attempt expired", "scan_id", v.scan, "attempt", s.Attempt, "worker_id", v.worker, "reason", v.reason, "detail", detail, "status", s.Status)
	}
	return nil
}

func (m *Maintenance) meta(id events.CommandID, cause string) events.Meta {
	return events.Meta{Command: id, Actor: events.BySystem("maintenance"), Cause: cause, At: time.Now().UTC()}
}

func (c *census) describe(s *Status) {
	select {
	case <-c.caught:
		s.CaughtUp = true
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Seen, s.Unfinished, s.Newer, s.Unreadable = c.at, len(c.scans), c.newer, c.unreadable
}

package worker

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"vega/events"
	"vega/services/fleet"
	"vega/services/scan"
)

// task is one attempt whose runner is, or will be, an ECS task.
type task struct {
	id         events.ScanID
	generation events.Seq
	attempt    int
	changed    chan struct{} // buffered 1: something below has changed

	mu      sync.Mutex // guards what follows, never held over I/O
	state   scan.Scan  // as the log was last read
	head    events.Head
	arn     string // empty until ECS has answered
	since   time.Time
	known   bool      // ECS has described it
	missing time.Time // since when ECS does not know it; zero when it does
	gone    bool      // STOPPED, or vanished
	why     string    // once gone
	clean   bool
}

func newTask(id events.ScanID, s scan.Scan, head events.Head) *task {
	return &task{id: id, generation: s.Generation, attempt: s.Attempt, changed: make(chan struct{}, 1), state: s, head: head, since: time.Now()}
}

func (t *task) change(f func()) {
	t.mu.Lock()
	f()
	t.mu.Unlock()
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

func (t *task) snapshot() scan.Scan {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state
}

// ARN is the task's name at ECS, empty while that is not known.
func (t *task) ARN() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.arn
}

func (t *task) launched(arn string) { t.change(func() { t.arn, t.since = arn, time.Now() }) }

// over says whether the task has ended, and why.
func (t *task) over() (gone bool, why string, clean bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.gone, t.why, t.clean
}

func (l *Launcher) add(t *task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tasks[t.generation] = t
}

func (l *Launcher) remove(t *task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.tasks, t.generation)
}

// watched are the tasks of one scan, or all for an empty id.
func (l *Launcher) watched(id events.ScanID) []*task {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*task
	for _, t := range l.tasks {
		if id == "" || t.id == id {
			out = append(out, t)
		}
	}
	return out
}

// Run watches tasks until ctx ends, which has to be after the worker's end. It returns nil. Tasks that go on then are found by the next launcher.
func (l *Launcher) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	parts.Go(func() { l.readScans(ctx) })
	parts.Go(func() { l.askECS(ctx) })
	parts.Go(func() { l.sweeps(ctx) })
	parts.Wait()
	return nil
}

// readScans keeps what is known of the tasks' scans current: one question each and every LaunchOptions.Look, which is far cheaper than a consumer for each.
func (l *Launcher) readScans(ctx context.Context) {
	tick := time.NewTicker(l.opt.Look)
	defer tick.Stop()
	for {
		var id events.ScanID
		select {
		case <-tick.C:
		case id = <-l.looks:
		case <-ctx.Done():
			return
		}
		for _, t := range l.watched(id) {
			if l.read(ctx, t) != nil {
				break // the log is away: the others would learn no more
			}
		}
	}
}

// read folds what happened to a task's scan meanwhile.
func (l *Launcher) read(ctx context.Context, t *task) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	t.mu.Lock()
	s, head := t.state, t.head
	t.mu.Unlock()
	past, now, err := l.store.Load(ctx, events.ScanOf(l.store.Region(), t.id), head)
	if err != nil || len(past) == 0 {
		return err
	}
	for _, r := range past {
		s = s.Evolve(r)
	}
	t.change(func() { t.state, t.head = s, now })
	return nil
}

// askECS asks what became of the running tasks, all of them in few calls.
func (l *Launcher) askECS(ctx context.Context) {
	failing := ""
	for sleep(ctx, jitter(l.opt.Poll)+l.opt.Poll/4, nil) == nil {
		byARN := map[string]*task{}
		var arns []string
		for _, t := range l.watched("") {
			if gone, _, _ := t.over(); gone {
				continue
			}
			if arn := t.ARN(); arn != "" {
				byARN[arn], arns = t, append(arns, arn)
			}
		}
		for batch := range slices.Chunk(arns, maxDescribed) {
			found, missing, err := l.ecs.describe(ctx, batch, false)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				if failing == "" {
					l.log.Warn("tasks not described", "err", err)
				}
				failing = err.Error()
				break
			}
			if failing != "" {
				l.log.Info("tasks described again")
				failing = ""
			}
			for _, s := range found {
				if t, ok := byARN[s.arn]; ok {
					t.described(s)
				}
			}
			for _, arn := range missing {
				if t, ok := byARN[arn]; ok {
					t.notKnown(l.opt.Vanish)
				}
			}
		}
	}
}

func (t *task) described(s taskState) {
	t.mu.Lock()
	t.known, t.missing = true, time.Time{}
	t.mu.Unlock()
	if s.stopped {
		t.change(func() { t.gone, t.why, t.clean = true, s.why, s.clean })
	}
}

// notKnown is ECS saying that there is no such task. Once is none, because its answers may be behind; and right after the start it means nothing, unless the
// task was seen before: by ECS itself, or by the log, which its runner has joined. A task that ended well is known for an hour.
func (t *task) notKnown(vanish time.Duration) {
	t.mu.Lock()
	first := t.missing.IsZero()
	if first {
		t.missing = time.Now()
	}
	seen := t.known || t.state.Generation == t.generation && t.state.Joined != ""
	vanished := !first && (seen || time.Since(t.since) > vanish)
	t.mu.Unlock()
	if vanished {
		t.change(func() { t.gone, t.why = true, "the task vanished: ECS does not know it any more" })
	}
}

// stopAgain is the pause before a task that was asked to stop, and has not, is asked again; giveUp is when its slot is free whether it has or not.
const (
	stopAgain = 30 * time.Second
	giveUp    = 3 * time.Minute
)

// follow waits for the end of a task, records it when the runner has not, and stops a task that has lost its scan. With own, an unjoined attempt is given
// back when ctx ends; otherwise it is another launcher's, and left alone.
func (l *Launcher) follow(ctx context.Context, t *task, own bool) {
	log := l.log.With("scan_id", t.id, "attempt", t.attempt)
	var overSince, stopSince, stopNext time.Time
	joined := false
	for {
		gone, why, clean := t.over()
		s, arn, now := t.snapshot(), t.ARN(), time.Now()
		if gone {
			l.ended(ctx, t, why, clean)
			return
		}
		if s.Generation == t.generation && s.Joined != "" && !joined {
			joined = true
			log.Info("runner joined", "worker_id", s.Worker)
		}
		if !s.Owns(t.generation) && overSince.IsZero() {
			overSince = now
		}
		reason := ""
		switch {
		case s.Generation == t.generation && s.Status == scan.Cancelling:
			reason = "the scan was cancelled"
		case s.Owns(t.generation) && s.Joined == "" && now.Sub(s.ClaimedAt) > l.opt.Join:
			// It counts as an attempt: an image that cannot be started would be tried for ever.
			l.record(ctx, t, "unjoined", func(s scan.Scan) scan.Command {
				if s.Joined != "" {
					return nil
				}
				return scan.Expire{Generation: t.generation, Reason: "task_stopped", Detail: "its runner did not join within " + l.opt.Join.String()}
			})
			_ = l.read(ctx, t) // the next round knows; the log is away: it is read again within a second
		case s.Owns(t.generation):
		case !s.Status.Terminal():
			reason = "the attempt was given to another runner"
		case now.Sub(overSince) > l.opt.Linger || !ending(s):
			reason = "the scan is over"
		}
		if !s.Owns(t.generation) && (arn == "" || !stopSince.IsZero() && now.Sub(stopSince) > giveUp) {
			l.searchSoon() // the sweep stops what is still there
			return
		}
		if reason != "" && arn != "" && now.After(stopNext) {
			if stopSince.IsZero() {
				stopSince = now
				log.Info("stopping task", "reason", reason)
			}
			stopNext = now.Add(stopAgain)
			if err := l.ecs.stop(ctx, arn, reason); err != nil && ctx.Err() == nil {
				log.Warn("task not stopped", "err", err)
				stopNext = now.Add(2 * time.Second)
			}
		}
		if sleep(ctx, l.opt.Look, t.changed) != nil {
			if own {
				l.giveBack(ctx, t, "worker shut down")
			}
			return
		}
	}
}

// ending says that the task of a finished scan's last attempt is about to end by itself: its runner has joined, and it was not taken away.
func ending(s scan.Scan) bool {
	return s.Joined != "" && (s.Failure == nil || s.Failure.Code != "attempts_exhausted")
}

// ended records that a task is gone: the process is, so what is said about it is true.
func (l *Launcher) ended(ctx context.Context, t *task, why string, clean bool) {
	s, recorded := l.record(ctx, t, "ended", func(s scan.Scan) scan.Command {
		if s.Status == scan.Cancelling {
			return scan.ConfirmCancel{Generation: t.generation}
		}
		return scan.Expire{Generation: t.generation, Reason: "task_stopped", Detail: why}
	})
	switch {
	case recorded && s.Status == scan.Cancelled:
	case recorded:
		l.log.Warn("task stopped before its scan was over", "scan_id", t.id, "attempt", t.attempt, "reason", why)
	case !clean:
		// The attempt ended otherwise, or somebody noticed earlier that its runner was gone: the reason is still worth knowing.
		l.log.Info("task stopped", "scan_id", t.id, "attempt", t.attempt, "reason", why)
		if !s.Status.Terminal() {
			l.tell(t.id, s, "the task of attempt "+strconv.Itoa(t.attempt)+" stopped: "+why)
		}
	}
}

func (l *Launcher) searchSoon() {
	select {
	case l.search <- struct{}{}:
	default: // it is due anyway
	}
}

// sweeps looks for tasks that nobody watches: at the start, now and then, and when a launch's outcome is not known.
func (l *Launcher) sweeps(ctx context.Context) {
	var adopted sync.WaitGroup
	defer adopted.Wait()
	failing := false
	for {
		if err := l.sweep(ctx, func(t *task) { adopted.Go(func() { defer l.remove(t); l.follow(ctx, t, false) }) }); err != nil && ctx.Err() == nil {
			if !failing {
				l.log.Warn("tasks not searched", "err", err)
			}
			failing = true
		} else {
			failing = false
		}
		if sleep(ctx, jitter(l.opt.Sweep)+l.opt.Sweep/4, l.search) != nil {
			return
		}
	}
}

// sweep stops the region's tasks whose attempt is over, and has those followed whose launcher is gone, so that the log learns why they stop.
func (l *Launcher) sweep(ctx context.Context, adopt func(*task)) error {
	arns, err := l.ecs.list(ctx)
	if err != nil {
		return err
	}
	var failed error
	for batch := range slices.Chunk(arns, maxDescribed) {
		found, _, err := l.ecs.describe(ctx, batch, true)
		if err != nil {
			return err
		}
		for _, s := range found {
			if s.stopped || s.scan == "" {
				continue
			}
			if err := l.inspect(ctx, s, adopt); err != nil {
				failed = errors.Join(failed, err)
			}
		}
	}
	return failed
}

func (l *Launcher) inspect(ctx context.Context, found taskState, adopt func(*task)) error {
	l.mu.Lock()
	t := l.tasks[found.generation]
	l.mu.Unlock()
	if t != nil {
		if t.ARN() == "" { // the answer to its RunTask was lost
			t.launched(found.arn)
		}
		return nil
	}
	past, head, err := l.store.Load(ctx, events.ScanOf(l.store.Region(), found.scan), events.Head{})
	if err != nil {
		return err
	}
	var s scan.Scan
	for _, r := range past {
		s = s.Evolve(r)
	}
	switch {
	case s.Status == scan.None, s.Generation < found.generation:
		return nil // of another log with the same region's name: not ours to stop
	case !s.Owns(found.generation):
		if s.Status.Terminal() && s.Generation == found.generation && ending(s) && time.Since(s.FinishedAt) < l.opt.Linger {
			return nil // it is about to end by itself
		}
		l.log.Info("stopping task", "scan_id", found.scan, "attempt", found.attempt, "task", found.arn, "reason", "its attempt is over")
		return l.ecs.stop(ctx, found.arn, "its attempt is over")
	}
	launcher := s.Launcher
	if launcher == "" {
		launcher = s.Worker
	}
	if launcher == l.member.ID() {
		return nil // its Launch has just ended, or has not answered yet
	}
	ask, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := fleet.Ping(ask, l.store, launcher); !errors.Is(err, fleet.ErrGone) {
		return nil // it watches the task, or comes back to it
	}
	t = newTask(found.scan, s, head)
	t.launched(found.arn)
	l.add(t)
	l.log.Info("task adopted", "scan_id", t.id, "attempt", t.attempt, "task", found.arn, "launcher", launcher)
	adopt(t)
	return nil
}

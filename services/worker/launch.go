package worker

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/fleet"
	"vega/services/scan"
)

// Tasks runs claimed scans elsewhere than in this process, one task each. Calls are concurrent.
type Tasks interface {
	// Ready blocks while no task should be started, because the last ones could not be. Its error is ctx's.
	Ready(ctx context.Context) error
	// Token is the secret that the runner of the claim with this command id has to show: the same id, the same secret.
	Token(claim events.CommandID) string
	// Launch starts the task of a claimed scan and returns when the slot is free again. What happened is in the log by then, or the task goes on
	// without this process because ctx has ended.
	Launch(ctx context.Context, c Claimed)
	// Look says that something happened to a scan. It does not block.
	Look(id events.ScanID)
}

// Claimed is a scan that this worker has just claimed.
type Claimed struct {
	Scan  scan.Scan
	ID    events.ScanID
	Head  events.Head // of the claim
	Token string      // what the runner has to show; the claim holds its digest
	Trace string      // W3C traceparent of what queued the scan, or empty
}

// LaunchParts are what a launcher works with. All are required.
type LaunchParts struct {
	Store  *eventstore.Store
	Member *fleet.Member // the worker's
	AWS    aws.Config    // region, credentials and endpoint, as the SDK finds them
	Log    *slog.Logger
}

// LaunchOptions are a launcher's times. The zero value is what production uses.
type LaunchOptions struct {
	Poll     time.Duration // between two questions to ECS about all running tasks; 3 s
	Look     time.Duration // between two looks at the log; 1 s
	Sweep    time.Duration // between two searches for tasks that nobody watches; 3 min
	Again    time.Duration // first pause before a task is tried again; 1 s, doubling up to 30 s
	Patience time.Duration // since the claim, until a scan whose task cannot be started is given back; 7 min, which leaves 3 of the token's life
	Pause    time.Duration // first pause of the launcher after that; 5 s, doubling up to 5 min
	Linger   time.Duration // what a task may live on when its scan is over; 30 s
	Join     time.Duration // since the claim, until a task whose runner has not joined counts as failed; scan.TokenLife
	Vanish   time.Duration // how long ECS may not know a task that it has just started; 1 min
}

func (o LaunchOptions) withDefaults() LaunchOptions {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&o.Poll, 3 * time.Second}, {&o.Look, time.Second}, {&o.Sweep, 3 * time.Minute}, {&o.Again, time.Second},
		{&o.Patience, scan.TokenLife - 3*time.Minute}, {&o.Pause, 5 * time.Second}, {&o.Linger, 30 * time.Second}, {&o.Join, scan.TokenLife}, {&o.Vanish, time.Minute},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return o
}

const (
	maxAgain = 30 * time.Second
	maxPause = 5 * time.Minute
)

// Launcher starts one ECS task for each claimed scan and watches all of them. It is a worker's Tasks; Run goes on beside the worker and ends after it.
type Launcher struct {
	store  *eventstore.Store
	member *fleet.Member
	ecs    *cluster
	opt    LaunchOptions
	log    *slog.Logger
	secret []byte             // makes the tokens of this process
	looks  chan events.ScanID // buffered; written by Look, read by Run
	search chan struct{}      // buffered 1: a sweep is due

	mu    sync.Mutex // guards what follows, never held over I/O
	tasks map[events.Seq]*task
	shut  time.Time     // no launches before it
	pause time.Duration // the last one; 0 after a success
}

// NewLauncher returns a launcher that starts tasks as cfg says.
func NewLauncher(p LaunchParts, cfg ECS, o LaunchOptions) *Launcher {
	return &Launcher{
		store: p.Store, member: p.Member, log: p.Log, opt: o.withDefaults(),
		ecs:    &cluster{api: ecs.NewFromConfig(p.AWS), cfg: cfg, region: p.Store.Region()},
		secret: []byte(rand.Text()), looks: make(chan events.ScanID, 64), search: make(chan struct{}, 1),
		tasks: map[events.Seq]*task{},
	}
}

// Token derives the secret from the claim's command, so that a claim whose answer was lost and which is found in the log still has the token that its
// event holds the digest of. It lives as long as the process.
func (l *Launcher) Token(claim events.CommandID) string {
	h := hmac.New(sha256.New, l.secret)
	h.Write([]byte(claim))
	return hex.EncodeToString(h.Sum(nil))
}

// Ready blocks while launches are paused.
func (l *Launcher) Ready(ctx context.Context) error {
	for {
		l.mu.Lock()
		wait := time.Until(l.shut)
		l.mu.Unlock()
		if wait <= 0 {
			return ctx.Err()
		}
		if err := sleep(ctx, wait, nil); err != nil {
			return err
		}
	}
}

// Look has one scan read again soon; all are read every LaunchOptions.Look.
func (l *Launcher) Look(id events.ScanID) {
	select {
	case l.looks <- id:
	default: // all are read within a second
	}
}

// Launch starts the scan's task, trying again while there is no room, and follows it to its end. When ctx ends, a task whose runner has not joined is
// given back and stopped; a runner that has joined goes on by itself.
func (l *Launcher) Launch(ctx context.Context, c Claimed) {
	t := newTask(c.ID, c.Scan, c.Head)
	log := l.log.With("scan_id", c.ID, "attempt", t.attempt)
	l.add(t)
	defer l.remove(t)
	err := l.start(ctx, log, t, c)
	if err == nil {
		l.follow(ctx, t, true)
		return
	}
	if errors.Is(err, errOver) {
		return
	}
	failed, ok := errors.AsType[*launchError](err)
	switch {
	case !ok: // ctx has ended
		l.giveBack(ctx, t, "worker shut down")
		return
	case failed.kind == refused:
		log.Error("task refused", "err", failed.err, "reason", failed.Error())
		l.record(ctx, t, "refused", func(s scan.Scan) scan.Command {
			return scan.Fail{Generation: t.generation, Code: "launch_refused", Message: "ECS refused to start the scan's task: " + failed.Error()}
		})
	default:
		reason := "task not started: " + failed.Error()
		if failed.kind == noRoom {
			reason = "no capacity: " + failed.Error()
		}
		if !l.giveBack(ctx, t, reason) {
			l.follow(ctx, t, true) // a try whose answer was lost did start it, and the runner has joined
			return
		}
	}
	// A refusal is about the configuration: the next scan would be refused as well.
	l.shutFor(log)
}

// errOver says that there is nothing to start any more.
var errOver = errors.New("the attempt is over")

// start tries to start the task until that succeeds, cannot, has no time left, or is not wanted any more. It returns a *launchError, errOver, or why ctx ended.
func (l *Launcher) start(ctx context.Context, log *slog.Logger, t *task, c Claimed) error {
	deadline := c.Scan.ClaimedAt.Add(l.opt.Patience)
	said := ""
	doubt := false // a try may have started a task that we know nothing of
	defer func() {
		if doubt {
			l.searchSoon()
		}
	}()
	for again := l.opt.Again; ; again = min(2*again, maxAgain) {
		switch s := t.snapshot(); {
		case !s.Owns(t.generation):
			return errOver
		case s.Status == scan.Cancelling:
			// Without a join nothing can have been done in the scan's name.
			now, _ := l.record(ctx, t, "cancel", func(s scan.Scan) scan.Command {
				if s.Joined != "" {
					return nil
				}
				return scan.ConfirmCancel{Generation: t.generation}
			})
			if now.Owns(t.generation) && now.Joined != "" {
				return nil // a try whose answer was lost: the runner confirms
			}
			return errOver
		}
		arn, err := l.ecs.run(ctx, c)
		if err == nil {
			// A crash here, or before the answer: the task joins and goes on alone, or finds that the attempt was expired; the next launcher's
			// sweep finds it by its tags.
			doubt = false
			t.launched(arn)
			l.open()
			log.Info("task started", "task", arn)
			return nil
		}
		if ctx.Err() != nil {
			doubt = true
			return context.Cause(ctx)
		}
		failed, _ := errors.AsType[*launchError](err)
		doubt = doubt || failed.kind == noAnswer
		if failed.kind == refused {
			return failed
		}
		wait := jitter(again)
		if time.Now().Add(wait).After(deadline) {
			return failed
		}
		if said != failed.reason {
			said = failed.reason
			log.Warn("task not started yet", "reason", failed.Error(), "err", failed.err)
			l.tell(t.id, t.snapshot(), "waiting for a task: "+failed.Error())
		}
		if err := sleep(ctx, wait, t.changed); err != nil {
			return err
		}
	}
}

// giveBack releases an attempt without counting it, unless its runner has joined: then it is the runner's and false. A task that runs is stopped.
func (l *Launcher) giveBack(ctx context.Context, t *task, reason string) bool {
	if s := t.snapshot(); s.Owns(t.generation) && s.Joined != "" {
		return false
	}
	s, released := l.record(ctx, t, "release", func(s scan.Scan) scan.Command {
		if s.Joined != "" {
			return nil
		}
		return scan.Release{Generation: t.generation, Reason: tidy(reason, maxStopReason)}
	})
	if s.Owns(t.generation) && s.Joined != "" {
		return false
	}
	if !released && s.Owns(t.generation) {
		return true // the log could not be asked, so the runner may have joined: whoever finds this launcher gone decides
	}
	// A crash here: the task finds at its join that the attempt is not the current one, and ends.
	if arn := t.ARN(); arn != "" {
		if err := l.ecs.stop(context.WithoutCancel(ctx), arn, reason); err != nil {
			l.log.Warn("task not stopped", "scan_id", t.id, "attempt", t.attempt, "err", err)
		}
	}
	return true
}

// record appends what a command decides on the scan as it is now; a nil command, or one that the scan does not want any more, appends nothing. It tries
// as long as ctx lives, once after that. It returns the scan as it was last seen, and whether something was appended.
func (l *Launcher) record(ctx context.Context, t *task, what string, command func(scan.Scan) scan.Command) (scan.Scan, bool) {
	meta := events.Meta{
		Command: events.CommandIDFor("task", string(l.member.ID()), strconv.FormatUint(uint64(t.generation), 10), what),
		Actor:   events.ByWorker(l.member.ID()), Cause: "task of " + strconv.FormatUint(uint64(t.generation), 10), At: time.Now().UTC(),
	}
	for {
		once, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
		s, recorded, err := eventstore.Do(once, l.store, events.ScanOf(l.store.Region(), t.id), meta, func(s scan.Scan, _ events.Head) ([]events.Event, error) {
			c := command(s)
			if c == nil || !s.Owns(t.generation) {
				return nil, nil
			}
			evs, err := scan.Decide(s, c)
			if errors.Is(err, scan.ErrSuperseded) {
				return nil, nil
			}
			return evs, err
		})
		cancel()
		if err == nil {
			for _, r := range recorded {
				l.log.Info("attempt ended", "scan_id", t.id, "attempt", t.attempt, "event", r.Kind, "status", s.Status)
			}
			return s, len(recorded) > 0
		}
		if !errors.Is(err, eventstore.ErrUnavailable) || sleep(ctx, time.Second, nil) != nil {
			l.log.Error("end of attempt not recorded", "scan_id", t.id, "attempt", t.attempt, "err", err)
			return t.snapshot(), false
		}
	}
}

// tell puts a line into the scan's live feed.
func (l *Launcher) tell(id events.ScanID, s scan.Scan, line string) {
	err := l.store.PublishFeed(id, eventstore.FeedLine{
		Kind: "scan_log", Attempt: s.Attempt, Generation: s.Generation, At: time.Now().UTC(), Payload: map[string]any{"message": clip(line)},
	})
	if err != nil {
		l.log.Debug("feed line lost", "scan_id", id, "err", err)
	}
}

// shutFor makes the launcher wait before the next launch, longer each time, so that scans that cannot run here are not taken from those who could run them.
func (l *Launcher) shutFor(log *slog.Logger) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Now().Before(l.shut) {
		return // another slot has just found out
	}
	l.pause = min(max(2*l.pause, l.opt.Pause), maxPause)
	wait := jitter(l.pause)
	l.shut = time.Now().Add(wait)
	log.Warn("launches paused", "wait", fmt.Sprint(wait.Round(time.Millisecond)))
}

// open ends the series of failures.
func (l *Launcher) open() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shut, l.pause = time.Time{}, 0
}

// jitter is between half of d and d.
func jitter(d time.Duration) time.Duration { return d/2 + mathrand.N(d/2+1) }

// sleep waits for d, or until bell (which may be nil) rings. Its error is why ctx ended.
func sleep(ctx context.Context, d time.Duration, bell <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-bell:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

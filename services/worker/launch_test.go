//go:build unix

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/nats-io/nats.go"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/dispatch"
	"vega/services/engine"
	"vega/services/files"
	"vega/services/fleet"
	"vega/services/scan"
	"vega/services/worker"
	"vega/services/worker/ecstest"
)

// The test binary is also the program that tasks run: it is the runner when it is started with a scan to run.
const (
	envURL = "TEST_NATS_URL"
	envDir = "TEST_DIR"
)

func TestMain(m *testing.M) {
	if os.Getenv(envURL) == "" || len(os.Args) < 2 || os.Args[len(os.Args)-1] != worker.RunCommand {
		natstest.Main(m)
		return
	}
	err := runTask()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	switch {
	case err == nil:
		os.Exit(0)
	case errors.Is(err, scan.ErrTokenSpent), errors.Is(err, scan.ErrTokenWrong):
		os.Exit(4)
	case errors.Is(err, scan.ErrSuperseded):
		os.Exit(5)
	}
	os.Exit(6)
}

// runTask is what the command run-scan does, with an engine that does what the scan's path says.
func runTask() error {
	env := os.Getenv
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	nc, err := eventstore.Connect(env(envURL), "")
	if err != nil {
		return err
	}
	defer nc.Close()
	store, err := eventstore.Open(ctx, nc, eventstore.Options{Region: natstest.Region})
	if err != nil {
		return err
	}
	defer store.Close()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	me := fleet.Worker{ID: events.NewWorkerID(natstest.Region), Host: "task", Slots: 1}
	m, err := fleet.Join(ctx, store, me, time.Minute, log)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(env(envDir), "task-")
	if err != nil {
		return err
	}
	local, err := files.Open(dir + "/files")
	if err != nil {
		return err
	}
	generation, err := strconv.ParseUint(env(worker.EnvRunGeneration), 10, 64)
	if err != nil {
		return err
	}
	parts := worker.Parts{Store: store, Member: m, Source: noSource{}, Objects: objects{local}, Engine: stages(scripted(nc)), Log: log}
	return worker.RunOne(ctx, parts, worker.Options{Timeout: time.Minute, RuntimeRoot: dir, Host: "task", Grace: 50 * time.Millisecond},
		worker.One{Scan: events.ScanID(env(worker.EnvRunScan)), Generation: events.Seq(generation), Token: env(worker.EnvRunToken)})
}

// scripted records the stage "ready" and then does what the scan's path says: "done" ends at once, "wait" when the test says go or it is stopped,
// "hang" not even when it is stopped, "exit" ends the process.
func scripted(nc *nats.Conn) stages {
	return func(ctx context.Context, j engine.Job, r engine.Recorder) (engine.Outcome, error) {
		done := engine.Outcome{Coverage: events.Coverage{State: events.CoverageComplete}}
		script := j.Paths[0]
		if j.Attempt > 1 && script != "hang" {
			script = "done"
		}
		goOn := make(chan *nats.Msg, 1)
		if _, err := nc.ChanSubscribe("test.go."+string(j.Scan), goOn); err != nil {
			return done, err
		}
		if err := nc.Flush(); err != nil {
			return done, err
		}
		if err := r.Stage(ctx, events.StageCompleted{Stage: "ready-" + strconv.Itoa(j.Attempt)}); err != nil {
			return done, err
		}
		switch script {
		case "exit":
			os.Exit(23)
		case "hang":
			<-goOn
		case "wait":
			select {
			case <-goOn:
			case <-ctx.Done():
				return done, context.Cause(ctx)
			}
		}
		return done, nil
	}
}

// region is a log, an ECS, and as many launchers as a test starts.
type region struct {
	*bench
	url string
	ecs *ecstest.Server
}

func newRegion(t *testing.T, o ecstest.Options) *region {
	t.Helper()
	url := natstest.Listen(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Command, o.Output = []string{exe}, output{t}
	o.Env = []string{envURL + "=" + url, envDir + "=" + t.TempDir()}
	r := &region{url: url, ecs: ecstest.Run(t, o)}
	r.bench = &bench{t: t, store: natstest.OpenOver(t, natstest.Dial(t, url))}
	return r
}

type output struct{ t *testing.T }

func (o output) Write(p []byte) (int, error) { o.t.Logf("task: %s", p); return len(p), nil }

var cfg = worker.ECS{Cluster: "scans", TaskDefinition: "vega-runner", ContainerName: "vega"}

// quick are a launcher's times for tests.
var quick = worker.LaunchOptions{
	Poll: 20 * time.Millisecond, Look: 20 * time.Millisecond, Sweep: time.Hour, Again: 10 * time.Millisecond, Patience: time.Minute,
	Pause: 10 * time.Millisecond, Linger: 30 * time.Second, Vanish: 100 * time.Millisecond,
}

// launcher is a worker process that starts tasks.
type launcher struct {
	id    events.WorkerID
	drain func() // ends it as SIGTERM does
	die   func() // ends it without a word once its runner has joined: nothing is given back, and it does not answer any more
	log   *lines
}

func (r *region) launcher(c worker.ECS, o worker.LaunchOptions) *launcher {
	r.t.Helper()
	t := r.t
	l := &launcher{id: events.NewWorkerID(natstest.Region), log: &lines{}}
	log := slog.New(slog.NewTextHandler(l.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	nc := natstest.Dial(t, r.url)
	store := natstest.OpenOver(t, nc)
	m, err := fleet.Join(t.Context(), store, fleet.Worker{ID: l.id, Slots: 2}, time.Minute, log)
	if err != nil {
		t.Fatal(err)
	}
	tasks := worker.NewLauncher(worker.LaunchParts{Store: store, Member: m, Log: log, AWS: aws.Config{
		Region: "us-test-1", BaseEndpoint: aws.String(r.ecs.URL()), RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider("key", "secret", ""),
	}}, c, o)
	q := dispatch.NewLocal(store)
	w, err := worker.New(worker.Parts{Store: store, Queue: q, Member: m, Tasks: tasks, Log: log}, worker.Options{Slots: 2, RuntimeRoot: t.TempDir(), Host: "launcher"})
	if err != nil {
		t.Fatal(err)
	}
	base, stopBase := context.WithCancel(context.Background())
	front, stopFront := context.WithCancel(base)
	var all, worked sync.WaitGroup
	var died atomic.Bool
	check := func(err error) {
		if err != nil && !died.Load() {
			t.Errorf("launcher stopped with %v", err)
		}
	}
	all.Go(func() { check(q.Run(base, 0)) })
	all.Go(func() { check(m.Run(base)) })
	all.Go(func() { check(tasks.Run(base)) })
	worked.Go(func() { check(w.Run(front)) })
	stop := sync.OnceFunc(func() {
		stopFront()
		worked.Wait()
		_ = m.Leave(context.Background())
		stopBase()
		all.Wait()
		if t.Failed() {
			t.Logf("launcher %s:\n%s", l.id, l.log)
		}
	})
	l.drain = stop
	l.die = func() {
		r.tasks(func([]ecstest.Task) bool { return strings.Contains(l.log.String(), "runner joined") })
		died.Store(true)
		nc.Close()
		stop()
	}
	t.Cleanup(stop)
	return l
}

// lines is a log that a test reads.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (r *region) queue(id events.ScanID, script string, attempts int) {
	r.t.Helper()
	r.do(id, scan.Queue{Request: events.ScanQueued{Project: "p", Repository: "r", Snapshot: "sha256:0", User: "u", Priority: events.Normal, MaxAttempts: attempts, Paths: []string{script}}})
}

// last is the scan's last event of type E.
func last[E events.Event](r *region, id events.ScanID) E {
	r.t.Helper()
	past, _, err := r.store.Load(r.t.Context(), events.ScanOf(natstest.Region, id), events.Head{})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, p := range slices.Backward(past) {
		if e, ok := p.Event.(E); ok {
			return e
		}
	}
	var none E
	r.t.Fatalf("no %T", none)
	return none
}

// stopped waits until every task has stopped.
func (r *region) stopped() []ecstest.Task {
	r.t.Helper()
	r.tasks(func(ts []ecstest.Task) bool {
		return !slices.ContainsFunc(ts, func(t ecstest.Task) bool { return t.Status != "STOPPED" })
	})
	return r.ecs.Tasks()
}

func (r *region) tasks(cond func([]ecstest.Task) bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	if err := r.ecs.Wait(ctx, cond); err != nil {
		r.t.Fatalf("tasks are %+v", r.ecs.Tasks())
	}
}

func (r *region) goOn(id events.ScanID) {
	r.t.Helper()
	if err := r.store.Conn().Publish("test.go."+string(id), nil); err != nil {
		r.t.Fatal(err)
	}
}

const one = events.ScanID("scan_test_one")

func TestATaskRunsAScanToItsEnd(t *testing.T) {
	t.Parallel()
	r := newRegion(t, ecstest.Options{AWSVPC: true})
	c := cfg
	c.Subnets, c.SecurityGroups, c.LaunchType, c.AssignPublicIP = []string{"subnet-1"}, []string{"sg-1"}, "FARGATE", true
	l := r.launcher(c, quick)
	r.queue(one, "done", 1)
	if got, want := r.until(one, "scan.completed"), "queued claimed runner_joined started stage_completed completed"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
	if j, s := last[events.RunnerJoined](r, one), last[events.AttemptStarted](r, one); j.Worker == l.id || s.Worker != j.Worker {
		t.Errorf("joined by %s, started by %s, launched by %s", j.Worker, s.Worker, l.id)
	}
	got := r.stopped()
	if len(got) != 1 || got[0].ExitCode != 0 || got[0].StopCode != "EssentialContainerExited" {
		t.Fatalf("tasks %+v", got)
	}
	for k, want := range map[string]string{"vega:scan": string(one), "vega:attempt": "1", "vega:region": string(natstest.Region), "vega:generation": got[0].Env[worker.EnvRunGeneration]} {
		if got[0].Tags[k] != want {
			t.Errorf("tag %s = %q, want %q", k, got[0].Tags[k], want)
		}
	}
	l.drain()
	if s := l.log.String(); strings.Contains(s, got[0].Env[worker.EnvRunToken]) || strings.Contains(s, "level=WARN") {
		t.Errorf("the launcher's log has the token, or a warning:\n%s", s)
	}
}

func TestCancelStopsTheTaskBeforeItIsSaid(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{"the runner stops by itself": "wait", "the runner hangs": "hang"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegion(t, ecstest.Options{StopTimeout: 200 * time.Millisecond})
			r.launcher(cfg, quick)
			r.queue(one, script, 1)
			r.until(one, "scan.stage_completed")
			r.do(one, scan.RequestCancel{})
			r.until(one, "scan.cancelled")
			got := r.ecs.Tasks()
			if script == "hang" && got[0].ExitCode != 137 {
				t.Errorf("cancelled was recorded while the task was %+v", got[0])
			}
			if got := r.stopped(); got[0].StopCode == "UserInitiated" && got[0].StoppedReason != "the scan was cancelled" {
				t.Errorf("stopped because %q", got[0].StoppedReason)
			}
		})
	}
}

func TestATaskThatStopsIsExpiredWithItsReason(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script string
		end    func(*ecstest.Server, string)
		detail string
	}{
		"its process exits": {"exit", func(*ecstest.Server, string) {}, "EssentialContainerExited: Essential container in task exited; container vega exit code 23"},
		"it is killed": {"wait", func(s *ecstest.Server, arn string) { s.Signal(arn, syscall.SIGKILL) },
			"EssentialContainerExited: Essential container in task exited; container vega exit code 137"},
		"it vanishes": {"wait", (*ecstest.Server).Vanish, "the task vanished: ECS does not know it any more"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegion(t, ecstest.Options{})
			r.launcher(cfg, quick)
			r.queue(one, c.script, 2)
			r.until(one, "scan.stage_completed")
			c.end(r.ecs, r.ecs.Tasks()[0].ARN)
			if got, want := r.until(one, "scan.completed"),
				"queued claimed runner_joined started stage_completed expired claimed runner_joined started stage_completed completed"; got != want {
				t.Errorf("events %s, want %s", got, want)
			}
			if e := last[events.AttemptExpired](r, one); e.Reason != "task_stopped" || e.Detail != c.detail {
				t.Errorf("expired because %s: %q, want %q", e.Reason, e.Detail, c.detail)
			}
		})
	}
}

func TestAnInterruptedTaskGivesItsScanBack(t *testing.T) {
	t.Parallel()
	r := newRegion(t, ecstest.Options{})
	r.launcher(cfg, quick)
	r.queue(one, "wait", 1)
	r.until(one, "scan.stage_completed")
	r.ecs.Interrupt(r.ecs.Tasks()[0].ARN, "SpotInterruption", "Your Spot Task was interrupted.")
	if got, want := r.until(one, "scan.completed"),
		"queued claimed runner_joined started stage_completed released claimed runner_joined started stage_completed completed"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
}

func TestATaskThatCannotStartIsExpired(t *testing.T) {
	t.Parallel()
	r := newRegion(t, ecstest.Options{Step: time.Minute})
	r.launcher(cfg, quick)
	r.queue(one, "done", 1)
	r.tasks(func(ts []ecstest.Task) bool { return len(ts) == 1 })
	r.ecs.Interrupt(r.ecs.Tasks()[0].ARN, "TaskFailedToStart", "CannotPullContainerError: pull image manifest has been retried")
	r.until(one, "scan.failed")
	if e := last[events.ScanFailed](r, one); e.Code != "attempts_exhausted" || !strings.Contains(e.Message, "TaskFailedToStart: CannotPullContainerError") {
		t.Errorf("failed with %+v", e)
	}
}

func TestNoRoomIsTriedAgain(t *testing.T) {
	t.Parallel()
	r := newRegion(t, ecstest.Options{})
	r.ecs.Inject("RunTask",
		ecstest.Fault{Reason: "RESOURCE:MEMORY"}, ecstest.Fault{Reason: "AGENT"},
		ecstest.Fault{Code: "ThrottlingException", Message: "Rate exceeded"},
		ecstest.Fault{Code: "ServerException", Message: "internal", Status: 500},
		ecstest.Fault{Code: "ClientException", Message: "Capacity is unavailable at this time. Please try again later or in a different availability zone"},
		ecstest.Fault{Code: "InvalidParameterException", Message: "No Container Instances were found in your cluster."},
	)
	r.launcher(cfg, quick)
	r.queue(one, "done", 1)
	if got, want := r.until(one, "scan.completed"), "queued claimed runner_joined started stage_completed completed"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
	if got := r.ecs.Calls("RunTask"); got != 7 {
		t.Errorf("RunTask was called %d times, want 7", got)
	}
	for l, err := range r.store.FollowFeed(t.Context(), one, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if got, want := l.Payload["message"], "waiting for a task: RESOURCE:MEMORY: no instance of the cluster has enough memory free"; got != want {
			t.Errorf("first line of the feed %q, want %q", got, want)
		}
		break
	}
}

func TestAScanThatNeverFindsRoomIsGivenBackUncounted(t *testing.T) {
	t.Parallel()
	r := newRegion(t, ecstest.Options{})
	r.ecs.Inject("RunTask", ecstest.Fault{Reason: "RESOURCE:MEMORY", Always: true})
	o := quick
	o.Patience = 50 * time.Millisecond
	r.launcher(cfg, o)
	r.queue(one, "done", 1)
	r.until(one, "scan.released")
	if e, want := last[events.AttemptReleased](r, one), "no capacity: RESOURCE:MEMORY: no instance of the cluster has enough memory free"; e.Reason != want {
		t.Errorf("released because %q, want %q", e.Reason, want)
	}
	r.ecs.Clear("RunTask")
	r.until(one, "scan.completed") // with one attempt allowed
}

func TestARefusedTaskFailsItsScan(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*worker.ECS)
		fault  []ecstest.Fault
		says   string
	}{
		"cluster":         {func(c *worker.ECS) { c.Cluster = "other" }, nil, "ClusterNotFoundException: Cluster not found."},
		"task definition": {func(c *worker.ECS) { c.TaskDefinition = "other" }, nil, "ClientException: TaskDefinition not found."},
		"container":       {func(c *worker.ECS) { c.ContainerName = "other" }, nil, "Override for container named other is not a container in the TaskDefinition."},
		"network":         {func(c *worker.ECS) { c.Subnets = []string{"subnet-1"} }, nil, "Network Configuration is not valid"},
		"permission": {func(*worker.ECS) {}, []ecstest.Fault{{Code: "AccessDeniedException", Message: "User: arn:x is not authorized to perform: ecs:RunTask"}},
			"AccessDeniedException: User: arn:x is not authorized to perform: ecs:RunTask"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegion(t, ecstest.Options{})
			r.ecs.Inject("RunTask", c.fault...)
			mine := cfg
			c.change(&mine)
			l := r.launcher(mine, quick)
			r.queue(one, "done", 3)
			r.until(one, "scan.failed")
			if e := last[events.ScanFailed](r, one); e.Code != "launch_refused" || !strings.Contains(e.Message, c.says) {
				t.Errorf("failed with %+v, want %q", e, c.says)
			}
			l.drain()
			if got := len(r.ecs.Tasks()); got != 0 {
				t.Errorf("%d tasks were started", got)
			}
		})
	}
}

func TestALostAnswerStartsNoSecondTask(t *testing.T) {
	t.Parallel()
	r := newRegion(t, ecstest.Options{})
	r.ecs.Inject("RunTask", ecstest.Fault{Lost: true}, ecstest.Fault{Lost: true})
	r.launcher(cfg, quick)
	r.queue(one, "done", 1)
	r.until(one, "scan.completed")
	if got := r.stopped(); len(got) != 1 {
		t.Errorf("%d tasks, want 1: %+v", len(got), got)
	}
}

func TestATaskWhoseAnswersWereAllLostIsFoundByItsTags(t *testing.T) {
	t.Parallel()
	r := newRegion(t, ecstest.Options{StopTimeout: 100 * time.Millisecond})
	r.ecs.Inject("RunTask", ecstest.Fault{Lost: true, Always: true})
	l := r.launcher(cfg, quick)
	r.queue(one, "wait", 1)
	r.until(one, "scan.stage_completed")
	r.goOn(one)
	r.until(one, "scan.completed")
	if got := r.stopped(); len(got) != 1 || got[0].ExitCode != 0 {
		t.Errorf("tasks %+v", got)
	}
	l.drain()
}

func TestATokenIsGoodForOneRunner(t *testing.T) {
	t.Parallel()
	r := newRegion(t, ecstest.Options{})
	r.launcher(cfg, quick)
	r.queue(one, "wait", 1)
	r.until(one, "scan.stage_completed")
	env := r.ecs.Tasks()[0].Env
	generation, err := strconv.ParseUint(env[worker.EnvRunGeneration], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	m, err := fleet.Join(t.Context(), r.store, fleet.Worker{ID: "work_test_thief"}, time.Minute, log)
	if err != nil {
		t.Fatal(err)
	}
	run := func(o worker.One) error {
		return worker.RunOne(t.Context(), worker.Parts{Store: r.store, Member: m, Log: log}, worker.Options{Timeout: time.Minute, RuntimeRoot: t.TempDir()}, o)
	}
	if err := run(worker.One{Scan: one, Generation: events.Seq(generation), Token: env[worker.EnvRunToken]}); !errors.Is(err, scan.ErrTokenSpent) {
		t.Errorf("second join while the first runs = %v", err)
	}
	r.goOn(one)
	if got, want := r.until(one, "scan.completed"), "queued claimed runner_joined started stage_completed completed"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
	for name, o := range map[string]worker.One{
		"a wrong token":      {Scan: "scan_test_two", Token: "guess"},
		"another generation": {Scan: one, Generation: 1, Token: env[worker.EnvRunToken]},
	} {
		if o.Scan != one {
			r.do(o.Scan, scan.Queue{Request: events.ScanQueued{Project: "p", Repository: "r", Snapshot: "sha256:0", User: "u", Priority: events.Normal, MaxAttempts: 1, Paths: []string{"done"}}})
		}
		if err := run(o); !errors.Is(err, scan.ErrTokenWrong) && !errors.Is(err, scan.ErrSuperseded) {
			t.Errorf("join with %s = %v", name, err)
		}
	}
}

func TestALauncherMayDieWhileItsTaskRuns(t *testing.T) {
	t.Parallel()
	r := newRegion(t, ecstest.Options{})
	first := r.launcher(cfg, quick)
	r.queue(one, "wait", 2)
	r.until(one, "scan.stage_completed")
	first.die()
	o := quick
	o.Sweep = 50 * time.Millisecond // the server may take a while to notice that the first has gone
	second := r.launcher(cfg, o)
	adopted := func([]ecstest.Task) bool { return strings.Contains(second.log.String(), "task adopted") }
	r.tasks(adopted)
	r.ecs.Vanish(r.ecs.Tasks()[0].ARN)
	if got, want := r.until(one, "scan.completed"),
		"queued claimed runner_joined started stage_completed expired claimed runner_joined started stage_completed completed"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
	if e := last[events.AttemptExpired](r, one); e.Reason != "task_stopped" {
		t.Errorf("expired because %s", e.Reason)
	}
}

func TestALauncherThatDrainsLeavesRunnersAlone(t *testing.T) {
	t.Parallel()
	r := newRegion(t, ecstest.Options{})
	l := r.launcher(cfg, quick)
	r.queue(one, "wait", 1)
	r.until(one, "scan.stage_completed")
	l.drain()
	r.goOn(one)
	if got, want := r.until(one, "scan.completed"), "queued claimed runner_joined started stage_completed completed"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
}

func TestALauncherThatDrainsGivesBackWhatHasNotJoined(t *testing.T) {
	t.Parallel()
	r := newRegion(t, ecstest.Options{Step: time.Hour})
	l := r.launcher(cfg, quick)
	r.queue(one, "done", 1)
	r.tasks(func(ts []ecstest.Task) bool { return len(ts) == 1 })
	l.drain()
	if got, want := r.until(one, "scan.released"), "queued claimed released"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
	if got := r.stopped(); got[0].ExitCode != -1 {
		t.Errorf("the task ran: %+v", got[0])
	}
}

func TestATaskThatLostItsScanIsStopped(t *testing.T) {
	t.Parallel()
	r := newRegion(t, ecstest.Options{StopTimeout: 100 * time.Millisecond})
	first := r.launcher(cfg, quick)
	r.queue(one, "hang", 1)
	r.until(one, "scan.stage_completed")
	first.die()
	s := r.do(one, scan.Requeue{})
	r.do(one, scan.Expire{Generation: s.Generation, Reason: "test"}) // the last attempt: failed
	o := quick
	o.Linger = time.Nanosecond
	r.launcher(cfg, o)
	if got := r.stopped(); got[0].StoppedReason != "its attempt is over" {
		t.Errorf("stopped because %q", got[0].StoppedReason)
	}
}

func TestATaskThatDoesNotJoinInTimeIsExpiredAndStopped(t *testing.T) {
	t.Parallel()
	r := newRegion(t, ecstest.Options{Step: time.Hour})
	o := quick
	o.Join = 50 * time.Millisecond
	r.launcher(cfg, o)
	r.queue(one, "done", 1)
	r.until(one, "scan.failed")
	if e, want := last[events.ScanFailed](r, one), "attempt 1 was lost (task_stopped: its runner did not join within 50ms) and was the last of 1"; e.Message != want {
		t.Errorf("failed with %q, want %q", e.Message, want)
	}
	r.stopped()
}

func TestCancelEndsTheWaitForRoom(t *testing.T) {
	t.Parallel()
	r := newRegion(t, ecstest.Options{})
	r.ecs.Inject("RunTask", ecstest.Fault{Reason: "RESOURCE:CPU", Always: true})
	r.launcher(cfg, quick)
	r.queue(one, "done", 1)
	r.tasks(func([]ecstest.Task) bool { return r.ecs.Calls("RunTask") > 1 })
	r.do(one, scan.RequestCancel{})
	if got, want := r.until(one, "scan.cancelled"), "queued claimed cancel_requested cancelled"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
}

func TestLaunchesPauseWhenNothingCanBeStarted(t *testing.T) {
	t.Parallel()
	r := newRegion(t, ecstest.Options{})
	r.ecs.Inject("RunTask", ecstest.Fault{Code: "AccessDeniedException", Message: "no", Always: true})
	o := quick
	o.Pause = time.Hour // at most five minutes
	l := r.launcher(cfg, o)
	for i := range 10 {
		r.queue(events.ScanID(fmt.Sprintf("scan_test_%d", i)), "done", 1)
	}
	r.until("scan_test_0", "scan.failed")
	r.tasks(func([]ecstest.Task) bool { return strings.Contains(l.log.String(), "launches paused") })
	l.drain()
	if got := r.ecs.Calls("RunTask"); got > 2 { // one for each slot
		t.Errorf("RunTask was called %d times: a wrong configuration empties the queue", got)
	}
}

func TestTheReasonIsToldWhenSomebodyElseWasFaster(t *testing.T) {
	t.Parallel()
	r := newRegion(t, ecstest.Options{})
	o := quick
	o.Poll = time.Second
	r.launcher(cfg, o)
	r.queue(one, "hang", 2)
	r.until(one, "scan.stage_completed")
	s := r.do(one, scan.Requeue{})
	r.ecs.Signal(r.ecs.Tasks()[0].ARN, syscall.SIGKILL)
	r.stopped()
	r.do(one, scan.Expire{Generation: s.Generation, Reason: "disconnected"})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for l, err := range r.store.FollowFeed(ctx, one, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(fmt.Sprint(l.Payload["message"]), "the task of attempt 1 stopped: EssentialContainerExited") {
			return
		}
	}
	t.Error("nobody said why the task stopped")
}

func TestWhatRunsIsGoneBeforeTheTaskIs(t *testing.T) {
	t.Parallel()
	r := newRegion(t, ecstest.Options{Teardown: time.Hour})
	r.launcher(cfg, quick)
	r.queue(one, "exit", 1)
	r.until(one, "scan.failed")
}

func TestWatchingOutlivesAnOutageOfECS(t *testing.T) {
	t.Parallel()
	r := newRegion(t, ecstest.Options{})
	l := r.launcher(cfg, quick)
	r.queue(one, "wait", 2)
	r.until(one, "scan.stage_completed")
	r.ecs.Inject("DescribeTasks", ecstest.Fault{Code: "ServerException", Message: "internal", Status: 500, Always: true})
	r.ecs.Vanish(r.ecs.Tasks()[0].ARN)
	r.tasks(func([]ecstest.Task) bool { return strings.Contains(l.log.String(), "tasks not described") })
	r.ecs.Clear("DescribeTasks")
	r.until(one, "scan.completed")
}

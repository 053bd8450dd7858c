package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vega/events/eventstore"
	"vega/services/engine"
	"vega/services/intake"
)

// site is an API process in external mode with its embedded log, and workers beside it.
type site struct {
	t     *testing.T
	api   *running
	home  string
	repo  string
	count string // where the timed engine counts the stages that begin
	hold  string // where it reads which stage does not end
	env   []string
}

func newSite(t *testing.T, e timed, env ...string) *site {
	t.Helper()
	s := &site{t: t, home: t.TempDir()}
	s.count, s.hold = filepath.Join(s.home, "count"), filepath.Join(s.home, "hold")
	e.Count, e.Hold = s.count, s.hold
	// The first of a repeated variable counts.
	s.env = append(env, "VEGA_SCAN_EXECUTION_MODE=external", "VEGA_MASK_SECRET=a secret for masks, 32 bytes long", "VEGA_WORKER_DISCONNECT_GRACE_SECONDS=0", e.env(t))
	s.api = serveIn(t, s.home, s.env...)
	var project, repo struct{ ID string }
	s.api.do(t, http.MethodPost, "/projects", map[string]string{"name": "p"}, &project)
	s.api.do(t, http.MethodPost, "/projects/"+project.ID+"/repositories", map[string]string{"name": "r", "source_type": "upload"}, &repo)
	var archive bytes.Buffer
	if _, err := intake.PackDir(t.Context(), tree(t, leaky()), &archive, intake.PackOptions{}); err != nil {
		t.Fatal(err)
	}
	s.api.do(t, http.MethodPost, "/repositories/"+repo.ID+"/source", archive.Bytes(), &struct{}{})
	s.repo = repo.ID
	return s
}

// worker starts a worker on the API's machine.
func (s *site) worker(env ...string) *process {
	s.t.Helper()
	p := newProcess(s.t, "worker", s.home, slices.Concat(env, s.env, []string{"VEGA_SERVICE_ROLE=worker"}))
	p.start()
	return p
}

// elsewhere starts a worker on a machine of its own: another data folder, whose files are a mount of the API's.
func (s *site) elsewhere(natsURL string, env ...string) *process {
	s.t.Helper()
	home := s.t.TempDir()
	if err := os.Mkdir(filepath.Join(home, "data"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(s.home, "data", "files"), filepath.Join(home, "data", "files")); err != nil {
		s.t.Fatal(err)
	}
	p := newProcess(s.t, "worker elsewhere", home, slices.Concat(env, s.env, []string{"VEGA_SERVICE_ROLE=worker", "VEGA_NATS_URL=" + natsURL}))
	p.start()
	return p
}

// natsURL is the embedded log's address, with its password, as another machine would be told it.
func (s *site) natsURL() string {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.home, "data", "nats", "connection.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	var d struct {
		Port           int
		User, Password string
	}
	if err := json.Unmarshal(b, &d); err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintf("nats://%s:%s@127.0.0.1:%d", d.User, d.Password, d.Port)
}

func (s *site) store() *eventstore.Store {
	s.t.Helper()
	nc, err := eventstore.Connect(s.natsURL(), "")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	store, err := eventstore.Open(s.t.Context(), nc, eventstore.Options{Region: "local"})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(store.Close)
	return store
}

func (s *site) scan() string {
	s.t.Helper()
	var v struct{ ID string }
	s.api.do(s.t, http.MethodPost, "/repositories/"+s.repo+"/scans", map[string]any{}, &v)
	return v.ID
}

func (s *site) status(id string) (v struct {
	Status   string
	Attempt  int
	WorkerID string `json:"worker_id"`
}) {
	s.t.Helper()
	s.api.do(s.t, http.MethodGet, "/scans/"+id, nil, &v)
	return v
}

func (s *site) await(id, status string) {
	s.t.Helper()
	until(s.t, 2*time.Minute, id+" is "+status, func() bool { return s.status(id).Status == status })
}

// history is a scan's events, without "scan.".
func (s *site) history(id string) []string {
	s.t.Helper()
	var page struct {
		Items []struct{ Type string }
	}
	s.api.do(s.t, http.MethodGet, "/scans/"+id+"/history?limit=1000", nil, &page)
	var out []string
	for _, e := range page.Items {
		out = append(out, strings.TrimPrefix(e.Type, "scan."))
	}
	return out
}

// begun says how often each stage of a scan has begun.
func (s *site) begun(id string) map[string]int {
	out := map[string]int{}
	b, _ := os.ReadFile(s.count) // none yet: nothing has begun
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			out[f[1]]++
		}
	}
	return out
}

func (s *site) holdStage(name string) {
	s.t.Helper()
	if err := os.WriteFile(s.hold, []byte(name), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) workers() (items []struct {
	ID       string
	Scans    []string
	Draining bool
}) {
	s.t.Helper()
	var page struct {
		Items []struct {
			ID       string
			Scans    []string
			Draining bool
		}
	}
	s.api.do(s.t, http.MethodGet, "/ops/workers", nil, &page)
	return page.Items
}

func TestAWorkerStartedBeforeTheAPIWaitsForIt(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	w := newProcess(t, "worker", home, []string{"VEGA_SERVICE_ROLE=worker"})
	w.start()
	until(t, time.Minute, "it says what it waits for", func() bool {
		b, err := os.ReadFile(w.log.Name())
		return err == nil && bytes.Contains(b, []byte("waiting for the API process"))
	})
	s := serveIn(t, home, "VEGA_SCAN_EXECUTION_MODE=external")
	out, errs, code := vega(t, home, []string{"VEGA_DATA_DIR=data"}, "scan", "--quiet", tree(t, leaky()))
	if code != exitFindings || !strings.Contains(out, "config/prod.go") {
		t.Errorf("scan by the worker: exit %d\n%s%s", code, out, errs)
	}
	s.stop(t)
	if err := w.stop(); err != nil {
		t.Errorf("the worker ended with %v", err)
	}
}

// What was recorded is not done again, wherever the next attempt runs.
func TestAScanGoesOnAfterItsLastStageOnAnotherMachine(t *testing.T) {
	t.Parallel()
	s := newSite(t, timed{Stages: 5, Takes: 10 * time.Millisecond})
	stages := engine.StageNames()
	s.holdStage(stages[2])
	first := s.worker()
	id := s.scan()
	until(t, time.Minute, "the third stage has begun", func() bool { return s.begun(id)[stages[2]] == 1 })
	second := s.elsewhere(s.natsURL())
	until(t, time.Minute, "the second worker is there", func() bool { return len(s.workers()) == 2 })
	first.kill()
	s.holdStage("")
	s.await(id, "completed")
	if got := s.begun(id); got[stages[0]] != 1 || got[stages[1]] != 1 || got[stages[2]] != 2 || got[stages[3]] != 1 || got[stages[4]] != 1 {
		t.Errorf("stages begun: %v; want only %s twice", got, stages[2])
	}
	if got, want := strings.Join(s.history(id), " "), "queued claimed started stage_completed stage_completed expired claimed started stage_completed stage_completed stage_completed completed"; got != want {
		t.Errorf("history %s, want %s", got, want)
	}
	if err := second.stop(); err != nil {
		t.Errorf("the second worker ended with %v", err)
	}
}

// A worker that sleeps while its scan is given away and finished changes nothing when it wakes up, and what it made is never served.
func TestAWorkerThatWakesUpTooLateChangesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, timed{Stages: 3, Takes: 10 * time.Millisecond}, "VEGA_WORKER_HEARTBEAT_TTL_SECONDS=1")
	stages := engine.StageNames()
	s.holdStage(stages[1])
	sleeper := s.worker()
	id := s.scan()
	until(t, time.Minute, "the second stage has begun", func() bool { return s.begun(id)[stages[1]] == 1 })
	owner := s.status(id).WorkerID
	sleeper.signal(syscall.SIGSTOP)
	s.worker()
	s.holdStage("")
	s.await(id, "completed")
	before := s.history(id)
	if want := "queued claimed started stage_completed expired claimed started stage_completed stage_completed completed"; strings.Join(before, " ") != want {
		t.Errorf("history %s, want %s", strings.Join(before, " "), want)
	}
	sleeper.signal(syscall.SIGCONT)
	until(t, time.Minute, "the sleeper has put its scan down", func() bool {
		for _, w := range s.workers() {
			if w.ID == owner {
				return len(w.Scans) == 0
			}
		}
		return false
	})
	if after := s.history(id); !slices.Equal(before, after) {
		t.Errorf("after it woke up: %v", after[len(before):])
	}
	// What is kept of the scan beside what its events name came from the sleeper, if anything did; the API serves the named objects alone.
	var artifacts struct{ Items []struct{ Name string } }
	s.api.do(t, http.MethodGet, "/scans/"+id+"/artifacts", nil, &artifacts)
	if len(artifacts.Items) != 0 {
		t.Errorf("artifacts %v of an engine that records none", artifacts.Items)
	}
	if err := sleeper.stop(); err != nil {
		t.Errorf("the sleeper ended with %v", err)
	}
}

// When "cancelled" is in the log nothing of the scan runs any more, whatever stage it was in.
func TestCancellingDuringEachStageEndsItsProcesses(t *testing.T) {
	t.Parallel()
	s := newSite(t, timed{Stages: 4, Takes: 5 * time.Millisecond, Process: true})
	s.worker()
	for _, stage := range engine.StageNames()[:4] {
		s.holdStage(stage)
		id := s.scan()
		until(t, time.Minute, stage+" runs", func() bool { return len(commandsOf(s.home)) >= 3 })
		asked := time.Now()
		s.api.do(t, http.MethodPost, "/scans/"+id+"/cancel", map[string]any{}, nil)
		s.await(id, "cancelled")
		left := commandsOf(s.home)
		t.Logf("%s: cancelled %s after it was asked for", stage, time.Since(asked).Round(time.Millisecond))
		if len(left) > 0 {
			t.Errorf("%s: processes %v live after the scan was cancelled", stage, left)
		}
		h := s.history(id)
		if h[len(h)-1] != "cancelled" || h[len(h)-2] != "cancel_requested" {
			t.Errorf("%s: history %v", stage, h)
		}
	}
}

// commandsOf are the living processes that a worker's scans have started, by the attempt's folder in their environment.
func commandsOf(home string) []string {
	var out []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		environ, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil || !bytes.Contains(environ, []byte("VEGA_PROCESS_MARK="+home)) {
			continue
		}
		if stat, err := os.ReadFile(filepath.Join(dir, "stat")); err == nil && !bytes.Contains(stat, []byte(") Z ")) {
			out = append(out, filepath.Base(dir))
		}
	}
	return out
}

// A killed worker's processes end with its folder, which the next worker of the machine clears.
func TestWhatAKilledWorkerLeftRunningEndsWithTheNextOne(t *testing.T) {
	t.Parallel()
	s := newSite(t, timed{Stages: 2, Takes: 5 * time.Millisecond, Process: true})
	s.holdStage(engine.StageNames()[0])
	first := s.worker()
	id := s.scan()
	until(t, time.Minute, "the stage runs", func() bool { return len(commandsOf(s.home)) >= 3 })
	first.kill()
	s.holdStage("")
	s.worker()
	s.await(id, "completed")
	if left := commandsOf(s.home); len(left) > 0 {
		t.Errorf("processes %v live", left)
	}
}

// Stopping a worker gives its scans to the others without counting an attempt; draining one lets it finish.
func TestARollingRestartCountsNoAttempts(t *testing.T) {
	t.Parallel()
	s := newSite(t, timed{Stages: 3, Takes: 10 * time.Millisecond}, "VEGA_SCAN_MAX_ATTEMPTS=1", "VEGA_WORKER_DRAIN_SECONDS=0")
	stages := engine.StageNames()
	s.holdStage(stages[1])
	old := s.worker()
	id := s.scan()
	until(t, time.Minute, "the second stage has begun", func() bool { return s.begun(id)[stages[1]] == 1 })
	if err := old.stop(); err != nil {
		t.Errorf("the old worker ended with %v", err)
	}
	s.worker()
	until(t, time.Minute, "the second stage has begun again", func() bool { return s.begun(id)[stages[1]] == 2 })

	drained := s.status(id).WorkerID
	s.api.do(t, http.MethodPost, "/ops/workers/"+drained+"/drain", nil, nil)
	waits := s.scan()
	s.worker()
	until(t, time.Minute, "the third worker runs the next scan", func() bool { return s.begun(waits)[stages[1]] == 1 })
	if by := s.status(waits).WorkerID; by == drained {
		t.Error("the draining worker took another scan")
	}
	s.holdStage("")
	s.await(id, "completed")
	s.await(waits, "completed")
	if v := s.status(id); v.Attempt != 2 || v.WorkerID != drained {
		t.Errorf("ended in attempt %d by %s, want the second by the one that drained", v.Attempt, v.WorkerID)
	}
	until(t, time.Minute, "the list says who drains", func() bool {
		for _, w := range s.workers() {
			if w.Draining != (w.ID == drained) {
				return false
			}
		}
		return true
	})
}

// A log that is away for longer than a heartbeat lives takes no scan from a worker that was there all the time.
func TestALogThatIsAwayForLongerThanTheTTLExpiresNoLiveWorker(t *testing.T) {
	t.Parallel()
	s := newSite(t, timed{Stages: 3, Takes: 10 * time.Millisecond}, "VEGA_WORKER_HEARTBEAT_TTL_SECONDS=1", "VEGA_LISTEN_ADDR=127.0.0.1:0")
	stages := engine.StageNames()
	s.holdStage(stages[1])
	s.worker()
	id := s.scan()
	until(t, time.Minute, "the second stage has begun", func() bool { return s.begun(id)[stages[1]] == 1 })
	for range 2 {
		_ = s.api.cmd.Process.Kill() // the log goes with it
		_ = s.api.cmd.Wait()
		<-time.After(2500 * time.Millisecond) // the outage
		s.api = serveIn(t, s.home, s.env...)
	}
	// Long enough for whoever would judge.
	<-time.After(2500 * time.Millisecond)
	s.holdStage("")
	s.await(id, "completed")
	if got, want := strings.Join(s.history(id), " "), "queued claimed started stage_completed stage_completed stage_completed completed"; got != want {
		t.Errorf("history %s, want %s", got, want)
	}
}

// What a stage has worked out while the log was away is recorded when it is back, however long that took.
func TestAResultIsKeptWhileTheLogIsAway(t *testing.T) {
	t.Parallel()
	s := newSite(t, timed{Stages: 3, Takes: 10 * time.Millisecond})
	stages := engine.StageNames()
	s.holdStage(stages[1])
	s.worker()
	id := s.scan()
	until(t, time.Minute, "the second stage has begun", func() bool { return s.begun(id)[stages[1]] == 1 })
	_ = s.api.cmd.Process.Kill() // the log goes with it
	_ = s.api.cmd.Wait()
	s.holdStage("")
	<-time.After(12 * time.Second) // the outage: longer than one append is tried
	s.api = serveIn(t, s.home, s.env...)
	s.await(id, "completed")
	if got := s.begun(id); got[stages[1]] != 1 {
		t.Errorf("the stage was run %d times", got[stages[1]])
	}
	if got, want := strings.Join(s.history(id), " "), "queued claimed started stage_completed stage_completed stage_completed completed"; got != want {
		t.Errorf("history %s, want %s", got, want)
	}
}

// A scan without a server keeps everything in the state folder, its working files too.
func TestAScanLeavesNothingWhereItWasStarted(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	if _, errs, code := vega(t, home, nil, "scan", "--quiet", tree(t, leaky())); code != exitFindings {
		t.Fatalf("exit %d: %s", code, errs)
	}
	left, err := os.ReadDir(home)
	if err != nil || len(left) != 1 || left[0].Name() != ".local" {
		t.Errorf("the folder holds %v, %v; want the state folder alone", left, err)
	}
}

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
)

// stages is an engine that does what a test says; the real one is tested beside itself.
type stages func(context.Context, engine.Job, engine.Recorder) (engine.Outcome, error)

func (s stages) Run(ctx context.Context, j engine.Job, r engine.Recorder) (engine.Outcome, error) {
	return s(ctx, j, r)
}
func (stages) Version() string                          { return "test" }
func (stages) PackDigest() events.Digest                { return "sha256:pack" }
func (stages) Model(asked string) string                { return asked }
func (stages) RemoveLeft(context.Context, string) error { return nil }

// noSource is a snapshot store with nothing in it; broken is one that cannot be read.
type noSource struct{ broken error }

func (n noSource) Checkout(context.Context, events.SnapshotID, string) error { return n.broken }

type objects struct{ *files.Local }

func (o objects) Put(ctx context.Context, key string, r io.Reader) error {
	_, err := o.Local.Put(ctx, key, r)
	return err
}
func (o objects) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	r, _, err := o.Local.Open(ctx, key)
	return r, err
}

type bench struct {
	t       *testing.T
	store   *eventstore.Store
	stop    func() // ends the worker and waits for it
	runtime string
}

func start(t *testing.T, e worker.Engine, src worker.Source, timeout time.Duration) *bench {
	t.Helper()
	return startWith(t, e, src, timeout, func(q worker.Queue) worker.Queue { return q })
}

func startWith(t *testing.T, e worker.Engine, src worker.Source, timeout time.Duration, queue func(worker.Queue) worker.Queue) *bench {
	t.Helper()
	b := &bench{t: t, store: natstest.Open(t), runtime: t.TempDir()}
	log := slog.New(slog.DiscardHandler)
	store, err := files.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m, err := fleet.Join(t.Context(), b.store, fleet.Worker{ID: "work_test_w", Slots: 2}, time.Minute, log)
	if err != nil {
		t.Fatal(err)
	}
	q := dispatch.NewLocal(b.store)
	w, err := worker.New(worker.Parts{Store: b.store, Queue: queue(q), Member: m, Source: src, Objects: objects{store}, Engine: e, Log: log},
		worker.Options{Slots: 2, Timeout: timeout, RuntimeRoot: b.runtime, Host: "h"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- q.Run(ctx, 0) }()
	go func() { ended <- w.Run(ctx) }()
	stopped := false
	b.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("stopped with %v", err)
			}
		}
		_ = store.Close()
	}
	t.Cleanup(b.stop)
	return b
}

func (b *bench) do(id events.ScanID, c scan.Command) scan.Scan {
	b.t.Helper()
	meta := events.Meta{Command: events.NewCommandID(), Actor: events.BySystem("test"), At: time.Now()}
	s, _, err := eventstore.Do(b.t.Context(), b.store, events.ScanOf(natstest.Region, id), meta, func(s scan.Scan, _ events.Head) ([]events.Event, error) {
		return scan.Decide(s, c)
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func (b *bench) queue(id events.ScanID) scan.Scan {
	b.t.Helper()
	return b.do(id, scan.Queue{Request: events.ScanQueued{Project: "p", Repository: "r", Snapshot: "sha256:0", User: "u", Priority: events.Normal, MaxAttempts: 2}})
}

// until follows a scan to an event of kind k and returns all kinds up to it.
func (b *bench) until(id events.ScanID, k events.Kind) string {
	b.t.Helper()
	var kinds []string
	for r, err := range b.store.Follow(b.t.Context(), 0, events.ScanOf(natstest.Region, id).Filter()) {
		if err != nil {
			b.t.Fatal(err)
		}
		kinds = append(kinds, strings.TrimPrefix(string(r.Kind), "scan."))
		if r.Kind == k {
			return strings.Join(kinds, " ")
		}
		if scan.Ends(r.Kind) {
			b.t.Fatalf("ended with %s, waiting for %s", strings.Join(kinds, " "), k)
		}
	}
	b.t.Fatalf("only %s, waiting for %s", strings.Join(kinds, " "), k)
	return ""
}

func TestAQueuedScanIsRunToItsEnd(t *testing.T) {
	t.Parallel()
	b := start(t, stages(func(ctx context.Context, j engine.Job, r engine.Recorder) (engine.Outcome, error) {
		o, err := r.Put(ctx, "inventory.json", "application/json", strings.NewReader("{}"))
		if err != nil {
			return engine.Outcome{}, err
		}
		in, err := r.Get(ctx, o)
		if err != nil {
			return engine.Outcome{}, err
		}
		if got, err := io.ReadAll(in); string(got) != "{}" || err != nil {
			t.Errorf("read back %q, %v", got, err)
		}
		if err := r.Findings(ctx, "merge", []events.Finding{{ID: "f", Severity: events.SeverityHigh}}); err != nil {
			return engine.Outcome{}, err
		}
		return engine.Outcome{Coverage: events.Coverage{State: events.CoverageComplete}}, r.Stage(ctx, events.StageCompleted{Stage: "inventory", Result: &o})
	}), noSource{}, time.Minute)
	b.queue("scan_test_a")
	if got, want := b.until("scan_test_a", "scan.completed"), "queued claimed started findings_recorded stage_completed completed"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
	b.stop()
	if left, _ := filepath.Glob(filepath.Join(b.runtime, "process-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCancelStopsTheWorkBeforeItIsSaid(t *testing.T) {
	t.Parallel()
	running, stopped := make(chan struct{}), make(chan struct{})
	b := start(t, stages(func(ctx context.Context, _ engine.Job, _ engine.Recorder) (engine.Outcome, error) {
		close(running)
		<-ctx.Done()
		close(stopped)
		return engine.Outcome{}, context.Cause(ctx)
	}), noSource{}, time.Minute)
	b.queue("scan_test_a")
	<-running
	if s := b.do("scan_test_a", scan.RequestCancel{}); s.Status != scan.Cancelling {
		t.Errorf("status %s while the work runs", s.Status)
	}
	b.until("scan_test_a", "scan.cancelled")
	select {
	case <-stopped:
	default:
		t.Error("cancelled was recorded while the work went on")
	}
}

func TestASupersededAttemptStopsAndWritesNothing(t *testing.T) {
	t.Parallel()
	running := make(chan struct{})
	wrote := make(chan error, 1)
	first := true
	b := start(t, stages(func(ctx context.Context, _ engine.Job, r engine.Recorder) (engine.Outcome, error) {
		if !first {
			return engine.Outcome{}, nil
		}
		first = false
		close(running)
		<-ctx.Done()
		wrote <- r.Stage(context.WithoutCancel(ctx), events.StageCompleted{Stage: "late"})
		return engine.Outcome{}, context.Cause(ctx)
	}), noSource{}, time.Minute)
	b.queue("scan_test_a")
	<-running
	past, _, err := b.store.Load(t.Context(), events.ScanOf(natstest.Region, "scan_test_a"), events.Head{})
	if err != nil {
		t.Fatal(err)
	}
	b.do("scan_test_a", scan.Expire{Generation: past[1].Seq, Reason: "test"})
	if err := <-wrote; !errors.Is(err, scan.ErrSuperseded) {
		t.Errorf("late write = %v, want ErrSuperseded", err)
	}
	if got, want := b.until("scan_test_a", "scan.completed"), "queued claimed started expired claimed started completed"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
}

func TestShutdownReleasesWhatRuns(t *testing.T) {
	t.Parallel()
	running := make(chan struct{})
	b := start(t, stages(func(ctx context.Context, _ engine.Job, _ engine.Recorder) (engine.Outcome, error) {
		close(running)
		<-ctx.Done()
		return engine.Outcome{}, context.Cause(ctx)
	}), noSource{}, time.Minute)
	b.queue("scan_test_a")
	<-running
	b.stop()
	if got, want := b.until("scan_test_a", "scan.released"), "queued claimed started released"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
}

func TestHowAnAttemptFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		engine  stages
		source  noSource
		timeout time.Duration
		code    string
	}{
		"no source": {nil, noSource{errors.New("gone")}, time.Minute, "source_unavailable"},
		"engine": {func(context.Context, engine.Job, engine.Recorder) (engine.Outcome, error) {
			return engine.Outcome{}, errors.New("x")
		}, noSource{}, time.Minute, "engine_failed"},
		"too long": {func(ctx context.Context, _ engine.Job, _ engine.Recorder) (engine.Outcome, error) {
			<-ctx.Done()
			return engine.Outcome{}, context.Cause(ctx)
		}, noSource{}, time.Millisecond, "timed_out"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, c.engine, c.source, c.timeout)
			b.queue("scan_test_a")
			b.until("scan_test_a", "scan.failed")
			if s := b.do("scan_test_a", scan.Requeue{}); s.Failure == nil || s.Failure.Code != c.code {
				t.Errorf("failure %+v, want %s", s.Failure, c.code)
			}
		})
	}
}

// twice gives every hint to two slots, as a queue does whose acknowledgement is late.
type twice struct {
	worker.Queue
	hints chan dispatch.Hint
}

func (q *twice) Next(ctx context.Context) (dispatch.Hint, error) {
	select {
	case h := <-q.hints:
		return h, nil
	case <-ctx.Done():
		return dispatch.Hint{}, ctx.Err()
	}
}

func TestAHintThatComesTwiceIsRunOnce(t *testing.T) {
	t.Parallel()
	runs := make(chan struct{}, 10)
	finish := make(chan struct{})
	var q *twice
	b := startWith(t, stages(func(context.Context, engine.Job, engine.Recorder) (engine.Outcome, error) {
		runs <- struct{}{}
		<-finish
		return engine.Outcome{}, nil
	}), noSource{}, time.Minute, func(real worker.Queue) worker.Queue {
		q = &twice{real, make(chan dispatch.Hint, 2)}
		return q
	})
	s := b.queue("scan_test_a")
	h := dispatch.Hint{Scan: "scan_test_a", Seq: s.Seq, Priority: events.Normal}
	q.hints <- h
	<-runs
	q.hints <- h
	b.queue("scan_test_b") // its hint is acted on by the slot that has dropped the second one
	q.hints <- dispatch.Hint{Scan: "scan_test_b", Seq: b.do("scan_test_b", scan.Requeue{}).Seq}
	<-runs
	close(finish)
	if got, want := b.until("scan_test_a", "scan.completed"), "queued claimed started completed"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
	if len(runs) > 0 {
		t.Error("the attempt was run twice")
	}
}

// A worker of this release that finds a fact of the next one in its scan puts the scan down and writes nothing: it cannot know what that fact means.
func TestAScanWithEventsOfANewerReleaseIsPutDown(t *testing.T) {
	t.Parallel()
	running, stopped := make(chan struct{}), make(chan error, 1)
	b := start(t, stages(func(ctx context.Context, _ engine.Job, _ engine.Recorder) (engine.Outcome, error) {
		close(running)
		<-ctx.Done()
		stopped <- context.Cause(ctx)
		return engine.Outcome{}, context.Cause(ctx)
	}), noSource{}, time.Minute)
	b.queue("scan_test_a")
	<-running
	agg := events.ScanOf(natstest.Region, "scan_test_a")
	_, head, err := b.store.Load(t.Context(), agg, events.Head{})
	if err != nil {
		t.Fatal(err)
	}
	msgs, _, err := events.Encode(agg, head, events.Meta{Command: events.NewCommandID(), Actor: events.BySystem("newer"), At: time.Now()}, events.CancelRequested{})
	if err != nil {
		t.Fatal(err)
	}
	m := msgs[0]
	m.Header["ce-type"], m.Header["ce-dataschema"] = "scan.teleported", "vega:scan.teleported/1"
	m.Header["Audit-Hash"] = string(events.Link(head.Hash, m))
	h := nats.Header{}
	for k, v := range m.Header {
		h[k] = []string{v}
	}
	if _, err := b.store.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject, Header: h, Data: m.Body}); err != nil {
		t.Fatal(err)
	}
	if err := <-stopped; !errors.Is(err, eventstore.ErrNewerEvents) {
		t.Errorf("the work was stopped because of %v", err)
	}
	b.stop()
	past, _, err := b.store.Load(t.Context(), agg, events.Head{})
	if err != nil || len(past) != 4 {
		t.Errorf("%d events, %v; want nothing after the newer one", len(past), err)
	}
}

// A worker that does not see the files gives the scan to those that do, and takes no other for a while.
func TestAWorkerWithoutTheFilesTakesNoMoreScans(t *testing.T) {
	t.Parallel()
	b := start(t, nil, noSource{fmt.Errorf("manifest: %w", files.ErrNotFound)}, time.Minute)
	b.queue("scan_test_a")
	if got, want := b.until("scan_test_a", "scan.expired"), "queued claimed expired"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
	b.queue("scan_test_b")
	b.stop() // at once, although it rests
	for _, id := range []events.ScanID{"scan_test_a", "scan_test_b"} {
		if s := b.do(id, scan.Requeue{}); s.Status != scan.Queued {
			t.Errorf("%s is %s", id, s.Status)
		}
	}
}

// While the file storage is away a scan goes back to the queue, and the attempt does not count.
func TestAScanWaitsForTheFileStorage(t *testing.T) {
	t.Parallel()
	b := start(t, nil, noSource{fmt.Errorf("manifest: %w", files.ErrUnavailable)}, time.Minute)
	b.queue("scan_test_a")
	if got, want := b.until("scan_test_a", "scan.claimed"), "queued claimed"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}
	b.stop()
	if s := b.do("scan_test_a", scan.Requeue{}); s.Status != scan.Queued || s.Spent != 0 {
		t.Errorf("the scan is %s with %d attempts counted, want queued and none", s.Status, s.Spent)
	}
}

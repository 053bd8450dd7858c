package peers

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/projections"
	"vega/projections/jsonfile"
	"vega/services/dispatch"
	"vega/services/engine"
	"vega/services/fleet"
	"vega/services/scan"
	"vega/services/worker"
)

// parts say which of the product's parts are used.
type parts struct {
	external bool // the queue of workers anywhere, instead of the one in this process's memory
	limits   bool // scans are admitted within their users' limits, which is one more event and one more question to the log
}

// vega is the product without its HTTP API, put together as cmd/vega does it: the log, a queue, a worker, the read model.
type vega struct {
	store     *eventstore.Store
	runner    *projections.Runner
	admission *dispatch.Admission // nil: scans are queued without looking at their users' limits
	events    events.Seq          // of one job
	at        events.Seq
	stop      func()
}

// timed is an engine that takes no time: it reports each step and nothing else.
type timed struct{ task task }

func (timed) Version() string                          { return "none" }
func (timed) PackDigest() events.Digest                { return "" }
func (timed) Model(asked string) string                { return asked }
func (timed) RemoveLeft(context.Context, string) error { return nil }

func (t timed) Run(ctx context.Context, j engine.Job, r engine.Recorder) (engine.Outcome, error) {
	t.task.started(string(j.Scan))
	for i := range t.task.updates {
		if err := r.Stage(ctx, events.StageCompleted{Stage: stageName(i), Status: events.StageDone}); err != nil {
			return engine.Outcome{}, err
		}
	}
	for i := range t.task.lines {
		r.Progress(ctx, engine.Progress{Message: stageName(i), Percent: 10 * i})
	}
	return engine.Outcome{Coverage: events.Coverage{State: events.CoverageComplete}}, nil
}

// nowhere is where log lines go: they are made, as they are in production.
type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }

// nothing is the source of every scan.
type nothing struct{}

func (nothing) Checkout(context.Context, events.SnapshotID, string) error { return nil }

// runningQueue is a queue and the loop behind it.
type runningQueue interface {
	worker.Queue
	Run(context.Context) error
}

func openVega(b *testing.B, t task, with parts) *vega {
	b.Helper()
	log := slog.New(slog.NewJSONHandler(nowhere{}, nil))
	store, stopStore := natstest.Start(b, b.TempDir(), t.powerSafe)
	v := &vega{store: store, events: events.Seq(4 + t.updates)}
	if with.limits {
		v.admission = dispatch.NewAdmission(store, 10)
		v.events++
	}
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	model, err := jsonfile.Open(b.TempDir())
	must(err)
	v.runner, err = projections.NewRunner(b.Context(), store, model, log)
	must(err)
	member, err := fleet.Join(b.Context(), store, fleet.Worker{ID: events.NewWorkerID(natstest.Region), Slots: slots}, 2*time.Minute, log)
	must(err)
	var q runningQueue
	if with.external {
		must(dispatch.Ensure(b.Context(), store, dispatch.ModeExternal, 0))
		q = dispatch.NewExternal(store, log)
	} else {
		local := dispatch.NewLocal(store)
		q = localQueue{local}
	}
	w, err := worker.New(worker.Parts{Store: store, Queue: q, Member: member, Source: nothing{}, Engine: timed{t}, Log: log},
		worker.Options{Slots: slots, Timeout: time.Hour, RuntimeRoot: b.TempDir(), Host: "bench"})
	must(err)
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{v.runner.Run, member.Run, q.Run, w.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				b.Error(err)
			}
		})
	}
	v.stop = func() {
		cancel()
		running.Wait()
		must(model.Close())
		stopStore()
	}
	return v
}

type localQueue struct{ *dispatch.Local }

func (q localQueue) Run(ctx context.Context) error { return q.Local.Run(ctx, 0) }

func (v *vega) enqueue(ctx context.Context, n int) error {
	id := events.ScanID("scan_test_" + strconv.Itoa(n))
	user := events.UserID("user_" + strconv.Itoa(n)) // limits are per user and not what is measured
	meta := events.Meta{Command: events.CommandIDFor("create", string(id)), Actor: events.ByUser(user), At: time.Now().UTC()}
	req := events.ScanQueued{Project: "proj_test_bench", Repository: "repo_test_bench", Snapshot: request, User: user, Priority: events.Normal, MaxAttempts: 3}
	if v.admission != nil {
		_, _, err := v.admission.Create(ctx, meta, id, req)
		return err
	}
	evs, err := scan.Decide(scan.Scan{}, scan.Queue{Request: req})
	if err == nil {
		_, err = v.store.Append(ctx, events.ScanOf(natstest.Region, id), events.Head{}, meta, evs...)
	}
	return err
}

// wait returns when n more scans are over and the read model has their last event: the log holds nothing but theirs.
func (v *vega) wait(b *testing.B, n int) {
	b.Helper()
	v.at += events.Seq(n) * v.events
	ctx, cancel := context.WithTimeout(b.Context(), 2*time.Minute)
	defer cancel()
	// Looked at now and then: WaitFor would ask the read model to hurry, as a client does who has written something.
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for v.runner.At() < v.at {
		select {
		case <-tick.C:
		case <-ctx.Done():
			b.Fatalf("the read model stands at %d, want %d", v.runner.At(), v.at)
		}
	}
	if info, err := v.store.Info(ctx); err != nil || info.Last != v.at {
		b.Fatalf("the log ends at %d, want %d; %v", info.Last, v.at, err)
	}
}

func (v *vega) close(*testing.B) { v.stop() }

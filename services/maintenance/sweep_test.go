package maintenance_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/catalog"
	"vega/services/files"
	"vega/services/intake"
	"vega/services/maintenance"
)

// deliveries is a queue that has handed over everything up to a sequence.
type deliveries struct {
	mu     sync.Mutex
	upTo   map[events.Priority]events.Seq
	broken error
}

func (d *deliveries) Delivered(context.Context) (map[events.Priority]events.Seq, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.upTo, d.broken
}

// yard is a maintenance over a real log in real time, whose sweeps tests make themselves.
type yard struct {
	*world
	*maintenance.Maintenance
	files *files.Local
	hints *deliveries
	logs  *bytes.Buffer
}

func newYard(t *testing.T) *yard {
	t.Helper()
	store, err := files.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	y := &yard{world: &world{t: t, admin: natstest.Open(t)}, files: store, hints: &deliveries{}, logs: &bytes.Buffer{}}
	y.Maintenance = maintenance.New(
		maintenance.Parts{Store: y.admin, Files: store, Delivered: y.hints, Log: slog.New(slog.NewTextHandler(y.logs, nil))},
		maintenance.Options{HeartbeatTTL: ttl, Config: maintenance.Config{RunningStale: 6 * time.Hour, IngestStale: time.Hour}})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- y.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
		_ = store.Close()
	})
	return y
}

// seen waits until maintenance knows everything that is in the log.
func (y *yard) seen() {
	y.t.Helper()
	info, err := y.admin.Info(y.t.Context())
	if err != nil {
		y.t.Fatal(err)
	}
	for range 5000 {
		if s := y.Status(); s.Seen >= info.Last && !s.LastSweep.IsZero() {
			return
		}
		y.pass(2 * time.Millisecond)
	}
	y.t.Fatalf("at %+v, want %d", y.Status(), info.Last)
}

func (y *yard) sweep(in time.Duration) {
	y.t.Helper()
	y.seen()
	if err := y.Sweep(y.t.Context(), time.Now().Add(in)); err != nil {
		y.t.Fatal(err)
	}
}

func TestASweepTakesOnlyWhatRunsTooLong(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.put("scan_test_a", queued, events.AttemptClaimed{Attempt: 1, Worker: "work_test_a"}, events.AttemptStarted{Attempt: 1, Worker: "work_test_a"})
	y.put("scan_test_b", queued, events.AttemptClaimed{Attempt: 1, Worker: "work_test_a"})
	y.put("scan_test_c", queued, events.AttemptClaimed{Attempt: 1, Worker: "work_test_a"}, events.CancelRequested{})
	y.put("scan_test_waits", queued)
	y.sweep(time.Hour)
	y.wantHistory("scan_test_a", claimedAndStarted)
	y.sweep(7 * time.Hour)
	y.sweep(7 * time.Hour)
	y.wantHistory("scan_test_a", claimedAndStarted+" expired(running_stale)")
	y.wantHistory("scan_test_b", "queued claimed expired(running_stale)")
	y.wantHistory("scan_test_c", "queued claimed cancel_requested cancelled")
	y.wantHistory("scan_test_waits", "queued")
	if n := y.Status().Expired[maintenance.RunningStale]; n != 3 {
		t.Errorf("%d are counted, want 3", n)
	}
}

func TestALostHintIsRenewedOnceForEachLoss(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	lost := y.put("scan_test_lost", queued)[0].Seq
	y.put("scan_test_claimed", queued, events.AttemptClaimed{Attempt: 1, Worker: "work_test_a"})
	other := queued
	other.Priority = events.High
	y.put("scan_test_other", other)
	upTo := y.put("scan_test_expired", queued, events.AttemptClaimed{Attempt: 1, Worker: "work_test_a"}, events.AttemptExpired{Attempt: 1, Priority: events.Normal})[2].Seq
	later := y.put("scan_test_later", queued)[0].Seq
	y.hints.upTo = map[events.Priority]events.Seq{events.Normal: upTo}

	y.sweep(0)
	y.wantHistory("scan_test_lost", "queued") // its claim may be on its way
	y.sweep(time.Minute)
	y.sweep(time.Minute)
	y.wantHistory("scan_test_lost", "queued queued")
	y.wantHistory("scan_test_expired", "queued claimed expired() queued")
	y.wantHistory("scan_test_claimed", "queued claimed")
	y.wantHistory("scan_test_other", "queued")
	y.wantHistory("scan_test_later", "queued")
	again := y.load("scan_test_lost")[1]
	if again.Cause == "" || again.Event.(events.ScanQueued).Priority != events.Normal {
		t.Errorf("recorded %+v", again)
	}
	if !(lost < upTo && upTo < later) {
		t.Errorf("sequences %d, %d, %d", lost, upTo, later)
	}

	y.hints.mu.Lock()
	y.hints.upTo[events.Normal] = again.Seq // the new one is lost too
	y.hints.mu.Unlock()
	y.sweep(time.Minute)
	y.wantHistory("scan_test_lost", "queued queued queued")
	y.hints.mu.Lock()
	y.hints.broken = eventstore.ErrUnavailable
	y.hints.mu.Unlock()
	if err := y.Sweep(t.Context(), time.Now()); !errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("Sweep without an answer of the queue = %v", err)
	}
}

func TestAnIngestionThatNobodyWorksOnIsEnded(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	repo := func(id events.RepositoryID) events.Aggregate { return events.RepositoryOf(natstest.Region, id) }
	created := events.RepositoryCreated{Project: "proj_test_p", Name: "r", SourceType: events.SourceUpload}
	put(t, y.admin, repo("repo_test_dead"), created, events.IngestStarted{Upload: "up_dead"})
	put(t, y.admin, repo("repo_test_alive"), created, events.IngestStarted{Upload: "up_alive"})
	put(t, y.admin, repo("repo_test_done"), created, events.IngestStarted{Upload: "up_done"}, events.SnapshotTaken{Upload: "up_done", Snapshot: "sha256:0"})
	kv, err := y.admin.JetStream().KeyValue(t.Context(), eventstore.ExpiringBucket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Create(t.Context(), "upload.up_alive", nil, jetstream.KeyTTL(time.Minute)); err != nil {
		t.Fatal(err)
	}
	status := func(id events.RepositoryID) string {
		past, _, err := y.admin.Load(t.Context(), repo(id), events.Head{})
		if err != nil {
			t.Fatal(err)
		}
		var r catalog.Repository
		for _, e := range past {
			r = r.Evolve(e)
		}
		if r.Failure != nil {
			return string(r.Status) + " " + r.Failure.Code
		}
		return string(r.Status)
	}
	y.sweep(30 * time.Minute)
	if got := status("repo_test_dead"); got != "ingesting" {
		t.Errorf("a young ingestion: %s", got)
	}
	y.sweep(2 * time.Hour)
	y.sweep(2 * time.Hour)
	for id, want := range map[events.RepositoryID]string{"repo_test_dead": "failed upload_interrupted", "repo_test_alive": "ingesting", "repo_test_done": "ready"} {
		if got := status(id); got != want {
			t.Errorf("%s is %s, want %s", id, got, want)
		}
	}
	if n := y.Status().Ingestions; n != 1 {
		t.Errorf("%d are counted, want 1", n)
	}
}

func (y *yard) object(key string) events.Object {
	y.t.Helper()
	if _, err := y.files.Put(y.t.Context(), key, strings.NewReader("x")); err != nil {
		y.t.Fatal(err)
	}
	return events.Object{Name: "n", Key: key}
}

func (y *yard) clean(in time.Duration) maintenance.Removed {
	y.t.Helper()
	y.seen()
	r, err := y.Clean(y.t.Context(), time.Now().Add(in))
	if err != nil {
		y.t.Fatal(err)
	}
	return r
}

func (y *yard) wantObjects(want ...string) {
	y.t.Helper()
	var got []string
	for o, err := range y.files.List(y.t.Context(), "") {
		if err != nil {
			y.t.Fatal(err)
		}
		got = append(got, o.Key)
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		y.t.Errorf("objects %q, want %q", got, want)
	}
}

func TestObjectsThatNoEventOfAScanNamesAreRemoved(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.seen()
	claimed := events.AttemptClaimed{Attempt: 1, Worker: "work_test_a"}
	for _, id := range []string{"a", "runs"} {
		prefix := "scans/scan_test_" + id
		y.object(prefix + "/1-2/aa/lost.json")
		result, artifact := y.object(prefix+"/1-2/bb/inventory.json"), y.object(prefix+"/2-5/cc/report.json")
		y.object(prefix + "/2-5/dd/half.json")
		scanID := events.ScanID("scan_test_" + id)
		y.put(scanID, queued, claimed, events.AttemptStarted{Attempt: 1}, events.StageCompleted{Stage: "inventory", Result: &result},
			events.AttemptExpired{Attempt: 1, Priority: events.Normal}, events.AttemptClaimed{Attempt: 2, Worker: "work_test_b"}, events.AttemptStarted{Attempt: 2},
			events.StageCompleted{Stage: "report", Artifacts: []events.Object{artifact}})
	}
	y.object("scans/scan_test_unknown/1-2/aa/x")
	y.object("something/else")
	y.put("scan_test_a", events.ScanCompleted{Attempt: 2})

	runs := []string{"scans/scan_test_runs/1-2/aa/lost.json", "scans/scan_test_runs/1-2/bb/inventory.json", "scans/scan_test_runs/2-5/cc/report.json", "scans/scan_test_runs/2-5/dd/half.json"}
	rest := []string{"scans/scan_test_unknown/1-2/aa/x", "something/else"}
	if r := y.clean(30 * time.Minute); r.Objects != 0 {
		t.Errorf("%d young objects were removed", r.Objects)
	}
	if r := y.clean(2 * time.Hour); r.Objects != 2 || r.Bytes != 2 {
		t.Errorf("removed %+v, want 2 of 1 byte", r)
	}
	kept := []string{"scans/scan_test_a/1-2/bb/inventory.json", "scans/scan_test_a/2-5/cc/report.json"}
	y.wantObjects(append(append(append([]string{}, kept...), runs...), rest...)...)

	// What was not over then is looked at again, however old its objects are by now.
	y.put("scan_test_runs", events.ScanFailed{Attempt: 2, Code: "x"})
	if r := y.clean(20 * time.Hour); r.Objects != 2 {
		t.Errorf("removed %+v, want 2", r)
	}
	y.wantObjects(append(append(append([]string{}, kept...), runs[1:3]...), rest...)...)
	if r := y.clean(30 * time.Hour); r.Objects != 0 {
		t.Errorf("removed %+v once more", r)
	}
}

// What pieces of stages have stored is named by events too, and so is what the next scan is compared with.
func TestObjectsOfPiecesAndLedgersAreKept(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.seen()
	const prefix = "scans/scan_test_p/1-2/"
	result, transcript, ledger := y.object(prefix+"aa/audit-c1.json"), y.object(prefix+"bb/transcript.jsonl"), y.object(prefix+"cc/ledger.json")
	y.object(prefix + "dd/lost.json")
	y.put("scan_test_p", queued, events.AttemptClaimed{Attempt: 1, Worker: "work_test_a"}, events.AttemptStarted{Attempt: 1},
		events.UnitCompleted{Attempt: 1, Stage: "audit", Unit: "c1", Result: &result, Artifacts: []events.Object{transcript}},
		events.StageCompleted{Stage: "merge", Compared: &events.Compared{Ledger: &ledger}}, events.ScanCompleted{Attempt: 1})
	if r := y.clean(2 * time.Hour); r.Objects != 1 {
		t.Errorf("removed %+v, want the lost one", r)
	}
	y.wantObjects(result.Key, transcript.Key, ledger.Key)
}

func TestSnapshotsThatNoRepositoryHasAreRemoved(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	y.seen()
	id := func(c string) events.SnapshotID { return events.SnapshotID("sha256:" + strings.Repeat(c, 64)) }
	for _, c := range []string{"a", "b", "c", "d"} {
		y.object(intake.ManifestKey(string(id(c))))
		y.object(intake.PackKey(string(id(c))))
	}
	repo := func(id events.RepositoryID) events.Aggregate { return events.RepositoryOf(natstest.Region, id) }
	created := events.RepositoryCreated{Project: "proj_test_p", Name: "r", SourceType: events.SourceUpload}
	taken := func(upload, c string) []events.Event {
		return []events.Event{events.IngestStarted{Upload: upload}, events.SnapshotTaken{Upload: upload, Snapshot: id(c)}}
	}
	put(t, y.admin, repo("repo_test_lives"), append(append([]events.Event{created}, taken("u1", "a")...), taken("u2", "b")...)...)
	put(t, y.admin, repo("repo_test_gone"), append(append([]events.Event{created}, taken("u3", "b")...), append(taken("u4", "c"), events.RepositoryDeleted{})...)...)
	put(t, y.admin, repo("repo_test_busy"), created, events.IngestStarted{Upload: "u5"})

	all := func(cs ...string) (keys []string) {
		for _, c := range cs {
			keys = append(keys, intake.ManifestKey(string(id(c))), intake.PackKey(string(id(c))))
		}
		return keys
	}
	y.clean(2 * time.Hour)
	y.wantObjects(all("a", "b", "c", "d")...) // an upload is on its way, and may be about to name any of them
	put(t, y.admin, repo("repo_test_busy"), events.IngestFailed{Upload: "u5", Code: "x"})
	y.clean(30 * time.Minute)
	y.wantObjects(all("a", "b", "c", "d")...)
	request := queued
	request.Snapshot = id("c") // of a scan that is still being cancelled
	y.put("scan_test_a", request, events.AttemptClaimed{Attempt: 1, Worker: "work_test_a"})
	if r := y.clean(2 * time.Hour); r.Objects != 2 {
		t.Errorf("removed %+v, want the 2 objects of d", r)
	}
	y.wantObjects(all("a", "b", "c")...)
	y.put("scan_test_a", events.ScanFailed{Attempt: 1})
	y.clean(2 * time.Hour)
	y.wantObjects(all("a", "b")...)
	if s := y.Status(); s.Removed.Objects != 4 {
		t.Errorf("status %+v", s)
	}
}

func TestObjectsOlderThanTheLogAreNotTouched(t *testing.T) {
	t.Parallel()
	store, err := files.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	key := intake.PackKey("sha256:" + strings.Repeat("a", 64))
	if _, err := store.Put(t.Context(), key, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	m := maintenance.New(maintenance.Parts{Store: natstest.Open(t), Files: store, Log: slog.New(slog.DiscardHandler)}, maintenance.Options{})
	if r, err := m.Clean(t.Context(), time.Now().Add(48*time.Hour)); err != nil || r.Objects != 0 {
		t.Errorf("Clean = %+v, %v", r, err)
	}
}

func TestAnIdleSystemLogsNothing(t *testing.T) {
	y := newYard(t)
	y.put("scan_test_a", queued)
	y.sweep(0)
	if got := y.logs.String(); got != "" {
		t.Errorf("logged %s", got)
	}
}

func TestACallWhoseProxyIsGoneIsCharged(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	now := time.Now().UTC()
	id := events.NewScanID(natstest.Region)
	of := events.UsageOf(natstest.Region, id)
	r := events.Reservation{ID: "call_a", InputTokens: 100, OutputTokens: 50, CostNanoUSD: 7, Until: now.Add(time.Hour)}
	if _, err := y.admin.Append(t.Context(), of, events.Head{}, events.Meta{Command: events.NewCommandID(), Actor: events.BySystem("test"), At: now}, events.UsageRecorded{Open: []events.Reservation{r}, Calls: []events.Call{{ID: r.ID, Step: events.CallReserved, Reserved: &r}}}); err != nil {
		t.Fatal(err)
	}
	y.seen()
	for _, c := range []struct {
		after time.Duration
		want  events.Usage
		open  int
	}{{time.Minute, events.Usage{}, 1}, {2 * time.Hour, r.Usage(), 0}, {3 * time.Hour, r.Usage(), 0}} {
		if err := y.Sweep(t.Context(), now.Add(c.after)); err != nil {
			t.Fatal(err)
		}
		y.seen()
		last, _, err := y.admin.LoadLast(t.Context(), of)
		if err != nil {
			t.Fatal(err)
		}
		if e := last.Event.(events.UsageRecorded); e.Settled != c.want || len(e.Open) != c.open {
			t.Errorf("after %s: %+v, want %+v", c.after, e, c.want)
		}
	}
}

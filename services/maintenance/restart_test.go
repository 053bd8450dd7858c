package maintenance_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/projections"
	"vega/projections/jsonfile"
	"vega/services/catalog"
	"vega/services/maintenance"
)

// site is a log with a read model that follows it.
type site struct {
	t      *testing.T
	store  *eventstore.Store
	model  *jsonfile.Model
	runner *projections.Runner
}

func newSite(t *testing.T) *site {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	s := &site{t: t, store: natstest.Open(t)}
	var err error
	if s.model, err = jsonfile.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if s.runner, err = projections.NewRunner(t.Context(), s.store, s.model, log); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.runner.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("read model: %v", err)
		}
		_ = s.model.Close()
	})
	return s
}

// put stores evs and waits until the read model has them.
func (s *site) put(a events.Aggregate, evs ...events.Event) {
	s.t.Helper()
	got := put(s.t, s.store, a, evs...)
	if err := s.runner.WaitFor(s.t.Context(), got[len(got)-1].Seq); err != nil {
		s.t.Fatal(err)
	}
}

// history is the kinds of a scan's events.
func (s *site) history(id events.ScanID) string {
	s.t.Helper()
	past, _, err := s.store.Load(s.t.Context(), events.ScanOf(natstest.Region, id), events.Head{})
	if err != nil {
		s.t.Fatal(err)
	}
	var kinds []string
	for _, r := range past {
		kinds = append(kinds, strings.TrimPrefix(string(r.Kind), "scan."))
	}
	return strings.Join(kinds, " ")
}

var queued = events.ScanQueued{Project: "p", Repository: "r", Snapshot: "sha256:0", User: "u", Priority: events.Normal, MaxAttempts: 2}

func TestARestartGivesBackWhatHadAnOwner(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	claimed, started := events.AttemptClaimed{Attempt: 1, Worker: "w"}, events.AttemptStarted{Attempt: 1, Worker: "w"}
	cases := map[string]struct {
		events []events.Event
		want   string
	}{
		"queued":     {[]events.Event{queued}, "queued"},
		"claimed":    {[]events.Event{queued, claimed}, "queued claimed expired"},
		"running":    {[]events.Event{queued, claimed, started}, "queued claimed started expired"},
		"cancelling": {[]events.Event{queued, claimed, started, events.CancelRequested{}}, "queued claimed started cancel_requested cancelled"},
		"last":       {[]events.Event{queued, claimed, events.AttemptExpired{Attempt: 1, Priority: events.Normal}, events.AttemptClaimed{Attempt: 2}}, "queued claimed expired claimed failed"},
		"over":       {[]events.Event{queued, claimed, started, events.ScanCompleted{Attempt: 1}}, "queued claimed started completed"},
	}
	for name, c := range cases {
		s.put(events.ScanOf(natstest.Region, events.ScanID("scan_test_"+name)), c.events...)
	}
	for range 2 { // twice: a crash in the middle makes the next start do it again
		if err := maintenance.GiveBackScans(t.Context(), s.store, s.model, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range cases {
		if got := s.history(events.ScanID("scan_test_" + name)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestARestartChargesTheCallsThatWereOnTheirWay(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	open := func(id string) events.Reservation {
		return events.Reservation{ID: id, Attempt: 1, InputTokens: 10, OutputTokens: 5, CostNanoUSD: 7, MostInput: 30, MostCost: 9, Until: time.Now().Add(time.Hour).UTC()}
	}
	calls := []events.Call{{ID: "a", Step: events.CallReserved, Attempt: 1}, {ID: "b", Step: events.CallReserved, Attempt: 1}}
	for id, last := range map[events.ScanID]events.Event{"scan_test_going": events.CancelRequested{}, "scan_test_over": events.ScanCompleted{Attempt: 1}} {
		s.put(events.ScanOf(natstest.Region, id), queued, events.AttemptClaimed{Attempt: 1, Worker: "w"}, events.AttemptStarted{Attempt: 1, Worker: "w"}, last)
		s.put(events.UsageOf(natstest.Region, id), events.UsageRecorded{Calls: calls, Open: []events.Reservation{open("a"), open("b")}, Settled: events.Usage{Requests: 3, InputTokens: 100, CostNanoUSD: 50}})
	}
	for range 2 { // twice: a crash in the middle makes the next start do it again
		if err := maintenance.EndCalls(t.Context(), s.store, s.model, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	for id, want := range map[events.ScanID]events.UsageRecorded{
		"scan_test_going": {Settled: events.Usage{Requests: 5, InputTokens: 120, OutputTokens: 10, CostNanoUSD: 64}},
		"scan_test_over":  {Settled: events.Usage{Requests: 3, InputTokens: 100, CostNanoUSD: 50}, Open: []events.Reservation{open("a"), open("b")}}, // the sweep charges it in time
	} {
		last, _, err := s.store.LoadLast(t.Context(), events.UsageOf(natstest.Region, id))
		if err != nil {
			t.Fatal(err)
		}
		if got := last.Event.(events.UsageRecorded); got.Settled != want.Settled || len(got.Open) != len(want.Open) {
			t.Errorf("%s: spent %+v with %d calls on their way, want %+v with %d", id, got.Settled, len(got.Open), want.Settled, len(want.Open))
		}
	}
}

func TestARestartEndsIngestionsThatNobodyWorksOn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.put(events.ProjectOf(natstest.Region, "proj_test_p"), events.ProjectCreated{Name: "p", Owner: "u"})
	repo := events.RepositoryOf(natstest.Region, "repo_test_r")
	s.put(repo, events.RepositoryCreated{Project: "proj_test_p", Name: "r", SourceType: events.SourceUpload}, events.IngestStarted{Upload: "up1"})
	if err := maintenance.EndIngestions(t.Context(), s.store, s.model, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	past, _, err := s.store.Load(t.Context(), repo, events.Head{})
	if err != nil {
		t.Fatal(err)
	}
	var r catalog.Repository
	for _, e := range past {
		r = r.Evolve(e)
	}
	if r.Status != catalog.IngestBad || r.Failure.Code != "upload_interrupted" {
		t.Errorf("repository is %s, %+v", r.Status, r.Failure)
	}
}

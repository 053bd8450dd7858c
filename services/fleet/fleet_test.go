package fleet_test

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/fleet"
)

func join(t *testing.T, s *eventstore.Store, id events.WorkerID) *fleet.Member {
	t.Helper()
	m, err := fleet.Join(t.Context(), s, fleet.Worker{ID: id, Host: "h", Version: "v", Slots: 2}, time.Minute, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAWorkerIsListedFromJoinToLeave(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	m := join(t, s, "work_test_a")
	if !m.Fresh(time.Now()) {
		t.Error("a member that just joined is not fresh")
	}
	got, err := fleet.List(t.Context(), s)
	if err != nil || len(got) != 1 || got[0].ID != "work_test_a" || got[0].Slots != 2 || got[0].Scans == nil {
		t.Errorf("List = %+v, %v", got, err)
	}
	if err := m.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := fleet.List(t.Context(), s); err != nil || len(got) != 0 {
		t.Errorf("List after Leave = %+v, %v", got, err)
	}
}

func TestAPingTellsLivingFromDead(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	m := join(t, s, "work_test_a")
	m.Took("scan_test_x", 7)
	if p, err := fleet.Ping(t.Context(), s, m.ID()); err != nil || p.Held["scan_test_x"] != 7 {
		t.Errorf("Ping of a member = %v, %v", p, err)
	}
	if _, err := fleet.Ping(t.Context(), s, "work_test_nobody"); !errors.Is(err, fleet.ErrGone) {
		t.Errorf("Ping of nobody = %v", err)
	}
}

func TestAWorkerIsAskedToLookAndToDrain(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	m := join(t, s, "work_test_a")
	fleet.Look(s, m.ID(), "scan_test_x")
	if got := <-m.Looks(); got != "scan_test_x" {
		t.Errorf("told to look at %q", got)
	}
	for range 2 { // a second request changes nothing
		if err := fleet.RequestDrain(t.Context(), s, m.ID()); err != nil {
			t.Fatal(err)
		}
	}
	<-m.Draining()
	if err := fleet.RequestDrain(t.Context(), s, "work_test_nobody"); !errors.Is(err, fleet.ErrGone) {
		t.Errorf("drain of nobody = %v", err)
	}
}

func TestAnEntryThatWasLostIsMadeAnew(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	m := join(t, s, "work_test_a")
	kv, err := s.JetStream().KeyValue(t.Context(), eventstore.HeartbeatBucket)
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Purge(t.Context(), "work_test_a"); err != nil {
		t.Fatal(err)
	}
	renewAgain(t, s, m)
}

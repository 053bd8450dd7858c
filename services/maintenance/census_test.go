package maintenance_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/maintenance"
)

func TestAHoleInTheLogIsPassedOver(t *testing.T) {
	t.Parallel()
	store := natstest.Open(t)
	js := store.JetStream()
	// No log of ours lets events be removed: make one that does, until one is.
	st, err := js.Stream(t.Context(), eventstore.StreamName(natstest.Region))
	if err != nil {
		t.Fatal(err)
	}
	cfg := st.CachedInfo().Config
	if err := js.DeleteStream(t.Context(), cfg.Name); err != nil {
		t.Fatal(err)
	}
	cfg.DenyDelete = false
	if st, err = js.CreateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	put(t, store, events.ScanOf(natstest.Region, "scan_test_a"), queued, events.AttemptClaimed{Attempt: 1, Worker: "work_test_a"})
	put(t, store, events.ScanOf(natstest.Region, "scan_test_lost"), queued)
	put(t, store, events.ScanOf(natstest.Region, "scan_test_b"), queued, events.AttemptClaimed{Attempt: 1, Worker: "work_test_a"})
	if err := st.DeleteMsg(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	cfg.DenyDelete = true
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	m := maintenance.New(maintenance.Parts{Store: store, Log: slog.New(slog.DiscardHandler)}, maintenance.Options{HeartbeatTTL: ttl, Config: maintenance.Config{RunningStale: forever, IngestStale: forever}})
	defer runs(t, m)()
	if s := until(t, m, func(s maintenance.Status) bool { return s.CaughtUp }); s.Unfinished != 2 || s.Seen != 5 {
		t.Errorf("status %+v, want the two scans around the hole", s)
	}
}

func TestWhatIsOverIsForgotten(t *testing.T) {
	t.Parallel()
	store := natstest.Open(t)
	m := maintenance.New(maintenance.Parts{Store: store, Log: slog.New(slog.DiscardHandler)}, maintenance.Options{HeartbeatTTL: ttl, Config: maintenance.Config{RunningStale: forever, IngestStale: forever}})
	defer runs(t, m)()
	a := events.ScanOf(natstest.Region, "scan_test_a")
	put(t, store, a, queued)
	until(t, m, func(s maintenance.Status) bool { return s.Unfinished == 1 && s.Watched == 0 })
	put(t, store, a, events.AttemptClaimed{Attempt: 1, Worker: "work_test_a"}, events.AttemptStarted{Attempt: 1})
	until(t, m, func(s maintenance.Status) bool { return s.Unfinished == 1 && s.Watched == 1 })
	put(t, store, a, events.AttemptReleased{Attempt: 1, Priority: events.Normal}, events.AttemptClaimed{Attempt: 2, Worker: "work_test_b"}, events.AttemptStarted{Attempt: 2}, events.ScanCompleted{Attempt: 2})
	until(t, m, func(s maintenance.Status) bool { return s.Unfinished == 0 })
	put(t, store, events.ScanOf(natstest.Region, "scan_test_never"), events.ScanAbandoned{User: "u"})
	if _, err := store.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: a.Subject(events.ScanCompleted{}), Data: []byte("?")}, jetstream.WithExpectStream(eventstore.StreamName(natstest.Region))); err != nil {
		t.Fatal(err)
	}
	if s := until(t, m, func(s maintenance.Status) bool { return s.Unreadable == 1 }); s.Unfinished != 0 {
		t.Errorf("status %+v, want nothing unfinished", s)
	}
}

// runs starts m and returns what ends it.
func runs(t *testing.T, m *maintenance.Maintenance) func() {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
	}
}

// until waits for a status.
func until(t *testing.T, m *maintenance.Maintenance, ok func(maintenance.Status) bool) maintenance.Status {
	t.Helper()
	for range 10_000 {
		if s := m.Status(); ok(s) {
			return s
		}
		<-time.After(time.Millisecond)
	}
	t.Fatalf("status is still %+v", m.Status())
	return maintenance.Status{}
}

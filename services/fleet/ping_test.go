package fleet_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/fleet"
)

func TestOneThatDoesNotAnswerHoldsUpNobody(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	m := join(t, s, "work_test_a")
	m.Took("scan_test_x", 7)
	if _, err := s.Conn().Subscribe(events.PingSubject(natstest.Region, "work_test_mute"), func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	answers := make(chan fleet.Answer, 10)
	p, err := fleet.NewPinger(s, func(a fleet.Answer) { answers <- a })
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	begin := time.Now()
	for _, id := range []events.WorkerID{"work_test_mute", "work_test_a", "work_test_nobody"} {
		if err := p.Ping(id); err != nil {
			t.Fatal(err)
		}
	}
	got := map[events.WorkerID]fleet.Answer{}
	for range 2 {
		a := <-answers
		got[a.Worker] = a
		if a.Link != p.Link() || a.Sent.Before(begin) || a.Sent.After(time.Now()) {
			t.Errorf("answer %+v", a)
		}
	}
	if a := got["work_test_a"]; a.Gone || a.Pong.Held["scan_test_x"] != 7 {
		t.Errorf("a member answers %+v", a)
	}
	if a := got["work_test_nobody"]; !a.Gone {
		t.Errorf("nobody answers %+v", a)
	}
}

// renewAgain runs a member until its entry is stored once more.
func renewAgain(t *testing.T, s *eventstore.Store, m *fleet.Member) {
	t.Helper()
	kv, err := s.JetStream().KeyValue(t.Context(), eventstore.HeartbeatBucket)
	if err != nil {
		t.Fatal(err)
	}
	w, err := kv.Watch(t.Context(), string(m.ID()), jetstream.UpdatesOnly())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	m.Took("scan_test_again", 1)
	if e := <-w.Updates(); e == nil || len(e.Value()) == 0 {
		t.Errorf("update = %v, want the entry", e)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestALostBucketIsMadeAgainByWhoeverMissesIt(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	m := join(t, s, "work_test_a")
	beating := func(id events.WorkerID) (bool, error) { return fleet.Beating(t.Context(), s, id) }
	if ok, err := beating("work_test_a"); !ok || err != nil {
		t.Errorf("Beating of a member = %v, %v", ok, err)
	}
	if ok, err := beating("work_test_b"); ok || err != nil {
		t.Errorf("Beating of nobody = %v, %v", ok, err)
	}
	before, err := fleet.LookAtBucket(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.JetStream().DeleteKeyValue(t.Context(), eventstore.HeartbeatBucket); err != nil {
		t.Fatal(err)
	}
	if _, err := fleet.LookAtBucket(t.Context(), s); !errors.Is(err, fleet.ErrNoBucket) {
		t.Errorf("LookAtBucket without one = %v", err)
	}
	if _, err := beating("work_test_a"); !errors.Is(err, fleet.ErrNoBucket) {
		t.Errorf("Beating without a bucket = %v", err)
	}
	other := join(t, s, "work_test_b") // finds nothing to join, and makes it
	renewAgain(t, s, m)
	for _, id := range []events.WorkerID{m.ID(), other.ID()} {
		if ok, err := beating(id); !ok || err != nil {
			t.Errorf("Beating of %s = %v, %v", id, ok, err)
		}
	}
	after, err := fleet.LookAtBucket(t.Context(), s)
	if err != nil || after.Succeeds(before) {
		t.Errorf("the bucket %+v looks like %+v, %v", after, before, err)
	}
	if err := other.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ok, err := beating(other.ID()); ok || err != nil {
		t.Errorf("Beating after Leave = %v, %v", ok, err)
	}
}

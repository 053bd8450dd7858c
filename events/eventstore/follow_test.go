package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
)

// put appends n events to an aggregate, one after the other.
func put(t *testing.T, s *eventstore.Store, id events.ScanID, n int) {
	t.Helper()
	a := events.ScanOf(natstest.Region, id)
	_, head, err := s.Load(t.Context(), a, events.Head{})
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		got, err := s.Append(t.Context(), a, head, meta(fmt.Sprintf("%s.%d", id, head.Version)), events.CancelRequested{})
		if err != nil {
			t.Fatal(err)
		}
		head = got[0].Head()
	}
}

func TestAFollowerSeesEverythingOnceWhileConnectionsAreCut(t *testing.T) {
	t.Parallel()
	url := natstest.Listen(t)
	direct := natstest.OpenOver(t, natstest.Dial(t, url))
	p := natstest.NewProxy(t, url)
	s := natstest.OpenOver(t, natstest.Dial(t, p.URL))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var follow sync.WaitGroup
	var all, some progress
	follow.Go(func() {
		for r, err := range s.Follow(ctx, 0) {
			if err != nil {
				t.Errorf("Follow: %v", err)
				return
			}
			if int(r.Seq) != all.now()+1 {
				t.Errorf("saw %d after %d", r.Seq, all.now())
			}
			all.set(int(r.Seq))
		}
	})
	follow.Go(func() {
		for r, err := range s.Follow(ctx, 0, events.ScanOf(natstest.Region, "scan_test_some").Filter()) {
			if err != nil {
				t.Errorf("Follow of one aggregate: %v", err)
				return
			}
			if int(r.Version) != some.now()+1 {
				t.Errorf("saw version %d after %d", r.Version, some.now())
			}
			some.set(int(r.Version))
		}
	})
	for range 3 {
		put(t, direct, "scan_test_other", 30)
		put(t, direct, "scan_test_some", 30)
		p.Cut()
	}
	put(t, direct, "scan_test_some", 1)
	all.reach(t, 181)
	some.reach(t, 91)
	cancel()
	follow.Wait()
}

func TestFollowEndsWithItsConnection(t *testing.T) {
	t.Parallel()
	nc := natstest.Dial(t, natstest.Listen(t))
	s := natstest.OpenOver(t, nc)
	put(t, s, "scan_test_one", 1)
	var last error
	for _, err := range s.Follow(t.Context(), 0) {
		last = err
		if err == nil {
			nc.Close()
		}
	}
	if !errors.Is(last, eventstore.ErrUnavailable) {
		t.Errorf("Follow over a closed connection = %v, want ErrUnavailable", last)
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	put(t, s, "scan_test_one", 3)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	for _, err := range s.FollowBatches(ctx, 0, 2) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		cancel()
	}
	if n == 0 {
		t.Error("no batch before the end")
	}
	for range s.Follow(ctx, 0) {
		t.Error("a follower whose context had ended got something")
	}
}

// An event that cannot be decoded is told, and the ones after it still come.
func TestAFollowerGoesOnAfterAnEventThatItCannotRead(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	put(t, s, "scan_test_one", 2)
	msgs, _, err := events.Encode(events.ScanOf(natstest.Region, "scan_test_odd"), events.Head{}, meta("odd"), events.AttemptClaimed{Attempt: 1})
	if err != nil {
		t.Fatal(err)
	}
	h := nats.Header{}
	for k, v := range msgs[0].Header {
		h[k] = []string{v}
	}
	if _, err := s.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: msgs[0].Subject, Header: h, Data: []byte(`{"attempt":"one"}`)}); err != nil {
		t.Fatal(err)
	}
	put(t, s, "scan_test_two", 2)
	for _, limit := range []int{1, 2, 100} {
		var seen []events.Seq
		var bad *eventstore.UnreadableError
		for batch, err := range s.FollowBatches(t.Context(), 0, limit) {
			if u, ok := errors.AsType[*eventstore.UnreadableError](err); ok {
				bad = u
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range batch {
				seen = append(seen, r.Seq)
			}
			if seen[len(seen)-1] == 5 {
				break
			}
		}
		if fmt.Sprint(seen) != "[1 2 4 5]" {
			t.Errorf("limit %d: saw %v, want [1 2 4 5]", limit, seen)
		}
		if bad == nil || bad.Event.Seq != 3 || bad.Event.Aggregate.ID != "scan_test_odd" || bad.Event.Kind != "scan.claimed" || bad.Event.Event != nil {
			t.Errorf("limit %d: unreadable event = %+v", limit, bad)
		}
	}
}

func TestCloseAnswersEveryAppendThatWaits(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *eventstore.Store) {
		told := newAcked()
		var writers sync.WaitGroup
		for w := range 32 {
			writers.Go(func() {
				a := events.ScanOf(natstest.Region, events.ScanID(fmt.Sprintf("scan_test_%d", w)))
				var head events.Head
				for i := range 10_000 {
					got, err := s.Append(t.Context(), a, head, meta(fmt.Sprintf("w%di%d", w, i)), events.CancelRequested{})
					if errors.Is(err, eventstore.ErrUnavailable) {
						return
					}
					if err != nil {
						t.Errorf("append: %v", err)
						return
					}
					told.add(got...)
					head = got[0].Head()
				}
			})
		}
		told.reach(t, 100)
		s.Close()
		writers.Wait()
		again, err := eventstore.Open(t.Context(), s.Conn(), eventstore.Options{Region: natstest.Region})
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		checkLog(t, again, told)
	})
}

// A follower that cannot even begin says so, instead of ending as if there were nothing to tell.
func TestAFollowerThatCannotBeginSaysWhy(t *testing.T) {
	t.Parallel()
	srv, err := eventstore.StartEmbedded(eventstore.EmbeddedOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	nc, err := srv.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := eventstore.Setup(t.Context(), js, natstest.Region, 1); err != nil {
		t.Fatal(err)
	}
	s, err := eventstore.Open(t.Context(), nc, eventstore.Options{Region: natstest.Region, Patience: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	srv.Stop()
	n := 0
	for _, err := range s.Follow(t.Context(), 0) {
		n++
		if !errors.Is(err, eventstore.ErrUnavailable) {
			t.Errorf("Follow = %v, want ErrUnavailable", err)
		}
	}
	if n != 1 {
		t.Errorf("%d answers, want one error", n)
	}
}

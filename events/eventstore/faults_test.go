package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
)

// A command's publish is stored and its acknowledgement is lost, or the publish itself is. Either way the same call ends with the event stored once.
func TestALostAcknowledgementIsReadFromTheLog(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		swallow natstest.Direction
		evs     []events.Event
	}{
		{"one event, the acknowledgement is lost", natstest.Answers, []events.Event{queued(3)}},
		{"one event, the publish is lost", natstest.Requests, []events.Event{queued(3)}},
		{"several events, the acknowledgement is lost", natstest.Answers, []events.Event{queued(3), events.AttemptClaimed{Attempt: 1, Worker: "w"}}},
		{"several events, the publish is lost", natstest.Requests, []events.Event{queued(3), events.AttemptClaimed{Attempt: 1, Worker: "w"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			url := natstest.Listen(t)
			direct := natstest.OpenOver(t, natstest.Dial(t, url))
			p := natstest.NewProxy(t, url)
			s := natstest.OpenOver(t, natstest.Dial(t, p.URL))
			a := events.ScanOf(natstest.Region, "scan_test_one")

			p.Swallow(c.swallow)
			var got []events.Recorded
			var err error
			var appending sync.WaitGroup
			appending.Go(func() { got, err = s.Append(t.Context(), a, events.Head{}, meta("c1"), c.evs...) })
			if c.swallow == natstest.Answers {
				waitForSeq(t, direct, events.Seq(len(c.evs))) // stored, and the caller does not know
			}
			p.Heal()
			appending.Wait()
			if err != nil || len(got) != len(c.evs) || got[len(got)-1].Seq != events.Seq(len(c.evs)) {
				t.Fatalf("Append = %+v, %v; want it stored once", got, err)
			}
			told := newAcked()
			told.add(got...)
			checkLog(t, direct, told)
			if info, err := direct.Info(t.Context()); err != nil || info.Last != events.Seq(len(c.evs)) {
				t.Errorf("the log ends at %d, %v; want %d", info.Last, err, len(c.evs))
			}
		})
	}
}

// waitForSeq returns when the log has an event at seq.
func waitForSeq(t *testing.T, s *eventstore.Store, seq events.Seq) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for r, err := range s.Follow(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Seq >= seq {
			return
		}
	}
	t.Fatalf("the log did not reach sequence %d", seq)
}

// Callers go on through a network that is cut at random and loses either direction before it is; who gets an error tries again with the same command,
// as a client with an idempotency key does.
func TestEveryCommandIsStoredOnceOverABadNetwork(t *testing.T) {
	t.Parallel()
	for _, always := range []bool{false, true} {
		t.Run(fmt.Sprintf("grouped=%v", always), func(t *testing.T) {
			t.Parallel()
			url := natstest.Listen(t)
			p := natstest.NewProxy(t, url)
			told := newAcked()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s, err := eventstore.Open(t.Context(), natstest.Dial(t, p.URL), eventstore.Options{Region: natstest.Region, SyncAlways: always, Patience: 500 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.Close)
			var writers sync.WaitGroup
			for w := range 24 {
				writers.Go(func() {
					for i := 0; ctx.Err() == nil; i++ {
						a := events.ScanOf(natstest.Region, events.ScanID(fmt.Sprintf("scan_test_%d_%d", w%12, i/30)))
						evs := []events.Event{events.CancelRequested{}}
						if (w+i)%7 == 0 {
							evs = append(evs, events.CancelRequested{})
						}
						for {
							_, got, err := eventstore.Do(t.Context(), s, a, meta(fmt.Sprintf("w%di%d", w, i)), func(state, events.Head) ([]events.Event, error) { return evs, nil })
							if err == nil {
								told.add(got...)
								break
							}
							if !errors.Is(err, eventstore.ErrUnavailable) && !errors.Is(err, eventstore.ErrConflict) {
								t.Errorf("writer %d: %v", w, err)
								return
							}
						}
					}
				})
			}
			for n := range cuts {
				told.reach(t, told.now()+5+rand.IntN(40))
				switch n % 3 {
				case 0:
					p.Swallow(natstest.Answers)
				case 1:
					p.Swallow(natstest.Requests)
				}
				told.quiet(t)
				p.Heal()
			}
			told.reach(t, told.now()+5)
			cancel()
			writers.Wait()
			checkLog(t, natstest.OpenOver(t, natstest.Dial(t, url)), told)
		})
	}
}

// quiet waits until no acknowledgement has come in for a moment, or some have although the network is bad.
func (p *progress) quiet(t *testing.T) {
	t.Helper()
	n := p.now()
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		select {
		case <-tick.C:
			if now := p.now(); now == n || now > n+50 {
				tick.Stop()
				return
			} else {
				n = now
			}
		case <-t.Context().Done():
			tick.Stop()
			return
		}
	}
}

// nats.go keeps publishes of an outage and sends them when it is over, long after their callers gave up, unless it is told not to.
func TestNothingIsPublishedAfterItsCallerGaveUp(t *testing.T) {
	t.Parallel()
	url := natstest.Listen(t)
	p := natstest.NewProxy(t, url)
	nc := natstest.Dial(t, p.URL)
	s, err := eventstore.Open(t.Context(), nc, eventstore.Options{Region: natstest.Region, Patience: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if nc.Opts.ReconnectBufSize != -1 {
		t.Errorf("ReconnectBufSize = %d, want -1", nc.Opts.ReconnectBufSize)
	}
	gone := make(chan struct{})
	lost := sync.OnceFunc(func() { close(gone) })
	nc.SetDisconnectErrHandler(func(*nats.Conn, error) { lost() })
	p.Close()
	<-gone
	a := events.ScanOf(natstest.Region, "scan_test_one")
	if _, err := s.Append(t.Context(), a, events.Head{}, meta("c1"), queued(3)); !errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("Append without a connection = %v, want ErrUnavailable", err)
	}
	if err := s.PublishFeed("scan_test_one", eventstore.FeedLine{Kind: "scan_log"}); err == nil {
		t.Error("PublishFeed without a connection succeeded")
	}
	back := make(chan struct{})
	nc.SetReconnectHandler(func(*nats.Conn) { close(back) })
	p.Open(t)
	<-back
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if info, err := s.Info(t.Context()); err != nil || info.Last != 0 {
		t.Errorf("the log ends at %d, %v; want 0: a publish arrived late", info.Last, err)
	}
	if n, err := s.FeedLast(t.Context(), "scan_test_one"); err != nil || n != 0 {
		t.Errorf("the feed ends at %d, %v; want 0", n, err)
	}
}

// The server refuses what it has no room for; nothing of it is stored, and it goes on where there is room again.
func TestAFullServerIsErrFull(t *testing.T) {
	t.Parallel()
	nc := natstest.Dial(t, natstest.Serve(t, func(o *server.Options) { o.JetStreamMaxStore = 4 << 20 }))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	// The feed reserves more than this server has: it is made smaller before the rest.
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: eventstore.FeedName(natstest.Region), Subjects: []string{events.FeedSubjects(natstest.Region)}}); err != nil {
		t.Fatal(err)
	}
	if err := eventstore.Setup(t.Context(), js, natstest.Region, 1); err != nil {
		t.Fatal(err)
	}
	s := natstest.OpenOver(t, nc)
	a := events.ScanOf(natstest.Region, "scan_test_one")
	var head events.Head
	told := newAcked()
	large := events.CancelRequested{Reason: string(make([]byte, 40<<10))}
	for i := range 1000 {
		evs := []events.Event{large}
		if i%4 == 0 {
			evs = append(evs, large)
		}
		got, err := s.Append(t.Context(), a, head, meta(fmt.Sprintf("c%d", i)), evs...)
		if errors.Is(err, eventstore.ErrFull) {
			if !errors.Is(err, eventstore.ErrUnavailable) {
				t.Errorf("ErrFull is not ErrUnavailable: %v", err)
			}
			if i < 5 {
				t.Errorf("full after %d appends", i)
			}
			if now, err := s.Info(t.Context()); err != nil || now.Last != head.Seq {
				t.Errorf("the log ends at %d, %v; want %d", now.Last, err, head.Seq)
			}
			checkLog(t, s, told)
			return
		}
		if err != nil {
			t.Fatalf("append %d: %v", i, err)
		}
		told.add(got...)
		head = got[len(got)-1].Head()
	}
	t.Error("the server was never full")
}

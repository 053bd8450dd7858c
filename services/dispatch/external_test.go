package dispatch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/dispatch"
	"vega/services/dispatch/queuetest"
)

// journal is a log that tests read.
type journal struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

func (j *journal) count(s string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Count(j.text.String(), s)
}

// until waits for a condition.
func until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatalf("waited in vain: %s", what)
		}
	}
}

func ensure(tb testing.TB, store *eventstore.Store, mode dispatch.Mode, after events.Seq) {
	tb.Helper()
	if err := dispatch.Ensure(tb.Context(), store, mode, after); err != nil {
		tb.Fatal(err)
	}
}

func next(tb testing.TB, q queuetest.Queue) dispatch.Hint {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	h, err := q.Next(ctx)
	if err != nil {
		tb.Fatalf("no hint came: %v", err)
	}
	return h
}

// nothing asserts that no hint comes for a while.
func nothing(tb testing.TB, q queuetest.Queue, d time.Duration) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), d)
	defer cancel()
	if h, err := q.Next(ctx); err == nil {
		tb.Errorf("%s was brought, want nothing", h.Scan)
	}
}

func TestAHintIsThereAgainOnlyWhenItWasNotDone(t *testing.T) {
	// Not parallel: the bubble has the time of its own.
	natstest.Virtual(t, func(t *testing.T, store *eventstore.Store) {
		ensure(t, store, dispatch.ModeExternal, 0)
		q := queuetest.Start(t, dispatch.NewExternal(store, quiet()))
		queuetest.Create(t, store, 0, 1, events.Low)
		first := next(t, q)
		start := time.Now()
		again := next(t, q) // nothing was said about the first
		if waited := time.Since(start); again.Seq != first.Seq || waited < 2*time.Second || waited > 3500*time.Millisecond {
			t.Errorf("event %d came after %v, want %d after 2 s and a sweep", again.Seq, waited, first.Seq)
		}
		q.Retry(again)
		start = time.Now()
		again = next(t, q)
		if waited := time.Since(start); waited < time.Second || waited > 2500*time.Millisecond {
			t.Errorf("given back, it came after %v, want 1 s and a sweep", waited)
		}
		q.Done(again)
		nothing(t, q, time.Hour)
	})
}

func TestAWorkerWaitsForAQueueThatIsNotSetUp(t *testing.T) {
	natstest.Virtual(t, func(t *testing.T, store *eventstore.Store) {
		var log journal
		q := queuetest.Start(t, dispatch.NewExternal(store, log.logger()))
		nothing(t, q, 10*time.Minute)
		if n := log.count("queue was not set up yet"); n != 1 {
			t.Errorf("said %d times that the queue is not there, want once", n)
		}
		queuetest.Create(t, store, 0, 1, events.Normal)
		ensure(t, store, dispatch.ModeExternal, 0)
		q.Done(next(t, q))
		nothing(t, q, time.Minute)
		if n := log.count("queue was set up"); n != 1 {
			t.Errorf("said %d times that the queue is there, want once", n)
		}
		before := log.count("\n")
		nothing(t, q, time.Hour)
		if n := log.count("\n"); n != before {
			t.Errorf("an idle queue logged %d lines", n-before)
		}
	})
}

func TestAnEventOfANewerReleaseIsLeftToANewerWorker(t *testing.T) {
	natstest.Virtual(t, func(t *testing.T, store *eventstore.Store) {
		var log journal
		ensure(t, store, dispatch.ModeExternal, 0)
		newer(t, store, "scan_test_newer")
		queuetest.Create(t, store, 0, 1, events.High)
		q := queuetest.Start(t, dispatch.NewExternal(store, log.logger()))
		h := next(t, q)
		if h.Scan != queuetest.ID(0) {
			t.Errorf("brought %s, want the scan behind the one that cannot be read", h.Scan)
		}
		q.Done(h)
		nothing(t, q, time.Minute)
		if n := log.count("left a scan to a newer release"); n != 1 {
			t.Errorf("logged %d times, want once", n)
		}
		lanes, err := dispatch.Lanes(t.Context(), store, dispatch.ModeExternal)
		if err != nil || lanes[0].InFlight != 1 {
			t.Errorf("lanes %+v, %v: want the event kept for somebody else", lanes, err)
		}
	})
}

// newer stores a ready event of a kind that this build does not know.
func newer(tb testing.TB, store *eventstore.Store, id events.ScanID) {
	tb.Helper()
	req := events.ScanQueued{Project: "p", Repository: "r", Snapshot: "sha256:0", User: "user_a", Priority: events.High, MaxAttempts: 3}
	msgs, _, err := events.Encode(events.ScanOf(store.Region(), id), events.Head{}, meta("newer"), req)
	if err != nil {
		tb.Fatal(err)
	}
	m := &nats.Msg{Subject: msgs[0].Subject, Data: msgs[0].Body, Header: nats.Header{}}
	for k, v := range msgs[0].Header {
		m.Header[k] = []string{v}
	}
	m.Header["ce-type"], m.Header["ce-dataschema"] = []string{"scan.teleported"}, []string{"vega:scan.teleported/1"}
	if _, err := store.JetStream().PublishMsg(tb.Context(), m); err != nil {
		tb.Fatal(err)
	}
}

func TestAFullConsumerGoesOnWhenThereIsRoomAgain(t *testing.T) {
	natstest.Virtual(t, func(t *testing.T, store *eventstore.Store) {
		// A consumer as a later release may have changed it, with little room and much patience.
		_, err := store.JetStream().CreateConsumer(t.Context(), eventstore.StreamName(store.Region()), jetstream.ConsumerConfig{
			Durable: "vega_ready_high", FilterSubject: events.ReadyFilter(store.Region(), events.High), AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Hour, MaxAckPending: 2,
		})
		if err != nil {
			t.Fatal(err)
		}
		ensure(t, store, dispatch.ModeExternal, 0)
		q := queuetest.Start(t, dispatch.NewExternal(store, quiet()))
		queuetest.Create(t, store, 0, 5, events.High)
		a, b := next(t, q), next(t, q)
		nothing(t, q, 20*time.Second) // the server does not even answer
		q.Done(a)
		c := next(t, q)
		q.Done(b)
		q.Done(c)
		for range 2 {
			q.Done(next(t, q))
		}
		nothing(t, q, 20*time.Second)
	})
}

func TestAHighScanOvertakesABacklog(t *testing.T) {
	t.Parallel()
	store := natstest.Open(t)
	ensure(t, store, dispatch.ModeExternal, 0)
	q := queuetest.Start(t, dispatch.NewExternal(store, quiet()))
	const backlog = 500
	queuetest.Create(t, store, 0, backlog, events.Low)
	for range 10 { // by now the queue knows that nothing better is there
		q.Done(next(t, q))
	}
	queuetest.Create(t, store, backlog, backlog+1, events.High)
	overtaken := 0
	for {
		h := next(t, q)
		q.Done(h)
		if h.Priority == events.High {
			break
		}
		overtaken++ // while the bell was on its way
	}
	if overtaken > backlog/2 {
		t.Errorf("%d low ones came before it", overtaken)
	}
}

func TestHintsSurviveABadNetwork(t *testing.T) {
	t.Parallel()
	url := natstest.Listen(t)
	home := natstest.OpenOver(t, natstest.Dial(t, url))
	proxy := natstest.NewProxy(t, url)
	far := natstest.OpenOver(t, natstest.Dial(t, proxy.URL))
	ensure(t, home, dispatch.ModeExternal, 0)
	q := queuetest.Start(t, dispatch.NewExternal(far, quiet()))
	w := queuetest.Work(t, far, q, 8)
	const each = 20
	made := 0
	for _, harm := range []func(){
		proxy.Cut,
		func() { proxy.Swallow(natstest.Answers) }, // hints are on their way and get lost
		func() { proxy.Swallow(natstest.Requests) },
		proxy.Cut,
	} {
		harm()
		queuetest.Create(t, home, made, made+each, events.Priorities()[made/each%3])
		made += each
		proxy.Heal()
		w.WaitClaimed(t, made)
	}
	if w.Won() != made {
		t.Errorf("%d claims stored, want %d", w.Won(), made)
	}
}

func TestAClusterThatChangesItsLeaderLosesNoHint(t *testing.T) {
	t.Parallel()
	c := natstest.Cluster(t, 3)
	store := c.Open()
	until(t, "the consumers are made", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return dispatch.Ensure(ctx, store, dispatch.ModeExternal, 0) == nil // a consumer's leader is elected too
	})
	q := queuetest.Start(t, dispatch.NewExternal(store, quiet()))
	w := queuetest.Work(t, c.Open(), q, 8)
	const scans = 90
	for i := range 3 {
		queuetest.Create(t, store, i*scans/3, (i+1)*scans/3, events.Priorities()[i])
		if err := c.StepDown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w.WaitClaimed(t, scans)
}

func TestEnsureKeepsThePlaceOfWhatExists(t *testing.T) {
	t.Parallel()
	store := natstest.Open(t)
	queuetest.Create(t, store, 0, 1, events.Normal)
	first, err := store.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	queuetest.Create(t, store, 1, 2, events.Normal)
	// Several processes begin at the same time, and not all of them have read the log as far.
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := dispatch.Ensure(t.Context(), store, dispatch.ModeExternal, first.Last); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	ensure(t, store, dispatch.ModeExternal, 0)
	q := queuetest.Start(t, dispatch.NewExternal(store, quiet()))
	if h := next(t, q); h.Scan != queuetest.ID(1) {
		t.Errorf("brought %s, want the one after where the first Ensure began", h.Scan)
	}
	lanes, err := dispatch.Lanes(t.Context(), store, dispatch.ModeExternal)
	if err != nil || lanes[1].Waiting != 0 || lanes[1].InFlight != 1 {
		t.Errorf("lanes %+v, %v", lanes, err)
	}
}

func TestEnsureRefusesAConsumerThatWouldLoseHints(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(*jetstream.ConsumerConfig){
		"another filter":   func(c *jetstream.ConsumerConfig) { c.FilterSubject = events.ReadyFilter("test", events.Low) },
		"no acks":          func(c *jetstream.ConsumerConfig) { c.AckPolicy = jetstream.AckNonePolicy },
		"few deliveries":   func(c *jetstream.ConsumerConfig) { c.MaxDeliver = 3 },
		"an end":           func(c *jetstream.ConsumerConfig) { c.InactiveThreshold = time.Hour },
		"only the headers": func(c *jetstream.ConsumerConfig) { c.HeadersOnly = true },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			store := natstest.Open(t)
			cfg := jetstream.ConsumerConfig{Durable: "vega_ready_high", FilterSubject: events.ReadyFilter("test", events.High), AckPolicy: jetstream.AckExplicitPolicy}
			change(&cfg)
			if _, err := store.JetStream().CreateConsumer(t.Context(), eventstore.StreamName("test"), cfg); err != nil {
				t.Fatal(err)
			}
			if err := dispatch.Ensure(t.Context(), store, dispatch.ModeExternal, 0); err == nil || !strings.Contains(err.Error(), "vega_ready_high is not fit") {
				t.Errorf("Ensure = %v, want a refusal that names the consumer", err)
			}
		})
	}
}

func TestLanesTellWhatWaitsAndWhatWasDelivered(t *testing.T) {
	t.Parallel()
	store := natstest.Open(t)
	ctx := t.Context()
	if _, err := dispatch.Lanes(ctx, store, dispatch.ModeExternal); !errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("before Ensure: %v, want ErrUnavailable", err)
	}
	if lanes, err := dispatch.Lanes(ctx, store, dispatch.ModeThread); len(lanes) > 0 || err != nil {
		t.Errorf("thread has lanes %v, %v", lanes, err)
	}
	ensure(t, store, dispatch.ModeExternal, 0)
	queuetest.Create(t, store, 0, 3, events.High)
	queuetest.Create(t, store, 3, 4, events.Low)
	lanes := func() []dispatch.Lane {
		t.Helper()
		all, err := dispatch.Lanes(ctx, store, dispatch.ModeExternal)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if got, want := fmt.Sprint(lanes()), "[{high [high] 3 0 0} {normal [normal] 0 0 4} {low [low] 1 0 0}]"; got != want {
		t.Errorf("lanes %s, want %s", got, want)
	}
	q := queuetest.Start(t, dispatch.NewExternal(store, quiet()))
	a, b := next(t, q), next(t, q)
	if l := lanes()[0]; l.Waiting != 1 || l.InFlight != 2 {
		t.Errorf("with two taken: %+v", l)
	}
	q.Done(b)
	until(t, "the acknowledgement arrives", func() bool { return lanes()[0].InFlight == 1 })
	if d := dispatch.Delivered(lanes(), events.High); d >= a.Seq {
		t.Errorf("delivered up to %d, want below %d, which is still held", d, a.Seq)
	}
	q.Done(a)
	until(t, "the acknowledgement arrives", func() bool { return dispatch.Delivered(lanes(), events.High) == b.Seq })
	q.Done(next(t, q))
	until(t, "everything was delivered", func() bool { return dispatch.Delivered(lanes(), events.High) == 4 })
	if d := dispatch.Delivered(lanes(), events.Low); d != 0 {
		t.Errorf("low was delivered up to %d, want 0", d)
	}
}

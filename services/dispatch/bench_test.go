package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/dispatch"
	"vega/services/dispatch/queuetest"
	"vega/services/scan"
)

// BenchmarkExternalClaims is how fast 64 slots of one process claim scans that wait: hint, stored claim, acknowledgement, as the worker does them. One
// iteration is one claim.
func BenchmarkExternalClaims(b *testing.B) {
	for _, transport := range []string{"in process", "tcp"} {
		for _, waiting := range []int{10_000, 100_000} {
			b.Run(fmt.Sprintf("%s/%d waiting", transport, waiting), func(b *testing.B) {
				store := natstest.Open(b)
				if transport == "tcp" {
					store = natstest.OpenOver(b, natstest.Dial(b, natstest.Listen(b)))
				}
				fill(b, store, waiting)
				if err := dispatch.Ensure(b.Context(), store, dispatch.ModeExternal, 0); err != nil {
					b.Fatal(err)
				}
				q := queuetest.Start(b, dispatch.NewExternal(store, quiet()))
				claimed, want := atomic.Int64{}, int64(5_000)
				var slots sync.WaitGroup
				start := time.Now()
				b.ResetTimer()
				for range 64 {
					slots.Go(func() {
						for claimed.Add(1) <= want {
							h, err := q.Next(b.Context())
							if err == nil {
								err = claimFresh(b.Context(), store, h)
							}
							if err != nil {
								b.Error(err)
								return
							}
							q.Done(h)
						}
					})
				}
				slots.Wait()
				b.ReportMetric(float64(want)/time.Since(start).Seconds(), "claims/s")
				b.ReportMetric(float64(time.Since(start).Nanoseconds())/float64(want), "ns/claim")
			})
		}
	}
}

// claimFresh claims a scan of which nothing but the hint's event is known to have happened.
func claimFresh(ctx context.Context, store *eventstore.Store, h dispatch.Hint) error {
	evs, err := scan.Decide(scan.Scan{}.Evolve(*h.Ready), scan.Claim{Worker: "work_test_bench"})
	if err != nil {
		return err
	}
	_, err = store.Append(ctx, h.Ready.Aggregate, h.Ready.Head(), meta(fmt.Sprint("claim", h.Seq)), evs...)
	if errors.Is(err, eventstore.ErrConflict) {
		return nil
	}
	return err
}

// fill queues n scans without waiting for each: a third of each priority.
func fill(tb testing.TB, store *eventstore.Store, n int) {
	tb.Helper()
	for i := range n {
		p := events.Priorities()[i%3]
		req := events.ScanQueued{Project: "p", Repository: "r", Snapshot: "sha256:0", User: "user_a", Priority: p, MaxAttempts: 3}
		msgs, _, err := events.Encode(events.ScanOf(store.Region(), queuetest.ID(i)), events.Head{}, meta(fmt.Sprint("create", i)), req)
		if err != nil {
			tb.Fatal(err)
		}
		m := &nats.Msg{Subject: msgs[0].Subject, Data: msgs[0].Body, Header: nats.Header{}}
		for k, v := range msgs[0].Header {
			m.Header[k] = []string{v}
		}
		if _, err := store.JetStream().PublishMsgAsync(m); err != nil {
			tb.Fatal(err)
		}
	}
	select {
	case <-store.JetStream().PublishAsyncComplete():
	case <-time.After(time.Minute):
		tb.Fatal("the scans were not stored in time")
	}
}

// BenchmarkExternalLatency is how long it takes from the creation of a scan to its hint when slots wait: 64 in one process. One iteration is one scan.
func BenchmarkExternalLatency(b *testing.B) {
	store := natstest.Open(b)
	if err := dispatch.Ensure(b.Context(), store, dispatch.ModeExternal, 0); err != nil {
		b.Fatal(err)
	}
	q := queuetest.Start(b, dispatch.NewExternal(store, quiet()))
	came := make(chan dispatch.Hint)
	ctx, stop := context.WithCancel(b.Context())
	var slots sync.WaitGroup
	for range 64 {
		slots.Go(func() {
			for {
				h, err := q.Next(ctx)
				if err != nil {
					return
				}
				q.Done(h)
				came <- h
			}
		})
	}
	i := 0
	for b.Loop() {
		queuetest.Create(b, store, i, i+1, events.Priorities()[i%3])
		<-came
		i++
	}
	stop()
	slots.Wait()
}

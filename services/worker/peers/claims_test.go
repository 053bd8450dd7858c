package peers

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/dispatch"
	"vega/services/scan"
	"vega/services/worker"
)

// BenchmarkClaims measures how fast 64 slots claim scans, hint to stored claim to acknowledgement, where 10,000 wait and where 100,000 do, by turns.
func BenchmarkClaims(b *testing.B) {
	for _, kind := range []string{"local", "external"} {
		b.Run(kind, func(b *testing.B) {
			var bestFew, bestMany time.Duration
			const claims = 3_000
			for b.Loop() {
				few, many := backlog(b, kind == "external", 10_000), backlog(b, kind == "external", 100_000)
				for range rounds {
					for _, x := range []struct {
						of   *waiting
						best *time.Duration
					}{{few, &bestFew}, {many, &bestMany}} {
						runtime.GC() // of what was made to fill the logs
						if took := x.of.claim(b, claims); *x.best == 0 || took < *x.best {
							*x.best = took
						}
					}
				}
				few.close()
				many.close()
			}
			b.ReportMetric(claims/bestFew.Seconds(), "claims/s-of-10k")
			b.ReportMetric(claims/bestMany.Seconds(), "claims/s-of-100k")
			b.ReportMetric(bestFew.Seconds()/bestMany.Seconds(), "100k/10k")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// waiting is a log with scans that wait, and their queue.
type waiting struct {
	store *eventstore.Store
	queue worker.Queue
	close func()
}

func backlog(b *testing.B, external bool, n int) *waiting {
	b.Helper()
	store, stop := natstest.Start(b, b.TempDir(), false)
	v := &vega{store: store}
	var clients sync.WaitGroup
	for c := range slots {
		clients.Go(func() {
			for i := c; i < n; i += slots {
				if err := v.enqueue(b.Context(), i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	clients.Wait()
	var q runningQueue = localQueue{dispatch.NewLocal(store)}
	if external {
		if err := dispatch.Ensure(b.Context(), store, dispatch.ModeExternal, 0); err != nil {
			b.Fatal(err)
		}
		q = dispatch.NewExternal(store, slog.New(slog.DiscardHandler))
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := q.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	w := &waiting{store, q, func() { cancel(); running.Wait(); stop() }}
	w.claim(b, 500) // by then the queue has what waits
	return w
}

// claim takes n scans and returns how long that took.
func (w *waiting) claim(b *testing.B, n int64) time.Duration {
	b.Helper()
	var taken atomic.Int64
	var running sync.WaitGroup
	begin := time.Now()
	for range slots {
		running.Go(func() {
			for taken.Add(1) <= n {
				h, err := w.queue.Next(b.Context())
				if err == nil {
					err = w.claimOne(b.Context(), h)
				}
				if err != nil {
					b.Error(err)
					return
				}
				w.queue.Done(h)
			}
		})
	}
	running.Wait()
	return time.Since(begin)
}

// claimOne stores the claim of a scan of which nothing but the hint's event is known to have happened, as the worker does.
func (w *waiting) claimOne(ctx context.Context, h dispatch.Hint) error {
	evs, err := scan.Decide(scan.Scan{}.Evolve(*h.Ready), scan.Claim{Worker: "work_test_bench"})
	if err != nil {
		return err
	}
	meta := events.Meta{Command: events.CommandIDFor("claim", strconv.FormatUint(uint64(h.Seq), 10)), Actor: events.ByWorker("work_test_bench"), At: time.Now()}
	_, err = w.store.Append(ctx, h.Ready.Aggregate, h.Ready.Head(), meta, evs...)
	if errors.Is(err, eventstore.ErrConflict) {
		return nil // the hint came twice
	}
	return err
}

package maintenance_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"vega/events"
	"vega/events/eventstore/natstest"
	"vega/services/maintenance"
)

// BenchmarkKillToExpired is from a closed connection to the stored expiry, with no grace, over TCP.
func BenchmarkKillToExpired(b *testing.B) {
	url := natstest.Listen(b)
	store := natstest.OpenOver(b, natstest.Dial(b, url))
	w := &world{t: b, admin: store}
	l := &line{w: w, nc: natstest.Dial(b, url)}
	defer w.started(l, maintenance.Parts{Store: l.open()}, maintenance.Options{HeartbeatTTL: ttl, Config: maintenance.Config{RunningStale: forever, IngestStale: forever}}).end()
	var took []time.Duration
	for b.Loop() {
		b.StopTimer()
		id := events.ScanID(fmt.Sprint("scan_test_", len(took)))
		worker := events.NewWorkerID(natstest.Region)
		nc := natstest.Dial(b, url)
		sub, err := nc.SubscribeSync(events.PingSubject(natstest.Region, worker))
		if err != nil {
			b.Fatal(err)
		}
		g := put(b, store, events.ScanOf(natstest.Region, id), queued, events.AttemptClaimed{Attempt: 1, Worker: worker})
		for range 3 + rand.IntN(3) { // it is heard a few times
			m, err := sub.NextMsg(time.Minute)
			if err != nil {
				b.Fatal(err)
			}
			if err := m.Respond(fmt.Appendf(nil, `{"held":{%q:%d}}`, id, g[1].Seq)); err != nil {
				b.Fatal(err)
			}
		}
		<-time.After(rand.N(100 * time.Millisecond)) // at any moment between two pings
		b.StartTimer()
		begin := time.Now()
		nc.Close()
		for r, err := range store.Follow(b.Context(), g[1].Seq, events.ScanOf(natstest.Region, id).Filter()) {
			if err != nil {
				b.Fatal(err)
			}
			if r.Kind == expired {
				break
			}
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// BenchmarkCatchUp is from the start to a census of a log whose scans are over but for a hundred.
func BenchmarkCatchUp(b *testing.B) {
	store := natstest.Open(b)
	const scans, writers = 10_000, 64
	var filling sync.WaitGroup
	for w := range writers {
		filling.Go(func() {
			for i := w; i < scans; i += writers {
				a := events.ScanOf(natstest.Region, events.ScanID(fmt.Sprint("scan_test_", i)))
				evs := []events.Event{queued, events.AttemptClaimed{Attempt: 1, Worker: "work_test_a"}, events.AttemptStarted{Attempt: 1}, events.StageCompleted{Stage: "x"}}
				if i >= 100 {
					evs = append(evs, events.ScanCompleted{Attempt: 1})
				}
				var head events.Head
				for _, e := range evs {
					got, err := store.Append(b.Context(), a, head, events.Meta{Command: events.NewCommandID(), Actor: events.BySystem("test"), At: time.Now()}, e)
					if err != nil {
						b.Error(err)
						return
					}
					head = got[0].Head()
				}
			}
		})
	}
	filling.Wait()
	for b.Loop() {
		m := maintenance.New(maintenance.Parts{Store: store, Log: slog.New(slog.DiscardHandler)}, maintenance.Options{HeartbeatTTL: ttl, Config: maintenance.Config{RunningStale: forever, IngestStale: forever}})
		ctx, cancel := context.WithCancel(b.Context())
		ended := make(chan error, 1)
		go func() { ended <- m.Run(ctx) }()
		for !m.Status().CaughtUp {
			<-time.After(time.Millisecond)
		}
		if n := m.Status().Unfinished; n != 100 {
			b.Errorf("%d unfinished, want 100", n)
		}
		cancel()
		<-ended
	}
	b.ReportMetric(float64(b.N)*(scans*5-100)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkThousandWorkers is what a second of watching them costs, their own answers and the server included.
func BenchmarkThousandWorkers(b *testing.B) {
	url := natstest.Listen(b)
	store := natstest.OpenOver(b, natstest.Dial(b, url))
	w := &world{t: b, admin: store}
	workers := natstest.Dial(b, url)
	const n = 1000
	for i := range n {
		worker, id := events.WorkerID(fmt.Sprint("work_test_", i)), events.ScanID(fmt.Sprint("scan_test_", i))
		g := put(b, store, events.ScanOf(natstest.Region, id), queued, events.AttemptClaimed{Attempt: 1, Worker: worker})
		if _, err := workers.Subscribe(events.PingSubject(natstest.Region, worker), func(m *nats.Msg) { _ = m.Respond(fmt.Appendf(nil, `{"held":{%q:%d}}`, id, g[1].Seq)) }); err != nil {
			b.Fatal(err)
		}
	}
	l := &line{w: w, nc: natstest.Dial(b, url)}
	u := w.started(l, maintenance.Parts{Store: l.open()}, maintenance.Options{HeartbeatTTL: ttl, Config: maintenance.Config{RunningStale: forever, IngestStale: forever}})
	defer u.end()
	w.heard(u, n)
	cpu := func() time.Duration {
		var r syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
			b.Fatal(err)
		}
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	before := cpu()
	for b.Loop() {
		<-time.After(time.Second)
	}
	b.ReportMetric(100*(cpu()-before).Seconds()/b.Elapsed().Seconds(), "cpu-%")
}

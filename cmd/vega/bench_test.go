package main

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore/natstest"
)

// BenchmarkStartToReady measures from the start of the process to its greeting, on an empty folder and with 100,000 events in the log that the
// read model has seen. Goal: below 1,000 ms.
func BenchmarkStartToReady(b *testing.B) {
	for _, n := range []int{0, 100_000} {
		b.Run(fmt.Sprintf("events=%d", n), func(b *testing.B) {
			home := b.TempDir()
			fillLog(b, filepath.Join(home, "data", "nats"), n)
			first := serveIn(b, home, "VEGA_REGION="+string(natstest.Region)) // folds the log once
			first.stop(b)
			for b.Loop() {
				start := time.Now()
				s := serveIn(b, home, "VEGA_REGION="+string(natstest.Region))
				b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms-to-ready")
				b.StopTimer()
				s.stop(b)
				b.StartTimer()
			}
		})
	}
}

// fillLog writes n events of scans that are over into a log's folder.
func fillLog(b *testing.B, dir string, n int) {
	b.Helper()
	store, stop := natstest.Start(b, dir, false)
	defer stop()
	const perScan = 5
	meta := events.Meta{Command: "fill", Actor: events.BySystem("bench"), At: time.Now()}
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := w; i < n/perScan; i += 8 {
				a := events.ScanOf(natstest.Region, events.ScanID(fmt.Sprintf("scan_test_%d", i)))
				var head events.Head
				for _, e := range []events.Event{
					events.ScanQueued{Project: "p", Repository: "r", Snapshot: "sha256:0", User: "u", Priority: events.Normal, MaxAttempts: 3},
					events.AttemptClaimed{Attempt: 1, Worker: "w"}, events.AttemptStarted{Attempt: 1, Worker: "w"},
					events.StageCompleted{Attempt: 1, Stage: "inventory", Status: events.StageDone}, events.ScanCompleted{Attempt: 1},
				} {
					m := meta
					m.Command = events.CommandID(fmt.Sprintf("fill-%d-%d", i, head.Version))
					r, err := store.Append(b.Context(), a, head, m, e)
					if err != nil {
						b.Error(err)
						return
					}
					head = r[0].Head()
				}
			}
		})
	}
	writers.Wait()
	if info, err := store.Info(b.Context()); err != nil || int(info.Last) != n {
		b.Fatalf("the log ends at %d, %v; want %d", info.Last, err, n)
	}
}

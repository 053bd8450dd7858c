package projections_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/projections"
	"vega/projections/jsonfile"
	"vega/projections/modeltest"
)

// benchScans makes logs of about eleven events each.
const benchScans = 9_100

func benchLog(b *testing.B) (*eventstore.Store, int) {
	b.Helper()
	h := modeltest.Typical(b, benchScans)
	s := natstest.Open(b)
	h.Publish(b, s, 1)
	return s, len(h.Events)
}

// following runs a runner over m while f does its work.
func following(b *testing.B, s *eventstore.Store, m projections.Model, f func(*projections.Runner)) {
	b.Helper()
	r, err := projections.NewRunner(b.Context(), s, m, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var run sync.WaitGroup
	run.Go(func() {
		if err := r.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	f(r)
	cancel()
	run.Wait()
}

// BenchmarkProjection reads one log three ways: an ordered consumer that decodes nothing, a runner that fills an empty model in files, and a rebuild
// beside that model. Ratios of 1 would mean that decoding, applying and writing cost nothing.
func BenchmarkProjection(b *testing.B) {
	s, n := benchLog(b)
	var raw, live, rebuild time.Duration
	for b.Loop() {
		raw += modeltest.Replay(b, s, n)
		m, err := jsonfile.Open(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		begin := time.Now()
		following(b, s, m, func(r *projections.Runner) {
			if err := r.WaitFor(b.Context(), events.Seq(n)); err != nil {
				b.Fatal(err)
			}
			live += time.Since(begin)
			raw += modeltest.Replay(b, s, n)
			report, err := r.Rebuild(b.Context())
			if err != nil || report.Different > 0 {
				b.Fatalf("%+v, %v", report, err)
			}
			rebuild += report.Took
		})
		if err := m.Close(); err != nil {
			b.Fatal(err)
		}
	}
	raw /= 2
	per := float64(n) * float64(b.N)
	b.ReportMetric(per/raw.Seconds(), "replay-events/s")
	b.ReportMetric(per/live.Seconds(), "live-events/s")
	b.ReportMetric(per/rebuild.Seconds(), "rebuild-events/s")
	b.ReportMetric(raw.Seconds()/live.Seconds(), "live/replay")
	b.ReportMetric(raw.Seconds()/rebuild.Seconds(), "rebuild/replay")
}

// BenchmarkStart opens a model and gets a runner ready that has nothing left to apply, with 100,000 events in the log.
func BenchmarkStart(b *testing.B) {
	s, n := benchLog(b)
	dir := b.TempDir()
	m, err := jsonfile.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	following(b, s, m, func(r *projections.Runner) {
		if err := r.WaitFor(b.Context(), events.Seq(n)); err != nil {
			b.Fatal(err)
		}
	})
	if err := m.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		m, err := jsonfile.Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		following(b, s, m, func(r *projections.Runner) {
			if r.At() != events.Seq(n) {
				b.Fatalf("ready at %d, want %d", r.At(), n)
			}
		})
		if err := m.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/start")
}

package projections_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/projections"
	"vega/projections/jsonfile"
	"vega/projections/modeltest"
)

// replay reads the whole log with an ordered consumer and looks at nothing.
func replay(b *testing.B, s *eventstore.Store, n int) time.Duration {
	b.Helper()
	cons, err := s.JetStream().OrderedConsumer(b.Context(), eventstore.StreamName(natstest.Region), jetstream.OrderedConsumerConfig{})
	if err != nil {
		b.Fatal(err)
	}
	begin := time.Now()
	seen, all := 0, make(chan struct{})
	cc, err := cons.Consume(func(jetstream.Msg) {
		if seen++; seen == n {
			close(all)
		}
	}, jetstream.PullMaxMessages(4096))
	if err != nil {
		b.Fatal(err)
	}
	defer cc.Stop()
	<-all
	return time.Since(begin)
}

func project(b *testing.B, s *eventstore.Store, n int) time.Duration {
	b.Helper()
	m, err := jsonfile.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	begin := time.Now()
	r, err := projections.NewRunner(b.Context(), s, m, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	if err := r.WaitFor(ctx, events.Seq(n)); err != nil {
		b.Fatal(err)
	}
	took := time.Since(begin)
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	return took
}

func BenchmarkProjection(b *testing.B) {
	h := modeltest.Typical(b, 10_000)
	s := natstest.Open(b)
	h.Publish(b, s, 1)
	n := len(h.Events)
	var raw, live time.Duration
	for b.Loop() {
		raw += replay(b, s, n)
		live += project(b, s, n)
	}
	per := float64(n) * float64(b.N)
	b.ReportMetric(per/raw.Seconds(), "replay-events/s")
	b.ReportMetric(per/live.Seconds(), "live-events/s")
	b.ReportMetric(raw.Seconds()/live.Seconds(), "live/replay")
}

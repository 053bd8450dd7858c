package eventstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
)

// The server remembers a message id for two minutes; the log remembers a command for ever.
func TestACommandIsFoundBeyondTheServersMemory(t *testing.T) {
	t.Parallel()
	natstest.Virtual(t, func(t *testing.T, s *eventstore.Store) {
		a := events.ScanOf(natstest.Region, "scan_test_one")
		first, err := s.Append(t.Context(), a, events.Head{}, meta("c1"), queued(3))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Append(t.Context(), a, first[0].Head(), meta("c2"), events.CancelRequested{}); err != nil {
			t.Fatal(err)
		}
		<-time.After(26 * time.Hour)
		_, got, err := eventstore.Do(t.Context(), s, a, meta("c1"), func(state, events.Head) ([]events.Event, error) {
			t.Error("a stored command was decided again")
			return []events.Event{queued(3)}, nil
		})
		if err != nil || len(got) != 1 || got[0].Seq != first[0].Seq {
			t.Errorf("Do = %v, %v; want sequence %d", got, err, first[0].Seq)
		}
		again, err := s.Append(t.Context(), a, events.Head{}, meta("c1"), queued(3))
		if err != nil || again[0].Envelope != first[0].Envelope {
			t.Errorf("Append again = %v, %v; want the first", again, err)
		}
		if info, err := s.Info(t.Context()); err != nil || info.Last != 2 {
			t.Errorf("the log ends at %d, %v; want 2", info.Last, err)
		}
	})
}

func TestARedeliveryAfterThirtyMinutesTakesNoTime(t *testing.T) {
	t.Parallel()
	natstest.Virtual(t, func(t *testing.T, s *eventstore.Store) {
		if _, err := s.Append(t.Context(), events.ScanOf(natstest.Region, "scan_test_one"), events.Head{}, meta("c1"), queued(3)); err != nil {
			t.Fatal(err)
		}
		cons, err := s.JetStream().CreateConsumer(t.Context(), eventstore.StreamName(natstest.Region), jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		for try := 1; try <= 3; {
			msgs, err := cons.Fetch(1, jetstream.FetchMaxWait(10*time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			for range msgs.Messages() {
				try++
			}
		}
		if took := time.Since(begin); took < time.Hour || took > 70*time.Minute {
			t.Errorf("two redeliveries came after %v, want an hour", took)
		}
	})
}

// A follower that nobody feeds for hours is still there.
func TestAFollowerWaitsForHours(t *testing.T) {
	t.Parallel()
	natstest.Virtual(t, func(t *testing.T, s *eventstore.Store) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		a := events.ScanOf(natstest.Region, "scan_test_one")
		appended := make(chan struct{})
		time.AfterFunc(5*time.Hour, func() {
			defer close(appended)
			if _, err := s.Append(t.Context(), a, events.Head{}, meta("c1"), queued(3)); err != nil {
				t.Errorf("append: %v", err)
			}
		})
		for r, err := range s.Follow(ctx, 0) {
			if err != nil {
				t.Fatal(err)
			}
			if r.Command != "c1" {
				t.Errorf("got %s, want c1", r.Command)
			}
			break
		}
		<-appended
	})
}

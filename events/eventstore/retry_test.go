package eventstore_test

import (
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
)

// A retry that was decided again, at another moment and with other contents, gets what the first try stored, and the chain goes on from there.
func TestARetryReturnsWhatTheFirstTryStored(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *eventstore.Store) {
		a := events.ScanOf(natstest.Region, "scan_test_one")
		first, err := s.Append(t.Context(), a, events.Head{}, meta("c1"), queued(3), events.AttemptClaimed{Attempt: 1, Worker: "w"})
		if err != nil {
			t.Fatal(err)
		}
		later := meta("c1")
		later.At, later.Actor = at.Add(time.Hour), events.ByUser("user_other")
		again, err := s.Append(t.Context(), a, events.Head{}, later, queued(4), events.AttemptClaimed{Attempt: 1, Worker: "another"})
		if err != nil || len(again) != 2 {
			t.Fatalf("retry = %v, %v", again, err)
		}
		for i := range first {
			if again[i].Envelope != first[i].Envelope || again[i].Seq != first[i].Seq {
				t.Errorf("retry returned %+v, want %+v", again[i], first[i])
			}
		}
		if e, ok := again[0].Event.(events.ScanQueued); !ok || e.MaxAttempts != 3 {
			t.Errorf("retry returned %+v, want the stored event", again[0].Event)
		}
		if _, err := s.Append(t.Context(), a, again[1].Head(), meta("c2"), events.CancelRequested{}); err != nil {
			t.Fatal(err)
		}
		if got, _, err := s.Load(t.Context(), a, events.Head{}); err != nil || len(got) != 3 {
			t.Errorf("Load = %d events, %v; want 3 in a whole chain", len(got), err)
		}
	})
}

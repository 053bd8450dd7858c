package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/dispatch"
	"vega/services/scan"
)

func meta(cmd string) events.Meta {
	return events.Meta{Command: events.CommandID(cmd), Actor: events.BySystem("test"), At: time.Now()}
}

func request(p events.Priority) events.ScanQueued {
	return events.ScanQueued{Project: "p", Repository: "r", Snapshot: "sha256:0", User: "user_a", Priority: p, MaxAttempts: 3}
}

func end(t *testing.T, s *eventstore.Store, id events.ScanID) {
	t.Helper()
	_, _, err := eventstore.Do(t.Context(), s, events.ScanOf(natstest.Region, id), meta("end"), func(x scan.Scan, _ events.Head) ([]events.Event, error) {
		return scan.Decide(x, scan.RequestCancel{})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTwoHundredAtOnceGetExactlyTheLimit(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	const limit = 4
	// Two admissions stand for two API processes: nothing in memory is shared.
	doors := []*dispatch.Admission{dispatch.NewAdmission(s, limit), dispatch.NewAdmission(s, limit)}
	var in, out atomic.Int64
	var callers sync.WaitGroup
	for i := range 200 {
		callers.Go(func() {
			_, _, err := doors[i%2].Create(t.Context(), meta(fmt.Sprint("c", i)), events.ScanID(fmt.Sprint("scan_test_", i)), request(events.Normal))
			if _, full := errors.AsType[*scan.LimitError](err); full {
				out.Add(1)
			} else if err != nil {
				t.Errorf("create %d: %v", i, err)
			} else {
				in.Add(1)
			}
		})
	}
	callers.Wait()
	if in.Load() != limit || out.Load() != 200-limit {
		t.Errorf("%d let in and %d refused, want %d and %d", in.Load(), out.Load(), limit, 200-limit)
	}
}

func TestASlotIsFreeWhenItsScanEnds(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	a := dispatch.NewAdmission(s, 1)
	if _, _, err := a.Create(t.Context(), meta("c1"), "scan_test_1", request(events.Normal)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Create(t.Context(), meta("c2"), "scan_test_2", request(events.Normal)); err == nil {
		t.Fatal("a second active scan was let in")
	}
	end(t, s, "scan_test_1")
	if _, _, err := a.Create(t.Context(), meta("c3"), "scan_test_3", request(events.Normal)); err != nil {
		t.Errorf("after the end of the first: %v", err)
	}
}

func TestTheSameIDIsTheSameScan(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	a := dispatch.NewAdmission(s, 1)
	_, first, err := a.Create(t.Context(), meta("c1"), "scan_test_1", request(events.Normal))
	if err != nil {
		t.Fatal(err)
	}
	for _, cmd := range []string{"c1", "c2"} {
		if _, _, err := a.Create(t.Context(), meta(cmd), "scan_test_1", request(events.Normal)); err != nil {
			t.Errorf("again with command %s: %v", cmd, err)
		}
	}
	if last, _, err := s.LoadLast(t.Context(), events.ScanOf(natstest.Region, "scan_test_1")); err != nil || last.Seq != first[0].Seq {
		t.Errorf("the scan has another event: %d, %v", last.Seq, err)
	}
}

func TestAReservedIDThatNeverBecameAScanIsAbandoned(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	old := meta("c1")
	old.At = time.Now().Add(-time.Hour)
	// What a process leaves that dies between its two appends.
	if _, err := s.Append(t.Context(), events.SlotsOf(natstest.Region, "user_a"), events.Head{}, old, events.Slots{User: "user_a", Active: []events.Slot{{Scan: "scan_test_lost", At: old.At}}}); err != nil {
		t.Fatal(err)
	}
	a := dispatch.NewAdmission(s, 1)
	if _, _, err := a.Create(t.Context(), meta("c2"), "scan_test_2", request(events.Normal)); err != nil {
		t.Fatalf("the lost id still holds its slot: %v", err)
	}
	// Should its creator have been slow and not dead, it learns that it was too late.
	if _, _, err := dispatch.NewAdmission(s, 2).Create(t.Context(), meta("c1"), "scan_test_lost", request(events.Normal)); err == nil {
		t.Error("an abandoned id became a scan")
	} else if _, no := errors.AsType[*scan.NotAllowedError](err); !no {
		t.Errorf("the slow creator got %v", err)
	}
}

func TestTheLocalQueueGivesTheBestHintFirst(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	a := dispatch.NewAdmission(s, 100)
	for i, p := range []events.Priority{events.Low, events.Normal, events.High, events.Normal, events.High} {
		if _, _, err := a.Create(t.Context(), meta(fmt.Sprint("c", i)), events.ScanID(fmt.Sprint("scan_test_", i)), request(p)); err != nil {
			t.Fatal(err)
		}
	}
	q := dispatch.NewLocal(s)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- q.Run(ctx, 0) }()
	// All five are in the queue once the last one, which is the second best, can be had after the best.
	var got []events.ScanID
	var held []dispatch.Hint
	for len(held) < 5 {
		h, err := q.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, h)
	}
	for _, h := range held {
		q.Retry(h)
	}
	for range 5 {
		h, err := q.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h.Scan)
	}
	if want := "[scan_test_2 scan_test_4 scan_test_1 scan_test_3 scan_test_0]"; fmt.Sprint(got) != want {
		t.Errorf("order %v, want %s", got, want)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Errorf("Run = %v", err)
	}
	if _, err := q.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Next after the end = %v", err)
	}
}

package projections_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/projections"
	"vega/projections/jsonfile"
)

func TestMain(m *testing.M) { natstest.Main(m) }

func TestEventsGatherUnlessSomebodyWaitsForThem(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	natstest.Virtual(t, func(t *testing.T, s *eventstore.Store) {
		m, err := jsonfile.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		r, err := projections.NewRunner(t.Context(), s, m, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() {
			if err := r.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		n := 0
		add := func() events.Seq {
			t.Helper()
			n++
			a := events.ProjectOf(natstest.Region, events.ProjectID(fmt.Sprint("proj_test_", n)))
			meta := events.Meta{Command: events.CommandID(fmt.Sprint("c", n)), Actor: events.BySystem("test"), At: time.Now()}
			got, err := s.Append(t.Context(), a, events.Head{}, meta, events.ProjectCreated{Name: "p", Owner: "user_a"})
			if err != nil {
				t.Fatal(err)
			}
			return got[0].Seq
		}
		settle := func(d time.Duration, want events.Seq) {
			t.Helper()
			<-time.After(d)
			if got := r.At(); got != want {
				t.Errorf("the rows are true up to %d, want %d", got, want)
			}
		}
		settle(time.Second, 0) // it follows
		first := add()
		settle(time.Millisecond, first) // nothing was written lately
		add()
		add()
		settle(time.Millisecond, first)
		begin := time.Now()
		last := add()
		if err := r.WaitFor(t.Context(), last); err != nil || time.Since(begin) > 2*time.Millisecond {
			t.Errorf("who waits got it after %v, %v", time.Since(begin), err)
		}
		last = add()
		settle(time.Second, last) // nobody asked
		cancel()
		run.Wait()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

package eventstore_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

func meta(cmd string) events.Meta {
	return events.Meta{Command: events.CommandID(cmd), Actor: events.BySystem("test"), At: at}
}

func queued(n int) events.ScanQueued {
	return events.ScanQueued{Project: "proj_test_a", Repository: "repo_test_a", Snapshot: "sha256:00", User: "user_a", Priority: events.Normal, MaxAttempts: n}
}

// state is the smallest fold: what was seen, in order.
type state struct{ kinds []events.Kind }

func (s state) Evolve(r events.Recorded) state {
	return state{append(s.kinds[:len(s.kinds):len(s.kinds)], r.Kind)}
}

func both(t *testing.T, f func(t *testing.T, s *eventstore.Store)) {
	for _, always := range []bool{false, true} {
		t.Run(fmt.Sprintf("sync_always=%v", always), func(t *testing.T) {
			t.Parallel()
			f(t, natstest.OpenWith(t, t.TempDir(), always))
		})
	}
}

func TestAppendThenLoadReturnsWhatWasStored(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *eventstore.Store) {
		a := events.ScanOf(natstest.Region, "scan_test_one")
		one, err := s.Append(t.Context(), a, events.Head{}, meta("c1"), queued(3))
		if err != nil {
			t.Fatal(err)
		}
		two, err := s.Append(t.Context(), a, one[0].Head(), meta("c2"), events.AttemptClaimed{Attempt: 1, Worker: "work_test_w"}, events.AttemptStarted{Attempt: 1, Worker: "work_test_w"})
		if err != nil {
			t.Fatal(err)
		}
		got, head, err := s.Load(t.Context(), a, events.Head{})
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 3 || head != two[1].Head() {
			t.Fatalf("Load = %d events, head %+v; want 3, %+v", len(got), head, two[1].Head())
		}
		for i, want := range append(one, two...) {
			if got[i].ID != want.ID || got[i].Seq != want.Seq || got[i].Hash != want.Hash || got[i].Version != events.Version(i+1) || !got[i].At.Equal(at) {
				t.Errorf("event %d = %+v, want %+v", i, got[i].Envelope, want.Envelope)
			}
		}
	})
}

func TestAppendAfterAStaleHeadConflicts(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *eventstore.Store) {
		a := events.ScanOf(natstest.Region, "scan_test_one")
		if _, err := s.Append(t.Context(), a, events.Head{}, meta("c1"), queued(3)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Append(t.Context(), a, events.Head{}, meta("c2"), queued(3)); !errors.Is(err, eventstore.ErrConflict) {
			t.Errorf("second append after nothing = %v, want ErrConflict", err)
		}
	})
}

// A caller may know more than the leader, from a replica or a consumer that is ahead of it. That nobody was faster must not be called a conflict, and the
// answer waits for the leader; a log that never gets there has lost events.
func TestALogThatEndsBeforeWhatTheCallerSaw(t *testing.T) {
	t.Parallel()
	url := natstest.Listen(t)
	open := func(patience time.Duration) *eventstore.Store {
		s, err := eventstore.Open(t.Context(), natstest.Dial(t, url), eventstore.Options{Region: natstest.Region, Patience: patience})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		return s
	}
	a := events.ScanOf(natstest.Region, "scan_test_one")
	patient, hasty := open(time.Minute), open(time.Millisecond)
	got, err := patient.Append(t.Context(), a, events.Head{}, meta("c1"), queued(3))
	if err != nil {
		t.Fatal(err)
	}
	_, seen, err := events.Encode(a, got[0].Head(), meta("c2"), events.CancelRequested{})
	if err != nil {
		t.Fatal(err)
	}
	seen.Seq = got[0].Seq + 1

	_, err = hasty.Append(t.Context(), a, seen, meta("c3"), events.CancelRequested{})
	if errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrConflict) || !noticed(err) {
		t.Errorf("append after what is not there = %v, want a broken chain", err)
	}
	if _, _, err := hasty.Load(t.Context(), a, seen); errors.Is(err, eventstore.ErrUnavailable) || !noticed(err) {
		t.Errorf("load after what is not there = %v, want a broken chain", err)
	}

	loaded := make(chan error, 1)
	go func() {
		evs, head, err := patient.Load(t.Context(), a, seen)
		if err == nil && (len(evs) > 0 || head != seen) {
			err = fmt.Errorf("%d events, head %+v; want none after %+v", len(evs), head, seen)
		}
		loaded <- err
	}()
	if _, err := hasty.Append(t.Context(), a, got[0].Head(), meta("c2"), events.CancelRequested{}); err != nil {
		t.Fatal(err)
	}
	if err := <-loaded; err != nil {
		t.Errorf("load while the leader got there: %v", err)
	}
	if got, err := patient.Append(t.Context(), a, seen, meta("c4"), events.CancelRequested{}); err != nil || got[0].Version != 3 {
		t.Errorf("append after it = %v, %v", got, err)
	}
}

func TestTheSameCommandIsStoredOnce(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *eventstore.Store) {
		a := events.ScanOf(natstest.Region, "scan_test_one")
		first, err := s.Append(t.Context(), a, events.Head{}, meta("c1"), queued(3))
		if err != nil {
			t.Fatal(err)
		}
		again, err := s.Append(t.Context(), a, events.Head{}, meta("c1"), queued(3))
		if err != nil || again[0].Seq != first[0].Seq {
			t.Errorf("retry = %v, %v; want sequence %d", again, err, first[0].Seq)
		}
		_, mine, err := eventstore.Do(t.Context(), s, a, meta("c1"), func(state, events.Head) ([]events.Event, error) {
			t.Error("a stored command was decided again")
			return nil, nil
		})
		if err != nil || len(mine) != 1 || mine[0].Seq != first[0].Seq {
			t.Errorf("Do of a stored command = %v, %v", mine, err)
		}
	})
}

func TestRacingWritersOfOneAggregateAllGetIn(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, s *eventstore.Store) {
		const writers = 40
		a := events.ScanOf(natstest.Region, "scan_test_hot")
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				_, got, err := eventstore.Do(t.Context(), s, a, meta(fmt.Sprintf("c%d", i)), func(state, events.Head) ([]events.Event, error) {
					return []events.Event{events.CancelRequested{}}, nil
				})
				if err != nil || len(got) != 1 {
					t.Errorf("writer %d: %v, %v", i, got, err)
				}
			})
		}
		wg.Wait()
		got, _, err := s.Load(t.Context(), a, events.Head{})
		if err != nil || len(got) != writers {
			t.Errorf("Load = %d events, %v; want %d", len(got), err, writers)
		}
	})
}

func TestManyWritersOfManyAggregatesShareBatches(t *testing.T) {
	t.Parallel()
	s := natstest.OpenWith(t, t.TempDir(), true)
	const writers, each = 64, 10
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			a := events.ScanOf(natstest.Region, events.ScanID(fmt.Sprintf("scan_test_w%d", w)))
			var head events.Head
			for i := range each {
				// Every third append goes out with a stale head: one conflict must not hurt its neighbours.
				if i%3 == 2 {
					if _, err := s.Append(t.Context(), a, events.Head{}, meta(fmt.Sprintf("stale%d", i)), queued(1)); !errors.Is(err, eventstore.ErrConflict) {
						t.Errorf("stale append = %v, want ErrConflict", err)
					}
				}
				got, err := s.Append(t.Context(), a, head, meta(fmt.Sprintf("c%d", i)), events.CancelRequested{})
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				head = got[0].Head()
			}
		})
	}
	wg.Wait()
	info, err := s.Info(t.Context())
	if err != nil || info.Last != writers*each {
		t.Errorf("log ends at %d, %v; want %d", info.Last, err, writers*each)
	}
}

func TestFollowCatchesUpAndGoesOn(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	a := events.ScanOf(natstest.Region, "scan_test_one")
	var head events.Head
	put := func(i int) {
		got, err := s.Append(t.Context(), a, head, meta(fmt.Sprintf("c%d", i)), events.CancelRequested{})
		if err != nil {
			t.Fatal(err)
		}
		head = got[0].Head()
	}
	for i := range 10 {
		put(i)
	}
	want := events.Seq(4)
	for r, err := range s.Follow(t.Context(), 3) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Seq != want {
			t.Fatalf("got sequence %d, want %d", r.Seq, want)
		}
		if want == 10 {
			put(10) // live from here
		}
		if want == 11 {
			break
		}
		want++
	}
}

func TestNothingIsWrittenWithoutRoom(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	full := true
	tight, err := eventstore.Open(t.Context(), s.Conn(), eventstore.Options{Region: natstest.Region, Room: func() error {
		if full {
			return errors.New("3 bytes are free")
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tight.Close)
	a := events.ScanOf(natstest.Region, "scan_test_one")
	if _, err := tight.Append(t.Context(), a, events.Head{}, meta("c1"), queued(3)); !errors.Is(err, eventstore.ErrFull) || !errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("append without room = %v, want ErrFull", err)
	}
	if info, err := s.Info(t.Context()); err != nil || info.Last != 0 {
		t.Errorf("the log ends at %d, %v", info.Last, err)
	}
	full = false
	if _, err := tight.Append(t.Context(), a, events.Head{}, meta("c1"), queued(3)); err != nil {
		t.Errorf("append with room again: %v", err)
	}
}

func TestOpenRefusesALogThatIsNotSetUp(t *testing.T) {
	t.Parallel()
	srv, err := eventstore.StartEmbedded(eventstore.EmbeddedOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Stop()
	nc, err := srv.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := eventstore.Open(t.Context(), nc, eventstore.Options{Region: "test"}); err == nil {
		t.Error("Open of a log that does not exist succeeded")
	}
}

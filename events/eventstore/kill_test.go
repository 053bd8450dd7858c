package eventstore_test

import (
	"bufio"
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
)

// childCallers are those of the process that gets killed; each has a few aggregates of its own and shares some with the next.
const childCallers = 16

func childAggregate(caller, i int) events.Aggregate {
	if i%3 == 0 {
		return events.ScanOf(natstest.Region, events.ScanID(fmt.Sprintf("scan_test_shared%d", caller/2)))
	}
	return events.ScanOf(natstest.Region, events.ScanID(fmt.Sprintf("scan_test_%d_%d", caller, i%4)))
}

// childEvents is what a command appends, 1 to 3 events: always the same for the same command, as a retry must be.
func childEvents(command string) []events.Event {
	h := fnv.New32a()
	_, _ = h.Write([]byte(command)) // never fails
	var evs []events.Event
	for range 1 + h.Sum32()%3 {
		evs = append(evs, events.CancelRequested{Reason: command})
	}
	return evs
}

// appendUntilKilled runs a server and callers until the process dies. It prints "<command> <seq>" after each
// acknowledgement.
func appendUntilKilled(dir string, always bool, round string) {
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	srv, err := eventstore.StartEmbedded(eventstore.EmbeddedOptions{Dir: dir, SyncAlways: always})
	check(err)
	nc, err := srv.Connect()
	check(err)
	js, err := jetstream.New(nc)
	check(err)
	ctx := context.Background()
	check(eventstore.Setup(ctx, js, natstest.Region, 1))
	s, err := eventstore.Open(ctx, nc, eventstore.Options{Region: natstest.Region, SyncAlways: always})
	check(err)
	var out sync.Mutex
	say := func(line string) {
		out.Lock()
		defer out.Unlock()
		_, _ = os.Stdout.WriteString(line + "\n") // one write: whole even when the next moment is the last
	}
	var callers sync.WaitGroup
	for c := range childCallers {
		callers.Go(func() {
			for i := 0; ; i++ {
				command := fmt.Sprintf("r%s.c%d.i%d", round, c, i)
				_, got, err := eventstore.Do(ctx, s, childAggregate(c, i), meta(command), func(state, events.Head) ([]events.Event, error) { return childEvents(command), nil })
				check(err)
				say(fmt.Sprintf("%s %d", command, got[len(got)-1].Seq))
			}
		})
	}
	callers.Wait()
}

func TestAKilledProcessLosesNoAcknowledgedEvent(t *testing.T) {
	t.Parallel()
	for _, sync := range []string{"always", "default"} {
		t.Run(sync, func(t *testing.T) {
			t.Parallel()
			var dir string
			var told *acked
			for round := range killRounds {
				if round%5 == 0 { // a new log: the checks read all of it every time
					dir, told = t.TempDir(), newAcked()
				}
				runAndKill(t, dir, sync, round, told)
				s, stop := natstest.Start(t, dir, sync == "always")
				checkLog(t, s, told)
				checkWhole(t, s)
				// Whoever did not hear the end of its command tries again: it is stored once.
				for c := range childCallers {
					for i := range 3 {
						command := fmt.Sprintf("r%d.c%d.i%d", round, c, i)
						_, got, err := eventstore.Do(t.Context(), s, childAggregate(c, i), meta(command), func(state, events.Head) ([]events.Event, error) { return childEvents(command), nil })
						if err != nil || len(got) != len(childEvents(command)) {
							t.Fatalf("retry of %s = %d events, %v", command, len(got), err)
						}
						told.add(got...)
					}
				}
				checkLog(t, s, told)
				stop()
			}
		})
	}
}

func runAndKill(t *testing.T, dir, sync string, round int, told *acked) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "EVENTSTORE_TEST_CHILD="+dir, "EVENTSTORE_TEST_SYNC="+sync, fmt.Sprintf("EVENTSTORE_TEST_ROUND=%d", round))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	die, n := 1+rand.IntN(400), 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var command string
		var seq events.Seq
		if _, err := fmt.Sscan(lines.Text(), &command, &seq); err != nil {
			t.Fatalf("the child said %q", lines.Text())
		}
		told.add(events.Recorded{Envelope: events.Envelope{Meta: events.Meta{Command: events.CommandID(command)}}, Seq: seq})
		if n++; n == die { // and what comes after a random moment more
			time.AfterFunc(time.Duration(rand.IntN(20))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		}
	}
	_ = cmd.Wait() // killed
	if n < die {
		t.Fatalf("the child died by itself after %d commands", n)
	}
}

// checkWhole expects every command's events next to each other and all there.
func checkWhole(t *testing.T, s *eventstore.Store) {
	t.Helper()
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seqs := map[events.CommandID][]events.Seq{}
	for r, err := range s.Follow(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e := r.Event.(events.CancelRequested); e.Reason != string(r.Command) {
			t.Errorf("event %d of %s holds %q", r.Seq, r.Command, e.Reason)
		}
		seqs[r.Command] = append(seqs[r.Command], r.Seq)
		if r.Seq == info.Last {
			break
		}
	}
	for c, s := range seqs {
		if want := len(childEvents(string(c))); len(s) != want || s[len(s)-1]-s[0] != events.Seq(want-1) {
			t.Errorf("%s has %d events at %v, want %d in a row", c, len(s), s, want)
		}
	}
}

package scan_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vega/events"
	"vega/services/scan"
)

var update = flag.Bool("update", false, "rewrite the generated diagram")

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

var request = events.ScanQueued{Project: "p", Repository: "r", Snapshot: "sha256:00", User: "u", Priority: events.Normal, MaxAttempts: 3}

// world is a scan with the events that made it.
type world struct {
	state scan.Scan
	log   []events.Recorded
}

func (w *world) apply(evs ...events.Event) {
	for _, e := range evs {
		n := len(w.log) + 1
		r := events.Recorded{Envelope: events.Envelope{Meta: events.Meta{At: now.Add(time.Duration(n) * time.Second)}, Kind: events.KindOf(e), Version: events.Version(n)}, Seq: events.Seq(n), Event: e}
		w.log = append(w.log, r)
		w.state = w.state.Evolve(r)
	}
}

func given(evs ...events.Event) scan.Scan {
	var w world
	w.apply(evs...)
	return w.state
}

// lives are event histories that end in each status.
var (
	queued     = []events.Event{request}
	claimed    = append(queued[:1:1], events.AttemptClaimed{Attempt: 1, Worker: "w"})
	running    = append(claimed[:2:2], events.AttemptStarted{Attempt: 1, Worker: "w"})
	cancelling = append(running[:3:3], events.CancelRequested{})
	lives      = map[scan.Status][]events.Event{
		scan.None:       nil,
		scan.Queued:     queued,
		scan.Claimed:    claimed,
		scan.Running:    running,
		scan.Cancelling: cancelling,
		scan.Completed:  append(running[:3:3], events.ScanCompleted{Attempt: 1}),
		scan.Failed:     append(running[:3:3], events.ScanFailed{Attempt: 1}),
		scan.Cancelled:  append(cancelling[:4:4], events.ScanCancelled{Attempt: 1}),
		scan.Abandoned:  {events.ScanAbandoned{}},
	}
)

func TestEveryStatusAndEventIsInTheTable(t *testing.T) {
	t.Parallel()
	want := map[scan.Status]string{
		scan.None:       "scan.queued→queued scan.abandoned→abandoned ",
		scan.Queued:     "scan.queued→queued scan.claimed→claimed scan.failed→failed scan.cancelled→cancelled ",
		scan.Claimed:    "scan.runner_joined→claimed scan.started→running scan.cancel_requested→cancelling scan.released→queued scan.expired→queued scan.failed→failed ",
		scan.Running:    "scan.stage_completed→running scan.unit_completed→running scan.findings_recorded→running scan.cancel_requested→cancelling scan.released→queued scan.expired→queued scan.completed→completed scan.failed→failed ",
		scan.Cancelling: "scan.cancelled→cancelled ",
	}
	for _, s := range scan.Statuses() {
		got := ""
		for _, k := range events.Kinds() {
			if to, ok := scan.Next(s, k); ok {
				got += fmt.Sprintf("%s→%s ", k, to)
			}
		}
		if got != want[s] {
			t.Errorf("from %q:\n got %s\nwant %s", s, got, want[s])
		}
	}
}

func TestTheDiagramIsDrawnFromTheTable(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	b.WriteString("# The life of a scan\n\nDrawn from the transition table in `services/scan/transition.go` by `go test ./services/scan -update`.\n\n```mermaid\n")
	if err := scan.WriteDiagram(&b); err != nil {
		t.Fatal(err)
	}
	b.WriteString("```\n")
	const path = "../../docs/scan-states.md"
	if *update {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(have, b.Bytes()) {
		t.Errorf("%s is not what the table says (%v); run go test ./services/scan -update", path, err)
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	last := append(running[:3:3], events.AttemptExpired{Attempt: 1}, events.AttemptClaimed{Attempt: 2}, events.AttemptExpired{Attempt: 2}, events.AttemptClaimed{Attempt: 3})
	launched := append(queued[:1:1], events.AttemptClaimed{Attempt: 1, Worker: "w", RunnerToken: scan.TokenDigest("t")})
	finding := func(id string) events.Finding {
		return events.Finding{ID: events.FindingID(id), Severity: events.SeverityHigh}
	}
	many := make([]events.Finding, 120)
	for i := range many {
		many[i] = finding(fmt.Sprint("f", i))
	}
	for _, c := range []struct {
		name  string
		given []events.Event
		when  scan.Command
		then  string // kinds
		err   error  // errors.Is, or any *NotAllowedError
	}{
		{"queue a new scan", nil, scan.Queue{Request: request}, "[scan.queued]", nil},
		{"queue it again", queued, scan.Queue{Request: request}, "[]", nil},
		{"queue an abandoned id", lives[scan.Abandoned], scan.Queue{Request: request}, "", &scan.NotAllowedError{}},
		{"a lost hint", queued, scan.Requeue{}, "[scan.queued]", nil},
		{"a hint of a running scan", running, scan.Requeue{}, "[]", nil},
		{"abandon nothing", nil, scan.Abandon{User: "u"}, "[scan.abandoned]", nil},
		{"abandon a scan", queued, scan.Abandon{User: "u"}, "", &scan.NotAllowedError{}},
		{"claim", queued, scan.Claim{Worker: "w"}, "[scan.claimed]", nil},
		{"claim twice", claimed, scan.Claim{Worker: "x"}, "", &scan.NotAllowedError{}},
		{"start", claimed, scan.Start{Generation: 2}, "[scan.started]", nil},
		{"start with an old claim", claimed, scan.Start{Generation: 1}, "", scan.ErrSuperseded},
		{"start while cancelling", cancelling, scan.Start{Generation: 2}, "", scan.ErrCancelling},
		{"a stage", running, scan.CompleteStage{Generation: 2, Result: events.StageCompleted{Stage: "s"}}, "[scan.stage_completed]", nil},
		{"a stage again", append(running[:3:3], events.StageCompleted{Stage: "s"}), scan.CompleteStage{Generation: 2, Result: events.StageCompleted{Stage: "s"}}, "[]", nil},
		{"a unit", running, scan.CompleteUnit{Generation: 2, Result: events.UnitCompleted{Stage: "s", Unit: "u"}}, "[scan.unit_completed]", nil},
		{"a unit again", append(running[:3:3], events.UnitCompleted{Stage: "s", Unit: "u"}), scan.CompleteUnit{Generation: 2, Result: events.UnitCompleted{Stage: "s", Unit: "u"}}, "[]", nil},
		{"another stage's unit of that name", append(running[:3:3], events.UnitCompleted{Stage: "s", Unit: "u"}), scan.CompleteUnit{Generation: 2, Result: events.UnitCompleted{Stage: "t", Unit: "u"}}, "[scan.unit_completed]", nil},
		{"a unit of a stage that is over", append(running[:3:3], events.StageCompleted{Stage: "s"}), scan.CompleteUnit{Generation: 2, Result: events.UnitCompleted{Stage: "s", Unit: "u"}}, "[]", nil},
		{"a unit while cancelling", cancelling, scan.CompleteUnit{Generation: 2, Result: events.UnitCompleted{Stage: "s", Unit: "u"}}, "", scan.ErrCancelling},
		{"findings in parts", running, scan.RecordFindings{Generation: 2, Findings: many}, "[scan.findings_recorded scan.findings_recorded scan.findings_recorded]", nil},
		{"findings again", append(running[:3:3], events.FindingsRecorded{Findings: many[:50]}), scan.RecordFindings{Generation: 2, Findings: many[:50]}, "[]", nil},
		{"complete", running, scan.Complete{Generation: 2}, "[scan.completed]", nil},
		{"complete unstarted", claimed, scan.Complete{Generation: 2}, "", &scan.NotAllowedError{}},
		{"complete while cancelling", cancelling, scan.Complete{Generation: 2}, "", scan.ErrCancelling},
		{"fail a claimed one", claimed, scan.Fail{Generation: 2}, "[scan.failed]", nil},
		{"cancel queued", queued, scan.RequestCancel{}, "[scan.cancelled]", nil},
		{"cancel running", running, scan.RequestCancel{}, "[scan.cancel_requested]", nil},
		{"cancel twice", cancelling, scan.RequestCancel{}, "[]", nil},
		{"cancel completed", lives[scan.Completed], scan.RequestCancel{}, "", &scan.NotAllowedError{}},
		{"confirm", cancelling, scan.ConfirmCancel{Generation: 2}, "[scan.cancelled]", nil},
		{"confirm unasked", running, scan.ConfirmCancel{Generation: 2}, "", scan.ErrSuperseded},
		{"release", running, scan.Release{Generation: 2}, "[scan.released]", nil},
		{"release while cancelling", cancelling, scan.Release{Generation: 2}, "[scan.cancelled]", nil},
		{"expire", running, scan.Expire{Generation: 2}, "[scan.expired]", nil},
		{"expire an older claim", running, scan.Expire{Generation: 1}, "[]", nil},
		{"expire while cancelling", cancelling, scan.Expire{Generation: 2}, "[scan.cancelled]", nil},
		{"expire the last attempt", last, scan.Expire{Generation: 7}, "[scan.failed]", nil},
		{"join", launched, scan.Join{Generation: 2, Token: "t"}, "[scan.runner_joined]", nil},
		{"join twice", append(launched[:2:2], events.RunnerJoined{JTI: "j"}), scan.Join{Generation: 2, Token: "t"}, "", scan.ErrTokenSpent},
		{"join with another token", launched, scan.Join{Generation: 2, Token: "u"}, "", scan.ErrTokenWrong},
		{"join too late", launched, scan.Join{Generation: 2, Token: "t", At: time.Now().Add(time.Hour)}, "", scan.ErrTokenWrong},
		{"join what the worker runs itself", claimed, scan.Join{Generation: 2}, "", scan.ErrTokenWrong},
		{"join an older claim", launched, scan.Join{Generation: 1, Token: "t"}, "", scan.ErrSuperseded},
		{"start before the runner joined", launched, scan.Start{Generation: 2}, "", &scan.NotAllowedError{}},
		{"start after it", append(launched[:2:2], events.RunnerJoined{JTI: "j"}), scan.Start{Generation: 2}, "[scan.started]", nil},
	} {
		evs, err := scan.Decide(given(c.given...), c.when)
		if c.err != nil {
			_, notAllowed := errors.AsType[*scan.NotAllowedError](err)
			if _, want := errors.AsType[*scan.NotAllowedError](c.err); (want && !notAllowed) || (!want && !errors.Is(err, c.err)) {
				t.Errorf("%s: error %v, want %v", c.name, err, c.err)
			}
			continue
		}
		kinds := []events.Kind{}
		for _, e := range evs {
			kinds = append(kinds, events.KindOf(e))
		}
		if got := fmt.Sprint(kinds); got != c.then || err != nil {
			t.Errorf("%s: Decide = %s, %v; want %s", c.name, got, err, c.then)
		}
	}
}

func TestAReleasedAttemptDoesNotCount(t *testing.T) {
	t.Parallel()
	one := request
	one.MaxAttempts = 1
	s := given(one, events.AttemptClaimed{Attempt: 1}, events.AttemptReleased{Attempt: 1}, events.AttemptClaimed{Attempt: 2}, events.AttemptReleased{Attempt: 2}, events.AttemptClaimed{Attempt: 3})
	if s.Spent != 1 || s.Attempt != 3 {
		t.Errorf("spent %d of attempt %d, want 1 and 3", s.Spent, s.Attempt)
	}
}

// commands draws any command, with a generation that is sometimes right.
func command(t *rapid.T, s scan.Scan) scan.Command {
	gen := rapid.SampledFrom([]events.Seq{s.Generation, s.Generation, s.Generation, 0, 1, 99}).Draw(t, "generation")
	id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "id")
	return rapid.SampledFrom([]scan.Command{
		scan.Queue{Request: request}, scan.Queue{}, scan.Requeue{}, scan.Abandon{User: "u"}, scan.Claim{Worker: events.WorkerID(id)}, scan.Claim{Worker: events.WorkerID(id), RunnerToken: scan.TokenDigest(id)},
		scan.Join{Generation: gen, Token: id}, scan.Start{Generation: gen}, scan.CompleteUnit{Generation: gen, Result: events.UnitCompleted{Stage: id, Unit: id}}, scan.CompleteStage{Generation: gen, Result: events.StageCompleted{Stage: id}},
		scan.RecordFindings{Generation: gen, Findings: []events.Finding{{ID: events.FindingID(id)}}}, scan.Complete{Generation: gen}, scan.Fail{Generation: gen},
		scan.RequestCancel{}, scan.ConfirmCancel{Generation: gen}, scan.Release{Generation: gen}, scan.Expire{Generation: gen},
	}).Draw(t, "command")
}

func TestAnyCommandsKeepTheRules(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var w world
		terminals := 0
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			before := w.state
			evs, err := scan.Decide(before, command(t, before))
			if err != nil && len(evs) > 0 {
				t.Fatalf("both events and an error: %v, %v", evs, err)
			}
			if before.Status.Terminal() && len(evs) > 0 {
				t.Fatalf("%s emits %v", before.Status, evs)
			}
			for _, e := range evs {
				if _, ok := scan.Next(w.state.Status, events.KindOf(e)); !ok {
					t.Fatalf("decided %s in %q, which the table refuses", events.KindOf(e), w.state.Status)
				}
				w.apply(e)
				if w.state.Status.Terminal() {
					terminals++
				}
			}
		}
		if terminals > 1 {
			t.Fatalf("%d ends", terminals)
		}
		if w.state.Spent > request.MaxAttempts {
			t.Fatalf("%d attempts counted, at most %d allowed", w.state.Spent, request.MaxAttempts)
		}
		stages := map[string]bool{}
		for _, s := range w.state.Stages {
			if stages[s.Stage] {
				t.Fatalf("stage %s is recorded twice", s.Stage)
			}
			stages[s.Stage] = true
		}
		found := map[events.FindingID]bool{}
		for _, f := range w.state.Findings {
			if found[f.ID] {
				t.Fatalf("finding %s is recorded twice", f.ID)
			}
			found[f.ID] = true
		}
	})
}

func TestSlotsNeverHoldMoreThanTheLimit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 5).Draw(t, "limit")
		var s scan.Slots
		over := map[events.ScanID]bool{}
		for i := range rapid.IntRange(1, 40).Draw(t, "steps") {
			for _, a := range s.Active {
				if rapid.IntRange(0, 3).Draw(t, "ends") == 0 {
					over[a.Scan] = true
				}
			}
			id := events.ScanID(fmt.Sprint("s", rapid.IntRange(0, i).Draw(t, "id")))
			evs, err := s.Take("u", id, now, limit, func(x events.Slot) bool { return over[x.Scan] })
			if full, ok := errors.AsType[*scan.LimitError](err); ok && (len(full.Active) < limit || len(evs) > 0) {
				t.Fatalf("refused with %d of %d active", len(full.Active), limit)
			}
			for _, e := range evs {
				s = s.Evolve(events.Recorded{Event: e})
			}
			if len(s.Active) > limit {
				t.Fatalf("%d active, limit %d", len(s.Active), limit)
			}
			seen := map[events.ScanID]bool{}
			for _, a := range s.Active {
				if seen[a.Scan] {
					t.Fatalf("%s holds two slots", a.Scan)
				}
				seen[a.Scan] = true
			}
		}
	})
}

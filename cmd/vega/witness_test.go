package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"vega/events"
	"vega/events/eventstore"
	"vega/projections"
	"vega/projections/jsonfile"
	"vega/services/scan"
)

// seen is what the log says about a run.
type seen struct {
	events int
	kinds  map[events.Kind]int
	ends   map[string]int // by scan
	failed []events.ScanFailed
}

func (s *seen) counts() []string {
	var out []string
	for k, n := range s.kinds {
		out = append(out, fmt.Sprintf("%s %d", k, n))
	}
	slices.Sort(out)
	return out
}

// ownership follows who may write to a scan.
type ownership struct {
	attempt int
	owner   events.WorkerID // empty: nobody
	claimer events.WorkerID // the launcher, where a runner has joined
}

// testimony reads the whole log once. It checks that chains are whole, no event is there twice, each of ids ended exactly once, each attempt had one owner
// who alone wrote to it, never more than limit scans were active, and the read model of a stopped process in the folder models equals one that is
// built from the log alone.
func testimony(t *testing.T, store *eventstore.Store, models string, ids []string, limit int) *seen {
	t.Helper()
	if _, err := eventstore.Verify(t.Context(), store); err != nil {
		t.Errorf("verify: %v", err)
	}
	info, err := store.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rebuilt, err := jsonfile.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer rebuilt.Close()
	saw := &seen{kinds: map[events.Kind]int{}, ends: map[string]int{}}
	known, active, owners := map[string]bool{}, map[string]bool{}, map[string]*ownership{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for r, err := range store.Follow(ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if known[r.ID] {
			t.Errorf("event %s is in the log twice", r.ID)
		}
		known[r.ID] = true
		saw.events++
		saw.kinds[r.Kind]++
		if e, ok := r.Event.(events.ScanFailed); ok {
			saw.failed = append(saw.failed, e)
		}
		if r.Aggregate.Kind == events.ScanAggregate {
			id := r.Aggregate.ID
			if saw.ends[id] > 0 {
				t.Errorf("%s at %d comes after the end of %s", r.Kind, r.Seq, id)
			}
			if scan.Ends(r.Kind) {
				saw.ends[id]++
				delete(active, id)
			} else {
				active[id] = true
			}
			if len(active) > limit {
				t.Errorf("%d scans active at sequence %d, at most %d allowed", len(active), r.Seq, limit)
			}
			if owners[id] == nil {
				owners[id] = &ownership{}
			}
			if problem := owners[id].follow(r); problem != "" {
				t.Errorf("%s at %d of %s, by %v: %s", r.Kind, r.Seq, id, r.Actor, problem)
			}
		}
		if err := rebuilt.Update(ctx, projections.Checkpoint{Seq: r.Seq, Stream: info.Name, Created: info.Created}, func(tx projections.Tx) error { return projections.Apply(tx, r) }); err != nil {
			t.Fatal(err)
		}
		if r.Seq == info.Last {
			break
		}
	}
	for _, id := range ids {
		if saw.ends[id] != 1 {
			t.Errorf("scan %s ended %d times, want once", id, saw.ends[id])
		}
	}

	live, err := jsonfile.Open(models)
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	if c, err := live.Checkpoint(t.Context()); err != nil || c.Seq != info.Last {
		t.Errorf("the read model stands at %d, %v; the log at %d", c.Seq, err, info.Last)
	}
	var have, want bytes.Buffer
	if err := live.Dump(&have); err != nil {
		t.Fatal(err)
	}
	if err := rebuilt.Dump(&want); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have.Bytes(), want.Bytes()) {
		t.Error("the read model differs from one built from the log alone")
	}
	return saw
}

// follow returns what is wrong with a scan's next event.
func (o *ownership) follow(r events.Recorded) string {
	attempt, byOwner := 0, true
	switch e := r.Event.(type) {
	case events.AttemptClaimed:
		if o.owner != "" || e.Attempt != o.attempt+1 || r.Actor != events.ByWorker(e.Worker) {
			return fmt.Sprintf("attempt %d claimed by %s while %q has attempt %d", e.Attempt, e.Worker, o.owner, o.attempt)
		}
		o.attempt, o.owner, o.claimer = e.Attempt, e.Worker, ""
		return ""
	case events.RunnerJoined:
		if o.claimer != "" || o.owner == "" || e.Attempt != o.attempt {
			return "a second runner, or one of another attempt"
		}
		o.claimer, o.owner = o.owner, e.Worker
		return ""
	case events.AttemptExpired:
		attempt, byOwner = e.Attempt, false
	case events.ScanFailed:
		attempt, byOwner = e.Attempt, e.Code != scan.AttemptsExhausted
	case events.ScanCancelled:
		attempt, byOwner = e.Attempt, false
	case events.AttemptStarted:
		attempt = e.Attempt
	case events.StageCompleted:
		attempt = e.Attempt
	case events.FindingsRecorded:
		attempt = e.Attempt
	case events.AttemptReleased:
		attempt = e.Attempt
	case events.ScanCompleted:
		attempt = e.Attempt
	default:
		return ""
	}
	owner := o.owner
	switch r.Event.(type) {
	case events.AttemptExpired, events.AttemptReleased:
		o.owner = ""
	default: // it stays whose it is
	}
	if attempt != o.attempt {
		return fmt.Sprintf("of attempt %d while attempt %d is the current one", attempt, o.attempt)
	}
	if byOwner && (owner == "" || r.Actor != events.ByWorker(owner)) {
		return fmt.Sprintf("not by the owner %q", owner)
	}
	return ""
}

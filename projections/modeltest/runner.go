package modeltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/projections"
)

// Follow runs a runner over m until the test ends and returns it.
func Follow(t *testing.T, s *eventstore.Store, m projections.Model) *projections.Runner {
	t.Helper()
	r, err := projections.NewRunner(t.Context(), s, m, quiet)
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
	t.Cleanup(func() { cancel(); run.Wait() })
	return r
}

// wait is WaitFor that ends.
func wait(t *testing.T, r *projections.Runner, seq events.Seq) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := r.WaitFor(ctx, seq); err != nil {
		t.Fatalf("WaitFor(%d) = %v, at %d, %v", seq, err, r.At(), r.Err())
	}
}

// publish stores one message as it is, whatever it is.
func publish(t *testing.T, s *eventstore.Store, m events.Message, change func(nats.Header)) events.Seq {
	t.Helper()
	h := nats.Header{}
	for k, v := range m.Header {
		h[k] = []string{v}
	}
	change(h)
	ack, err := s.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject, Header: h, Data: m.Body})
	if err != nil {
		t.Fatal(err)
	}
	return events.Seq(ack.Sequence)
}

// poison has three kinds of it: a fact about something that never was, one whose body is not what its type promises, and one of a newer release, which is
// no poison.
func poison(t *testing.T, m projections.Model) {
	s := natstest.Open(t)
	story := Story(t)
	story.Publish(t, s, 1)
	r := Follow(t, s, m)

	lost := NewHistory(t)
	lost.Add(ofScan(50), worker(1), events.AttemptClaimed{Attempt: 1, Worker: "w"})
	lost.Add(ofScan(50), worker(1), events.AttemptStarted{Attempt: 1, Worker: "w"})
	at := publish(t, s, lost.Messages[0], func(nats.Header) {})
	publish(t, s, lost.Messages[1], func(nats.Header) {})

	unpaid := NewHistory(t)
	unpaid.account(51, 1, 1, user(1)).record()
	nobodys := publish(t, s, unpaid.Messages[0], func(nats.Header) {})

	twice := NewHistory(t)
	twice.Add(ofProject(4), events.ByUser(user(1)), events.ProjectCreated{Name: "made twice", Owner: user(2)})
	again := publish(t, s, twice.Messages[0], func(nats.Header) {})

	odd := NewHistory(t)
	odd.Add(ofScan(6), worker(1), events.AttemptClaimed{Attempt: 1, Worker: "w"})
	odd.Messages[0].Body = []byte(`{"attempt":"one"}`)
	unreadable := publish(t, s, odd.Messages[0], func(nats.Header) {})
	odd.Messages[0].Body = []byte(`{"attempt":1}`)
	newer := publish(t, s, odd.Messages[0], func(h nats.Header) {
		h["ce-type"], h["ce-dataschema"], h[events.HeaderMsgID] = []string{"scan.paused"}, []string{"vega:scan.paused/1"}, []string{"another"}
	})
	after := NewHistory(t)
	after.Add(ofProject(9), events.ByUser(user(1)), events.ProjectCreated{Name: "goes on", Owner: user(1)})
	end := publish(t, s, after.Messages[0], func(nats.Header) {})

	wait(t, r, end)
	more := NewHistory(t)
	more.Add(ofProject(10), events.ByUser(user(1)), events.ProjectCreated{Name: "and on", Owner: user(1)})
	wait(t, r, publish(t, s, more.Messages[0], func(nats.Header) {})) // then what came before is done with, and counted
	parked, err := m.ParkedAggregates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []projections.Parked{
		{Aggregate: "scan scan_test_50", Seq: at, Problem: "scan.claimed of a scan that was never queued", Skipped: 1},
		{Aggregate: "usage scan_test_51", Seq: nobodys, Problem: "usage.recorded of a scan that was never queued"},
		{Aggregate: "project proj_test_4", Seq: again, Problem: "project.created of a project that exists"},
		{Aggregate: "scan scan_test_6", Seq: unreadable, Problem: fmt.Sprintf("event at sequence %d: decode scan.claimed: ", unreadable)},
	}
	if len(parked) != len(want) {
		t.Fatalf("ParkedAggregates = %+v, want %d", parked, len(want))
	}
	for i, w := range want {
		g := parked[i]
		if g.Aggregate != w.Aggregate || g.Seq != w.Seq || g.Skipped != w.Skipped || !strings.HasPrefix(g.Problem, w.Problem) {
			t.Errorf("parked %d = %+v, want %+v", i, g, w)
		}
	}
	if p, err := m.Project(t.Context(), project(9)); err != nil || p.Name != "goes on" {
		t.Errorf("Project after the poison = %+v, %v", p, err)
	}
	if p, err := m.Project(t.Context(), project(4)); err != nil || p.Name != "still empty" {
		t.Errorf("Project that was made twice = %+v, %v; want it as it was", p, err)
	}
	if x, err := m.Scan(t.Context(), scanID(6)); err != nil || x.Seq >= at {
		t.Errorf("Scan of a parked aggregate = %+v, %v; want it as it was", x, err)
	}
	if r.Skipped() != 1 {
		t.Errorf("Skipped = %d, want 1 for sequence %d", r.Skipped(), newer)
	}
}

// faulty is a model whose transactions fail as told.
type faulty struct {
	projections.Model
	mu   sync.Mutex
	fail map[int]string // by the number of the call
	n    int
}

var errFault = errors.New("fault")

func (f *faulty) Update(ctx context.Context, c projections.Checkpoint, do func(projections.Tx) error) error {
	f.mu.Lock()
	how := f.fail[f.n]
	f.n++
	f.mu.Unlock()
	switch how {
	case "before":
		return errFault
	case "after":
		return errors.Join(f.Model.Update(ctx, c, do), errFault)
	}
	return f.Model.Update(ctx, c, do)
}

// again lets transactions fail before and after they took effect: the runner tries again and nothing is applied twice.
func again(t *testing.T, open func(*testing.T) projections.Model) {
	for _, how := range []string{"before", "after"} {
		t.Run("failing "+how, func(t *testing.T) {
			s := natstest.Open(t)
			story := Story(t)
			m := &faulty{Model: open(t), fail: map[int]string{0: how, 1: how, 3: how}}
			r := Follow(t, s, m)
			for _, msg := range story.Messages {
				publish(t, s, msg, func(nats.Header) {})
			}
			wait(t, r, story.Last())
			Golden(t, m)
			if err := r.Err(); err != nil {
				t.Errorf("Err after the trouble = %v, want nil", err)
			}
		})
	}
	t.Run("a second runner over the same model", func(t *testing.T) {
		s := natstest.Open(t)
		story := Story(t)
		m := open(t)
		one, two := Follow(t, s, m), Follow(t, s, m)
		for _, msg := range story.Messages {
			publish(t, s, msg, func(nats.Header) {})
		}
		wait(t, one, story.Last())
		wait(t, two, story.Last())
		Golden(t, m)
	})
}

func otherLog(t *testing.T, m projections.Model) {
	s := natstest.Open(t)
	story := Story(t)
	story.Publish(t, s, 1)
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	put := func(c projections.Checkpoint) {
		t.Helper()
		if err := m.Update(t.Context(), c, func(projections.Tx) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	put(projections.Checkpoint{Seq: 1, Stream: info.Name, Created: info.Created.Add(-time.Hour)})
	if _, err := projections.NewRunner(t.Context(), s, m, quiet); err == nil || !strings.Contains(err.Error(), "another event log") {
		t.Errorf("NewRunner over a recreated stream = %v", err)
	}
	put(projections.Checkpoint{Seq: info.Last, Stream: info.Name, Created: info.Created})
	if _, err := projections.NewRunner(t.Context(), s, m, quiet); err != nil {
		t.Errorf("NewRunner at the log's end = %v", err)
	}
	put(projections.Checkpoint{Seq: info.Last + 1, Stream: info.Name, Created: info.Created})
	if _, err := projections.NewRunner(t.Context(), s, m, quiet); err == nil || !strings.Contains(err.Error(), "lost events") {
		t.Errorf("NewRunner beyond the log's end = %v", err)
	}
}

// rebuild damages a row of the live model, rebuilds it while events come in, and expects the damage reported and gone.
func rebuild(t *testing.T, open func(*testing.T) projections.Model) {
	s := natstest.Open(t)
	story := Story(t)
	story.Publish(t, s, 1)
	m := open(t)
	r := Follow(t, s, m)
	wait(t, r, story.Last())
	healthy, err := r.Rebuild(t.Context())
	if err != nil || healthy.Different != 0 || healthy.Seq != story.Last() {
		t.Fatalf("Rebuild of a healthy model = %+v, %v", healthy, err)
	}
	Golden(t, m)

	// Damage: a row changed, a row lost, a row that nobody made. The checkpoint has to move for it, so an event of no consequence comes first.
	damaged := NewHistory(t)
	damaged.Add(events.SlotsOf(natstest.Region, user(8)), events.ByUser(user(8)), events.Slots{User: user(8)})
	seq := publish(t, s, damaged.Messages[0], func(nats.Header) {})
	wait(t, r, seq)
	bad := open(t)
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = bad.Update(t.Context(), projections.Checkpoint{Seq: seq, Stream: info.Name, Created: info.Created}, func(tx projections.Tx) error {
		for _, e := range story.Events {
			if e.Aggregate == ofProject(5) {
				continue // lost
			}
			if err := projections.Apply(tx, e); err != nil {
				return err
			}
		}
		p, _, err := tx.Project(project(1))
		if err != nil {
			return err
		}
		p.Name, p.Members = "damaged", maps.Clone(p.Members)
		return errors.Join(tx.PutProject(p), tx.PutTriage(projections.Triage{Finding: "find_test_x", Project: project(1)}))
	})
	if err != nil {
		t.Fatal(err)
	}
	r = Follow(t, s, bad)
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() { // writers and readers go on meanwhile
		for n := range 2000 {
			select {
			case <-stop:
				return
			default:
			}
			h := NewHistory(t)
			h.Add(ofProject(100+n), events.ByUser(user(7)), events.ProjectCreated{Name: "meanwhile", Owner: user(7)})
			publish(t, s, h.Messages[0], func(nats.Header) {})
		}
	})
	others.Go(func() {
		var before events.Seq
		for {
			select {
			case <-stop:
				return
			default:
			}
			p, err := bad.Project(t.Context(), project(1))
			if err != nil || (p.Name != "damaged" && p.Name != Story(t).first().Name) {
				t.Errorf("Project during a rebuild = %+v, %v", p, err)
				return
			}
			c, err := bad.Checkpoint(t.Context())
			if err != nil || c.Seq < before {
				t.Errorf("Checkpoint during a rebuild = %d after %d, %v", c.Seq, before, err)
				return
			}
			before = c.Seq
		}
	})
	report, err := r.Rebuild(t.Context())
	close(stop)
	others.Wait()
	if err != nil {
		t.Fatal(err)
	}
	var what []string
	for _, d := range report.Differences {
		side := "changed"
		if d.Live == nil {
			side = "lost"
		} else if d.Rebuilt == nil {
			side = "invented"
		}
		what = append(what, d.Kind+" "+d.Key+" "+side)
	}
	want := "project proj_test_1 changed, project proj_test_5 lost, triage find_test_x invented"
	if got := strings.Join(what, ", "); got != want || report.Different != 3 {
		t.Errorf("differences = %s; want %s", got, want)
	}
	if p, err := bad.Project(t.Context(), project(1)); err != nil || p.Name == "damaged" {
		t.Errorf("Project after the rebuild = %+v, %v", p, err)
	}
	end, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wait(t, r, end.Last)
	if again, err := r.Rebuild(t.Context()); err != nil || again.Different != 0 {
		t.Errorf("Rebuild of the rebuilt = %+v, %v", again, err)
	}
	if !bytes.Contains(Answers(t, bad), []byte("still empty")) {
		t.Error("the rebuilt model does not answer")
	}
}

func (h *History) first() events.ProjectCreated { return h.Events[0].Event.(events.ProjectCreated) }

package postgres_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/projections"
	"vega/projections/modeltest"
	"vega/projections/pgtest"
)

// writes goes on making projects until stop is called, and asks each process for each: one that says it is as far as the project's event has the project.
func writes(t *testing.T, s *eventstore.Store, ps ...*process) (stop func() events.Seq) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	var last events.Seq
	work.Go(func() {
		var asking sync.WaitGroup
		defer asking.Wait()
		for ctx.Err() == nil {
			id, seq := makeProject(t, s)
			last = seq
			for _, p := range ps {
				asking.Go(func() {
					soon, cancel := context.WithTimeout(ctx, time.Second)
					defer cancel()
					if p.WaitFor(soon, seq) != nil {
						return // it is behind, and says so
					}
					if _, err := p.Project(ctx, id); err != nil && !errors.Is(err, projections.ErrUnavailable) && ctx.Err() == nil {
						t.Errorf("Project of sequence %d = %v, though the process is at least there", seq, err)
					}
				})
			}
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	stop = sync.OnceValue(func() events.Seq { cancel(); work.Wait(); return last })
	t.Cleanup(func() { stop() })
	return stop
}

func TestAProcessThatIsCutOffIsReplacedUnderWrites(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	modeltest.Story(t).Publish(t, s, 1)
	server := pgtest.Shared(t)
	address := server.Database(t)
	cut := natstest.NewProxy(t, server.Addr())
	first := start(t, s, options(through(t, address, cut.URL)))
	until(t, "the first process leads", first.Leads)
	second := start(t, s, options(address))
	stop := writes(t, s, first, second)
	_, seq := makeProject(t, s)
	first.wait(t, seq)
	second.wait(t, seq)
	if second.Leads() {
		t.Error("both lead")
	}

	cut.Close()
	begun := time.Now()
	_, seq = makeProject(t, s)
	second.wait(t, seq)
	t.Logf("the second process took over after %v", time.Since(begun).Round(time.Millisecond))
	if !second.Leads() {
		t.Error("the second process does not lead")
	}
	until(t, "the first process notices", func() bool { return !first.Leads() && errors.Is(first.Err(), projections.ErrUnavailable) })

	cut.Open(t)
	_, seq = makeProject(t, s)
	first.wait(t, seq) // it follows now
	until(t, "the first process is well", func() bool { return first.Err() == nil })
	seq = stop()
	first.wait(t, seq)
	second.wait(t, seq)
	if first.Leads() || !second.Leads() {
		t.Errorf("leading: first %v, second %v; want the second alone", first.Leads(), second.Leads())
	}
	second.stop()
	_, seq = makeProject(t, s)
	first.wait(t, seq)
	equalsARebuild(t, s, address)
}

// Two processes that both believe to lead: the checkpoint decides, event by event.
func TestTwoWritersLoseAndRepeatNothing(t *testing.T) {
	t.Parallel()
	h := modeltest.Typical(t, 120)
	address := pgtest.Shared(t).Database(t)
	one, two := open(t, options(address)), open(t, options(address))
	var writing sync.WaitGroup
	for i, m := range []projections.Model{one, two} {
		writing.Go(func() {
			for at := events.Seq(0); at < h.Last(); {
				c, err := m.Checkpoint(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if at = c.Seq; at == h.Last() {
					return
				}
				err = modeltest.Update(t.Context(), beginningAt{m, at}, h.Events[at:min(at+events.Seq(3+4*i), h.Last())])
				if err != nil && !errors.Is(err, projections.ErrMoved) && !errors.Is(err, errBegan) {
					t.Error(err)
					return
				}
			}
		})
	}
	writing.Wait()
	other := pgtest.Shared(t).Database(t)
	modeltest.Apply(t, open(t, options(other)), h.Events, 500)
	if dump(t, address) != dump(t, other) {
		t.Error("the rows of two writers differ from those of one")
	}
}

var errBegan = errors.New("the transaction begins elsewhere")

// beginningAt is a model whose transactions do nothing unless they begin at a sequence.
type beginningAt struct {
	projections.Model
	at events.Seq
}

func (b beginningAt) Update(ctx context.Context, c projections.Checkpoint, f func(projections.Tx) error) error {
	return b.Model.Update(ctx, c, func(tx projections.Tx) error {
		if tx.At() != b.at {
			return errBegan
		}
		return f(tx)
	})
}

func TestADatabaseThatLostCommitsIsNoticedAndFilledAgain(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	modeltest.Story(t).Publish(t, s, 1)
	server := pgtest.Shared(t)
	address := server.Database(t)
	half := pgtest.DatabaseOf(t, address) + "_half"
	p := start(t, s, options(address))
	_, seq := makeProject(t, s)
	p.wait(t, seq)
	p.stop()
	if err := server.Exec(t.Context(), "postgres", "create database "+half+" template "+pgtest.DatabaseOf(t, address)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Exec(context.Background(), "postgres", "drop database "+half+" with (force)") })
	front := natstest.NewProxy(t, server.Addr())
	p = start(t, s, options(through(t, address, front.URL)))
	_, seq = makeProject(t, s)
	p.wait(t, seq)

	// What was a copy answers under the same name.
	front.Close()
	for _, sql := range []string{
		"alter database " + pgtest.DatabaseOf(t, address) + " rename to " + half + "_away",
		"alter database " + half + " rename to " + pgtest.DatabaseOf(t, address),
	} {
		until(t, sql, func() bool { return server.Exec(t.Context(), "postgres", sql) == nil })
	}
	t.Cleanup(func() { _ = server.Exec(context.Background(), "postgres", "drop database "+half+"_away with (force)") })
	front.Open(t)
	id, seq := makeProject(t, s)
	p.wait(t, seq)
	if _, err := p.Project(t.Context(), id); err != nil {
		t.Errorf("Project = %v, though the process is at least there", err)
	}
	equalsARebuild(t, s, address)
}

func TestWhoFollowsIsToldAtOnce(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	address := pgtest.Shared(t).Database(t)
	leader := start(t, s, options(address))
	until(t, "somebody leads", leader.Leads)
	follower := start(t, s, options(address))
	_, seq := makeProject(t, s)
	follower.wait(t, seq) // it listens or looks
	// Without being told it looks once a second, and each round begins where the last look ended: half of them would take about as long.
	var took []time.Duration
	for range 20 {
		begun := time.Now()
		_, seq := makeProject(t, s)
		follower.wait(t, seq)
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	if median := took[len(took)/2]; median > time.Second/2 {
		t.Errorf("a follower knows of an event after %v, half the times", median)
	}
}

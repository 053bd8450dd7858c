package postgres_test

import (
	"errors"
	"testing"

	"vega/config/secret"
	"vega/events/eventstore/natstest"
	"vega/projections"
	"vega/projections/modeltest"
	"vega/projections/pgtest"
)

func TestAReplicaAnswersQueriesAndIsNeverAheadOfItself(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	story := modeltest.Story(t)
	story.Publish(t, s, 1)
	primary := pgtest.Start(t, pgtest.Options{})
	address := primary.Database(t)
	replica := primary.Replica(t)
	o := options(address)
	o.Config.Postgres.ReplicaURL = secret.NewURL(through(t, address, replica.Addr()))
	p := start(t, s, o) // the replica has no tables at this moment
	p.wait(t, story.Last())
	modeltest.Golden(t, p)
	stop := writes(t, s, p)
	for range 20 {
		id, seq := makeProject(t, s)
		p.wait(t, seq)
		if _, err := p.Project(t.Context(), id); err != nil {
			t.Fatalf("Project = %v, though the replica is at least there", err)
		}
	}
	if report, err := p.Rebuild(t.Context()); err != nil || report.Different != 0 {
		t.Errorf("Rebuild = %+v, %v", report, err)
	}

	replica.Kill(t)
	until(t, "the replica's absence is noticed", func() bool { return errors.Is(p.Err(), projections.ErrUnavailable) })
	_, seq := makeProject(t, s)
	until(t, "the primary goes on", func() bool {
		c, err := p.Checkpoint(t.Context())
		return err == nil && c.Seq >= seq
	})
	if p.At() >= seq {
		t.Errorf("At = %d, which the replica has not seen", p.At())
	}
	replica.Restart(t)
	seq = stop()
	p.wait(t, seq)
	until(t, "all is well", func() bool { return p.Err() == nil })
}

package postgres_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"vega/events/eventstore/natstest"
	"vega/projections"
	"vega/projections/modeltest"
	"vega/projections/pgtest"
)

func TestARebuildInOneProcessWhileAnotherWrites(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	modeltest.Story(t).Publish(t, s, 1)
	address := pgtest.Shared(t).Database(t)
	leader := start(t, s, options(address))
	leader.wait(t, modeltest.Story(t).Last())
	follower := start(t, s, options(address))
	stop := writes(t, s, leader, follower)
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	for _, p := range []*process{leader, follower} {
		for range 2 {
			reading.Go(func() {
				for ctx.Err() == nil {
					if _, _, err := p.Findings(ctx, projections.FindingFilter{}, projections.Page{}); err != nil && ctx.Err() == nil {
						t.Errorf("Findings during a rebuild = %v", err)
					}
					if _, _, err := p.Scans(ctx, projections.ScanFilter{Member: "user_1"}, projections.Page{}); err != nil && ctx.Err() == nil {
						t.Errorf("Scans during a rebuild = %v", err)
					}
				}
			})
		}
	}
	for n := range 3 {
		run(t, address, "UPDATE vega.projects SET name = 'damaged' WHERE id = 'proj_test_1'")
		report, err := []*process{follower, leader}[n%2].Rebuild(t.Context())
		if err != nil || report.Different != 1 {
			t.Errorf("Rebuild = %+v, %v; want the damaged row", report, err)
		}
	}
	seq := stop()
	leader.wait(t, seq)
	follower.wait(t, seq)
	cancel()
	reading.Wait()
	equalsARebuild(t, s, address)
	if n := schemas(t, address); n != 1 {
		t.Errorf("%d schemas are left, want 1", n)
	}
}

// schemas counts ours.
func schemas(t *testing.T, address string) int {
	t.Helper()
	c, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	var n int
	if err := c.QueryRow(t.Context(), "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'vega%'").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestASecondRebuildIsRefusedWhileOneRuns(t *testing.T) {
	t.Parallel()
	address := pgtest.Shared(t).Database(t)
	one, two := open(t, options(address)), open(t, options(address))
	draft, err := one.Beside(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := two.Beside(t.Context()); !errors.Is(err, projections.ErrRebuilding) {
		t.Errorf("a second draft = %v, want ErrRebuilding", err)
	}
	if err := draft.Discard(); err != nil {
		t.Error(err)
	}
	second, err := two.Beside(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Discard(); err != nil {
		t.Error(err)
	}
	if n := schemas(t, address); n != 1 {
		t.Errorf("%d schemas are left, want 1", n)
	}
}

// A crash before the swap leaves a draft, one after it the old tables.
func TestWhatACrashedRebuildLeavesIsRemovedByTheNext(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	story := modeltest.Story(t)
	story.Publish(t, s, 1)
	address := pgtest.Shared(t).Database(t)
	p := start(t, s, options(address))
	p.wait(t, story.Last())
	run(t, address, "CREATE SCHEMA vega_draft; CREATE TABLE vega_draft.projects (x int); CREATE SCHEMA vega_old; CREATE TABLE vega_old.scans (x int)")
	if report, err := p.Rebuild(t.Context()); err != nil || report.Different != 0 {
		t.Errorf("Rebuild = %+v, %v", report, err)
	}
	modeltest.Golden(t, p)
	if n := schemas(t, address); n != 1 {
		t.Errorf("%d schemas are left, want 1", n)
	}
}

func TestADraftWhoseConnectionBreaksLeavesTheLiveModel(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	story := modeltest.Story(t)
	story.Publish(t, s, 1)
	server := pgtest.Shared(t)
	address := server.Database(t)
	p := start(t, s, options(address))
	p.wait(t, story.Last())
	b := newBreaker(t, server.Addr())
	other := start(t, s, options(through(t, address, b.addr)))
	until(t, "the other one follows", func() bool { return other.At() == story.Last() })
	failed := 0
	for n := 1; n < 45; n += stride {
		b.arm(n, n/stride%2 == 0)
		report, err := other.Rebuild(t.Context())
		quiet(t, err)
		if err != nil {
			failed++
		} else if report.Different != 0 {
			t.Errorf("Rebuild = %+v", report)
		}
		if err == nil && !b.fired() {
			break // all of its writes were tried
		}
		modeltest.Golden(t, p)
	}
	b.arm(0, false)
	if failed < 3 {
		t.Errorf("%d rebuilds failed, want some", failed)
	}
	var err error
	until(t, "the server has noticed", func() bool {
		_, err = other.Rebuild(t.Context())
		return !errors.Is(err, projections.ErrRebuilding)
	})
	if err != nil {
		t.Error(err)
	}
	modeltest.Golden(t, p)
	equalsARebuild(t, s, address)
	if n := schemas(t, address); n != 1 {
		t.Errorf("%d schemas are left, want 1", n)
	}
}

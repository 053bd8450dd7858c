package postgres_test

import (
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"vega/events/eventstore/natstest"
	"vega/projections"
	"vega/projections/modeltest"
	"vega/projections/pgtest"
	"vega/projections/postgres"
)

// run executes SQL in a database as its owner.
func run(t *testing.T, address, sql string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	if _, err := c.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func TestMigrationsAreListedAppliedAndApplyOnce(t *testing.T) {
	t.Parallel()
	o := options(pgtest.Shared(t).Database(t))
	rows, err := postgres.Status(t.Context(), o)
	if err != nil || len(rows) == 0 || rows[0].Version != 1 || rows[0].Name != "read_models" || !rows[0].AppliedAt.IsZero() {
		t.Fatalf("Status of an empty database = %+v, %v", rows, err)
	}
	if again, err := postgres.Status(t.Context(), o); err != nil || !again[0].AppliedAt.IsZero() {
		t.Errorf("Status changed something: %+v, %v", again, err)
	}
	o.Config.Postgres.AutoMigrate = false
	if _, err := postgres.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "00001_read_models") || !strings.Contains(err.Error(), "vega migrate up") {
		t.Errorf("Open of an empty database without the right to migrate = %v", err)
	}
	var at [3][]postgres.Migration
	var all sync.WaitGroup
	for i := range at {
		all.Go(func() {
			var err error
			if at[i], err = postgres.Migrate(t.Context(), o); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, rows := range at {
		if len(rows) == 0 || rows[0].AppliedAt.IsZero() || !rows[0].AppliedAt.Equal(at[0][0].AppliedAt) {
			t.Errorf("Migrate = %+v, want the same moment for all", rows)
		}
	}
	modeltest.Apply(t, open(t, o), modeltest.Story(t).Events, 1000)
}

func TestAnyNumberOfProcessesMayStartOnAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	o := options(pgtest.Shared(t).Database(t))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { open(t, o) })
	}
	all.Wait()
}

func TestTablesOfANewerReleaseAreRefused(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"migration": "INSERT INTO vega.migrations (version_id, is_applied) VALUES (999, true)",
		"rows":      "UPDATE vega.checkpoint SET rows_schema = 999",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := pgtest.Shared(t).Database(t)
			m := open(t, options(address))
			run(t, address, sql)
			if _, err := postgres.Open(t.Context(), options(address)); err == nil || !strings.Contains(err.Error(), "newer release") || !strings.Contains(err.Error(), "DROP SCHEMA vega CASCADE") {
				t.Errorf("Open = %v, want a refusal that says what to do", err)
			}
			if name != "rows" {
				return
			}
			if err := modeltest.Update(t.Context(), m, modeltest.Story(t).Events[:1]); !errors.Is(err, projections.ErrOutdated) {
				t.Errorf("Update by a process of the older release = %v", err)
			}
		})
	}
}

// A new release starts beside the old one: it waits for the lead, which the old one, with nothing to write, must leave.
func TestAProcessLeavesTheLeadToANewerRelease(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	address := pgtest.Shared(t).Database(t)
	p := start(t, s, options(address))
	until(t, "it leads", p.Leads)
	run(t, address, "BEGIN; UPDATE vega.checkpoint SET rows_schema = 999; SELECT pg_notify('vega_read_models', 'emptied'); COMMIT")
	until(t, "it leaves the lead", func() bool { return !p.Leads() && errors.Is(p.Err(), projections.ErrOutdated) })
	run(t, address, "UPDATE vega.checkpoint SET rows_schema = "+strconv.Itoa(projections.Schema))
	until(t, "it leads again", func() bool { return p.Leads() && p.Err() == nil })
}

func TestRowsOfAnOlderShapeAreFilledAgain(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	story := modeltest.Story(t)
	story.Publish(t, s, 1)
	address := pgtest.Shared(t).Database(t)
	p := start(t, s, options(address))
	p.wait(t, story.Last())
	p.stop()
	run(t, address, "UPDATE vega.checkpoint SET rows_schema = 1; UPDATE vega.projects SET name = 'of an older release'")
	p = start(t, s, options(address))
	p.wait(t, story.Last())
	modeltest.Golden(t, p)
	equalsARebuild(t, s, address)
}

func TestAModelOfAnotherLogIsRefusedWithWhatToDo(t *testing.T) {
	t.Parallel()
	m := fresh(t)
	modeltest.Apply(t, m, modeltest.Story(t).Events, 1000)
	_, err := projections.NewRunner(t.Context(), natstest.Open(t), m, nil)
	if err == nil || !strings.Contains(err.Error(), "another event log") || !strings.Contains(err.Error(), "DROP SCHEMA vega CASCADE") {
		t.Errorf("NewRunner = %v", err)
	}
}

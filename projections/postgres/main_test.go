package postgres_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"vega/config/secret"
	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/projections"
	"vega/projections/modeltest"
	"vega/projections/pgtest"
	"vega/projections/postgres"
)

// atOnce is how many tests run at once, unless -parallel says otherwise: most of the time they wait for servers.
const atOnce = "4"

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", atOnce); err != nil {
		panic(err)
	}
	os.Exit(pgtest.Main(m.Run))
}

// options are those of a model in the database that an address names.
func options(address string) postgres.Options {
	return postgres.Options{Config: projections.Config{DatabaseURL: secret.NewURL(address), Postgres: projections.Postgres{AutoMigrate: true, MaxConnections: 4}}}
}

// open opens the model in a database and closes it when the test ends.
func open(t testing.TB, o postgres.Options) *postgres.Model {
	t.Helper()
	m, err := postgres.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// fresh opens an empty model in a database of its own.
func fresh(t testing.TB) *postgres.Model {
	t.Helper()
	return open(t, options(pgtest.Shared(t).Database(t)))
}

func TestConformance(t *testing.T) {
	t.Parallel()
	modeltest.Run(t, func(t *testing.T) projections.Model { return fresh(t) })
}

// Golden answers also through another process's model: what is read back is what was put.
func TestReopenedModelsAnswerTheSame(t *testing.T) {
	t.Parallel()
	url := pgtest.Shared(t).Database(t)
	m := open(t, options(url))
	modeltest.Apply(t, m, modeltest.Story(t).Events, 9)
	modeltest.Golden(t, open(t, options(url)))
	modeltest.Golden(t, m)
}

// patience bounds what a test waits for; nothing that works takes as long.
const patience = 30 * time.Second

// process is what an API process has of the read models: a model of its own and a runner.
type process struct {
	*postgres.Model
	*projections.Runner
	stop func()
}

// start opens a model and runs a runner over it until stop, or the test's end.
func start(t testing.TB, s *eventstore.Store, o postgres.Options) *process {
	t.Helper()
	m, err := postgres.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	r, err := projections.NewRunner(t.Context(), s, m, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	p := &process{m, r, sync.OnceFunc(func() {
		cancel()
		run.Wait()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})}
	t.Cleanup(p.stop)
	return p
}

// wait is WaitFor that ends.
func (p *process) wait(t testing.TB, seq events.Seq) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.WaitFor(ctx, seq); err != nil {
		t.Fatalf("WaitFor(%d) = %v, at %d, %v", seq, err, p.At(), p.Err())
	}
}

// until waits until a condition holds.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !holds(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// makeProject appends one project and returns its id and sequence.
func makeProject(t testing.TB, s *eventstore.Store) (events.ProjectID, events.Seq) {
	t.Helper()
	id := events.NewProjectID(natstest.Region)
	meta := events.Meta{Command: events.NewCommandID(), Actor: events.BySystem("test"), At: time.Now()}
	got, err := s.Append(t.Context(), events.ProjectOf(natstest.Region, id), events.Head{}, meta, events.ProjectCreated{Name: "p", Owner: "user_a"})
	if err != nil {
		t.Fatal(err)
	}
	return id, got[0].Seq
}

// through is the address with another host and port.
func through(t testing.TB, address, hostPort string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = strings.TrimPrefix(hostPort, "nats://")
	return u.String()
}

// dump is every row of the live tables as text, in an order of its own, without what is random.
func dump(t testing.TB, address string) string {
	t.Helper()
	c, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	var out strings.Builder
	for _, name := range []string{"projects", "members", "project_usage", "repositories", "snapshots", "scans", "findings", "triages", "api_keys", "parked", "day_usage"} {
		rows, err := c.Query(t.Context(), "SELECT t::text FROM vega."+name+" t ORDER BY 1")
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s\n%s\n", name, strings.Join(lines, "\n"))
	}
	return out.String()
}

// equalsARebuild compares the rows with those that a model in another database makes of the log from its beginning.
func equalsARebuild(t testing.TB, s *eventstore.Store, address string) {
	t.Helper()
	info, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other := pgtest.Shared(t).Database(t)
	p := start(t, s, options(other))
	p.wait(t, info.Last)
	p.stop()
	have, want := dump(t, address), dump(t, other)
	if have != want {
		h, w := strings.Split(have, "\n"), strings.Split(want, "\n")
		for i := range min(len(h), len(w)) {
			if h[i] != w[i] {
				t.Fatalf("rows differ from those of a rebuild: %d lines, want %d; line %d =\n%s\nwant\n%s", len(h), len(w), i+1, h[i], w[i])
			}
		}
		t.Fatalf("rows differ from those of a rebuild: %d lines, want %d", len(h), len(w))
	}
}

package postgres_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"

	"vega/config/secret"
	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/projections/modeltest"
	"vega/projections/pgtest"
	"vega/projections/postgres"
)

// journal is a log that a test reads.
type journal struct {
	mu   sync.Mutex // guards said
	said bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.said.Write(p)
}

func (j *journal) text() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.said.String()
}

// The replica's two lines.
const (
	gone = "replica does not answer, the primary answers queries"
	back = "replica answers queries again"
)

// says waits until a line was logged n times.
func (j *journal) says(t *testing.T, line string, n int) {
	t.Helper()
	until(t, "the log says "+line, func() bool { return strings.Count(j.text(), line) >= n })
	if got := strings.Count(j.text(), line); got != n {
		t.Errorf("the log says %q %d times, want %d:\n%s", line, got, n, j.text())
	}
}

// withReplica is the options of a model with a replica, and what it logs.
func withReplica(primary, replica string) (postgres.Options, *journal) {
	o, log := options(primary), new(journal)
	o.Config.Postgres.ReplicaURL = secret.NewURL(replica)
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	return o, log
}

// holds makes a project and asks for it when the process says that it is as far.
func holds(t *testing.T, s *eventstore.Store, p *process) events.Seq {
	t.Helper()
	id, seq := makeProject(t, s)
	p.wait(t, seq)
	if _, err := p.Project(t.Context(), id); err != nil {
		t.Errorf("Project of sequence %d = %v, though the process is at least there", seq, err)
	}
	return seq
}

func TestAReplicaAnswersQueriesAndIsNeverAheadOfItself(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	story := modeltest.Story(t)
	story.Publish(t, s, 1)
	primary := pgtest.Start(t, pgtest.Options{})
	address := primary.Database(t)
	replica := primary.Replica(t)
	way := natstest.NewProxy(t, replica.Addr())
	o, log := withReplica(address, through(t, address, way.URL))
	p := start(t, s, o) // the replica has no tables at this moment
	p.wait(t, story.Last())
	modeltest.Golden(t, p)
	stop := writes(t, s, p)
	for range 20 {
		holds(t, s, p)
	}
	if report, err := p.Rebuild(t.Context()); err != nil || report.Different != 0 {
		t.Errorf("Rebuild = %+v, %v", report, err)
	}
	stop()
	if got := log.text(); strings.Contains(got, gone) {
		t.Errorf("the log says %s", got)
	}

	// One that answers and is behind is waited for.
	pause := func(how string) {
		t.Helper()
		if err := replica.Exec(t.Context(), "postgres", "SELECT pg_wal_replay_"+how+"()"); err != nil {
			t.Fatal(err)
		}
	}
	written := func(seq events.Seq) {
		t.Helper()
		until(t, "the primary has it", func() bool {
			c, err := p.Checkpoint(t.Context())
			return err == nil && c.Seq >= seq
		})
	}
	pause("pause")
	_, seq := makeProject(t, s)
	written(seq)
	if p.At() >= seq || p.Err() != nil {
		t.Errorf("At = %d, %v; which the replica has not seen", p.At(), p.Err())
	}

	// Gone, the primary answers, also when the replica is there again and behind what was seen.
	way.Close()
	p.wait(t, seq)
	log.says(t, gone, 1)
	way.Open(t)
	for range 20 {
		holds(t, s, p)
	}
	if got := log.text(); strings.Contains(got, back) {
		t.Errorf("the log says %s", got)
	}
	pause("resume")
	log.says(t, back, 1)
	pause("pause")
	_, seq = makeProject(t, s)
	written(seq)
	if p.At() >= seq {
		t.Errorf("At = %d: the replica does not answer queries", p.At())
	}
	pause("resume")
	p.wait(t, seq)
	if got := log.text(); strings.Count(got, gone) != 1 || !strings.Contains(got, "setting=VEGA_DATABASE_REPLICA_URL") || strings.Contains(got, pgtest.Password) {
		t.Errorf("the log says %s", got)
	}
}

func TestWhatWasPromisedHoldsWhileAReplicaDiesHangsAndReturnsUnderWrites(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	primary := pgtest.Start(t, pgtest.Options{})
	address := primary.Database(t)
	replica := primary.Replica(t)
	way := natstest.NewProxy(t, replica.Addr())
	o, log := withReplica(address, through(t, address, way.URL))
	p := start(t, s, o)
	// Whoever asks for what was promised gets it, from whichever server.
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	for range 2 {
		asking.Go(func() {
			for ctx.Err() == nil {
				holds(t, s, p)
			}
		})
	}
	defer asking.Wait()
	defer cancel()
	for n, trouble := range []struct{ begin, end func() }{
		{func() { replica.Kill(t) }, func() { replica.Restart(t) }},
		{way.Close, func() { way.Open(t) }},
		{func() { way.Swallow(natstest.Answers) }, way.Heal},
	} {
		trouble.begin()
		log.says(t, gone, n+1)
		for range 5 {
			holds(t, s, p)
		}
		if p.Err() != nil {
			t.Errorf("Err = %v, though the primary answers", p.Err())
		}
		trouble.end()
		log.says(t, back, n+1)
		for range 5 {
			holds(t, s, p)
		}
	}
	cancel()
	asking.Wait()
	if got := log.text(); strings.Contains(got, "read models do not answer") {
		t.Errorf("the log says %s", got)
	}
}

func TestAReplicaThatCannotBeUsedAtTheStartIsLoggedAndThePrimaryAnswers(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	server := pgtest.Shared(t)
	other := pgtest.DatabaseOf(t, server.Database(t))
	for name, c := range map[string]struct {
		change func(u *url.URL)
		want   string
	}{
		"nobody listens":       {func(u *url.URL) { u.Host = "127.0.0.1:1" }, "connection refused"},
		"nobody answers":       {func(u *url.URL) { u.Host, u.RawQuery = silent.Addr().String(), "connect_timeout=1" }, "context deadline exceeded"},
		"wrong password":       {func(u *url.URL) { u.User = url.UserPassword(pgtest.Role, "wr0ng/pass") }, "refuses the role's password"},
		"no such role":         {func(u *url.URL) { u.User = url.UserPassword("nobody_here", "wr0ng/pass") }, "refuses the role's password, or there is no such role"},
		"no database":          {func(u *url.URL) { u.Path = "/none" }, `has no database "none"`},
		"TLS where none is":    {func(u *url.URL) { u.RawQuery = "sslmode=verify-full" }, "does not offer TLS"},
		"a database of others": {func(u *url.URL) { u.Path = "/" + other }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := server.Database(t)
			u, err := url.Parse(address)
			if err != nil {
				t.Fatal(err)
			}
			c.change(u)
			o, log := withReplica(address, u.String())
			s := natstest.Open(t)
			p := start(t, s, o)
			holds(t, s, p)
			holds(t, s, p)
			log.says(t, gone, 1)
			if got := log.text(); strings.Contains(got, pgtest.Password) || strings.Contains(got, "wr0ng") || strings.Count(got, "\n") != 1 || !strings.Contains(got, "setting=VEGA_DATABASE_REPLICA_URL") ||
				!strings.Contains(strings.ReplaceAll(got, `\"`, `"`), c.want) {
				t.Errorf("the log says %s, want one line with %q", got, c.want)
			}
			err = postgres.CheckReplica(t.Context(), o)
			quiet(t, err)
			if err == nil || !strings.Contains(err.Error(), "VEGA_DATABASE_REPLICA_URL") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("CheckReplica = %v, want %q", err, c.want)
			}
		})
	}
}

func TestAReplicaIsCheckedApart(t *testing.T) {
	t.Parallel()
	address := pgtest.Shared(t).Database(t)
	if err := postgres.CheckReplica(t.Context(), options(address)); err != nil {
		t.Errorf("CheckReplica without a replica = %v", err)
	}
	o, _ := withReplica(address, address)
	if err := postgres.CheckReplica(t.Context(), o); err != nil {
		t.Errorf("CheckReplica before the tables are made = %v", err)
	}
	open(t, o)
	if err := postgres.CheckReplica(t.Context(), o); err != nil {
		t.Errorf("CheckReplica = %v", err)
	}
	o.Config.Postgres.ReplicaURL = secret.NewURL("postgres://" + pgtest.Role + ":wr0ng@[::1/x")
	if _, err := postgres.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "VEGA_DATABASE_REPLICA_URL cannot be used") {
		t.Errorf("Open = %v, want a refusal", err)
	}
}

package postgres_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"vega/config/secret"
	"vega/events"
	"vega/events/eventstore/natstest"
	"vega/projections"
	"vega/projections/modeltest"
	"vega/projections/pgtest"
	"vega/projections/postgres"
)

// quiet reports a password, in any spelling, or the user's part of the address in an error.
func quiet(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	for _, secret := range []string{pgtest.Password, url.QueryEscape(pgtest.Password), url.PathEscape(pgtest.Password), "wr0ng", pgtest.Role + ":", "user=" + pgtest.Role} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error holds %q: %v", secret, err)
		}
	}
}

func TestWhatIsWrongWithAConnectionIsOneSentence(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{TLS: true})
	good := server.Database(t)
	with := func(change func(u *url.URL, q url.Values)) string {
		u, err := url.Parse(good)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		change(u, q)
		u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
		return u.String()
	}
	for name, c := range map[string]struct {
		address string
		want    string // "" when it works
		away    bool
	}{
		"as it should be": {good, "", false},
		"TLS, verified": {with(func(_ *url.URL, q url.Values) {
			q.Set("sslmode", "verify-full")
			q.Set("sslrootcert", server.Certificate())
		}), "", false},
		"TLS, not verified": {with(func(_ *url.URL, q url.Values) { q.Set("sslmode", "require") }), "", false},
		"options": {with(func(_ *url.URL, q url.Values) {
			q.Set("options", "-c work_mem=8MB -c search_path=public")
			q.Set("application_name", "shop")
		}), "", false},
		"TLS, by nobody known": {with(func(_ *url.URL, q url.Values) { q.Set("sslmode", "verify-full") }),
			"failed to verify certificate", true},
		"a certificate that is not there": {with(func(_ *url.URL, q url.Values) { q.Set("sslmode", "verify-ca"); q.Set("sslrootcert", "/nowhere.crt") }),
			"VEGA_DATABASE_URL cannot be used: failed to configure TLS (unable to read CA file", false},
		"wrong password": {with(func(u *url.URL, _ url.Values) { u.User = url.UserPassword(pgtest.Role, "wr0ng/pass") }), "refuses the role's password", false},
		"no such role":   {with(func(u *url.URL, _ url.Values) { u.User = url.UserPassword("nobody_here", "wr0ng/pass") }), "refuses the role's password, or there is no such role", false},
		"no database":    {with(func(u *url.URL, _ url.Values) { u.Path = "/none" }), `has no database "none"`, false},
		"nobody listens": {with(func(u *url.URL, _ url.Values) { u.Host = "127.0.0.1:1" }), "connection refused", true},
		"not an address": {"postgres://" + pgtest.Role + ":wr0ng@[::1/x", "VEGA_DATABASE_URL cannot be used: failed to parse as URL", false},
		"a bad setting":  {with(func(_ *url.URL, q url.Values) { q.Set("sslmode", "maybe") }), "sslmode is invalid", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := postgres.Open(t.Context(), options(c.address))
			if err == nil {
				t.Cleanup(func() { _ = m.Close() })
				if _, err = m.Queue(t.Context()); err != nil {
					t.Error(err)
				}
			}
			quiet(t, err)
			if c.want == "" {
				if err != nil {
					t.Errorf("Open = %v, want none", err)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), "open read models: ") || strings.Count(err.Error(), c.want) != 1 || !strings.Contains(err.Error(), "VEGA_DATABASE_URL") || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Open = %v, want one sentence with %q", err, c.want)
			}
			if got := errors.Is(err, projections.ErrUnavailable); got != c.away {
				t.Errorf("Open = %v is ErrUnavailable: %v, want %v", err, got, c.away)
			}
		})
	}
	t.Run("TLS, of a server without", func(t *testing.T) {
		t.Parallel()
		_, err := postgres.Open(t.Context(), options(pgtest.Shared(t).Database(t)+"?sslmode=verify-full"))
		quiet(t, err)
		want := "does not offer TLS, and sslmode asks for it: turn it on in the server (ssl = on), or use sslmode=disable where nobody can listen (VEGA_DATABASE_URL)"
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("Open = %v, want %q", err, want)
		}
	})
	t.Run("over the socket", func(t *testing.T) {
		t.Parallel()
		modeltest.Apply(t, open(t, options(server.SocketURL(t, server.Database(t)))), modeltest.Story(t).Events, 50)
	})
	t.Run("a replica of several hosts", func(t *testing.T) {
		t.Parallel()
		o := options(good)
		o.Config.Postgres.ReplicaURL = secret.NewURL(with(func(u *url.URL, _ url.Values) { u.Host += "," + "127.0.0.1:1" }))
		_, err := postgres.Open(t.Context(), o)
		quiet(t, err)
		if err == nil || !strings.Contains(err.Error(), "VEGA_DATABASE_REPLICA_URL names several hosts") {
			t.Errorf("Open = %v", err)
		}
	})
}

// oldServer lets anybody in and says that it is a version of Postgres. It returns where it listens.
func oldServer(t *testing.T, version string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				b := pgproto3.NewBackend(c, c)
				if _, err := b.ReceiveStartupMessage(); err != nil {
					return
				}
				b.Send(&pgproto3.AuthenticationOk{})
				b.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: version})
				b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
				if b.Flush() == nil {
					_, _ = b.Receive() // until the client leaves: it has nothing to ask
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); serving.Wait() })
	return l.Addr().String()
}

func TestAServerThatIsTooOldIsRefusedByItsVersion(t *testing.T) {
	t.Parallel()
	addr := oldServer(t, "13.22 (Debian 13.22-1)")
	o := options("postgres://" + pgtest.Role + "@" + addr + "/vega?sslmode=disable")
	want := "Postgres at " + addr + " is version 13.22 (Debian 13.22-1): the read models need 14 or newer (VEGA_DATABASE_URL)"
	if _, err := postgres.Open(t.Context(), o); err == nil || err.Error() != "open read models: "+want {
		t.Errorf("Open = %v, want %s", err, want)
	}
	if _, err := postgres.Migrate(t.Context(), o); err == nil || err.Error() != "migrate read models: "+want {
		t.Errorf("Migrate = %v, want %s", err, want)
	}
}

func TestARoleThatMayNotIsToldWhichRightItLacks(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t)
	for name, c := range map[string]struct {
		in    string // what an administrator did in the database; %s: its name
		wants string
	}{
		"no schemas":           {"", `the role needs GRANT CREATE ON DATABASE "%s", or run 'vega migrate up' as the owner`},
		"a schema of another":  {"CREATE SCHEMA vega", "the role needs GRANT USAGE, CREATE ON SCHEMA vega, or run 'vega migrate up' as the owner"},
		"a schema to use only": {"CREATE SCHEMA vega; GRANT USAGE ON SCHEMA vega TO " + pgtest.Role, "the role needs GRANT USAGE, CREATE ON SCHEMA vega, or run 'vega migrate up' as the owner"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := server.Database(t)
			db := pgtest.DatabaseOf(t, address)
			if err := server.Exec(t.Context(), db, "ALTER DATABASE "+db+" OWNER TO postgres; "+c.in); err != nil {
				t.Fatal(err)
			}
			want := strings.ReplaceAll(c.wants, "%s", db)
			_, err := postgres.Open(t.Context(), options(address))
			quiet(t, err)
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "(VEGA_DATABASE_URL)") {
				t.Errorf("Open = %v, want %q", err, want)
			}
			_, err = postgres.Migrate(t.Context(), options(address))
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Migrate = %v, want %q", err, want)
			}
		})
	}
}

// lock holds a table of a database until the test ends or release is called.
func lock(t *testing.T, address, table string) (release func()) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	if _, err := c.Exec(t.Context(), "BEGIN; LOCK TABLE vega."+table+" IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	return func() { _ = c.Close(context.Background()) }
}

func TestAStatementThatTakesTooLongIsEndedAndTriedAgain(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	address := pgtest.Shared(t).Database(t)
	o := options(address)
	open(t, o) // makes the tables, which takes as long as it takes
	o.Config.Postgres.StatementTimeout = 200 * time.Millisecond
	p := start(t, s, o)
	id, seq := makeProject(t, s)
	p.wait(t, seq)
	release := lock(t, address, "projects")
	if _, err := p.Project(t.Context(), id); !errors.Is(err, projections.ErrUnavailable) {
		t.Errorf("Project of a locked table = %v, want ErrUnavailable", err)
	}
	_, seq = makeProject(t, s)
	until(t, "the runner says so", func() bool { return errors.Is(p.Err(), projections.ErrUnavailable) })
	if p.At() >= seq {
		t.Errorf("At = %d, which was not written", p.At())
	}
	release()
	p.wait(t, seq)
	until(t, "the runner is well", func() bool { return p.Err() == nil })
}

func TestAPoolThatIsBusyDoesNotHangReaders(t *testing.T) {
	t.Parallel()
	address := pgtest.Shared(t).Database(t)
	o := options(address)
	o.Config.Postgres.MaxConnections = 1
	m := open(t, o)
	release := lock(t, address, "projects")
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := m.Project(ctx, "proj_a"); done <- err }()
	begun := time.Now()
	var err error
	for err == nil && time.Since(begun) < patience { // until the only connection is taken
		_, err = m.Scan(t.Context(), "scan_a")
		if errors.Is(err, projections.ErrNotFound) {
			err = nil
		}
	}
	if !errors.Is(err, projections.ErrUnavailable) || !strings.Contains(err.Error(), "connections are busy") {
		t.Errorf("a query without a free connection = %v, want ErrUnavailable", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a query whose caller gave up = %v, want its context's error", err)
	}
}

// odd is a finding with everything in its strings that a text in Postgres cannot hold, or that an index cannot.
func odd(id string) events.Finding {
	return events.Finding{ID: events.FindingID(id), Severity: events.SeverityHigh, Title: "nul \x00 and one \x01", Description: "\x01\x01\x02\x00", File: "a\x00b", StartLine: 1,
		Snippet: "{\"\\u0000\"}", CWE: []string{"", `a"b\c`, "NULL", "{}", "\x00", " x,y "}, Also: []string{}}
}

func TestEveryStringIsHeldAndOrderedAsItIs(t *testing.T) {
	t.Parallel()
	h := modeltest.NewHistory(t)
	region, by := natstest.Region, events.BySystem("test")
	h.Add(events.ProjectOf(region, "proj_a"), by, events.ProjectCreated{Name: "p\x00", Owner: "user_a"})
	h.Add(events.RepositoryOf(region, "repo_a"), by, events.RepositoryCreated{Project: "proj_a", Name: "r", SourceType: events.SourceGit})
	h.Add(events.RepositoryOf(region, "repo_a"), by, events.IngestStarted{Upload: "u"}, events.IngestFailed{Upload: "u", Code: "x", Message: "\x00", Details: map[string]any{"\x00": "\x00\x01", "n": 1e300}})
	h.Add(events.ScanOf(region, "scan_a"), by, events.ScanQueued{Project: "proj_a", Repository: "repo_a", Snapshot: "s", User: "user_a", Paths: []string{}, Priority: events.High, MaxAttempts: 3})
	var all []events.Finding
	for i, file := range []string{"", "\x00", "\x00\x00", "\x01", "\x01\x01", "\x02", "a", "a\x00", "a\x00b", "a\x01", "ab", "é", "\U0010ffff", strings.Repeat("long/", 1000), strings.Repeat("long/", 1000) + "er", strings.Repeat("é", 600) + "a", strings.Repeat("é", 600) + "b"} {
		f := odd("find_" + string(rune('a'+i)))
		f.File = file
		all = append(all, f)
	}
	h.Add(events.ScanOf(region, "scan_a"), by, events.AttemptClaimed{Attempt: 1, Worker: "w"}, events.AttemptStarted{Attempt: 1, Worker: "w"})
	h.Add(events.ScanOf(region, "scan_a"), by, events.FindingsRecorded{Attempt: 1, Stage: "s", Findings: all})
	h.Add(events.ScanOf(region, "scan_a"), by, events.StageCompleted{Attempt: 1, Stage: "\x00", Reasons: []events.CoverageReason{{Path: "\x00"}}})
	m := fresh(t)
	modeltest.Apply(t, m, h.Events, 3)
	if r, err := m.Repository(t.Context(), "repo_a"); err != nil || r.Failure == nil || r.Failure.Message != "\x00" || r.Failure.Details["\x00"] != "\x00\x01" || r.Failure.Details["n"] != 1e300 {
		t.Errorf("Repository = %+v, %v", r, err)
	}
	if x, err := m.Scan(t.Context(), "scan_a"); err != nil || len(x.Stages) != 1 || x.Stages[0].Stage != "\x00" || x.Stages[0].Reasons[0].Path != "\x00" {
		t.Errorf("Scan = %+v, %v", x, err)
	}
	for _, limit := range []int{1, 4, 100} {
		var got []projections.FindingView
		for p := (projections.Page{Limit: limit}); ; {
			rows, next, err := m.Findings(t.Context(), projections.FindingFilter{Scan: "scan_a"}, p)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, rows...)
			if p.After = next; next == "" {
				break
			}
		}
		if len(got) != len(all) {
			t.Fatalf("%d findings by %d, want %d", len(got), limit, len(all))
		}
		for i, v := range got {
			if i > 0 && projections.CompareFindings(got[i-1].Finding, v.Finding) >= 0 {
				t.Errorf("by %d: %.20q comes after %.20q", limit, v.File, got[i-1].File)
			}
			want := odd(string(v.ID))
			if v.Title != want.Title || v.Description != want.Description || strings.Join(v.CWE, "|") != strings.Join(want.CWE, "|") || v.CWE == nil {
				t.Errorf("finding = %+v, want %+v", v.Finding.Finding, want)
			}
		}
	}
}

// What no index holds: the aggregate to blame is parked, and a rebuild parks it again with the same words.
func TestRowsThatTheDatabaseRefusesParkTheirAggregateAlone(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	by := events.BySystem("test")
	h := modeltest.NewHistory(t)
	h.Add(events.ProjectOf(natstest.Region, "proj_a"), by, events.ProjectCreated{Name: "before", Owner: "user_a"})
	var id strings.Builder // of nothing that repeats, because Postgres compresses what does
	for n := range 4000 {
		id.WriteRune(rune('a' + (n*n*7919+n*31)%997%26))
		id.WriteRune(rune('0' + (n*n*104729+n*13)%991))
	}
	h.Add(events.RepositoryOf(natstest.Region, "repo_a"), by, events.RepositoryCreated{Project: events.ProjectID(id.String()), Name: "r", SourceType: events.SourceGit})
	h.Add(events.ProjectOf(natstest.Region, "proj_b"), by, events.ProjectCreated{Name: "after", Owner: "user_a"})
	h.Publish(t, s, 1)
	p := start(t, s, options(pgtest.Shared(t).Database(t)))
	p.wait(t, h.Last())
	parked, err := p.ParkedAggregates(t.Context())
	if err != nil || len(parked) != 1 || parked[0].Aggregate != "repository repo_a" || !strings.Contains(parked[0].Problem, "the read models cannot hold it") {
		t.Errorf("ParkedAggregates = %+v, %v; want the repository", parked, err)
	}
	for _, id := range []events.ProjectID{"proj_a", "proj_b"} {
		if _, err := p.Project(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if report, err := p.Rebuild(t.Context()); err != nil || report.Different != 0 {
		t.Errorf("Rebuild = %+v, %v", report, err)
	}
}

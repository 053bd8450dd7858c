package postgres_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/projections"
	"vega/projections/modeltest"
	"vega/projections/pgtest"
	"vega/services/scan"
)

// benchServer syncs as one in production does, and has memory for the data.
func benchServer(b *testing.B) *pgtest.Server {
	b.Helper()
	return pgtest.Start(b, pgtest.Options{Settings: []string{"fsync=on", "full_page_writes=on", "shared_buffers=512MB", "max_wal_size=8GB", "checkpoint_timeout=1h"}})
}

// benchLog is the log of a busy service with about n events.
func benchLog(b *testing.B, n int) (*eventstore.Store, int) {
	b.Helper()
	h := modeltest.Typical(b, n/11)
	s := natstest.Open(b)
	h.Publish(b, s, 1)
	return s, len(h.Events)
}

// tables are those with rows that come of the log.
var tables = []string{"projects", "members", "project_usage", "repositories", "snapshots", "scans", "findings", "triages", "api_keys", "parked", "day_usage"}

// copied is a table's rows: as COPY takes them, and as values that have to be encoded first.
type copied struct {
	table   string
	encoded []byte
	columns []string
	values  [][]any
}

// copyOut reads all rows of a database.
func copyOut(b *testing.B, address string) []copied {
	b.Helper()
	c := connect(b, address)
	defer c.Close(b.Context())
	var out []copied
	for _, name := range tables {
		var rows bytes.Buffer
		if _, err := c.PgConn().CopyTo(b.Context(), &rows, "COPY vega."+name+" TO STDOUT (FORMAT binary)"); err != nil {
			b.Fatal(err)
		}
		t := copied{table: name, encoded: rows.Bytes()}
		got, err := c.Query(b.Context(), "SELECT * FROM vega."+name)
		if err != nil {
			b.Fatal(err)
		}
		for _, f := range got.FieldDescriptions() {
			t.columns = append(t.columns, f.Name)
		}
		for got.Next() {
			v, err := got.Values()
			for i, f := range got.FieldDescriptions() {
				if f.DataTypeOID == pgtype.JSONOID && v[i] != nil {
					v[i] = documentOf(f.Name)
					err = errors.Join(err, json.Unmarshal(got.RawValues()[i], v[i]))
				}
			}
			if err != nil {
				b.Fatal(err)
			}
			t.values = append(t.values, v)
		}
		if err := got.Err(); err != nil {
			b.Fatal(err)
		}
		out = append(out, t)
	}
	return out
}

// documentOf is where a column's document goes.
func documentOf(column string) any {
	switch column {
	case "stages":
		return new([]projections.Stage)
	case "coverage_reasons":
		return new([]events.CoverageReason)
	case "manifest", "pack":
		return new(events.Object)
	}
	return new(any)
}

// copyIn writes rows into empty tables of the same shape, from values as pgx's users do, and into others of rows that are encoded already.
func copyIn(b *testing.B, server *pgtest.Server, rows []copied) (fromValues, encoded time.Duration) {
	b.Helper()
	empty := func() *pgx.Conn {
		address := server.Database(b)
		start(b, natstest.Open(b), options(address)).stop()
		return connect(b, address)
	}
	c, other := empty(), empty()
	defer c.Close(b.Context())
	defer other.Close(b.Context())
	begun := time.Now()
	for _, t := range rows {
		if _, err := c.CopyFrom(b.Context(), pgx.Identifier{"vega", t.table}, t.columns, pgx.CopyFromRows(t.values)); err != nil {
			b.Fatal(err)
		}
	}
	fromValues, begun = time.Since(begun), time.Now()
	for _, t := range rows {
		if _, err := other.PgConn().CopyFrom(b.Context(), bytes.NewReader(t.encoded), "COPY vega."+t.table+" FROM STDIN (FORMAT binary)"); err != nil {
			b.Fatal(err)
		}
	}
	return fromValues, time.Since(begun)
}

func connect(tb testing.TB, address string) *pgx.Conn {
	tb.Helper()
	c, err := pgx.Connect(tb.Context(), address)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// BenchmarkProjection fills an empty model from a log of 100,000 events beside three things that do less: COPY of the rows that come of it into the same tables, from values and
// from bytes, and reading the log without looking at it. A ratio of 1 to COPY would mean that reading, decoding and folding the events, and writing rows again when they change, cost
// nothing.
func BenchmarkProjection(b *testing.B) {
	server := benchServer(b)
	s, n := benchLog(b, 100_000)
	var live time.Duration
	var than beside
	for b.Loop() {
		address := server.Database(b)
		open(b, options(address)) // makes the tables
		begun := time.Now()
		p := start(b, s, options(address))
		if err := p.WaitFor(b.Context(), events.Seq(n)); err != nil {
			b.Fatal(err)
		}
		live += time.Since(begun)
		p.stop()
		than.measure(b, server, s, address, n)
	}
	b.ReportMetric(float64(n)*float64(b.N)/live.Seconds(), "events/s")
	than.report(b, "projection", n, b.N, live)
}

// The sizes of what a long-lived installation has.
const (
	rebuildN = 1_000_000 // events
	listN    = 1_000_000 // scans
)

// BenchmarkRebuild builds a model anew beside itself.
func BenchmarkRebuild(b *testing.B) {
	server := benchServer(b)
	s, n := benchLog(b, rebuildN)
	address := server.Database(b)
	p := start(b, s, options(address))
	if err := p.WaitFor(b.Context(), events.Seq(n)); err != nil {
		b.Fatal(err)
	}
	var than beside
	than.measure(b, server, s, address, n)
	var took time.Duration
	for b.Loop() {
		report, err := p.Rebuild(b.Context())
		if err != nil || report.Different > 0 {
			b.Fatalf("%+v, %v", report, err)
		}
		took += report.Took
	}
	took /= time.Duration(b.N)
	b.ReportMetric(float64(n)/took.Seconds(), "events/s")
	b.ReportMetric(took.Seconds(), "s/rebuild")
	than.report(b, "rebuild", n, 1, took)
}

// beside is how long what does less takes.
type beside struct{ values, encoded, replay time.Duration }

func (d *beside) measure(b *testing.B, server *pgtest.Server, s *eventstore.Store, address string, n int) {
	b.Helper()
	values, encoded := copyIn(b, server, copyOut(b, address))
	d.values, d.encoded, d.replay = d.values+values, d.encoded+encoded, d.replay+modeltest.Replay(b, s, n)
}

// report compares what was measured so many times with what took so long in all.
func (d *beside) report(b *testing.B, what string, n, times int, took time.Duration) {
	per := float64(n) * float64(times)
	b.ReportMetric(per/d.values.Seconds(), "COPY-events/s")
	b.ReportMetric(per/d.encoded.Seconds(), "COPY-encoded-events/s")
	b.ReportMetric(per/d.replay.Seconds(), "replay-events/s")
	b.ReportMetric(d.values.Seconds()/took.Seconds(), what+"/COPY")
	b.ReportMetric(d.encoded.Seconds()/took.Seconds(), what+"/COPY-encoded")
	b.ReportMetric(d.replay.Seconds()/took.Seconds(), what+"/replay")
}

// BenchmarkScans lists pages of scans, of which there are many, through the model and with the statement that it comes down to, whose rows nobody looks at.
func BenchmarkScans(b *testing.B) {
	server := benchServer(b)
	address := server.Database(b)
	o := options(address)
	m := open(b, o)
	fill(b, address, listN)
	c := connect(b, address)
	defer c.Close(b.Context())
	for _, q := range []struct {
		name   string
		filter projections.ScanFilter
		bare   string
	}{
		{"all", projections.ScanFilter{}, "FROM vega.scans t JOIN vega.repositories r ON r.id = t.repository_id AND NOT r.deleted JOIN vega.projects p ON p.id = t.project_id AND NOT p.deleted WHERE t.created_seq < $1"},
		{"member", projections.ScanFilter{Member: "user_7"}, `FROM vega.members m JOIN vega.projects p ON p.id = m.project_id AND NOT p.deleted CROSS JOIN LATERAL (SELECT t.* FROM vega.scans t JOIN vega.repositories r ON r.id = t.repository_id AND NOT r.deleted
			WHERE t.project_id = m.project_id AND t.created_seq < $1 ORDER BY t.created_seq DESC LIMIT 51) t WHERE m.user_id = 'user_7' AND t.created_seq < $1`},
		{"project", projections.ScanFilter{Project: "proj_7"}, "FROM vega.scans t JOIN vega.repositories r ON r.id = t.repository_id AND NOT r.deleted JOIN vega.projects p ON p.id = t.project_id AND NOT p.deleted WHERE t.project_id = 'proj_7' AND t.created_seq < $1"},
		{"failed", projections.ScanFilter{Statuses: []scan.Status{scan.Failed}, FailureCode: "attempts_exhausted"}, "FROM vega.scans t JOIN vega.repositories r ON r.id = t.repository_id AND NOT r.deleted JOIN vega.projects p ON p.id = t.project_id AND NOT p.deleted WHERE t.status = 'failed' AND t.failure_code = 'attempts_exhausted' AND t.created_seq < $1"},
	} {
		b.Run(q.name, func(b *testing.B) {
			var model, bare []time.Duration
			places := func(i int) events.Seq { return events.Seq(listN/2 + i*7919%(listN/2)) }
			ask := func(i int) {
				begun := time.Now()
				rows, _, err := m.Scans(b.Context(), q.filter, projections.Page{After: projections.SeqCursor(places(i))})
				model = append(model, time.Since(begun))
				if err != nil || len(rows) == 0 {
					b.Fatalf("%d rows, %v", len(rows), err)
				}
				begun = time.Now()
				got, err := c.Query(b.Context(), "SELECT t.* "+q.bare+" ORDER BY t.created_seq DESC LIMIT 51", int64(places(i)))
				if err != nil {
					b.Fatal(err)
				}
				for got.Next() {
					_ = got.RawValues()
				}
				if err := got.Err(); err != nil {
					b.Fatal(err)
				}
				bare = append(bare, time.Since(begun))
			}
			for i := range 20 { // caches
				ask(i)
			}
			model, bare = nil, nil
			i := 0
			for b.Loop() {
				for range 300 {
					ask(i)
					i++
				}
			}
			b.ReportMetric(float64(p99(model).Microseconds())/1000, "p99-ms")
			b.ReportMetric(float64(p99(bare).Microseconds())/1000, "SQL-p99-ms")
			b.ReportMetric(p99(model).Seconds()/p99(bare).Seconds(), "model/SQL")
		})
	}
}

// BenchmarkUsage sums up 100,000 days of scans: 30 days of 100 projects, as an admin, a member of ten projects and somebody who looks at one see them.
func BenchmarkUsage(b *testing.B) {
	const n = 100_000
	server := benchServer(b)
	address := server.Database(b)
	m := open(b, options(address))
	fill(b, address, 1000)
	c := connect(b, address)
	defer c.Close(b.Context())
	for _, sql := range []string{
		fmt.Sprintf(`INSERT INTO vega.day_usage SELECT to_char(date '2026-11-01' + (i %% 30)::int, 'YYYY-MM-DD'), 'scan_' || i, 'proj_' || i * 7919 %% 1000 / 10, 'repo_' || i * 7919 %% 1000, 'user_' || i %% 50, i, 9, 8, 7, 6, 5, 4, 0, i
			FROM generate_series(1::bigint, %d) i`, n),
		"VACUUM ANALYZE vega.day_usage",
	} {
		if _, err := c.Exec(b.Context(), sql); err != nil {
			b.Fatal(err)
		}
	}
	for who, f := range map[string]projections.UsageFilter{
		"all": {}, "member": {Member: "user_7"}, "project": {Project: "proj_7"}, "a day": {From: "2026-11-07", To: "2026-11-07"},
	} {
		for _, by := range []projections.UsageBy{projections.ByDay, projections.ByProject, projections.ByUser, projections.ByScan} {
			b.Run(who+" by "+string(by), func(b *testing.B) {
				f.By = by
				for b.Loop() {
					if got, _, err := m.Usage(b.Context(), f, projections.Page{}); err != nil || got.Total.Usage.Requests == 0 {
						b.Fatal(got.Total, err)
					}
				}
			})
		}
	}
}

func p99(took []time.Duration) time.Duration {
	slices.Sort(took)
	return took[len(took)*99/100]
}

// fill makes n scans of 100 projects with 10 repositories each; one in fifty failed.
func fill(b *testing.B, address string, n int) {
	b.Helper()
	c := connect(b, address)
	defer c.Close(b.Context())
	stages := `[{"attempt":1,"stage":"inventory","status":"completed","started_at":"2026-01-01T00:00:00Z","artifacts":[{"name":"a.json","key":"scans/a","digest":"sha256:00","bytes":100}],"finished_at":"2026-01-01T00:00:01Z"}]`
	for _, sql := range []string{
		"INSERT INTO vega.projects (id, name, members, deleted, version, created_seq, seq) SELECT 'proj_' || i, 'p', '{\"user_7\":\"owner\"}', false, 1, i, i FROM generate_series(0, 99) i",
		"INSERT INTO vega.members (project_id, user_id, created_seq) SELECT 'proj_' || i, 'user_' || i / 10, i FROM generate_series(0, 99) i",
		"INSERT INTO vega.repositories (id, project_id, name, source_type, git_url, git_ref, ingest_status, upload_id, latest, profile_by, deleted, version, created_seq, seq) SELECT 'repo_' || i, 'proj_' || i / 10, 'r', 'upload', '', '', 'ready', '', '', '', i % 50 = 3, 1, i, i FROM generate_series(0, 999) i",
		fmt.Sprintf(`INSERT INTO vega.scans (id, project_id, repository_id, snapshot_id, user_id, model, priority, priority_rank, rerun_of, profile_version, status, attempt, max_attempts, worker_id, generation, ready_seq,
			stages, coverage_state, critical, high, medium, low, info, rejected, requests, input_tokens, cached_input_tokens, output_tokens, cost_nano_usd, failure_attempt, failure_code, failure_message, created_ns, version, created_seq, seq)
			SELECT 'scan_' || i, 'proj_' || i * 7919 %% 1000 / 10, 'repo_' || i * 7919 %% 1000, 'sha256:0', 'user_7', '', 'normal', 1, '', 0, CASE WHEN i %% 50 = 0 THEN 'failed' ELSE 'completed' END, 1, 3, 'work_a', i, i,
			'%s', 'complete', 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, CASE WHEN i %% 50 = 0 THEN 1 END, CASE WHEN i %% 50 = 0 THEN 'attempts_exhausted' END, CASE WHEN i %% 50 = 0 THEN 'm' END, 1000000000, 9, i, i FROM generate_series(1::bigint, %d) i`, stages, n),
		"VACUUM ANALYZE",
	} {
		if _, err := c.Exec(b.Context(), sql); err != nil {
			b.Fatal(err)
		}
	}
}

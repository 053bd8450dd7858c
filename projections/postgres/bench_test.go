package postgres_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

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

// copied is a table's rows as COPY takes them.
type copied struct {
	table string
	rows  []byte
}

// copyOut reads all rows of a database, copyIn writes them into empty tables of the same shape.
func copyOut(b *testing.B, address string) []copied {
	b.Helper()
	c := connect(b, address)
	defer c.Close(b.Context())
	var out []copied
	for _, name := range []string{"projects", "members", "project_usage", "repositories", "snapshots", "scans", "findings", "triages", "api_keys", "parked"} {
		var rows bytes.Buffer
		if _, err := c.PgConn().CopyTo(b.Context(), &rows, "COPY vega."+name+" TO STDOUT (FORMAT binary)"); err != nil {
			b.Fatal(err)
		}
		out = append(out, copied{name, rows.Bytes()})
	}
	return out
}

func copyIn(b *testing.B, address string, tables []copied) time.Duration {
	b.Helper()
	c := connect(b, address)
	defer c.Close(b.Context())
	begun := time.Now()
	for _, t := range tables {
		if _, err := c.PgConn().CopyFrom(b.Context(), bytes.NewReader(t.rows), "COPY vega."+t.table+" FROM STDIN (FORMAT binary)"); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(begun)
}

func connect(tb testing.TB, address string) *pgx.Conn {
	tb.Helper()
	c, err := pgx.Connect(tb.Context(), address)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// BenchmarkProjection fills an empty model from a log of 100,000 events beside COPY of the rows that come of it into the same tables. A ratio of 1 would mean that
// reading, decoding and folding the events, and writing rows again when they change, cost nothing.
func BenchmarkProjection(b *testing.B) {
	server := benchServer(b)
	s, n := benchLog(b, 100_000)
	var live, bare time.Duration
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
		rows := copyOut(b, address)
		other := server.Database(b)
		start(b, natstest.Open(b), options(other)).stop() // empty tables
		bare += copyIn(b, other, rows)
	}
	per := float64(n) * float64(b.N)
	b.ReportMetric(per/live.Seconds(), "events/s")
	b.ReportMetric(per/bare.Seconds(), "COPY-events/s")
	b.ReportMetric(bare.Seconds()/live.Seconds(), "projection/COPY")
}

// BenchmarkRebuild builds a model anew beside itself; make test-long's size is a million events (-tags long).
func BenchmarkRebuild(b *testing.B) {
	server := benchServer(b)
	s, n := benchLog(b, rebuildN)
	address := server.Database(b)
	p := start(b, s, options(address))
	if err := p.WaitFor(b.Context(), events.Seq(n)); err != nil {
		b.Fatal(err)
	}
	other := server.Database(b)
	start(b, natstest.Open(b), options(other)).stop()
	bare := copyIn(b, other, copyOut(b, address))
	var took time.Duration
	for b.Loop() {
		report, err := p.Rebuild(b.Context())
		if err != nil || report.Different > 0 {
			b.Fatalf("%+v, %v", report, err)
		}
		took += report.Took
	}
	b.ReportMetric(float64(n)*float64(b.N)/took.Seconds(), "events/s")
	b.ReportMetric(took.Seconds()/float64(b.N), "s/rebuild")
	b.ReportMetric(bare.Seconds()*float64(b.N)/took.Seconds(), "rebuild/COPY")
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
			'%s', 'complete', 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, CASE WHEN i %% 50 = 0 THEN 1 END, CASE WHEN i %% 50 = 0 THEN 'attempts_exhausted' END, CASE WHEN i %% 50 = 0 THEN 'm' END, 1000000000, 9, i, i FROM generate_series(1, %d) i`, stages, n),
		"VACUUM ANALYZE",
	} {
		if _, err := c.Exec(b.Context(), sql); err != nil {
			b.Fatal(err)
		}
	}
}

// Package modeltest holds every backend of the read models to the same answers.
//
// [Run] is the whole suite: a new backend passes it or is not one. Answers are compared as JSON with testdata, byte for byte, cursors
// included, so two backends cannot differ in a rounded time, an order or an empty list. `go test -update` rewrites them.
//
// The histories that it folds are made by hand ([History], [Story], [Typical]); tests of one backend use them too.
package modeltest

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"vega/events"
	"vega/projections"
	"vega/services/scan"
)

var update = flag.Bool("update", false, "rewrite the golden answers")

// Created is when the stream of hand-made histories was made, Stream its name.
var Created = time.Date(2026, 1, 1, 0, 0, 0, 1000, time.UTC)

// Stream is the name of the log that hand-made histories come from.
const Stream = "VEGA_EVENTS_test_1"

// Run holds a backend to the suite. open returns an empty model of its own for a test and closes it at the test's end.
func Run(t *testing.T, open func(t *testing.T) projections.Model) {
	t.Run("answers every query", func(t *testing.T) { t.Parallel(); answers(t, open) })
	t.Run("pages without gap or double while rows come and change", func(t *testing.T) { t.Parallel(); pages(t, open(t)) })
	t.Run("pages through findings that share everything but their id", func(t *testing.T) { t.Parallel(); findingPages(t, open(t)) })
	t.Run("what scans spent is what calls cost day by day", func(t *testing.T) { t.Parallel(); usageAddsUp(t, open(t)) })
	t.Run("refuses cursors that are not its own", func(t *testing.T) { t.Parallel(); badCursors(t, open(t)) })
	t.Run("a transaction that fails leaves nothing", func(t *testing.T) { t.Parallel(); failedUpdate(t, open(t)) })
	t.Run("a transaction goes beyond the checkpoint", func(t *testing.T) { t.Parallel(); movedUpdate(t, open(t)) })
	t.Run("a transaction sees its own rows", func(t *testing.T) { t.Parallel(); ownRows(t, open(t)) })
	t.Run("readers see whole transactions", func(t *testing.T) { t.Parallel(); wholeTransactions(t, open(t)) })
	t.Run("an event that cannot be applied parks its aggregate", func(t *testing.T) { t.Parallel(); poison(t, open(t)) })
	t.Run("events that are applied already change nothing", func(t *testing.T) { t.Parallel(); again(t, open) })
	t.Run("another log is refused", func(t *testing.T) { t.Parallel(); otherLog(t, open(t)) })
	t.Run("is rebuilt beside itself", func(t *testing.T) { t.Parallel(); rebuild(t, open) })
}

// Apply folds events into m in transactions of at most size.
func Apply(tb testing.TB, m projections.Model, evs []events.Recorded, size int) {
	tb.Helper()
	for batch := range slices.Chunk(evs, size) {
		if err := Update(tb.Context(), m, batch); err != nil {
			tb.Fatal(err)
		}
	}
}

// Update folds one batch in one transaction.
func Update(ctx context.Context, m projections.Model, batch []events.Recorded) error {
	return m.Update(ctx, projections.Checkpoint{Seq: batch[len(batch)-1].Seq, Stream: Stream, Created: Created}, func(tx projections.Tx) error {
		for _, e := range batch {
			if err := projections.Apply(tx, e); err != nil {
				return fmt.Errorf("sequence %d: %w", e.Seq, err)
			}
		}
		return nil
	})
}

// Golden compares all answers of m, which has folded Story, with the golden file.
func Golden(t *testing.T, m projections.Model) {
	t.Helper()
	got := Answers(t, m)
	_, here, _, _ := runtime.Caller(0)
	path := filepath.Join(filepath.Dir(here), "testdata", "answers.json")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	gotLines, wantLines := bytes.Split(got, []byte("\n")), bytes.Split(want, []byte("\n"))
	for i := range max(len(gotLines), len(wantLines)) {
		var g, w []byte
		if i < len(gotLines) {
			g = gotLines[i]
		}
		if i < len(wantLines) {
			w = wantLines[i]
		}
		if !bytes.Equal(g, w) {
			t.Fatalf("answers line %d =\n%s\nwant\n%s", i+1, g, w)
		}
	}
}

// Answers asks m everything about Story and returns the answers as JSON, one a line.
func Answers(t *testing.T, m projections.Reader) []byte {
	t.Helper()
	var out bytes.Buffer
	ctx := t.Context()
	add := func(query string, answer any, err error) {
		line := struct {
			Query  string `json:"query"`
			Answer any    `json:"answer"`
			Error  string `json:"error,omitempty"`
		}{query, answer, ""}
		if err != nil {
			line.Answer, line.Error = nil, err.Error()
		}
		b, err := json.Marshal(line)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(append(b, '\n'))
	}
	everyone := []events.UserID{"", user(1), user(2), user(3), user(9)}

	for n := range 7 {
		p, err := m.Project(ctx, project(n))
		add(fmt.Sprintf("project %d", n), p, err)
		r, err := m.Rollup(ctx, project(n))
		add(fmt.Sprintf("rollup of project %d", n), r, err)
	}
	for _, u := range everyone {
		for _, limit := range []int{0, 1, 2} {
			list(add, fmt.Sprintf("projects of %q by %d", u, limit), limit, func(p projections.Page) ([]projections.Project, projections.Cursor, error) {
				return m.Projects(ctx, projections.ProjectFilter{User: u}, p)
			}, func(p projections.Project) any { return p.ID })
		}
	}
	for n := range 8 {
		r, err := m.Repository(ctx, repository(n))
		add(fmt.Sprintf("repository %d", n), r, err)
		for tree := range 6 {
			s, err := m.Snapshot(ctx, repository(n), snapshot(tree))
			if err == nil {
				add(fmt.Sprintf("snapshot %d of repository %d", tree, n), s, err)
			} else if n == 1 {
				add(fmt.Sprintf("snapshot %d of repository %d", tree, n), nil, err)
			}
		}
		list(add, fmt.Sprintf("snapshots of repository %d", n), 1, func(p projections.Page) ([]projections.Snapshot, projections.Cursor, error) {
			return m.Snapshots(ctx, repository(n), p)
		}, func(s projections.Snapshot) any { return s.ID[len(s.ID)-2:] })
	}
	for n := range 6 {
		list(add, fmt.Sprintf("repositories of project %d", n), 2, func(p projections.Page) ([]projections.Repository, projections.Cursor, error) {
			return m.Repositories(ctx, project(n), p)
		}, func(r projections.Repository) any { return r.ID })
		users, err := m.SnapshotUsers(ctx, snapshot(n))
		add(fmt.Sprintf("users of snapshot %d", n), users, err)
	}
	for n := range 19 {
		s, err := m.Scan(ctx, scanID(n))
		add(fmt.Sprintf("scan %d", n), s, err)
		places, err := m.QueuePositions(ctx, scanID(n))
		if err != nil {
			t.Fatal(err)
		}
		add(fmt.Sprintf("queue position of scan %d", n), places[0], err)
	}
	places, err := m.QueuePositions(ctx, scanID(9), scanID(1), scanID(6), scanID(9), scanID(99), scanID(8))
	add("queue positions of scans 9, 1, 6, 9, 99 and 8", places, err)
	places, err = m.QueuePositions(ctx)
	add("queue positions of none", places, err)
	queue, err := m.Queue(ctx)
	add("queue", queue, err)
	unfinished, err := m.Unfinished(ctx)
	add("unfinished", ids(unfinished, func(s projections.Scan) any { return s.ID }), err)
	add("unfinished, the first whole", unfinished[0], err)

	idOf := func(s projections.Scan) any { return s.ID }
	scans := func(name string, limit int, f projections.ScanFilter) {
		list(add, fmt.Sprintf("scans %s by %d", name, limit), limit, func(p projections.Page) ([]projections.Scan, projections.Cursor, error) { return m.Scans(ctx, f, p) }, idOf)
	}
	for _, limit := range []int{0, 1, 3} {
		for _, u := range everyone {
			scans(fmt.Sprintf("of member %q", u), limit, projections.ScanFilter{Member: u})
			scans(fmt.Sprintf("dead letters of member %q", u), limit, projections.ScanFilter{Member: u, FailureCode: scan.AttemptsExhausted})
		}
		for n := range 5 {
			scans(fmt.Sprintf("of project %d", n), limit, projections.ScanFilter{Project: project(n)})
			scans(fmt.Sprintf("of repository %d", n), limit, projections.ScanFilter{Repository: repository(n)})
		}
		scans("of repository 1 in project 2", limit, projections.ScanFilter{Repository: repository(1), Project: project(2)})
		scans("of repository 1 in project 1 for user 3", limit, projections.ScanFilter{Repository: repository(1), Project: project(1), Member: user(3)})
		scans("of repository 4 for user 3", limit, projections.ScanFilter{Repository: repository(4), Member: user(3)})
		scans("completed or failed", limit, projections.ScanFilter{Statuses: statuses()[4:6]})
		scans("completed of project 2", limit, projections.ScanFilter{Project: project(2), Statuses: statuses()[4:5]})
	}
	for _, s := range statuses() {
		scans("that are "+string(s), 2, projections.ScanFilter{Statuses: []scan.Status{s}})
	}

	view := func(v projections.FindingView) any {
		return []any{v.ID, v.Severity, v.File, v.StartLine, v.Scan, v.Triage.State, v.TriageVersion}
	}
	found := func(name string, limit int, f projections.FindingFilter) {
		list(add, fmt.Sprintf("findings %s by %d", name, limit), limit, func(p projections.Page) ([]projections.FindingView, projections.Cursor, error) {
			return m.Findings(ctx, f, p)
		}, view)
	}
	for _, limit := range []int{0, 1, 2} {
		for _, u := range everyone {
			found(fmt.Sprintf("of member %q", u), limit, projections.FindingFilter{Member: u})
		}
		for n := range 6 {
			found(fmt.Sprintf("of repository %d", n), limit, projections.FindingFilter{Repository: repository(n)})
		}
		for _, n := range []int{0, 1, 2, 4, 5, 12, 17} {
			found(fmt.Sprintf("of scan %d", n), limit, projections.FindingFilter{Scan: scanID(n)})
		}
		found("of scan 12 for user 3", limit, projections.FindingFilter{Scan: scanID(12), Member: user(3)})
		found("of repository 1 that are high or info", limit, projections.FindingFilter{Repository: repository(1), Severities: []events.Severity{events.SeverityInfo, events.SeverityHigh}})
		for _, s := range []events.TriageState{events.TriageOpen, events.TriageConfirmed, events.TriageDismissed} {
			found("that are "+string(s), limit, projections.FindingFilter{States: []events.TriageState{s}})
		}
		found("of scan 4 that are high and open or confirmed", limit, projections.FindingFilter{Scan: scanID(4), Severities: []events.Severity{events.SeverityHigh}, States: []events.TriageState{events.TriageOpen, events.TriageConfirmed}})
	}
	for _, repo := range []int{1, 4} {
		for n := range 10 {
			v, err := m.Finding(ctx, finding(repo, n, "").ID)
			add(fmt.Sprintf("finding %d of repository %d", n, repo), v, err)
		}
	}
	triaged, err := m.Triages(ctx, finding(1, 1, "").ID, finding(1, 2, "").ID, finding(1, 5, "").ID, "find_test_nothing", finding(1, 1, "").ID)
	add("triages of findings 1, 2, 5, none and 1 of repository 1", triaged, err)
	triaged, err = m.Triages(ctx)
	add("triages of none", triaged, err)
	for n := range 5 {
		k, err := m.APIKey(ctx, keyID(n))
		add(fmt.Sprintf("API key %d", n), k, err)
	}
	for _, u := range everyone {
		for _, limit := range []int{0, 1, 2} {
			list(add, fmt.Sprintf("API keys of %q by %d", u, limit), limit, func(p projections.Page) ([]projections.APIKey, projections.Cursor, error) {
				return m.APIKeys(ctx, u, p)
			}, func(k projections.APIKey) any { return k.ID })
		}
	}
	usageAnswers(t, m, add)
	parked, err := m.ParkedAggregates(ctx)
	add("parked", parked, err)
	return out.Bytes()
}

// list walks through a list by pages of limit and adds every page with its cursor.
func list[R any](add func(string, any, error), query string, limit int, get func(projections.Page) ([]R, projections.Cursor, error), id func(R) any) {
	type page struct {
		IDs  []any              `json:"ids"`
		Next projections.Cursor `json:"next,omitempty"`
	}
	pages := []page{}
	for p := (projections.Page{Limit: limit}); ; {
		rows, next, err := get(p)
		if err != nil {
			add(query, nil, err)
			return
		}
		pages = append(pages, page{ids(rows, id), next})
		if next == "" || len(pages) > 100 {
			add(query, pages, nil)
			return
		}
		p.After = next
	}
}

func ids[R any](rows []R, id func(R) any) []any {
	out := []any{}
	for _, r := range rows {
		out = append(out, id(r))
	}
	return out
}

func answers(t *testing.T, open func(*testing.T) projections.Model) {
	story := Story(t)
	for _, size := range []int{len(story.Events), 1, 7} {
		t.Run(fmt.Sprintf("in transactions of %d", size), func(t *testing.T) {
			m := open(t)
			Apply(t, m, story.Events, size)
			Golden(t, m)
		})
	}
}

var quiet = slog.New(slog.DiscardHandler)

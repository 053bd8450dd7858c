package modeltest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"vega/events"
	"vega/projections"
)

// pages walks through the scans while others are made and those of the list change: whoever was there at the beginning is seen once.
func pages(t *testing.T, m projections.Model) {
	h := NewHistory(t)
	h.Add(ofProject(1), events.ByUser(user(1)), events.ProjectCreated{Name: "p", Owner: user(1)})
	h.Add(ofRepository(1), events.ByUser(user(1)), events.RepositoryCreated{Project: project(1), Name: "r", SourceType: events.SourceUpload})
	const before = 30
	for n := range before {
		h.queue(n, 1, 1, user(1), events.Normal)
	}
	Apply(t, m, h.Events, 10)
	applied := len(h.Events)
	var seen []events.ScanID
	for p, made := (projections.Page{Limit: 4}), before; ; {
		rows, next, err := m.Scans(t.Context(), projections.ScanFilter{Member: user(1)}, p)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			seen = append(seen, r.ID)
		}
		if next == "" {
			break
		}
		p.After = next
		h.queue(made, 1, 1, user(1), events.Normal) // a new one
		h.run(made - before)                        // one that is to come changes
		h.run(before - 1 - (made - before))         // one that was seen changes
		made++
		Apply(t, m, h.Events[applied:], 100)
		applied = len(h.Events)
	}
	var want []events.ScanID
	for n := before - 1; n >= 0; n-- {
		want = append(want, scanID(n))
	}
	if !slices.Equal(seen, want) {
		t.Errorf("pages = %v, want %v", seen, want)
	}
}

func findingPages(t *testing.T, m projections.Model) {
	h := NewHistory(t)
	h.Add(ofProject(1), events.ByUser(user(1)), events.ProjectCreated{Name: "p", Owner: user(1)})
	h.Add(ofRepository(1), events.ByUser(user(1)), events.RepositoryCreated{Project: project(1), Name: "r", SourceType: events.SourceUpload})
	h.queue(1, 1, 1, user(1), events.Normal)
	h.run(1)
	var fs []events.Finding
	for n := range 45 {
		f := finding(1, n, events.SeverityHigh)
		f.File, f.StartLine = "same.go", 1
		fs = append(fs, f)
	}
	h.Add(ofScan(1), worker(1), events.FindingsRecorded{Attempt: 1, Stage: "s", Findings: fs})
	Apply(t, m, h.Events, 100)
	var seen []events.FindingID
	for p := (projections.Page{Limit: 7}); ; {
		rows, next, err := m.Findings(t.Context(), projections.FindingFilter{Scan: scanID(1)}, p)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			seen = append(seen, r.ID)
		}
		if p.After = next; next == "" {
			break
		}
	}
	if len(seen) != len(fs) || !slices.IsSorted(seen) || len(slices.Compact(slices.Clone(seen))) != len(fs) {
		t.Errorf("pages hold %d findings, sorted %v; want %d", len(seen), slices.IsSorted(seen), len(fs))
	}
}

func badCursors(t *testing.T, m projections.Model) {
	Apply(t, m, Story(t).Events, 1000)
	ctx := t.Context()
	seq, place := projections.SeqCursor(3), projections.FindingCursor(projections.Finding{Finding: finding(1, 1, events.SeverityHigh)})
	for _, c := range []projections.Cursor{"x", "!!", "bnVsbA", "e30", projections.Cursor(bytes.Repeat([]byte("A"), 20_000))} {
		p := projections.Page{After: c}
		for name, err := range map[string]error{
			"Projects": last(m.Projects(ctx, projections.ProjectFilter{}, p)), "Repositories": last(m.Repositories(ctx, project(1), p)),
			"Snapshots": last(m.Snapshots(ctx, repository(1), p)), "Scans": last(m.Scans(ctx, projections.ScanFilter{}, p)),
			"Findings": last(m.Findings(ctx, projections.FindingFilter{}, p)), "APIKeys": last(m.APIKeys(ctx, user(1), p)),
		} {
			if !errors.Is(err, projections.ErrBadCursor) {
				t.Errorf("%s after %.20q = %v, want ErrBadCursor", name, c, err)
			}
		}
	}
	kinds := []projections.UsageBy{projections.ByDay, projections.ByProject, projections.ByUser, projections.ByScan}
	for _, by := range kinds {
		foreign := []projections.Cursor{seq, place, "x", "e30"}
		for _, other := range kinds {
			if other != by {
				foreign = append(foreign, other.Cursor(projections.UsageSum{Day: "2026-01-02", Project: project(1), User: user(1), Queued: 3}))
			}
		}
		for _, c := range foreign {
			if _, _, err := m.Usage(ctx, projections.UsageFilter{By: by}, projections.Page{After: c}); !errors.Is(err, projections.ErrBadCursor) {
				t.Errorf("Usage by %s after %.20q = %v, want ErrBadCursor", by, c, err)
			}
		}
		if err := last(m.Scans(ctx, projections.ScanFilter{}, projections.Page{After: by.Cursor(projections.UsageSum{Queued: 3, Day: "d"})})); !errors.Is(err, projections.ErrBadCursor) {
			t.Errorf("Scans after a cursor of usage by %s = %v, want ErrBadCursor", by, err)
		}
	}
	if err := last(m.Scans(ctx, projections.ScanFilter{}, projections.Page{After: place})); !errors.Is(err, projections.ErrBadCursor) {
		t.Errorf("Scans after a finding's cursor = %v, want ErrBadCursor", err)
	}
	if err := last(m.Findings(ctx, projections.FindingFilter{}, projections.Page{After: seq})); !errors.Is(err, projections.ErrBadCursor) {
		t.Errorf("Findings after a scan's cursor = %v, want ErrBadCursor", err)
	}
}

func last[R any](_ []R, _ projections.Cursor, err error) error { return err }

func failedUpdate(t *testing.T, m projections.Model) {
	story := Story(t)
	half := len(story.Events) / 2
	Apply(t, m, story.Events[:half], 1000)
	before, _ := m.Checkpoint(t.Context())
	broken := errors.New("broken")
	err := m.Update(t.Context(), projections.Checkpoint{Seq: before.Seq + 10, Stream: Stream, Created: Created}, func(tx projections.Tx) error {
		for _, e := range story.Events[half : half+10] {
			if err := projections.Apply(tx, e); err != nil {
				return err
			}
		}
		if err := tx.PutProject(projections.Project{ID: project(1), Name: "changed"}); err != nil {
			return err
		}
		return errors.Join(broken, tx.PutProject(projections.Project{ID: project(77), Name: "new"}))
	})
	if !errors.Is(err, broken) {
		t.Errorf("Update = %v, want the function's error", err)
	}
	if after, _ := m.Checkpoint(t.Context()); after != before {
		t.Errorf("checkpoint = %+v, want %+v", after, before)
	}
	if _, err := m.Project(t.Context(), project(77)); !errors.Is(err, projections.ErrNotFound) {
		t.Errorf("Project of a failed transaction = %v, want ErrNotFound", err)
	}
	Apply(t, m, story.Events[half:], 1000)
	Golden(t, m)
}

func movedUpdate(t *testing.T, m projections.Model) {
	story := Story(t)
	Apply(t, m, story.Events, 1000)
	end := story.Last()
	for _, to := range []events.Seq{0, 1, end - 1, end} {
		called := false
		err := m.Update(t.Context(), projections.Checkpoint{Seq: to, Stream: Stream, Created: Created}, func(tx projections.Tx) error {
			called = true
			return tx.PutProject(projections.Project{ID: project(77)})
		})
		if !errors.Is(err, projections.ErrMoved) || called {
			t.Errorf("Update to %d = %v (called: %v), want ErrMoved", to, err, called)
		}
	}
	Golden(t, m)
	c, err := m.Checkpoint(t.Context())
	if err != nil || c.Seq != end || c.Stream != Stream || !c.Created.Equal(Created) {
		t.Errorf("Checkpoint = %+v, %v; want %d of %s made %v", c, err, end, Stream, Created)
	}
}

func ownRows(t *testing.T, m projections.Model) {
	story := Story(t)
	Apply(t, m, story.Events, 1000)
	end := story.Last()
	err := m.Update(t.Context(), projections.Checkpoint{Seq: end + 1, Stream: Stream, Created: Created}, func(tx projections.Tx) error {
		if tx.At() != end {
			return fmt.Errorf("transaction begins at %d, want %d", tx.At(), end)
		}
		p, ok, err := tx.Project(project(1))
		if err != nil || !ok || p.Name == "" {
			return fmt.Errorf("project before: %+v %v %w", p, ok, err)
		}
		p.Name = "mine"
		if err := tx.PutProject(p); err != nil {
			return err
		}
		if p, ok, err = tx.Project(project(1)); err != nil || !ok || p.Name != "mine" {
			return fmt.Errorf("project after: %+v %v %w", p, ok, err)
		}
		outside, err := m.Project(t.Context(), project(1))
		if err != nil || outside.Name == "mine" {
			return fmt.Errorf("seen from outside: %+v %w", outside, err)
		}
		if has, err := tx.HasSnapshot(repository(1), snapshot(1)); err != nil || !has {
			return fmt.Errorf("HasSnapshot = %v, %w", has, err)
		}
		if has, err := tx.HasSnapshot(repository(6), snapshot(1)); err != nil || has {
			return fmt.Errorf("HasSnapshot of another repository = %v, %w", has, err)
		}
		if _, ok, err := tx.Scan(scanID(99)); err != nil || ok {
			return fmt.Errorf("Scan = %v, %w", ok, err)
		}
		if err := tx.PutParked(projections.Parked{Aggregate: "scan x", Seq: 4, Problem: "p"}); err != nil {
			return err
		}
		parked, ok, err := tx.Parked("scan x")
		if err != nil || !ok || parked.Problem != "p" {
			return fmt.Errorf("Parked = %+v %v %w", parked, ok, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// wholeTransactions reads while every transaction makes a scan and a finding in it: one is never there without the other, and lists are of one moment.
func wholeTransactions(t *testing.T, m projections.Model) {
	h := NewHistory(t)
	h.Add(ofProject(1), events.ByUser(user(1)), events.ProjectCreated{Name: "p", Owner: user(1)})
	h.Add(ofRepository(1), events.ByUser(user(1)), events.RepositoryCreated{Project: project(1), Name: "r", SourceType: events.SourceUpload})
	Apply(t, m, h.Events, 10)
	var readers sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				scans, _, err := m.Scans(t.Context(), projections.ScanFilter{}, projections.Page{Limit: 1})
				if err != nil {
					t.Error(err)
					return
				}
				for _, s := range scans {
					if n, _, err := m.Findings(t.Context(), projections.FindingFilter{Scan: s.ID}, projections.Page{}); err != nil || len(n) != 1 || s.Counts.Total() != 1 {
						t.Errorf("%s has %d findings, counts %+v, %v", s.ID, len(n), s.Counts, err)
						return
					}
				}
			}
		})
	}
	for n := range 100 {
		from := len(h.Events)
		h.queue(n, 1, 1, user(1), events.Normal)
		h.run(n)
		h.Add(ofScan(n), worker(1), events.FindingsRecorded{Attempt: 1, Stage: "s", Findings: []events.Finding{finding(1, n, events.SeverityHigh)}})
		Apply(t, m, h.Events[from:], 100)
	}
	close(done)
	readers.Wait()
}

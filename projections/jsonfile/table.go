package jsonfile

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"vega/events"
	"vega/projections"
)

// table is one kind of row: by key, and in the order they were made. groups are further ways in, by values that never change in a row's
// life.
type table[R any] struct {
	name   string
	key    func(R) string
	group  func(R) []string
	rows   map[string]*R
	order  []*R
	groups map[string][]*R
	seen   func(*R) // called with every row that was put; may be nil
}

func newTable[R any](name string, key func(R) string, group func(R) []string) *table[R] {
	return &table[R]{name: name, key: key, group: group, rows: map[string]*R{}, groups: map[string][]*R{}}
}

func (t *table[R]) get(key string) (R, bool) {
	if p := t.rows[key]; p != nil {
		return *p, true
	}
	var none R
	return none, false
}

func (t *table[R]) put(r R) {
	k := t.key(r)
	if p := t.rows[k]; p != nil {
		*p = r
		t.look(p)
		return
	}
	p := &r
	t.look(p)
	t.rows[k] = p
	t.order = append(t.order, p)
	if t.group != nil {
		for _, g := range t.group(r) {
			t.groups[g] = append(t.groups[g], p)
		}
	}
}

func (t *table[R]) look(p *R) {
	if t.seen != nil {
		t.seen(p)
	}
}

// write puts every row out, in the order they were made.
func (t *table[R]) write(w io.Writer) error {
	for _, p := range t.order {
		if err := writeRow(w, t.name, *p); err != nil {
			return err
		}
	}
	return nil
}

// sorted writes every row in the order of the keys, for comparing two models.
func (t *table[R]) sorted(w io.Writer) error {
	keys := make([]string, 0, len(t.rows))
	for k := range t.rows {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, strings.Compare)
	for _, k := range keys {
		if err := writeRow(w, t.name, *t.rows[k]); err != nil {
			return err
		}
	}
	return nil
}

func (t *table[R]) read(b []byte) error {
	var r R
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("row of %s: %w", t.name, err)
	}
	t.put(r)
	return nil
}

func writeRow(w io.Writer, name string, r any) error {
	b, err := json.Marshal(struct {
		T string `json:"t"`
		V any    `json:"v"`
	}{name, r})
	if err != nil {
		return fmt.Errorf("row of %s: %w", name, err)
	}
	if _, err := w.Write(append(b, '\n')); err != nil {
		return err
	}
	return nil
}

// rowSet is every table of the model.
type rowSet struct {
	projects     *table[projections.Project]
	repositories *table[projections.Repository]
	snapshots    *table[projections.Snapshot]
	scans        *table[projections.Scan]
	findings     *table[projections.Finding]
	triages      *table[projections.Triage]
	parked       *table[projections.Parked]

	open map[events.ScanID]*projections.Scan // those that are not over
}

func newRowSet() *rowSet {
	s := &rowSet{
		open:     map[events.ScanID]*projections.Scan{},
		projects: newTable("project", func(r projections.Project) string { return string(r.ID) }, nil),
		repositories: newTable("repository", func(r projections.Repository) string { return string(r.ID) },
			func(r projections.Repository) []string { return []string{string(r.Project)} }),
		snapshots: newTable("snapshot", func(r projections.Snapshot) string { return snapshotKey(r.Repository, r.ID) },
			func(r projections.Snapshot) []string { return []string{string(r.Repository), string(r.ID)} }),
		scans: newTable("scan", func(r projections.Scan) string { return string(r.ID) },
			func(r projections.Scan) []string { return []string{string(r.Repository), string(r.Project)} }),
		findings: newTable("finding", func(r projections.Finding) string { return string(r.Scan) + "/" + string(r.ID) },
			func(r projections.Finding) []string { return []string{string(r.Scan), string(r.ID)} }),
		triages: newTable("triage", func(r projections.Triage) string { return string(r.Finding) }, nil),
		parked:  newTable("parked", func(r projections.Parked) string { return r.Aggregate }, nil),
	}
	s.scans.seen = func(r *projections.Scan) {
		if r.Status.Terminal() {
			delete(s.open, r.ID)
		} else {
			s.open[r.ID] = r
		}
	}
	return s
}

// unfinished are the scans that are not over, oldest first.
func (s *rowSet) unfinished() []*projections.Scan {
	out := slices.Collect(maps.Values(s.open))
	slices.SortFunc(out, func(a, b *projections.Scan) int { return cmp.Compare(a.Created, b.Created) })
	return out
}

func snapshotKey(r events.RepositoryID, s events.SnapshotID) string {
	return string(r) + "/" + string(s)
}

// each calls f for every table, always in the same order.
func (s *rowSet) each(f func(name string, t anyTable) error) error {
	for _, t := range []struct {
		name string
		t    anyTable
	}{
		{s.projects.name, s.projects}, {s.repositories.name, s.repositories}, {s.snapshots.name, s.snapshots}, {s.scans.name, s.scans},
		{s.findings.name, s.findings}, {s.triages.name, s.triages}, {s.parked.name, s.parked},
	} {
		if err := f(t.name, t.t); err != nil {
			return err
		}
	}
	return nil
}

// anyTable is a table whatever its rows are.
type anyTable interface {
	write(io.Writer) error
	sorted(io.Writer) error
	read([]byte) error
}

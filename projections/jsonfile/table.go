package jsonfile

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"

	"vega/events"
	"vega/projections"
)

// table is one kind of row: by key, and in the order they were made. groups are further ways in, by values that never change in a row's
// life. A row that was put is never written to again, only replaced, so whoever has its pointer may read it without a lock.
type table[R any] struct {
	name   string
	key    func(*R) string
	group  func(*R) []string
	index  map[string]int // key → place in order
	order  []*R
	groups map[string][]int
	seen   func(*R) // called with every row that was put; may be nil
}

func newTable[R any](name string, key func(*R) string, group func(*R) []string) *table[R] {
	return &table[R]{name: name, key: key, group: group, index: map[string]int{}, groups: map[string][]int{}}
}

func (t *table[R]) get(key string) (R, bool) {
	if i, ok := t.index[key]; ok {
		return *t.order[i], true
	}
	var none R
	return none, false
}

func (t *table[R]) put(r *R) {
	if t.seen != nil {
		t.seen(r)
	}
	k := t.key(r)
	if i, ok := t.index[k]; ok {
		t.order[i] = r
		return
	}
	i := len(t.order)
	t.index[k] = i
	t.order = append(t.order, r)
	if t.group != nil {
		for _, g := range t.group(r) {
			t.groups[g] = append(t.groups[g], i)
		}
	}
}

// list is some rows of a table in the order they were made. It is true while the model's lock is held.
type list[R any] struct {
	rows   []*R
	places []int // in rows
}

// in returns the rows of a group; all those of the table.
func (t *table[R]) in(group string) list[R] { return list[R]{t.order, t.groups[group]} }

func (l list[R]) all() iter.Seq[*R] {
	return func(yield func(*R) bool) {
		for _, p := range l.places {
			if !yield(l.rows[p]) {
				return
			}
		}
	}
}

// every yields all rows of a table in the order they were made.
func (t *table[R]) every() iter.Seq[*R] { return slices.Values(t.order) }

// newest yields the last row first.
func (l list[R]) newest() iter.Seq[*R] {
	return func(yield func(*R) bool) {
		for _, p := range slices.Backward(l.places) {
			if !yield(l.rows[p]) {
				return
			}
		}
	}
}

// read decodes a row and returns what puts it.
func (t *table[R]) read(b []byte) (func(), error) {
	r := new(R)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("row of %s: %w", t.name, err)
	}
	return func() { t.put(r) }, nil
}

func (t *table[R]) freeze() frozenTable {
	return &frozenRows[R]{t.name, t.key, slices.Clone(t.order)}
}

// frozenRows are the rows of a table at one moment, in the order they were made. The table may change meanwhile.
type frozenRows[R any] struct {
	name string
	key  func(*R) string
	rows []*R
}

func (f *frozenRows[R]) write(enc *json.Encoder) error {
	for _, r := range f.rows {
		if err := writeRow(enc, f.name, r); err != nil {
			return err
		}
	}
	return nil
}

func (f *frozenRows[R]) sorted(w io.Writer) error {
	slices.SortFunc(f.rows, func(a, b *R) int { return strings.Compare(f.key(a), f.key(b)) })
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return f.write(enc)
}

func (f *frozenRows[R]) size() int { return len(f.rows) }

// differences calls yield for every row that is not the same in other, until it returns false.
func (f *frozenRows[R]) differences(other frozenTable, yield func(projections.Difference) bool) error {
	theirs := other.(*frozenRows[R]) // the same table of another set
	index := make(map[string]*R, len(theirs.rows))
	for _, r := range theirs.rows {
		index[f.key(r)] = r
	}
	for _, r := range f.rows {
		k := f.key(r)
		x := index[k]
		if x != nil {
			delete(index, k)
			if reflect.DeepEqual(r, x) {
				continue
			}
		}
		mine, err := json.Marshal(r) // what is nil in one and empty in the other may be the same row all the same
		if err != nil {
			return fmt.Errorf("row of %s: %w", f.name, err)
		}
		var its []byte
		if x != nil {
			if its, err = json.Marshal(x); err != nil {
				return fmt.Errorf("row of %s: %w", f.name, err)
			}
		}
		if !bytes.Equal(mine, its) && !yield(projections.Difference{Kind: f.name, Key: k, Live: mine, Rebuilt: its}) {
			return nil
		}
	}
	for _, k := range slices.Sorted(maps.Keys(index)) {
		its, err := json.Marshal(index[k])
		if err != nil {
			return fmt.Errorf("row of %s: %w", f.name, err)
		}
		if !yield(projections.Difference{Kind: f.name, Key: k, Rebuilt: its}) {
			return nil
		}
	}
	return nil
}

func writeRow[R any](enc *json.Encoder, name string, r *R) error {
	err := enc.Encode(struct {
		T string `json:"t"`
		V *R     `json:"v"`
	}{name, r})
	if err != nil {
		return fmt.Errorf("row of %s: %w", name, err)
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
	usage        *table[projections.DayUsage]
	triages      *table[projections.Triage]
	keys         *table[projections.APIKey]
	parked       *table[projections.Parked]

	open    map[events.ScanID]*projections.Scan // those that are not over
	waiting *queue                              // those of them that wait
}

func newRowSet() *rowSet {
	s := &rowSet{
		open:     map[events.ScanID]*projections.Scan{},
		waiting:  newQueue(),
		projects: newTable("project", func(r *projections.Project) string { return string(r.ID) }, nil),
		repositories: newTable("repository", func(r *projections.Repository) string { return string(r.ID) },
			func(r *projections.Repository) []string { return []string{string(r.Project)} }),
		snapshots: newTable("snapshot", func(r *projections.Snapshot) string { return snapshotKey(r.Repository, r.ID) },
			func(r *projections.Snapshot) []string { return []string{string(r.Repository), string(r.ID)} }),
		scans: newTable("scan", func(r *projections.Scan) string { return string(r.ID) },
			func(r *projections.Scan) []string { return []string{string(r.Repository), string(r.Project)} }),
		findings: newTable("finding", func(r *projections.Finding) string { return string(r.Scan) + "/" + string(r.ID) },
			func(r *projections.Finding) []string { return []string{string(r.Scan), string(r.ID)} }),
		usage: newTable("day_usage", func(r *projections.DayUsage) string { return usageKey(r.Day, r.Scan) },
			func(r *projections.DayUsage) []string { return []string{string(r.Scan), string(r.Project)} }),
		triages: newTable("triage", func(r *projections.Triage) string { return string(r.Finding) }, nil),
		keys: newTable("api_key", func(r *projections.APIKey) string { return string(r.ID) },
			func(r *projections.APIKey) []string { return []string{string(r.User)} }),
		parked: newTable("parked", func(r *projections.Parked) string { return r.Aggregate }, nil),
	}
	s.scans.seen = func(r *projections.Scan) {
		s.waiting.look(r)
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

func usageKey(d projections.Day, s events.ScanID) string { return string(d) + "/" + string(s) }

// anyTable is a table whatever its rows are; frozenTable its rows at one moment.
type (
	anyTable interface {
		read([]byte) (func(), error)
		freeze() frozenTable
	}
	frozenTable interface {
		size() int
		write(*json.Encoder) error
		sorted(io.Writer) error
		differences(frozenTable, func(projections.Difference) bool) error
	}
)

// named returns the table that a row's line belongs to, or nil.
func (s *rowSet) named(name string) anyTable {
	switch name {
	case s.projects.name:
		return s.projects
	case s.repositories.name:
		return s.repositories
	case s.snapshots.name:
		return s.snapshots
	case s.scans.name:
		return s.scans
	case s.findings.name:
		return s.findings
	case s.usage.name:
		return s.usage
	case s.triages.name:
		return s.triages
	case s.keys.name:
		return s.keys
	case s.parked.name:
		return s.parked
	}
	return nil
}

// readLine decodes a row's line, {"t":"<table>","v":<row>}, and returns what puts it. The frame is read by hand: it is always written the same
// way, and decoding it would double the time of an Open.
func (s *rowSet) readLine(line []byte) (func(), error) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"t":"`))
	name, rest, named := bytes.Cut(rest, []byte(`","v":`))
	row, closed := bytes.CutSuffix(rest, []byte("}\n"))
	if !ok || !named || !closed {
		return nil, fmt.Errorf("not a row: %.40q", line)
	}
	t := s.named(string(name))
	if t == nil {
		return nil, fmt.Errorf("unknown kind of row %.40q", name)
	}
	return t.read(row)
}

// frozen is every table at one moment.
type frozen []frozenTable

// freeze copies where the rows are, not the rows.
func (s *rowSet) freeze() frozen {
	return frozen{s.projects.freeze(), s.repositories.freeze(), s.snapshots.freeze(), s.scans.freeze(), s.findings.freeze(), s.usage.freeze(), s.triages.freeze(), s.keys.freeze(), s.parked.freeze()}
}

// each calls f for every table, always in the same order.
func (f frozen) each(do func(frozenTable) error) error {
	for _, t := range f {
		if err := do(t); err != nil {
			return err
		}
	}
	return nil
}

package jsonfile

import (
	"io"

	"vega/events"
	"vega/projections"
)

// tx holds the rows that a transaction has put, over those of the model.
type tx struct {
	projects     staged[projections.Project]
	repositories staged[projections.Repository]
	snapshots    staged[projections.Snapshot]
	scans        staged[projections.Scan]
	findings     staged[projections.Finding]
	triages      staged[projections.Triage]
	parked       staged[projections.Parked]
}

// staged are the changed rows of one table, in the order of their first change.
type staged[R any] struct {
	table *table[R]
	rows  map[string]R
	order []string
}

func newTx(s *rowSet) *tx {
	return &tx{stage(s.projects), stage(s.repositories), stage(s.snapshots), stage(s.scans), stage(s.findings), stage(s.triages), stage(s.parked)}
}

func stage[R any](t *table[R]) staged[R] { return staged[R]{table: t, rows: map[string]R{}} }

// get needs no lock: only Update writes rows, and it is the one that runs this.
func (s *staged[R]) get(key string) (R, bool, error) {
	if r, ok := s.rows[key]; ok {
		return r, true, nil
	}
	r, ok := s.table.get(key)
	return r, ok, nil
}

func (s *staged[R]) put(r R) error {
	k := s.table.key(r)
	if _, again := s.rows[k]; !again {
		s.order = append(s.order, k)
	}
	s.rows[k] = r
	return nil
}

func (s *staged[R]) write(w io.Writer) error {
	for _, k := range s.order {
		if err := writeRow(w, s.table.name, s.rows[k]); err != nil {
			return err
		}
	}
	return nil
}

func (s *staged[R]) commit() {
	for _, k := range s.order {
		s.table.put(s.rows[k])
	}
}

func (t *tx) write(w io.Writer) error {
	for _, f := range []func(io.Writer) error{t.projects.write, t.repositories.write, t.snapshots.write, t.scans.write, t.findings.write, t.triages.write, t.parked.write} {
		if err := f(w); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) commit() {
	t.projects.commit()
	t.repositories.commit()
	t.snapshots.commit()
	t.scans.commit()
	t.findings.commit()
	t.triages.commit()
	t.parked.commit()
}

func (t *tx) Project(id events.ProjectID) (projections.Project, bool, error) {
	return t.projects.get(string(id))
}
func (t *tx) PutProject(r projections.Project) error { return t.projects.put(r) }
func (t *tx) Repository(id events.RepositoryID) (projections.Repository, bool, error) {
	return t.repositories.get(string(id))
}
func (t *tx) PutRepository(r projections.Repository) error { return t.repositories.put(r) }
func (t *tx) HasSnapshot(repo events.RepositoryID, id events.SnapshotID) (bool, error) {
	_, ok, err := t.snapshots.get(snapshotKey(repo, id))
	return ok, err
}
func (t *tx) PutSnapshot(r projections.Snapshot) error { return t.snapshots.put(r) }
func (t *tx) Scan(id events.ScanID) (projections.Scan, bool, error) {
	return t.scans.get(string(id))
}
func (t *tx) PutScan(r projections.Scan) error       { return t.scans.put(r) }
func (t *tx) PutFinding(r projections.Finding) error { return t.findings.put(r) }
func (t *tx) PutTriage(r projections.Triage) error   { return t.triages.put(r) }
func (t *tx) Parked(a string) (projections.Parked, bool, error) {
	return t.parked.get(a)
}
func (t *tx) PutParked(r projections.Parked) error { return t.parked.put(r) }

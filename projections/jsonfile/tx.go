package jsonfile

import (
	"encoding/json"

	"vega/events"
	"vega/projections"
)

// tx holds the rows that a transaction has put, over those of the model.
type tx struct {
	at           events.Seq
	projects     staged[projections.Project]
	repositories staged[projections.Repository]
	snapshots    staged[projections.Snapshot]
	scans        staged[projections.Scan]
	findings     staged[projections.Finding]
	usage        staged[projections.DayUsage]
	triages      staged[projections.Triage]
	keys         staged[projections.APIKey]
	parked       staged[projections.Parked]
}

// staged are the changed rows of one table, in the order of their first change.
type staged[R any] struct {
	table *table[R]
	rows  map[string]*R
	order []*R
}

func newTx(s *rowSet, at events.Seq) *tx {
	return &tx{at, stage(s.projects), stage(s.repositories), stage(s.snapshots), stage(s.scans), stage(s.findings), stage(s.usage), stage(s.triages), stage(s.keys), stage(s.parked)}
}

func stage[R any](t *table[R]) staged[R] { return staged[R]{table: t, rows: map[string]*R{}} }

// get needs no lock: only Update writes rows, and it is the one that runs this.
func (s *staged[R]) get(key string) (R, bool, error) {
	if r, ok := s.rows[key]; ok {
		return *r, true, nil
	}
	r, ok := s.table.get(key)
	return r, ok, nil
}

func (s *staged[R]) put(r R) error {
	k := s.table.key(&r)
	if p, again := s.rows[k]; again {
		*p = r // nobody else has seen it yet
		return nil
	}
	p := new(R) // not &r: that would make every row that is put again, too
	*p = r
	s.rows[k] = p
	s.order = append(s.order, p)
	return nil
}

func (s *staged[R]) write(enc *json.Encoder) error {
	for _, r := range s.order {
		if err := writeRow(enc, s.table.name, r); err != nil {
			return err
		}
	}
	return nil
}

func (s *staged[R]) commit() {
	for _, r := range s.order {
		s.table.put(r)
	}
}

func (t *tx) write(enc *json.Encoder) error {
	for _, f := range []func(*json.Encoder) error{
		t.projects.write, t.repositories.write, t.snapshots.write, t.scans.write, t.findings.write, t.usage.write, t.triages.write, t.keys.write, t.parked.write,
	} {
		if err := f(enc); err != nil {
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
	t.usage.commit()
	t.triages.commit()
	t.keys.commit()
	t.parked.commit()
}

func (t *tx) At() events.Seq { return t.at }

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
func (t *tx) PutScan(r projections.Scan) error { return t.scans.put(r) }
func (t *tx) DayUsage(d projections.Day, id events.ScanID) (projections.DayUsage, bool, error) {
	return t.usage.get(usageKey(d, id))
}
func (t *tx) PutDayUsage(r projections.DayUsage) error { return t.usage.put(r) }
func (t *tx) PutFinding(r projections.Finding) error   { return t.findings.put(r) }
func (t *tx) PutTriage(r projections.Triage) error     { return t.triages.put(r) }
func (t *tx) APIKey(id events.APIKeyID) (projections.APIKey, bool, error) {
	return t.keys.get(string(id))
}
func (t *tx) PutAPIKey(r projections.APIKey) error { return t.keys.put(r) }
func (t *tx) NoneParked() bool                     { return len(t.parked.table.order)+len(t.parked.order) == 0 }
func (t *tx) Parked(a string) (projections.Parked, bool, error) {
	return t.parked.get(a)
}
func (t *tx) PutParked(r projections.Parked) error { return t.parked.put(r) }

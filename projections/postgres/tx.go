package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"vega/events"
	"vega/projections"
)

// copyFrom is from how many new rows on COPY is quicker than a statement.
const copyFrom = 16

// memory is what this process knows of the rows of one edition at one sequence, across transactions.
type memory struct {
	edition string
	at      events.Seq

	projects     known[projections.Project]
	repositories known[projections.Repository]
	snapshots    known[projections.Snapshot]
	scans        known[projections.Scan]
	keys         known[projections.APIKey]
	parked       known[projections.Parked]
	usages       known[projectUsage]
	dayUsages    known[projections.DayUsage]
}

// known are rows by key; nil is a row that does not exist. What was not asked for lately is forgotten.
type known[R any] struct{ young, old map[string]*R }

// keepRows is how many rows of a table are kept at least; at most it is twice that.
const keepRows = 8192

func (k *known[R]) get(key string) (r *R, is bool) {
	if r, is = k.young[key]; is {
		return r, true
	}
	if r, is = k.old[key]; is {
		k.put(key, r)
	}
	return r, is
}

func (k *known[R]) put(key string, r *R) {
	if len(k.young) >= keepRows {
		k.old, k.young = k.young, nil
	}
	if k.young == nil {
		k.young = map[string]*R{}
	}
	k.young[key] = r
}

// tx is a transaction: the rows that it has put, over those of the database.
type tx struct {
	ctx  context.Context
	conn *pgx.Conn // in a transaction that holds the checkpoint
	at   events.Seq
	mem  *memory

	noneParked bool                   // nothing at all is parked
	unfound    map[events.ScanID]bool // scans that have no finding in the database

	projects     staged[projections.Project]
	repositories staged[projections.Repository]
	snapshots    staged[projections.Snapshot]
	scans        staged[projections.Scan]
	findings     staged[findingRow]
	triages      staged[projections.Triage]
	keys         staged[projections.APIKey]
	parked       staged[projections.Parked]
	usages       staged[projectUsage]
	dayUsages    staged[projections.DayUsage]
}

// staged are the changed rows of one table, in the order of their first change.
type staged[R any] struct {
	table *table[R]
	known *known[R] // nil: rows of this table are never read
	rows  map[string]*R
	order []*R
}

func stage[R any](t *table[R], k *known[R]) staged[R] {
	return staged[R]{table: t, known: k, rows: map[string]*R{}}
}

func newTx(ctx context.Context, conn *pgx.Conn, at events.Seq, mem *memory) *tx {
	return &tx{ctx: ctx, conn: conn, at: at, mem: mem, unfound: map[events.ScanID]bool{},
		projects: stage(projects, &mem.projects), repositories: stage(repositories, &mem.repositories), snapshots: stage(snapshots, &mem.snapshots),
		scans: stage(scans, &mem.scans), findings: stage(findings, nil), triages: stage(triages, nil), keys: stage(apiKeys, &mem.keys),
		parked: stage(parked, &mem.parked), usages: stage(usages, &mem.usages), dayUsages: stage(dayUsages, &mem.dayUsages)}
}

// get returns a row as it will be after the transaction. key are the columns of its key.
func (s *staged[R]) get(t *tx, key ...string) (R, bool, error) {
	k := join(key)
	if r, ok := s.rows[k]; ok {
		return *r, true, nil
	}
	r, is := s.known.get(k)
	if !is {
		var b pgx.Batch
		s.ask(&b, [][]string{key})
		if err := t.conn.SendBatch(t.ctx, &b).Close(); err != nil {
			return *new(R), false, &projections.ModelError{Err: err}
		}
		r, _ = s.known.get(k)
	}
	if r == nil {
		return *new(R), false, nil
	}
	return *r, true, nil
}

func join(key []string) string {
	if len(key) == 1 {
		return key[0]
	}
	return key[0] + "/" + key[1]
}

func (s *staged[R]) put(r R) *R {
	k := s.table.key(&r)
	if p, again := s.rows[k]; again {
		*p = r // nobody else has seen it yet
		return p
	}
	p := new(R) // not &r: that would make every row that is put again, too
	*p = r
	s.rows[k] = p
	s.order = append(s.order, p)
	return p
}

// ask queues a question for the rows of keys that are not known; the answer makes them known.
func (s *staged[R]) ask(b *pgx.Batch, keys [][]string) {
	var unknown [][]string
	for _, k := range keys {
		if _, is := s.known.get(join(k)); !is {
			unknown = append(unknown, k)
		}
	}
	if len(unknown) == 0 {
		return
	}
	args := make([]any, len(s.table.keys))
	for i := range args {
		column := make([]string, len(unknown))
		for j, k := range unknown {
			column[j] = escape(k[i])
		}
		args[i] = column
	}
	b.Queue(s.table.byKeys(), args...).Query(func(rows pgx.Rows) error {
		found := map[string]*R{}
		for rows.Next() {
			r := new(R)
			if err := rows.Scan(s.table.into(r)...); err != nil {
				return err
			}
			found[s.table.key(r)] = r
		}
		if err := rows.Err(); err != nil {
			return err
		}
		for _, k := range unknown {
			s.known.put(join(k), found[join(k)])
		}
		return nil
	})
}

// isNew says that a changed row is known not to be in the database.
func (s *staged[R]) isNew(r *R) bool {
	was, is := s.known.get(s.table.key(r))
	return is && was == nil
}

// Prefetch reads what the events will ask for: one round trip, or two when scans end, spend or have findings.
func (t *tx) Prefetch(batch []events.Recorded) error {
	var projectIDs, repositoryIDs, snapshotIDs, scanIDs, keyIDs, days, names [][]string
	spent, found := map[events.ScanID]bool{}, map[events.ScanID]bool{}
	seen := map[events.Aggregate]bool{}
	for _, e := range batch {
		switch x := e.Event.(type) {
		case events.SnapshotTaken:
			snapshotIDs = append(snapshotIDs, []string{e.Aggregate.ID, string(x.Snapshot)})
		case events.ScanCompleted:
			spent[events.ScanID(e.Aggregate.ID)] = true
		case events.UsageRecorded:
			spent[events.ScanID(e.Aggregate.ID)] = true
			days = append(days, []string{string(projections.DayOf(e.At)), e.Aggregate.ID})
		case events.FindingsRecorded:
			found[events.ScanID(e.Aggregate.ID)] = true
		default:
		}
		if seen[e.Aggregate] {
			continue
		}
		seen[e.Aggregate] = true
		id := []string{e.Aggregate.ID}
		if !t.noneParked {
			names = append(names, []string{e.Aggregate.String()})
		}
		switch e.Aggregate.Kind {
		case events.ProjectAggregate:
			projectIDs = append(projectIDs, id)
		case events.RepositoryAggregate:
			repositoryIDs = append(repositoryIDs, id)
		case events.ScanAggregate, events.UsageAggregate:
			scanIDs = append(scanIDs, id)
		case events.APIKeyAggregate:
			keyIDs = append(keyIDs, id)
		case events.FindingAggregate, events.SlotsAggregate:
		}
	}
	var b pgx.Batch
	t.projects.ask(&b, projectIDs)
	t.repositories.ask(&b, repositoryIDs)
	t.snapshots.ask(&b, snapshotIDs)
	t.scans.ask(&b, scanIDs)
	t.keys.ask(&b, keyIDs)
	t.dayUsages.ask(&b, days)
	if !t.noneParked {
		t.parked.ask(&b, names)
	}
	if err := t.send(&b); err != nil {
		return err
	}
	return t.prefetchOf(spent, found)
}

// prefetchOf reads what the projects of scans that end or spend have spent so far, and which of the scans that found something have findings already.
func (t *tx) prefetchOf(spent, found map[events.ScanID]bool) error {
	var b pgx.Batch
	var projectIDs [][]string
	for id := range spent {
		if r, _ := t.mem.scans.get(string(id)); r != nil {
			projectIDs = append(projectIDs, []string{string(r.Project)})
		}
	}
	t.usages.ask(&b, slices.CompactFunc(projectIDs, func(a, b []string) bool { return a[0] == b[0] }))
	var old []string
	for id := range found {
		if r, _ := t.mem.scans.get(string(id)); r != nil {
			old = append(old, escape(string(id)))
			t.unfound[id] = true
		}
	}
	if len(old) > 0 {
		b.Queue("SELECT DISTINCT scan_id FROM findings WHERE scan_id = ANY($1::text[])", old).Query(func(rows pgx.Rows) error {
			var id events.ScanID
			_, err := pgx.ForEachRow(rows, []any{textInto[events.ScanID]{&id}}, func() error {
				delete(t.unfound, id)
				return nil
			})
			return err
		})
	}
	return t.send(&b)
}

func (t *tx) send(b *pgx.Batch) error {
	if b.Len() == 0 {
		return nil
	}
	if err := t.conn.SendBatch(t.ctx, b).Close(); err != nil {
		return &projections.ModelError{Err: err}
	}
	return nil
}

// flush writes the changed rows.
func (t *tx) flush() error {
	var b pgx.Batch
	for _, table := range []func() error{
		func() error { return flush(t, &b, &t.projects, t.projects.isNew) },
		func() error { return flush(t, &b, &t.repositories, t.repositories.isNew) },
		func() error { return flush(t, &b, &t.snapshots, t.snapshots.isNew) },
		func() error { return flush(t, &b, &t.scans, t.scans.isNew) },
		func() error { return flush(t, &b, &t.findings, t.isNewFinding) },
		func() error { return flush(t, &b, &t.triages, func(*projections.Triage) bool { return false }) },
		func() error { return flush(t, &b, &t.keys, t.keys.isNew) },
		func() error { return flush(t, &b, &t.parked, t.parked.isNew) },
		func() error { return flush(t, &b, &t.usages, t.usages.isNew) },
		func() error { return flush(t, &b, &t.dayUsages, t.dayUsages.isNew) },
	} {
		if err := table(); err != nil {
			return err
		}
	}
	t.flushMembers(&b)
	if b.Len() == 0 {
		return nil
	}
	return t.conn.SendBatch(t.ctx, &b).Close()
}

// isNewFinding says that a finding's scan is known to have none in the database.
func (t *tx) isNewFinding(r *findingRow) bool {
	scan, is := t.mem.scans.get(string(r.Scan))
	return t.unfound[r.Scan] || is && scan == nil
}

// flush copies a table's new rows, if they are many, and queues the others.
func flush[R any](t *tx, b *pgx.Batch, s *staged[R], isNew func(*R) bool) error {
	if len(s.order) == 0 {
		return nil
	}
	var added, changed []*R
	for _, r := range s.order {
		if isNew(r) {
			added = append(added, r)
		} else {
			changed = append(changed, r)
		}
	}
	if len(added) < copyFrom {
		added, changed = nil, s.order
	}
	if len(added) > 0 {
		var bad error
		_, err := t.conn.CopyFrom(t.ctx, pgx.Identifier{s.table.name}, s.table.names(), pgx.CopyFromSlice(len(added), func(i int) ([]any, error) {
			v, err := s.table.values(added[i])
			bad = errors.Join(bad, err)
			return v, err
		}))
		if bad != nil {
			return fmt.Errorf("%w: %w", projections.ErrRefused, bad)
		}
		if err != nil {
			return err
		}
	}
	if len(changed) == 0 {
		return nil
	}
	args, err := s.table.arrays(changed)
	if err != nil {
		return fmt.Errorf("%w: %w", projections.ErrRefused, err)
	}
	b.Queue(s.table.upsert(), args...)
	return nil
}

// flushMembers makes the members of changed projects findable by user.
func (t *tx) flushMembers(b *pgx.Batch) {
	var changed, ids, users []string
	var created []int64
	for _, r := range t.projects.order {
		was, _ := t.mem.projects.get(string(r.ID))
		if was != nil && maps.Equal(was.Members, r.Members) {
			continue
		}
		if was != nil || !t.projects.isNew(r) {
			changed = append(changed, escape(string(r.ID)))
		}
		for u, role := range r.Members {
			if role != "" {
				ids, users, created = append(ids, escape(string(r.ID))), append(users, escape(string(u))), append(created, int64(r.Created))
			}
		}
	}
	if len(changed) > 0 {
		b.Queue("DELETE FROM members WHERE project_id = ANY($1::text[])", changed)
	}
	if len(ids) > 0 {
		b.Queue("INSERT INTO members (project_id, user_id, created_seq) SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])", ids, users, created)
	}
}

// remember makes the written rows known, once they are committed.
func (t *tx) remember() {
	remember(&t.projects)
	remember(&t.repositories)
	remember(&t.snapshots)
	remember(&t.scans)
	remember(&t.keys)
	remember(&t.parked)
	remember(&t.usages)
	remember(&t.dayUsages)
}

func remember[R any](s *staged[R]) {
	for _, r := range s.order {
		s.known.put(s.table.key(r), r)
	}
}

func (t *tx) At() events.Seq { return t.at }

func (t *tx) Project(id events.ProjectID) (projections.Project, bool, error) {
	return t.projects.get(t, string(id))
}
func (t *tx) PutProject(r projections.Project) error { t.projects.put(r); return nil }
func (t *tx) Repository(id events.RepositoryID) (projections.Repository, bool, error) {
	return t.repositories.get(t, string(id))
}
func (t *tx) PutRepository(r projections.Repository) error { t.repositories.put(r); return nil }
func (t *tx) HasSnapshot(repo events.RepositoryID, id events.SnapshotID) (bool, error) {
	_, ok, err := t.snapshots.get(t, string(repo), string(id))
	return ok, err
}
func (t *tx) PutSnapshot(r projections.Snapshot) error { t.snapshots.put(r); return nil }
func (t *tx) Scan(id events.ScanID) (projections.Scan, bool, error) {
	return t.scans.get(t, string(id))
}

// PutScan also adds what the scan has spent since to its project's sum.
func (t *tx) PutScan(r projections.Scan) error {
	was, _, err := t.Scan(r.ID)
	if err != nil {
		return err
	}
	if r.Usage != was.Usage {
		u, _, err := t.usages.get(t, string(r.Project))
		if err != nil {
			return err
		}
		u.project = r.Project
		u.add(r.Usage, was.Usage)
		t.usages.put(u)
	}
	t.scans.put(r)
	return nil
}

func (t *tx) DayUsage(d projections.Day, id events.ScanID) (projections.DayUsage, bool, error) {
	return t.dayUsages.get(t, string(d), string(id))
}
func (t *tx) PutDayUsage(r projections.DayUsage) error { t.dayUsages.put(r); return nil }

func (t *tx) PutFinding(r projections.Finding) error {
	row := findingRow{r, r.Created}
	if was, again := t.findings.rows[findings.key(&row)]; again {
		row.first = was.first
	}
	t.findings.put(row)
	return nil
}
func (t *tx) PutTriage(r projections.Triage) error { t.triages.put(r); return nil }
func (t *tx) APIKey(id events.APIKeyID) (projections.APIKey, bool, error) {
	return t.keys.get(t, string(id))
}
func (t *tx) PutAPIKey(r projections.APIKey) error { t.keys.put(r); return nil }
func (t *tx) NoneParked() bool                     { return t.noneParked && len(t.parked.order) == 0 }
func (t *tx) Parked(a string) (projections.Parked, bool, error) {
	if r, ok := t.parked.rows[a]; ok {
		return *r, true, nil
	}
	if t.noneParked {
		return projections.Parked{}, false, nil
	}
	return t.parked.get(t, a)
}
func (t *tx) PutParked(r projections.Parked) error { t.parked.put(r); return nil }

package jsonfile

import (
	"context"
	"slices"
	"sort"

	"vega/events"
	"vega/projections"
	"vega/services/scan"
)

// Project returns one project, deleted or not, or ErrNotFound.
func (m *Model) Project(_ context.Context, id events.ProjectID) (projections.Project, error) {
	return one(m, func(s *rowSet) *table[projections.Project] { return s.projects }, string(id))
}

// Projects lists the projects that are not deleted, newest first.
func (m *Model) Projects(_ context.Context, f projections.ProjectFilter, p projections.Page) ([]projections.Project, projections.Cursor, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return newest(m.live.rows.projects.order, p, func(r *projections.Project) events.Seq { return r.Created }, func(r *projections.Project) bool {
		return !r.Deleted && (f.User == "" || r.Members[f.User] != "")
	})
}

// Repository returns one repository, deleted or not, or ErrNotFound.
func (m *Model) Repository(_ context.Context, id events.RepositoryID) (projections.Repository, error) {
	return one(m, func(s *rowSet) *table[projections.Repository] { return s.repositories }, string(id))
}

// Repositories lists a project's repositories that are not deleted, newest first.
func (m *Model) Repositories(_ context.Context, id events.ProjectID, p projections.Page) ([]projections.Repository, projections.Cursor, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return newestIn(m.live.rows.repositories.in(string(id)), p, func(r *projections.Repository) events.Seq { return r.Created }, func(r *projections.Repository) bool {
		return !r.Deleted
	})
}

// Snapshot returns one snapshot of a repository, or ErrNotFound.
func (m *Model) Snapshot(_ context.Context, repo events.RepositoryID, id events.SnapshotID) (projections.Snapshot, error) {
	return one(m, func(s *rowSet) *table[projections.Snapshot] { return s.snapshots }, snapshotKey(repo, id))
}

// Snapshots lists a repository's snapshots, newest first.
func (m *Model) Snapshots(_ context.Context, id events.RepositoryID, p projections.Page) ([]projections.Snapshot, projections.Cursor, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return newestIn(m.live.rows.snapshots.in(string(id)), p, func(r *projections.Snapshot) events.Seq { return r.Created }, func(*projections.Snapshot) bool { return true })
}

// SnapshotUsers counts the repositories, not deleted, that hold a snapshot.
func (m *Model) SnapshotUsers(_ context.Context, id events.SnapshotID) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := 0
	for s := range m.live.rows.snapshots.in(string(id)).all() {
		if r, ok := m.live.rows.repositories.get(string(s.Repository)); ok && !r.Deleted {
			n++
		}
	}
	return n, nil
}

// Scan returns one scan, or ErrNotFound.
func (m *Model) Scan(_ context.Context, id events.ScanID) (projections.Scan, error) {
	return one(m, func(s *rowSet) *table[projections.Scan] { return s.scans }, string(id))
}

// Scans lists scans, newest first.
func (m *Model) Scans(_ context.Context, f projections.ScanFilter, p projections.Page) ([]projections.Scan, projections.Cursor, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	created := func(r *projections.Scan) events.Seq { return r.Created }
	keep := func(r *projections.Scan) bool {
		return (f.Project == "" || r.Project == f.Project) &&
			(len(f.Statuses) == 0 || slices.Contains(f.Statuses, r.Status)) &&
			(f.FailureCode == "" || r.Failure != nil && r.Failure.Code == f.FailureCode) &&
			m.visible(r.Project, r.Repository, f.Member)
	}
	switch {
	case f.Repository != "":
		return newestIn(m.live.rows.scans.in(string(f.Repository)), p, created, keep)
	case f.Project != "":
		return newestIn(m.live.rows.scans.in(string(f.Project)), p, created, keep)
	default:
		return newest(m.live.rows.scans.order, p, created, keep)
	}
}

// visible says that neither the project nor the repository is deleted and that member, unless empty, belongs to it.
func (m *Model) visible(p events.ProjectID, r events.RepositoryID, member events.UserID) bool {
	if !m.belongs(p, member) {
		return false
	}
	repo, ok := m.live.rows.repositories.get(string(r))
	return ok && !repo.Deleted
}

// belongs says that the project is not deleted and that member, unless empty, belongs to it.
func (m *Model) belongs(p events.ProjectID, member events.UserID) bool {
	project, ok := m.live.rows.projects.get(string(p))
	return ok && !project.Deleted && (member == "" || project.Members[member] != "")
}

// Unfinished lists the scans that are not over, oldest first.
func (m *Model) Unfinished(context.Context) ([]projections.Scan, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []projections.Scan
	for _, s := range m.live.rows.unfinished() {
		out = append(out, *s)
	}
	return out, nil
}

// Queue says how many scans wait, by priority.
func (m *Model) Queue(context.Context) (map[events.Priority]int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	n := map[events.Priority]int{}
	for _, p := range events.Priorities() {
		n[p] = len(m.live.rows.waiting.lines[p])
	}
	return n, nil
}

// QueuePositions are the scans' places among those that wait, from 1; 0 for one that does not wait.
func (m *Model) QueuePositions(_ context.Context, ids ...events.ScanID) ([]int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]int, len(ids))
	for i, id := range ids {
		out[i] = m.live.rows.waiting.position(id)
	}
	return out, nil
}

// Findings lists findings, worst first.
func (m *Model) Findings(_ context.Context, f projections.FindingFilter, p projections.Page) ([]projections.FindingView, projections.Cursor, error) {
	after, begun, err := projections.ReadFindingCursor(p.After)
	if err != nil {
		return nil, "", err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []projections.FindingView
	collect := func(scan events.ScanID) {
		for r := range m.live.rows.findings.in(string(scan)).all() {
			v := m.view(*r)
			if (!begun || projections.CompareFindings(*r, after) > 0) &&
				(len(f.Severities) == 0 || slices.Contains(f.Severities, r.Severity)) &&
				(len(f.States) == 0 || slices.Contains(f.States, v.Triage.State)) &&
				m.visible(r.Project, r.Repository, f.Member) {
				out = append(out, v)
			}
		}
	}
	switch {
	case f.Scan != "":
		collect(f.Scan)
	case f.Repository != "":
		collect(m.lastCompleted(f.Repository))
	default:
		for _, r := range m.live.rows.repositories.order {
			collect(m.lastCompleted(r.ID))
		}
	}
	slices.SortFunc(out, func(a, b projections.FindingView) int { return projections.CompareFindings(a.Finding, b.Finding) })
	if len(out) <= p.Size() {
		return out, "", nil
	}
	out = out[:p.Size()]
	return out, projections.FindingCursor(out[len(out)-1].Finding), nil
}

// Finding is a finding as the latest scan that saw it did, or ErrNotFound.
func (m *Model) Finding(_ context.Context, id events.FindingID) (projections.FindingView, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for r := range m.live.rows.findings.in(string(id)).newest() {
		return m.view(*r), nil
	}
	return projections.FindingView{}, projections.ErrNotFound
}

// Triages are the current decisions about findings, where there are any.
func (m *Model) Triages(_ context.Context, ids ...events.FindingID) (map[events.FindingID]projections.Triage, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make(map[events.FindingID]projections.Triage, len(ids))
	for _, id := range ids {
		if t, ok := m.live.rows.triages.get(string(id)); ok {
			out[id] = t
		}
	}
	return out, nil
}

// Rollup sums a project up.
func (m *Model) Rollup(_ context.Context, id events.ProjectID) (projections.Rollup, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out projections.Rollup
	for r := range m.live.rows.repositories.in(string(id)).all() {
		if r.Deleted {
			continue
		}
		out.Repositories++
		for f := range m.live.rows.findings.in(string(m.lastCompleted(r.ID))).all() {
			if m.view(*f).Triage.State != events.TriageDismissed {
				out.Open.Add(f.Severity)
			}
		}
	}
	scans := m.live.rows.scans.in(string(id))
	for s := range scans.all() {
		out.Usage = out.Usage.Plus(s.Usage)
	}
	for s := range scans.newest() {
		out.LastScan = s.ID
		break
	}
	return out, nil
}

// Usage sums up what was spent, by walking through the rows of a scan, a project, or all days.
func (m *Model) Usage(_ context.Context, f projections.UsageFilter, p projections.Page) (out projections.UsageSums, next projections.Cursor, err error) {
	out.Sums, out.Total = m.usage(f)
	out.Sums, next, err = f.By.SortUsage(out.Sums, p) // readers and writers go on meanwhile
	return out, next, err
}

func (m *Model) usage(f projections.UsageFilter) (all []projections.UsageSum, total projections.UsageSum) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	rows := m.live.rows.usage.every()
	switch {
	case f.Scan != "":
		rows = m.live.rows.usage.in(string(f.Scan)).all()
	case f.Project != "":
		rows = m.live.rows.usage.in(string(f.Project)).all()
	}
	places := map[string]int{} // in all
	for r := range rows {
		if !f.Has(r) || f.Member != "" && !m.belongs(r.Project, f.Member) {
			continue
		}
		total.Add(r)
		key := f.By.Key(r)
		i, known := places[key]
		if !known {
			i = len(all)
			places[key] = i
			all = append(all, f.By.Group(r))
			if project, ok := m.live.rows.projects.get(string(all[i].Project)); ok {
				all[i].Name, all[i].Deleted = project.Name, project.Deleted
			}
		}
		all[i].Add(r)
	}
	return all, total
}

// APIKey returns one API key, or ErrNotFound.
func (m *Model) APIKey(_ context.Context, id events.APIKeyID) (projections.APIKey, error) {
	return one(m, func(s *rowSet) *table[projections.APIKey] { return s.keys }, string(id))
}

// APIKeys lists API keys, newest first.
func (m *Model) APIKeys(_ context.Context, user events.UserID, p projections.Page) ([]projections.APIKey, projections.Cursor, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	created := func(r *projections.APIKey) events.Seq { return r.Created }
	all := func(*projections.APIKey) bool { return true }
	if user == "" {
		return newest(m.live.rows.keys.order, p, created, all)
	}
	return newestIn(m.live.rows.keys.in(string(user)), p, created, all)
}

// ParkedAggregates lists what could not be applied.
func (m *Model) ParkedAggregates(context.Context) ([]projections.Parked, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]projections.Parked, 0, len(m.live.rows.parked.order))
	for _, p := range m.live.rows.parked.order {
		out = append(out, *p)
	}
	return out, nil
}

func (m *Model) lastCompleted(id events.RepositoryID) events.ScanID {
	for s := range m.live.rows.scans.in(string(id)).newest() {
		if s.Status == scan.Completed {
			return s.ID
		}
	}
	return ""
}

func (m *Model) view(f projections.Finding) projections.FindingView {
	v := projections.FindingView{Finding: f, Triage: events.Triage{State: events.TriageOpen}}
	if t, ok := m.live.rows.triages.get(string(f.ID)); ok {
		v.Triage, v.TriageVersion = t.Triage, t.Version
	}
	return v
}

func one[R any](m *Model, of func(*rowSet) *table[R], key string) (R, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	r, ok := of(m.live.rows).get(key)
	if !ok {
		return r, projections.ErrNotFound
	}
	return r, nil
}

// newest walks rows, which are in the order they were made, from the newest one before the cursor.
func newest[R any](rows []*R, p projections.Page, created func(*R) events.Seq, keep func(*R) bool) ([]R, projections.Cursor, error) {
	return newestAt(len(rows), func(i int) *R { return rows[i] }, p, created, keep)
}

// newestIn is newest for some rows of a table.
func newestIn[R any](l list[R], p projections.Page, created func(*R) events.Seq, keep func(*R) bool) ([]R, projections.Cursor, error) {
	return newestAt(len(l.places), func(i int) *R { return l.rows[l.places[i]] }, p, created, keep)
}

func newestAt[R any](n int, at func(int) *R, p projections.Page, created func(*R) events.Seq, keep func(*R) bool) ([]R, projections.Cursor, error) {
	before, begun, err := projections.ReadSeqCursor(p.After)
	if err != nil {
		return nil, "", err
	}
	if begun {
		n = sort.Search(n, func(i int) bool { return created(at(i)) >= before })
	}
	var out []R
	for i := n - 1; i >= 0; i-- {
		r := at(i)
		if !keep(r) {
			continue
		}
		if len(out) == p.Size() {
			return out, projections.SeqCursor(created(&out[len(out)-1])), nil
		}
		out = append(out, *r)
	}
	return out, "", nil
}

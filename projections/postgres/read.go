package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"vega/events"
	"vega/projections"
	"vega/services/scan"
)

// statement is SQL that is put together with its arguments.
type statement struct {
	sql  strings.Builder
	args []any
}

// add appends a line; each %s of it is an argument's place.
func (s *statement) add(format string, args ...any) {
	places := make([]any, len(args))
	for i, a := range args {
		if t, ok := a.(string); ok {
			a = escape(t)
		}
		s.args = append(s.args, a)
		places[i] = "$" + strconv.Itoa(len(s.args))
	}
	fmt.Fprintf(&s.sql, format+"\n", places...)
}

// text is the whole statement. It names the gate before any table: what is named here is locked first.
func (s *statement) text() string { return "WITH g AS (SELECT FROM gate)\n" + s.sql.String() }

// unfinished is the condition of the index of the same name.
const unfinished = "status IN ('queued', 'claimed', 'running', 'cancelling')"

// Project returns one project, deleted or not, or ErrNotFound.
func (m *Model) Project(ctx context.Context, id events.ProjectID) (projections.Project, error) {
	return one(ctx, m, projects, string(id))
}

// Projects lists the projects that are not deleted, newest first.
func (m *Model) Projects(ctx context.Context, f projections.ProjectFilter, p projections.Page) ([]projections.Project, projections.Cursor, error) {
	var s statement
	order := "t"
	s.add("SELECT " + projects.selected("t"))
	if f.User == "" {
		s.add("FROM projects t WHERE NOT t.deleted")
	} else {
		order = "m"
		s.add("FROM members m JOIN projects t ON t.id = m.project_id WHERE m.user_id = %s AND NOT t.deleted", string(f.User))
	}
	return newest(ctx, m, projects, &s, order, p, func(r *projections.Project) events.Seq { return r.Created })
}

// Repository returns one repository, deleted or not, or ErrNotFound.
func (m *Model) Repository(ctx context.Context, id events.RepositoryID) (projections.Repository, error) {
	return one(ctx, m, repositories, string(id))
}

// Repositories lists a project's repositories that are not deleted, newest first.
func (m *Model) Repositories(ctx context.Context, id events.ProjectID, p projections.Page) ([]projections.Repository, projections.Cursor, error) {
	var s statement
	s.add("SELECT "+repositories.selected("t")+" FROM repositories t WHERE t.project_id = %s AND NOT t.deleted", string(id))
	return newest(ctx, m, repositories, &s, "t", p, func(r *projections.Repository) events.Seq { return r.Created })
}

// Snapshot returns one snapshot of a repository, or ErrNotFound.
func (m *Model) Snapshot(ctx context.Context, repo events.RepositoryID, id events.SnapshotID) (projections.Snapshot, error) {
	return one(ctx, m, snapshots, string(repo), string(id))
}

// Snapshots lists a repository's snapshots, newest first.
func (m *Model) Snapshots(ctx context.Context, id events.RepositoryID, p projections.Page) ([]projections.Snapshot, projections.Cursor, error) {
	var s statement
	s.add("SELECT "+snapshots.selected("t")+" FROM snapshots t WHERE t.repository_id = %s", string(id))
	return newest(ctx, m, snapshots, &s, "t", p, func(r *projections.Snapshot) events.Seq { return r.Created })
}

// SnapshotUsers counts the repositories, not deleted, that hold a snapshot.
func (m *Model) SnapshotUsers(ctx context.Context, id events.SnapshotID) (int, error) {
	var s statement
	var n int
	s.add("SELECT count(*) FROM snapshots t JOIN repositories r ON r.id = t.repository_id WHERE t.id = %s AND NOT r.deleted", string(id))
	return n, m.row(ctx, &s, numberInto[int]{&n})
}

// Scan returns one scan, or ErrNotFound.
func (m *Model) Scan(ctx context.Context, id events.ScanID) (projections.Scan, error) {
	return one(ctx, m, scans, string(id))
}

// Scans lists scans, newest first.
func (m *Model) Scans(ctx context.Context, f projections.ScanFilter, p projections.Page) ([]projections.Scan, projections.Cursor, error) {
	var s statement
	created := func(r *projections.Scan) events.Seq { return r.Created }
	wanted := func() {
		if len(f.Statuses) > 0 {
			s.add("AND t.status IN (" + statuses(f.Statuses) + ")")
		}
		if f.FailureCode != "" {
			s.add("AND t.failure_code = %s", f.FailureCode)
		}
	}
	if f.Member != "" && f.Project == "" && f.Repository == "" {
		// The newest of each of the member's projects, of which the newest: the cost depends on how many those are and not on how many scans others have.
		before, limit, err := place(p)
		if err != nil {
			return nil, "", err
		}
		s.add("SELECT " + scans.selected("t") + " FROM members m JOIN projects p ON p.id = m.project_id AND NOT p.deleted")
		s.add("CROSS JOIN LATERAL (SELECT t.* FROM scans t JOIN repositories r ON r.id = t.repository_id AND NOT r.deleted WHERE t.project_id = m.project_id")
		wanted()
		s.add("AND t.created_seq < %s ORDER BY t.created_seq DESC LIMIT %s) t WHERE m.user_id = %s", before, limit, string(f.Member))
		return newest(ctx, m, scans, &s, "t", p, created)
	}
	s.add("SELECT " + scans.selected("t") + " FROM scans t JOIN repositories r ON r.id = t.repository_id AND NOT r.deleted JOIN projects p ON p.id = t.project_id AND NOT p.deleted WHERE true")
	if f.Repository != "" {
		s.add("AND t.repository_id = %s", string(f.Repository))
	}
	if f.Project != "" {
		s.add("AND t.project_id = %s", string(f.Project))
	}
	if f.Member != "" {
		s.add("AND EXISTS (SELECT FROM members m WHERE m.project_id = t.project_id AND m.user_id = %s)", string(f.Member))
	}
	wanted()
	return newest(ctx, m, scans, &s, "t", p, created)
}

// statuses spells out those that a scan can have, so that the planner sees which partial index fits.
func statuses(wanted []scan.Status) string {
	var out []string
	for _, s := range scan.Statuses() {
		if s != scan.None && slices.Contains(wanted, s) {
			out = append(out, "'"+string(s)+"'")
		}
	}
	if len(out) == 0 {
		return "NULL" // none is like that
	}
	return strings.Join(out, ", ")
}

// Unfinished lists the scans that are not over, oldest first.
func (m *Model) Unfinished(ctx context.Context) ([]projections.Scan, error) {
	var s statement
	s.add("SELECT " + scans.selected("t") + " FROM scans t WHERE t." + unfinished + " ORDER BY t.created_seq")
	return rows(ctx, m, scans, &s)
}

// Queue says how many scans wait, by priority.
func (m *Model) Queue(ctx context.Context) (map[events.Priority]int, error) {
	n := map[events.Priority]int{}
	err := m.query(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		for _, p := range events.Priorities() {
			n[p] = 0
		}
		rows, err := conn.Query(ctx, "SELECT priority_rank, count(*) FROM scans WHERE status = 'queued' GROUP BY 1")
		if err != nil {
			return err
		}
		var rank, waiting int
		_, err = pgx.ForEachRow(rows, []any{&rank, &waiting}, func() error {
			if rank < len(events.Priorities()) {
				n[events.Priorities()[rank]] = waiting
			}
			return nil
		})
		return err
	})
	if err != nil {
		return nil, m.tell(ctx, "query read models", err)
	}
	return n, nil
}

// QueuePositions are the scans' places among those that wait, from 1; 0 for one that does not wait. The line is walked once, up to the last of them.
func (m *Model) QueuePositions(ctx context.Context, ids ...events.ScanID) ([]int, error) {
	out := make([]int, len(ids))
	if len(ids) == 0 {
		return out, nil
	}
	var s statement
	s.add(", me AS (SELECT id, priority_rank, ready_seq FROM scans WHERE id = ANY(%s) AND status = 'queued' AND priority_rank < %s),", escaped(ids), len(events.Priorities()))
	s.add("line AS (SELECT priority_rank, ready_seq, row_number() OVER (ORDER BY priority_rank, ready_seq) AS place FROM scans WHERE status = 'queued'")
	s.add("AND (priority_rank, ready_seq) <= (SELECT priority_rank, ready_seq FROM me ORDER BY priority_rank DESC, ready_seq DESC LIMIT 1))")
	s.add("SELECT me.id, line.place FROM me JOIN line USING (priority_rank, ready_seq)")
	err := m.query(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		clear(out)
		rows, err := conn.Query(ctx, s.text(), s.args...)
		if err != nil {
			return err
		}
		var id string
		var at int
		_, err = pgx.ForEachRow(rows, []any{&id, &at}, func() error {
			for i, want := range ids {
				if escape(string(want)) == id {
					out[i] = at
				}
			}
			return nil
		})
		return err
	})
	if err != nil {
		return nil, m.tell(ctx, "query read models", err)
	}
	return out, nil
}

// lastCompleted joins the last completed scan c of each repository r.
const lastCompleted = "CROSS JOIN LATERAL (SELECT s.id FROM scans s WHERE s.repository_id = r.id AND s.status = 'completed' ORDER BY s.created_seq DESC LIMIT 1) c"

// Findings lists findings, worst first.
func (m *Model) Findings(ctx context.Context, f projections.FindingFilter, p projections.Page) ([]projections.FindingView, projections.Cursor, error) {
	after, begun, err := projections.ReadFindingCursor(p.After)
	if err != nil {
		return nil, "", err
	}
	var s statement
	s.add("SELECT " + findings.selected("t") + ", coalesce(d.state, 'open'), d.reason, d.note, d.actor, d.at_ns, d.version FROM")
	switch {
	case f.Scan != "":
		s.add("findings t JOIN repositories r ON r.id = t.repository_id")
	case f.Repository != "":
		s.add("(SELECT s.id FROM scans s WHERE s.repository_id = %s AND s.status = 'completed' ORDER BY s.created_seq DESC LIMIT 1) c", string(f.Repository))
		s.add("JOIN findings t ON t.scan_id = c.id JOIN repositories r ON r.id = t.repository_id")
	case f.Member != "":
		s.add("members w JOIN repositories r ON r.project_id = w.project_id AND w.user_id = %s "+lastCompleted+" JOIN findings t ON t.scan_id = c.id", string(f.Member))
	default:
		s.add("repositories r " + lastCompleted + " JOIN findings t ON t.scan_id = c.id")
	}
	s.add("JOIN projects p ON p.id = t.project_id LEFT JOIN triages d ON d.finding_id = t.id WHERE NOT r.deleted AND NOT p.deleted")
	if f.Scan != "" {
		s.add("AND t.scan_id = %s", string(f.Scan))
	}
	if f.Member != "" {
		s.add("AND EXISTS (SELECT FROM members m WHERE m.project_id = t.project_id AND m.user_id = %s)", string(f.Member))
	}
	if len(f.Severities) > 0 {
		s.add("AND t.severity = ANY(%s::text[])", escaped(f.Severities))
	}
	if len(f.States) > 0 {
		s.add("AND coalesce(d.state, 'open') = ANY(%s::text[])", escaped(f.States))
	}
	if begun {
		rank := after.Severity.Rank()
		s.add("AND (t.rank, left(t.file, 500)) >= (%s::smallint, left(%s, 500))", rank, after.File)
		s.add("AND (t.rank, t.file, t.start_line, t.id) > (%s::smallint, %s, %s, %s)", rank, after.File, after.StartLine, string(after.ID))
	}
	s.add("ORDER BY t.rank, left(t.file, 500), t.file, t.start_line, t.id LIMIT %s", p.Size()+1)
	out, err := m.views(ctx, &s)
	if err != nil || len(out) <= p.Size() {
		return out, "", err
	}
	out = out[:p.Size()]
	return out, projections.FindingCursor(out[len(out)-1].Finding), nil
}

// Finding is a finding as the latest scan that saw it did, or ErrNotFound.
func (m *Model) Finding(ctx context.Context, id events.FindingID) (projections.FindingView, error) {
	var s statement
	s.add("SELECT "+findings.selected("t")+", coalesce(d.state, 'open'), d.reason, d.note, d.actor, d.at_ns, d.version FROM findings t LEFT JOIN triages d ON d.finding_id = t.id WHERE t.id = %s ORDER BY t.first_seq DESC LIMIT 1", string(id))
	out, err := m.views(ctx, &s)
	if err == nil && len(out) == 0 {
		err = projections.ErrNotFound
	}
	if err != nil {
		return projections.FindingView{}, err
	}
	return out[0], nil
}

// views reads findings with their triage.
func (m *Model) views(ctx context.Context, s *statement) ([]projections.FindingView, error) {
	var out []projections.FindingView
	err := m.query(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		out = nil
		got, err := conn.Query(ctx, s.text(), s.args...)
		if err != nil {
			return err
		}
		defer got.Close()
		for got.Next() {
			var f findingRow
			var v projections.FindingView
			t := &v.Triage
			if err := got.Scan(append(findings.into(&f), textInto[events.TriageState]{&t.State}, textInto[events.DismissReason]{&t.Reason}, textInto[string]{&t.Note}, textInto[events.Actor]{&t.Actor}, momentInto{&t.At}, numberInto[events.Version]{&v.TriageVersion})...); err != nil {
				return err
			}
			v.Finding = f.Finding
			out = append(out, v)
		}
		return got.Err()
	})
	if err != nil {
		return nil, m.tell(ctx, "query read models", err)
	}
	return out, nil
}

// Triages are the current decisions about findings, where there are any.
func (m *Model) Triages(ctx context.Context, ids ...events.FindingID) (map[events.FindingID]projections.Triage, error) {
	out := make(map[events.FindingID]projections.Triage, len(ids))
	if len(ids) == 0 {
		return out, nil
	}
	var s statement
	s.add("SELECT "+triages.selected("t")+" FROM triages t WHERE t.finding_id = ANY(%s::text[])", escaped(ids))
	decided, err := rows(ctx, m, triages, &s)
	for _, t := range decided {
		out[t.Finding] = t
	}
	return out, err
}

// Rollup sums a project up.
func (m *Model) Rollup(ctx context.Context, id events.ProjectID) (projections.Rollup, error) {
	var out projections.Rollup
	var s statement
	s.add("SELECT (SELECT count(*) FROM repositories r WHERE r.project_id = x.id AND NOT r.deleted), (SELECT t.id FROM scans t WHERE t.project_id = x.id ORDER BY t.created_seq DESC LIMIT 1),")
	s.add("u.requests, u.input_tokens, u.cached_input_tokens, u.output_tokens, u.reasoning_tokens, u.cost_nano_usd, f.critical, f.high, f.medium, f.low, f.info")
	s.add("FROM (SELECT %s::text AS id) x LEFT JOIN project_usage u ON u.project_id = x.id CROSS JOIN LATERAL (SELECT", string(id))
	for i, severity := range events.Severities() {
		comma := ","
		if i == len(events.Severities())-1 {
			comma = ""
		}
		s.add("count(*) FILTER (WHERE t.severity = '" + string(severity) + "') AS " + string(severity) + comma)
	}
	s.add("FROM repositories r " + lastCompleted + " JOIN findings t ON t.scan_id = c.id LEFT JOIN triages d ON d.finding_id = t.id")
	s.add("WHERE r.project_id = x.id AND NOT r.deleted AND coalesce(d.state, 'open') <> '" + string(events.TriageDismissed) + "') f")
	u, c := &out.Usage, &out.Open
	return out, m.row(ctx, &s, numberInto[int]{&out.Repositories}, textInto[events.ScanID]{&out.LastScan},
		numberInto[int64]{&u.Requests}, numberInto[int64]{&u.InputTokens}, numberInto[int64]{&u.CachedInputTokens}, numberInto[int64]{&u.OutputTokens}, numberInto[int64]{&u.ReasoningTokens}, numberInto[int64]{&u.CostNanoUSD},
		numberInto[int]{&c.Critical}, numberInto[int]{&c.High}, numberInto[int]{&c.Medium}, numberInto[int]{&c.Low}, numberInto[int]{&c.Info})
}

// APIKey returns one API key, or ErrNotFound.
func (m *Model) APIKey(ctx context.Context, id events.APIKeyID) (projections.APIKey, error) {
	return one(ctx, m, apiKeys, string(id))
}

// APIKeys lists API keys, newest first.
func (m *Model) APIKeys(ctx context.Context, user events.UserID, p projections.Page) ([]projections.APIKey, projections.Cursor, error) {
	var s statement
	s.add("SELECT " + apiKeys.selected("t") + " FROM api_keys t WHERE true")
	if user != "" {
		s.add("AND t.user_id = %s", string(user))
	}
	return newest(ctx, m, apiKeys, &s, "t", p, func(r *projections.APIKey) events.Seq { return r.Created })
}

// ParkedAggregates lists what could not be applied.
func (m *Model) ParkedAggregates(ctx context.Context) ([]projections.Parked, error) {
	var s statement
	s.add("SELECT " + parked.selected("t") + " FROM parked t ORDER BY t.seq")
	out, err := rows(ctx, m, parked, &s)
	if err == nil && out == nil {
		out = []projections.Parked{}
	}
	return out, err
}

// one reads the row of a key.
func one[R any](ctx context.Context, m *Model, t *table[R], key ...string) (R, error) {
	var s statement
	s.add("SELECT " + t.selected("t") + " FROM " + t.name + " t WHERE true")
	for i, k := range t.keys {
		s.add("AND t."+k+" = %s", key[i])
	}
	out, err := rows(ctx, m, t, &s)
	if err == nil && len(out) == 0 {
		err = projections.ErrNotFound
	}
	if err != nil {
		return *new(R), err
	}
	return out[0], nil
}

// place is the sequence that a page begins below, and how many rows it asks for: one more than it shows.
func place(p projections.Page) (before int64, limit int, err error) {
	after, begun, err := projections.ReadSeqCursor(p.After)
	if !begun {
		return 1<<63 - 1, p.Size() + 1, err
	}
	return int64(min(after, 1<<63-1)), p.Size() + 1, err
}

// newest reads a page of what a statement without an order selects; the sequence that it is ordered by is a column of the table called by.
func newest[R any](ctx context.Context, m *Model, t *table[R], s *statement, by string, p projections.Page, created func(*R) events.Seq) ([]R, projections.Cursor, error) {
	before, limit, err := place(p)
	if err != nil {
		return nil, "", err
	}
	s.add("AND "+by+".created_seq < %s ORDER BY "+by+".created_seq DESC LIMIT %s", before, limit)
	out, err := rows(ctx, m, t, s)
	if err != nil || len(out) < limit {
		return out, "", err
	}
	out = out[:limit-1]
	return out, projections.SeqCursor(created(&out[len(out)-1])), nil
}

// rows reads what a statement selects; nil when that is nothing.
func rows[R any](ctx context.Context, m *Model, t *table[R], s *statement) ([]R, error) {
	var out []R
	err := m.query(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		out = nil
		got, err := conn.Query(ctx, s.text(), s.args...)
		if err != nil {
			return err
		}
		defer got.Close()
		for got.Next() {
			out = append(out, *new(R))
			if err := got.Scan(t.into(&out[len(out)-1])...); err != nil {
				return err
			}
		}
		return got.Err()
	})
	if err != nil {
		return nil, m.tell(ctx, "query read models", err)
	}
	return out, nil
}

// row reads the one row that a statement selects.
func (m *Model) row(ctx context.Context, s *statement, into ...any) error {
	err := m.query(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, s.text(), s.args...).Scan(into...)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return projections.ErrNotFound
	}
	return m.tell(ctx, "query read models", err)
}

func escaped[T ~string](list []T) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = escape(string(s))
	}
	return out
}

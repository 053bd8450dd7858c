package api

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"vega/events"
	"vega/projections"
	"vega/services/files"
	"vega/services/report"
	"vega/services/scan"
)

// comparisonBody is how a scan stands to the one before, in numbers.
type comparisonBody struct {
	Base *events.ScanID `json:"base_scan_id" doc:"The scan that it is compared with; null: there was none"`
	ClassCounts
}

// ClassCounts are numbers of weaknesses. It is exported because huma does not look into embedded fields that are not.
type ClassCounts struct {
	New        int `json:"new" doc:"Never seen before"`
	Persisting int `json:"persisting" doc:"There before, and still"`
	Reopened   int `json:"reopened" doc:"Had been resolved, and is there again"`
	Resolved   int `json:"resolved" doc:"Was there, and is gone"`
	Unknown    int `json:"unknown" doc:"Was there; whether it still is, the scan cannot say"`
}

func shapeCounts(c events.Compared) ClassCounts {
	return ClassCounts{c.New, c.Persisting, c.Reopened, c.Resolved, c.Unknown}
}

// comparedOf is what a scan recorded about how it stands to an earlier one; nil when it has not, or not yet.
func comparedOf(r projections.Scan) *events.Compared {
	for _, st := range slices.Backward(r.Stages) {
		if st.Compared != nil {
			return st.Compared
		}
	}
	return nil
}

// shapeComparison is nil for a scan that recorded none.
func shapeComparison(r projections.Scan) *comparisonBody {
	c := comparedOf(r)
	if c == nil {
		return nil
	}
	return &comparisonBody{scanOrNone(c.Base), shapeCounts(*c)}
}

func scanOrNone(id events.ScanID) *events.ScanID {
	if id == "" {
		return nil
	}
	return &id
}

type compareIn struct {
	PageIn
	Base  string         `query:"base" maxLength:"100" doc:"An earlier completed scan of the same repository; the last one before this scan when absent"`
	Class []report.Class `query:"class" enum:"new,reopened,persisting,unknown,resolved" doc:"Several by comma"`
}

type compareBody struct {
	Scan     events.ScanID  `json:"scan_id"`
	Base     *events.ScanID `json:"base_scan_id" doc:"null: there was no earlier scan"`
	Coverage bothBody       `json:"coverage" doc:"Nothing counts as resolved when the scan's is not complete"`
	Counts   ClassCounts    `json:"counts" doc:"Of all weaknesses, whichever are listed"`
	Items    []weaknessBody `json:"items"`
	Next     string         `json:"next_cursor,omitempty" doc:"For the next page; absent at the end"`
}

type bothBody struct {
	Scan stateBody  `json:"scan"`
	Base *stateBody `json:"base" doc:"null: there was no earlier scan"`
}

type stateBody struct {
	State events.CoverageState `json:"state" enum:"complete,partial,unknown"`
}

type weaknessBody struct {
	Class       report.Class       `json:"class" enum:"new,reopened,persisting,unknown,resolved"`
	ID          events.FindingID   `json:"id"`
	Fingerprint events.Fingerprint `json:"fingerprint"`
	Rule        string             `json:"rule"`
	Severity    events.Severity    `json:"severity" enum:"critical,high,medium,low,info"`
	Title       string             `json:"title"`
	File        string             `json:"file_path"`
	StartLine   int                `json:"start_line" doc:"Where it was last seen"`
	FirstSeen   events.ScanID      `json:"first_seen_scan_id"`
	LastSeen    events.ScanID      `json:"last_seen_scan_id"`
	Triage      triageBody         `json:"triage"`
}

// compareScan says which weaknesses a scan has found for the first time, again or still, and which it has not.
func (s *Server) compareScan(ctx context.Context, in *compareIn) (*plain[compareBody], error) {
	after, err := readWeaknessCursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	row := callOf(ctx).scan
	var base *projections.Scan
	var l report.Ledger
	if in.Base != "" {
		base, l, err = s.comparedWith(ctx, row, events.ScanID(in.Base))
	} else {
		base, l, err = s.compared(ctx, row)
	}
	if err != nil {
		return nil, err
	}
	body := compareBody{Scan: row.ID, Coverage: bothBody{Scan: stateOf(row)}}
	if base != nil {
		body.Base, body.Coverage.Base = &base.ID, new(stateOf(*base))
	}
	body.Counts = shapeCounts(l.Count(""))
	page := slices.DeleteFunc(l.Changes(), func(w report.Weakness) bool {
		return len(in.Class) > 0 && !slices.Contains(in.Class, w.Class) || after != nil && report.CompareWeaknesses(w, *after) <= 0
	})
	if size := in.page().Size(); len(page) > size {
		page = page[:size]
		body.Next = weaknessCursor(page[size-1])
	}
	ids := make([]events.FindingID, len(page))
	for i, w := range page {
		ids[i] = w.ID
	}
	decided, err := s.Model.Triages(ctx, ids...)
	if err != nil {
		return nil, err
	}
	body.Items = make([]weaknessBody, len(page))
	for i, w := range page {
		body.Items[i] = weaknessBody{w.Class, w.ID, w.Fingerprint, w.Rule, w.Severity, w.Title, w.File, w.StartLine, w.FirstSeen, w.LastSeen, shapeTriage(decided[w.ID].Triage)}
	}
	return &plain[compareBody]{Body: body}, nil
}

func stateOf(r projections.Scan) stateBody {
	return stateBody{cmp.Or(r.Coverage.State, events.CoverageUnknown)}
}

// compared is how a scan stands to the one before, as it recorded it. A completed scan that did not, an older release's or one whose ledger is gone, is compared
// now. The base is nil when there was none.
func (s *Server) compared(ctx context.Context, row projections.Scan) (*projections.Scan, report.Ledger, error) {
	c := comparedOf(row)
	if c == nil && row.Status != scan.Completed {
		return nil, report.Ledger{}, notCompared(row.Status)
	}
	from := row.Base
	if c != nil {
		from = c.Base
	} else if from == "" {
		last, err := s.lastCompleted(ctx, row.Repository, row.Created)
		if err != nil {
			return nil, report.Ledger{}, err
		}
		from = last
	}
	var base *projections.Scan
	if from != "" {
		was, err := s.Model.Scan(ctx, from)
		if err != nil && !errors.Is(err, projections.ErrNotFound) {
			return nil, report.Ledger{}, err
		}
		if err == nil {
			base = &was
		}
	}
	recorded, err := s.ledgerOf(ctx, row)
	if err != nil || recorded != nil {
		return base, deref(recorded), err
	}
	l, err := s.compareNow(ctx, base, row)
	return base, l, err
}

// comparedWith is how a scan stands to any earlier one of its repository.
func (s *Server) comparedWith(ctx context.Context, row projections.Scan, id events.ScanID) (*projections.Scan, report.Ledger, error) {
	unfit := invalid("base", "want an earlier scan of the same repository")
	if events.CheckID("base", string(id)) != nil {
		return nil, report.Ledger{}, unfit
	}
	base, err := s.Model.Scan(ctx, id)
	if errors.Is(err, projections.ErrNotFound) || err == nil && base.Repository != row.Repository {
		return nil, report.Ledger{}, unfit // whether it exists elsewhere is nobody's business
	}
	if err != nil {
		return nil, report.Ledger{}, err
	}
	switch {
	case base.ID == row.ID:
		return nil, report.Ledger{}, invalid("base", "want another scan than the one that is compared")
	case base.Created > row.Created:
		return nil, report.Ledger{}, invalid("base", "want a scan from before the one that is compared; compare that one with this")
	case base.Status != scan.Completed:
		return nil, report.Ledger{}, &failure{status: http.StatusConflict, code: "base_not_completed", message: "the base scan is " + string(base.Status) + "; only with a completed scan can another be compared",
			retryable: !base.Status.Terminal(), details: map[string]any{"base_scan_id": base.ID, "status": base.Status}}
	case row.Status != scan.Completed && comparedOf(row) == nil:
		return nil, report.Ledger{}, notCompared(row.Status)
	}
	l, err := s.compareNow(ctx, &base, row)
	return &base, l, err
}

// notCompared refuses a scan whose findings are not all there.
func notCompared(is scan.Status) error {
	f := &failure{status: http.StatusConflict, code: "comparison_not_ready", message: "the scan is " + string(is) + " and has not come to where its findings are compared", details: map[string]any{"status": is}}
	f.retryable = !is.Terminal()
	if is.Terminal() {
		f.message = "the scan is " + string(is) + " and ended before its findings were compared"
	}
	return f
}

// compareNow compares two scans by their findings, and by what the base's own ledger remembers.
func (s *Server) compareNow(ctx context.Context, base *projections.Scan, row projections.Scan) (report.Ledger, error) {
	now, err := s.seen(ctx, row)
	if err != nil {
		return report.Ledger{}, err
	}
	var before *report.Ledger
	var was *report.Seen
	if base != nil {
		if was, err = s.seen(ctx, *base); err != nil {
			return report.Ledger{}, err
		}
		if before, err = s.ledgerOf(ctx, *base); err != nil {
			return report.Ledger{}, err
		}
	}
	l, _ := report.Compare(was, before, *now)
	return l, nil
}

// seen is a scan with all its findings.
func (s *Server) seen(ctx context.Context, r projections.Scan) (*report.Seen, error) {
	out := &report.Seen{Scan: r.ID, Coverage: r.Coverage.State, Paths: r.Paths}
	for page := (projections.Page{Limit: projections.MaxLimit}); ; {
		rows, next, err := s.Model.Findings(ctx, projections.FindingFilter{Scan: r.ID}, page)
		if err != nil {
			return nil, err
		}
		for _, f := range rows {
			out.Findings = append(out.Findings, f.Finding.Finding)
		}
		if next == "" {
			return out, nil
		}
		page.After = next
	}
}

// maxLedger bounds what is read of a ledger, in bytes; report.MaxWeaknesses take a fraction of it.
const maxLedger = 64 << 20

// ledgerOf reads the ledger that a scan recorded; nil when there is none, or none that this release can read.
func (s *Server) ledgerOf(ctx context.Context, r projections.Scan) (*report.Ledger, error) {
	c := comparedOf(r)
	if c == nil || c.Ledger == nil || c.Ledger.Bytes > maxLedger {
		return nil, nil
	}
	b, err := s.readObject(ctx, *c.Ledger)
	if errors.Is(err, files.ErrNotFound) {
		return nil, nil // its scan's artifacts were removed; the findings are still there
	}
	if err != nil {
		return nil, err
	}
	l, err := report.ParseLedger(b)
	if err != nil {
		s.log.Warn("ledger not read", "scan_id", r.ID, "err", err)
		return nil, nil
	}
	return &l, nil
}

func deref(l *report.Ledger) report.Ledger {
	if l == nil {
		return report.Ledger{}
	}
	return *l
}

// lastCompleted is a repository's newest completed scan that was asked for before an event, 0 meaning any; empty when there is none.
func (s *Server) lastCompleted(ctx context.Context, id events.RepositoryID, before events.Seq) (events.ScanID, error) {
	page := projections.Page{Limit: 1}
	if before > 0 {
		page.After = projections.SeqCursor(before)
	}
	rows, _, err := s.Model.Scans(ctx, projections.ScanFilter{Repository: id, Statuses: []scan.Status{scan.Completed}}, page)
	if err != nil || len(rows) == 0 {
		return "", err
	}
	return rows[0].ID, nil
}

// How far back a new scan looks for those that its base cannot know of, and how many of them it takes.
const (
	overlapReach = 50
	maxOverlaps  = 10
)

// compareWith says in a request what the new scan of the repository will be compared with. A read model that does not answer leaves it open: writes go on without it.
func (s *Server) compareWith(ctx context.Context, id events.RepositoryID, want *events.ScanQueued) error {
	if s.model.isAway() {
		return nil
	}
	rows, _, err := s.Model.Scans(ctx, projections.ScanFilter{Repository: id, Statuses: []scan.Status{scan.Completed}}, projections.Page{Limit: overlapReach})
	if s.model.missed(err) {
		s.log.Warn("a scan begins without one to compare it with", "err", err)
		return nil
	}
	if err != nil || len(rows) == 0 {
		return err
	}
	want.Base = rows[0].ID
	for _, r := range rows[1:] {
		if r.FinishedAt.After(rows[0].CreatedAt) && len(want.Overlapped) < maxOverlaps {
			want.Overlapped = append(want.Overlapped, r.ID)
		}
	}
	return nil
}

// A cursor of a comparison is the place of a weakness in its order.
type weaknessPlace struct {
	Class       int                `json:"c"`
	Severity    int                `json:"s"`
	File        string             `json:"f"`
	Line        int                `json:"l"`
	Fingerprint events.Fingerprint `json:"w"`
}

func weaknessCursor(w report.Weakness) string {
	b, _ := json.Marshal(weaknessPlace{w.Class.Rank() + 1, w.Severity.Rank(), w.File, w.StartLine, w.Fingerprint}) // strings and numbers always encode
	return base64.RawURLEncoding.EncodeToString(b)
}

// readWeaknessCursor returns a weakness that holds the place where a page ended; nil for the beginning. It returns projections.ErrBadCursor.
func readWeaknessCursor(s string) (*report.Weakness, error) {
	if s == "" {
		return nil, nil
	}
	var p weaknessPlace
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || json.Unmarshal(b, &p) != nil || p.Class < 1 || p.Class > len(report.Classes()) || p.Severity < 0 || p.Severity > len(events.Severities()) || p.Fingerprint == "" {
		return nil, projections.ErrBadCursor
	}
	w := &report.Weakness{Class: report.Classes()[p.Class-1], File: p.File, StartLine: p.Line, Fingerprint: p.Fingerprint}
	if p.Severity < len(events.Severities()) {
		w.Severity = events.Severities()[p.Severity]
	}
	return w, nil
}

package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"vega/events"
	"vega/events/eventstore"
	"vega/projections"
	"vega/services/catalog"
	"vega/services/fleet"
	"vega/services/scan"
)

type scanRequest struct {
	Snapshot events.SnapshotID `json:"snapshot_id,omitempty" maxLength:"100" doc:"One of the repository's snapshots; its latest one when absent"`
	Paths    []string          `json:"paths,omitempty" maxItems:"1000" doc:"Files and folders to audit, relative, slash-separated; everything when absent"`
	Model    string            `json:"model,omitempty" maxLength:"100" doc:"The model to use; the configured one when absent"`
	Priority events.Priority   `json:"priority,omitempty" enum:"high,normal,low" doc:"normal when absent"`
	Budget   *budgetRequest    `json:"budget,omitempty" doc:"What this scan may spend at the provider, beside what every scan may; 0 or absent: no limit of its own"`
}

type scanIn struct {
	Body *scanRequest
}

// createScan makes a scan of a ready repository, within the user's limit.
func (s *Server) createScan(ctx context.Context, in *scanIn) (*one[scanBody], error) {
	c := callOf(ctx)
	var ask scanRequest
	if in.Body != nil {
		ask = *in.Body
	}
	paths, err := cleanPaths(ask.Paths)
	if err != nil {
		return nil, err
	}
	if ask.Model != "" && events.CheckModel(ask.Model) != nil {
		return nil, invalid("model", "want letters, digits and ._:/@-, of which the first is a letter or a digit")
	}
	budget, err := ask.Budget.budget()
	if err != nil {
		return nil, err
	}
	want := events.ScanQueued{Project: c.project.ID, Repository: c.repository.ID, Snapshot: ask.Snapshot, Paths: paths, Model: ask.Model,
		Priority: cmp.Or(ask.Priority, events.Normal), Budget: budget}
	return s.queueScan(ctx, want)
}

// rerunScan makes a new scan that asks for the same as another one.
func (s *Server) rerunScan(ctx context.Context, _ *nothing) (*one[scanBody], error) {
	old := callOf(ctx).scan
	return s.queueScan(ctx, events.ScanQueued{Project: old.Project, Repository: old.Repository, Snapshot: old.Snapshot, Paths: old.Paths, Model: old.Model,
		Priority: old.Priority, Rerun: old.ID, Budget: old.Budget})
}

// queueScan completes a request and admits it. A request with a key that was admitted before answers with that scan, as it is by now.
func (s *Server) queueScan(ctx context.Context, want events.ScanQueued) (*one[scanBody], error) {
	c := callOf(ctx)
	id := events.NewScanID(s.region)
	if c.key != "" {
		id = events.ScanIDFor(s.region, c.who.User, c.key)
		if row, err := s.Model.Scan(ctx, id); err == nil {
			if !sameRequest(row, want) {
				return nil, errKeyReused
			}
			return s.showScan(ctx, row, row.Created)
		}
	}
	if c.repository.Status != catalog.Ready {
		return nil, &failure{status: http.StatusConflict, code: "repository_not_ready", message: "the repository's source is not ready",
			details: map[string]any{"ingest_status": c.repository.Status}}
	}
	asked := want
	want.Snapshot = cmp.Or(want.Snapshot, c.repository.Latest)
	if _, err := s.Model.Snapshot(ctx, c.repository.ID, want.Snapshot); errors.Is(err, projections.ErrNotFound) {
		return nil, invalid("snapshot_id", "want a snapshot of this repository")
	} else if err != nil {
		return nil, err
	}
	want.User, want.MaxAttempts = c.who.User, s.MaxAttempts
	if c.repository.Profile != nil {
		want.Profile = c.repository.Profile.Number
	}
	if err := s.compareWith(ctx, c.repository.ID, &want); err != nil {
		return nil, err
	}
	state, made, err := s.Admission.Create(ctx, c.meta(s.Now()), id, want)
	if err != nil {
		return nil, err
	}
	if q := state.Request; q.Repository != asked.Repository || len(made) == 0 {
		return nil, errKeyReused
	}
	s.settle(ctx, made)
	row, err := s.scanRow(ctx, id, lastSeq(made))
	if err != nil {
		return nil, err
	}
	if !sameRequest(row, asked) {
		return nil, errKeyReused
	}
	return s.showScan(ctx, row, lastSeq(made))
}

// sameRequest says whether a scan is what was asked for: what the request left open may be anything.
func sameRequest(row projections.Scan, want events.ScanQueued) bool {
	return row.Repository == want.Repository && (want.Snapshot == "" || row.Snapshot == want.Snapshot) && slices.Equal(row.Paths, want.Paths) &&
		row.Model == want.Model && row.Priority == want.Priority && row.RerunOf == want.Rerun && sameBudget(row.Budget, want.Budget)
}

// scanRow is a scan at least as of seq: the read model's row, or the log's.
func (s *Server) scanRow(ctx context.Context, id events.ScanID, seq events.Seq) (projections.Scan, error) {
	row, err := s.Model.Scan(ctx, id)
	if err == nil && row.Seq >= seq {
		return row, nil
	}
	f, _, err := s.foldOf(ctx, events.ScanOf(s.region, id), 0)
	if err != nil {
		return row, err
	}
	return f.scan, nil
}

// showScan answers a write about a scan; seq is the write's event, 0 when it made none.
func (s *Server) showScan(ctx context.Context, row projections.Scan, seq events.Seq) (*one[scanBody], error) {
	queue, err := s.Model.QueuePositions(ctx, row.ID)
	if err != nil {
		return nil, err
	}
	out := &one[scanBody]{ETag: etag(row.Version), Body: s.shapeScan(row, queue[0])}
	if seq > 0 {
		out.Sequence = seqText(seq)
	}
	return out, nil
}

// cleanPaths checks what is to be audited. Paths are taken as they are, apart from a slash at the end; "." alone is everything.
func cleanPaths(in []string) ([]string, error) {
	var out []string
	for i, p := range in {
		field := fmt.Sprintf("paths[%d]", i)
		p = strings.TrimSuffix(p, "/")
		switch {
		case p == "" || len(p) > 4096 || !utf8.ValidString(p):
			return nil, invalid(field, "want 1 to 4096 bytes of UTF-8")
		case strings.ContainsFunc(p, unicode.IsControl):
			return nil, invalid(field, "want no control characters")
		case path.IsAbs(p) || path.Clean(p) != p || p == ".." || strings.HasPrefix(p, "../"):
			return nil, invalid(field, "want a clean path, relative to the snapshot's root")
		}
		if p == "." {
			return nil, nil
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out, nil
}

type scanFilterIn struct {
	PageIn
	Status     []scan.Status `query:"status" enum:"queued,claimed,running,cancelling,completed,failed,cancelled" doc:"Several by comma"`
	Project    string        `query:"project_id"`
	Repository string        `query:"repository_id"`
}

func (s *Server) listScans(ctx context.Context, in *scanFilterIn) (*many[scanBody], error) {
	return s.scans(ctx, projections.ScanFilter{Project: events.ProjectID(in.Project), Repository: events.RepositoryID(in.Repository), Statuses: in.Status}, in.page())
}

type statusIn struct {
	PageIn
	Status []scan.Status `query:"status" enum:"queued,claimed,running,cancelling,completed,failed,cancelled" doc:"Several by comma"`
}

func (s *Server) listRepositoryScans(ctx context.Context, in *statusIn) (*many[scanBody], error) {
	return s.scans(ctx, projections.ScanFilter{Repository: callOf(ctx).repository.ID, Statuses: in.Status}, in.page())
}

func (s *Server) scans(ctx context.Context, f projections.ScanFilter, p projections.Page) (*many[scanBody], error) {
	f.Member = callOf(ctx).member()
	rows, next, err := s.Model.Scans(ctx, f, p)
	if err != nil {
		return nil, err
	}
	var waiting []events.ScanID
	for _, r := range rows {
		if r.Status == scan.Queued {
			waiting = append(waiting, r.ID)
		}
	}
	places, err := s.Model.QueuePositions(ctx, waiting...)
	if err != nil {
		return nil, err
	}
	return list(rows, next, func(r projections.Scan) scanBody {
		if r.Status != scan.Queued {
			return s.shapeScan(r, 0)
		}
		place := places[0]
		places = places[1:]
		return s.shapeScan(r, place)
	}), nil
}

type atIn struct {
	At uint64 `query:"at" minimum:"1" doc:"Show the scan as it was after the event with this sequence"`
}

// getScan shows a scan as it is, or as it was: then it is folded from the log, and one that did not exist yet is not found.
func (s *Server) getScan(ctx context.Context, in *atIn) (*one[scanBody], error) {
	row := callOf(ctx).scan
	if in.At == 0 {
		out, err := s.showScan(ctx, row, 0)
		if err == nil {
			s.showLife(ctx, row, &out.Body)
		}
		return out, err
	}
	f, _, err := s.foldOf(ctx, events.ScanOf(s.region, row.ID), events.Seq(in.At))
	if err != nil {
		return nil, err
	}
	return &one[scanBody]{ETag: etag(f.scan.Version), Body: s.shapeScan(f.scan, 0)}, nil
}

// showLife adds when something was last heard of a scan that a worker has. Lines of the feed are no facts: one that cannot be asked for is left out.
func (s *Server) showLife(ctx context.Context, row projections.Scan, b *scanBody) {
	if row.Status != scan.Claimed && row.Status != scan.Running && row.Status != scan.Cancelling {
		return
	}
	last := row.EventAt
	if row.MeteredAt.After(last) {
		last = row.MeteredAt
	}
	ctx, cancel := context.WithTimeout(ctx, feedTime)
	defer cancel()
	if line, err := s.Store.FeedLastAt(ctx, row.ID); err == nil && line.After(last) {
		last = line
	}
	b.LastEventAt = when(last)
	if b.LastEventAt != nil {
		b.LastEventAge = new(int64(max(s.Now().Sub(last), 0) / time.Second))
	}
}

type cancelIn struct {
	Body *struct {
		Reason string `json:"reason,omitempty" maxLength:"500"`
	}
}

// cancelScan asks for a scan's end. It is cancelled at once when no worker has it; otherwise it is cancelling until the work has really stopped.
func (s *Server) cancelScan(ctx context.Context, in *cancelIn) (*one[scanBody], error) {
	c := callOf(ctx)
	reason := ""
	if in.Body != nil {
		reason = in.Body.Reason
		if !utf8.ValidString(reason) || strings.ContainsFunc(reason, unicode.IsControl) {
			return nil, invalid("reason", "want text on one line")
		}
	}
	after, made, err := eventstore.Do(ctx, s.Store, events.ScanOf(s.region, c.scan.ID), c.meta(s.Now()), func(state scan.Scan, h events.Head) ([]events.Event, error) {
		if err := c.matches(h.Version); err != nil {
			return nil, err
		}
		return scan.Decide(state, scan.RequestCancel{Reason: reason})
	})
	if err != nil {
		return nil, err
	}
	if after.Status == scan.Cancelling {
		fleet.Look(s.Store, after.Worker, c.scan.ID) // whoever runs it stops now instead of within a second
	}
	s.settle(ctx, made)
	row, err := s.scanRow(ctx, c.scan.ID, lastSeq(made))
	if err != nil {
		return nil, err
	}
	return s.showScan(ctx, row, lastSeq(made))
}

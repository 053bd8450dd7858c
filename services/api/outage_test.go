package api

import (
	"context"
	"sync/atomic"
	"testing"

	"vega/events"
	"vega/projections"
)

// outage is a read model that can stop to answer.
type outage struct {
	projections.Reader
	on atomic.Bool
}

func (o *outage) err() error {
	if o.on.Load() {
		return projections.ErrUnavailable
	}
	return nil
}

func unless[R any](o *outage, ask func() (R, error)) (R, error) {
	if err := o.err(); err != nil {
		var none R
		return none, err
	}
	return ask()
}

func unlessList[R any](o *outage, ask func() ([]R, projections.Cursor, error)) ([]R, projections.Cursor, error) {
	if err := o.err(); err != nil {
		return nil, "", err
	}
	return ask()
}

func (o *outage) Project(ctx context.Context, id events.ProjectID) (projections.Project, error) {
	return unless(o, func() (projections.Project, error) { return o.Reader.Project(ctx, id) })
}
func (o *outage) Projects(ctx context.Context, f projections.ProjectFilter, p projections.Page) ([]projections.Project, projections.Cursor, error) {
	return unlessList(o, func() ([]projections.Project, projections.Cursor, error) { return o.Reader.Projects(ctx, f, p) })
}
func (o *outage) Repository(ctx context.Context, id events.RepositoryID) (projections.Repository, error) {
	return unless(o, func() (projections.Repository, error) { return o.Reader.Repository(ctx, id) })
}
func (o *outage) Snapshot(ctx context.Context, r events.RepositoryID, id events.SnapshotID) (projections.Snapshot, error) {
	return unless(o, func() (projections.Snapshot, error) { return o.Reader.Snapshot(ctx, r, id) })
}
func (o *outage) Scan(ctx context.Context, id events.ScanID) (projections.Scan, error) {
	return unless(o, func() (projections.Scan, error) { return o.Reader.Scan(ctx, id) })
}
func (o *outage) Scans(ctx context.Context, f projections.ScanFilter, p projections.Page) ([]projections.Scan, projections.Cursor, error) {
	return unlessList(o, func() ([]projections.Scan, projections.Cursor, error) { return o.Reader.Scans(ctx, f, p) })
}
func (o *outage) Triages(ctx context.Context, ids ...events.FindingID) (map[events.FindingID]projections.Triage, error) {
	return unless(o, func() (map[events.FindingID]projections.Triage, error) { return o.Reader.Triages(ctx, ids...) })
}
func (o *outage) Unfinished(ctx context.Context) ([]projections.Scan, error) {
	return unless(o, func() ([]projections.Scan, error) { return o.Reader.Unfinished(ctx) })
}
func (o *outage) QueuePositions(ctx context.Context, ids ...events.ScanID) ([]int, error) {
	return unless(o, func() ([]int, error) { return o.Reader.QueuePositions(ctx, ids...) })
}
func (o *outage) Findings(ctx context.Context, f projections.FindingFilter, p projections.Page) ([]projections.FindingView, projections.Cursor, error) {
	return unlessList(o, func() ([]projections.FindingView, projections.Cursor, error) { return o.Reader.Findings(ctx, f, p) })
}
func (o *outage) Rollup(ctx context.Context, id events.ProjectID) (projections.Rollup, error) {
	return unless(o, func() (projections.Rollup, error) { return o.Reader.Rollup(ctx, id) })
}

func (o *outage) Usage(ctx context.Context, f projections.UsageFilter, p projections.Page) (projections.UsageSums, projections.Cursor, error) {
	if err := o.err(); err != nil {
		return projections.UsageSums{}, "", err
	}
	return o.Reader.Usage(ctx, f, p)
}

func TestWritesGoOnWhileTheReadModelIsAway(t *testing.T) {
	t.Parallel()
	var model *outage
	w := newWorld(t, options{change: func(d *Deps) {
		model = &outage{Reader: d.Model}
		d.Model = model
	}})
	project := w.user.project()
	repository := w.user.ready(project)
	before := w.user.do("POST", "/repositories/"+repository+"/scans", object{}).want(202).id()
	model.on.Store(true)

	// Reads of single things and every write of theirs.
	w.user.do("GET", "/scans/"+before, nil).want(200)
	w.user.do("GET", "/repositories/"+repository, nil).want(200)
	if got := w.user.do("GET", "/projects/"+project, nil).want(200).object(); got["rollup"] != nil {
		t.Errorf("the project shows sums: %v", got)
	}
	w.other.do("GET", "/scans/"+before, nil).refused(404, "not_found")
	w.user.do("GET", "/scans/scan_test_none", nil).refused(404, "not_found")
	second := w.user.ready(w.user.project())
	scan := w.user.do("POST", "/repositories/"+second+"/scans", object{}, "Idempotency-Key", "k").want(202)
	if again := w.user.do("POST", "/repositories/"+second+"/scans", object{}, "Idempotency-Key", "k").want(202); again.id() != scan.id() {
		t.Errorf("the same request again made %s, want %s", again.id(), scan.id())
	}
	if got := scan.object(); got["status"] != "queued" || got["queue_position"] != nil {
		t.Errorf("the scan is %s", scan.body)
	}
	w.user.do("POST", "/repositories/"+second+"/scans", object{"snapshot_id": "sha256:none"}).refused(422, "invalid_request")
	if got := w.user.do("POST", "/scans/"+scan.id()+"/cancel", nil).want(202).object(); got["status"] != "cancelled" {
		t.Errorf("the cancelled scan is %v", got["status"])
	}
	w.user.do("PATCH", "/projects/"+project, object{"name": "renamed"}).want(200)

	// Lists and sums wait for it to come back.
	for _, path := range []string{"/scans", "/projects", "/findings", "/scans?at_least=1000000", "/scans/" + before + "/findings"} {
		a := w.user.do("GET", path, nil)
		a.refused(503, "read_model_unavailable")
		if a.header.Get("Retry-After") == "" {
			t.Errorf("GET %s has no Retry-After", path)
		}
	}
	model.on.Store(false)
	if n := len(w.user.do("GET", "/scans?at_least="+scan.header.Get("Vega-Sequence"), nil).want(200).items()); n != 2 {
		t.Errorf("there are %d scans afterwards, want 2", n)
	}
}

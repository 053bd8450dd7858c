package api

import (
	"context"
	"time"

	"vega/events"
	"vega/projections"
)

// fold is what the read model would hold of one aggregate, made from the log: for answers about a write that the model has not seen yet, and
// about the past. It is the model's own Apply over rows in memory, so both say the same.
type fold struct {
	projections.Tx // nil: the events that are applied touch only the rows below
	project        projections.Project
	repository     projections.Repository
	snapshots      map[events.SnapshotID]projections.Snapshot
	scan           projections.Scan
	apiKey         projections.APIKey
	known          bool
}

// foldOf loads an aggregate and applies its events up to a sequence, 0 meaning all; to a scan also what it had spent by then. ErrNotFound when it has none.
func (s *Server) foldOf(ctx context.Context, a events.Aggregate, upTo events.Seq) (*fold, []events.Recorded, error) {
	past, _, err := s.Store.Load(ctx, a, events.Head{})
	if err != nil {
		return nil, nil, err
	}
	f := &fold{snapshots: map[events.SnapshotID]projections.Snapshot{}}
	for i, r := range past {
		if upTo > 0 && r.Seq > upTo {
			past = past[:i]
			break
		}
		if _, newer := r.Event.(events.Unknown); newer {
			continue
		}
		if err := projections.Apply(f, r); err != nil {
			return nil, nil, err
		}
	}
	if !f.known {
		return nil, nil, projections.ErrNotFound
	}
	if a.Kind != events.ScanAggregate {
		return f, past, nil
	}
	// The newest event alone leaves the same as all of them in their order.
	spent, some, err := s.usageAt(ctx, events.ScanID(a.ID), upTo)
	if err == nil && some {
		err = projections.Apply(f, spent)
	}
	return f, past, err
}

// The part of projections.Tx that one aggregate's events use.

func (f *fold) Project(events.ProjectID) (projections.Project, bool, error) {
	return f.project, f.known, nil
}

func (f *fold) PutProject(p projections.Project) error {
	f.project, f.known = p, true
	return nil
}

func (f *fold) Repository(events.RepositoryID) (projections.Repository, bool, error) {
	return f.repository, f.known, nil
}

func (f *fold) PutRepository(r projections.Repository) error {
	f.repository, f.known = r, true
	return nil
}

func (f *fold) HasSnapshot(_ events.RepositoryID, id events.SnapshotID) (bool, error) {
	_, ok := f.snapshots[id]
	return ok, nil
}

func (f *fold) PutSnapshot(s projections.Snapshot) error {
	f.snapshots[s.ID] = s
	return nil
}

func (f *fold) Scan(events.ScanID) (projections.Scan, bool, error) { return f.scan, f.known, nil }

func (f *fold) PutScan(s projections.Scan) error {
	f.scan, f.known = s, true
	return nil
}

// DayUsage and PutDayUsage keep nothing: a scan does not show what it was on which day.
func (f *fold) DayUsage(projections.Day, events.ScanID) (projections.DayUsage, bool, error) {
	return projections.DayUsage{}, false, nil
}

func (f *fold) PutDayUsage(projections.DayUsage) error { return nil }

func (f *fold) PutFinding(projections.Finding) error { return nil }

// settleTime is how long a write waits for the read model before it answers all the same.
const settleTime = time.Second

// settle waits until the read model has what a write made, or for settleTime.
func (s *Server) settle(ctx context.Context, made []events.Recorded) { s.settleAt(ctx, lastSeq(made)) }

// settleAt waits until the read model has an event, or for settleTime.
func (s *Server) settleAt(ctx context.Context, seq events.Seq) {
	if s.model.isAway() {
		return
	}
	wait, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	_ = s.Runner.WaitFor(wait, seq) // whoever then needs the row finds it older, and folds the log
}

// lastSeq is the sequence of a write's last event, 0 when it made none.
func lastSeq(made []events.Recorded) events.Seq {
	if len(made) == 0 {
		return 0
	}
	return made[len(made)-1].Seq
}

// seqHeader is Vega-Sequence of a write: empty when there was nothing to do.
func seqHeader(made []events.Recorded) string {
	if len(made) == 0 {
		return ""
	}
	return seqText(lastSeq(made))
}

func (f *fold) APIKey(events.APIKeyID) (projections.APIKey, bool, error) {
	return f.apiKey, f.known, nil
}

func (f *fold) PutAPIKey(k projections.APIKey) error {
	f.apiKey, f.known = k, true
	return nil
}

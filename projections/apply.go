package projections

import (
	"fmt"
	"maps"

	"vega/events"
	"vega/services/catalog"
	"vega/services/scan"
)

// Tx is what Apply reads and writes: the rows as they will be after this transaction. Only the runner uses it, one at a time.
type Tx interface {
	// At is the checkpoint that the transaction begins at: what is at or below it is in the rows already.
	At() events.Seq
	Project(events.ProjectID) (Project, bool, error)
	PutProject(Project) error
	Repository(events.RepositoryID) (Repository, bool, error)
	PutRepository(Repository) error
	HasSnapshot(events.RepositoryID, events.SnapshotID) (bool, error)
	PutSnapshot(Snapshot) error
	Scan(events.ScanID) (Scan, bool, error)
	PutScan(Scan) error
	DayUsage(Day, events.ScanID) (DayUsage, bool, error)
	PutDayUsage(DayUsage) error
	PutFinding(Finding) error
	PutTriage(Triage) error
	APIKey(events.APIKeyID) (APIKey, bool, error)
	PutAPIKey(APIKey) error
	// NoneParked spares asking about each: nothing at all is parked.
	NoneParked() bool
	Parked(aggregate string) (Parked, bool, error)
	PutParked(Parked) error
}

// Apply folds one event into the rows. It puts rows only after everything that can fail, so an error leaves none half changed.
func Apply(tx Tx, r events.Recorded) error {
	switch r.Aggregate.Kind {
	case events.ScanAggregate:
		return applyScan(tx, r)
	case events.ProjectAggregate:
		return applyProject(tx, r)
	case events.RepositoryAggregate:
		return applyRepository(tx, r)
	case events.FindingAggregate:
		e, ok := r.Event.(events.FindingTriaged)
		if !ok {
			return nil
		}
		return tx.PutTriage(Triage{
			Triage:  events.Triage{State: e.State, Reason: e.Reason, Note: e.Note, Actor: r.Actor, At: r.At},
			Finding: events.FindingID(r.Aggregate.ID), Project: e.Project, Repository: e.Repository, Version: r.Version, Seq: r.Seq,
		})
	case events.APIKeyAggregate:
		return applyAPIKey(tx, r)
	case events.UsageAggregate:
		return applyUsage(tx, r)
	case events.SlotsAggregate:
		return nil // read from the log alone
	default:
		return nil
	}
}

func applyProject(tx Tx, r events.Recorded) error {
	id := events.ProjectID(r.Aggregate.ID)
	p, known, err := tx.Project(id)
	if err != nil {
		return err
	}
	if _, creates := r.Event.(events.ProjectCreated); !known && !creates {
		return fmt.Errorf("%s of a project that was never created", r.Kind)
	} else if known && creates {
		return fmt.Errorf("%s of a project that exists", r.Kind)
	}
	if !known {
		p = Project{ID: id, CreatedAt: r.At, Created: r.Seq}
	}
	// What an event means to a project stands in its fold alone.
	is := catalog.Project{Name: p.Name, Members: p.Members, Exists: known, Deleted: p.Deleted}.Evolve(r)
	p.Name, p.Members, p.Deleted = is.Name, is.Members, is.Deleted
	p.UpdatedAt, p.Version, p.Seq = r.At, r.Version, r.Seq
	return tx.PutProject(p)
}

func applyRepository(tx Tx, r events.Recorded) error {
	id := events.RepositoryID(r.Aggregate.ID)
	p, known, err := tx.Repository(id)
	if err != nil {
		return err
	}
	if _, creates := r.Event.(events.RepositoryCreated); !known && !creates {
		return fmt.Errorf("%s of a repository that was never created", r.Kind)
	} else if known && creates {
		return fmt.Errorf("%s of a repository that exists", r.Kind)
	}
	// How far the source is stands in the fold alone; here is what the rows keep beside it.
	was := catalog.Repository{Status: p.Status, Upload: p.Upload, Failure: p.Failure, Profile: p.Profile, Deleted: p.Deleted}
	if p.Latest != "" {
		was.Snapshots = []events.SnapshotTaken{{Snapshot: p.Latest}} // that there is one is all that counts
	}
	is := was.Evolve(r)
	var snapshot *Snapshot
	switch e := r.Event.(type) {
	case events.RepositoryCreated:
		p = Repository{ID: id, Project: e.Project, Name: e.Name, SourceType: e.SourceType, GitURL: e.GitURL, GitRef: e.GitRef, CreatedAt: r.At, Created: r.Seq}
	case events.SnapshotTaken:
		p.Latest = e.Snapshot
		known, err := tx.HasSnapshot(id, e.Snapshot)
		if err != nil {
			return err
		}
		if !known {
			snapshot = &Snapshot{Repository: id, ID: e.Snapshot, Files: e.Files, Bytes: e.Bytes, Manifest: e.Manifest, Pack: e.Pack,
				Warnings: e.Warnings, Warned: e.Warned, CreatedAt: r.At, Created: r.Seq}
		}
	case events.ThreatProfileSet:
		p.ProfileBy, p.ProfileAt = r.Actor, r.At
	default:
	}
	p.Status, p.Upload, p.Failure, p.Profile, p.Deleted = is.Status, is.Upload, is.Failure, is.Profile, is.Deleted
	p.UpdatedAt, p.Version, p.Seq = r.At, r.Version, r.Seq
	if snapshot != nil {
		if err := tx.PutSnapshot(*snapshot); err != nil {
			return err
		}
	}
	return tx.PutRepository(p)
}

func applyScan(tx Tx, r events.Recorded) error {
	id := events.ScanID(r.Aggregate.ID)
	s, known, err := tx.Scan(id)
	if err != nil {
		return err
	}
	if _, abandoned := r.Event.(events.ScanAbandoned); abandoned && !known {
		return nil // an id that never became a scan has no row
	}
	if _, queues := r.Event.(events.ScanQueued); !known && !queues {
		return fmt.Errorf("%s of a scan that was never queued", r.Kind)
	}
	to, allowed := scan.Next(s.Status, r.Kind)
	if allowed {
		s.Status = to
	}
	switch e := r.Event.(type) {
	case events.ScanQueued:
		if !known {
			s = Scan{ID: id, Project: e.Project, Repository: e.Repository, Snapshot: e.Snapshot, User: e.User, Paths: e.Paths, Model: e.Model,
				Priority: e.Priority, RerunOf: e.Rerun, Profile: e.Profile, Base: e.Base, Budget: e.Budget, MaxAttempt: e.MaxAttempts, Status: scan.Queued,
				Coverage: events.Coverage{State: events.CoverageUnknown}, CreatedAt: r.At, Created: r.Seq}
		}
		s.Ready = r.Seq
	case events.AttemptClaimed:
		s.Attempt, s.Worker, s.Generation, s.ClaimedAt = e.Attempt, e.Worker, r.Seq, r.At
	case events.RunnerJoined:
		if e.Worker != "" {
			s.Worker = e.Worker
		}
	case events.AttemptStarted:
		s.Pack = e.PackDigest
		if s.StartedAt.IsZero() {
			s.StartedAt = r.At
		}
	case events.StageCompleted:
		s.Stages = append(s.Stages[:len(s.Stages):len(s.Stages)], Stage{e, r.At})
		s.Rejected += e.Rejected
	case events.UnitCompleted:
		units := maps.Clone(s.Units) // the row that has it is not ours to write to
		if units == nil {
			units = map[string]int{}
		}
		units[e.Stage]++
		s.Units = units
	case events.FindingsRecorded:
		for _, f := range e.Findings {
			s.Counts.Add(f.Severity)
		}
		for _, f := range e.Findings {
			if err := tx.PutFinding(Finding{Finding: f, Scan: id, Project: s.Project, Repository: s.Repository, At: r.At, Created: r.Seq}); err != nil {
				return err
			}
		}
	case events.AttemptReleased, events.AttemptExpired:
		s.Ready, s.Worker = r.Seq, ""
	case events.ScanCompleted:
		s.Coverage, s.Counts, s.FinishedAt = e.Coverage, e.Counts, r.At
		if s.Metered == 0 { // otherwise those who made the calls know better
			s.Usage = e.Usage
		}
	case events.ScanFailed:
		s.Failure, s.FinishedAt = &e, r.At
	case events.ScanCancelled:
		s.FinishedAt = r.At
	default:
	}
	s.Version, s.Seq, s.EventAt = r.Version, r.Seq, r.At
	return tx.PutScan(s)
}

// applyUsage keeps what a scan spent: in the scan's row, whose version and sequence stay those of the scan itself, and in the row of the day. Calls may end after their scan has.
func applyUsage(tx Tx, r events.Recorded) error {
	e, ok := r.Event.(events.UsageRecorded)
	if !ok {
		return fmt.Errorf("%s of a scan's usage", r.Kind)
	}
	s, known, err := tx.Scan(events.ScanID(r.Aggregate.ID))
	if err != nil {
		return err
	}
	if !known {
		return fmt.Errorf("%s of a scan that was never queued", r.Kind)
	}
	spent := DayUsage{Day: DayOf(r.At), Scan: s.ID, Project: s.Project, Repository: s.Repository, User: s.User, Queued: s.Created}
	ended := false
	for _, c := range e.Calls {
		if c.Usage == nil || *c.Usage == (events.Usage{}) || c.Step != events.CallSettled && c.Step != events.CallReleased {
			continue
		}
		ended = true
		spent.Usage = plus(spent.Usage, *c.Usage)
		if c.Estimated {
			spent.Estimated++
		}
	}
	if ended {
		before, _, err := tx.DayUsage(spent.Day, s.ID)
		if err != nil {
			return err
		}
		spent.Usage, spent.Estimated, spent.Seq = plus(before.Usage, spent.Usage), before.Estimated+spent.Estimated, r.Seq
		if err := tx.PutDayUsage(spent); err != nil {
			return err
		}
	}
	// Every event carries the whole state, so only the newest one counts.
	s.Usage, s.Reserved, s.Denied, s.Metered, s.MeteredAt = e.Settled, e.Reserved(), e.Denied, r.Seq, r.At
	return tx.PutScan(s)
}

func applyAPIKey(tx Tx, r events.Recorded) error {
	id := events.APIKeyID(r.Aggregate.ID)
	k, known, err := tx.APIKey(id)
	if err != nil {
		return err
	}
	switch e := r.Event.(type) {
	case events.APIKeyCreated:
		if known {
			return fmt.Errorf("%s of an API key that exists", r.Kind)
		}
		k = APIKey{ID: id, User: e.User, Name: e.Name, Scopes: e.Scopes, Admin: e.Admin, ExpiresAt: e.ExpiresAt, CreatedAt: r.At, Created: r.Seq}
	case events.APIKeyRevoked:
		if !known {
			return fmt.Errorf("%s of an API key that was never created", r.Kind)
		}
		k.RevokedAt, k.RevokedBy = r.At, r.Actor
	default:
		return fmt.Errorf("%s of an API key", r.Kind)
	}
	k.Version, k.Seq = r.Version, r.Seq
	return tx.PutAPIKey(k)
}

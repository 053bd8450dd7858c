package projections

import (
	"time"

	"vega/events"
	"vega/services/catalog"
	"vega/services/scan"
)

// Schema is the number of the rows' shape and of what Apply does with events. A model of another number is built anew.
const Schema = 4

// The rows. They are values: whoever changes one puts a new one, and never writes into a slice or map of an old one. Created is the sequence
// of the event that made the row and the order of every list, newest first.
type (
	// Project with its members.
	Project struct {
		ID        events.ProjectID              `json:"id"`
		Name      string                        `json:"name"`
		Members   map[events.UserID]events.Role `json:"members"`
		Deleted   bool                          `json:"deleted,omitempty"`
		CreatedAt time.Time                     `json:"created_at"`
		UpdatedAt time.Time                     `json:"updated_at"`
		Version   events.Version                `json:"version"`
		Created   events.Seq                    `json:"created_seq"`
		Seq       events.Seq                    `json:"seq"`
	}

	// Repository with how far its source is.
	Repository struct {
		ID         events.RepositoryID      `json:"id"`
		Project    events.ProjectID         `json:"project_id"`
		Name       string                   `json:"name"`
		SourceType events.SourceType        `json:"source_type"`
		GitURL     string                   `json:"git_url,omitempty"`
		GitRef     string                   `json:"git_ref,omitempty"`
		Status     catalog.IngestStatus     `json:"ingest_status"`
		Upload     string                   `json:"upload_id,omitempty"`
		Failure    *events.IngestFailed     `json:"ingest_error,omitempty"`
		Latest     events.SnapshotID        `json:"latest_snapshot,omitempty"`
		Profile    *events.ThreatProfileSet `json:"threat_profile,omitempty"`
		ProfileBy  events.Actor             `json:"threat_profile_by,omitempty"`
		ProfileAt  time.Time                `json:"threat_profile_at,omitzero"`
		Deleted    bool                     `json:"deleted,omitempty"`
		CreatedAt  time.Time                `json:"created_at"`
		UpdatedAt  time.Time                `json:"updated_at"`
		Version    events.Version           `json:"version"`
		Created    events.Seq               `json:"created_seq"`
		Seq        events.Seq               `json:"seq"`
	}

	// Snapshot of a repository. The same tree captured twice is one row: the first capture's.
	Snapshot struct {
		Repository events.RepositoryID    `json:"repository_id"`
		ID         events.SnapshotID      `json:"id"`
		Files      int                    `json:"files"`
		Bytes      int64                  `json:"bytes"`
		Manifest   events.Object          `json:"manifest"`
		Pack       events.Object          `json:"pack"`
		Warnings   []events.IngestWarning `json:"warnings,omitempty"`
		Warned     int                    `json:"warned,omitempty"`
		CreatedAt  time.Time              `json:"created_at"`
		Created    events.Seq             `json:"created_seq"`
	}

	// Scan with everything but its findings.
	Scan struct {
		ID         events.ScanID       `json:"id"`
		Project    events.ProjectID    `json:"project_id"`
		Repository events.RepositoryID `json:"repository_id"`
		Snapshot   events.SnapshotID   `json:"snapshot_id"`
		User       events.UserID       `json:"user_id"`
		Paths      []string            `json:"paths,omitempty"`
		Model      string              `json:"model,omitempty"`
		Priority   events.Priority     `json:"priority"`
		RerunOf    events.ScanID       `json:"rerun_of,omitempty"`
		Profile    int                 `json:"threat_profile_version,omitempty"`
		Pack       events.Digest       `json:"pack_digest,omitempty"`  // of the engine pack that the last attempt went by
		Base       events.ScanID       `json:"base_scan_id,omitempty"` // the repository's last completed scan when this one was asked for
		Budget     *events.Budget      `json:"budget,omitempty"`       // what this scan may spend, beside what every scan may
		Status     scan.Status         `json:"status"`
		Attempt    int                 `json:"attempt"`
		MaxAttempt int                 `json:"max_attempts"`
		Worker     events.WorkerID     `json:"worker_id,omitempty"`
		Generation events.Seq          `json:"generation,omitempty"`
		Ready      events.Seq          `json:"ready_seq"` // the event that makes it wait; its place in the queue
		Stages     []Stage             `json:"stages,omitempty"`
		Units      map[string]int      `json:"units,omitempty"` // recorded pieces of stages, by stage
		Coverage   events.Coverage     `json:"coverage"`
		Counts     events.Counts       `json:"findings"`
		Rejected   int                 `json:"rejected,omitempty"`
		Usage      events.Usage        `json:"usage"`               // what calls that have ended cost
		Reserved   events.Usage        `json:"reserved,omitzero"`   // what is set aside for calls on their way
		Denied     string              `json:"denied,omitempty"`    // the cap that denied the newest call
		Metered    events.Seq          `json:"usage_seq,omitempty"` // the newest usage event; 0: there was none, and Usage is what the scan's end said
		Failure    *events.ScanFailed  `json:"error,omitempty"`
		CreatedAt  time.Time           `json:"created_at"`
		ClaimedAt  time.Time           `json:"claimed_at,omitzero"`
		StartedAt  time.Time           `json:"started_at,omitzero"`
		FinishedAt time.Time           `json:"finished_at,omitzero"`
		EventAt    time.Time           `json:"event_at,omitzero"` // when the scan's newest event was made
		MeteredAt  time.Time           `json:"usage_at,omitzero"` // when its newest usage event was made
		Version    events.Version      `json:"version"`
		Created    events.Seq          `json:"created_seq"`
		Seq        events.Seq          `json:"seq"`
	}

	// Stage of a scan whose result is recorded.
	Stage struct {
		events.StageCompleted
		FinishedAt time.Time `json:"finished_at"`
	}

	// Finding as one scan saw it. Its id is the same in every scan of the repository.
	Finding struct {
		events.Finding
		Scan       events.ScanID       `json:"scan_id"`
		Project    events.ProjectID    `json:"project_id"`
		Repository events.RepositoryID `json:"repository_id"`
		At         time.Time           `json:"at"`
		Created    events.Seq          `json:"created_seq"`
	}

	// Triage is the current decision about a finding of a repository.
	Triage struct {
		events.Triage
		Finding    events.FindingID    `json:"finding_id"`
		Project    events.ProjectID    `json:"project_id"`
		Repository events.RepositoryID `json:"repository_id"`
		Version    events.Version      `json:"version"`
		Seq        events.Seq          `json:"seq"`
	}

	// DayUsage is what the calls of one scan cost that ended on one day.
	DayUsage struct {
		Day        Day                 `json:"day"`
		Scan       events.ScanID       `json:"scan_id"`
		Project    events.ProjectID    `json:"project_id"`
		Repository events.RepositoryID `json:"repository_id"`
		User       events.UserID       `json:"user_id"`
		Queued     events.Seq          `json:"scan_seq"` // the event that made the scan
		Usage      events.Usage        `json:"usage"`
		Estimated  int64               `json:"estimated_requests,omitempty"` // calls of which nobody said what they cost; what was reserved is charged
		Seq        events.Seq          `json:"seq"`
	}

	// Day is a UTC day, such as "2026-11-01". Days are compared as text.
	Day string

	// APIKey without what proves it.
	APIKey struct {
		ID        events.APIKeyID `json:"id"`
		User      events.UserID   `json:"user_id"`
		Name      string          `json:"name"`
		Scopes    []events.Scope  `json:"scopes"`
		Admin     bool            `json:"admin,omitempty"`
		ExpiresAt time.Time       `json:"expires_at"`
		RevokedAt time.Time       `json:"revoked_at,omitzero"`
		RevokedBy events.Actor    `json:"revoked_by,omitempty"`
		CreatedAt time.Time       `json:"created_at"`
		Version   events.Version  `json:"version"`
		Created   events.Seq      `json:"created_seq"`
		Seq       events.Seq      `json:"seq"`
	}

	// Parked is an aggregate whose event at Seq could not be applied.
	Parked struct {
		Aggregate string     `json:"aggregate"` // "<kind> <id>"
		Seq       events.Seq `json:"seq"`
		Problem   string     `json:"problem"`
		Skipped   int        `json:"skipped"` // events after it that were left out
	}
)

// DayOf is the day of a moment.
func DayOf(t time.Time) Day { return Day(t.UTC().Format(time.DateOnly)) }

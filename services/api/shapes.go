package api

import (
	"cmp"
	"slices"
	"time"

	"vega/events"
	"vega/projections"
	"vega/services/catalog"
	"vega/services/scan"
)

// The shapes of answers and requests. Fields are added, never renamed.

type nothing struct{}

// plain is an answer without a version.
type plain[T any] struct {
	Body T
}

// one is an answer about one thing. A write also says which event it made.
type one[T any] struct {
	ETag     string `header:"ETag" doc:"The version, for If-Match"`
	Sequence string `header:"Vega-Sequence" doc:"Of a write: the sequence of its last event, for at_least"`
	Body     T
}

// gone is an answer without a body.
type gone struct {
	Sequence string `header:"Vega-Sequence"`
}

// many is a page of a list.
type many[T any] struct {
	Body struct {
		Items []T    `json:"items"`
		Next  string `json:"next_cursor,omitempty" doc:"For the next page; absent at the end"`
	}
}

// PageIn is exported because huma does not look into embedded fields that are not.
type PageIn struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"50" doc:"How many items at most"`
	Cursor string `query:"cursor" doc:"next_cursor of the page before"`
}

func (p PageIn) page() projections.Page {
	return projections.Page{Limit: p.Limit, After: projections.Cursor(p.Cursor)}
}

// list makes a page of rows. A list without rows is an empty one, not null.
func list[R, T any](rows []R, next projections.Cursor, shape func(R) T) *many[T] {
	out := &many[T]{}
	out.Body.Items = make([]T, len(rows))
	for i, r := range rows {
		out.Body.Items[i] = shape(r)
	}
	out.Body.Next = string(next)
	return out
}

func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return new(t.UTC())
}

type projectBody struct {
	ID        events.ProjectID `json:"id"`
	Name      string           `json:"name"`
	Role      events.Role      `json:"role" doc:"What the caller may do in it"`
	CreatedAt time.Time        `json:"created_at"`
	UpdatedAt time.Time        `json:"updated_at"`
	Version   events.Version   `json:"version"`
	Sequence  events.Seq       `json:"sequence"`
	Rollup    *rollupBody      `json:"rollup,omitempty" doc:"Only when one project is asked for"`
}

type rollupBody struct {
	Open         events.Counts `json:"open_findings" doc:"Not dismissed, of each repository's last completed scan"`
	Repositories int           `json:"repositories"`
	LastScan     events.ScanID `json:"last_scan_id,omitempty"`
	Usage        usageBody     `json:"usage"`
}

func shapeProject(p projections.Project, role events.Role) projectBody {
	return projectBody{ID: p.ID, Name: p.Name, Role: role, CreatedAt: p.CreatedAt, UpdatedAt: p.UpdatedAt, Version: p.Version, Sequence: p.Seq}
}

type memberBody struct {
	User events.UserID `json:"user_id"`
	Role events.Role   `json:"role"`
}

type repositoryBody struct {
	ID           events.RepositoryID  `json:"id"`
	Project      events.ProjectID     `json:"project_id"`
	Name         string               `json:"name"`
	SourceType   events.SourceType    `json:"source_type"`
	GitURL       string               `json:"git_url,omitempty"`
	GitRef       string               `json:"git_ref,omitempty"`
	IngestStatus catalog.IngestStatus `json:"ingest_status" enum:"pending,ingesting,ready,failed"`
	IngestError  *ingestErrorBody     `json:"ingest_error"`
	Latest       *snapshotBody        `json:"latest_snapshot"`
	CreatedAt    time.Time            `json:"created_at"`
	UpdatedAt    time.Time            `json:"updated_at"`
	Version      events.Version       `json:"version"`
	Sequence     events.Seq           `json:"sequence"`
}

type ingestErrorBody struct {
	Code    string         `json:"code"`
	Message string         `json:"message"`
	Details map[string]any `json:"details"`
}

type snapshotBody struct {
	ID        events.SnapshotID      `json:"id"`
	Digest    events.Digest          `json:"digest"`
	Files     int                    `json:"files"`
	Bytes     int64                  `json:"bytes"`
	Warnings  []events.IngestWarning `json:"warnings"`
	Warned    int                    `json:"warnings_total" doc:"How many there were; the first 100 are listed"`
	CreatedAt time.Time              `json:"created_at"`
}

func shapeRepository(r projections.Repository, latest *projections.Snapshot) repositoryBody {
	b := repositoryBody{ID: r.ID, Project: r.Project, Name: r.Name, SourceType: r.SourceType, GitURL: r.GitURL, GitRef: r.GitRef,
		IngestStatus: r.Status, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt, Version: r.Version, Sequence: r.Seq}
	if f := r.Failure; f != nil {
		b.IngestError = &ingestErrorBody{f.Code, f.Message, f.Details}
		if f.Details == nil {
			b.IngestError.Details = map[string]any{}
		}
	}
	if latest != nil {
		b.Latest = new(shapeSnapshot(*latest))
	}
	return b
}

func shapeSnapshot(s projections.Snapshot) snapshotBody {
	b := snapshotBody{ID: s.ID, Digest: s.Manifest.Digest, Files: s.Files, Bytes: s.Bytes, Warnings: s.Warnings, Warned: max(s.Warned, len(s.Warnings)), CreatedAt: s.CreatedAt}
	if b.Warnings == nil {
		b.Warnings = []events.IngestWarning{}
	}
	return b
}

type profileBody struct {
	Number          int          `json:"version" doc:"Counts the profile's versions from 1; 0: there is none yet"`
	Summary         string       `json:"summary"`
	Assets          []string     `json:"assets"`
	EntryPoints     []string     `json:"entry_points"`
	TrustBoundaries []string     `json:"trust_boundaries"`
	Risks           []string     `json:"risks"`
	OutOfScope      []string     `json:"out_of_scope"`
	By              events.Actor `json:"updated_by"`
	At              *time.Time   `json:"updated_at"`
}

func shapeProfile(r projections.Repository) profileBody {
	var p events.ThreatProfileSet
	if r.Profile != nil {
		p = *r.Profile
	}
	t := p.Profile
	return profileBody{p.Number, t.Summary, texts(t.Assets), texts(t.EntryPoints), texts(t.TrustBoundaries), texts(t.Risks), texts(t.OutOfScope),
		r.ProfileBy, when(r.ProfileAt)}
}

// texts is l, or an empty list where l is none: clients get no null for a list.
func texts(l []string) []string {
	if l == nil {
		return []string{}
	}
	return l
}

type scanBody struct {
	ID            events.ScanID       `json:"id"`
	Project       events.ProjectID    `json:"project_id"`
	Repository    events.RepositoryID `json:"repository_id"`
	Snapshot      events.SnapshotID   `json:"snapshot_id"`
	User          events.UserID       `json:"user_id"`
	Status        scan.Status         `json:"status" enum:"queued,claimed,running,cancelling,completed,failed,cancelled"`
	Attempt       int                 `json:"attempt" doc:"The last attempt, from 1; 0 before the first"`
	MaxAttempts   int                 `json:"max_attempts"`
	Worker        *events.WorkerID    `json:"worker_id"`
	Paths         []string            `json:"paths" doc:"What was asked for; empty means everything"`
	Model         string              `json:"model,omitempty"`
	Priority      events.Priority     `json:"priority"`
	Unranked      bool                `json:"priority_ignored,omitempty" doc:"True when the way scans reach workers here knows no priorities"`
	RerunOf       events.ScanID       `json:"rerun_of,omitempty"`
	Profile       int                 `json:"threat_profile_version,omitempty"`
	Pack          events.Digest       `json:"pack_digest,omitempty" doc:"Of the engine pack that its last attempt went by: prompts, schemas and rules"`
	Base          events.ScanID       `json:"base_scan_id,omitempty" doc:"The repository's last completed scan when this one was asked for"`
	Stage         *string             `json:"stage" doc:"The stage that runs now"`
	Stages        []stageBody         `json:"stages"`
	UnitsDone     map[string]int      `json:"units_done,omitempty" doc:"Of stages that are made of pieces, the one that runs included: how many pieces are recorded, by stage"`
	LastEventAt   *time.Time          `json:"last_event_at,omitempty" doc:"When the newest sign of life came: an event, a line of the live feed, a call to the provider. Only of one scan that a worker has"`
	LastEventAge  *int64              `json:"last_event_age_seconds,omitempty" doc:"How long ago that was"`
	Coverage      coverageBody        `json:"coverage"`
	Findings      events.Counts       `json:"findings"`
	Rejected      int                 `json:"findings_rejected" doc:"Claims whose file, lines or quote did not exist, or that an independent review refuted"`
	Usage         usageBody           `json:"usage" doc:"What calls that have ended cost; it may still change after the scan's end, and neither version nor sequence with it"`
	Reserved      *reservedBody       `json:"reserved,omitempty" doc:"What is set aside for calls on their way; absent when there are none"`
	Budget        *capsBody           `json:"budget,omitempty" doc:"What this scan was given to spend; absent when it has no budget of its own"`
	Caps          *capsBody           `json:"caps,omitempty" doc:"What the scan may spend: of its budget and of what is configured now the smaller; absent when there is no limit"`
	Denied        string              `json:"denied,omitempty" enum:"requests,tokens,cost" doc:"The cap that denied the newest call"`
	Comparison    *comparisonBody     `json:"comparison" doc:"How its findings stand to the scan before; null until they are compared"`
	QueuePosition *int                `json:"queue_position" doc:"Place among the scans that wait, from 1; null when it does not wait, or the queue has no order (sqs)"`
	Error         *scanErrorBody      `json:"error"`
	CreatedAt     time.Time           `json:"created_at"`
	ClaimedAt     *time.Time          `json:"claimed_at"`
	StartedAt     *time.Time          `json:"started_at"`
	FinishedAt    *time.Time          `json:"finished_at"`
	Version       events.Version      `json:"version"`
	Sequence      events.Seq          `json:"sequence"`
}

type stageBody struct {
	Name       string             `json:"name"`
	Status     events.StageStatus `json:"status" enum:"completed,not_configured,skipped,failed"`
	Attempt    int                `json:"attempt"`
	StartedAt  time.Time          `json:"started_at"`
	FinishedAt *time.Time         `json:"finished_at"`
	Detail     string             `json:"detail"`
}

type coverageBody struct {
	State   events.CoverageState    `json:"state" enum:"complete,partial,unknown"`
	Reasons []events.CoverageReason `json:"reasons"`
}

type usageBody struct {
	Requests          int64   `json:"requests"`
	InputTokens       int64   `json:"input_tokens"`
	CachedInputTokens int64   `json:"cached_input_tokens"`
	OutputTokens      int64   `json:"output_tokens"`
	ReasoningTokens   int64   `json:"reasoning_tokens" doc:"Part of the output"`
	CostUSD           float64 `json:"cost_usd"`
}

func shapeUsage(u events.Usage) usageBody {
	return usageBody{u.Requests, u.InputTokens, u.CachedInputTokens, u.OutputTokens, u.ReasoningTokens, dollars(u.CostNanoUSD)}
}

type scanErrorBody struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// shapeScan shows a scan. queue is its place in the queue, 0 when it does not wait.
func (s *Server) shapeScan(r projections.Scan, queue int) scanBody {
	b := scanBody{ID: r.ID, Project: r.Project, Repository: r.Repository, Snapshot: r.Snapshot, User: r.User, Status: r.Status, Attempt: r.Attempt,
		MaxAttempts: r.MaxAttempt, Paths: texts(r.Paths), Model: r.Model, Priority: r.Priority, RerunOf: r.RerunOf, Profile: r.Profile,
		Coverage: coverageBody{cmp.Or(r.Coverage.State, events.CoverageUnknown), r.Coverage.Reasons}, Findings: r.Counts, Rejected: r.Rejected,
		Usage: shapeUsage(r.Usage), Reserved: shapeReserved(r.Reserved), Budget: shapeBudget(r.Budget), Caps: shapeCaps(s.Caps.Within(r.Budget)), Denied: r.Denied, Pack: r.Pack, Base: r.Base, UnitsDone: r.Units, Comparison: shapeComparison(r), CreatedAt: r.CreatedAt, ClaimedAt: when(r.ClaimedAt), StartedAt: when(r.StartedAt), FinishedAt: when(r.FinishedAt),
		Version: r.Version, Sequence: r.Seq, Stages: make([]stageBody, len(r.Stages))}
	if r.Worker != "" {
		b.Worker = new(r.Worker)
	}
	b.Unranked = !s.ranked() && r.Priority != events.Normal
	if queue > 0 && s.ranked() {
		b.QueuePosition = new(queue)
	}
	if f := r.Failure; f != nil {
		b.Error = &scanErrorBody{f.Code, f.Message}
	}
	if b.Coverage.Reasons == nil {
		b.Coverage.Reasons = []events.CoverageReason{}
	}
	for i, st := range r.Stages {
		b.Stages[i] = stageBody{st.Stage, st.Status, st.Attempt, st.StartedAt, when(st.FinishedAt), st.Detail}
	}
	if r.Status == scan.Running || (r.Status == scan.Cancelling && !r.StartedAt.IsZero()) {
		if i := slices.IndexFunc(s.Stages, func(name string) bool {
			return !slices.ContainsFunc(r.Stages, func(st projections.Stage) bool { return st.Stage == name })
		}); i >= 0 {
			b.Stage = &s.Stages[i]
		}
	}
	return b
}

type findingBody struct {
	ID          events.FindingID    `json:"id"`
	Fingerprint events.Fingerprint  `json:"fingerprint"`
	Project     events.ProjectID    `json:"project_id"`
	Repository  events.RepositoryID `json:"repository_id"`
	Scan        events.ScanID       `json:"scan_id" doc:"The scan that saw it so"`
	Rule        string              `json:"rule"`
	Stage       string              `json:"stage"`
	Severity    events.Severity     `json:"severity" enum:"critical,high,medium,low,info"`
	Title       string              `json:"title"`
	Description string              `json:"description"`
	File        string              `json:"file_path"`
	StartLine   int                 `json:"start_line"`
	EndLine     int                 `json:"end_line"`
	Snippet     string              `json:"snippet"`
	Symbol      string              `json:"symbol"`
	CWE         []string            `json:"cwe"`
	Confidence  events.Confidence   `json:"confidence" enum:"high,medium,low"`
	Validation  events.Validation   `json:"validation" enum:"none,static_reviewed,independently_reviewed,reproduced"`
	Evidence    string              `json:"evidence"`
	Remediation string              `json:"remediation"`
	Also        []string            `json:"also" doc:"Further places of the same weakness, path:line"`
	Triage      triageBody          `json:"triage"`
	At          time.Time           `json:"found_at"`
	Version     events.Version      `json:"version" doc:"Of the triage; 0: nobody decided anything"`
}

type triageBody struct {
	State  events.TriageState   `json:"state" enum:"open,confirmed,dismissed"`
	Reason events.DismissReason `json:"reason"`
	Note   string               `json:"note"`
	Actor  events.Actor         `json:"actor"`
	At     *time.Time           `json:"at"`
}

func shapeFinding(v projections.FindingView) findingBody {
	b := findingBody{ID: v.ID, Fingerprint: v.Fingerprint, Project: v.Project, Repository: v.Repository, Scan: v.Scan, Rule: v.Rule, Stage: v.Stage,
		Severity: v.Severity, Title: v.Title, Description: v.Description, File: v.File, StartLine: v.StartLine, EndLine: v.EndLine, Snippet: v.Snippet,
		Symbol: v.Symbol, CWE: texts(v.CWE), Confidence: v.Confidence, Validation: v.Validation, Evidence: v.Evidence, Remediation: v.Remediation,
		Also: texts(v.Also), At: v.At, Version: v.TriageVersion,
		Triage: shapeTriage(v.Triage)}
	return b
}

func shapeTriage(t events.Triage) triageBody {
	return triageBody{cmp.Or(t.State, events.TriageOpen), t.Reason, t.Note, t.Actor, when(t.At)}
}

package postgres

import (
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"vega/events"
	"vega/projections"
	"vega/services/catalog"
	"vega/services/scan"
)

// The tables as the program has them; what they are for stands in the migrations. A key that has two parts joins them with a slash.
var (
	projects = &table[projections.Project]{
		name: "projects", kind: "project", keys: []string{"id"}, key: func(r *projections.Project) string { return string(r.ID) },
		columns: []column[projections.Project]{
			text("id", func(r *projections.Project) *events.ProjectID { return &r.ID }),
			text("name", func(r *projections.Project) *string { return &r.Name }),
			document("members", func(r *projections.Project) *map[events.UserID]events.Role { return &r.Members }),
			flag("deleted", func(r *projections.Project) *bool { return &r.Deleted }),
			moment("created_ns", func(r *projections.Project) *time.Time { return &r.CreatedAt }),
			moment("updated_ns", func(r *projections.Project) *time.Time { return &r.UpdatedAt }),
			number("version", func(r *projections.Project) *events.Version { return &r.Version }),
			number("created_seq", func(r *projections.Project) *events.Seq { return &r.Created }),
			number("seq", func(r *projections.Project) *events.Seq { return &r.Seq }),
		},
	}

	repositories = &table[projections.Repository]{
		name: "repositories", kind: "repository", keys: []string{"id"}, key: func(r *projections.Repository) string { return string(r.ID) },
		columns: []column[projections.Repository]{
			text("id", func(r *projections.Repository) *events.RepositoryID { return &r.ID }),
			text("project_id", func(r *projections.Repository) *events.ProjectID { return &r.Project }),
			text("name", func(r *projections.Repository) *string { return &r.Name }),
			text("source_type", func(r *projections.Repository) *events.SourceType { return &r.SourceType }),
			text("git_url", func(r *projections.Repository) *string { return &r.GitURL }),
			text("git_ref", func(r *projections.Repository) *string { return &r.GitRef }),
			text("ingest_status", func(r *projections.Repository) *catalog.IngestStatus { return &r.Status }),
			text("upload_id", func(r *projections.Repository) *string { return &r.Upload }),
			document("ingest_error", func(r *projections.Repository) **events.IngestFailed { return &r.Failure }),
			text("latest", func(r *projections.Repository) *events.SnapshotID { return &r.Latest }),
			document("profile", func(r *projections.Repository) **events.ThreatProfileSet { return &r.Profile }),
			text("profile_by", func(r *projections.Repository) *events.Actor { return &r.ProfileBy }),
			moment("profile_ns", func(r *projections.Repository) *time.Time { return &r.ProfileAt }),
			flag("deleted", func(r *projections.Repository) *bool { return &r.Deleted }),
			moment("created_ns", func(r *projections.Repository) *time.Time { return &r.CreatedAt }),
			moment("updated_ns", func(r *projections.Repository) *time.Time { return &r.UpdatedAt }),
			number("version", func(r *projections.Repository) *events.Version { return &r.Version }),
			number("created_seq", func(r *projections.Repository) *events.Seq { return &r.Created }),
			number("seq", func(r *projections.Repository) *events.Seq { return &r.Seq }),
		},
	}

	snapshots = &table[projections.Snapshot]{
		name: "snapshots", kind: "snapshot", keys: []string{"repository_id", "id"},
		key: func(r *projections.Snapshot) string { return string(r.Repository) + "/" + string(r.ID) },
		columns: []column[projections.Snapshot]{
			text("repository_id", func(r *projections.Snapshot) *events.RepositoryID { return &r.Repository }),
			text("id", func(r *projections.Snapshot) *events.SnapshotID { return &r.ID }),
			number("files", func(r *projections.Snapshot) *int { return &r.Files }),
			number("bytes", func(r *projections.Snapshot) *int64 { return &r.Bytes }),
			document("manifest", func(r *projections.Snapshot) *events.Object { return &r.Manifest }),
			document("pack", func(r *projections.Snapshot) *events.Object { return &r.Pack }),
			document("warnings", func(r *projections.Snapshot) *[]events.IngestWarning { return &r.Warnings }),
			number("warned", func(r *projections.Snapshot) *int { return &r.Warned }),
			moment("created_ns", func(r *projections.Snapshot) *time.Time { return &r.CreatedAt }),
			number("created_seq", func(r *projections.Snapshot) *events.Seq { return &r.Created }),
		},
	}

	scans = &table[projections.Scan]{
		name: "scans", kind: "scan", keys: []string{"id"}, key: func(r *projections.Scan) string { return string(r.ID) },
		columns: []column[projections.Scan]{
			text("id", func(r *projections.Scan) *events.ScanID { return &r.ID }),
			text("project_id", func(r *projections.Scan) *events.ProjectID { return &r.Project }),
			text("repository_id", func(r *projections.Scan) *events.RepositoryID { return &r.Repository }),
			text("snapshot_id", func(r *projections.Scan) *events.SnapshotID { return &r.Snapshot }),
			text("user_id", func(r *projections.Scan) *events.UserID { return &r.User }),
			list("paths", func(r *projections.Scan) *[]string { return &r.Paths }),
			text("model", func(r *projections.Scan) *string { return &r.Model }),
			text("priority", func(r *projections.Scan) *events.Priority { return &r.Priority }),
			rank("priority_rank", func(r *projections.Scan) int { return priorityRank(r.Priority) }),
			text("rerun_of", func(r *projections.Scan) *events.ScanID { return &r.RerunOf }),
			number("profile_version", func(r *projections.Scan) *int { return &r.Profile }),
			text("base_scan_id", func(r *projections.Scan) *events.ScanID { return &r.Base }),
			text("pack_digest", func(r *projections.Scan) *events.Digest { return &r.Pack }),
			document("budget", func(r *projections.Scan) **events.Budget { return &r.Budget }),
			text("status", func(r *projections.Scan) *scan.Status { return &r.Status }),
			number("attempt", func(r *projections.Scan) *int { return &r.Attempt }),
			number("max_attempts", func(r *projections.Scan) *int { return &r.MaxAttempt }),
			text("worker_id", func(r *projections.Scan) *events.WorkerID { return &r.Worker }),
			number("generation", func(r *projections.Scan) *events.Seq { return &r.Generation }),
			number("ready_seq", func(r *projections.Scan) *events.Seq { return &r.Ready }),
			document("stages", func(r *projections.Scan) *[]projections.Stage { return &r.Stages }),
			document("units", func(r *projections.Scan) *map[string]int { return &r.Units }),
			text("coverage_state", func(r *projections.Scan) *events.CoverageState { return &r.Coverage.State }),
			document("coverage_reasons", func(r *projections.Scan) *[]events.CoverageReason { return &r.Coverage.Reasons }),
			number("critical", func(r *projections.Scan) *int { return &r.Counts.Critical }),
			number("high", func(r *projections.Scan) *int { return &r.Counts.High }),
			number("medium", func(r *projections.Scan) *int { return &r.Counts.Medium }),
			number("low", func(r *projections.Scan) *int { return &r.Counts.Low }),
			number("info", func(r *projections.Scan) *int { return &r.Counts.Info }),
			number("rejected", func(r *projections.Scan) *int { return &r.Rejected }),
			number("requests", func(r *projections.Scan) *int64 { return &r.Usage.Requests }),
			number("input_tokens", func(r *projections.Scan) *int64 { return &r.Usage.InputTokens }),
			number("cached_input_tokens", func(r *projections.Scan) *int64 { return &r.Usage.CachedInputTokens }),
			number("output_tokens", func(r *projections.Scan) *int64 { return &r.Usage.OutputTokens }),
			number("reasoning_tokens", func(r *projections.Scan) *int64 { return &r.Usage.ReasoningTokens }),
			number("cost_nano_usd", func(r *projections.Scan) *int64 { return &r.Usage.CostNanoUSD }),
			number("reserved_requests", func(r *projections.Scan) *int64 { return &r.Reserved.Requests }),
			number("reserved_input_tokens", func(r *projections.Scan) *int64 { return &r.Reserved.InputTokens }),
			number("reserved_output_tokens", func(r *projections.Scan) *int64 { return &r.Reserved.OutputTokens }),
			number("reserved_cost_nano_usd", func(r *projections.Scan) *int64 { return &r.Reserved.CostNanoUSD }),
			text("denied", func(r *projections.Scan) *string { return &r.Denied }),
			number("usage_seq", func(r *projections.Scan) *events.Seq { return &r.Metered }),
			failure("failure_attempt", asNumber, func(f *events.ScanFailed) any { return int64(f.Attempt) }),
			failure("failure_code", asText, func(f *events.ScanFailed) any { return escape(f.Code) }),
			failure("failure_message", asText, func(f *events.ScanFailed) any { return escape(f.Message) }),
			moment("created_ns", func(r *projections.Scan) *time.Time { return &r.CreatedAt }),
			moment("claimed_ns", func(r *projections.Scan) *time.Time { return &r.ClaimedAt }),
			moment("started_ns", func(r *projections.Scan) *time.Time { return &r.StartedAt }),
			moment("finished_ns", func(r *projections.Scan) *time.Time { return &r.FinishedAt }),
			moment("event_ns", func(r *projections.Scan) *time.Time { return &r.EventAt }),
			moment("usage_ns", func(r *projections.Scan) *time.Time { return &r.MeteredAt }),
			number("version", func(r *projections.Scan) *events.Version { return &r.Version }),
			number("created_seq", func(r *projections.Scan) *events.Seq { return &r.Created }),
			number("seq", func(r *projections.Scan) *events.Seq { return &r.Seq }),
		},
	}

	findings = &table[findingRow]{
		name: "findings", kind: "finding", keys: []string{"scan_id", "id"}, key: func(r *findingRow) string { return string(r.Scan) + "/" + string(r.ID) },
		columns: []column[findingRow]{
			text("scan_id", func(r *findingRow) *events.ScanID { return &r.Scan }),
			text("id", func(r *findingRow) *events.FindingID { return &r.ID }),
			text("project_id", func(r *findingRow) *events.ProjectID { return &r.Project }),
			text("repository_id", func(r *findingRow) *events.RepositoryID { return &r.Repository }),
			text("fingerprint", func(r *findingRow) *events.Fingerprint { return &r.Fingerprint }),
			text("rule", func(r *findingRow) *string { return &r.Rule }),
			text("stage", func(r *findingRow) *string { return &r.Stage }),
			text("severity", func(r *findingRow) *events.Severity { return &r.Severity }),
			rank("rank", func(r *findingRow) int { return r.Severity.Rank() }),
			text("title", func(r *findingRow) *string { return &r.Title }),
			text("description", func(r *findingRow) *string { return &r.Description }),
			text("file", func(r *findingRow) *string { return &r.File }),
			number("start_line", func(r *findingRow) *int { return &r.StartLine }),
			number("end_line", func(r *findingRow) *int { return &r.EndLine }),
			text("snippet", func(r *findingRow) *string { return &r.Snippet }),
			text("symbol", func(r *findingRow) *string { return &r.Symbol }),
			list("cwe", func(r *findingRow) *[]string { return &r.CWE }),
			text("confidence", func(r *findingRow) *events.Confidence { return &r.Confidence }),
			text("validation", func(r *findingRow) *events.Validation { return &r.Validation }),
			text("evidence", func(r *findingRow) *string { return &r.Evidence }),
			text("remediation", func(r *findingRow) *string { return &r.Remediation }),
			list("also", func(r *findingRow) *[]string { return &r.Also }),
			moment("recorded_ns", func(r *findingRow) *time.Time { return &r.At }),
			number("created_seq", func(r *findingRow) *events.Seq { return &r.Created }),
			{name: "first_seq", form: asNumber, first: true, value: func(r *findingRow) (any, error) { return int64(r.first), nil }},
		},
	}

	triages = &table[projections.Triage]{
		name: "triages", kind: "triage", keys: []string{"finding_id"}, key: func(r *projections.Triage) string { return string(r.Finding) },
		columns: []column[projections.Triage]{
			text("finding_id", func(r *projections.Triage) *events.FindingID { return &r.Finding }),
			text("project_id", func(r *projections.Triage) *events.ProjectID { return &r.Project }),
			text("repository_id", func(r *projections.Triage) *events.RepositoryID { return &r.Repository }),
			text("state", func(r *projections.Triage) *events.TriageState { return &r.State }),
			text("reason", func(r *projections.Triage) *events.DismissReason { return &r.Reason }),
			text("note", func(r *projections.Triage) *string { return &r.Note }),
			text("actor", func(r *projections.Triage) *events.Actor { return &r.Actor }),
			moment("at_ns", func(r *projections.Triage) *time.Time { return &r.At }),
			number("version", func(r *projections.Triage) *events.Version { return &r.Version }),
			number("seq", func(r *projections.Triage) *events.Seq { return &r.Seq }),
		},
	}

	apiKeys = &table[projections.APIKey]{
		name: "api_keys", kind: "api_key", keys: []string{"id"}, key: func(r *projections.APIKey) string { return string(r.ID) },
		columns: []column[projections.APIKey]{
			text("id", func(r *projections.APIKey) *events.APIKeyID { return &r.ID }),
			text("user_id", func(r *projections.APIKey) *events.UserID { return &r.User }),
			text("name", func(r *projections.APIKey) *string { return &r.Name }),
			list("scopes", func(r *projections.APIKey) *[]events.Scope { return &r.Scopes }),
			flag("admin", func(r *projections.APIKey) *bool { return &r.Admin }),
			moment("expires_ns", func(r *projections.APIKey) *time.Time { return &r.ExpiresAt }),
			moment("revoked_ns", func(r *projections.APIKey) *time.Time { return &r.RevokedAt }),
			text("revoked_by", func(r *projections.APIKey) *events.Actor { return &r.RevokedBy }),
			moment("created_ns", func(r *projections.APIKey) *time.Time { return &r.CreatedAt }),
			number("version", func(r *projections.APIKey) *events.Version { return &r.Version }),
			number("created_seq", func(r *projections.APIKey) *events.Seq { return &r.Created }),
			number("seq", func(r *projections.APIKey) *events.Seq { return &r.Seq }),
		},
	}

	parked = &table[projections.Parked]{
		name: "parked", kind: "parked", keys: []string{"aggregate"}, key: func(r *projections.Parked) string { return r.Aggregate },
		columns: []column[projections.Parked]{
			text("aggregate", func(r *projections.Parked) *string { return &r.Aggregate }),
			number("seq", func(r *projections.Parked) *events.Seq { return &r.Seq }),
			text("problem", func(r *projections.Parked) *string { return &r.Problem }),
			number("skipped", func(r *projections.Parked) *int { return &r.Skipped }),
		},
	}

	usages = &table[projectUsage]{
		name: "project_usage", kind: "project_usage", keys: []string{"project_id"}, key: func(r *projectUsage) string { return string(r.project) },
		columns: []column[projectUsage]{
			text("project_id", func(r *projectUsage) *events.ProjectID { return &r.project }),
			number("requests", func(r *projectUsage) *int64 { return &r.Requests }),
			number("input_tokens", func(r *projectUsage) *int64 { return &r.InputTokens }),
			number("cached_input_tokens", func(r *projectUsage) *int64 { return &r.CachedInputTokens }),
			number("output_tokens", func(r *projectUsage) *int64 { return &r.OutputTokens }),
			number("reasoning_tokens", func(r *projectUsage) *int64 { return &r.ReasoningTokens }),
			number("cost_nano_usd", func(r *projectUsage) *int64 { return &r.CostNanoUSD }),
		},
	}

	dayUsages = &table[projections.DayUsage]{
		name: "day_usage", kind: "day_usage", keys: []string{"day", "scan_id"}, key: func(r *projections.DayUsage) string { return string(r.Day) + "/" + string(r.Scan) },
		columns: []column[projections.DayUsage]{
			text("day", func(r *projections.DayUsage) *projections.Day { return &r.Day }),
			text("scan_id", func(r *projections.DayUsage) *events.ScanID { return &r.Scan }),
			text("project_id", func(r *projections.DayUsage) *events.ProjectID { return &r.Project }),
			text("repository_id", func(r *projections.DayUsage) *events.RepositoryID { return &r.Repository }),
			text("user_id", func(r *projections.DayUsage) *events.UserID { return &r.User }),
			number("scan_seq", func(r *projections.DayUsage) *events.Seq { return &r.Queued }),
			number("requests", func(r *projections.DayUsage) *int64 { return &r.Usage.Requests }),
			number("input_tokens", func(r *projections.DayUsage) *int64 { return &r.Usage.InputTokens }),
			number("cached_input_tokens", func(r *projections.DayUsage) *int64 { return &r.Usage.CachedInputTokens }),
			number("output_tokens", func(r *projections.DayUsage) *int64 { return &r.Usage.OutputTokens }),
			number("reasoning_tokens", func(r *projections.DayUsage) *int64 { return &r.Usage.ReasoningTokens }),
			number("cost_nano_usd", func(r *projections.DayUsage) *int64 { return &r.Usage.CostNanoUSD }),
			number("estimated_requests", func(r *projections.DayUsage) *int64 { return &r.Estimated }),
			number("seq", func(r *projections.DayUsage) *events.Seq { return &r.Seq }),
		},
	}
)

// tableNames are the tables that hold rows.
var tableNames = []string{"projects", "members", "project_usage", "repositories", "snapshots", "scans", "findings", "triages", "api_keys", "parked", "day_usage"}

// findingRow is a finding with the sequence at which its scan first recorded it.
type findingRow struct {
	projections.Finding
	first events.Seq
}

// projectUsage is what a project's scans spent.
type projectUsage struct {
	project events.ProjectID
	events.Usage
}

// add adds what a scan spent beyond before. Like sums over rows it wraps around rather than fails.
func (u *projectUsage) add(now, before events.Usage) {
	u.Requests += now.Requests - before.Requests
	u.InputTokens += now.InputTokens - before.InputTokens
	u.CachedInputTokens += now.CachedInputTokens - before.CachedInputTokens
	u.OutputTokens += now.OutputTokens - before.OutputTokens
	u.ReasoningTokens += now.ReasoningTokens - before.ReasoningTokens
	u.CostNanoUSD += now.CostNanoUSD - before.CostNanoUSD
}

// priorityRank is a priority's place among those that are taken first; unknown ones come last and are not counted.
func priorityRank(p events.Priority) int {
	if i := slices.Index(events.Priorities(), p); i >= 0 {
		return i
	}
	return len(events.Priorities())
}

// failure is a column of why a scan failed; NULL when it did not.
func failure(name string, f form, of func(*events.ScanFailed) any) column[projections.Scan] {
	c := column[projections.Scan]{name: name, form: f, value: func(r *projections.Scan) (any, error) {
		if r.Failure == nil {
			return nil, nil
		}
		return of(r.Failure), nil
	}}
	made := func(r *projections.Scan) *events.ScanFailed {
		if r.Failure == nil {
			r.Failure = &events.ScanFailed{}
		}
		return r.Failure
	}
	c.into = func(r *projections.Scan) any {
		switch name {
		case "failure_attempt":
			return numberFunc(func(v pgtype.Int8) {
				if v.Valid {
					made(r).Attempt = int(v.Int64)
				}
			})
		case "failure_code":
			return textFunc(func(v pgtype.Text) {
				if v.Valid {
					made(r).Code = unescape(v.String)
				}
			})
		default:
			return textFunc(func(v pgtype.Text) {
				if v.Valid {
					made(r).Message = unescape(v.String)
				}
			})
		}
	}
	return c
}

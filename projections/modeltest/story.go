package modeltest

import (
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore/natstest"
	"vega/services/scan"
)

// Story is a hand-made history that touches everything the queries tell apart: four projects with members that come and go, repositories whose
// ingestion worked, failed, overtook itself or was deleted, scans in every status, findings over several scans, triage that changes its
// mind, and calls to the provider. The golden answers are answers about it, so a change here changes them.
func Story(tb testing.TB) *History {
	h := NewHistory(tb)
	u1, u2 := events.ByUser(user(1)), events.ByUser(user(2))

	h.Add(ofProject(1), u1, events.ProjectCreated{Name: "shop <& \"quotes\"> ☃", Owner: user(1)})
	h.Add(ofProject(2), u2, events.ProjectCreated{Name: "bank", Owner: user(2)})
	h.Add(ofProject(3), u1, events.ProjectCreated{Name: "old", Owner: user(1)})
	h.Add(ofProject(4), u1, events.ProjectCreated{Name: "empty", Owner: user(1)})
	h.Add(ofProject(5), u2, events.ProjectCreated{Name: "left by everybody", Owner: user(2)})
	h.Add(ofProject(1), u1, events.MemberSet{User: user(2), Role: events.RoleEditor})
	h.Add(ofProject(1), u1, events.MemberSet{User: user(3), Role: events.RoleViewer})
	h.Add(ofProject(1), u1, events.MemberSet{User: user(3), Role: events.RoleEditor})
	h.Add(ofProject(2), u2, events.MemberSet{User: user(3), Role: events.RoleViewer})
	h.Add(ofProject(2), u2, events.MemberRemoved{User: user(3)})
	h.Add(ofProject(4), u1, events.ProjectRenamed{Name: "still empty"})
	h.Add(ofProject(5), u2, events.MemberRemoved{User: user(2)})

	for n, p := range []int{1: 1, 2: 1, 3: 1, 4: 2, 5: 3, 6: 1} {
		if n == 0 {
			continue
		}
		source := events.RepositoryCreated{Project: project(p), Name: "repository", SourceType: events.SourceUpload}
		if n == 2 {
			source.SourceType, source.GitURL, source.GitRef = events.SourceGit, "https://example.com/shop.git", "main"
		}
		h.Add(ofRepository(n), u1, source)
	}
	// 1: two captures of different trees, the first one again, and an upload that was overtaken.
	h.capture(1, "up_1", 1)
	h.capture(1, "up_2", 2)
	h.capture(1, "up_3", 1)
	h.Add(ofRepository(1), u1, events.IngestStarted{Upload: "up_4"}, events.IngestStarted{Upload: "up_5"})
	h.Add(ofRepository(1), u1, events.IngestFailed{Upload: "up_4", Code: "too_large", Message: "overtaken"})
	h.Add(ofRepository(1), u1, h.taken("up_5", 2))
	h.Add(ofRepository(1), u1,
		events.ThreatProfileSet{Number: 1, Profile: events.ThreatProfile{Summary: "a shop"}},
		events.ThreatProfileSet{Number: 2, Profile: events.ThreatProfile{Summary: "a shop with payments", Assets: []string{"cards"}, EntryPoints: []string{"/pay"}, Risks: []string{"fraud"}}})
	// 2: refused.
	h.Add(ofRepository(2), u1, events.IngestStarted{Upload: "up_1"},
		events.IngestFailed{Upload: "up_1", Code: "archive_escapes", Message: "entry \"../x\"", Details: map[string]any{"entry": "../x", "limit": 12.5, "list": []any{"a", 1.0, nil}}})
	// 3 shares a tree with 1 and is deleted; 4 shares it and stays; 5 is in a deleted project; 6 waits for its source.
	h.capture(3, "up_1", 1)
	h.Add(ofRepository(3), u1, events.RepositoryDeleted{})
	h.capture(4, "up_1", 1)
	h.capture(5, "up_1", 5)
	h.Add(ofRepository(6), u1, events.IngestStarted{Upload: "up_1"})

	// Scans. Numbers are in the order of creation.
	h.queue(1, 1, 1, user(1), events.Normal)
	h.run(1)
	h.Add(ofScan(1), worker(1), stage(1, "inventory", 0), stage(1, "secrets", 2))
	h.Add(ofScan(1), worker(1), events.FindingsRecorded{Attempt: 1, Stage: "secrets", Findings: []events.Finding{
		finding(1, 1, events.SeverityHigh), finding(1, 2, events.SeverityLow), finding(1, 3, events.SeverityCritical)}})
	h.complete(1, events.Counts{Critical: 1, High: 1, Low: 1}, 1)

	h.queue(2, 1, 1, user(1), events.High)
	h.run(2)
	h.Add(ofScan(2), worker(1), events.FindingsRecorded{Attempt: 1, Stage: "secrets", Findings: []events.Finding{finding(1, 9, events.SeverityInfo)}})
	h.Add(ofScan(2), worker(1), events.ScanFailed{Attempt: 1, Code: scan.AttemptsExhausted, Message: "attempt 1 was lost (disconnected) and was the last of 1"})

	h.queue(3, 1, 1, user(2), events.Low)
	h.Add(ofScan(3), u2, events.ScanCancelled{Reason: "not needed"})

	h.queue(4, 1, 2, user(2), events.Normal)
	h.run(4)
	same := finding(1, 1, events.SeverityHigh)
	same.StartLine, same.EndLine, same.Snippet = 41, 42, "moved down"
	h.Add(ofScan(4), worker(1), events.FindingsRecorded{Attempt: 1, Stage: "secrets", Findings: []events.Finding{same, finding(1, 2, events.SeverityMedium)}})
	h.Add(ofScan(4), worker(1), events.FindingsRecorded{Attempt: 1, Stage: "location", Findings: []events.Finding{
		finding(1, 4, events.SeverityHigh), finding(1, 5, events.SeverityHigh), finding(1, 6, events.SeverityInfo), finding(1, 7, "unheard_of")}})
	h.complete(4, events.Counts{High: 3, Medium: 1, Info: 1}, 4)

	h.queue(5, 1, 2, user(1), events.Normal) // running, with findings that are not current yet
	h.run(5)
	h.Add(ofScan(5), worker(1), events.FindingsRecorded{Attempt: 1, Stage: "secrets", Findings: []events.Finding{finding(1, 1, events.SeverityLow), finding(1, 8, events.SeverityCritical)}})

	h.queue(6, 1, 2, user(1), events.Low)
	h.queue(7, 1, 2, user(1), events.Normal)
	h.queue(8, 1, 2, user(2), events.High)
	h.queue(9, 1, 2, user(2), events.Normal)
	h.Add(ofScan(7), worker(1), events.AttemptClaimed{Attempt: 1, Worker: "work_test_1", Host: "h"})
	h.Add(ofScan(7), worker(1), events.AttemptReleased{Attempt: 1, Worker: "work_test_1", Reason: "shutdown", Priority: events.Normal}) // behind 9 now
	h.queue(10, 1, 2, user(1), events.High)
	h.Add(ofScan(10), worker(2), events.AttemptClaimed{Attempt: 1, Worker: "work_test_2"}) // claimed

	h.queue(11, 1, 2, user(1), events.Normal)
	h.run(11)
	h.Add(ofScan(11), u1, events.CancelRequested{Reason: "wrong branch"}) // cancelling

	h.queue(12, 4, 1, user(2), events.High)
	h.run(12)
	h.Add(ofScan(12), events.BySystem("maintenance"), events.AttemptExpired{Attempt: 1, Worker: "work_test_1", Reason: "disconnected", Priority: events.High})
	h.Add(ofScan(12), worker(2), events.AttemptClaimed{Attempt: 2, Worker: "work_test_2"}, events.AttemptStarted{Attempt: 2, Worker: "work_test_2", Engine: "1.0.0", PackDigest: "sha256:pack"})
	h.Add(ofScan(12), worker(2), stage(2, "inventory", 0), events.FindingsRecorded{Attempt: 2, Stage: "secrets", Findings: []events.Finding{finding(4, 1, events.SeverityCritical), finding(4, 2, events.SeverityHigh)}})
	h.complete(12, events.Counts{Critical: 1, High: 1}, 2)

	h.queue(13, 3, 1, user(1), events.Normal) // of the deleted repository
	h.queue(14, 5, 5, user(1), events.High)   // of the deleted project
	h.Add(ofScan(15), u1, events.ScanAbandoned{User: user(1)})
	h.Add(ofScan(16), u1, events.ScanQueued{Project: project(1), Repository: repository(1), Snapshot: snapshot(1), User: user(1), Paths: []string{"src", "lib/a b"}, Model: "gpt", Priority: events.Low, MaxAttempts: 2, Rerun: scanID(1), Profile: 2, Base: scanID(4), Budget: &events.Budget{Requests: 7, CostNanoUSD: 9_007_199_254_740_993}})
	h.Add(ofScan(16), events.BySystem("maintenance"), events.ScanQueued{Project: project(1), Repository: repository(1), Snapshot: snapshot(1), User: user(1), Paths: []string{"src", "lib/a b"}, Model: "gpt", Priority: events.Low, MaxAttempts: 2, Rerun: scanID(1), Profile: 2, Base: scanID(4), Budget: &events.Budget{Requests: 7, CostNanoUSD: 9_007_199_254_740_993}}) // the hint again
	h.queue(17, 4, 1, user(2), events.Normal)
	h.run(17)
	h.Add(ofScan(17), worker(1), unit("audit", "a"), unit("audit", "b"), unit("verify", "a"))
	h.Add(ofScan(17), worker(1), events.FindingsRecorded{Attempt: 1, Stage: "secrets", Findings: []events.Finding{finding(4, 2, events.SeverityLow)}})
	h.Add(events.SlotsOf(natstest.Region, user(1)), u1, events.Slots{User: user(1), Active: []events.Slot{{Scan: scanID(16), At: time.Unix(1e9, 0).UTC()}}})

	// Triage.
	h.triage(1, 1, events.TriageOpen, events.TriageConfirmed, "", "seen it")
	h.triage(1, 4, events.TriageOpen, events.TriageDismissed, events.FalsePositive, "a test key")
	h.triage(1, 5, events.TriageOpen, events.TriageDismissed, events.AcceptedRisk, "")
	h.triage(1, 5, events.TriageDismissed, events.TriageOpen, "", "not accepted after all")
	h.triage(4, 2, events.TriageOpen, events.TriageDismissed, events.WillNotFix, "")
	h.Add(ofProject(3), u1, events.ProjectDeleted{})

	// API keys: two of one user, one of them revoked, and another user's.
	later := time.Date(2027, 1, 2, 3, 4, 5, 6, time.UTC)
	h.Add(ofKey(1), u1, events.APIKeyCreated{User: user(1), Name: "CI", Secret: events.DigestOf([]byte("1")), Scopes: []events.Scope{events.ScopeRead, events.ScopeScan}, ExpiresAt: later})
	h.Add(ofKey(2), u2, events.APIKeyCreated{User: user(2), Name: "bot \u202e", Secret: events.DigestOf([]byte("2")), Scopes: []events.Scope{events.ScopeAdmin}, Admin: true, ExpiresAt: later})
	h.Add(ofKey(3), u1, events.APIKeyCreated{User: user(1), Name: "old", Secret: events.DigestOf([]byte("3")), Scopes: []events.Scope{events.ScopeTriage}, ExpiresAt: later.Add(-time.Hour)})
	h.Add(ofKey(1), u2, events.APIKeyRevoked{})
	h.spending()
	return h
}

func worker(n int) events.Actor { return events.ByWorker(workerID(n)) }

func workerID(n int) events.WorkerID {
	return []events.WorkerID{"", "work_test_1", "work_test_2"}[n]
}

func (h *History) capture(repo int, upload string, tree int) {
	h.Add(ofRepository(repo), events.ByUser(user(1)), events.IngestStarted{Upload: upload})
	h.Add(ofRepository(repo), events.ByUser(user(1)), h.taken(upload, tree))
}

func (h *History) taken(upload string, tree int) events.SnapshotTaken {
	e := events.SnapshotTaken{Upload: upload, Snapshot: snapshot(tree), Files: 100 * tree, Bytes: 1 << (32 + tree), Manifest: object("manifest.json", tree), Pack: object("pack.tar.zst", tree)}
	if tree == 2 {
		e.Warnings, e.Warned = []events.IngestWarning{{Path: "aux.c", Code: "windows_name"}, {Path: "A\u202e.c", Code: "bidi"}}, 2
	}
	return e
}

func (h *History) queue(n, repo, tree int, by events.UserID, p events.Priority) {
	in := map[int]int{1: 1, 3: 1, 4: 2, 5: 3, 6: 1}[repo]
	h.Add(ofScan(n), events.ByUser(by), events.ScanQueued{Project: project(in), Repository: repository(repo), Snapshot: snapshot(tree), User: by, Priority: p, MaxAttempts: 3})
}

// run claims and starts a queued scan.
func (h *History) run(n int) {
	h.Add(ofScan(n), worker(1), events.AttemptClaimed{Attempt: 1, Worker: workerID(1), Host: "host-1"})
	h.Add(ofScan(n), worker(1), events.AttemptStarted{Attempt: 1, Worker: workerID(1), Engine: "1.0.0", PackDigest: "sha256:pack"})
}

func (h *History) complete(n int, counts events.Counts, money int64) {
	h.Add(ofScan(n), worker(1), events.ScanCompleted{Attempt: 1, Counts: counts, Rejected: 2,
		Coverage: events.Coverage{State: events.CoveragePartial, Reasons: []events.CoverageReason{{Stage: "audit", Code: "not_configured", Message: "no model is configured"}, {Path: "a.bin", Code: "binary", Message: "binary"}}},
		Usage:    events.Usage{Requests: money, InputTokens: 1000 * money, CachedInputTokens: 10 * money, OutputTokens: 7 * money, CostNanoUSD: 9_007_199_254_740_993 + money}})
}

func (h *History) triage(repo, n int, from, to events.TriageState, reason events.DismissReason, note string) {
	f := finding(repo, n, events.SeverityHigh)
	in := map[int]int{1: 1, 4: 2}[repo]
	h.Add(events.FindingOf(natstest.Region, f.ID), events.ByUser(user(2)), events.FindingTriaged{Project: project(in), Repository: repository(repo), Fingerprint: f.Fingerprint, From: from, State: to, Reason: reason, Note: note})
}

func stage(attempt int, name string, rejected int) events.StageCompleted {
	result := object(name+".json", attempt)
	return events.StageCompleted{Attempt: attempt, Stage: name, Status: events.StageDone, StartedAt: time.Unix(1e9, 42).UTC(), Result: &result, Rejected: rejected,
		Artifacts: []events.Object{object("v16-report.json", attempt)}, Reasons: []events.CoverageReason{{Stage: name, Code: "limit_reached", Message: "5,000 findings"}}}
}

// unit is a piece of a stage.
func unit(stage, name string) events.UnitCompleted {
	return events.UnitCompleted{Attempt: 1, Stage: stage, Unit: name, Status: events.StageDone, StartedAt: time.Unix(1e9, 42).UTC()}
}

// statuses are those that a stored scan can have.
func statuses() []scan.Status {
	return []scan.Status{scan.Queued, scan.Claimed, scan.Running, scan.Cancelling, scan.Completed, scan.Failed, scan.Cancelled}
}

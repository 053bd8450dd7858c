package api

import (
	"testing"

	"vega/events"
	"vega/services/scan"
)

// One path from sign-in to triage, over real HTTP.
func TestTheMainPath(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	u := w.user
	project := u.project()
	repository := u.repository(project)
	u.do("POST", "/repositories/"+repository+"/scans", object{}).refused(409, "repository_not_ready")
	up := u.do("POST", "/repositories/"+repository+"/source", zipOf(t, map[string]string{"a/b.txt": "hello\n"})).want(202).object()
	if up["ingest_status"] != "ready" || up["repository_id"] != repository || up["snapshot_id"] == "" {
		t.Errorf("upload: %v", up)
	}
	repo := u.do("GET", "/repositories/"+repository, nil).want(200).object()
	latest := repo["latest_snapshot"].(object)
	if repo["ingest_status"] != "ready" || repo["ingest_error"] != nil || latest["id"] != up["snapshot_id"] || latest["files"] != 1.0 || latest["bytes"] != 6.0 {
		t.Errorf("repository: %v", repo)
	}
	made := u.do("POST", "/repositories/"+repository+"/scans", object{"priority": "high", "paths": []string{"a/"}}).want(202)
	id := made.id()
	if s := made.object(); s["status"] != "queued" || s["queue_position"] != 1.0 || s["snapshot_id"] != up["snapshot_id"] || s["priority"] != "high" || made.header.Get("Vega-Sequence") == "" {
		t.Errorf("scan: %s", made.body)
	}
	k := w.claim(id)
	k.start()
	k.stage("inventory")
	if s := u.do("GET", "/scans/"+id, nil).want(200).object(); s["status"] != "running" || s["stage"] != "secrets" || s["attempt"] != 1.0 || s["worker_id"] != "work_test_1" {
		t.Errorf("running: %v", s)
	}
	f := finding(repository, "a/b.txt", 1, events.SeverityHigh)
	k.do(scan.RecordFindings{Generation: k.generation, Stage: "secrets", Findings: []events.Finding{f}})
	k.complete()
	s := u.do("GET", "/scans/"+id, nil).want(200).object()
	if s["status"] != "completed" || s["coverage"].(object)["state"] != "partial" || s["findings"].(object)["high"] != 1.0 || s["usage"].(object)["cost_usd"] != 1.5 ||
		s["stages"].([]any)[0].(object)["finished_at"] == nil || s["finished_at"] == nil || s["queue_position"] != nil || s["error"] != nil {
		t.Errorf("completed: %v", s)
	}
	found := u.do("GET", "/scans/"+id+"/findings", nil).want(200).items()
	if len(found) != 1 || found[0]["id"] != string(f.ID) || found[0]["triage"].(object)["state"] != "open" {
		t.Errorf("findings: %v", found)
	}
	done := u.do("PATCH", "/findings/"+string(f.ID), object{"state": "dismissed", "reason": "false_positive", "note": "a test key"}).want(200).object()
	if tr := done["triage"].(object); tr["state"] != "dismissed" || tr["reason"] != "false_positive" || tr["actor"] != "user:"+string(u.user) || tr["at"] == nil {
		t.Errorf("triage: %v", done)
	}
	types := []any{}
	for _, e := range u.do("GET", "/scans/"+id+"/history", nil).want(200).items() {
		types = append(types, e["type"])
	}
	if len(types) != 6 || types[0] != "scan.queued" || types[5] != "scan.completed" {
		t.Errorf("history: %v", types)
	}
}

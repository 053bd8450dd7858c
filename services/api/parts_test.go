package api

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"vega/events"
	"vega/services/dispatch"
	"vega/services/fleet"
	"vega/services/report"
	"vega/services/scan"
)

// finished is a completed scan with two findings and a report, and its artifact.
func (w *world) finished() (id string, repository string, artifact events.Object) {
	w.t.Helper()
	repository = w.user.ready(w.user.project())
	id = w.user.do("POST", "/repositories/"+repository+"/scans", object{"paths": []string{"main.go"}}).want(202).id()
	k := w.claim(id)
	k.start()
	worst, least := finding(repository, "main.go", 1, events.SeverityCritical), finding(repository, "README.md", 1, events.SeverityLow)
	k.do(scan.RecordFindings{Generation: k.generation, Stage: "secrets", Findings: []events.Finding{least, worst}})
	var doc bytes.Buffer
	must(w.t, report.JSON(&doc, report.Document{Scan: events.ScanID(id), Status: "completed", Findings: []report.Finding{{Finding: worst, LineHash: "abcdef:1"}, {Finding: least, LineHash: "fedcba:1"}}}))
	artifact = events.Object{Name: "v16-report.json", Key: "scans/" + id + "/report", Digest: events.DigestOf(doc.Bytes()), Bytes: int64(doc.Len()), MediaType: "application/json"}
	_, err := w.files.Put(context.Background(), artifact.Key, bytes.NewReader(doc.Bytes()))
	must(w.t, err)
	page := artifact
	page.Name, page.MediaType = "logs/page.html", "text/html"
	k.stage("report", artifact, page)
	k.complete()
	return id, repository, artifact
}

// A scan that ends in the middle of a stage keeps what the pieces of that stage have left.
func TestArtifactsOfPiecesAreThereBeforeTheirStageIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	id := w.user.do("POST", "/repositories/"+w.user.ready(w.user.project())+"/scans", object{}).want(202).id()
	k := w.claim(id)
	k.start()
	text := []byte("what was said")
	o := events.Object{Name: "transcript-audit-c1.jsonl", Key: "scans/" + id + "/c1", Digest: events.DigestOf(text), Bytes: int64(len(text)), MediaType: "application/jsonl"}
	_, err := w.files.Put(t.Context(), o.Key, bytes.NewReader(text))
	must(t, err)
	k.do(scan.CompleteUnit{Generation: k.generation, Result: events.UnitCompleted{Stage: "audit", Unit: "c1", Status: events.StageDone, StartedAt: time.Now().UTC(), Artifacts: []events.Object{o}}})
	for _, then := range []func(){
		func() {},
		func() {
			w.user.do("POST", "/scans/"+id+"/cancel", object{}).want(202)
			k.do(scan.ConfirmCancel{Generation: k.generation})
		},
	} {
		then()
		rows := w.user.do("GET", "/scans/"+id+"/artifacts", nil).want(200).items()
		if len(rows) != 1 || rows[0]["name"] != o.Name || rows[0]["stage"] != "audit" {
			t.Errorf("artifacts: %v", rows)
		}
		if got := w.user.do("GET", "/scans/"+id+"/artifacts/"+o.Name, nil).want(200); string(got.body) != string(text) {
			t.Errorf("it is served as %q", got.body)
		}
	}
}

func TestArtifactsAreWhatTheEventRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	id, _, o := w.finished()
	rows := w.user.do("GET", "/scans/"+id+"/artifacts", nil).want(200).items()
	if len(rows) != 2 || rows[0]["name"] != o.Name || rows[0]["digest"] != string(o.Digest) || rows[0]["bytes"] != float64(o.Bytes) || rows[0]["stage"] != "report" || rows[0]["key"] != nil {
		t.Errorf("artifacts: %v", rows)
	}
	a := w.user.do("GET", "/scans/"+id+"/artifacts/"+o.Name, nil).want(200)
	if events.DigestOf(a.body) != o.Digest || a.header.Get("Content-Disposition") != "attachment; filename=v16-report.json" || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("%d bytes with %v", len(a.body), a.header)
	}
	// What the engine calls HTML is still only a file to a browser.
	a = w.user.do("GET", "/scans/"+id+"/artifacts/logs/page.html", nil).want(200)
	if a.header.Get("Content-Security-Policy") != "sandbox" || a.header.Get("X-Content-Type-Options") != "nosniff" || !strings.HasPrefix(a.header.Get("Content-Disposition"), "attachment") {
		t.Errorf("headers %v", a.header)
	}
	for _, name := range []string{"", "other", "../" + id, "..%2f..%2fx", "logs", o.Key, "v16-report.json/"} {
		w.user.do("GET", "/scans/"+id+"/artifacts/"+name, nil).want(404)
	}
	// Other bytes of the same length break off before their end; of another length they do not begin.
	stored, size, err := w.files.Open(t.Context(), o.Key)
	must(t, err)
	b, err := io.ReadAll(stored)
	must(t, errors.Join(err, stored.Close()))
	b[len(b)/2] ^= 1
	_, err = w.files.Put(t.Context(), o.Key, bytes.NewReader(b))
	must(t, err)
	if a, err := w.user.try("GET", "/scans/"+id+"/artifacts/"+o.Name, nil); err == nil && len(a.body) == int(size) {
		t.Error("changed bytes were served whole")
	}
	_, err = w.files.Put(t.Context(), o.Key, strings.NewReader("short"))
	must(t, err)
	w.user.do("GET", "/scans/"+id+"/artifacts/"+o.Name, nil).refused(500, "object_corrupt")
	must(t, w.files.Delete(t.Context(), o.Key))
	w.user.do("GET", "/scans/"+id+"/artifacts/"+o.Name, nil).refused(410, "object_gone")
}

func TestCopyProvenHoldsBackTheEnd(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for _, n := range []int{0, 1, 64 << 10, 64<<10 + 1, 300 << 10} {
		data := bytes.Repeat([]byte("v"), n)
		rec := httptest.NewRecorder()
		must(t, copyProven(rec, bytes.NewReader(data)))
		if !bytes.Equal(rec.Body.Bytes(), data) {
			t.Errorf("%d of %d bytes arrived", rec.Body.Len(), n)
		}
		rec = httptest.NewRecorder()
		err := copyProven(rec, io.MultiReader(bytes.NewReader(data), errReader{boom}))
		if !errors.Is(err, boom) || (n > 0 && rec.Body.Len() >= n) {
			t.Errorf("%d bytes and an error: %d went out, %v", n, rec.Body.Len(), err)
		}
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestExports(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	id, repository, _ := w.finished()
	first := finding(repository, "main.go", 1, events.SeverityCritical).ID
	w.user.do("PATCH", "/findings/"+string(first), object{"state": "dismissed", "reason": "accepted_risk"}).want(200)
	for _, f := range exportForms {
		posted := w.user.do("POST", "/scans/"+id+"/exports", object{"format": f.name}).want(200)
		linked := w.user.do("GET", "/scans/"+id+"/exports/"+f.name, nil).want(200)
		if !bytes.Equal(posted.body, linked.body) || posted.header.Get("Content-Type") != f.mediaType || !strings.Contains(posted.header.Get("Content-Disposition"), id+f.suffix) || posted.header.Get("Vega-Coverage") != "partial" {
			t.Errorf("%s: %v", f.name, posted.header)
		}
		switch f.name {
		case "json":
			d := posted.object()
			found := d["findings"].([]any)
			if d["scan_id"] != id || d["status"] != "completed" || d["coverage"].(object)["state"] != "partial" || len(found) != 2 || found[0].(object)["triage"].(object)["state"] != "dismissed" {
				t.Errorf("json: %s", posted.body)
			}
		case "sarif":
			results := posted.object()["runs"].([]any)[0].(object)["results"].([]any)
			if len(results) != 2 || results[0].(object)["partialFingerprints"].(object)["primaryLocationLineHash"] != "abcdef:1" {
				t.Errorf("sarif: %s", posted.body)
			}
		case "csv":
			if rows, err := csv.NewReader(bytes.NewReader(posted.body)).ReadAll(); err != nil || len(rows) != 5 {
				t.Errorf("csv: %d rows, %v", len(rows), err)
			}
		}
	}
	queued := w.user.do("POST", "/scans/"+id+"/rerun", nil).want(202)
	if o := queued.object(); o["rerun_of"] != id || o["status"] != "queued" || fmt.Sprint(o["paths"]) != "[main.go]" {
		t.Errorf("rerun: %s", queued.body)
	}
	if d := w.user.do("POST", "/scans/"+queued.id()+"/exports", object{"format": "json"}).want(200).object(); d["status"] != "queued" || d["coverage"].(object)["state"] != "unknown" {
		t.Errorf("export of a scan that waits: %v", d)
	}
}

func TestSessionOverHTTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	me := w.user.do("GET", "/auth/me", nil).want(200).object()
	if me["id"] != string(w.user.user) || me["email"] != "user@example.com" || me["admin"] != false {
		t.Errorf("me: %v", me)
	}
	nobody := &client{w: w, t: t}
	next := nobody.do("POST", "/auth/refresh", object{"refresh_token": w.user.refresh}).want(200).object()
	if next["token_type"] != "bearer" || next["expires_in"] != 900.0 {
		t.Errorf("refresh: %v", next)
	}
	nobody.do("POST", "/auth/refresh", object{"refresh_token": w.user.refresh}).refused(401, "unauthenticated")
	again := &client{w: w, t: t, token: next["access_token"].(string)}
	again.do("GET", "/auth/me", nil).refused(401, "unauthenticated") // the reuse ended the session
	for _, c := range []*client{w.login(1), w.login(1)} {
		if c.token == "" {
			t.Fatal("no token")
		}
		c.do("POST", "/auth/logout", nil).want(204)
		c.do("GET", "/auth/me", nil).refused(401, "unauthenticated")
		nobody.do("POST", "/auth/logout", object{"refresh_token": c.refresh}).want(204) // it is over already
	}
	byRefresh := w.login(1)
	nobody.do("POST", "/auth/logout", object{"refresh_token": byRefresh.refresh}).want(204)
	byRefresh.do("GET", "/auth/me", nil).refused(401, "unauthenticated")
	nobody.do("POST", "/auth/logout", nil).refused(422, "invalid_request")
	for _, header := range []string{"Basic dXNlcjpwYXNz", "Bearer", "Bearer ", w.admin.token} {
		nobody.do("GET", "/auth/me", nil, "Authorization", header).refused(401, "unauthenticated")
	}
	// Nothing secret and no address is in the log, and nothing of it in the events.
	logs := w.logs.String()
	for _, secret := range []string{"users-password", "vega-debug-password", w.user.token, w.user.refresh, w.admin.token, "example.com"} {
		if strings.Contains(logs, secret) {
			t.Errorf("the log holds %.12s...", secret)
		}
	}
}

func TestOps(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	x := w.things()
	w.user.do("POST", "/repositories/"+x.repository+"/scans", object{"priority": "low"}).want(202)
	workers := w.admin.do("GET", "/ops/workers", nil).want(200).items()
	if len(workers) != 1 || workers[0]["id"] != "work_test_1" || workers[0]["slots"] != 2.0 || workers[0]["last_heartbeat_at"] == nil || workers[0]["stale"] != false || workers[0]["scans"] == nil {
		t.Errorf("workers: %v", workers)
	}
	q := w.admin.do("GET", "/ops/queue", nil).want(200).object()
	if fmt.Sprint(q["queued"]) != "map[high:0 low:1 normal:0]" || q["active"].(object)["running"] != 1.0 || q["oldest_queued_at"] == nil {
		t.Errorf("queue: %v", q)
	}
	rebuilt := w.admin.do("POST", "/ops/read-model/rebuild", nil).want(200).object()
	if rebuilt["different"] != 0.0 || rebuilt["sequence"] == 0.0 {
		t.Errorf("rebuild: %v, want no differences", rebuilt)
	}
	m := w.admin.do("GET", "/ops/read-model", nil).want(200).object()
	if m["lag"] != 0.0 || m["sequence"] == 0.0 || m["sequence"] != m["last_sequence"] {
		t.Errorf("read model: %v", m)
	}
	w.admin.do("GET", "/ops/parked", nil).want(200).items()
	if limits := w.admin.do("GET", "/ops/limits", nil).want(200).items(); len(limits) == 0 || limits[0]["value"] != 4.0 {
		t.Errorf("limits: %v", limits)
	}
	w.admin.do("GET", "/scans/"+x.scan, nil).want(200)
	text := string((&client{w: w, t: t}).do("GET", "/metrics", nil).want(200).body)
	for _, want := range []string{`vega_scans_queued{priority="low"} 1`, `route="/v1/scans/{scan_id}"`, `vega_http_streams 0`, `vega_read_model_sequence`} {
		if !strings.Contains(text, want) {
			t.Errorf("metrics have no %s", want)
		}
	}
	if strings.Contains(text, x.scan) {
		t.Error("a metric has an id in a label")
	}
}

func TestADeadLetterIsReplayedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{limit: 10})
	x := w.things()
	id := events.ScanID(w.user.do("POST", "/repositories/"+x.repository+"/scans", object{"priority": "high", "paths": []string{"main.go"}}).want(202).id())
	for range 3 { // its three attempts are lost
		k := w.claim(string(id))
		k.do(scan.Expire{Generation: k.generation, Reason: "disconnected"})
	}
	w.user.do("GET", "/ops/dead-letters", nil).want(403)
	w.user.do("POST", "/ops/dead-letters/"+string(id)+"/replay", nil).want(403)
	letters := w.admin.do("GET", "/ops/dead-letters", nil).want(200).items()
	if len(letters) != 1 || letters[0]["id"] != string(id) || letters[0]["attempts"] != 3.0 || letters[0]["replayed_as"] != nil || !strings.Contains(letters[0]["reason"].(string), "disconnected") {
		t.Fatalf("dead letters: %v", letters)
	}
	first := w.admin.do("POST", "/ops/dead-letters/"+string(id)+"/replay", nil).want(202).object()
	again := w.admin.do("POST", "/ops/dead-letters/"+string(id)+"/replay", nil).want(202).object()
	if first["id"] != again["id"] || first["rerun_of"] != string(id) || first["status"] != "queued" || first["priority"] != "high" || fmt.Sprint(first["paths"]) != "[main.go]" {
		t.Errorf("replayed as %v, then %v", first, again)
	}
	dead := w.user.do("GET", "/scans/"+string(id), nil).want(200).object()
	if first["user_id"] != dead["user_id"] || dead["status"] != "failed" {
		t.Errorf("replayed for %v; the dead one is %v", first["user_id"], dead)
	}
	if letters := w.admin.do("GET", "/ops/dead-letters", nil).want(200).items(); letters[0]["replayed_as"] != first["id"] {
		t.Errorf("dead letters after the replay: %v", letters)
	}
	w.admin.do("POST", "/ops/dead-letters/"+x.scan+"/replay", nil).want(409)
	w.admin.do("POST", "/ops/dead-letters/scan_test_nothing/replay", nil).want(404)
	w.admin.do("POST", "/ops/dead-letters/%20/replay", nil).want(404)
}

func TestAWorkerIsAskedToDrain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	m, err := fleet.Join(t.Context(), w.store, fleet.Worker{ID: "work_test_drained", Slots: 1}, time.Minute, slog.New(slog.DiscardHandler))
	must(t, err)
	w.user.do("POST", "/ops/workers/work_test_drained/drain", nil).want(403)
	if got := w.admin.do("POST", "/ops/workers/work_test_drained/drain", nil).want(202).object(); got["draining"] != true {
		t.Errorf("drain: %v", got)
	}
	<-m.Draining()
	w.admin.do("POST", "/ops/workers/work_test_nobody/drain", nil).want(404)
	w.admin.do("POST", "/ops/workers/no..worker/drain", nil).want(404)
}

// Where the queue knows no order, nothing pretends that there is one.
func TestSQSHasNoPriorities(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{change: func(d *Deps) { d.Mode = dispatch.ModeSQS }})
	must(t, dispatch.Ensure(t.Context(), w.store, dispatch.ModeSQS, 0))
	x := w.things()
	s := w.user.do("POST", "/repositories/"+x.repository+"/scans", object{"priority": "high"}).want(202).object()
	if s["priority_ignored"] != true || s["queue_position"] != nil {
		t.Errorf("scan: %v", s)
	}
	q := w.admin.do("GET", "/ops/queue", nil).want(200).object()
	if q["mode"] != "sqs" || q["priorities"] != false || len(q["lanes"].([]any)) != 1 {
		t.Errorf("queue: %v", q)
	}
}

// A bug in a handler is a 500 without details, and the process goes on.
func TestPanicIsAnInternalError(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{change: func(d *Deps) { d.Fleet = FleetFunc(func(context.Context) ([]Worker, error) { panic("secret detail") }) }})
	a := w.admin.do("GET", "/ops/workers", nil, "X-Request-Id", "my-request")
	a.refused(500, "internal")
	if bytes.Contains(a.body, []byte("secret detail")) || a.header.Get("X-Request-Id") != "my-request" {
		t.Errorf("%v %s", a.header, a.body)
	}
	if !strings.Contains(w.logs.String(), `"request_id":"my-request"`) || !strings.Contains(w.logs.String(), "secret detail") {
		t.Error("the log does not tell")
	}
	a = w.admin.do("GET", "/projects", nil, "X-Request-Id", "not\tone")
	if id := a.want(200).header.Get("X-Request-Id"); !strings.HasPrefix(id, "req_") {
		t.Errorf("request id %q", id)
	}
}

// Errors of the parts below reach clients as the table says, and none as its own text.
func TestFailingParts(t *testing.T) {
	t.Parallel()
	boom := fmt.Errorf("password=%s", canary)
	w := newWorld(t, options{change: func(d *Deps) {
		d.Fleet = FleetFunc(func(context.Context) ([]Worker, error) { return nil, boom })
		d.Checks = []Check{FreeSpace(t.TempDir(), 1<<62), {"fine", func(context.Context) error { return nil }}}
	}})
	a := w.admin.do("GET", "/ops/workers", nil)
	a.refused(500, "internal")
	if bytes.Contains(a.body, []byte(canary)) {
		t.Errorf("answer: %s", a.body)
	}
	if d := w.user.do("GET", "/readyz", nil).refused(503, "not_ready"); fmt.Sprint(d["failing"]) != "[disk]" || !strings.Contains(d["problems"].(object)["disk"].(string), "bytes are free") {
		t.Errorf("readyz: %v", d)
	}
}

// A page of another origin cannot make a browser change anything here.
func TestOtherOrigins(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.user.do("POST", "/projects", object{"name": "a"}, "Sec-Fetch-Site", "cross-site").refused(403, "cross_origin")
	w.user.do("POST", "/projects", object{"name": "a"}, "Origin", "https://elsewhere.example").refused(403, "cross_origin")
	w.user.do("POST", "/projects", object{"name": "a"}, "Sec-Fetch-Site", "same-origin").want(201)
	if a := w.user.do("GET", "/projects", nil, "Origin", "https://elsewhere.example").want(200); a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("other origins may read")
	}
}

// Members come and go, and one owner stays.
func TestMembers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	project := w.user.project()
	path := "/projects/" + project + "/members/"
	w.user.do("PUT", path+string(w.other.user), object{"role": "owner"}).want(200)
	w.other.do("PUT", path+string(w.user.user), object{"role": "viewer"}).want(200)
	w.user.do("PATCH", "/projects/"+project, object{"name": "b"}).refused(403, "forbidden")
	w.other.do("DELETE", path+string(w.other.user), nil).refused(409, "last_owner")
	w.other.do("DELETE", path+string(w.user.user), nil).want(204)
	w.user.do("GET", "/projects/"+project, nil).refused(404, "not_found")
	p := w.other.do("PATCH", "/projects/"+project, object{"name": "b"}).want(200).object()
	if p["name"] != "b" || p["role"] != "owner" || p["version"] != 5.0 {
		t.Errorf("project: %v", p)
	}
	sum := w.other.do("GET", "/projects/"+project, nil).want(200).object()["rollup"].(object)
	if sum["repositories"] != 0.0 || sum["open_findings"].(object)["critical"] != 0.0 {
		t.Errorf("rollup: %v", sum)
	}
}

func TestThreatProfile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	x := w.things()
	path := "/repositories/" + x.repository + "/threat-profile"
	if p := w.user.do("GET", path, nil).want(200).object(); p["version"] != 0.0 || p["summary"] != "" || p["assets"] == nil || p["updated_at"] != nil {
		t.Errorf("no profile: %v", p)
	}
	for i := range 2 {
		p := w.user.do("PUT", path, object{"summary": fmt.Sprint("s", i), "assets": []string{"money"}}).want(200).object()
		if p["version"] != float64(i+1) || p["updated_by"] != "user:"+string(w.user.user) || p["updated_at"] == nil || fmt.Sprint(p["assets"]) != "[money]" {
			t.Errorf("profile: %v", p)
		}
	}
	if s := w.user.do("POST", "/repositories/"+x.repository+"/scans", nil).want(202).object(); s["threat_profile_version"] != 2.0 {
		t.Errorf("scan: %v", s)
	}
}

// Cancelling stops a scan that waits at once, asks the worker of one that runs, and is refused for one that is over.
func TestCancel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	repository := w.user.ready(w.user.project())
	waiting := w.user.do("POST", "/repositories/"+repository+"/scans", nil).want(202).id()
	if s := w.user.do("POST", "/scans/"+waiting+"/cancel", object{"reason": "no need"}).want(202).object(); s["status"] != "cancelled" || s["finished_at"] == nil {
		t.Errorf("waiting: %v", s)
	}
	running := w.user.do("POST", "/repositories/"+repository+"/scans", nil).want(202).id()
	k := w.claim(running)
	k.start()
	a := w.user.do("POST", "/scans/"+running+"/cancel", nil).want(202)
	if s := a.object(); s["status"] != "cancelling" || a.header.Get("Vega-Sequence") == "" {
		t.Errorf("running: %v", s)
	}
	w.user.do("POST", "/scans/"+running+"/cancel", nil).want(202) // it is being done
	k.do(scan.ConfirmCancel{Generation: k.generation})
	w.user.do("POST", "/scans/"+running+"/cancel", nil).want(202) // it was done
	ended, _, _ := w.finished()
	if d := w.user.do("POST", "/scans/"+ended+"/cancel", nil).refused(409, "not_allowed"); d["status"] != "completed" || d["command"] != "cancel" {
		t.Errorf("completed: %v", d)
	}
	w.user.do("POST", "/scans/"+running+"/cancel", nil, "If-Match", `"1"`).refused(412, "version_mismatch")
}

// Serve lets running requests end, refuses new ones, and returns.
func TestServeStopsInOrder(t *testing.T) {
	t.Parallel()
	begun, finish := make(chan struct{}), make(chan struct{})
	w := newWorld(t, options{change: func(d *Deps) {
		d.Fleet = FleetFunc(func(context.Context) ([]Worker, error) { close(begun); <-finish; return nil, nil })
	}})
	answered := make(chan answer, 1)
	go func() { answered <- w.admin.do("GET", "/ops/workers", nil) }()
	<-begun
	w.stop()
	for w.api.closing.Err() == nil {
		<-w.api.closing.Done()
	}
	close(finish)
	(<-answered).want(200)
	must(t, <-w.done)
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	if _, err := New(Deps{}); err == nil {
		t.Error("New without parts succeeded")
	}
	w := newWorld(t, options{})
	d := w.api.Deps
	d.MaxAttempts = 0
	if _, err := New(d); err == nil || !strings.Contains(err.Error(), "max attempts") {
		t.Errorf("New without attempts: %v", err)
	}
}

package api

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore/natstest"
	"vega/services/llmproxy"
	"vega/services/report"
	"vega/services/scan"
)

// repo is a repository whose scans a test makes one after another.
type repo struct {
	w    *world
	id   string
	last *report.Ledger // of the newest scan that recorded one
	seen *report.Seen   // the newest scan
}

func (w *world) repo() *repo { return &repo{w: w, id: w.user.ready(w.user.project())} }

// begin starts a scan that finds what is named: a file with .go, a capital letter a critical one.
func (r *repo) begin(words string, body object) (*worker, *report.Seen) {
	r.w.t.Helper()
	if body == nil {
		body = object{}
	}
	id := r.w.user.do("POST", "/repositories/"+r.id+"/scans", body).want(202).id()
	k := r.w.claim(id)
	k.start()
	now := &report.Seen{Scan: events.ScanID(id), Coverage: events.CoverageComplete}
	for name := range strings.FieldsSeq(words) {
		if name == "partial" {
			now.Coverage = events.CoveragePartial
			continue
		}
		severity := events.SeverityMedium
		if name != strings.ToLower(name) {
			severity = events.SeverityCritical
		}
		now.Findings = append(now.Findings, finding(r.id, name+".go", 1, severity))
	}
	if len(now.Findings) > 0 {
		k.do(scan.RecordFindings{Generation: k.generation, Stage: "merge", Findings: now.Findings})
	}
	return k, now
}

// merge records how the scan stands to the one before, as the engine does.
func (r *repo) merge(k *worker, now *report.Seen) {
	r.w.t.Helper()
	l, counts := report.Compare(r.seen, r.last, *now)
	b, err := l.Encode()
	must(r.w.t, err)
	o := events.Object{Name: report.LedgerName, Key: "scans/" + string(now.Scan) + "/1/ledger.json", Digest: events.DigestOf(b), Bytes: int64(len(b)), MediaType: "application/json"}
	_, err = r.w.files.Put(context.Background(), o.Key, bytes.NewReader(b))
	must(r.w.t, err)
	counts.Ledger = &o
	k.do(scan.CompleteStage{Generation: k.generation, Result: events.StageCompleted{Stage: "merge", Status: events.StageDone, StartedAt: time.Now().UTC(), Compared: &counts}})
	r.last, r.seen = &l, now
}

func (r *repo) end(k *worker, now *report.Seen) string {
	k.do(scan.Complete{Generation: k.generation, Coverage: events.Coverage{State: now.Coverage, Reasons: []events.CoverageReason{}}})
	return string(now.Scan)
}

// scan is a whole scan that records its comparison.
func (r *repo) scan(words string) string {
	k, now := r.begin(words, nil)
	r.merge(k, now)
	return r.end(k, now)
}

// old is a whole scan of a release that compared nothing.
func (r *repo) old(words string) string {
	k, now := r.begin(words, nil)
	k.stage("merge")
	r.last, r.seen = nil, now
	return r.end(k, now)
}

// classes are the items of a comparison, in their order, and its counts.
func classes(o object) string {
	var out []string
	for _, i := range o["items"].([]any) {
		out = append(out, strings.TrimSuffix(i.(object)["file_path"].(string), ".go")+"="+i.(object)["class"].(string))
	}
	c := o["counts"].(object)
	return fmt.Sprintf("%s; %v new, %v persisting, %v reopened, %v resolved, %v unknown", strings.Join(out, " "), c["new"], c["persisting"], c["reopened"], c["resolved"], c["unknown"])
}

func TestAScanIsComparedWithTheOneBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{limit: 10})
	r := w.repo()
	get := func(path string) object { return w.user.do("GET", "/scans/"+path, nil).want(200).object() }

	first := r.scan("a b C")
	body := get(first + "/compare")
	if got := classes(body); got != "C=new a=new b=new; 3 new, 0 persisting, 0 reopened, 0 resolved, 0 unknown" || body["base_scan_id"] != nil || body["scan_id"] != first {
		t.Errorf("the first scan: %s, %v", got, body)
	}
	if c := body["coverage"].(object); c["base"] != nil || c["scan"].(object)["state"] != "complete" {
		t.Errorf("coverage: %v", c)
	}
	second := r.scan("b d")
	third := r.scan("partial a D b2")
	fourth := r.scan("d")
	for _, tc := range []struct{ path, want, base string }{
		{second + "/compare", "d=new b=persisting C=resolved a=resolved; 1 new, 1 persisting, 0 reopened, 2 resolved, 0 unknown", first},
		{third + "/compare", "D=new b2=new a=reopened b=unknown d=unknown; 2 new, 0 persisting, 1 reopened, 0 resolved, 2 unknown", second},
		{fourth + "/compare", "d=persisting D=resolved a=resolved b=resolved b2=resolved; 0 new, 1 persisting, 0 reopened, 4 resolved, 0 unknown", third},
		{fourth + "/compare?base=" + third, "d=persisting D=resolved a=resolved b=resolved b2=resolved; 0 new, 1 persisting, 0 reopened, 4 resolved, 0 unknown", third},
		{fourth + "/compare?base=" + second, "d=persisting b=resolved; 0 new, 1 persisting, 0 reopened, 1 resolved, 0 unknown", second},
		{fourth + "/compare?base=" + first, "d=new C=resolved a=resolved b=resolved; 1 new, 0 persisting, 0 reopened, 3 resolved, 0 unknown", first},
		{third + "/compare?class=unknown,reopened", "a=reopened b=unknown d=unknown; 2 new, 0 persisting, 1 reopened, 0 resolved, 2 unknown", second},
		{third + "/compare?class=resolved", "; 2 new, 0 persisting, 1 reopened, 0 resolved, 2 unknown", second},
	} {
		body := get(tc.path)
		if got := classes(body); got != tc.want || body["base_scan_id"] != tc.base {
			t.Errorf("GET %s: %s with %v, want %s with %s", tc.path, got, body["base_scan_id"], tc.want, tc.base)
		}
	}

	s := get(second)
	if c := s["comparison"]; fmt.Sprint(c) != fmt.Sprintf("map[base_scan_id:%s new:1 persisting:1 reopened:0 resolved:2 unknown:0]", first) || s["base_scan_id"] != first {
		t.Errorf("GET scan: %v, base %v", c, s["base_scan_id"])
	}
	if c, ok := get(first)["comparison"].(object); !ok || c["base_scan_id"] != nil || c["new"] != 3.0 {
		t.Errorf("the first scan shows %v", c)
	}

	// An item says who saw it, and what people decided.
	f := finding(r.id, "a.go", 1, events.SeverityMedium)
	w.user.do("PATCH", "/findings/"+string(f.ID), object{"state": "dismissed", "reason": "accepted_risk"}).want(200)
	for _, i := range get(third + "/compare")["items"].([]any) {
		item := i.(object)
		state := item["triage"].(object)["state"]
		if item["id"] != string(f.ID) {
			if state != "open" {
				t.Errorf("%v is %v", item["file_path"], state)
			}
			continue
		}
		if state != "dismissed" || item["first_seen_scan_id"] != first || item["last_seen_scan_id"] != third || item["fingerprint"] != string(f.Fingerprint) || item["severity"] != "medium" || item["start_line"] != 1.0 || item["rule"] != "rule" || item["title"] == "" {
			t.Errorf("item: %v", item)
		}
	}
}

func TestPagesOfAComparisonAddUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{limit: 10})
	r := w.repo()
	r.scan("a b C d e f")
	id := r.scan("partial e f g H i")
	whole := w.user.do("GET", "/scans/"+id+"/compare", nil).want(200).object()
	if _, more := whole["next_cursor"]; more || len(whole["items"].([]any)) != 9 {
		t.Fatalf("whole: %s", classes(whole))
	}
	for _, size := range []int{1, 2, 8, 9} {
		var parts []any
		for cursor := ""; ; {
			page := w.user.do("GET", fmt.Sprintf("/scans/%s/compare?limit=%d&cursor=%s", id, size, cursor), nil).want(200).object()
			parts = append(parts, page["items"].([]any)...)
			if fmt.Sprint(page["counts"]) != fmt.Sprint(whole["counts"]) {
				t.Errorf("a page counts %v, want %v", page["counts"], whole["counts"])
			}
			next, more := page["next_cursor"].(string)
			if !more || len(parts) > 20 {
				break
			}
			cursor = next
		}
		if fmt.Sprint(parts) != fmt.Sprint(whole["items"]) {
			t.Errorf("in pages of %d: %v", size, parts)
		}
	}
}

// Scans of a release that compared nothing, and ledgers that are not there any more, are compared when somebody asks.
func TestScansWithoutALedgerAreComparedByTheirFindings(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{limit: 10})
	r := w.repo()
	get := func(id string) object { return w.user.do("GET", "/scans/"+id+"/compare", nil).want(200).object() }
	first := r.old("a b")
	second := r.old("b c")
	if got := classes(get(first)); got != "a=new b=new; 2 new, 0 persisting, 0 reopened, 0 resolved, 0 unknown" {
		t.Errorf("the first: %s", got)
	}
	body := get(second)
	if got := classes(body); got != "c=new b=persisting a=resolved; 1 new, 1 persisting, 0 reopened, 1 resolved, 0 unknown" || body["base_scan_id"] != first {
		t.Errorf("the second: %s, %v", got, body["base_scan_id"])
	}
	if s := w.user.do("GET", "/scans/"+second, nil).want(200).object(); s["comparison"] != nil {
		t.Errorf("it shows %v without having recorded any", s["comparison"])
	}
	r.scan("a")
	fourth := r.scan("a c")
	want := classes(get(fourth))
	if want != "c=reopened a=persisting; 0 new, 1 persisting, 1 reopened, 0 resolved, 0 unknown" {
		t.Errorf("with ledgers: %s", want)
	}
	must(t, w.files.Delete(t.Context(), "scans/"+fourth+"/1/ledger.json"))
	if got := classes(get(fourth)); got != want {
		t.Errorf("without its ledger: %s, want %s", got, want)
	}
	_, err := w.files.Put(t.Context(), "scans/"+fourth+"/1/ledger.json", strings.NewReader(`{"schema_version":1,"weaknesses":[]}`))
	must(t, err)
	w.user.do("GET", "/scans/"+fourth+"/compare", nil).refused(500, "object_corrupt")
}

func TestWhatCannotBeComparedIsSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{limit: 20})
	r, elsewhere := w.repo(), w.repo()
	first := r.scan("a")
	foreign := elsewhere.scan("a")
	waiting := w.user.do("POST", "/repositories/"+r.id+"/scans", nil).want(202).id()
	refused := func(path string, status int, code, says string) {
		t.Helper()
		a := w.user.do("GET", "/scans/"+path, nil)
		a.refused(status, code)
		if !strings.Contains(string(a.body), says) {
			t.Errorf("GET %s: %s, want %q in it", path, a.body, says)
		}
	}
	refused(waiting+"/compare", 409, "comparison_not_ready", "the scan is queued")
	refused(waiting+"/compare?base="+first, 409, "comparison_not_ready", "the scan is queued")
	w.user.do("POST", "/scans/"+waiting+"/cancel", nil).want(202)
	refused(waiting+"/compare", 409, "comparison_not_ready", "the scan is cancelled and ended before")

	k, now := r.begin("a b", nil)
	running := string(now.Scan)
	refused(running+"/compare", 409, "comparison_not_ready", "the scan is running")
	later := r.old("a")
	refused(later+"/compare?base="+running, 409, "base_not_completed", "the base scan is running")
	refused(later+"/compare?base="+waiting, 409, "base_not_completed", "the base scan is cancelled")
	refused(first+"/compare?base="+first, 422, "invalid_request", "another scan than the one that is compared")
	refused(first+"/compare?base="+later, 422, "invalid_request", "a scan from before")
	refused(later+"/compare?base="+foreign, 422, "invalid_request", "an earlier scan of the same repository")
	w.other.do("GET", "/scans/"+first+"/compare", nil).refused(404, "not_found")

	// Once its findings are compared, a scan that still runs is as good as any.
	r.last, r.seen = nil, &report.Seen{Scan: events.ScanID(first), Findings: []events.Finding{finding(r.id, "a.go", 1, events.SeverityMedium)}}
	r.merge(k, now)
	body := w.user.do("GET", "/scans/"+running+"/compare", nil).want(200).object()
	if got := classes(body); got != "b=new a=persisting; 1 new, 1 persisting, 0 reopened, 0 resolved, 0 unknown" || body["coverage"].(object)["scan"].(object)["state"] != "unknown" {
		t.Errorf("while it runs: %s, %v", got, body["coverage"])
	}
}

func TestTheBaseOfAScanIsTheLastCompletedOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{limit: 20})
	r := w.repo()
	base := func(id string) any { return w.user.do("GET", "/scans/"+id, nil).want(200).object()["base_scan_id"] }
	first := r.scan("a")
	if b := base(first); b != nil {
		t.Errorf("the first scan has the base %v", b)
	}
	k, now := r.begin("a", nil)
	if b := base(string(now.Scan)); b != first {
		t.Errorf("base %v, want %s", b, first)
	}
	k.do(scan.Fail{Generation: k.generation, Code: scan.AttemptsExhausted, Message: "all were lost"})
	again := w.user.do("POST", "/scans/"+first+"/rerun", nil).want(202).id()
	if b := base(again); b != first {
		t.Errorf("a rerun after a failed one: base %v, want %s", b, first)
	}
	replayed := w.admin.do("POST", "/ops/dead-letters/"+string(now.Scan)+"/replay", nil).want(202).object()
	if replayed["base_scan_id"] != first {
		t.Errorf("a replayed one: base %v, want %s", replayed["base_scan_id"], first)
	}
}

// Two scans that overlap cannot know of each other. The next one is told of both.
func TestAScanKnowsOfThoseThatItsBaseOverlappedWith(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{limit: 20})
	r := w.repo()
	overlapped := func(id string) []events.ScanID {
		past, _, err := w.store.Load(t.Context(), events.ScanOf(natstest.Region, events.ScanID(id)), events.Head{})
		must(t, err)
		return past[0].Event.(events.ScanQueued).Overlapped
	}
	first := r.scan("a")
	slow, slowly := r.begin("a b", nil)
	base := r.scan("a") // begins and ends meanwhile
	if got := overlapped(base); len(got) != 0 {
		t.Errorf("before the slow one has ended: %v", got)
	}
	r.merge(slow, slowly)
	r.end(slow, slowly)
	next := r.scan("a b")
	if got := overlapped(next); len(got) != 1 || got[0] != slowly.Scan {
		t.Errorf("after it has ended: %v, want %s and not %s", got, slowly.Scan, first)
	}
	if got := overlapped(r.scan("a b")); len(got) != 0 {
		t.Errorf("the one after that: %v, though its base knows of both", got)
	}
}

func TestScansAreTakenWithoutABaseWhileTheReadModelIsAway(t *testing.T) {
	t.Parallel()
	var model *outage
	w := newWorld(t, options{change: func(d *Deps) {
		model = &outage{Reader: d.Model}
		d.Model = model
	}})
	r := w.repo()
	first := r.scan("a")
	model.on.Store(true)
	s := w.user.do("POST", "/repositories/"+r.id+"/scans", nil).want(202).object()
	if s["base_scan_id"] != nil || s["status"] != "queued" {
		t.Errorf("scan: %v", s)
	}
	w.user.do("GET", "/scans/"+first+"/compare", nil).refused(503, "read_model_unavailable")
}

func TestBudgetOfAScan(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{limit: 20, change: func(d *Deps) { d.Caps = llmproxy.Caps{Requests: 100, Cost: 2_500_000_000} }})
	r := w.repo()
	path := "/repositories/" + r.id + "/scans"
	for _, tc := range []struct{ body, budget, caps string }{
		{`{}`, "<nil>", "map[cost_usd:2.5 requests:100]"},
		{`{"budget":{}}`, "<nil>", "map[cost_usd:2.5 requests:100]"},
		{`{"budget":{"requests":7}}`, "map[requests:7]", "map[cost_usd:2.5 requests:7]"},
		{`{"budget":{"requests":700,"tokens":50000,"cost_usd":2.49}}`, "map[cost_usd:2.49 requests:700 tokens:50000]", "map[cost_usd:2.49 requests:100 tokens:50000]"},
		{`{"budget":{"cost_usd":0.000000001}}`, "map[cost_usd:1e-09]", "map[cost_usd:1e-09 requests:100]"},
		{`{"budget":{"cost_usd":1e-9}}`, "map[cost_usd:1e-09]", "map[cost_usd:1e-09 requests:100]"},
		{`{"budget":{"cost_usd":1.5000000000}}`, "map[cost_usd:1.5]", "map[cost_usd:1.5 requests:100]"},
		{`{"budget":{"cost_usd":3}}`, "map[cost_usd:3]", "map[cost_usd:2.5 requests:100]"},
		{`{"budget":{"cost_usd":123456.123456789}}`, "map[cost_usd:123456.123456789]", "map[cost_usd:2.5 requests:100]"},
	} {
		s := w.user.do("POST", path, []byte(tc.body), "Content-Type", "application/json").want(202).object()
		if fmt.Sprint(s["budget"]) != tc.budget || fmt.Sprint(s["caps"]) != tc.caps {
			t.Errorf("%s: budget %v, caps %v; want %s, %s", tc.body, s["budget"], s["caps"], tc.budget, tc.caps)
		}
		id := s["id"].(string)
		past, _, err := w.store.Load(t.Context(), events.ScanOf(w.store.Region(), events.ScanID(id)), events.Head{})
		must(t, err)
		if b := past[0].Event.(events.ScanQueued).Budget; (b == nil) != (tc.budget == "<nil>") || strings.Contains(tc.body, "123456.") && b.CostNanoUSD != 123_456_123_456_789 {
			t.Errorf("%s: the log has %+v", tc.body, b)
		}
		w.user.do("POST", "/scans/"+id+"/cancel", nil).want(202)
	}
}

func TestABudgetGoesWithReruns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{limit: 20})
	r := w.repo()
	budget := object{"budget": object{"requests": 5, "cost_usd": 1.25}}
	const want = "map[cost_usd:1.25 requests:5]"
	k, now := r.begin("a", budget)
	k.do(scan.Fail{Generation: k.generation, Code: scan.AttemptsExhausted, Message: "all were lost"})
	if s := w.user.do("POST", "/scans/"+string(now.Scan)+"/rerun", nil).want(202).object(); fmt.Sprint(s["budget"]) != want || fmt.Sprint(s["caps"]) != want {
		t.Errorf("rerun: %v", s["budget"])
	}
	if s := w.admin.do("POST", "/ops/dead-letters/"+string(now.Scan)+"/replay", nil).want(202).object(); fmt.Sprint(s["budget"]) != want {
		t.Errorf("replay: %v", s["budget"])
	}
	// It is part of what was asked for.
	path := "/repositories/" + r.id + "/scans"
	first := w.user.do("POST", path, budget, "Idempotency-Key", "k").want(202).id()
	if again := w.user.do("POST", path, budget, "Idempotency-Key", "k").want(202).id(); again != first {
		t.Errorf("the same request made %s and %s", first, again)
	}
	must(t, purge(w, "idempotency.")) // as after a day: the log still knows
	for _, other := range []object{{}, {"budget": object{"requests": 5}}, {"budget": object{"requests": 5, "cost_usd": 1.26}}} {
		w.user.do("POST", path, other, "Idempotency-Key", "k").refused(422, "idempotency_key_reused")
	}
}

func TestPiecesOfStagesAreShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.repo()
	k, now := r.begin("", nil)
	unit := func(stage, name, detail string) {
		k.do(scan.CompleteUnit{Generation: k.generation, Result: events.UnitCompleted{Stage: stage, Unit: name, Status: events.StageDone, Detail: detail, StartedAt: time.Now().UTC()}})
	}
	unit("audit", "auth", "3 findings in auth")
	unit("audit", "cart", "")
	unit("verify", "f1", "")
	id := string(now.Scan)
	s := w.user.do("GET", "/scans/"+id, nil).want(200).object()
	if fmt.Sprint(s["units_done"]) != "map[audit:2 verify:1]" {
		t.Errorf("units: %v", s["units_done"])
	}
	var shown []string
	for _, e := range w.user.do("GET", "/scans/"+id+"/events", nil).want(200).items() {
		if p := e["payload"].(object); p["unit"] != nil {
			shown = append(shown, fmt.Sprint(e["kind"], " ", p["attempt"], " ", p["component"], " ", p["unit"], " ", p["status"], " ", p["message"]))
		}
	}
	if want := []string{"scan_progress 1 audit auth completed 3 findings in auth", "scan_progress 1 audit cart completed cart completed", "scan_progress 1 verify f1 completed f1 completed"}; !slices.Equal(shown, want) {
		t.Errorf("live: %q, want %q", shown, want)
	}
	r.merge(k, now)
	r.end(k, now)
	if s := w.user.do("GET", "/scans/"+id, nil).want(200).object(); fmt.Sprint(s["units_done"]) != "map[audit:2 verify:1]" {
		t.Errorf("after the end: %v", s["units_done"])
	}
}

// Events, lines of the feed and calls to the provider are all signs of life, and a scan that is over gives none.
func TestLastSignOfLife(t *testing.T) {
	t.Parallel()
	ahead := time.Now().Add(time.Hour)
	w := newWorld(t, options{change: func(d *Deps) { d.Now = func() time.Time { return ahead } }})
	r := w.repo()
	waiting := w.user.do("POST", "/repositories/"+r.id+"/scans", nil).want(202).object()
	if waiting["last_event_at"] != nil || waiting["last_event_age_seconds"] != nil {
		t.Errorf("waiting: %v", waiting)
	}
	id := waiting["id"].(string)
	last := func() (at time.Time) {
		t.Helper()
		s := w.user.do("GET", "/scans/"+id, nil).want(200).object()
		at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(s["last_event_at"]))
		must(t, err)
		if age, want := s["last_event_age_seconds"], float64(ahead.Sub(at)/time.Second); age != want {
			t.Errorf("it is %v s old, want %v", age, want)
		}
		return at
	}
	k := w.claim(id)
	claimed := last()
	k.start()
	started := last()
	k.line(1)
	k.heard(1)
	line := last()
	p := w.spender(id)
	p.at = line.Add(time.Second)
	p.record(p.reserve(1))
	called := last()
	if !started.After(claimed) || !line.After(started) || !called.Equal(p.at) {
		t.Errorf("claimed %s, started %s, line %s, called %s", claimed, started, line, called)
	}
	if s := w.user.do("GET", "/scans", nil).want(200).items()[0]; s["last_event_at"] != nil {
		t.Errorf("a list has it: %v", s)
	}
	k.complete()
	if s := w.user.do("GET", "/scans/"+id, nil).want(200).object(); s["last_event_at"] != nil || s["last_event_age_seconds"] != nil {
		t.Errorf("over: %v", s)
	}
}

func TestAThreatProfileIsTakenFromADraft(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{limit: 20})
	r := w.repo()
	path := "/repositories/" + r.id + "/threat-profile"
	w.user.do("POST", path+"/generate", nil).refused(409, "no_draft")
	drafted := func(text string, status events.StageStatus) string {
		k, now := r.begin("", nil)
		o := events.Object{Name: "threat-model.json", Key: "scans/" + string(now.Scan) + "/1/threat-model.json", Digest: events.DigestOf([]byte(text)), Bytes: int64(len(text)), MediaType: "application/json"}
		_, err := w.files.Put(t.Context(), o.Key, strings.NewReader(text))
		must(t, err)
		k.do(scan.CompleteStage{Generation: k.generation, Result: events.StageCompleted{Stage: "threat_model", Status: status, StartedAt: time.Now().UTC(), Result: &o}})
		return r.end(k, now)
	}
	drafted(`{"summary":"a shop","assets":["cards"]}`, events.StageDone)
	newest := drafted(`{"summary":"a shop with payments","assets":["cards"],"entry_points":["/pay"],"risks":["fraud"],"out_of_scope":["docs"]}`, events.StageDone)
	drafted(`{"summary":"half"}`, events.StageFailed)
	r.scan("a") // one that had no need to draft
	tag := w.user.do("GET", path, nil).want(200).header.Get("ETag")
	a := w.user.do("POST", path+"/generate", nil, "If-Match", tag).want(200)
	p := a.object()
	if p["version"] != 1.0 || p["summary"] != "a shop with payments" || fmt.Sprint(p["entry_points"], p["risks"], p["out_of_scope"], p["trust_boundaries"]) != "[/pay] [fraud] [docs] []" || p["updated_by"] != "user:"+string(w.user.user) || a.header.Get("Vega-Sequence") == "" {
		t.Errorf("profile: %v", p)
	}
	if got := w.user.do("GET", path, nil).want(200); got.header.Get("ETag") != a.header.Get("ETag") || got.object()["summary"] != p["summary"] {
		t.Errorf("it reads %s", got.body)
	}
	w.user.do("POST", path+"/generate", nil, "If-Match", tag).refused(412, "version_mismatch")
	again := w.user.do("POST", path+"/generate", nil, "Idempotency-Key", "once").want(200).object()
	if same := w.user.do("POST", path+"/generate", nil, "Idempotency-Key", "once").want(200).object(); again["version"] != 2.0 || same["version"] != 2.0 {
		t.Errorf("once: version %v, then %v", again["version"], same["version"])
	}
	_, err := w.files.Put(t.Context(), "scans/"+newest+"/1/threat-model.json", strings.NewReader(`{"summary":"what nobody drafted"}`))
	must(t, err)
	w.user.do("POST", path+"/generate", nil).refused(500, "object_corrupt")
	drafted(`{"summary":""}`, events.StageDone)
	if d := w.user.do("POST", path+"/generate", nil).refused(409, "draft_not_usable"); d["scan_id"] == nil {
		t.Errorf("details: %v", d)
	}
}

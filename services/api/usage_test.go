package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore/natstest"
	"vega/services/llmproxy"
)

// spender writes a scan's usage as the proxy does: each event carries the running sums.
type spender struct {
	w    *world
	is   events.UsageRecorded
	head events.Head
	id   events.ScanID
	at   time.Time // of the next events; zero: now
	n    int
}

func (w *world) spender(scan string) *spender {
	w.t.Helper()
	row, err := w.model.Scan(context.Background(), events.ScanID(scan))
	must(w.t, err)
	return &spender{w: w, id: row.ID, is: events.UsageRecorded{Project: row.Project, Repository: row.Repository, User: row.User, Open: []events.Reservation{}}}
}

// record stores what happened to calls and returns the event's sequence.
func (p *spender) record(calls ...events.Call) events.Seq {
	p.w.t.Helper()
	for _, c := range calls {
		switch c.Step {
		case events.CallReserved:
			p.is.Open = append(slices.Clone(p.is.Open), *c.Reserved)
		case events.CallSettled, events.CallReleased:
			p.is.Open = slices.DeleteFunc(slices.Clone(p.is.Open), func(r events.Reservation) bool { return r.ID == c.ID })
			if c.Usage != nil {
				p.is.Settled = p.is.Settled.Plus(*c.Usage)
			}
		case events.CallDenied:
			p.is.Denied = c.Reason
		}
	}
	e := p.is
	e.Calls = calls
	at := p.at
	if at.IsZero() {
		at = time.Now().UTC()
	}
	meta := events.Meta{Command: events.NewCommandID(), Actor: events.BySystem("llm-proxy"), At: at}
	made, err := p.w.store.Append(context.Background(), events.UsageOf(natstest.Region, p.id), p.head, meta, e)
	must(p.w.t, err)
	p.head = made[0].Head()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_ = p.w.runner.WaitFor(ctx, made[0].Seq)
	return made[0].Seq
}

// reserve and the others are steps of calls.
func (p *spender) reserve(tokens int64) events.Call {
	p.n++
	r := events.Reservation{ID: fmt.Sprintf("call_%d", p.n), Attempt: 1, InputTokens: tokens, OutputTokens: tokens, CostNanoUSD: tokens * 1_000_000, Until: time.Unix(2e9, 0).UTC()}
	return events.Call{ID: r.ID, Step: events.CallReserved, Attempt: 1, Model: "gpt-5", Reserved: &r}
}

func settled(id string, n int64) events.Call {
	return events.Call{ID: id, Step: events.CallSettled, Attempt: 1, Usage: &events.Usage{Requests: 1, InputTokens: 100 * n, CachedInputTokens: 10 * n, OutputTokens: 20 * n, ReasoningTokens: 5 * n, CostNanoUSD: 250_000_000 * n}}
}

func denied(limit string) events.Call {
	return events.Call{ID: "call_denied", Step: events.CallDenied, Attempt: 1, Reason: limit}
}

func TestAScanShowsWhatItSpends(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{change: func(d *Deps) { d.Caps = llmproxy.Caps{Requests: 100, Cost: 2_500_000_000} }})
	x := w.things()
	k := &worker{w: w, id: events.ScanID(x.scan)}
	row, err := w.model.Scan(t.Context(), k.id)
	must(t, err)
	k.generation = row.Generation
	get := func(query string) object { return w.user.do("GET", "/scans/"+x.scan+query, nil).want(200).object() }
	show := func(s object) string {
		u := s["usage"].(object)
		return fmt.Sprintf("%v %v %v %v %v", u["requests"], u["reasoning_tokens"], u["cost_usd"], s["reserved"], s["denied"])
	}
	before := get("")
	if fmt.Sprint(before["caps"]) != "map[cost_usd:2.5 requests:100]" || before["reserved"] != nil || before["denied"] != nil {
		t.Errorf("before the first call: %v", before)
	}
	p := w.spender(x.scan)
	var seqs []events.Seq
	var want []string
	step := func(shown string, calls ...events.Call) {
		t.Helper()
		seqs = append(seqs, p.record(calls...))
		want = append(want, shown)
		if got := show(get("")); got != shown {
			t.Errorf("after event %d of its usage: %s, want %s", len(seqs), got, shown)
		}
	}
	first, second := p.reserve(1000), p.reserve(10)
	step("0 0 0 map[cost_usd:1.01 requests:2 tokens:2020] <nil>", first, second)
	step("1 10 0.5 map[cost_usd:0.01 requests:1 tokens:20] <nil>", settled(first.ID, 2))
	step("1 10 0.5 map[cost_usd:0.01 requests:1 tokens:20] cost", denied("cost"))
	k.complete() // which says something else
	step("2 15 0.75 <nil> cost", settled(second.ID, 1))
	now := get("")
	if now["status"] != "completed" || now["version"].(float64) != before["version"].(float64)+1 || now["sequence"].(float64) >= float64(seqs[3]) {
		t.Errorf("after a call that ended late: %v", now)
	}

	// The same from the log, as it was and as it is.
	for i, seq := range seqs {
		if got := show(get(fmt.Sprintf("?at=%d", seq))); got != want[i] {
			t.Errorf("as of event %d of its usage: %s, want %s", i+1, got, want[i])
		}
	}
	if got := get(fmt.Sprintf("?at=%d", seqs[0]-1)); show(got) != show(before) {
		t.Errorf("as of before the first call: %v", got)
	}
	if a, b := w.user.do("GET", "/scans/"+x.scan, nil), w.user.do("GET", "/scans/"+x.scan+"?at=1000000", nil); string(a.body) != string(b.body) {
		t.Errorf("now\n%s\nand from the log\n%s", a.body, b.body)
	}

	// Every call, for whoever adds it up.
	var types []string
	for _, e := range w.user.do("GET", "/scans/"+x.scan+"/usage?limit=3", nil).want(200).items() {
		data := e["data"].(object)
		types = append(types, e["type"].(string)+" "+data["calls"].([]any)[0].(object)["step"].(string))
	}
	if got := strings.Join(types, ", "); got != "usage.recorded reserved, usage.recorded settled, usage.recorded denied" {
		t.Errorf("the first three events: %s", got)
	}
	doc := w.user.do("GET", "/scans/"+x.scan+"/exports/json", nil).want(200).object()["usage"].(object)
	if doc["requests"] != 2.0 || doc["reasoning_tokens"] != 15.0 {
		t.Errorf("the export says %v", doc)
	}
	if sum := w.user.do("GET", "/projects/"+x.project, nil).want(200).object()["rollup"].(object)["usage"].(object); sum["requests"] != 2.0 || sum["reasoning_tokens"] != 15.0 {
		t.Errorf("the project spent %v", sum)
	}
}

func TestCapsAreAmongTheLimits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{change: func(d *Deps) { d.Caps = llmproxy.Caps{Tokens: 7000, Cost: 1_250_000_000} }})
	shown := map[string]any{}
	for _, l := range w.admin.do("GET", "/ops/limits", nil).want(200).items() {
		shown[l["name"].(string)] = l["value"]
	}
	if shown["VEGA_LLM_PROXY_MAX_TOKENS_PER_SCAN"] != 7000.0 || shown["VEGA_LLM_PROXY_MAX_COST_USD_PER_SCAN"] != 1.25 || shown["VEGA_LLM_PROXY_MAX_REQUESTS_PER_SCAN"] != 0.0 {
		t.Errorf("limits: %v", shown)
	}
}

func TestWhatIsSpentIsShownWhileTheReadModelIsAway(t *testing.T) {
	t.Parallel()
	var model *outage
	w := newWorld(t, options{change: func(d *Deps) {
		model = &outage{Reader: d.Model}
		d.Model = model
	}})
	x := w.things()
	p := w.spender(x.scan)
	p.record(settled("a", 1))
	p.record(p.reserve(5), denied("tokens"))
	shown := func() string {
		o := w.user.do("GET", "/scans/"+x.scan, nil).want(200).object()
		if age, ok := o["last_event_age_seconds"].(float64); !ok || age < 0 || age > 600 {
			t.Errorf("the last event is %v s old", o["last_event_age_seconds"])
		}
		delete(o, "last_event_age_seconds") // it grows
		return fmt.Sprint(o)
	}
	there := shown()
	model.on.Store(true)
	if away := shown(); away != there {
		t.Errorf("from the log\n%s\nfrom the row\n%s", away, there)
	}
	w.user.do("GET", "/billing/usage", nil).refused(503, "read_model_unavailable")
	if n := len(w.user.do("GET", "/scans/"+x.scan+"/usage", nil).want(200).items()); n != 2 {
		t.Errorf("%d events of its usage, want 2", n)
	}
}

func TestSpendingIsSeenLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	repository := w.user.ready(w.user.project())
	id := w.user.do("POST", "/repositories/"+repository+"/scans", nil).want(202).id()
	k := w.claim(id)
	p := w.spender(id)
	p.record(p.reserve(1)) // before the start, and overtaken
	k.start()
	p.record(settled("call_1", 1))
	beforeStage := p.record(p.reserve(2), denied("requests"))
	k.stage("inventory")

	// What there was: of the usage the newest event, in its place.
	var kinds []string
	var spent object
	for _, e := range w.user.do("GET", "/scans/"+id+"/events", nil).want(200).items() {
		kinds = append(kinds, e["kind"].(string))
		if e["kind"] == "scan_usage" {
			spent = e
		}
	}
	if strings.Join(kinds, " ") != "scan_started scan_usage scan_progress" || spent["sequence"] != float64(beforeStage) {
		t.Fatalf("events: %v, usage %v", kinds, spent)
	}
	pay := spent["payload"].(object)
	if pay["usage"].(object)["requests"] != 1.0 || pay["reserved"].(object)["tokens"] != 4.0 || pay["denied"] != "requests" {
		t.Errorf("payload: %v", pay)
	}

	// What comes, in the order of the log, up to the scan's end.
	var last events.Seq
	var live []string
	ended := false
	place, err := w.user.listen("/scans/"+id+"/events", "", func(e sseEvent) bool {
		if e.name == "end" {
			ended = true
			return true
		}
		if e.data.Sequence <= last {
			t.Errorf("%d follows %d", e.data.Sequence, last)
		}
		last = e.data.Sequence
		live = append(live, e.name)
		switch len(live) {
		case 3: // all that there was
			p.record(settled("call_2", 1))
		case 4:
			k.stage("secrets")
		case 5:
			p.record(p.reserve(3))
		case 6:
			k.complete()
		}
		return true
	})
	if err != nil || !ended || strings.Join(live, " ") != "scan_started scan_usage scan_progress scan_usage scan_progress scan_usage scan_completed" {
		t.Errorf("live: %v, ended %v, %v", live, ended, err)
	}

	// A call that ends after the scan is there for whoever comes back.
	late := p.record(settled("call_3", 4))
	var names []string
	if _, err := w.user.listen("/scans/"+id+"/events", place, func(e sseEvent) bool {
		names = append(names, fmt.Sprint(e.name, e.data.Sequence == late))
		return true
	}); err != nil || strings.Join(names, " ") != "scan_usagetrue endfalse" {
		t.Errorf("after the end: %v, %v", names, err)
	}
}

func TestUsageEventsThatArriveTogetherAreOne(t *testing.T) {
	t.Parallel()
	usage, scan := events.Aggregate{Kind: events.UsageAggregate}, events.Aggregate{Kind: events.ScanAggregate}
	var batch []events.Recorded
	for i, a := range []events.Aggregate{usage, usage, scan, usage, scan, scan, usage, usage, usage} {
		batch = append(batch, events.Recorded{Envelope: events.Envelope{Aggregate: a}, Seq: events.Seq(i + 1)})
	}
	var got []events.Seq
	for _, r := range newestUsage(batch) {
		got = append(got, r.Seq)
	}
	if want := []events.Seq{2, 3, 4, 5, 6, 9}; !slices.Equal(got, want) {
		t.Errorf("newestUsage = %v, want %v", got, want)
	}
}

// spenders is a world where two users' scans have spent over three days: 4 of user's first project, 1 of its second, which is then deleted, and 1 of other's.
func spenders(t *testing.T) (w *world, projects []string, scans []string) {
	t.Helper()
	w = newWorld(t, options{limit: 10})
	day := func(n int) time.Time { return time.Date(2026, 10, 30+n, 23, 59, 0, 0, time.UTC) } // October has 31
	for i, c := range []*client{w.user, w.user, w.other} {
		projects = append(projects, c.project())
		repository := c.ready(projects[i])
		for range []int{4, 1, 1}[i] {
			scans = append(scans, c.do("POST", "/repositories/"+repository+"/scans", nil).want(202).id())
		}
	}
	for i, id := range scans {
		p := w.spender(id)
		p.at = day(i % 3)
		p.record(p.reserve(1))
		est := settled("call_1", int64(i+1))
		est.Estimated = i == 2
		p.record(est)
		if i == 0 {
			p.at = day(1)
			p.record(settled("late", 10), events.Call{ID: "no", Step: events.CallReleased}, denied("cost"))
		}
	}
	w.user.do("DELETE", "/projects/"+projects[1], nil).want(204)
	return w, projects, scans
}

func TestBillingSumsUpWhatTheCallerMaySee(t *testing.T) {
	t.Parallel()
	w, projects, scans := spenders(t)
	const days = "&from=2026-10-01&to=2026-11-30"
	users := []events.UserID{w.user.user, w.other.user}
	slices.Sort(users)
	read, _ := w.user.apiKey("read")
	stranger := w.login(2)
	for _, tc := range []struct {
		c     *client
		query string
		items string // key and input tokens of each
		total float64
	}{
		{w.admin, "by=day" + days, "2026-11-01=300+600 2026-10-31=200+500+1000 2026-10-30=100+400", 3100},
		{w.user, "by=day" + days, "2026-11-01=300 2026-10-31=200+1000 2026-10-30=100+400", 2000},
		{read, "by=day" + days, "2026-11-01=300 2026-10-31=200+1000 2026-10-30=100+400", 2000},
		{stranger, "by=day" + days, "2026-11-01=600", 600},
		{w.admin, "by=day&from=2026-10-31&to=2026-10-31", "2026-10-31=200+500+1000", 1700},
		{w.admin, "by=day&to=2026-10-30", "2026-10-30=100+400", 500},
		{w.admin, "by=day&to=2026-11-29", "2026-11-01=300+600 2026-10-31=200+500+1000", 2600}, // 30 days
		{w.user, "by=project" + days, projects[0] + "=2000", 2000},
		{stranger, "by=project&project_id=" + projects[0] + days, "", 0},
		{w.user, "by=project&project_id=" + projects[1] + days, "", 0},
		{w.admin, "by=project&project_id=" + projects[1] + days, projects[1] + "=500", 500},
		{w.user, "by=user" + days, string(w.user.user) + "=2000", 2000},
		{w.admin, "by=user&user_id=" + string(w.other.user) + days, string(w.other.user) + "=600", 600},
		{w.user, "by=user&user_id=" + string(w.other.user) + days, "", 0},
		{w.user, "by=scan" + days, scans[3] + "=400 " + scans[2] + "=300 " + scans[1] + "=200 " + scans[0] + "=1100", 2000},
		{w.user, "by=day&scan_id=" + scans[0] + days, "2026-10-31=1000 2026-10-30=100", 1100},
		{stranger, "by=day&scan_id=" + scans[0] + days, "", 0},
		{w.user, "by=scan&scan_id=scan_test_nothing" + days, "", 0},
		{w.user, "by=scan&from=1999-01-01&to=1999-12-31", "", 0},
	} {
		body := tc.c.do("GET", "/billing/usage?"+tc.query, nil).want(200).object()
		by := body["by"].(string)
		key := map[string]string{"day": "day", "project": "project_id", "user": "user_id", "scan": "scan_id"}[by]
		var got, want []string
		for _, i := range body["items"].([]any) {
			got = append(got, fmt.Sprintf("%v=%v", i.(object)[key], i.(object)["input_tokens"]))
		}
		for item := range strings.FieldsSeq(tc.items) {
			name, parts, _ := strings.Cut(item, "=")
			sum := 0
			for part := range strings.SplitSeq(parts, "+") {
				var n int
				_, err := fmt.Sscan(part, &n)
				must(t, err)
				sum += n
			}
			want = append(want, fmt.Sprintf("%s=%d", name, sum))
		}
		if !slices.Equal(got, want) || body["total"].(object)["input_tokens"] != tc.total || body["next_cursor"] != nil {
			t.Errorf("GET /billing/usage?%s: %v, want %v; total %v, want %v", tc.query, got, want, body["total"], tc.total)
		}
	}
	all := w.admin.do("GET", "/billing/usage?by=project"+days, nil).want(200).object()
	total := all["total"].(object)
	if total["requests"] != 7.0 || total["estimated_requests"] != 1.0 || total["cost_usd"] != 7.75 || total["reasoning_tokens"] != 155.0 || total["cached_input_tokens"] != 310.0 || total["output_tokens"] != 620.0 {
		t.Errorf("total: %v", total)
	}
	for _, i := range all["items"].([]any) {
		gone := i.(object)["project_id"] == projects[1]
		if i.(object)["project_name"] != "a project" || (i.(object)["project_deleted"] == true) != gone {
			t.Errorf("item: %v", i)
		}
	}
	scan := w.user.do("GET", "/billing/usage?by=scan&scan_id="+scans[0]+days, nil).want(200).items()[0]
	if scan["project_id"] != projects[0] || scan["user_id"] != string(w.user.user) || scan["repository_id"] == nil || scan["day"] != nil {
		t.Errorf("a scan's item: %v", scan)
	}
	// Who joins a project sees what it has spent; who leaves it does not.
	w.user.do("PUT", "/projects/"+projects[0]+"/members/"+string(w.other.user), object{"role": "viewer"}).want(200)
	if sum := stranger.do("GET", "/billing/usage?by=user"+days, nil).want(200).object()["total"].(object); sum["input_tokens"] != 2600.0 {
		t.Errorf("a new member sees %v", sum)
	}
	w.user.do("DELETE", "/projects/"+projects[0]+"/members/"+string(w.other.user), nil).want(204)
	if sum := stranger.do("GET", "/billing/usage"+"?by=user"+days, nil).want(200).object()["total"].(object); sum["input_tokens"] != 600.0 {
		t.Errorf("who left sees %v", sum)
	}
}

func TestABillWithoutDaysIsOfTheLastThirty(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{change: func(d *Deps) {
		d.Now = func() time.Time { return time.Date(2026, 3, 1, 1, 2, 3, 0, time.FixedZone("east", 2*3600)) } // still February in UTC
	}})
	body := w.user.do("GET", "/billing/usage", nil).want(200).object()
	if body["by"] != "day" || body["from"] != "2026-01-30" || body["to"] != "2026-02-28" || len(body["items"].([]any)) != 0 || body["total"].(object)["cost_usd"] != 0.0 {
		t.Errorf("bill: %v", body)
	}
}

func TestPagesOfABillAddUp(t *testing.T) {
	t.Parallel()
	w, _, _ := spenders(t)
	for by, key := range map[string]string{"day": "day", "project": "project_id", "user": "user_id", "scan": "scan_id"} {
		path := "/billing/usage?from=2026-10-01&to=2026-11-30&by=" + by
		whole := w.admin.do("GET", path, nil).want(200).object()
		for _, size := range []int{1, 2} {
			var parts []any
			for cursor := ""; ; {
				page := w.admin.do("GET", fmt.Sprintf("%s&limit=%d&cursor=%s", path, size, cursor), nil).want(200).object()
				parts = append(parts, page["items"].([]any)...)
				if fmt.Sprint(page["total"]) != fmt.Sprint(whole["total"]) {
					t.Errorf("by %s: the total of a page is %v, want %v", by, page["total"], whole["total"])
				}
				next, more := page["next_cursor"].(string)
				if !more || len(parts) > 20 {
					break
				}
				cursor = next
			}
			if fmt.Sprint(parts) != fmt.Sprint(whole["items"]) {
				t.Errorf("by %s (%s) in pages of %d: %v, want %v", by, key, size, parts, whole["items"])
			}
		}
	}
}

func TestBillsThatNobodyCanMakeAreRefusedByField(t *testing.T) {
	t.Parallel()
	w, _, _ := spenders(t)
	cursor := w.admin.do("GET", "/billing/usage?by=user&limit=1&from=2026-10-01&to=2026-11-30", nil).want(200).object()["next_cursor"].(string)
	scans := w.user.do("GET", "/scans?limit=1", nil).want(200).object()["next_cursor"].(string)
	for query, field := range map[string]string{
		"by=" + canary: "by", "by=days": "by", "from=" + canary: "from", "from=2026-13-01": "from", "from=2026-02-30": "from", "to=2026-1-1": "to", "to=2026-11-01T00:00:00Z": "to",
		"from=2026-11-02&to=2026-11-01": "from", "from=9999-01-01": "from", "limit=0": "limit", "limit=1001": "limit", "limit=" + canary: "limit",
		"cursor=" + canary: "cursor", "by=day&cursor=" + cursor: "cursor", "by=scan&cursor=" + cursor: "cursor", "by=scan&cursor=" + scans: "cursor",
		"project_id=A%20b": "project_id", "user_id=..%2f" + canary: "user_id", "scan_id=" + strings.Repeat("s", 101): "scan_id", "scan_id=%00": "scan_id",
	} {
		a := w.user.do("GET", "/billing/usage?"+query, nil)
		fields, _ := a.refused(422, "invalid_request")["fields"].([]any)
		if len(fields) != 1 || fields[0].(object)["field"] != field || strings.Contains(string(a.body), canary) {
			t.Errorf("GET /billing/usage?%s: %s, want field %s", query, a.body, field)
		}
	}
	w.user.do("GET", "/scans?cursor="+cursor, nil).refused(422, "invalid_request")
	(&client{w: w, t: t}).do("GET", "/billing/usage", nil).refused(401, "unauthenticated")
	key, _ := w.user.apiKey("triage")
	key.do("GET", "/billing/usage", nil).refused(403, "scope_missing")
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// said is what a scan's progress writes where there is no terminal, for events as the API sends them.
func said(p *progress, events ...string) string {
	var b bytes.Buffer
	p.w = &b
	for _, e := range events {
		var live liveEvent
		if err := json.Unmarshal([]byte(e), &live); err != nil {
			panic(err)
		}
		p.event(live)
	}
	return b.String()
}

func spentEvent(requests, tokens int64, usd float64, denied string) string {
	return fmt.Sprintf(`{"kind":"scan_usage","payload":{"usage":{"requests":%d,"input_tokens":%d,"output_tokens":10,"cost_usd":%g},"denied":%q}}`, requests, tokens-10, usd, denied)
}

func TestSpendingIsToldAtEachTenth(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_800_000_000, 0)
	p := &progress{now: func() time.Time { return at }}
	p.limit(capsView{CostUSD: 2, Requests: 500})
	got := said(p, spentEvent(1, 1000, 0.01, ""), spentEvent(20, 150_000, 0.199, ""), spentEvent(31, 210_500, 0.42, ""), spentEvent(32, 211_000, 0.43, ""), spentEvent(33, 212_000, 0.61, ""), spentEvent(33, 212_000, 0.61, "cost"), spentEvent(33, 212_000, 0.61, "cost"))
	want := "spent $0.01 of $2.00, 1 of 500 requests, 1000 tokens\nspent $0.42 of $2.00, 31 of 500 requests, 210k tokens\nspent $0.61 of $2.00, 33 of 500 requests, 212k tokens\nno more calls to the model: the scan has reached its limit of cost\n"
	if got != want {
		t.Errorf("said\n%swant\n%s", got, want)
	}
	at = at.Add(billEvery)
	if got := said(p, spentEvent(33, 212_000, 0.61, "cost"), spentEvent(34, 213_000, 0.62, "cost"), spentEvent(35, 214_000, 0.63, "cost")); got != "spent $0.62 of $2.00, 34 of 500 requests, 213k tokens\n" {
		t.Errorf("a while later: %q", got)
	}
	var b bytes.Buffer
	p.w = &b
	p.spent(usageView{Requests: 33, InputTokens: 2_000_000, OutputTokens: 1, CostUSD: 0.61})
	if b.String() != "in all spent $0.61 of $2.00, 33 of 500 requests, 2.0M tokens\n" {
		t.Errorf("in the end: %q", b.String())
	}
}

func TestSpendingWithoutLimitsIsToldWhenItDoubles(t *testing.T) {
	t.Parallel()
	var events []string
	for n := range int64(9) {
		events = append(events, spentEvent(n, 100*n+10, float64(n)/1000, ""))
	}
	got := said(&progress{}, events...)
	want := "spent $0.0010, 1 requests, 110 tokens\nspent $0.0020, 2 requests, 210 tokens\nspent $0.0040, 4 requests, 410 tokens\nspent $0.0080, 8 requests, 810 tokens\n"
	if got != want {
		t.Errorf("said\n%swant\n%s", got, want)
	}
	var b bytes.Buffer
	(&progress{w: &b}).spent(usageView{})
	if b.Len() != 0 {
		t.Errorf("a scan that called no model ends with %q", b.String())
	}
}

func TestLogLinesAreShownWhenAskedFor(t *testing.T) {
	t.Parallel()
	lines := []string{`{"kind":"scan_log","payload":{"component":"audit","message":"reading \u001b[31mauth.go"}}`, `{"kind":"scan_log","payload":{"message":"no component"}}`}
	if got := said(&progress{}, lines...); got != "" {
		t.Errorf("said %q unasked", got)
	}
	if got := said(&progress{verbose: true, quiet: true}, lines...); got != "" {
		t.Errorf("said %q while quiet", got)
	}
	if got := said(&progress{verbose: true}, lines...); !strings.HasPrefix(got, "audit: reading ") || !strings.HasSuffix(got, "\nno component\n") || strings.Contains(got, "\x1b") {
		t.Errorf("said %q", got)
	}
}

func TestTheBarsTextSaysHowFarTheStageIs(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	p := &progress{now: func() time.Time { return now }}
	p.limit(capsView{CostUSD: 2})
	for _, step := range []struct {
		event string
		later time.Duration
		want  string
	}{
		{`{"kind":"scan_started","payload":{}}`, 0, "scanning"},
		{`{"kind":"scan_progress","payload":{"component":"secrets","message":"120 files","percent":20}}`, 0, "120 files"},
		{`{"kind":"scan_progress","payload":{"component":"audit","message":"reading auth"}}`, 0, "reading auth"},
		{`{"kind":"scan_progress","payload":{"component":"audit","unit":"auth","status":"completed","message":"2 findings in auth"}}`, 0, "audit 1 done: 2 findings in auth"},
		{`{"kind":"scan_progress","payload":{"component":"audit","units_total":12,"message":"reading cart"}}`, 0, "audit 1 of 12: reading cart"},
		{spentEvent(3, 100, 0.42, ""), 0, "audit 1 of 12, $0.42 of $2.00: reading cart"},
		{"", 10 * time.Second, "audit 1 of 12, $0.42 of $2.00: reading cart"},
		{"", 24500 * time.Millisecond, "audit 1 of 12, $0.42 of $2.00, last event 34 s ago: reading cart"},
		{`{"kind":"scan_log","payload":{"message":"still thinking"}}`, 0, "audit 1 of 12, $0.42 of $2.00: reading cart"},
		{`{"kind":"scan_progress","payload":{"component":"verify","message":"refuting"}}`, 0, "$0.42 of $2.00: refuting"},
	} {
		now = now.Add(step.later)
		if step.event != "" {
			said(p, step.event)
		}
		if got := p.text(); got != step.want {
			t.Errorf("after %s and %s: %q, want %q", step.event, step.later, got, step.want)
		}
	}
}

func TestTheComparisonIsOneLine(t *testing.T) {
	t.Parallel()
	base := "scan_local_x"
	for want, c := range map[string]*comparison{
		"":     nil,
		"\x00": {New: 3}, // the first scan
		"since the last scan: 2 new, 5 persisting, 1 resolved": {Base: &base, New: 2, Persisting: 5, Resolved: 1},
		"since the last scan: 1 reopened, 4 unknown":           {Base: &base, Reopened: 1, Unknown: 4},
		"since the last scan: nothing found, then and now":     {Base: &base},
	} {
		if got := c.line(); got != strings.Trim(want, "\x00") {
			t.Errorf("%+v: %q, want %q", c, got, want)
		}
		var b bytes.Buffer
		if err := show(&b, scanFlags{}, scanView{Status: "completed", Comparison: c}, nil); err != nil || strings.HasSuffix(b.String(), "\n\n"+c.line()+"\n") != (c.line() != "") {
			t.Errorf("%+v: %v, printed %q", c, err, b.String())
		}
	}
}

func TestWrongBudgetsAreRefusedByFlag(t *testing.T) {
	t.Parallel()
	src := tree(t, map[string]string{"main.go": "package main\n"})
	for flag, value := range map[string]string{"--budget": "-1", "--budget=": "1.0000000001", "--budget ": "much", "--max-requests": "-1", "--max-tokens": "-5"} {
		name := strings.TrimRight(flag, " =")
		if _, stderr, code := vega(t, t.TempDir(), nil, "scan", src, name+"="+value); code != exitError || !strings.Contains(stderr, name+" is ") {
			t.Errorf("%s=%s: exit code %d, %s", name, value, code, stderr)
		}
	}
}

// What the command line gave a scan to spend is the scan's, how to turn the model on is said once, and the document says what was spent.
func TestAScanIsGivenABudgetAndSaysHowToTurnTheModelOn(t *testing.T) {
	t.Parallel()
	home, src := t.TempDir(), tree(t, leaky())
	data := "VEGA_DATA_DIR=" + filepath.Join(home, "data")
	s := serveIn(t, home, data)
	hints := func(stderr string) (n int) {
		for _, line := range turnOn {
			n += strings.Count(stderr, line+"\n")
		}
		return n
	}
	stdout, stderr, code := vega(t, home, []string{data}, "scan", src, "--json", "--budget", "2.50", "--max-requests", "7", "--max-tokens", "90000")
	var doc struct {
		Scan       string          `json:"scan_id"`
		Usage      *usageView      `json:"usage"`
		Comparison json.RawMessage `json:"comparison"`
	}
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil || code != exitFindings || doc.Usage == nil || *doc.Usage != (usageView{}) || doc.Comparison == nil {
		t.Fatalf("exit code %d, %v, %s%s", code, err, stdout, stderr)
	}
	if n := hints(stderr); n != len(turnOn) {
		t.Errorf("%d of the %d lines are in %s", n, len(turnOn), stderr)
	}
	var v struct{ Budget, Caps capsView }
	s.do(t, http.MethodGet, "/scans/"+doc.Scan, nil, &v)
	if want := (capsView{7, 90_000, 2.5}); v.Budget != want || v.Caps != want {
		t.Errorf("budget %+v, caps %+v, want %+v", v.Budget, v.Caps, want)
	}
	stdout, quiet, _ := vega(t, home, []string{data}, "scan", src, "-q")
	if quiet != "" || hints(stdout) != 0 {
		t.Errorf("quiet, and said %s", quiet)
	}
	if !strings.HasSuffix(stdout, "\n\nsince the last scan: 2 persisting\n") {
		t.Errorf("the second scan prints %s", stdout)
	}
	if strings.Contains(stderr, "in all spent") {
		t.Errorf("no model was called, and it says %s", stderr)
	}
}

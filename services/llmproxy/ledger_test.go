package llmproxy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vega/events"
	"vega/services/llmproxy/price"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func model(t rapid.TB) price.Model {
	t.Helper()
	m, ok := price.Default().Of("gpt-5.4")
	if !ok {
		t.Fatal("gpt-5.4 has no price")
	}
	return m
}

// Whatever is asked for and however the calls end, as long as none has more input tokens than bytes nor more output than it was told, no cap is exceeded by one token,
// request or nano-dollar.
func TestNoOrderOfCallsExceedsACap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := model(t)
		caps := Caps{
			Requests: rapid.SampledFrom([]int64{0, 3, 40}).Draw(t, "requests"),
			Tokens:   rapid.SampledFrom([]int64{0, 1000, 100_000}).Draw(t, "tokens"),
			Cost:     rapid.SampledFrom([]price.NanoUSD{0, 3_000_000, 900_000_000}).Draw(t, "cost"),
		}
		var last events.UsageRecorded
		limits := map[string]int64{}
		n := 0
		t.Repeat(map[string]func(*rapid.T){
			"reserve": func(t *rapid.T) {
				n++
				a := ask{id: fmt.Sprint("call_", n), attempt: 1, endpoint: "responses", model: "gpt-5.4", price: m, limited: rapid.Bool().Draw(t, "limited"),
					bytes: rapid.Int64Range(0, 50_000).Draw(t, "bytes"), output: rapid.Int64Range(0, 40_000).Draw(t, "output"),
					until: noon.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "minutes")) * time.Minute)}
				l := after(last)
				no := l.reserve(caps, a)
				limit := a.output
				if no == nil {
					limit = l.Open[len(l.Open)-1].OutputTokens
				}
				switch {
				case no != nil && no.wait && len(last.Open) == 0:
					t.Fatalf("asked to wait for nobody: %s", no.message)
				case no == nil && a.limited && (limit > a.output || limit < min(a.output, minOutput)):
					t.Fatalf("output limit %d of %d", limit, a.output)
				case no == nil && !a.limited && limit != a.output:
					t.Fatalf("output %d of a call that cannot be limited is %d", a.output, limit)
				case no == nil:
					limits[a.id] = limit
				}
				last = l.UsageRecorded
			},
			"settle": func(t *rapid.T) {
				if len(last.Open) == 0 {
					return
				}
				r := rapid.SampledFrom(last.Open).Draw(t, "call")
				u := events.Usage{Requests: 1, InputTokens: rapid.Int64Range(0, r.MostInput).Draw(t, "in"), OutputTokens: rapid.Int64Range(0, limits[r.ID]).Draw(t, "out")}
				u.CachedInputTokens = rapid.Int64Range(0, u.InputTokens).Draw(t, "cached")
				u.CostNanoUSD = int64(m.Cost(price.Tokens{Input: u.InputTokens, Cached: u.CachedInputTokens, Output: u.OutputTokens}, ""))
				spent := &u
				if rapid.Bool().Draw(t, "unknown") {
					spent = nil
				}
				l := after(last)
				if !l.settle(r.ID, spent, "", "") || l.settle(r.ID, spent, "", "") || l.release(r.ID, true, "") {
					t.Fatal("a call ended not at all, or twice")
				}
				last = l.UsageRecorded
			},
			"release": func(t *rapid.T) {
				if len(last.Open) == 0 {
					return
				}
				l := after(last)
				l.release(rapid.SampledFrom(last.Open).Draw(t, "call").ID, rapid.Bool().Draw(t, "sent"), "")
				last = l.UsageRecorded
			},
			"lose": func(t *rapid.T) {
				l := after(last)
				l.chargeLost(overdue(noon.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "now")) * time.Minute)))
				last = l.UsageRecorded
			},
			"": func(t *rapid.T) {
				s := last.Settled
				if caps.Requests > 0 && s.Requests+int64(len(last.Open)) > caps.Requests || caps.Tokens > 0 && s.Tokens() > caps.Tokens || caps.Cost > 0 && s.CostNanoUSD > int64(caps.Cost) {
					t.Fatalf("spent %+v with %d calls open under %+v", s, len(last.Open), caps)
				}
			},
		})
	})
}

func TestWhatIsReservedFollowsWhatIsLeft(t *testing.T) {
	t.Parallel()
	m := model(t)
	a := ask{id: "call_a", price: m, bytes: 30_000, output: 10_000, limited: true}
	for _, tc := range []struct {
		name          string
		caps          Caps
		input, output int64
		denied        string
	}{
		{"no caps", Caps{}, 10_000, 10_000, ""},
		{"plenty", Caps{Tokens: 80_000}, 10_000, 10_000, ""},
		{"less than four times the estimate", Caps{Tokens: 79_999}, 30_000, 10_000, ""},
		{"a shorter answer", Caps{Tokens: 31_000}, 30_000, 1_000, ""},
		{"the shortest answer", Caps{Tokens: 30_256}, 30_000, 256, ""},
		{"too little", Caps{Tokens: 30_255}, 0, 0, "tokens"},
		{"money for all", Caps{Cost: 10_000_000_000}, 10_000, 10_000, ""},
		{"money for a shorter answer", Caps{Cost: 90_000_000}, 30_000, 1_000, ""},
		{"too little money", Caps{Cost: 78_839_999}, 0, 0, "cost"},
	} {
		a.tier = "default"
		l := after(events.UsageRecorded{})
		no := l.reserve(tc.caps, a)
		if tc.denied != "" {
			if no == nil || no.cap != tc.denied || no.wait || l.Denied != tc.denied || len(l.Open) != 0 {
				t.Errorf("%s: %+v, want denied for %s", tc.name, no, tc.denied)
			}
			continue
		}
		if no != nil {
			t.Errorf("%s: denied: %s", tc.name, no.message)
			continue
		}
		if r := l.Open[0]; r.InputTokens != tc.input || r.OutputTokens != tc.output || r.MostInput != a.bytes {
			t.Errorf("%s: reserved %d and %d, want %d and %d", tc.name, r.InputTokens, r.OutputTokens, tc.input, tc.output)
		}
	}
}

func TestADenialIsRecordedOnceUntilACallIsAdmittedAgain(t *testing.T) {
	t.Parallel()
	caps := Caps{Requests: 1}
	l := after(events.UsageRecorded{})
	for i := range 4 {
		l.reserve(caps, ask{id: fmt.Sprint("call_", i)})
	}
	if len(l.Calls) != 2 || l.Calls[1].Step != events.CallDenied || l.Denied != "requests" {
		t.Errorf("steps %+v", l.Calls)
	}
	l.release("call_0", false, "never sent")
	if no := l.reserve(caps, ask{id: "call_9"}); no != nil || l.Denied != "" {
		t.Errorf("after a request that was never sent: %+v, denied %q", no, l.Denied)
	}
}

func TestACallHeldUpByOthersIsAskedToWait(t *testing.T) {
	t.Parallel()
	l := after(events.UsageRecorded{})
	caps := Caps{Tokens: 1000}
	if no := l.reserve(caps, ask{id: "call_a", bytes: 400, output: 300, limited: true}); no != nil {
		t.Fatal(no.message)
	}
	if no := l.reserve(caps, ask{id: "call_b", bytes: 400, output: 300, limited: true}); no == nil || !no.wait || l.Denied != "" {
		t.Errorf("a call that fits once the other has ended: %+v", no)
	}
	if no := l.reserve(caps, ask{id: "call_c", bytes: 900, output: 300, limited: true}); no == nil || no.wait {
		t.Errorf("a call that never fits: %+v", no)
	}
}

// All open calls stand in each event, so their number is bounded even where nothing else is.
func TestMoreCallsThanAnEventHoldsWait(t *testing.T) {
	t.Parallel()
	fits := func(l *ledger) {
		t.Helper()
		if b, err := json.Marshal(l.UsageRecorded); err != nil || len(b) > events.MaxBody {
			t.Errorf("an event of %d bytes, %v; at most %d", len(b), err, events.MaxBody)
		}
	}
	l := after(events.UsageRecorded{})
	for i := range maxOpen {
		if i == maxOpen-maxSteps {
			l = after(l.UsageRecorded) // the last ones share an event
		}
		a := ask{id: fmt.Sprintf("call_%026d", i), attempt: 1, endpoint: "responses/compact", model: strings.Repeat("m", events.MaxModel), tier: "priority", bytes: 1 << 30, output: 1 << 30, until: noon}
		if no := l.reserve(Caps{}, a); no != nil {
			t.Fatal(no.message)
		}
	}
	fits(l)
	l = after(l.UsageRecorded)
	if no := l.reserve(Caps{}, ask{id: "call_more"}); no == nil || !no.wait {
		t.Errorf("one more: %+v", no)
	}
	for _, r := range slices.Clone(l.Open[:maxSteps]) {
		l.settle(r.ID, nil, "priority", strings.Repeat("r", 100))
	}
	fits(l)
}

package llmproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vega/config/secret"
	"vega/events"
	"vega/services/llmproxy/providertest"
	"vega/services/scan"
)

func TestOfACapAndABudgetTheSmallerOneHolds(t *testing.T) {
	t.Parallel()
	both := Caps{Requests: 10, Tokens: 1000, Cost: 500}
	for _, tc := range []struct {
		name string
		caps Caps
		own  *events.Budget
		want string
	}{
		{"no budget", both, nil, "{10 1000 500} {false false false}"},
		{"an empty budget", both, &events.Budget{}, "{10 1000 500} {false false false}"},
		{"smaller", both, &events.Budget{Requests: 9, Tokens: 999, CostNanoUSD: 499}, "{9 999 499} {true true true}"},
		{"larger", both, &events.Budget{Requests: 11, Tokens: 1001, CostNanoUSD: 501}, "{10 1000 500} {false false false}"},
		{"the same", both, &events.Budget{Requests: 10, Tokens: 1000, CostNanoUSD: 500}, "{10 1000 500} {false false false}"},
		{"one of each", both, &events.Budget{Requests: 3, CostNanoUSD: 1000}, "{3 1000 500} {true false false}"},
		{"where nothing is configured", Caps{}, &events.Budget{Tokens: 7}, "{0 7 0} {false true false}"},
	} {
		c := tc.caps.Within(tc.own)
		if got := fmt.Sprintf("{%d %d %d} %v", c.Requests, c.Tokens, int64(c.Cost), c.own); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestADenialNamesTheBudgetThatItComesFrom(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		caps func(*Config)
		own  events.Budget
		says string
	}{
		"requests": {func(c *Config) { c.MaxRequestsPerScan = 9 }, events.Budget{Requests: 2}, "this scan may make 2 requests (the scan's own budget) and has made 2"},
		"tokens":   {same, events.Budget{Tokens: 540}, "this scan may use 540 tokens (the scan's own budget), 300 are left, and this request may need "},
		"cost":     {func(c *Config) { c.MaxCostPerScan = 1_000_000_000 }, events.Budget{CostNanoUSD: 8_600_000}, "this scan may cost 0.0086 US dollars (the scan's own budget), "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, p, _ := before(t, providertest.Always(providertest.Text("hello", cost)), c.caps)
			const id = "scan_test_own"
			token := b.token(b.attemptWithin(id, &c.own))
			other := b.token(b.attempt("scan_test_other"))
			ask := strings.ReplaceAll(asked, `"m"`, `"gpt-5.4"`)
			for range 2 {
				if res, body := b.call("POST", "/v1/responses", token, ask); res.StatusCode != 200 {
					t.Fatalf("answered %d %s", res.StatusCode, body)
				}
				b.usage()
			}
			res, body := b.call("POST", "/v1/responses", token, ask)
			b.refused(res, body, 400, "vega_scan_cap_exceeded")
			if !strings.Contains(body, c.says) || strings.Contains(body, "VEGA_") {
				t.Errorf("says %s, want %s", body, c.says)
			}
			if u, calls := b.usage(); len(p.Requests()) != 2 || steps(calls) != "reserved settled reserved settled denied" || u.Denied != name {
				t.Errorf("%d calls by %s, denied %q", len(p.Requests()), steps(calls), u.Denied)
			}
			if res, body := b.call("POST", "/v1/responses", other, ask); res.StatusCode != 200 {
				t.Errorf("a scan without a budget is answered %d %s", res.StatusCode, body)
			}
		})
	}
}

func TestAModelWithoutAPriceIsRefusedUnderABudgetInDollars(t *testing.T) {
	t.Parallel()
	b, p, free := before(t, providertest.Always(providertest.Text("hello", cost)), same)
	token := b.token(b.attemptWithin("scan_test_own", &events.Budget{CostNanoUSD: 1_000_000_000}))
	res, body := b.call("POST", "/v1/responses", token, asked)
	b.refused(res, body, 400, "vega_model_unpriced")
	if !strings.Contains(body, "the scan's own budget") || len(p.Requests()) != 0 {
		t.Errorf("answered %s, %d calls", body, len(p.Requests()))
	}
	if res, body := b.call("POST", "/v1/responses", free, asked); res.StatusCode != 200 {
		t.Errorf("without a budget: %d %s", res.StatusCode, body)
	}
}

func (b *bench) allowance(token, query string) allowanceBody {
	b.t.Helper()
	res, body := b.call("GET", "/v1/vega/allowance"+query, token, "")
	var out allowanceBody
	if err := json.Unmarshal([]byte(body), &out); err != nil || res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/json" {
		b.t.Fatalf("answered %d %s, %v", res.StatusCode, body, err)
	}
	return out
}

func TestTheAllowanceSaysWhatIsLeft(t *testing.T) {
	t.Parallel()
	answered := make(chan struct{})
	b, p, _ := before(t, providertest.InTurn(providertest.Text("hello", cost), providertest.Stream(providertest.Created(), providertest.Pause(answered))), func(c *Config) {
		c.MaxRequestsPerScan, c.MaxTokensPerScan, c.AllowedModels = 2, 1_000_000, []string{"gpt-5*", "m"}
	})
	token := b.token(b.attemptWithin("scan_test_own", &events.Budget{Requests: 5, Tokens: 900_000}))
	if got := b.allowance(token, ""); got.Requests != (amount{0, 0, 2}) || got.Tokens != (amount{0, 0, 900_000}) || got.Cost != (amount{}) || got.Denied != "" || len(got.Models) != 0 || got.Models == nil {
		t.Errorf("before the first call: %+v", got)
	}
	if res, body := b.call("POST", "/v1/responses", token, asked); res.StatusCode != 200 {
		t.Fatalf("answered %d %s", res.StatusCode, body)
	}
	b.usage()
	if got := b.allowance(token, ""); got.Requests != (amount{1, 0, 2}) || got.Tokens != (amount{120, 0, 900_000}) {
		t.Errorf("after a call: %+v", got)
	}
	_, stream := b.open(t.Context(), token)
	if got := b.allowance(token, ""); got.Requests != (amount{1, 1, 2}) || got.Tokens.Spent != 120 || got.Tokens.Reserved < 32768 {
		t.Errorf("with a call on its way: %+v", got)
	}
	if res, body := b.call("POST", "/v1/responses", token, asked); res.StatusCode != 400 {
		t.Errorf("beyond the cap: %d %s", res.StatusCode, body)
	}
	if got := b.allowance(token, ""); got.Denied != "requests" {
		t.Errorf("after a denial: %+v", got)
	}
	close(answered)
	_, _ = stream.WriteTo(&strings.Builder{}) // how it ends is not what this is about
	if len(p.Requests()) != 2 {
		t.Errorf("%d calls reached the provider, want the 2 that were made", len(p.Requests()))
	}

	priced := b.token(b.attemptWithin("scan_test_priced", &events.Budget{CostNanoUSD: 1}))
	got := b.allowance(priced, "?model=gpt-5.4&model=gpt-5-none-such&model=o9&model=a%22b").Models
	for m, says := range map[string]string{"gpt-5.4": "", "gpt-5-none-such": "no known price, and the scan's own budget", "o9": "not one that may be called here", `a"b`: "may be called here"} {
		if a, asked := got[m]; !asked || a.Allowed != (says == "") || !strings.Contains(a.Reason, says) {
			t.Errorf("%s: %+v, want %q", m, a, says)
		}
	}
	res, body := b.call("GET", "/v1/vega/allowance?"+strings.Repeat("model=m&", 21), token, "")
	b.refused(res, body, 400, "vega_bad_request")
}

func TestTheProxysOwnRoutesNeedARunningAttempt(t *testing.T) {
	t.Parallel()
	b, p, _ := before(t, providertest.Always(providertest.Text("hello", cost)), same)
	g := b.attempt("scan_test_own")
	token := b.token(g)
	b.do("scan_test_own", scan.RequestCancel{})
	for _, path := range []string{"/v1/vega/allowance", "/v1/vega/ready"} {
		res, body := b.call("GET", path, "", "")
		b.refused(res, body, 400, "vega_bad_token")
		res, body = b.call("GET", path, token, "")
		b.refused(res, body, 400, "vega_scan_cancelled")
		res, body = b.call("GET", path, b.token(Grant{Scan: g.Scan, Attempt: 2, Generation: g.Generation + 1}), "")
		b.refused(res, body, 400, "vega_attempt_superseded")
		res, body = b.call("POST", path, token, "")
		b.refused(res, body, 404, "vega_not_found")
	}
	if n := len(p.Requests()); n != 0 {
		t.Errorf("%d calls reached the provider", n)
	}
}

// ticking is a clock that a test moves.
type ticking struct{ ahead atomic.Int64 }

func (c *ticking) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *ticking) forward(d time.Duration) { c.ahead.Add(int64(d)) }

// asked of a provider that answers as told: what ready says, and how often the provider was asked.
func TestReadyAsksTheProviderNowAndThen(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	status.Store(200)
	b := start(t)
	b.respond = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) }
	var clock ticking
	p, err := New(b.cfg, Parts{Store: b.store, Log: slog.New(slog.DiscardHandler), Now: clock.now})
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(p)
	t.Cleanup(func() {
		front.Close()
		if err := p.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	b.url = front.URL
	token := b.token(b.attempt(theScan))
	count := func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.got)
	}
	for i, step := range []struct {
		later  time.Duration
		status int64
		says   string // code and a piece of the sentence; empty: ready
		asked  int    // so far
	}{
		{0, 200, "", 1},
		{4 * time.Minute, 401, "", 1}, // still known
		{2 * time.Minute, 401, "vega_provider_refused the provider does not accept the key (VEGA_LLM_PROVIDER_API_KEY)", 2},
		{5 * time.Second, 200, "vega_provider_refused the provider does not accept the key", 2},
		{6 * time.Second, 500, "vega_provider_unavailable the provider fails with HTTP 500", 3},
		{11 * time.Second, 302, "vega_provider_misconfigured the provider answers with a redirect", 4},
		{11 * time.Second, 404, "", 5}, // it has no such list
	} {
		clock.forward(step.later)
		status.Store(step.status)
		res, body := b.call("GET", "/v1/vega/ready", token, "")
		if code, sentence, bad := strings.Cut(step.says, " "); bad {
			b.refused(res, body, 503, code)
			if !strings.Contains(body, sentence) || res.Header.Get("Retry-After") != "10" {
				t.Errorf("step %d: %s, Retry-After %q", i, body, res.Header.Get("Retry-After"))
			}
		} else if res.StatusCode != 200 || body != `{"ready":true}` {
			t.Errorf("step %d: %d %s", i, res.StatusCode, body)
		}
		if n := count(); n != step.asked {
			t.Errorf("step %d: the provider was asked %d times, want %d", i, n, step.asked)
		}
	}
	if b.got[0].URL.Path != "/api/v9/models" || b.got[0].Header.Get("Authorization") != "Bearer "+providerKey {
		t.Errorf("asked %s with %v", b.got[0].URL, b.got[0].Header)
	}
	if got := b.allowance(token, ""); got.Requests.Spent != 0 || got.Requests.Reserved != 0 {
		t.Errorf("the scan has paid for it: %+v", got)
	}
}

func TestManyWhoAskAtOnceShareOneQuestion(t *testing.T) {
	t.Parallel()
	const askers = 20
	b := start(t)
	token := b.token(b.attempt(theScan))
	arrived, goOn := make(chan struct{}, askers), make(chan struct{})
	b.respond = func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-goOn
		w.WriteHeader(http.StatusOK)
	}
	// The first one goes away while the provider is thinking.
	leaving, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(leaving, http.MethodGet, b.url+"/v1/vega/ready", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	var first, asking sync.WaitGroup
	first.Go(func() {
		if res, err := http.DefaultTransport.RoundTrip(r); err == nil {
			_ = res.Body.Close()
			t.Error("the one who left was answered")
		}
	})
	<-arrived
	for range askers {
		asking.Go(func() {
			if res, body := b.call("GET", "/v1/vega/ready", token, ""); res.StatusCode != 200 {
				t.Errorf("answered %d %s", res.StatusCode, body)
			}
		})
	}
	leave()
	first.Wait()
	close(goOn)
	asking.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.got); n != 1 {
		t.Errorf("the provider was asked %d times", n)
	}
}

func TestAProviderThatIsAwayIsNotReady(t *testing.T) {
	t.Parallel()
	b := startWith(t, func(c *Config) {
		c.ProviderBaseURL, c.ProviderAPIKey = "http://127.0.0.1:1/v1", secret.New(providerKey)
	})
	res, body := b.call("GET", "/v1/vega/ready", b.token(b.attempt(theScan)), "")
	b.refused(res, body, 503, "vega_provider_unavailable")
	if !strings.Contains(body, "the provider cannot be reached") {
		t.Errorf("says %s", body)
	}
}

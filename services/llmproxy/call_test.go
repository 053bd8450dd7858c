package llmproxy

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"vega/config/secret"
	"vega/events"
	"vega/events/eventstore/natstest"
	"vega/services/llmproxy/providertest"
	"vega/services/scan"
)

// before starts a proxy before a scripted provider, with a scan that runs and its token.
func before(t *testing.T, script providertest.Script, change func(*Config)) (*bench, *providertest.Provider, string) {
	t.Helper()
	p := providertest.Start(t, script)
	b := startWith(t, func(c *Config) {
		c.ProviderBaseURL, c.ProviderAPIKey = p.URL, secret.New(p.Key)
		change(c)
	})
	return b, p, b.token(b.attempt(theScan))
}

const theScan = events.ScanID("scan_test_a")

func same(*Config) {}

// cost is what the test's provider says that a call used.
var cost = providertest.Usage{Input: 100, Cached: 40, Output: 20, Reasoning: 5}

// said is cost as the log has it, for a model without a price.
var said = events.Usage{Requests: 1, InputTokens: 100, CachedInputTokens: 40, OutputTokens: 20, ReasoningTokens: 5}

// usage waits until nothing of the scan is on its way and returns what it has spent, with the steps of all its calls.
func (b *bench) usage() (events.UsageRecorded, []events.Call) {
	b.t.Helper()
	var calls []events.Call
	ctx, stop := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer stop()
	for r, err := range b.store.Follow(ctx, 0, events.KindFilter(natstest.Region, events.UsageAggregate)) {
		if err != nil {
			b.t.Fatal(err)
		}
		e := r.Event.(events.UsageRecorded)
		calls = append(calls, e.Calls...)
		if len(e.Open) == 0 {
			if last, ok, err := b.store.LoadLast(ctx, r.Aggregate); err != nil || !ok || last.Seq == r.Seq {
				return e, calls
			}
		}
	}
	b.t.Fatal("calls stay open")
	return events.UsageRecorded{}, nil
}

func steps(calls []events.Call) string {
	var out []string
	for _, c := range calls {
		s := string(c.Step)
		if c.Estimated {
			s += "?"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func TestWhatACallCostIsRecorded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path, body string
	}{
		"responses, streamed":   {"/v1/responses", `{"model":"m","input":"x","stream":true}`},
		"responses":             {"/v1/responses", `{"model":"m","input":"x"}`},
		"chat, streamed":        {"/v1/chat/completions", `{"model":"m","messages":[],"stream":true}`},
		"chat":                  {"/v1/chat/completions", `{"model":"m","messages":[]}`},
		"compaction":            {"/v1/responses/compact", `{"model":"m","input":[]}`},
		"embeddings of nothing": {"/v1/embeddings", `{"model":"m","input":"x"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, _, token := before(t, providertest.Always(providertest.Text("hello", cost)), same)
			if res, body := b.call("POST", c.path, token, c.body); res.StatusCode != 200 {
				t.Fatalf("answered %d %s", res.StatusCode, body)
			}
			u, calls := b.usage()
			if u.Settled != said || steps(calls) != "reserved settled" || u.Project != "proj_test_p" || u.Repository != "repo_test_r" || u.User != "user_u" {
				t.Errorf("spent %+v by %s, want %+v", u, steps(calls), said)
			}
			if calls[1].Endpoint != strings.TrimPrefix(c.path, "/v1/") || calls[1].Model != "m" || calls[1].Attempt != 1 {
				t.Errorf("settled %+v", calls[1])
			}
		})
	}
}

// Each row is an answer of the provider that never changes, what the agent is told, how often the provider was called, and what the log says of it.
func TestWhatTheProviderRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer providertest.Answer
		status int
		says   string // part of the answer
		calls  int
		steps  string
	}{
		"bad request":    {providertest.Error(400, "invalid_value", "input is odd"), 400, "input is odd", 1, "reserved released"},
		"wrong key":      {providertest.Error(401, "invalid_api_key", "Incorrect API key provided: sk-12"), 400, "vega_provider_refused", 1, "reserved released"},
		"forbidden":      {providertest.Error(403, "", "no"), 400, "vega_provider_refused", 1, "reserved released"},
		"unpaid":         {providertest.Error(402, "", "pay"), 400, "vega_provider_quota", 1, "reserved released"},
		"no quota":       {providertest.Error(429, "insufficient_quota", "out of quota"), 400, "vega_provider_quota", 1, "reserved released"},
		"no such model":  {providertest.Error(404, "model_not_found", "no model m"), 400, "no model m", 1, "reserved released"},
		"not JSON":       {providertest.Status(404, "<html>"), 400, "vega_provider_refused_request", 1, "reserved released"},
		"redirect":       {providertest.Redirect("http://127.0.0.1:1/"), 400, "vega_provider_misconfigured", 1, "reserved released"},
		"a web page":     {providertest.Status(200, "<html>log in first", "Content-Type", "text/html; charset=utf-8"), 400, "what answers is a web page", 1, "reserved released"},
		"too often":      {providertest.Error(429, "rate_limit_exceeded", "slow", "Retry-After-Ms", "1"), 503, "vega_provider_busy", 4, strings.Repeat(" reserved released", 4)[1:]},
		"much too often": {providertest.Error(429, "rate_limit_exceeded", "slow", "Retry-After", "900"), 503, "vega_provider_busy", 1, "reserved released"},
		"fails":          {providertest.Status(500, ""), 502, "vega_provider_unavailable", 4, strings.Repeat(" reserved released", 4)[1:]},
		"overloaded":     {providertest.Status(529, ""), 502, "vega_provider_unavailable", 4, strings.Repeat(" reserved released", 4)[1:]},
		"hangs up":       {providertest.HangUp(), 502, "vega_provider_unavailable", 2, "reserved settled? reserved settled?"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, p, token := before(t, providertest.Always(c.answer), same)
			res, body := b.call("POST", "/v1/responses", token, asked)
			if res.StatusCode != c.status || !strings.Contains(body, c.says) {
				t.Errorf("answered %d %s, want %d with %s", res.StatusCode, body, c.status, c.says)
			}
			if strings.Contains(body, "sk-12") || strings.Contains(body, p.Key) {
				t.Errorf("the answer says something about the key: %s", body)
			}
			u, calls := b.usage()
			if got := len(p.Requests()); got != c.calls || u.Settled.Requests != int64(c.calls) || steps(calls) != c.steps {
				t.Errorf("%d calls, %+v recorded by %s; want %d by %s", got, u.Settled, steps(calls), c.calls, c.steps)
			}
		})
	}
}

func TestPassingTroubleIsNotTheAgents(t *testing.T) {
	t.Parallel()
	b, p, token := before(t, providertest.InTurn(providertest.Status(503, "", "Retry-After-Ms", "1"), providertest.HangUp(), providertest.Text("hello", cost)), same)
	res, body := b.call("POST", "/v1/responses", token, asked)
	if res.StatusCode != 200 || !strings.Contains(body, "response.completed") {
		t.Errorf("answered %d %s", res.StatusCode, body)
	}
	u, calls := b.usage()
	if len(p.Requests()) != 3 || u.Settled.Requests != 3 || steps(calls) != "reserved released reserved settled? reserved settled" {
		t.Errorf("%d calls, %+v by %s", len(p.Requests()), u.Settled, steps(calls))
	}
}

func TestAProviderThatIsNotThereCostsNothing(t *testing.T) {
	t.Parallel()
	b := startWith(t, func(c *Config) { c.ProviderBaseURL, c.MaxRequestsPerScan = "http://127.0.0.1:1/v1", 1 })
	res, body := b.call("POST", "/v1/responses", b.token(b.attempt(theScan)), asked)
	b.refused(res, body, 502, "vega_provider_unavailable")
	if u, calls := b.usage(); u.Settled != (events.Usage{}) || steps(calls) != strings.Repeat(" reserved released", 4)[1:] {
		t.Errorf("spent %+v by %s", u.Settled, steps(calls))
	}
}

func TestOverACapOneSentenceEndsTheScansCalls(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		caps func(*Config)
		says string
	}{
		"requests": {func(c *Config) { c.MaxRequestsPerScan = 2 }, "this scan may make 2 requests (VEGA_LLM_PROXY_MAX_REQUESTS_PER_SCAN) and has made 2"},
		"tokens":   {func(c *Config) { c.MaxTokensPerScan = 540 }, "this scan may use 540 tokens (VEGA_LLM_PROXY_MAX_TOKENS_PER_SCAN), 300 are left, and this request may need "},
		"cost":     {func(c *Config) { c.MaxCostPerScan = 8_600_000 }, "this scan may cost 0.0086 US dollars (VEGA_LLM_PROXY_MAX_COST_USD_PER_SCAN), "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, p, token := before(t, providertest.Always(providertest.Text("hello", cost)), c.caps)
			ask := strings.ReplaceAll(asked, `"m"`, `"gpt-5.4"`)
			for range 2 {
				if res, body := b.call("POST", "/v1/responses", token, ask); res.StatusCode != 200 {
					t.Fatalf("answered %d %s", res.StatusCode, body)
				}
				b.usage()
			}
			for range 3 {
				res, body := b.call("POST", "/v1/responses", token, ask)
				b.refused(res, body, 400, "vega_scan_cap_exceeded")
				if !strings.Contains(body, c.says) {
					t.Errorf("says %s, want %s", body, c.says)
				}
			}
			u, calls := b.usage()
			if len(p.Requests()) != 2 || steps(calls) != "reserved settled reserved settled denied" || u.Denied != name {
				t.Errorf("%d calls by %s, denied %q", len(p.Requests()), steps(calls), u.Denied)
			}
		})
	}
}

func TestAModelWithoutAPriceIsRefusedUnderACapOnCost(t *testing.T) {
	t.Parallel()
	b, p, token := before(t, providertest.Always(providertest.Text("hello", cost)), func(c *Config) { c.MaxCostPerScan = 1_000_000_000 })
	res, body := b.call("POST", "/v1/responses", token, asked)
	b.refused(res, body, 400, "vega_model_unpriced")
	if len(p.Requests()) != 0 {
		t.Error("the call was made")
	}
}

func TestModelsAreAllowedByTheInstallationAndTheToken(t *testing.T) {
	t.Parallel()
	b, p, _ := before(t, providertest.Always(providertest.Text("hello", cost)), func(c *Config) { c.AllowedModels = []string{"gpt-5*", "o9"} })
	past, _, err := b.store.Load(t.Context(), events.ScanOf(natstest.Region, theScan), events.Head{})
	if err != nil {
		t.Fatal(err)
	}
	token := b.token(Grant{Scan: theScan, Attempt: 1, Generation: past[1].Seq, Models: []string{"gpt-5.4", "m"}})
	for model, want := range map[string]int{"gpt-5.4": 200, "gpt-5.5": 400, "o9": 400, "m": 400} {
		if res, body := b.call("POST", "/v1/responses", token, strings.ReplaceAll(asked, `"m"`, `"`+model+`"`)); res.StatusCode != want {
			t.Errorf("%s is answered %d %s, want %d", model, res.StatusCode, body, want)
		}
	}
	if len(p.Requests()) != 1 {
		t.Errorf("%d calls, want 1", len(p.Requests()))
	}
}

func TestARequestThatIsTooLargeIsRefused(t *testing.T) {
	t.Parallel()
	b, p, token := before(t, providertest.Always(providertest.Text("hello", cost)), func(c *Config) { c.MaxRequestBytes = 1024 })
	res, body := b.call("POST", "/v1/responses", token, `{"model":"m","input":"`+strings.Repeat("x", 1024)+`"}`)
	b.refused(res, body, 400, "vega_request_too_large")
	if !strings.Contains(body, "1024 bytes (VEGA_LLM_PROXY_MAX_REQUEST_BYTES)") || len(p.Requests()) != 0 {
		t.Errorf("answered %s, %d calls", body, len(p.Requests()))
	}
}

// open begins a streamed call and returns its answer once the first event is there.
func (b *bench) open(ctx context.Context, token string) (*http.Response, *bufio.Reader) {
	b.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url+"/v1/responses", strings.NewReader(asked))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = res.Body.Close() })
	br := bufio.NewReader(res.Body)
	if line, err := br.ReadString('\n'); err != nil || !strings.Contains(line, "response.created") {
		b.t.Fatalf("the stream begins %q, %v", line, err)
	}
	return res, br
}

func TestAStreamIsCutWhenItsAttemptIsOver(t *testing.T) {
	t.Parallel()
	never := make(chan struct{})
	for name, c := range map[string]struct {
		end  func(*bench, Grant)
		says string
	}{
		"cancelled":  {func(b *bench, _ Grant) { b.do(theScan, scan.RequestCancel{}) }, "the scan is being cancelled"},
		"superseded": {func(b *bench, g Grant) { b.do(theScan, scan.Expire{Generation: g.Generation, Reason: "test"}) }, "the scan was given to another worker"},
		"failed": {func(b *bench, g Grant) {
			b.do(theScan, scan.Fail{Generation: g.Generation, Code: "engine_failed", Message: "m"})
		}, "the scan has ended (failed)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := providertest.Start(t, providertest.Always(providertest.Stream(providertest.Created(), providertest.Delta("a"), providertest.Raw("event: half"), providertest.Pause(never))))
			b := startWith(t, func(c *Config) { c.ProviderBaseURL, c.ProviderAPIKey = p.URL, secret.New(p.Key) })
			g := b.attempt(theScan)
			_, br := b.open(t.Context(), b.token(g))
			c.end(b, g)
			rest, err := io.ReadAll(br)
			if err != nil {
				t.Fatalf("the stream ends with %v", err)
			}
			_, data, ok := strings.Cut(string(rest), "event: response.failed\ndata: ")
			var last struct {
				Response struct {
					Error struct{ Code, Message string }
				}
			}
			if err := json.Unmarshal([]byte(strings.TrimSpace(data)), &last); !ok || err != nil || last.Response.Error.Code != "invalid_prompt" || last.Response.Error.Message != c.says {
				t.Errorf("the stream ends %s", rest)
			}
			<-p.Wait(1).Ended() // the provider was cut off
			if u, calls := b.usage(); steps(calls) != "reserved settled?" || u.Settled.OutputTokens != 32768 || calls[1].Reason != c.says {
				t.Errorf("spent %+v by %+v", u.Settled, calls)
			}
		})
	}
}

func TestAnAnswerThatIsCutOffIsSeenAsCutOff(t *testing.T) {
	t.Parallel()
	b, _, token := before(t, providertest.Always(providertest.Stream(providertest.Created(), providertest.Cut())), same)
	_, br := b.open(t.Context(), token)
	if rest, err := io.ReadAll(br); err == nil {
		t.Errorf("the stream ends well after %s", rest)
	}
	if _, calls := b.usage(); steps(calls) != "reserved settled?" {
		t.Errorf("steps %s", steps(calls))
	}
}

func TestWhatAnAgentLeavesBehindIsCharged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ends  bool // the provider ends its answer after the agent has gone
		steps string
	}{
		"as said, when the provider says it soon": {true, "reserved settled"},
		"as reserved otherwise":                   {false, "reserved settled?"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			released := make(chan struct{})
			b, p, token := before(t, providertest.Always(providertest.Stream(providertest.Created(), providertest.Pause(released), providertest.Completed(cost))), same)
			if !c.ends {
				b.proxy.drain = 50 * time.Millisecond
			}
			ctx, leave := context.WithCancel(t.Context())
			b.open(ctx, token)
			leave()
			if c.ends {
				close(released)
			}
			<-p.Wait(1).Ended()
			if _, calls := b.usage(); steps(calls) != c.steps {
				t.Errorf("steps %s, want %s", steps(calls), c.steps)
			}
		})
	}
}

func TestASilentProviderIsCutOff(t *testing.T) {
	t.Parallel()
	never := make(chan struct{})
	b, p, token := before(t, providertest.InTurn(providertest.Silence(never, nil), providertest.Stream(providertest.Created(), providertest.Pause(never))), func(c *Config) { c.IdleTimeout = 2 * time.Second })
	res, body := b.call("POST", "/v1/responses", token, asked)
	b.refused(res, body, 504, "vega_provider_silent")
	_, br := b.open(t.Context(), token)
	if rest, err := io.ReadAll(br); err == nil {
		t.Errorf("the stream ends well after %s", rest)
	}
	if _, calls := b.usage(); steps(calls) != "reserved settled? reserved settled?" || len(p.Requests()) != 2 {
		t.Errorf("steps %s of %d calls", steps(calls), len(p.Requests()))
	}
}

func TestACallThatTakesTooLongEndsForGood(t *testing.T) {
	t.Parallel()
	never := make(chan struct{})
	b, _, token := before(t, providertest.Always(providertest.Stream(providertest.Created(), providertest.Pause(never))), func(c *Config) { c.TotalTimeout = 2 * time.Second })
	_, br := b.open(t.Context(), token)
	if rest, err := io.ReadAll(br); err != nil || !strings.Contains(string(rest), "VEGA_LLM_PROXY_CALL_TIMEOUT_SECONDS") || !strings.Contains(string(rest), "invalid_prompt") {
		t.Errorf("the stream ends %s, %v", rest, err)
	}
}

func TestCallsBeyondTheScansPlacesWaitAndThenAreTurnedAway(t *testing.T) {
	t.Parallel()
	released := make(chan struct{})
	b, p, token := before(t, providertest.Always(providertest.Silence(released, providertest.Text("hello", cost))), func(c *Config) { c.MaxInFlightPerScan = 2 })
	answers := make(chan int, 4)
	var calling sync.WaitGroup
	call := func() {
		calling.Go(func() {
			res, _ := b.call("POST", "/v1/responses", token, asked)
			answers <- res.StatusCode
		})
	}
	call()
	call()
	p.Wait(2)
	call()
	call()
	a := b.proxy.accountOf(theScan)
	b.eventually(func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.queued == 2
	})
	res, body := b.call("POST", "/v1/responses", token, asked)
	b.refused(res, body, 503, "vega_busy")
	if res.Header.Get("Retry-After") == "" || len(p.Requests()) != 2 {
		t.Errorf("turned away with %v, %d calls on their way", res.Header, len(p.Requests()))
	}
	close(released)
	calling.Wait()
	for range 4 {
		if s := <-answers; s != 200 {
			t.Errorf("a call that waited is answered %d", s)
		}
	}
}

// eventually polls a condition of the process's own state, which rings no bell.
func (b *bench) eventually(cond func() bool) {
	b.t.Helper()
	ctx, stop := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			b.t.Fatal("it never became true")
		}
	}
}

func TestACallThatOthersHoldUpIsMadeWhenTheyHaveEnded(t *testing.T) {
	t.Parallel()
	released := make(chan struct{})
	b, p, token := before(t, providertest.Always(providertest.Silence(released, providertest.Text("hello", cost))), func(c *Config) { c.MaxTokensPerScan = 33_000 })
	var calling sync.WaitGroup
	for range 2 {
		calling.Go(func() {
			if res, body := b.call("POST", "/v1/responses", token, asked); res.StatusCode != 200 {
				t.Errorf("answered %d %s", res.StatusCode, body)
			}
		})
	}
	p.Wait(1)
	close(released)
	calling.Wait()
	if u, calls := b.usage(); u.Settled != said.Plus(said) || len(calls) != 4 {
		t.Errorf("spent %+v by %s", u.Settled, steps(calls))
	}
}

func TestALostCallIsChargedByWhoeverComesNext(t *testing.T) {
	t.Parallel()
	b, _, token := before(t, providertest.Always(providertest.Text("hello", cost)), same)
	lost := after(events.UsageRecorded{Project: "p", Repository: "r", User: "u"})
	lost.reserve(Caps{}, ask{id: "call_lost", bytes: 300, output: 50, until: time.Now().UTC().Add(-time.Second)})
	meta := events.Meta{Command: events.NewCommandID(), Actor: events.BySystem("test"), At: time.Now().UTC()}
	if _, err := b.store.Append(t.Context(), events.UsageOf(natstest.Region, theScan), events.Head{}, meta, lost.UsageRecorded); err != nil {
		t.Fatal(err)
	}
	if res, body := b.call("POST", "/v1/responses", token, asked); res.StatusCode != 200 {
		t.Fatalf("answered %d %s", res.StatusCode, body)
	}
	u, calls := b.usage()
	if want := said.Plus(events.Usage{Requests: 1, InputTokens: 100, OutputTokens: 50}); u.Settled != want || steps(calls) != "reserved settled? reserved settled" {
		t.Errorf("spent %+v by %s, want %+v", u.Settled, steps(calls), want)
	}
}

// Without the log no call is made; what a call cost that ends meanwhile is recorded when the log is back.
func TestTheLogIsAway(t *testing.T) {
	t.Parallel()
	net := natstest.NewProxy(t, natstest.Listen(t))
	released := make(chan struct{})
	p := providertest.Start(t, providertest.Always(providertest.Stream(providertest.Created(), providertest.Pause(released), providertest.Completed(cost))))
	b := prepare(t, natstest.OpenOver(t, natstest.Dial(t, net.URL)), func(c *Config) { c.ProviderBaseURL, c.ProviderAPIKey = p.URL, secret.New(p.Key) })
	token := b.token(b.attempt(theScan))
	_, br := b.open(t.Context(), token)
	net.Close()
	close(released)
	if rest, err := io.ReadAll(br); err != nil || !strings.Contains(string(rest), "response.completed") {
		t.Errorf("the stream ends %s, %v", rest, err)
	}
	res, body := b.call("POST", "/v1/responses", token, asked)
	b.refused(res, body, 503, "vega_unavailable")
	if res.Header.Get("Retry-After") == "" || len(p.Requests()) != 1 {
		t.Errorf("%d calls, answered with %v", len(p.Requests()), res.Header)
	}
	net.Open(t)
	if u, calls := b.usage(); u.Settled != said || !strings.HasPrefix(steps(calls), "reserved settled") {
		t.Errorf("spent %+v by %s", u.Settled, steps(calls))
	}
}

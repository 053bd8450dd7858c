package codextest_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"vega/services/llmproxy"
	"vega/services/llmproxy/codextest"
	pt "vega/services/llmproxy/providertest"
	"vega/services/scan"
)

// way is how a run ends through the proxy, and with how many calls.
type way struct {
	name   string
	answer pt.Script
	config func(*llmproxy.Config)
	before func(*route)             // before the agent starts
	grant  func(*llmproxy.Grant)    // of the token
	tamper func(body []byte) []byte // with what the agent sends

	calls    [2]int // of the agent, in the oldest and in the newest release
	requests [2]int // to the provider
	says     string // the failure contains it; empty: the run succeeds
}

var (
	once = [2]int{1, 1}
	none = [2]int{}
	tiny = pt.Usage{Input: 100, Cached: 40, Output: 10, Reasoning: 5}
)

// What is final reaches the agent as an answer after which it does not try again, with a sentence of ours or of the provider.
func ways() []way {
	text := pt.Always(pt.Text("done", tiny))
	return []way{
		// Those that wait long stand first.
		{name: "the provider cuts every stream", answer: pt.Always(pt.Stream(pt.Created(), pt.Delta("x"), pt.Cut())), calls: [2]int{6, 6}, requests: [2]int{6, 6}, says: "stream disconnected"},
		{name: "the provider's streams are limited", answer: pt.Always(pt.Failed("rate_limit_exceeded", sentence)), calls: [2]int{6, 6}, requests: [2]int{6, 6}, says: sentence},

		{name: "the scan has ended", answer: text, calls: once, requests: none, says: "the scan has ended (cancelled)", before: func(r *route) {
			r.do(scan.RequestCancel{Reason: "r"})
			r.do(scan.ConfirmCancel{Generation: r.grant.Generation})
		}},
		{name: "the scan is being cancelled", answer: text, calls: once, requests: none, says: "the scan is being cancelled", before: func(r *route) { r.do(scan.RequestCancel{Reason: "r"}) }},
		{name: "the attempt is another", answer: text, calls: once, requests: none, says: "the scan was given to another worker", grant: func(g *llmproxy.Grant) { g.Generation++ }},
		{name: "the model is not allowed", answer: text, calls: once, requests: none, says: "is not one that may be called here", config: func(c *llmproxy.Config) { c.AllowedModels = []string{"gpt-6*"} }},
		{name: "the token does not name the model", answer: text, calls: once, requests: none, says: "is not one that may be called here", grant: func(g *llmproxy.Grant) { g.Models = []string{"other"} }},
		{name: "a hosted tool", answer: text, calls: once, requests: none, says: "would be run by the provider", tamper: func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"tools":[`), []byte(`"tools":[{"type":"code_interpreter","container":{"type":"auto"}},`), 1)
		}},
		{name: "the request is too large", answer: text, calls: once, requests: none, says: "is larger than 4096 bytes", config: func(c *llmproxy.Config) { c.MaxRequestBytes = 4096 }},
		{name: "no tokens are left", answer: text, calls: once, requests: none, says: "VEGA_LLM_PROXY_MAX_TOKENS_PER_SCAN", config: func(c *llmproxy.Config) { c.MaxTokensPerScan = 1000 }},
		{name: "no money is left", answer: text, calls: once, requests: none, says: "VEGA_LLM_PROXY_MAX_COST_USD_PER_SCAN", config: func(c *llmproxy.Config) { c.MaxCostPerScan = 1000 }},
		{name: "a cap of two requests", answer: pt.Always(pt.Shell("true", tiny)), calls: [2]int{3, 3}, requests: [2]int{2, 2}, says: "may make 2 requests",
			config: func(c *llmproxy.Config) { c.MaxRequestsPerScan = 2 }},

		{name: "the provider refuses the key with 401", answer: pt.Always(pt.Error(401, "invalid_api_key", "bad key")), calls: once, requests: once, says: "does not accept this installation's key"},
		{name: "the provider refuses the key with 403", answer: pt.Always(pt.Error(403, "forbidden", "bad key")), calls: once, requests: once, says: "does not accept this installation's key"},
		{name: "the provider's account is empty", answer: pt.Always(pt.Error(429, "insufficient_quota", "pay")), calls: once, requests: once, says: "no quota left"},
		{name: "the provider refuses the request", answer: pt.Always(pt.Error(400, "invalid_value", sentence)), calls: once, requests: once, says: sentence},
		{name: "the provider does not know the model", answer: pt.Always(pt.Error(404, "model_not_found", sentence)), calls: once, requests: once, says: sentence},
		{name: "the provider finds the request too large", answer: pt.Always(pt.Error(413, "c", sentence)), calls: once, requests: once, says: sentence},
		{name: "the provider redirects", answer: pt.Always(pt.Redirect("http://127.0.0.1:1/")), calls: once, requests: once, says: "answers with a redirect"},
		{name: "the provider fails a stream for good", answer: pt.Always(pt.Stream(pt.Created(), pt.Message("some words"), pt.FailedWith("invalid_prompt", sentence, tiny))), calls: once, requests: once, says: sentence},

		{name: "the provider is busy for a moment", answer: pt.InTurn(pt.Error(429, "rate_limit_exceeded", "slow down"), pt.Text("done", tiny)), calls: once, requests: [2]int{2, 2}},
		{name: "the provider fails for a moment", answer: pt.InTurn(pt.Error(503, "c", "m", "Retry-After", "1"), pt.Error(500, "c", "m"), pt.Text("done", tiny)), calls: once, requests: [2]int{3, 3}},
		{name: "the provider hangs up for a moment", answer: pt.InTurn(pt.HangUp(), pt.Text("done", tiny)), calls: once, requests: [2]int{2, 2}},
		{name: "a stream is cut once", answer: pt.InTurn(pt.Stream(pt.Created(), pt.Cut()), pt.Text("done", tiny)), calls: [2]int{2, 2}, requests: [2]int{2, 2}},
	}
}

func TestWhatEndsARunThroughTheProxy(t *testing.T) {
	t.Parallel()
	through(t, ways())
}

// through runs each way in the oldest and the newest release, four at a time, in their order.
func through(t *testing.T, ways []way) {
	t.Helper()
	releases := []string{codextest.Releases[0], codextest.Releases[len(codextest.Releases)-1]}
	type run struct {
		route   *route
		token   string
		process *codextest.Process
	}
	var runs []run
	for _, w := range ways {
		for _, release := range releases {
			r := begin(t, w.answer, w.config)
			r.tamper = w.tamper
			if w.before != nil {
				w.before(r)
			}
			token := r.token(w.grant)
			runs = append(runs, run{r, token, codextest.Start(t, codextest.Options{Release: release, BaseURL: r.url, Token: token})})
		}
	}
	for i, r := range runs {
		w, which := ways[i/len(releases)], i%len(releases)
		t.Run(fmt.Sprintf("%s/%s", w.name, releases[which]), func(t *testing.T) {
			result := r.process.Wait()
			if calls, requests := len(r.route.calls()), len(r.route.provider.Requests()); calls != w.calls[which] || requests != w.requests[which] {
				t.Errorf("the agent called %d times and the provider was called %d times, want %d and %d", calls, requests, w.calls[which], w.requests[which])
			}
			switch failure := result.Failure(); {
			case w.says == "" && (failure != "" || result.ExitCode != 0 || strings.Join(result.Messages(), "") != "done"):
				t.Errorf("the run ended with %d, %q and the messages %q, want success", result.ExitCode, failure, result.Messages())
			case w.says != "" && (!strings.Contains(failure, w.says) || result.ExitCode != 1):
				t.Errorf("the run ended with %d and %q, want 1 and %q", result.ExitCode, failure, w.says)
			}
			r.route.kept(r.token, result)
		})
	}
}

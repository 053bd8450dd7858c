package codextest_test

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"vega/services/llmproxy"
	"vega/services/llmproxy/codextest"
	pt "vega/services/llmproxy/providertest"
	"vega/services/scan"
)

// each runs a test for every release.
func each(t *testing.T, f func(t *testing.T, release string)) {
	for _, release := range codextest.Releases {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			f(t, release)
		})
	}
}

func TestATurnWithToolsGoesThroughTheProxy(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, release string) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main // the content of the file\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		r := begin(t, pt.InTurn(
			pt.Shell("cat main.go", pt.Usage{Input: 8000, Cached: 0, Output: 50, Reasoning: 20}),
			pt.Shell("env", pt.Usage{Input: 8100, Cached: 8000, Output: 30}),
			pt.Text("It is an empty program.", pt.Usage{Input: 8200, Cached: 8100, Output: 40, Reasoning: 10}),
		), func(c *llmproxy.Config) { c.MaxOutputTokens, c.MaxRequestsPerScan = 5000, 100 })
		token := r.token(nil)
		result := codextest.Run(t, codextest.Options{Release: release, BaseURL: r.url, Token: token, Dir: dir, Prompt: "What is in main.go?", WebSearch: "live"})
		if result.ExitCode != 0 || result.Failure() != "" || !slices.Equal(result.Messages(), []string{"It is an empty program."}) {
			t.Fatalf("the run ended with %d, %q, %q", result.ExitCode, result.Failure(), result.Messages())
		}
		commands := result.Commands()
		if len(commands) != 2 || !strings.Contains(commands[0].AggregatedOutput, "the content of the file") {
			t.Errorf("the agent ran %+v", commands)
		}
		r.kept(token, result) // so the environment that the second command printed has no token

		requests := r.provider.Requests()
		if len(requests) != 3 || len(r.calls()) != 3 {
			t.Fatalf("the provider was called %d times, the proxy %v, want 3 times", len(requests), r.calls())
		}
		if !strings.Contains(string(requests[1].Body), "the content of the file") {
			t.Error("the second request does not have what the command printed")
		}
		for _, q := range requests {
			var body struct {
				Store     *bool
				MaxOutput int64 `json:"max_output_tokens"`
				Tools     []struct{ Type string }
			}
			if err := json.Unmarshal(q.Body, &body); err != nil {
				t.Fatalf("request %d is no JSON: %v", q.N, err)
			}
			if body.Store == nil || *body.Store || body.MaxOutput != 5000 {
				t.Errorf("request %d has store %v and an output limit of %d, want false and 5000", q.N, body.Store, body.MaxOutput)
			}
			for _, tool := range body.Tools {
				if strings.HasPrefix(tool.Type, "web_search") {
					t.Errorf("request %d lets the provider search the web", q.N)
				}
			}
			for name := range q.Header {
				if !slices.Contains([]string{"Accept", "Authorization", "Content-Length", "Content-Type", "Openai-Beta", "Traceparent", "User-Agent"}, name) {
					t.Errorf("the header %s came to the provider", name)
				}
			}
		}
		u := r.spent()
		if s := u.Settled; s.Requests != 3 || s.InputTokens != 24300 || s.CachedInputTokens != 16100 || s.OutputTokens != 120 || s.ReasoningTokens != 30 || s.CostNanoUSD == 0 || len(u.Open) != 0 {
			t.Errorf("the log has %+v with %d calls open, want what the provider said", s, len(u.Open))
		}
	})
}

// The agent is told within its running turn, and asks for nothing more.
func TestCancellingAScanEndsTheTurnThatRuns(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, release string) {
		streaming := make(chan struct{})
		r := begin(t, pt.Always(pt.Stream(pt.Created(), pt.Delta("a word "), pt.Tell(func() { close(streaming) }), pt.Pause(nil))), nil)
		token := r.token(nil)
		p := codextest.Start(t, codextest.Options{Release: release, BaseURL: r.url, Token: token})
		select {
		case <-streaming:
		case <-p.Ended():
			t.Fatalf("the agent ended before the stream began: %+v", p.Wait())
		}
		r.do(scan.RequestCancel{Reason: "enough"})
		result := p.Wait()
		if result.ExitCode != 1 || !strings.Contains(result.Failure(), "the scan is being cancelled") {
			t.Errorf("the run ended with %d and %q", result.ExitCode, result.Failure())
		}
		<-r.provider.Wait(1).Ended()
		if calls, requests := r.calls(), len(r.provider.Requests()); len(calls) != 1 || requests != 1 {
			t.Errorf("the agent called %v and the provider was called %d times, want once", calls, requests)
		}
		r.kept(token, result)
		if u := r.spent(); u.Settled.Requests != 1 || u.Settled.OutputTokens == 0 || len(u.Open) != 0 {
			t.Errorf("the log has %+v with %d calls open, want the reservation charged", u.Settled, len(u.Open))
		}
	})
}

// Whatever the agent wanted of other addresses would come to the recorder that its environment names as the proxy for them.
func TestTheAgentCallsNobodyElse(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, release string) {
		var recorded atomic.Int64
		recorder := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			_, _ = io.Copy(io.Discard, q.Body)
			http.Error(w, "no way", http.StatusBadRequest)
		}))
		recorder.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				recorded.Add(1)
			}
		}
		recorder.Start()
		defer recorder.Close()
		p := pt.Start(t, pt.InTurn(pt.Shell("true", tiny), pt.Text("done", tiny)))
		env := []string{"HTTP_PROXY=" + recorder.URL, "http_proxy=" + recorder.URL, "HTTPS_PROXY=" + recorder.URL, "https_proxy=" + recorder.URL, "ALL_PROXY=" + recorder.URL}
		o := codextest.Options{Release: release, BaseURL: p.URL, Token: p.Key, Env: append(slices.Clone(env), "NO_PROXY=127.0.0.1", "no_proxy=127.0.0.1")}
		if result := codextest.Run(t, o); result.ExitCode != 0 || recorded.Load() != 0 || len(p.Requests()) != 2 {
			t.Errorf("the run ended with %d, %d calls to the provider and %d to others; want 0, 2 and none", result.ExitCode, len(p.Requests()), recorded.Load())
		}
		o.Env = env
		if result := codextest.Run(t, o); result.ExitCode != 1 || recorded.Load() == 0 || len(p.Requests()) != 2 {
			t.Errorf("the run ended with %d, and the recorder heard of %d connections: it would not notice any", result.ExitCode, recorded.Load())
		}
	})
}

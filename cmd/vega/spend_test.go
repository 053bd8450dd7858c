package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vega/config/secret"
	"vega/events"
	"vega/services/engine"
	"vega/services/llmproxy"
	"vega/services/llmproxy/providertest"
)

// spender is a scan that runs on a worker and may call the model through the proxy inside the API process.
type spender struct {
	*site
	provider *providertest.Provider
	proxy    string // base URL
	scan     string
	token    string
}

func newSpender(t *testing.T, script providertest.Script, env ...string) *spender {
	t.Helper()
	p := providertest.Start(t, script)
	port := freePorts(t, 1)[0]
	s := &spender{provider: p, proxy: fmt.Sprintf("http://127.0.0.1:%d/v1", port)}
	s.site = newSite(t, timed{Stages: 2, Takes: time.Millisecond}, append(env, fmt.Sprintf("VEGA_LLM_PROXY_LISTEN_ADDR=127.0.0.1:%d", port),
		"VEGA_LLM_PROVIDER_BASE_URL="+p.URL, "VEGA_LLM_PROVIDER_API_KEY="+p.Key, "VEGA_LOG_LEVEL=debug")...)
	s.holdStage(engine.StageNames()[0])
	s.worker()
	s.scan = s.site.scan()
	s.await(s.scan, "running")
	s.token = s.issue()
	return s
}

// issue makes the token that a worker of this machine would.
func (s *spender) issue() string {
	s.t.Helper()
	key, err := os.ReadFile(filepath.Join(s.home, "data", "secrets", "llm-proxy"))
	if err != nil {
		s.t.Fatal(err)
	}
	tokens, err := llmproxy.NewTokens(secret.New(strings.TrimSpace(string(key))), secret.String{})
	if err != nil {
		s.t.Fatal(err)
	}
	past, _, err := s.store().Load(s.t.Context(), events.ScanOf("local", events.ScanID(s.scan)), events.Head{})
	if err != nil {
		s.t.Fatal(err)
	}
	i := slices.IndexFunc(past, func(r events.Recorded) bool { return r.Kind == "scan.claimed" })
	token, err := tokens.Issue(llmproxy.Grant{Scan: events.ScanID(s.scan), Attempt: 1, Generation: past[i].Seq}, time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		s.t.Fatal(err)
	}
	return token.Reveal()
}

func (s *spender) call(body string) (int, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.proxy+"/responses", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.token)
	return s.fetch(r)
}

// fetch returns an answer's status and its whole body.
func (s *spender) fetch(r *http.Request) (int, string) {
	s.t.Helper()
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return res.StatusCode, string(got)
}

const question = `{"model":"gpt-5.4","input":"is this safe?","stream":true}`

type usage struct {
	Requests, InputTokens, OutputTokens int64
	CostUSD                             float64
}

func (u *usage) UnmarshalJSON(b []byte) error {
	var v struct {
		Requests     int64   `json:"requests"`
		InputTokens  int64   `json:"input_tokens"`
		OutputTokens int64   `json:"output_tokens"`
		CostUSD      float64 `json:"cost_usd"`
	}
	err := json.Unmarshal(b, &v)
	*u = usage{v.Requests, v.InputTokens, v.OutputTokens, v.CostUSD}
	return err
}

func TestWhatAScanSpendsIsSeenEverywhere(t *testing.T) {
	t.Parallel()
	s := newSpender(t, providertest.Always(providertest.Text("yes", providertest.Usage{Input: 1000, Output: 100})), "VEGA_LLM_PROXY_MAX_REQUESTS_PER_SCAN=2")
	for range 2 {
		if status, body := s.call(question); status != 200 {
			t.Fatalf("answered %d %s", status, body)
		}
	}
	if status, body := s.call(question); status != 400 || !strings.Contains(body, "this scan may make 2 requests") {
		t.Errorf("the third call is answered %d %s", status, body)
	}
	want := usage{2, 2000, 200, 0.008} // $2.50 and $15 a million
	until(t, time.Minute, "the scan shows what it spent", func() bool {
		var v struct {
			Usage  usage
			Denied string
			Caps   struct{ Requests int64 }
		}
		s.api.do(t, http.MethodGet, "/scans/"+s.scan, nil, &v)
		return v.Usage == want && v.Denied == "requests" && v.Caps.Requests == 2
	})
	for _, by := range []string{"day", "project", "user", "scan"} {
		var v struct {
			Items []usage
			Total usage
		}
		s.api.do(t, http.MethodGet, "/billing/usage?by="+by, nil, &v)
		if len(v.Items) != 1 || v.Items[0] != want || v.Total != want {
			t.Errorf("by %s: %+v", by, v)
		}
	}
	if m := s.metrics(); !strings.Contains(m, `vega_llm_tokens_total{kind="input"} 2000`) || !strings.Contains(m, `vega_llm_denied_total{cap="requests"} 1`) || !strings.Contains(m, "vega_llm_cost_usd_total 0.008") {
		t.Errorf("metrics: %s", m)
	}
	s.holdStage("none")
	s.await(s.scan, "completed")
	var done struct{ Usage usage }
	s.api.do(t, http.MethodGet, "/scans/"+s.scan, nil, &done)
	if done.Usage != want {
		t.Errorf("completed with %+v", done.Usage)
	}
	past, _, err := s.store().Load(t.Context(), events.ScanOf("local", events.ScanID(s.scan)), events.Head{})
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := past[len(past)-1].Event.(events.ScanCompleted); !ok || e.Usage.CostNanoUSD != 8_000_000 {
		t.Errorf("the scan ends with %+v", past[len(past)-1].Event)
	}
	if status, body := s.call(question); status != 400 || !strings.Contains(body, "the scan has ended (completed)") {
		t.Errorf("a call after the end is answered %d %s", status, body)
	}
}

func (s *spender) metrics() string {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, strings.TrimSuffix(s.api.base, "/v1")+"/metrics", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	_, text := s.fetch(r)
	return text
}

// Everything that the processes wrote, answered or stored, after calls of every kind, holds neither the provider's key nor an agent's token nor what signs it.
func TestTheProxysSecretsAreNowhere(t *testing.T) {
	t.Parallel()
	var key string
	never := make(chan struct{})
	answers := []providertest.Answer{
		providertest.Text("yes", providertest.Usage{Input: 10, Output: 1}),
		func(w http.ResponseWriter, r providertest.Recorded) {
			providertest.Error(401, "invalid_api_key", "Incorrect API key provided: "+key)(w, r)
		},
		func(w http.ResponseWriter, r providertest.Recorded) {
			providertest.Error(400, "invalid_value", "you sent Authorization: Bearer "+key)(w, r)
		},
		providertest.HangUp(), providertest.HangUp(), providertest.HangUp(), providertest.HangUp(),
		providertest.Redirect("http://127.0.0.1:1/"),
		providertest.Stream(providertest.Created(), providertest.Cut()),
		providertest.Stream(providertest.Created(), providertest.Pause(never)),
	}
	s := newSpender(t, providertest.InTurn(answers...))
	key = s.provider.Key
	var said bytes.Buffer
	for range 5 {
		status, body := s.call(question)
		fmt.Fprintln(&said, status, body)
	}
	for _, body := range []string{`{`, `{"model":1}`, `{"model":"gpt-5.4","tools":[{"type":"mcp","headers":{"Authorization":"` + s.token + `"}}]}`, `{"model":"` + s.token + `"}`} {
		status, answer := s.call(body)
		fmt.Fprintln(&said, status, strings.ReplaceAll(answer, s.token, "")) // what the agent sent it may be told
	}
	s.cut(&said)
	s.cut(&said) // cut off by the scan's end below
	s.api.do(t, http.MethodPost, "/scans/"+s.scan+"/cancel", map[string]any{}, nil)
	s.await(s.scan, "cancelled")
	until(t, time.Minute, "nothing is on its way", func() bool {
		var v struct{ Reserved *struct{} }
		s.api.do(t, http.MethodGet, "/scans/"+s.scan, nil, &v)
		return v.Reserved == nil
	})
	for _, path := range []string{"/scans/" + s.scan, "/scans/" + s.scan + "/usage", "/scans/" + s.scan + "/history", "/scans/" + s.scan + "/events", "/billing/usage", "/ops/limits"} {
		var v any
		s.api.do(t, http.MethodGet, path, nil, &v)
		fmt.Fprintln(&said, v)
	}
	fmt.Fprintln(&said, s.metrics())
	for r, err := range s.store().Follow(s.t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&said, "%+v\n", r)
		if info, err := s.store().Info(t.Context()); err != nil || r.Seq >= info.Last {
			break
		}
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.api.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	said.Write(cmdline)
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", s.api.cmd.Process.Pid))
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 0 0") {
		t.Errorf("core dumps are not off: %s, %v", limits, err)
	}
	_ = s.api.cmd.Process.Kill()
	_ = s.api.cmd.Wait()
	said.Write(s.api.log.Bytes())
	signing, err := os.ReadFile(filepath.Join(s.home, "data", "secrets", "llm-proxy"))
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{"the provider's key": key, "an agent's token": s.token, "the tokens' secret": strings.TrimSpace(string(signing))}
	for what, value := range secrets {
		if i := strings.Index(said.String(), value); i >= 0 {
			t.Errorf("%s was said: …%s…", what, said.String()[max(0, i-200):i])
		}
	}
	err = filepath.WalkDir(s.home, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path == filepath.Join(s.home, "data", "secrets", "llm-proxy") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for what, value := range secrets {
			if bytes.Contains(b, []byte(value)) {
				t.Errorf("%s is in %s", what, path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// cut makes a call whose answer breaks off, or is never ended; it goes on reading in the background.
func (s *spender) cut(said io.Writer) {
	s.t.Helper()
	ctx, stop := context.WithCancel(s.t.Context())
	s.t.Cleanup(stop)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.proxy+"/responses", strings.NewReader(question))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.token)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	fmt.Fprintln(said, res.Status, res.Header)
	s.t.Cleanup(func() { _ = res.Body.Close() })
}

package llmproxy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"vega/config/secret"
	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/scan"
)

// bench is a proxy before a provider that records what reached it.
type bench struct {
	t      *testing.T
	store  *eventstore.Store
	cfg    Config
	proxy  *Proxy
	tokens Tokens
	url    string
	logs   *lines

	mu      sync.Mutex
	got     []*http.Request
	bodies  []string
	respond http.HandlerFunc
}

const providerKey = "sk-provider-key-that-nobody-sees"

func start(t *testing.T) *bench { return startWith(t, func(*Config) {}) }

// startWith is start with another configuration.
func startWith(t *testing.T, change func(*Config)) *bench {
	t.Helper()
	return prepare(t, natstest.Open(t), change)
}

// prepare starts a proxy on a log that is there.
func prepare(t *testing.T, store *eventstore.Store, change func(*Config)) *bench {
	t.Helper()
	b := &bench{t: t, store: store, logs: &lines{}}
	b.respond = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Set-Cookie", "provider=1")
		fmt.Fprint(w, `{"ok":true}`)
	}
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		b.mu.Lock()
		b.got, b.bodies = append(b.got, r), append(b.bodies, string(body))
		respond := b.respond
		b.mu.Unlock()
		respond(w, r)
	}))
	t.Cleanup(provider.Close)
	cfg := Config{AuthSecret: secret.New("a secret of tokens"), ProviderBaseURL: provider.URL + "/api/v9/", ProviderAPIKey: secret.New(providerKey)}
	change(&cfg)
	b.cfg = cfg
	b.proxy, b.url = b.replica()
	b.tokens = b.proxy.Tokens()
	return b
}

// replica starts one more proxy on the same log.
func (b *bench) replica() (*Proxy, string) {
	b.t.Helper()
	p, err := New(b.cfg, Parts{Store: b.store, Log: slog.New(slog.NewTextHandler(b.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := p.Run(ctx); err != nil {
			b.t.Errorf("Run = %v", err)
		}
	})
	front := httptest.NewServer(p)
	b.t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
		stop()
		watching.Wait()
		if err := p.Close(context.Background()); err != nil {
			b.t.Errorf("Close = %v", err)
		}
	})
	return p, front.URL
}

// lines is a log that a test reads while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// attempt is a scan that runs.
func (b *bench) attempt(id events.ScanID) Grant {
	b.t.Helper()
	return b.attemptWithin(id, nil)
}

// attemptWithin is a scan that runs and has a budget of its own.
func (b *bench) attemptWithin(id events.ScanID, own *events.Budget) Grant {
	b.t.Helper()
	b.do(id, scan.Queue{Request: events.ScanQueued{Project: "proj_test_p", Repository: "repo_test_r", Snapshot: "sha256:s", User: "user_u", Priority: events.Normal, MaxAttempts: 2, Budget: own}})
	made := b.do(id, scan.Claim{Worker: "work_test_w", Host: "h"})
	g := Grant{Scan: id, Attempt: 1, Generation: made[0].Seq}
	b.do(id, scan.Start{Generation: g.Generation, Engine: "e"})
	return g
}

func (b *bench) do(id events.ScanID, c scan.Command) []events.Recorded {
	b.t.Helper()
	meta := events.Meta{Command: events.NewCommandID(), Actor: events.BySystem("test"), At: time.Now().UTC()}
	_, made, err := eventstore.Do(context.Background(), b.store, events.ScanOf(natstest.Region, id), meta, func(s scan.Scan, _ events.Head) ([]events.Event, error) {
		return scan.Decide(s, c)
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return made
}

func (b *bench) token(g Grant) string {
	b.t.Helper()
	t, err := b.tokens.Issue(g, time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		b.t.Fatal(err)
	}
	return t.Reveal()
}

func (b *bench) call(method, path, token, body string, headers ...string) (*http.Response, string) {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return res, string(got)
}

func (b *bench) refused(res *http.Response, body string, status int, code string) {
	b.t.Helper()
	var e struct {
		Error struct{ Message, Type, Code string }
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil || res.StatusCode != status || e.Error.Code != code || e.Error.Message == "" {
		b.t.Errorf("answered %d %s, want %d %s", res.StatusCode, body, status, code)
	}
}

func TestACallIsForwardedWithTheProvidersKeyAlone(t *testing.T) {
	t.Parallel()
	b := start(t)
	token := b.token(b.attempt("scan_test_a"))
	res, body := b.call("POST", "/v1/responses", token, `{"model":"m","store":false}`, "Content-Type", "application/json", "Cookie", "a=1", "X-Forwarded-For", "1.2.3.4", "Session-Id", "s")
	if res.StatusCode != 200 || body != `{"ok":true}` || res.Header.Get("Set-Cookie") != "" {
		t.Errorf("answered %d %s with %v", res.StatusCode, body, res.Header)
	}
	got := b.got[0]
	if got.URL.Path != "/api/v9/responses" || got.Header.Get("Authorization") != "Bearer "+providerKey || b.bodies[0] != `{"model":"m","store":false,"max_output_tokens":32768}` {
		t.Errorf("the provider got %s with %v and %s", got.URL, got.Header, b.bodies[0])
	}
	for _, name := range []string{"Cookie", "X-Forwarded-For", "Session-Id"} {
		if got.Header.Get(name) != "" {
			t.Errorf("%s reached the provider", name)
		}
	}
	if strings.Contains(b.logs.String(), providerKey) || strings.Contains(b.logs.String(), token) {
		t.Errorf("a secret is in the log: %s", b.logs)
	}
}

func TestOnlyTheSurfaceIsForwarded(t *testing.T) {
	t.Parallel()
	b := start(t)
	token := b.token(b.attempt("scan_test_a"))
	for _, c := range [][2]string{{"GET", "/v1/responses"}, {"DELETE", "/v1/responses"}, {"POST", "/v1/files"}, {"GET", "/v1/responses/resp_1"}, {"POST", "/responses"}, {"POST", "/v1/../v1/files"}, {"POST", "/v1//responses"}, {"GET", "/"}} {
		res, body := b.call(c[0], c[1], token, "")
		b.refused(res, body, 404, "vega_not_found")
	}
	res, body := b.call("GET", "/v1/responses", token, "", "Connection", "Upgrade", "Upgrade", "websocket")
	b.refused(res, body, 426, "vega_no_websocket")
	if len(b.got) != 0 {
		t.Errorf("%d calls reached the provider", len(b.got))
	}
	if res, _ := b.call("GET", "/v1/models?x=1", token, ""); res.StatusCode != 200 || b.got[0].URL.RawQuery != "" {
		t.Errorf("models: %d, the provider got %s", res.StatusCode, b.got[0].URL)
	}
}

func TestATokenIsGoodForItsRunningAttemptAlone(t *testing.T) {
	t.Parallel()
	b := start(t)
	g := b.attempt("scan_test_a")
	elsewhere, err := NewTokens(secret.New("another secret"), secret.String{})
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := elsewhere.Issue(g, time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	old, err := b.tokens.Issue(g, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{"none": "", "nonsense": "x.y.z", "another proxy's": foreign.Reveal(), "expired": old.Reveal(), "unsigned": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzY2FuX3Rlc3RfYSJ9."} {
		res, body := b.call("POST", "/v1/responses", token, asked)
		t.Log(name)
		b.refused(res, body, 400, "vega_bad_token")
	}
	for _, c := range []struct {
		g    Grant
		code string
	}{
		{Grant{Scan: "scan_test_a", Attempt: 1, Generation: g.Generation + 1}, "vega_attempt_superseded"}, {Grant{Scan: "scan_test_a", Attempt: 2, Generation: g.Generation}, "vega_attempt_superseded"},
		{Grant{Scan: "scan_test_none", Attempt: 1, Generation: 5}, "vega_scan_ended"}, {Grant{Scan: "scan_else_a", Attempt: 1, Generation: 5}, "vega_scan_ended"},
	} {
		res, body := b.call("POST", "/v1/responses", b.token(c.g), asked)
		b.refused(res, body, 400, c.code)
	}
	token := b.token(g)
	if res, body := b.call("POST", "/v1/responses", token, asked); res.StatusCode != 200 {
		t.Errorf("the running attempt is answered %d %s", res.StatusCode, body)
	}
	b.do("scan_test_a", scan.RequestCancel{Reason: "r"})
	res, body := b.call("POST", "/v1/responses", token, asked)
	b.refused(res, body, 400, "vega_scan_cancelled")
	b.do("scan_test_a", scan.ConfirmCancel{Generation: g.Generation})
	res, body = b.call("POST", "/v1/responses", token, asked)
	b.refused(res, body, 400, "vega_scan_ended")
	if len(b.got) != 1 {
		t.Errorf("%d calls reached the provider, want 1", len(b.got))
	}
}

// Each piece arrives when the provider has sent it, not when it has sent everything.
func TestAStreamIsNotHeldBack(t *testing.T) {
	t.Parallel()
	b := start(t)
	heard := make(chan struct{})
	b.respond = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: one\n\n")
		w.(http.Flusher).Flush()
		select {
		case <-heard: // only the first piece that arrived lets the second one go
			fmt.Fprint(w, "data: two\n\n")
		case <-r.Context().Done():
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), "POST", b.url+"/v1/responses", strings.NewReader(asked))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+b.token(b.attempt("scan_test_a")))
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	first := make([]byte, len("data: one\n\n"))
	if _, err := io.ReadFull(res.Body, first); err != nil {
		t.Fatal(err)
	}
	close(heard)
	if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "data: two\n\n" {
		t.Errorf("the rest is %q, %v", rest, err)
	}
}

// asked is a request of the agent.
const asked = `{"model":"m","input":"hello","stream":true}`

func TestASettingThatCannotBeUsedIsNamed(t *testing.T) {
	t.Parallel()
	good := Config{AuthSecret: secret.New("a secret of tokens"), ProviderBaseURL: "http://127.0.0.1:1/v1", ProviderAPIKey: secret.New("k")}
	for want, change := range map[string]func(*Config){
		"VEGA_LLM_PROVIDER_API_KEY":            func(c *Config) { c.ProviderAPIKey = secret.String{} },
		"VEGA_LLM_PROVIDER_BASE_URL":           func(c *Config) { c.ProviderBaseURL = "" },
		"VEGA_LLM_PROXY_AUTH_SECRET":           func(c *Config) { c.AuthSecret = secret.New("short") },
		"VEGA_LLM_PROXY_PREVIOUS_AUTH_SECRETS": func(c *Config) { c.PreviousAuthSecrets = secret.New("long enough, short") },
	} {
		c := good
		change(&c)
		if _, err := New(c, Parts{Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New = %v, want an error that names %s", err, want)
		}
	}
}

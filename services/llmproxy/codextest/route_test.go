package codextest_test

import (
	"bytes"
	"context"
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
	"vega/services/llmproxy"
	"vega/services/llmproxy/codextest"
	pt "vega/services/llmproxy/providertest"
	"vega/services/scan"
)

const scanID = events.ScanID("scan_" + string(natstest.Region) + "_codex")

// route is the whole way of a call: a scan that runs in a real log, the proxy, and the scripted provider. What the agent sends is counted before the proxy.
type route struct {
	t        *testing.T
	store    *eventstore.Store
	provider *pt.Provider
	grant    llmproxy.Grant
	tokens   llmproxy.Tokens
	url      string // of the proxy, for the agent
	logs     lines
	closed   func() // closes the proxy, so that all that was spent is in the log

	mu     sync.Mutex // guards asked
	asked  []string   // the agent's calls
	tamper func(body []byte) []byte
}

// begin starts a route. change may be nil.
func begin(t *testing.T, script pt.Script, change func(*llmproxy.Config)) *route {
	t.Helper()
	r := &route{t: t, store: natstest.Open(t), provider: pt.Start(t, script)}
	r.do(scan.Queue{Request: events.ScanQueued{Project: "proj_test_p", Repository: "repo_test_r", Snapshot: "sha256:s", User: "user_u", Priority: events.Normal, MaxAttempts: 2}})
	made := r.do(scan.Claim{Worker: "work_test_w", Host: "h"})
	r.grant = llmproxy.Grant{Scan: scanID, Attempt: 1, Generation: made[0].Seq}
	r.do(scan.Start{Generation: r.grant.Generation, Engine: "e"})
	cfg := llmproxy.Config{AuthSecret: secret.New("the secret of the tokens"), ProviderBaseURL: r.provider.URL, ProviderAPIKey: secret.New(r.provider.Key)}
	if change != nil {
		change(&cfg)
	}
	r.serve(cfg)
	return r
}

// serve starts the proxy.
func (r *route) serve(cfg llmproxy.Config) {
	r.t.Helper()
	p, err := llmproxy.New(cfg, llmproxy.Parts{Store: r.store, Log: slog.New(slog.NewTextHandler(&r.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		r.t.Fatal(err)
	}
	r.tokens = p.Tokens()
	ctx, stop := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := p.Run(ctx); err != nil {
			r.t.Errorf("Run = %v", err)
		}
	})
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		r.asked = append(r.asked, q.Method+" "+q.URL.RequestURI())
		tamper := r.tamper
		r.mu.Unlock()
		if tamper != nil {
			body, err := io.ReadAll(q.Body)
			if err != nil {
				return // the agent is gone
			}
			body = tamper(body)
			q.Body, q.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		}
		p.ServeHTTP(w, q)
	}))
	r.url = front.URL + "/v1"
	r.closed = sync.OnceFunc(func() {
		front.CloseClientConnections()
		front.Close()
		stop()
		watching.Wait()
		if err := p.Close(context.Background()); err != nil {
			r.t.Errorf("Close = %v", err)
		}
	})
	r.t.Cleanup(r.closed)
}

func (r *route) do(c scan.Command) []events.Recorded {
	r.t.Helper()
	meta := events.Meta{Command: events.NewCommandID(), Actor: events.BySystem("test"), At: time.Now().UTC()}
	_, made, err := eventstore.Do(r.t.Context(), r.store, events.ScanOf(natstest.Region, scanID), meta, func(s scan.Scan, _ events.Head) ([]events.Event, error) {
		return scan.Decide(s, c)
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return made
}

// token is one for the scan's running attempt, or what change makes of it.
func (r *route) token(change func(*llmproxy.Grant)) string {
	r.t.Helper()
	g := r.grant
	if change != nil {
		change(&g)
	}
	t, err := r.tokens.Issue(g, time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		r.t.Fatal(err)
	}
	return t.Reveal()
}

// calls are what the agent asked the proxy for.
func (r *route) calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.asked...)
}

// kept checks that the key did not come to the agent, nor the token to the provider, and neither of them into the log.
func (r *route) kept(token string, result codextest.Result) {
	r.t.Helper()
	if key := r.provider.Key; strings.Contains(result.Stdout+result.Stderr, key) || strings.Contains(r.logs.String(), key) {
		r.t.Error("the provider's key is in what the agent or the proxy wrote")
	}
	if strings.Contains(result.Stdout+result.Stderr+r.logs.String(), token) {
		r.t.Error("the token is in what the agent or the proxy wrote")
	}
	if found := r.provider.Find(token); len(found) > 0 {
		r.t.Errorf("the token came to the provider with requests %v", found)
	}
}

// spent closes the proxy and returns what the log says the scan has spent.
func (r *route) spent() events.UsageRecorded {
	r.t.Helper()
	r.closed()
	last, _, err := r.store.LoadLast(r.t.Context(), events.UsageOf(natstest.Region, scanID))
	if err != nil {
		r.t.Fatal(err)
	}
	u, _ := last.Event.(events.UsageRecorded)
	return u
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

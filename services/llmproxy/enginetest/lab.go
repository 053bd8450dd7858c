package enginetest

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"vega/config/secret"
	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/llmproxy"
	"vega/services/scan"
)

// Lab is everything between an engine and a model, for a test that has no worker: a real log in which a scan runs, and the real LLM proxy.
type Lab struct {
	Store *eventstore.Store
	Scan  events.ScanID

	t      testing.TB
	proxy  *llmproxy.Proxy
	front  *httptest.Server
	grant  llmproxy.Grant
	closed func()
}

// Begin starts a lab that ends with the test. change may be nil.
func Begin(t testing.TB, m *Model, change func(*llmproxy.Config)) *Lab {
	t.Helper()
	l := &Lab{Store: natstest.Open(t), Scan: events.ScanID("scan_" + string(natstest.Region) + "_lab"), t: t}
	l.Do(scan.Queue{Request: events.ScanQueued{Project: "proj_test_p", Repository: "repo_test_r", Snapshot: "sha256:s", User: "user_u", Priority: events.Normal, MaxAttempts: 9}})
	l.Attempt()
	cfg := llmproxy.Config{AuthSecret: secret.New("the secret of the tokens"), ProviderBaseURL: m.URL, ProviderAPIKey: secret.New(m.Key)}
	if change != nil {
		change(&cfg)
	}
	var err error
	if l.proxy, err = llmproxy.New(cfg, llmproxy.Parts{Store: l.Store, Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := l.proxy.Run(ctx); err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	l.front = httptest.NewServer(l.proxy)
	l.closed = sync.OnceFunc(func() {
		l.front.CloseClientConnections()
		l.front.Close()
		stop()
		watching.Wait()
		if err := l.proxy.Close(context.Background()); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
	t.Cleanup(l.closed)
	return l
}

// Do appends what a command decides about the lab's scan.
func (l *Lab) Do(c scan.Command) []events.Recorded {
	l.t.Helper()
	meta := events.Meta{Command: events.NewCommandID(), Actor: events.BySystem("test"), At: time.Now().UTC()}
	_, made, err := eventstore.Do(context.Background(), l.Store, events.ScanOf(natstest.Region, l.Scan), meta, func(s scan.Scan, _ events.Head) ([]events.Event, error) {
		return scan.Decide(s, c)
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return made
}

// Attempt begins another attempt; the one before is over.
func (l *Lab) Attempt() {
	l.t.Helper()
	if l.grant.Generation != 0 {
		l.Do(scan.Expire{Generation: l.grant.Generation, Reason: "restarted"})
	}
	made := l.Do(scan.Claim{Worker: "work_test_w", Host: "h"})
	l.grant = llmproxy.Grant{Scan: l.Scan, Attempt: l.grant.Attempt + 1, Generation: made[0].Seq}
	l.Do(scan.Start{Generation: l.grant.Generation, Engine: "e"})
}

// Access is where the proxy is, and a token of the running attempt for it.
func (l *Lab) Access() (baseURL string, token secret.String) {
	l.t.Helper()
	token, err := l.proxy.Tokens().Issue(l.grant, time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		l.t.Fatal(err)
	}
	return l.front.URL + "/v1", token
}

// Cancel asks for the scan's end.
func (l *Lab) Cancel() {
	l.t.Helper()
	l.Do(scan.RequestCancel{Reason: "enough"})
}

// Spent closes the proxy and returns what the log says that the scan has spent.
func (l *Lab) Spent() events.UsageRecorded {
	l.t.Helper()
	l.closed()
	last, _, err := l.Store.LoadLast(context.Background(), events.UsageOf(natstest.Region, l.Scan))
	if err != nil {
		l.t.Fatal(err)
	}
	u, _ := last.Event.(events.UsageRecorded)
	return u
}

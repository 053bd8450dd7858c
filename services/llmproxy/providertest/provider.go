package providertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// maxKept bounds what a provider remembers, in bytes of bodies.
const maxKept = 256 << 20

// patience bounds the wait for a request.
const patience = time.Minute

// Script says how request n, counted from 1 in the order in which requests were read to their end, is answered. It is called concurrently.
type Script func(n int, r Recorded) Answer

// Answer answers one request. It is called once, on the goroutine of the request, and returns when the answer is complete. [Recorded.Context] ends when nobody
// reads it any more.
type Answer func(w http.ResponseWriter, r Recorded)

// Recorded is a request as it came in. Its header and body are not to be changed.
type Recorded struct {
	N      int // counted from 1
	Method string
	Path   string // with the query
	Header http.Header
	Body   []byte

	ctx   context.Context
	ended chan struct{}
}

// Context ends when the client is gone, and when the provider closes.
func (r Recorded) Context() context.Context { return r.ctx }

// Ended is closed when the answer is complete, was broken off, or nobody reads it any more and its script has seen that.
func (r Recorded) Ended() <-chan struct{} { return r.ended }

// Provider is a running server. All its methods may be called concurrently.
type Provider struct {
	URL string // base URL for clients, without a slash at its end: http://127.0.0.1:port/api/v1
	Key string // the one that is accepted, its own for each provider

	tb      testing.TB
	script  Script
	closing context.Context

	mu       sync.Mutex // held for as long as it takes to copy or append
	requests []Recorded
	kept     int
	arrived  chan struct{} // closed and replaced with each request
}

// Start starts a provider that ends with the test, whatever is being answered then.
func Start(tb testing.TB, script Script) *Provider {
	tb.Helper()
	closing, closeAll := context.WithCancel(context.Background())
	p := &Provider{Key: "sk-provider-" + rand.Text(), tb: tb, script: script, closing: closing, arrived: make(chan struct{})}
	s := httptest.NewServer(http.HandlerFunc(p.serve))
	p.URL = s.URL + "/api/v1"
	tb.Cleanup(func() {
		closeAll()
		s.Close() // waits for the handlers
	})
	return p
}

// Always is a script with one answer.
func Always(a Answer) Script { return func(int, Recorded) Answer { return a } }

// InTurn is a script that gives its answers one after the other, and the last one for ever.
func InTurn(answers ...Answer) Script {
	return func(n int, _ Recorded) Answer { return answers[min(n, len(answers))-1] }
}

func (p *Provider) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxKept))
	if err != nil {
		return // the client broke off before it had asked
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(p.closing, cancel)()
	q, ok := p.record(Recorded{Method: r.Method, Path: r.URL.RequestURI(), Header: r.Header.Clone(), Body: body, ctx: ctx, ended: make(chan struct{})})
	defer close(q.ended)
	if !ok {
		p.tb.Errorf("the provider was sent more than %d bytes in all", maxKept)
		Status(http.StatusRequestEntityTooLarge, "")(w, q)
		return
	}
	if got := r.Header.Values("Authorization"); len(got) != 1 || got[0] != "Bearer "+p.Key {
		p.tb.Errorf("%s %s came to the provider without its key", r.Method, r.URL)
		Status(http.StatusUnauthorized, `{"error":{"message":"Incorrect API key provided.","type":"invalid_request_error","code":"invalid_api_key","param":null}}`)(w, q)
		return
	}
	p.script(q.N, q)(w, q)
}

// record gives the request its number.
func (p *Provider) record(r Recorded) (Recorded, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r.N = len(p.requests) + 1
	p.kept += len(r.Body)
	full := p.kept > maxKept
	if full {
		r.Body = nil
	}
	p.requests = append(p.requests, r)
	close(p.arrived)
	p.arrived = make(chan struct{})
	return r, !full
}

// Requests are all that came so far, in their order.
func (p *Provider) Requests() []Recorded {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}

// Wait returns request n once it is there. It fails the test when that takes a minute.
func (p *Provider) Wait(n int) Recorded {
	p.tb.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		p.mu.Lock()
		have, arrived := p.requests, p.arrived
		p.mu.Unlock()
		if len(have) >= n {
			return have[n-1]
		}
		select {
		case <-arrived:
		case <-late.C:
			p.tb.Fatalf("the provider has %d requests after %v, want %d", len(have), patience, n)
		}
	}
}

// Find returns the numbers of the requests that contain text anywhere: path, headers or body.
func (p *Provider) Find(text string) []int {
	var found []int
	for _, r := range p.Requests() {
		in := strings.Contains(r.Path, text) || bytes.Contains(r.Body, []byte(text))
		for name, values := range r.Header {
			in = in || strings.Contains(name, text) || strings.Contains(strings.Join(values, "\n"), text)
		}
		if in {
			found = append(found, r.N)
		}
	}
	return found
}

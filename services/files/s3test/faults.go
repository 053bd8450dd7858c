package s3test

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// ErrCut is what a request meets whose connection was cut.
var ErrCut = errors.New("the connection was cut")

// Faults is an HTTP client, for [aws.Config.HTTPClient], on whose way to the server things go wrong as the rules say. It is safe for concurrent use.
type Faults struct {
	client http.Client

	mu    sync.Mutex // guards what follows, never held over I/O
	rules []*Rule
	seen  []*http.Request
}

// Rule is what becomes of a request.
type Rule struct {
	Match func(*http.Request) bool // nil: all
	Times int                      // how many requests it is for; 0: all

	Before error                                              // the request is not sent, and ends with this
	Lost   error                                              // the request is sent and takes effect; its answer is lost and this returned
	CutAt  int64                                              // above 0: the answer's body breaks off after as many bytes
	Answer func(*http.Request) *http.Response                 // the request is not sent, and answered with this
	Hook   func(*http.Request)                                // called before anything else
	Change func(*http.Response, *http.Request) *http.Response // what becomes of the answer
}

// NewFaults returns a client without rules.
func NewFaults() *Faults {
	return &Faults{client: http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}}
}

// Close ends its connections.
func (f *Faults) Close() { f.client.CloseIdleConnections() }

// Add adds a rule; the first one that matches counts.
func (f *Faults) Add(r Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, &r)
}

// Clear removes all rules and forgets what was seen.
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules, f.seen = nil, nil
}

// Seen are the requests so far.
func (f *Faults) Seen() []*http.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*http.Request(nil), f.seen...)
}

func (f *Faults) ruleFor(req *http.Request) Rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, req)
	for i, r := range f.rules {
		if r.Match != nil && !r.Match(req) {
			continue
		}
		if r.Times == 1 {
			f.rules = append(f.rules[:i:i], f.rules[i+1:]...)
		} else if r.Times > 1 {
			r.Times--
		}
		return *r
	}
	return Rule{}
}

// Do sends a request, or does not.
func (f *Faults) Do(req *http.Request) (*http.Response, error) {
	r := f.ruleFor(req)
	if r.Hook != nil {
		r.Hook(req)
	}
	switch {
	case r.Before != nil:
		return nil, r.Before
	case r.Answer != nil:
		resp := r.Answer(req)
		resp.Request = req
		return resp, nil
	}
	resp, err := f.client.Do(req)
	switch {
	case err != nil:
		return nil, err
	case r.Lost != nil:
		_, _ = io.Copy(io.Discard, resp.Body) // it has taken effect
		_ = resp.Body.Close()
		return nil, r.Lost
	case r.CutAt > 0:
		resp.Body = &cutBody{resp.Body, r.CutAt}
	case r.Change != nil:
		resp = r.Change(resp, req)
	}
	return resp, nil
}

// cutBody breaks off after left bytes.
type cutBody struct {
	io.ReadCloser
	left int64
}

func (c *cutBody) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, ErrCut
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

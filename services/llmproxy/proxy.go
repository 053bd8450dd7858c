// Package llmproxy stands between the agent and the provider: the agent shows a token that names one attempt of one scan, the proxy looks in the log whether
// that attempt still runs, and forwards the call with the provider's key, which no runner ever has.
//
// What it forwards is a short list of paths, with a short list of headers both ways, to one address, without following redirects and without holding back a
// byte of the answer. Everything else is refused before it leaves. What is refused for good is an HTTP 400 in the provider's own shape, because that is the
// one answer whose sentence the agent shows and after which it does not try again.
//
// A proxy keeps nothing: any number of them may run, and one that dies cuts the calls that go through it, which the agent repeats.
package llmproxy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/scan"
)

// surface is every call that is forwarded, by method and path below /v1.
var surface = map[string]bool{
	"POST /responses":         true,
	"POST /responses/compact": true,
	"POST /chat/completions":  true,
	"POST /embeddings":        true,
	"GET /models":             true,
}

// Headers that go through; all others stay where they are.
var (
	toProvider = []string{"Accept", "Content-Type", "Openai-Beta", "User-Agent", "Traceparent"}
	toAgent    = []string{"Content-Type", "Retry-After", "Openai-Processing-Ms", "X-Request-Id"}
)

const maxBody = 32 << 20 // bytes of a request

// Proxy is an http.Handler for the agent. Make it with New.
type Proxy struct {
	store   *eventstore.Store
	tokens  Tokens
	forward http.Handler
	log     *slog.Logger
}

// New returns a proxy for the scans of a log. Its errors name the setting that is missing or cannot be used. A limit of spending is such a setting: this
// proxy counts nothing, and a limit that is not held must not look as if it were.
func New(c Config, store *eventstore.Store, log *slog.Logger) (*Proxy, error) {
	if c.MaxRequestsPerScan > 0 || c.MaxTokensPerScan > 0 || c.MaxCostPerScan > 0 {
		return nil, errors.New("this build's LLM proxy holds no limits of spending: unset VEGA_LLM_PROXY_MAX_REQUESTS_PER_SCAN, VEGA_LLM_PROXY_MAX_TOKENS_PER_SCAN and VEGA_LLM_PROXY_MAX_COST_USD_PER_SCAN")
	}
	if c.ProviderBaseURL == "" || c.ProviderAPIKey.IsZero() {
		return nil, errors.New("the LLM proxy needs VEGA_LLM_PROVIDER_BASE_URL and VEGA_LLM_PROVIDER_API_KEY")
	}
	base, err := url.Parse(c.ProviderBaseURL)
	if err != nil || base.Host == "" {
		return nil, errors.New("VEGA_LLM_PROVIDER_BASE_URL is no URL")
	}
	tokens, err := NewTokens(c.AuthSecret)
	if err != nil {
		return nil, err
	}
	p := &Proxy{store: store, tokens: tokens, log: log}
	key := c.ProviderAPIKey
	p.forward = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = base.Scheme, base.Host, base.Host
			r.Out.URL.Path, r.Out.URL.RawPath, r.Out.URL.RawQuery = strings.TrimRight(base.Path, "/")+strings.TrimPrefix(r.In.URL.Path, "/v1"), "", ""
			r.Out.Header = keep(r.In.Header, toProvider)
			r.Out.Header.Set("Authorization", "Bearer "+key.Reveal())
		},
		ModifyResponse: func(r *http.Response) error {
			if r.StatusCode >= 300 && r.StatusCode < 400 {
				return errors.New("the provider answered with a redirect")
			}
			if r.StatusCode == http.StatusUnauthorized || r.StatusCode == http.StatusForbidden {
				log.Error("the provider refused its key", "status", r.StatusCode)
				return errKeyRefused
			}
			r.Header = keep(r.Header, toAgent)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if errors.Is(err, errKeyRefused) {
				refuse(w, http.StatusBadRequest, "vega_provider_refused", "the provider does not accept this installation's key; its operator was told")
				return
			}
			if r.Context().Err() != nil {
				return // the agent went away
			}
			log.Warn("call not forwarded", "err", err)
			w.Header().Set("Retry-After", "2")
			refuse(w, http.StatusServiceUnavailable, "vega_provider_unavailable", "the provider does not answer")
		},
		FlushInterval: -1,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 64, DisableCompression: true, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second, ResponseHeaderTimeout: 10 * time.Minute,
		},
	}
	return p, nil
}

var errKeyRefused = errors.New("the provider refused the key")

func keep(from http.Header, names []string) http.Header {
	out := http.Header{}
	for _, n := range names {
		if v := from.Values(n); len(v) > 0 {
			out[http.CanonicalHeaderKey(n)] = v
		}
	}
	return out
}

// ServeHTTP answers one call. It may be called concurrently.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, "/v1")
	if !ok || !surface[r.Method+" "+path] {
		if ok && r.Header.Get("Upgrade") != "" && surface["POST "+path] {
			refuse(w, http.StatusUpgradeRequired, "vega_no_websocket", "this proxy speaks HTTP alone")
			return
		}
		refuse(w, http.StatusNotFound, "vega_not_found", "this proxy forwards no such call")
		return
	}
	if err := p.admit(r.Context(), r.Header.Get("Authorization")); err != nil {
		p.answer(w, err)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	p.forward.ServeHTTP(w, r)
}

// refusal ends a call for good.
type refusal struct{ code, message string }

func (r *refusal) Error() string { return r.message }

// admit lets the calls of an attempt through that runs now. It returns ErrBadToken, a *refusal, or ErrUnavailable of the log.
func (p *Proxy) admit(ctx context.Context, authorization string) error {
	scheme, token, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "bearer") || len(token) > 4<<10 {
		return ErrBadToken
	}
	g, err := p.tokens.Verify(token, time.Now())
	if err != nil {
		return err
	}
	if home, ok := events.HomeOf(string(g.Scan)); !ok || home != p.store.Region() {
		return &refusal{"vega_scan_ended", "the scan is not one of this region"}
	}
	past, _, err := p.store.Load(ctx, events.ScanOf(p.store.Region(), g.Scan), events.Head{})
	if err != nil {
		return err
	}
	var s scan.Scan
	for _, e := range past {
		s = s.Evolve(e)
	}
	switch {
	case s.Status.Terminal() || s.Status == scan.None:
		return &refusal{"vega_scan_ended", fmt.Sprintf("the scan has ended (%s)", cmp.Or(s.Status, "unknown"))}
	case s.Status == scan.Cancelling:
		return &refusal{"vega_scan_cancelled", "the scan is being cancelled"}
	case s.Generation != g.Generation || s.Attempt != g.Attempt || s.Status == scan.Queued:
		return &refusal{"vega_attempt_superseded", "the scan was given to another worker"}
	}
	return nil
}

func (p *Proxy) answer(w http.ResponseWriter, err error) {
	if no, ok := errors.AsType[*refusal](err); ok {
		refuse(w, http.StatusBadRequest, no.code, no.message)
		return
	}
	if errors.Is(err, ErrBadToken) {
		refuse(w, http.StatusBadRequest, "vega_bad_token", ErrBadToken.Error())
		return
	}
	p.log.Warn("call not admitted", "err", err)
	w.Header().Set("Retry-After", "2")
	refuse(w, http.StatusServiceUnavailable, "vega_unavailable", "the event log does not answer")
}

// refuse answers in the shape of the provider's errors.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{ // an agent that is gone reads nothing
		"message": message, "type": "invalid_request_error", "code": code, "param": nil,
	}})
}

package llmproxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"vega/config/secret"
	"vega/services/llmproxy/wire"
)

// provider is the one address that calls go to, with the one key.
type provider struct {
	base url.URL
	key  secret.String
	http *http.Transport
}

// newProvider reads the settings; its errors name them.
func newProvider(c Config) (*provider, error) {
	if c.ProviderBaseURL == "" || c.ProviderAPIKey.IsZero() {
		return nil, errors.New("the LLM proxy needs VEGA_LLM_PROVIDER_BASE_URL and VEGA_LLM_PROVIDER_API_KEY")
	}
	base, err := url.Parse(c.ProviderBaseURL)
	if err != nil || base.Host == "" {
		return nil, errors.New("VEGA_LLM_PROVIDER_BASE_URL is no URL")
	}
	return &provider{base: *base, key: c.ProviderAPIKey, http: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 256, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true,
		DisableCompression: true, // the answer passes as it is
		WriteBufferSize:    16 << 10, ReadBufferSize: 16 << 10,
	}}, nil
}

// request is what goes to the provider.
type request struct {
	endpoint wire.Endpoint
	header   http.Header // the agent's
	body     *body       // nil for a GET
}

// send makes one call and does not follow redirects. sent says whether anything of it may have reached the provider.
func (p *provider) send(ctx context.Context, r request) (res *http.Response, sent bool, err error) {
	var wrote atomic.Bool // the transport's goroutine sets it
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { wrote.Store(true) }})
	method := http.MethodGet
	if r.body != nil {
		method = http.MethodPost
	}
	to := p.base
	to.Path = strings.TrimRight(to.Path, "/") + "/" + string(r.endpoint)
	out, err := http.NewRequestWithContext(ctx, method, to.String(), nil)
	if err != nil {
		return nil, false, errors.New("the provider's address cannot be called")
	}
	if r.body != nil {
		out.Body, out.ContentLength = r.body.reader(), int64(len(r.body.b))
		out.GetBody = func() (io.ReadCloser, error) { return r.body.reader(), nil } // for a connection that was closed before anything was written
	}
	out.Header = keep(r.header, toProvider)
	out.Header.Set("Authorization", "Bearer "+p.key.Reveal())
	res, err = p.http.RoundTrip(out)
	return res, wrote.Load(), err
}

func keep(from http.Header, names []string) http.Header {
	out := make(http.Header, len(names)+1)
	for _, n := range names {
		if v := from[n]; len(v) > 0 {
			out[n] = v
		}
	}
	return out
}

// verdict is what an answer of the provider that is no success means.
type verdict struct {
	refusal        // what the agent is told if it is not tried again
	again   bool   // trying again may help
	alarm   string // what the operator has to look at; empty: nothing
	unknown bool   // the provider may have worked for us: what was reserved is spent
}

// Bounds of what is tried again before the agent hears of it.
const (
	maxTries = 4
	maxLost  = 2                // tries without an answer, each of which may have cost what was reserved
	maxWait  = 60 * time.Second // all pauses of one call together
	maxError = 64 << 10         // bytes that are read of an error's body
)

// notAProvider says of a good answer that it is a page for people: something between here and the provider gave it, or the address is not the provider's.
func notAProvider(res *http.Response) (v verdict, odd bool) {
	kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil || kind != "text/html" || res.StatusCode < 200 || res.StatusCode >= 300 {
		return v, false
	}
	return verdict{refusal: refusal{code: "vega_provider_misconfigured", message: "what answers is a web page and no provider of models (VEGA_LLM_PROVIDER_BASE_URL)"},
		alarm: "a web page answers in the place of the provider: VEGA_LLM_PROVIDER_BASE_URL is not its address, or something on the way answers for it"}, true
}

// judge is the table of the provider's refusals. It reads the answer's body and closes it. now is for dates in Retry-After.
func (p *provider) judge(res *http.Response, now time.Time) verdict {
	defer res.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(res.Body, maxError)) // what is not read is not judged
	code, s := errorCode(body), res.StatusCode
	switch {
	case s >= 300 && s < 400:
		return verdict{refusal: refusal{code: "vega_provider_misconfigured", message: "the provider answers with a redirect, which this proxy does not follow (VEGA_LLM_PROVIDER_BASE_URL)"},
			alarm: "the provider answers with a redirect: VEGA_LLM_PROVIDER_BASE_URL is not its address"}
	case s == http.StatusUnauthorized || s == http.StatusForbidden:
		return verdict{refusal: refusal{code: "vega_provider_refused", message: "the provider does not accept this installation's key (VEGA_LLM_PROVIDER_API_KEY)"},
			alarm: "the provider refuses its key: look at VEGA_LLM_PROVIDER_API_KEY"}
	case s == http.StatusPaymentRequired, s == http.StatusTooManyRequests && outOfQuota[code]:
		return verdict{refusal: refusal{code: "vega_provider_quota", message: "the provider's account has no quota left"},
			alarm: "the provider's account has no quota left"}
	case s == http.StatusTooManyRequests:
		return verdict{refusal: refusal{status: http.StatusBadGateway, code: "vega_provider_busy", message: "the provider limits how often it is called", after: retryAfter(res.Header, now)}, again: true}
	case s >= 500, s == http.StatusRequestTimeout, s == http.StatusConflict, s == http.StatusTooEarly:
		return verdict{refusal: refusal{status: http.StatusBadGateway, code: "vega_provider_unavailable", message: fmt.Sprintf("the provider fails with HTTP %d", s), after: retryAfter(res.Header, now)}, again: true}
	}
	// About the request itself: the provider's own words, as an answer after which no agent tries again.
	v := verdict{refusal: refusal{code: "vega_provider_refused_request", message: fmt.Sprintf("the provider refuses the request with HTTP %d", s)}}
	if code != "" || json.Valid(body) && bytes.Contains(body, []byte(`"error"`)) {
		v.body = bytes.ReplaceAll(body, []byte(p.key.Reveal()), []byte("[key]"))
	}
	return v
}

// outOfQuota are the codes of a 429 that waiting does not help against.
var outOfQuota = map[string]bool{"insufficient_quota": true, "usage_limit_reached": true, "billing_hard_limit_reached": true}

// errorCode is error.code, or error.type, of a provider's error body; empty when it has none.
func errorCode(body []byte) string {
	var e struct {
		Error struct {
			Code any    `json:"code"`
			Type string `json:"type"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &e) != nil {
		return ""
	}
	if code, ok := e.Error.Code.(string); ok && code != "" {
		return code
	}
	return e.Error.Type
}

// retryAfter reads how long the provider wants to be left alone; 0: it does not say.
func retryAfter(h http.Header, now time.Time) time.Duration {
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil && ms > 0 && ms < 1e9 {
		return time.Duration(ms * float64(time.Millisecond))
	}
	text := h.Get("Retry-After")
	if s, err := strconv.ParseFloat(text, 64); err == nil && s > 0 && s < 1e6 {
		return time.Duration(s * float64(time.Second))
	}
	if at, err := http.ParseTime(text); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}

// Check asks the provider for its models, which costs nothing, with the configured key. Its error is a sentence for the operator; the setting to look at comes with it.
func Check(ctx context.Context, c Config) (setting string, err error) {
	p, err := newProvider(c)
	if err != nil {
		return "VEGA_LLM_PROVIDER_BASE_URL", err
	}
	defer p.http.CloseIdleConnections()
	setting, _, err = p.check(ctx, time.Now())
	return setting, err
}

// check asks for the list of models. With an error comes what the table of refusals says about it.
func (p *provider) check(ctx context.Context, now time.Time) (setting string, v verdict, err error) {
	res, _, err := p.send(ctx, request{endpoint: wire.Models})
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = errors.New("it has not answered in time")
		}
		return "VEGA_LLM_PROVIDER_BASE_URL", verdict{refusal: refusal{code: "vega_provider_unavailable"}}, fmt.Errorf("the provider cannot be reached: %w", err)
	}
	if v, odd := notAProvider(res); odd {
		_ = res.Body.Close() // nothing is read of it
		return "VEGA_LLM_PROVIDER_BASE_URL", v, errors.New("what answers is a web page and no provider of models")
	}
	if res.StatusCode >= 200 && res.StatusCode < 300 || res.StatusCode == http.StatusNotFound { // not every provider lists its models
		return "VEGA_LLM_PROVIDER_API_KEY", v, res.Body.Close()
	}
	v = p.judge(res, now)
	switch v.code {
	case "vega_provider_refused":
		return "VEGA_LLM_PROVIDER_API_KEY", v, errors.New("the provider does not accept the key")
	case "vega_provider_quota":
		return "VEGA_LLM_PROVIDER_API_KEY", v, errors.New("the provider's account has no quota left")
	case "vega_provider_misconfigured":
		return "VEGA_LLM_PROVIDER_BASE_URL", v, errors.New("the provider answers with a redirect: this is not its address")
	}
	return "VEGA_LLM_PROVIDER_BASE_URL", v, errors.New(v.message)
}

package llmproxy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/llmproxy/price"
	"vega/services/llmproxy/wire"
)

// surface is every call that is forwarded, by method and path below /v1.
var surface = map[string]wire.Endpoint{
	"POST /responses":         wire.Responses,
	"POST /responses/compact": wire.Compact,
	"POST /chat/completions":  wire.ChatCompletions,
	"POST /embeddings":        wire.Embeddings,
	"GET /models":             wire.Models,
}

// own are the routes that the proxy answers itself, by method and path.
var own = map[string]func(*Proxy, http.ResponseWriter, *http.Request, Grant) error{
	"GET /v1/vega/allowance": (*Proxy).allowance,
	"GET /v1/vega/ready":     (*Proxy).ready,
}

// Headers that go through; all others stay where they are.
var (
	toProvider = []string{"Accept", "Content-Type", "Openai-Beta", "User-Agent", "Traceparent"}
	toAgent    = []string{"Content-Type", "Content-Encoding", "Retry-After", "Openai-Processing-Ms", "X-Request-Id"}
)

// Parts are what a proxy works with. Metrics may be nil, Now too.
type Parts struct {
	Store   *eventstore.Store
	Log     *slog.Logger
	Metrics prometheus.Registerer
	Now     func() time.Time
}

// Proxy is an http.Handler for the agent. Make it with New, keep Run running beside it, and Close it when its server has stopped.
type Proxy struct {
	cfg      Config
	caps     Caps
	store    *eventstore.Store
	tokens   Tokens
	prices   *price.Table
	provider *provider
	watch    *watch
	metrics  *metrics
	log      *slog.Logger
	now      func() time.Time
	drain    time.Duration // drainTime
	name     string        // this process, in the cause of its events
	health   health        // of the provider
	life     context.Context
	end      context.CancelFunc // ends life, when calls that run are cut

	calls   sync.WaitGroup // handlers that run
	writers sync.WaitGroup // accounts that write
	closing chan struct{}  // closed when writers should give up

	mu       sync.Mutex // guards what follows, never held over I/O
	accounts map[events.ScanID]*account
	closed   bool
	alarmed  map[string]time.Time // when the operator was last told, by code
}

// New returns a proxy for the scans of a log. Its errors name the setting that is missing or cannot be used. A cap on money needs prices, so prices are read here and
// never again.
func New(c Config, parts Parts) (*Proxy, error) {
	p := &Proxy{cfg: c.withDefaults(), store: parts.Store, log: parts.Log, now: parts.Now, drain: drainTime, name: "llm proxy " + strings.ToLower(rand.Text()[:8]), watch: newWatch(parts.Store),
		caps:    c.Caps(),
		closing: make(chan struct{}), accounts: map[events.ScanID]*account{}, alarmed: map[string]time.Time{}}
	if p.now == nil {
		p.now = time.Now
	}
	p.life, p.end = context.WithCancel(context.Background())
	var err error
	if p.provider, err = newProvider(c); err != nil {
		return nil, err
	}
	if p.tokens, err = NewTokens(c.AuthSecret, c.PreviousAuthSecrets); err != nil {
		return nil, err
	}
	p.prices = price.Default()
	if c.PricesFile != "" {
		if p.prices, err = price.Load(c.PricesFile); err != nil {
			return nil, fmt.Errorf("VEGA_LLM_PROXY_PRICES_FILE: %w", err)
		}
	}
	p.metrics, err = newMetrics(parts.Metrics)
	return p, err
}

// Tokens signs what this proxy verifies.
func (p *Proxy) Tokens() Tokens { return p.tokens }

// ServeHTTP answers one call. It may be called concurrently.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := own[r.Method+" "+r.URL.Path]; h != nil {
		p.serveOwn(w, r, h)
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v1")
	e, known := surface[r.Method+" "+path]
	switch {
	case ok && r.Header.Get("Upgrade") != "" && surface["POST "+path] != "":
		answer(w, &refusal{status: http.StatusUpgradeRequired, code: "vega_no_websocket", message: "this proxy speaks HTTP alone"})
		return
	case !ok || !known:
		answer(w, &refusal{status: http.StatusNotFound, code: "vega_not_found", message: "this proxy forwards no such call"})
		return
	}
	grant, err := p.verify(r.Header.Get("Authorization"))
	if err != nil {
		p.metrics.refused(e, "vega_bad_token")
		answer(w, refusalOf(err))
		return
	}
	a, err := p.hold(grant.Scan)
	if err != nil {
		answer(w, refusalOf(err))
		return
	}
	defer p.drop(a)
	newCall(p, a, grant, e, w, r).serve()
}

func (p *Proxy) verify(authorization string) (Grant, error) {
	scheme, token, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "bearer") {
		return Grant{}, ErrBadToken
	}
	return p.tokens.Verify(token, p.now())
}

// Close cuts the calls that still run and waits until what they spent is recorded, or ctx ends. The http server that the proxy serves must take no new ones by then.
func (p *Proxy) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.end()
	for _, a := range p.busy() {
		a.mu.Lock()
		for c := range a.live {
			c.cancel(errClosing)
		}
		a.mu.Unlock()
	}
	done := make(chan struct{})
	go func() {
		p.calls.Wait()
		p.writers.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		close(p.closing)
		<-done
		return ctx.Err()
	}
}

var errClosing = errors.New("the proxy is stopping")

// hold finds or opens a scan's account and keeps it until drop.
func (p *Proxy) hold(id events.ScanID) (*account, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosing
	}
	a := p.accounts[id]
	if a == nil {
		a = &account{p: p, id: id, slot: make(chan struct{}, p.cfg.MaxInFlightPerScan), live: map[*call]struct{}{}, ended: make(chan struct{})}
		p.accounts[id] = a
	}
	a.users++
	p.calls.Add(1)
	return a, nil
}

func (p *Proxy) drop(a *account) {
	p.mu.Lock()
	a.users--
	many := len(p.accounts) > maxAccounts
	p.mu.Unlock()
	if many {
		p.forget()
	}
	p.calls.Done()
}

// maxAccounts is how many accounts are kept when nobody uses them: one that is there need not be read again.
const maxAccounts = 4096

// forget closes the accounts that nobody holds and that have nothing to write, once there are too many.
func (p *Proxy) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.accounts) <= maxAccounts {
		return
	}
	for id, a := range p.accounts {
		a.mu.Lock()
		if a.users == 0 && !a.writing {
			delete(p.accounts, id)
		}
		a.mu.Unlock()
	}
}

// busy are the accounts that are open.
func (p *Proxy) busy() []*account {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*account, 0, len(p.accounts))
	for _, a := range p.accounts {
		out = append(out, a)
	}
	return out
}

func (p *Proxy) accountOf(id events.ScanID) *account {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accounts[id]
}

// alarm tells the operator what only an operator can mend, in the log at most once a minute for each problem.
func (p *Proxy) alarm(code, what string) {
	p.metrics.alarm.WithLabelValues(code).Set(1)
	p.mu.Lock()
	tell := p.now().Sub(p.alarmed[code]) > time.Minute
	if tell {
		p.alarmed[code] = p.now()
	}
	p.mu.Unlock()
	if tell {
		p.log.Error("provider needs an operator", "problem", what)
	}
}

// allowed says whether a token may use a model.
func (p *Proxy) allowed(g Grant) func(model string) bool {
	return func(model string) bool { return matches(p.cfg.AllowedModels, model) && matches(g.Models, model) }
}

// matches says whether a name is in a list whose entries may end in *. An empty list has every name.
func matches(list []string, name string) bool {
	for _, want := range list {
		prefix, wild := strings.CutSuffix(want, "*")
		if name == want || wild && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return len(list) == 0
}

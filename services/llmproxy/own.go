package llmproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"vega/events"
	"vega/services/llmproxy/wire"
)

// The proxy's own routes. They need the same token as calls do and are none: nothing is reserved, nothing is counted.

// maxAsked is how many models one question about an allowance may name.
const maxAsked = 20

// serveOwn answers a request about the proxy itself, for an attempt that runs.
func (p *Proxy) serveOwn(w http.ResponseWriter, r *http.Request, h func(*Proxy, http.ResponseWriter, *http.Request, Grant) error) {
	grant, err := p.verify(r.Header.Get("Authorization"))
	if err == nil {
		var a *account
		if a, err = p.hold(grant.Scan); err == nil {
			defer p.drop(a)
			err = h(p, w, r, grant)
		}
	}
	if err != nil {
		answer(w, refusalOf(err))
	}
}

// running reads the scan of a token as the log has it now. It returns a *refusal when the attempt is over.
func (p *Proxy) running(ctx context.Context, g Grant) (seen, error) {
	of, err := p.watch.read(ctx, g.Scan)
	if err != nil {
		return of, err
	}
	if no := ended(of.state, g); no != nil {
		return of, no
	}
	return of, nil
}

// allowanceBody is what a scan may still spend. A cap of 0 is none.
type allowanceBody struct {
	Requests amount                 `json:"requests"`
	Tokens   amount                 `json:"tokens"`
	Cost     amount                 `json:"cost_nano_usd"`
	Denied   string                 `json:"denied"` // the cap that denied the newest call: requests, tokens, cost; or empty
	Models   map[string]askedOfBody `json:"models"` // those that were asked for
}

type amount struct {
	Spent    int64 `json:"spent"`
	Reserved int64 `json:"reserved"` // for calls on their way
	Cap      int64 `json:"cap"`
}

type askedOfBody struct {
	Allowed bool   `json:"allowed"`
	Reason  string `json:"reason"` // one sentence when it is not
}

// allowance says what the token's scan has spent of what it may, and whether it may call the models that the query names.
func (p *Proxy) allowance(w http.ResponseWriter, r *http.Request, g Grant) error {
	models := r.URL.Query()["model"]
	if len(models) > maxAsked {
		return &refusal{code: "vega_bad_request", message: fmt.Sprintf("at most %d models in one question", maxAsked)}
	}
	ctx, cancel := context.WithTimeout(r.Context(), admitTime)
	defer cancel()
	of, err := p.running(ctx, g)
	if err != nil {
		return err
	}
	last, _, err := p.store.LoadLast(ctx, events.UsageOf(p.store.Region(), g.Scan))
	if err != nil {
		return fmt.Errorf("%w: %w", errNoLog, err)
	}
	e, _ := last.Event.(events.UsageRecorded) // none yet: nothing is spent
	l := after(e)
	l.chargeLost(overdue(p.now())) // as the next call will
	spent, reserved, caps := l.Settled, l.Reserved(), p.caps.Within(of.state.Request.Budget)
	body := allowanceBody{
		Requests: amount{spent.Requests, reserved.Requests, caps.Requests},
		Tokens:   amount{spent.Tokens(), reserved.Tokens(), caps.Tokens},
		Cost:     amount{spent.CostNanoUSD, reserved.CostNanoUSD, int64(caps.Cost)},
		Denied:   l.Denied,
		Models:   make(map[string]askedOfBody, len(models)),
	}
	for _, m := range models {
		body.Models[m] = askedOfBody{Allowed: true}
		if no := p.mayCall(m, g, caps); no != "" {
			body.Models[m] = askedOfBody{Reason: no}
		}
	}
	return respond(w, body)
}

// mayCall says in a sentence why a scan may not call a model; empty: it may.
func (p *Proxy) mayCall(model string, g Grant, c Caps) string {
	// As a call is checked: whatever refuses it refuses this.
	body, _ := json.Marshal(map[string]any{"model": model, "input": ""}) // strings always encode
	if _, err := wire.Parse(wire.Responses, body, p.allowed(g)); err != nil {
		return refusalOf(err).message
	}
	if no := badModel(model); no != nil {
		return no.message
	}
	if _, priced := p.prices.Of(model); !priced {
		if no := unpriced(model, c); no != nil {
			return no.message
		}
	}
	return ""
}

// How long it is remembered what the provider said, and how long it may take to say it.
const (
	goodTime  = 5 * time.Minute
	badTime   = 10 * time.Second
	checkTime = 15 * time.Second
)

// health is whether the provider answers, as far as is known.
type health struct {
	mu    sync.Mutex    // guards what follows, never held over I/O
	until time.Time     // what is known holds so long
	bad   *refusal      // nil: the provider answers
	asked chan struct{} // closed when the question on its way is answered; nil: there is none
}

// ready says whether the provider answers on this proxy's account.
func (p *Proxy) ready(w http.ResponseWriter, r *http.Request, g Grant) error {
	ctx, cancel := context.WithTimeout(r.Context(), admitTime)
	defer cancel()
	if _, err := p.running(ctx, g); err != nil {
		return err
	}
	if err := p.askProvider(r.Context()); err != nil {
		return err
	}
	return respond(w, struct {
		Ready bool `json:"ready"`
	}{true})
}

// askProvider returns nil when the provider answers, a *refusal with a sentence when it does not, or ctx's error. It is asked once for all who want to know at
// the same time; the answer does not depend on the one whose question it was, who may have gone.
func (p *Proxy) askProvider(ctx context.Context) error {
	h := &p.health
	for {
		h.mu.Lock()
		if p.now().Before(h.until) {
			defer h.mu.Unlock()
			if h.bad != nil {
				return h.bad
			}
			return nil
		}
		if others := h.asked; others != nil {
			h.mu.Unlock()
			select {
			case <-others:
				continue
			case <-ctx.Done():
				return errAgentGone
			}
		}
		done := make(chan struct{})
		h.asked = done
		h.mu.Unlock()
		bad := p.checkProvider()
		h.mu.Lock()
		h.bad, h.asked, h.until = bad, nil, p.now().Add(goodTime)
		if bad != nil {
			h.until = p.now().Add(badTime)
		}
		close(done)
		h.mu.Unlock()
		if bad != nil {
			return bad
		}
		return nil
	}
}

// checkProvider asks once. nil: it answers.
func (p *Proxy) checkProvider() *refusal {
	ctx, cancel := context.WithTimeout(p.life, checkTime)
	defer cancel()
	setting, v, err := p.provider.check(ctx, p.now())
	if err == nil {
		return nil
	}
	if v.alarm != "" {
		p.alarm(v.code, v.alarm)
	}
	return &refusal{status: http.StatusServiceUnavailable, code: v.code, message: err.Error() + " (" + setting + ")", after: badTime}
}

// respond writes an answer as JSON.
func respond(w http.ResponseWriter, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // an agent that is gone reads nothing
	return nil
}

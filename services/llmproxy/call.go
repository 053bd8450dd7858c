package llmproxy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"strings"
	"time"

	"vega/events"
	"vega/services/llmproxy/price"
	"vega/services/llmproxy/wire"
)

// call is one request of the agent, from its verified token to its end.
type call struct {
	p        *Proxy
	a        *account
	grant    Grant
	endpoint wire.Endpoint
	w        http.ResponseWriter
	r        *http.Request
	ctl      *http.ResponseController

	// Of the work at the provider, which may go on for a moment when the agent has gone. Its cause says why it ended: a *refusal, errSilent, errAgentGone, errClosing.
	ctx    context.Context
	cancel context.CancelCauseFunc
	idle   *time.Timer // ends the call when nothing has come from the provider for too long; stopped between tries

	id       string             // of the try that is on its way
	reserved events.Reservation // for it
	tries    int                // that were made
	in       *body              // the request as it came; nil for a GET
	req      *wire.Request      // of it
	model    price.Model
	begun    bool // the agent has the answer's status
	streams  bool // and it is a stream of events
}

// Times of a call beside those that are configured.
const (
	bodyTime     = time.Minute      // for the agent to send its request
	placeTime    = 30 * time.Second // to wait for a place among the scan's calls, and for what others hold under its caps
	drainTime    = 5 * time.Second  // for the provider to say what it cost when the agent has gone
	longestAfter = time.Hour        // that an agent is told to wait
	lookTime     = 500 * time.Millisecond
	lateTime     = time.Minute // between the last moment of a call and when its reservation counts as lost
)

func newCall(p *Proxy, a *account, g Grant, e wire.Endpoint, w http.ResponseWriter, r *http.Request) *call {
	c := &call{p: p, a: a, grant: g, endpoint: e, w: w, r: r, ctl: http.NewResponseController(w)}
	c.ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(r.Context()))
	return c
}

// cut ends the call with a sentence for the agent.
func (c *call) cut(no *refusal) { c.cancel(no) }

// serve makes the call and answers the agent.
func (c *call) serve() {
	start := c.p.now()
	defer c.cancel(nil)
	total := time.AfterFunc(c.p.cfg.TotalTimeout, func() {
		c.cut(&refusal{code: "vega_call_timeout", message: fmt.Sprintf("the call took longer than %s (VEGA_LLM_PROXY_CALL_TIMEOUT_SECONDS)", c.p.cfg.TotalTimeout)})
	})
	defer total.Stop()
	c.idle = time.AfterFunc(c.p.cfg.IdleTimeout, func() { c.cancel(errSilent) })
	c.idle.Stop() // until something is sent
	defer c.idle.Stop()
	gone := context.AfterFunc(c.r.Context(), func() {
		t := time.NewTimer(c.p.drain)
		defer t.Stop()
		select {
		case <-t.C:
			c.cancel(errAgentGone)
		case <-c.ctx.Done():
		}
	})
	defer gone()
	err := c.make()
	c.p.metrics.observe(c.endpoint, err, c.p.now().Sub(start))
	if err == nil {
		return
	}
	no := refusalOf(err)
	if no.code != "vega_agent_gone" {
		c.p.log.Debug("call refused", "scan_id", c.a.id, "attempt", c.grant.Attempt, "endpoint", c.endpoint, "code", no.code)
	}
	switch {
	case !c.begun:
		answer(c.w, no)
	case no.final() && c.streams:
		// stream has put the sentence into the stream.
	default:
		panic(http.ErrAbortHandler) // the one way to end an answer so that the agent sees that it is not whole
	}
}

// make is the call's life in order. A nil error means that the provider's answer has passed whole.
func (c *call) make() error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.leave()
	defer func() {
		if c.in != nil {
			c.in.release()
		}
	}()
	if err := c.read(); err != nil {
		return err
	}
	pause, lost := 250*time.Millisecond, 0
	for waited := time.Duration(0); ; {
		res, v, err := c.try()
		if err != nil || res != nil {
			if err == nil {
				err = c.stream(res)
			}
			return c.cause(err)
		}
		if v.alarm != "" {
			c.p.alarm(v.code, v.alarm)
		}
		wait := max(v.after, pause/2+mathrand.N(pause/2))
		if v.unknown {
			lost++
		}
		if !v.again || c.tries == maxTries || lost == maxLost || waited+wait > maxWait {
			if v.again && v.after > 0 { // the agent may wait where we do not
				v.status, v.after = http.StatusServiceUnavailable, min(v.after, longestAfter)
			}
			return &v.refusal
		}
		c.p.metrics.retries.Inc()
		waited, pause = waited+wait, 2*pause
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-c.r.Context().Done():
			t.Stop()
			return errAgentGone
		case <-c.ctx.Done():
			t.Stop()
			return c.cause(c.ctx.Err())
		}
	}
}

// cause is why the call ended when its context did, else err.
func (c *call) cause(err error) error {
	if err != nil && c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	return err
}

// enter waits for a place among the calls of the scan, and makes the call one that can be cut.
func (c *call) enter() error {
	a := c.a
	select {
	case a.slot <- struct{}{}:
	default:
		if err := c.queue(); err != nil {
			return err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.live[c] = struct{}{}
	return nil
}

// queue waits for a place; at most as many wait as there are places.
func (c *call) queue() error {
	a := c.a
	a.mu.Lock()
	if a.queued >= cap(a.slot) {
		a.mu.Unlock()
		return errBusy
	}
	a.queued++
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.queued--
	}()
	t := time.NewTimer(placeTime)
	defer t.Stop()
	select {
	case a.slot <- struct{}{}:
		return nil
	case <-t.C:
		return errBusy
	case <-c.r.Context().Done():
		return errAgentGone
	}
}

func (c *call) leave() {
	c.a.mu.Lock()
	delete(c.a.live, c)
	c.a.mu.Unlock()
	<-c.a.slot
}

// read takes the request in and checks what it asks for.
func (c *call) read() error {
	if c.r.Method == http.MethodGet {
		return nil
	}
	limit := c.p.cfg.MaxRequestBytes
	if c.r.ContentLength > limit {
		return &http.MaxBytesError{Limit: limit}
	}
	if enc := c.r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return &refusal{code: "vega_bad_request", message: "the request is compressed, and this proxy has to read it"}
	}
	_ = c.ctl.SetReadDeadline(time.Now().Add(bodyTime)) // a server that cannot has none
	c.in = takeBody()
	err := c.in.readFrom(http.MaxBytesReader(c.w, c.r.Body, limit), c.r.ContentLength)
	if err != nil {
		if _, big := errors.AsType[*http.MaxBytesError](err); big {
			return err
		}
		return &refusal{code: "vega_bad_request", message: "the request did not arrive whole"}
	}
	_ = c.ctl.SetReadDeadline(time.Time{})
	if c.req, err = wire.Parse(c.endpoint, c.in.b, c.p.allowed(c.grant)); err != nil {
		return err
	}
	if no := badModel(c.req.Model); no != nil {
		return no
	}
	var priced bool
	if c.model, priced = c.p.prices.Of(c.req.Model); priced {
		return nil
	}
	caps := c.p.caps
	if caps.Cost == 0 { // the scan may still have a budget, which is as old as the scan
		of, known := c.p.watch.known(c.grant.Scan)
		if !known {
			if of, err = c.p.watch.read(c.ctx, c.grant.Scan); err != nil {
				return err
			}
		}
		caps = caps.Within(of.state.Request.Budget)
	}
	if no := unpriced(c.req.Model, caps); no != nil {
		return no
	}
	return nil
}

// badModel refuses a name that is none; it would stand in events.
func badModel(m string) *refusal {
	if err := events.CheckModel(m); m != "" && err != nil {
		return &refusal{code: "vega_model_refused", message: err.Error()}
	}
	return nil
}

// unpriced refuses a model without a price under a cap on cost; nil where there is no such cap.
func unpriced(model string, c Caps) *refusal {
	switch {
	case c.Cost == 0:
		return nil
	case c.own.cost:
		return &refusal{code: "vega_model_unpriced", message: fmt.Sprintf("the model %.60q has no known price, and the scan's own budget limits what it may cost (VEGA_LLM_PROXY_PRICES_FILE)", model)}
	}
	return &refusal{code: "vega_model_unpriced", message: fmt.Sprintf("the model %.60q has no known price, and this installation limits what a scan may cost (VEGA_LLM_PROXY_MAX_COST_USD_PER_SCAN, VEGA_LLM_PROXY_PRICES_FILE)", model)}
}

// try reserves what the call may cost and makes it once. It returns the provider's answer when that is a success; a verdict on what failed otherwise, with the
// reservation ended; or an error that ends the call.
func (c *call) try() (*http.Response, *verdict, error) {
	c.id = "call_" + strings.ToLower(rand.Text())
	k := ask{id: c.id, attempt: c.grant.Attempt, endpoint: string(c.endpoint), until: c.p.now().UTC().Add(c.p.cfg.TotalTimeout + lateTime)}
	if c.req != nil {
		k.model, k.tier, k.price, k.bytes = c.req.Model, c.req.Tier, c.model, int64(len(c.in.b))
		k.limited, k.output = c.endpoint.TakesLimit(), c.output()
	}
	var err error
	if c.reserved, err = c.reserve(k); err != nil {
		return nil, nil, err
	}
	limit := int64(0)
	if k.limited {
		limit = c.reserved.OutputTokens
	}
	// A crash from here on: the reservation is charged in full.
	c.tries++
	out := request{endpoint: c.endpoint, header: c.r.Header}
	if c.req != nil {
		out.body = takeBody()
		out.body.b = c.req.AppendBody(out.body.b, limit)
		defer out.body.release()
	}
	c.idle.Reset(c.p.cfg.IdleTimeout)
	res, sent, err := c.p.provider.send(c.ctx, out)
	c.p.metrics.calls.WithLabelValues(string(c.endpoint)).Inc()
	switch {
	case err != nil:
		c.idle.Stop()
		v := &verdict{refusal: refusal{status: http.StatusBadGateway, code: "vega_provider_unavailable", message: "the provider cannot be reached"}, again: true}
		if !sent {
			c.a.release(c.id, false, "the provider was not reached")
		} else { // it may have worked for us
			v.message, v.unknown = "the provider did not answer as a provider does", true
			c.end(nil, k.tier, "the provider gave no answer")
		}
		if c.ctx.Err() != nil {
			return nil, nil, err
		}
		c.p.log.Warn("no answer of the provider", "scan_id", c.a.id, "attempt", c.grant.Attempt, "try", c.tries, "err", err)
		return nil, v, nil
	case res.StatusCode >= 200 && res.StatusCode < 300:
		v, odd := notAProvider(res)
		if !odd {
			return res, nil, nil
		}
		_ = res.Body.Close() // nothing is read of it
		c.idle.Stop()
		c.a.release(c.id, true, v.message)
		return nil, &v, nil
	}
	v := c.p.provider.judge(res, c.p.now())
	c.idle.Stop()
	c.a.release(c.id, true, fmt.Sprintf("the provider answered HTTP %d", res.StatusCode))
	return nil, &v, nil
}

// reserve sets aside what the call may cost. While calls that are on their way hold what it needs, it waits for their end: a refusal is final, and they usually cost less.
func (c *call) reserve(k ask) (events.Reservation, error) {
	patience := time.NewTimer(placeTime)
	defer patience.Stop()
	for {
		changed := c.a.change()
		made, deny, err := c.a.reserve(c.ctx, c.grant, k)
		if err != nil || deny == nil {
			return made, err
		}
		if !deny.wait {
			c.p.metrics.denied.WithLabelValues(deny.cap).Inc()
			return made, &refusal{code: "vega_scan_cap_exceeded", message: deny.message}
		}
		again := time.NewTimer(lookTime)
		select {
		case <-changed:
		case <-again.C: // another process may have recorded an end
		case <-patience.C:
			err = errHeld
		case <-c.r.Context().Done():
			err = errAgentGone
		case <-c.ctx.Done():
			err = c.ctx.Err()
		}
		again.Stop()
		if err != nil {
			return made, err
		}
	}
}

// output is the most tokens that the call may write.
func (c *call) output() int64 {
	if c.endpoint == wire.Embeddings {
		return 0
	}
	most := c.p.cfg.MaxOutputTokens
	if m := c.model.MaxOutput(); m > 0 {
		most = min(most, m)
	}
	if c.req.MaxOutput > 0 {
		most = min(most, c.req.MaxOutput)
	}
	return most
}

// end settles the try that is on its way; nil is what the provider did not say.
func (c *call) end(u *wire.Usage, tier, reason string) {
	if c.req == nil { // a list of models, which has no tokens
		u = &wire.Usage{}
	}
	if u == nil {
		c.p.metrics.estimated.Inc()
		c.p.metrics.estimatedCost.Add(float64(c.reserved.CostNanoUSD) / 1e9)
		c.a.settle(c.id, nil, tier, reason)
		return
	}
	spent := events.Usage{Requests: 1, InputTokens: u.Input, CachedInputTokens: u.Cached, OutputTokens: u.Output, ReasoningTokens: u.Reasoning,
		CostNanoUSD: int64(c.model.Cost(price.Tokens{Input: u.Input, Cached: u.Cached, CacheWrite: u.CacheWrite, Output: u.Output, Reasoning: u.Reasoning}, tier))}
	c.p.metrics.spent(spent)
	c.a.settle(c.id, &spent, tier, reason)
}

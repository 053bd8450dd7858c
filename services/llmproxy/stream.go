package llmproxy

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"sync"

	"vega/services/llmproxy/wire"
)

// buffers are for what passes through; 32 KiB each.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// stream passes the provider's answer on as it comes and settles the call as soon as its usage is known. The agent's bytes go first: counting never delays them. When
// the agent has gone it reads on for a moment, because what an answer cost is said at its end.
func (c *call) stream(res *http.Response) error {
	defer res.Body.Close()
	said := wire.NewAnswer(c.endpoint, res.Header.Get("Content-Type"))
	settled := false
	settle := func(reason string) {
		if settled {
			return
		}
		settled = true
		if u, ok := said.Usage(); ok {
			c.end(&u, cmp.Or(u.Tier, c.tier()), "")
		} else {
			c.end(nil, c.tier(), reason)
		}
	}
	c.streams = said.Streams()
	gone := c.begin(res) != nil
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	var failed error
	for failed == nil {
		n, err := res.Body.Read(buf[:])
		c.idle.Reset(c.p.cfg.IdleTimeout)
		if n > 0 {
			if !gone {
				gone = c.pass(buf[:n]) != nil
			}
			_, _ = said.Write(buf[:n]) // it never fails
			if said.Ended() {
				settle("")
			}
		}
		failed = err
	}
	said.Close()
	if errors.Is(failed, io.EOF) {
		settle("the provider did not say what it cost")
		if gone {
			return errAgentGone
		}
		return nil
	}
	why := c.cause(errCutOff)
	settle(why.Error())
	if no, ok := errors.AsType[*refusal](why); ok && c.streams && !gone {
		_ = c.pass(wire.FinalEvent(c.endpoint, no.message, !said.AtBoundary())) // an agent that is gone reads nothing
	}
	return why
}

// tier is what the request asked to be served as.
func (c *call) tier() string {
	if c.req == nil {
		return ""
	}
	return c.req.Tier
}

// begin gives the agent the answer's status and headers.
func (c *call) begin(res *http.Response) error {
	h := c.w.Header()
	for _, name := range toAgent {
		if v := res.Header[name]; len(v) > 0 {
			h[name] = v
		}
	}
	if n := res.Header["Content-Length"]; len(n) == 1 {
		h["Content-Length"] = n
	}
	c.w.WriteHeader(res.StatusCode)
	c.begun = true
	if !c.streams {
		return nil
	}
	return c.ctl.Flush()
}

// pass writes to the agent. An error means that it has gone, which ends the call a moment later.
func (c *call) pass(b []byte) error {
	_, err := c.w.Write(b)
	if err == nil && c.streams {
		err = c.ctl.Flush()
	}
	return err
}

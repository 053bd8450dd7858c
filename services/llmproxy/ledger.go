package llmproxy

import (
	"fmt"
	"slices"
	"sort"
	"time"

	"vega/events"
	"vega/services/llmproxy/price"
)

// Caps are what one scan may spend; 0 means no limit.
type Caps struct {
	Requests int64
	Tokens   int64 // input and output together
	Cost     price.NanoUSD

	own struct{ requests, tokens, cost bool } // which of them are the scan's own
}

// Within are the caps of a scan with a budget of its own, nil when it has none: of each the smaller one.
func (c Caps) Within(b *events.Budget) Caps {
	if b == nil {
		return c
	}
	tighten := func(limit *int64, own int64) bool {
		if own <= 0 || *limit > 0 && *limit <= own {
			return false
		}
		*limit = own
		return true
	}
	c.own.requests, c.own.tokens, c.own.cost = tighten(&c.Requests, b.Requests), tighten(&c.Tokens, b.Tokens), tighten((*int64)(&c.Cost), b.CostNanoUSD)
	return c
}

// nameOf says where a cap comes from: the setting, or the scan.
func nameOf(setting string, own bool) string {
	if own {
		return "the scan's own budget"
	}
	return setting
}

// ask is a call that wants to be made.
type ask struct {
	id       string
	attempt  int
	endpoint string
	model    string
	tier     string      // of the price, as asked for
	price    price.Model // the zero Model when there is none, which a cap on cost does not let through
	bytes    int64       // of the body
	output   int64       // tokens that it may write at most; 0 for a call that writes none
	limited  bool        // output can be lowered
	until    time.Time
}

// denial says which cap forbids a call. It is a value, for one call.
type denial struct {
	cap     string // requests, tokens, cost: what events and metrics call it; open, which is never final
	message string
	wait    bool // it may fit once other calls have ended
}

// minOutput is the smallest output limit that is worth a call.
const minOutput = 256

// maxOpen is how many calls of one scan may be on their way over all proxies: all of them stand in each event, which has a size.
const maxOpen = 800

// ledger is what a scan has spent and reserved, and what is about to be recorded on top: a copy of the newest event, changed step by step by pure methods.
type ledger struct {
	events.UsageRecorded
}

// after begins the successor of an event: the same sums, no steps yet.
func after(e events.UsageRecorded) *ledger {
	l := &ledger{e}
	l.Calls = nil
	l.Open = append(make([]events.Reservation, 0, len(e.Open)+1), e.Open...)
	return l
}

// reserve admits a call, which is then the last that is open, or says which cap forbids it. A call whose output can be limited must be sent with the reserved one.
func (l *ledger) reserve(c Caps, a ask) *denial {
	r, no := l.fit(c, a)
	if no != nil {
		if l.Denied != no.cap && !no.wait { // one who keeps asking fills no log
			l.Calls = append(l.Calls, events.Call{ID: a.id, Step: events.CallDenied, Attempt: a.attempt, Endpoint: a.endpoint, Model: a.model, Tier: a.tier, Reason: no.message})
			l.Denied = no.cap
		}
		return no
	}
	l.Open = append(l.Open, r)
	l.Calls = append(l.Calls, events.Call{ID: a.id, Step: events.CallReserved, Attempt: a.attempt, Endpoint: a.endpoint, Model: a.model, Tier: a.tier, Reserved: &r})
	l.Denied = ""
	return nil
}

// fit finds what to set aside for a call so that the caps hold even if every open call costs the most that it can. A third of the bytes is the estimate of the input;
// once less than four times as much is left, every byte counts as a token, which is what the checks go by in any case.
func (l *ledger) fit(c Caps, a ask) (r events.Reservation, no *denial) {
	if len(l.Open) >= maxOpen {
		return r, &denial{cap: "open", wait: true, message: fmt.Sprintf("this scan has %d calls on their way", len(l.Open))}
	}
	if made := l.Settled.Requests + int64(len(l.Open)); c.Requests > 0 && made >= c.Requests {
		return r, &denial{cap: "requests", message: fmt.Sprintf("this scan may make %d requests (%s) and has made %d", c.Requests, nameOf("VEGA_LLM_PROXY_MAX_REQUESTS_PER_SCAN", c.own.requests), made)}
	}
	var openTokens, openMoney int64
	for _, o := range l.Open {
		openTokens, openMoney = openTokens+o.MostInput+o.OutputTokens, openMoney+o.MostCost
	}
	most := func(output int64) int64 { return int64(a.price.Most(a.bytes, output, a.tier)) }
	output, least := a.output, a.output
	if a.limited {
		least = min(output, minOutput)
	}
	if c.Tokens > 0 {
		left, need := c.Tokens-l.Settled.Tokens(), a.bytes+least
		if need > left-openTokens {
			return r, &denial{cap: "tokens", wait: need <= left, message: fmt.Sprintf("this scan may use %d tokens (%s), %d are left, and this request may need %d",
				c.Tokens, nameOf("VEGA_LLM_PROXY_MAX_TOKENS_PER_SCAN", c.own.tokens), max(left-openTokens, 0), need)}
		}
		output = min(output, left-openTokens-a.bytes)
	}
	if c.Cost > 0 {
		left, need := int64(c.Cost)-l.Settled.CostNanoUSD, most(least)
		if need > left-openMoney {
			return r, &denial{cap: "cost", wait: need <= left, message: fmt.Sprintf("this scan may cost %s US dollars (%s), %s are left, and this request may cost %s",
				c.Cost, nameOf("VEGA_LLM_PROXY_MAX_COST_USD_PER_SCAN", c.own.cost), price.NanoUSD(max(left-openMoney, 0)), price.NanoUSD(need))}
		}
		// The longest output that is still paid for; what an answer costs at most never falls with its length.
		output = least + int64(sort.Search(int(output-least), func(i int) bool { return most(least+int64(i)+1) > left-openMoney }))
	}
	input := (a.bytes + 2) / 3
	if c.Tokens > 0 && c.Tokens-l.Settled.Tokens()-openTokens < 4*(input+output) ||
		c.Cost > 0 && int64(c.Cost)-l.Settled.CostNanoUSD-openMoney < 4*int64(a.price.Most(input, output, a.tier)) {
		input = a.bytes
	}
	return events.Reservation{ID: a.id, Attempt: a.attempt, Endpoint: a.endpoint, Model: a.model, InputTokens: input, OutputTokens: output,
		CostNanoUSD: int64(a.price.Most(input, output, a.tier)), MostInput: a.bytes, MostCost: most(output), Until: a.until}, nil
}

// settle ends a call with what it cost; nil means that the provider did not say, and what was reserved is charged. A call that is not open has ended already: nothing
// happens, and false.
func (l *ledger) settle(id string, spent *events.Usage, tier, reason string) bool {
	r, ok := l.take(id)
	if !ok {
		return false
	}
	usage, estimated := r.Usage(), spent == nil
	if !estimated {
		usage = *spent
	}
	l.end(events.Call{ID: id, Step: events.CallSettled, Attempt: r.Attempt, Endpoint: r.Endpoint, Model: r.Model, Tier: tier, Usage: &usage, Estimated: estimated, Reason: reason})
	return true
}

// release ends a call that cost nothing but, if it reached the provider, a request.
func (l *ledger) release(id string, sent bool, reason string) bool {
	r, ok := l.take(id)
	if !ok {
		return false
	}
	usage := events.Usage{}
	if sent {
		usage.Requests = 1
	}
	l.end(events.Call{ID: id, Step: events.CallReleased, Attempt: r.Attempt, Endpoint: r.Endpoint, Model: r.Model, Usage: &usage, Reason: reason})
	return true
}

// chargeLost ends the calls whose process is gone: at what was reserved for them.
func (l *ledger) chargeLost(lost func(events.Reservation) bool) {
	for _, r := range slices.Clone(l.Open) {
		if lost(r) {
			l.settle(r.ID, nil, "", "the process that made the call is gone")
		}
	}
}

// overdue says of a call that its time was over before now.
func overdue(now time.Time) func(events.Reservation) bool {
	return func(r events.Reservation) bool { return now.After(r.Until) }
}

func (l *ledger) end(c events.Call) {
	l.Settled = l.Settled.Plus(*c.Usage)
	l.Calls = append(l.Calls, c)
}

func (l *ledger) take(id string) (events.Reservation, bool) {
	i := slices.IndexFunc(l.Open, func(r events.Reservation) bool { return r.ID == id })
	if i < 0 {
		return events.Reservation{}, false
	}
	r := l.Open[i]
	l.Open = slices.Delete(l.Open, i, i+1)
	return r, true
}

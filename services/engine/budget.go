package engine

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"sync"

	"vega/services/engine/codex"
)

// allowance is what the proxy says that a scan has spent and may spend.
type allowance struct {
	Requests meter `json:"requests"`
	Tokens   meter `json:"tokens"`
	Cost     meter `json:"cost_nano_usd"`
	Denied   string
	Models   map[string]struct {
		Allowed bool
		Reason  string
	}
}

// meter is one of its sums.
type meter struct {
	Spent, Reserved, Cap int64 // Cap 0: no limit
}

// noLimit stands for a sum without a cap.
const noLimit = math.MaxInt64

// left is what may still be spent, as far as one can tell while calls are on their way. What is reserved for those is the most that they can cost, with the whole output limit; they
// rarely come near it, and the proxy has the last word anyway.
func (m meter) left() int64 {
	if m.Cap == 0 {
		return noLimit
	}
	return max(m.Cap-m.Spent-m.Reserved/4, 0)
}

func (a *agent) allowance(ctx context.Context) (allowance, error) {
	var out allowance
	err := a.askProxy(ctx, "/vega/allowance?model="+url.QueryEscape(a.model), &out)
	return out, err
}

// purse holds the runs of one stage to what the scan may still spend, and each of them to its share. The proxy's caps hold whatever happens here; a purse sees to it that they are
// met with an answer in hand: a run whose share ends gets one last request, for the answer.
//
// A share is what is left, without what is kept for later stages, divided by the pieces of work that are not done; what one does not use is there for the others. A piece that would get less than is useful waits for
// those that run, and if none does it is not begun: a budget that is too small for all is spent on the first ones, which are the riskiest.
type purse struct {
	a    *agent
	keep int64 // one part in so many is kept for later stages; 0: nothing

	useful int64 // with fewer requests for each run a piece of work is not begun

	mu      sync.Mutex // guards what follows, for an instant
	kept    *leftover  // in absolute terms, once it is known
	waiting int        // pieces that were not begun
	running int
	ended   chan struct{} // closed and replaced when a run ends
	over    *gap          // once a piece could not be begun; what is kept stays for later stages
}

// leftover is what may still be spent.
type leftover struct{ requests, tokens int64 }

const (
	usefulTokens = 12_000 // with fewer for each run a piece of work is not begun
	leastShare   = 6      // requests that a piece may always make, if they are there
	answerTokens = 4_000  // what a model needs to write an answer
)

// left is what may be spent in this stage: by the caps on requests, and by those on tokens and cost, in tokens. What a token costs is what one has cost so far.
func (p *purse) left(al allowance) leftover {
	l := leftover{al.Requests.left(), al.Tokens.left()}
	if al.Requests.Cap > 0 {
		l.requests = max(al.Requests.Cap-al.Requests.Spent-al.Requests.Reserved, 0) // a call is one request, whatever it costs
	}
	if money := al.Cost.left(); money != noLimit && al.Tokens.Spent > 0 && al.Cost.Spent > 0 {
		l.tokens = min(l.tokens, int64(float64(money)*float64(al.Tokens.Spent)/float64(al.Cost.Spent)))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.keep > 0 && p.kept == nil {
		p.kept = &leftover{part(l.requests, p.keep), part(l.tokens, p.keep)}
	}
	if p.kept != nil {
		l.requests, l.tokens = minus(l.requests, p.kept.requests), minus(l.tokens, p.kept.tokens)
	}
	return l
}

func part(n, of int64) int64 {
	if n == noLimit {
		return 0
	}
	return n / of
}

func minus(n, kept int64) int64 {
	if n == noLimit {
		return n
	}
	return max(n-kept, 0)
}

// begin takes a piece of work from those that wait, as soon as there is enough for it. It returns what paces its run, or why it is not to be begun.
func (p *purse) begin(ctx context.Context) (func(context.Context, codex.Call) (codex.Verdict, string), *gap) {
	for {
		if over := p.a.asking(); over != nil {
			return nil, over
		}
		al, err := p.a.allowance(ctx)
		if err != nil {
			al = allowance{} // the proxy decides about each request in any case
		}
		ended, over := p.enter(p.left(al), al)
		if ended == nil {
			if over != nil {
				return nil, over
			}
			return p.pace, nil
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return nil, &gap{codeFailed, "the attempt was ended"}
		}
	}
}

// enter begins a piece if there is enough for it and for those that run. Otherwise it returns what to wait for, or why there is nothing to wait for.
func (p *purse) enter(l leftover, al allowance) (ended <-chan struct{}, over *gap) {
	p.mu.Lock()
	defer p.mu.Unlock()
	runs := int64(p.running + 1)
	switch {
	case p.over != nil:
		return nil, p.over
	case l.requests >= p.useful*runs && l.tokens >= usefulTokens*runs:
		p.waiting--
		p.running++
		return nil, nil
	case p.running > 0:
		if p.ended == nil {
			p.ended = make(chan struct{})
		}
		return p.ended, nil
	default:
		p.over = &gap{codeCap, fmt.Sprintf("too little of the scan's budget is left for it (spent: %s)", al)}
		if l.requests == 0 || l.tokens == 0 {
			p.over.why = fmt.Sprintf("the scan's budget is used up (%s)", al)
		}
		return nil, p.over
	}
}

// end gives the place of a run back.
func (p *purse) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running--
	if p.ended != nil {
		close(p.ended)
		p.ended = nil
	}
}

// pace decides about one request of a run.
func (p *purse) pace(ctx context.Context, c codex.Call) (codex.Verdict, string) {
	al, err := p.a.allowance(ctx)
	if err != nil {
		return codex.Go, ""
	}
	l := p.left(al)
	p.mu.Lock()
	running, pieces := int64(max(p.running, 1)), int64(max(p.running+p.waiting, 1))
	p.mu.Unlock()
	return verdict(c, l, running, pieces, al)
}

// verdict is pace without asking anybody. A run's share is its part of what there was for all pieces that are not done: it grows when others end with less.
func verdict(c codex.Call, l leftover, running, pieces int64, al allowance) (codex.Verdict, string) {
	need := c.Bytes/3 + answerTokens
	used := c.Spent.Input + c.Spent.Output
	switch {
	case l.requests == 0 || l.tokens == 0:
		return codex.Stop, fmt.Sprintf("the scan's budget is used up (%s)", al)
	case c.N == 1: // without having seen anything there is no answer
		return codex.Go, ""
	case l.requests <= running, l.tokens < running*2*need:
		return codex.Finish, fmt.Sprintf("the scan's budget is nearly used up (%s)", al)
	case l.requests != noLimit && c.Spent.Requests+1 >= max((c.Spent.Requests+l.requests)/pieces, leastShare),
		l.tokens != noLimit && used+2*need >= max((used+l.tokens)/pieces, usefulTokens):
		return codex.Finish, fmt.Sprintf("its share of the scan's budget is nearly used up (%s)", al)
	}
	return codex.Go, ""
}

// String says what was spent, of what.
func (al allowance) String() string {
	s := ""
	add := func(spent, cap string, limited bool, what string) {
		if !limited {
			return
		}
		if s != "" {
			s += ", "
		}
		s += fmt.Sprintf("%s of %s %s", spent, cap, what)
	}
	n := func(i int64) string { return fmt.Sprint(i) }
	usd := func(i int64) string { return fmt.Sprintf("%.2f", float64(i)/1e9) }
	add(n(al.Requests.Spent), n(al.Requests.Cap), al.Requests.Cap > 0, "requests")
	add(n(al.Tokens.Spent), n(al.Tokens.Cap), al.Tokens.Cap > 0, "tokens")
	add(usd(al.Cost.Spent), usd(al.Cost.Cap), al.Cost.Cap > 0, "US dollars")
	if s == "" {
		return "there is no limit"
	}
	return s
}

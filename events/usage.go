package events

import "time"

// UsageRecorded is what happened to a scan's calls to the provider since the event before, and where that leaves the scan. Several processes write
// one scan's, each onto the last one, so what is spent and reserved is always known from the newest event alone.
type UsageRecorded struct {
	Project    ProjectID     `json:"project_id"`
	Repository RepositoryID  `json:"repository_id"`
	User       UserID        `json:"user_id"`          // who asked for the scan
	Calls      []Call        `json:"calls"`            // in order; never empty
	Settled    Usage         `json:"settled"`          // the sum over all calls that have ended, from the scan's first on
	Open       []Reservation `json:"open"`             // calls that are on their way, oldest first
	Denied     string        `json:"denied,omitempty"` // the cap that denied the newest call: requests, tokens or cost; empty once one is admitted again
}

// CallStep is what happened to one call. A call is reserved and then settled or released, once; or denied.
type CallStep string

const (
	CallReserved CallStep = "reserved" // it may be made; the most it can cost is set aside
	CallSettled  CallStep = "settled"  // it was made, and Usage is what it cost
	CallReleased CallStep = "released" // it cost no tokens; Usage holds one request if it reached the provider
	CallDenied   CallStep = "denied"   // a cap forbids it; it was not made
)

// Call is one step of one call to the provider.
type Call struct {
	ID        string       `json:"id"` // one for each time the provider is called: a repetition has another
	Step      CallStep     `json:"step"`
	Attempt   int          `json:"attempt"`
	Endpoint  string       `json:"endpoint,omitempty"` // responses, responses/compact, chat/completions, embeddings, models
	Model     string       `json:"model,omitempty"`
	Tier      string       `json:"service_tier,omitempty"` // of the price
	Usage     *Usage       `json:"usage,omitempty"`        // once settled or released
	Estimated bool         `json:"estimated,omitempty"`    // the provider did not say; what was reserved is charged
	Reserved  *Reservation `json:"reserved,omitempty"`     // once reserved
	Reason    string       `json:"reason,omitempty"`       // why it was denied, released, or charged by estimate
}

// Reservation is what is set aside for a call on its way. Input is an estimate while plenty is left under the caps; what it can be at most stands beside it.
type Reservation struct {
	ID           string    `json:"id"` // the call's
	Attempt      int       `json:"attempt"`
	Endpoint     string    `json:"endpoint,omitempty"`
	Model        string    `json:"model,omitempty"`
	InputTokens  int64     `json:"input_tokens"`
	OutputTokens int64     `json:"output_tokens"`
	CostNanoUSD  int64     `json:"cost_nano_usd"`
	MostInput    int64     `json:"most_input_tokens"`  // no text has more tokens than bytes
	MostCost     int64     `json:"most_cost_nano_usd"` // of MostInput and OutputTokens
	Until        time.Time `json:"until"`              // whoever finds it open after this charges it in full: the process that made the call is gone
}

// Usage is what the reservation charges when nobody says what the call cost.
func (r Reservation) Usage() Usage {
	return Usage{Requests: 1, InputTokens: r.InputTokens, OutputTokens: r.OutputTokens, CostNanoUSD: r.CostNanoUSD}
}

// Total is what the scan has spent if every open call costs what is reserved for it.
func (u UsageRecorded) Total() Usage { return u.Settled.Plus(u.Reserved()) }

// Reserved is what is set aside for the open calls.
func (u UsageRecorded) Reserved() Usage {
	var sum Usage
	for _, r := range u.Open {
		sum = sum.Plus(r.Usage())
	}
	return sum
}

// Plus is the sum of two.
func (u Usage) Plus(v Usage) Usage {
	return Usage{
		Requests: u.Requests + v.Requests, InputTokens: u.InputTokens + v.InputTokens, CachedInputTokens: u.CachedInputTokens + v.CachedInputTokens,
		OutputTokens: u.OutputTokens + v.OutputTokens, ReasoningTokens: u.ReasoningTokens + v.ReasoningTokens, CostNanoUSD: u.CostNanoUSD + v.CostNanoUSD,
	}
}

// Tokens is input and output together: what a cap on tokens counts.
func (u Usage) Tokens() int64 { return u.InputTokens + u.OutputTokens }

func (UsageRecorded) event() {}

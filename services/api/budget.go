package api

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"vega/events"
	"vega/services/llmproxy/price"
)

// budgetRequest is what somebody wants to spend on one scan at most; what is absent is no limit of this scan's own.
type budgetRequest struct {
	Requests int64  `json:"requests,omitempty" minimum:"1" maximum:"1000000000000000" doc:"Calls to the provider, repetitions included"`
	Tokens   int64  `json:"tokens,omitempty" minimum:"1" maximum:"1000000000000000" doc:"Input and output"`
	CostUSD  amount `json:"cost_usd,omitempty" doc:"US dollars, with at most nine decimals"`
}

// amount is a number of US dollars as it was written: a float would round it.
type amount string

// Schema tells huma that it is a number.
func (amount) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeNumber, ExclusiveMinimum: new(0.0), Maximum: new(1e6), Description: "US dollars, with at most nine decimals"}
}

// UnmarshalJSON keeps the number's text.
func (a *amount) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	var n json.Number
	if err := json.Unmarshal(b, &n); err != nil {
		return fmt.Errorf("amount: %w", err)
	}
	*a = amount(n)
	return nil
}

// nano is the amount in nano-dollars; false when it has more than nine decimals.
func (a amount) nano() (int64, bool) {
	text := string(a)
	if strings.ContainsAny(text, "eE") { // 1e-3: written out, for which its schema leaves it small enough
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return 0, false
		}
		text = strconv.FormatFloat(f, 'f', -1, 64)
	}
	if text == "" || text == "-0" {
		return 0, true
	}
	if whole, fraction, dotted := strings.Cut(text, "."); dotted {
		if fraction = strings.TrimRight(fraction, "0"); fraction == "" { // 2.0000000000 is 2
			text = whole
		} else {
			text = whole + "." + fraction
		}
	}
	var n price.NanoUSD
	err := n.UnmarshalText([]byte(text))
	return int64(n), err == nil
}

// budget is the request as the log keeps it: nil when it limits nothing.
func (b *budgetRequest) budget() (*events.Budget, error) {
	if b == nil {
		return nil, nil
	}
	nano, ok := b.CostUSD.nano()
	if !ok {
		return nil, invalid("budget.cost_usd", "want US dollars with at most nine decimals, such as 2.5")
	}
	out := events.Budget{Requests: b.Requests, Tokens: b.Tokens, CostNanoUSD: nano}
	if out == (events.Budget{}) {
		return nil, nil
	}
	return &out, nil
}

// sameBudget says whether two scans may spend the same.
func sameBudget(a, b *events.Budget) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// shapeBudget is nil for a scan without a budget of its own.
func shapeBudget(b *events.Budget) *capsBody {
	if b == nil {
		return nil
	}
	return &capsBody{b.Requests, b.Tokens, dollars(b.CostNanoUSD)}
}

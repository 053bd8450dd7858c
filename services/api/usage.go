package api

import (
	"context"
	"time"

	"vega/events"
	"vega/projections"
	"vega/services/llmproxy"
)

type capsBody struct {
	Requests int64   `json:"requests,omitempty" doc:"Absent: no limit"`
	Tokens   int64   `json:"tokens,omitempty" doc:"Input and output. Absent: no limit"`
	CostUSD  float64 `json:"cost_usd,omitempty" doc:"Absent: no limit"`
}

func shapeCaps(c llmproxy.Caps) *capsBody {
	if c == (llmproxy.Caps{}) {
		return nil
	}
	return &capsBody{c.Requests, c.Tokens, dollars(int64(c.Cost))}
}

// capLimits are the caps under the names of their settings.
func capLimits(c llmproxy.Caps) []Limit {
	return []Limit{{"VEGA_LLM_PROXY_MAX_REQUESTS_PER_SCAN", c.Requests}, {"VEGA_LLM_PROXY_MAX_TOKENS_PER_SCAN", c.Tokens}, {"VEGA_LLM_PROXY_MAX_COST_USD_PER_SCAN", dollars(int64(c.Cost))}}
}

type reservedBody struct {
	Requests int64   `json:"requests"`
	Tokens   int64   `json:"tokens"`
	CostUSD  float64 `json:"cost_usd"`
}

// shapeReserved is nil when no call is on its way.
func shapeReserved(u events.Usage) *reservedBody {
	if u == (events.Usage{}) {
		return nil
	}
	return &reservedBody{u.Requests, u.Tokens(), dollars(u.CostNanoUSD)}
}

// shapeSpending is what a scan's calls came to with an event, as its live stream shows it.
func shapeSpending(e events.UsageRecorded) map[string]any {
	payload := map[string]any{"usage": shapeUsage(e.Settled)}
	if r := shapeReserved(e.Reserved()); r != nil {
		payload["reserved"] = r
	}
	if e.Denied != "" {
		payload["denied"] = e.Denied
	}
	return payload
}

func dollars(nano int64) float64 { return float64(nano) / 1e9 }

// getScanUsage is what happened to each of a scan's calls, so that everyone can add it up.
func (s *Server) getScanUsage(ctx context.Context, in *PageIn) (*many[historyBody], error) {
	return s.history(ctx, events.UsageOf(s.region, callOf(ctx).scan.ID), in)
}

// usageAt is the newest event of a scan's usage up to a sequence, 0 meaning all: it says all that those before it say. One of a newer release is passed over, as the read model does.
func (s *Server) usageAt(ctx context.Context, id events.ScanID, upTo events.Seq) (events.Recorded, bool, error) {
	counts := func(r events.Recorded) bool {
		_, usage := r.Event.(events.UsageRecorded)
		return usage && (upTo == 0 || r.Seq <= upTo)
	}
	a := events.UsageOf(s.region, id)
	last, known, err := s.Store.LoadLast(ctx, a)
	if err != nil || !known || counts(last) {
		return last, known, err
	}
	past, _, err := s.Store.Load(ctx, a, events.Head{})
	if err != nil {
		return last, false, err
	}
	for i := len(past) - 1; i >= 0; i-- {
		if counts(past[i]) {
			return past[i], true, nil
		}
	}
	return last, false, nil
}

// billingDays is how many days a bill has when nothing is said about its beginning.
const billingDays = 30

type billingIn struct {
	PageIn
	By      projections.UsageBy `query:"by" enum:"day,project,user,scan" default:"day" doc:"What the items are sums of"`
	From    string              `query:"from" format:"date" doc:"The first day, UTC; 30 days up to the last one when absent"`
	To      string              `query:"to" format:"date" doc:"The last day, UTC; today when absent"`
	Project string              `query:"project_id"`
	User    string              `query:"user_id" doc:"Who asked for the scans"`
	Scan    string              `query:"scan_id"`
}

// SumBody is what calls cost in all. It is exported because huma does not look into embedded fields that are not.
type SumBody struct {
	Requests          int64   `json:"requests"`
	InputTokens       int64   `json:"input_tokens"`
	CachedInputTokens int64   `json:"cached_input_tokens"`
	OutputTokens      int64   `json:"output_tokens"`
	ReasoningTokens   int64   `json:"reasoning_tokens"`
	CostUSD           float64 `json:"cost_usd"`
	EstimatedRequests int64   `json:"estimated_requests" doc:"Of the requests, those of which nobody said what they cost: what had been reserved is charged"`
}

type billedBody struct {
	Day        projections.Day     `json:"day,omitempty" doc:"By day"`
	Project    events.ProjectID    `json:"project_id,omitempty" doc:"By project and by scan"`
	Name       string              `json:"project_name,omitempty" doc:"By project and by scan"`
	Deleted    bool                `json:"project_deleted,omitempty"`
	User       events.UserID       `json:"user_id,omitempty" doc:"By user and by scan: who asked for the scan"`
	Scan       events.ScanID       `json:"scan_id,omitempty" doc:"By scan"`
	Repository events.RepositoryID `json:"repository_id,omitempty" doc:"By scan"`
	SumBody
}

type billingBody struct {
	By    projections.UsageBy `json:"by" enum:"day,project,user,scan"`
	From  projections.Day     `json:"from"`
	To    projections.Day     `json:"to"`
	Items []billedBody        `json:"items"`
	Total SumBody             `json:"total" doc:"Over all items, on this page or not"`
	Next  string              `json:"next_cursor,omitempty" doc:"For the next page; absent at the end"`
}

// getBillingUsage sums up what calls cost, by the day on which they ended. A member's are those of the projects that they are in now; what deleted projects cost, admins see.
func (s *Server) getBillingUsage(ctx context.Context, in *billingIn) (*plain[billingBody], error) {
	from, to, err := s.billingRange(in.From, in.To)
	if err != nil {
		return nil, err
	}
	for _, id := range []struct{ field, value string }{{"project_id", in.Project}, {"user_id", in.User}, {"scan_id", in.Scan}} {
		if id.value != "" && events.CheckID(id.field, id.value) != nil {
			return nil, invalid(id.field, "want an id as this API gives it")
		}
	}
	f := projections.UsageFilter{By: in.By, From: from, To: to, Project: events.ProjectID(in.Project), User: events.UserID(in.User), Scan: events.ScanID(in.Scan), Member: callOf(ctx).member()}
	got, next, err := s.Model.Usage(ctx, f, in.page())
	if err != nil {
		return nil, err
	}
	body := billingBody{By: in.By, From: from, To: to, Items: make([]billedBody, len(got.Sums)), Total: shapeSum(got.Total), Next: string(next)}
	for i, r := range got.Sums {
		body.Items[i] = billedBody{r.Day, r.Project, r.Name, r.Deleted, r.User, r.Scan, r.Repository, shapeSum(r)}
	}
	return &plain[billingBody]{Body: body}, nil
}

// billingRange completes what was said about the days.
func (s *Server) billingRange(from, to string) (first, last projections.Day, err error) {
	end := s.Now().UTC()
	if to != "" {
		if end, err = time.Parse(time.DateOnly, to); err != nil {
			return "", "", invalid("to", "want a day such as 2026-11-01")
		}
	}
	begin := end.AddDate(0, 0, 1-billingDays)
	if from != "" {
		if begin, err = time.Parse(time.DateOnly, from); err != nil {
			return "", "", invalid("from", "want a day such as 2026-11-01")
		}
	}
	first, last = projections.DayOf(begin), projections.DayOf(end)
	if first > last {
		return "", "", invalid("from", "want a day that is not after the last one, which is today when to is absent")
	}
	return first, last, nil
}

func shapeSum(s projections.UsageSum) SumBody {
	u := s.Usage
	return SumBody{u.Requests, u.InputTokens, u.CachedInputTokens, u.OutputTokens, u.ReasoningTokens, dollars(u.CostNanoUSD), s.Estimated}
}

// newestUsage leaves out of a batch of events each usage event that another one follows: the next one says all that it says.
func newestUsage(batch []events.Recorded) []events.Recorded {
	var out []events.Recorded
	for i, r := range batch {
		if r.Aggregate.Kind == events.UsageAggregate && i+1 < len(batch) && batch[i+1].Aggregate.Kind == events.UsageAggregate {
			continue
		}
		out = append(out, r)
	}
	return out
}

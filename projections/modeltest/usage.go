package modeltest

import (
	"fmt"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore/natstest"
	"vega/projections"
)

func ofUsage(n int) events.Aggregate { return events.UsageOf(natstest.Region, scanID(n)) }

// Later lets the clock jump before the next event.
func (h *History) Later(d time.Duration) { h.skew += d }

// account writes what happens to a scan's calls, as the proxy does: each event carries the running sums.
type account struct {
	h    *History
	scan int
	is   events.UsageRecorded
	n    int // calls so far
}

func (h *History) account(scan, in, repo int, u events.UserID) *account {
	return &account{h: h, scan: scan, is: events.UsageRecorded{Project: project(in), Repository: repository(repo), User: u, Open: []events.Reservation{}}}
}

// reserve sets aside what a call may cost and returns the call's id.
func (a *account) reserve(tokens int64) string {
	a.n++
	r := events.Reservation{ID: fmt.Sprintf("call_%d_%d", a.scan, a.n), Attempt: 1, Endpoint: "responses", Model: "gpt-5", InputTokens: tokens, OutputTokens: 2 * tokens, CostNanoUSD: 1001 * tokens, Until: time.Unix(2e9, 7).UTC()}
	a.is.Calls = append(a.is.Calls, events.Call{ID: r.ID, Step: events.CallReserved, Attempt: 1, Endpoint: r.Endpoint, Model: r.Model, Reserved: &r})
	a.is.Open = append(a.is.Open, r)
	a.is.Denied = ""
	return r.ID
}

// end settles or releases a call; without a usage what was reserved is charged.
func (a *account) end(id string, step events.CallStep, u *events.Usage) {
	c := events.Call{ID: id, Step: step, Attempt: 1, Usage: u}
	for i, r := range a.is.Open {
		if r.ID != id {
			continue
		}
		if u == nil && step == events.CallSettled {
			c.Usage, c.Estimated, c.Reason = new(r.Usage()), true, "the answer did not say"
		}
		a.is.Open = append(a.is.Open[:i:i], a.is.Open[i+1:]...)
		break
	}
	if c.Usage != nil {
		a.is.Settled = a.is.Settled.Plus(*c.Usage)
	}
	a.is.Calls = append(a.is.Calls, c)
}

func (a *account) deny(limit string) {
	a.n++
	a.is.Calls = append(a.is.Calls, events.Call{ID: fmt.Sprintf("call_%d_%d", a.scan, a.n), Step: events.CallDenied, Attempt: 1, Reason: limit})
	a.is.Denied = limit
}

// record appends what has happened since the last time as one event.
func (a *account) record() {
	a.h.Add(ofUsage(a.scan), events.BySystem("llm-proxy"), a.is)
	a.is.Calls = nil
}

func cost(n int64) *events.Usage {
	return &events.Usage{Requests: 1, InputTokens: 100 * n, CachedInputTokens: 10 * n, OutputTokens: 20 * n, ReasoningTokens: 5 * n, CostNanoUSD: 1_000_003 * n}
}

// spending is what scans spent over three days: of two projects and users, of a deleted project and a deleted repository, beyond their scan's end, with calls that nobody
// said the cost of, that cost nothing, that were denied and that are still on their way.
func (h *History) spending() {
	// 18 spends over midnight, and its last call ends after it.
	h.queue(18, 6, 2, user(1), events.Normal)
	h.run(18)
	x := h.account(18, 1, 6, user(1))
	first, second := x.reserve(100), x.reserve(200)
	x.record()
	third := x.reserve(300)
	x.end(first, events.CallSettled, cost(1))
	x.end(second, events.CallReleased, nil)
	x.record()
	h.Later(24 * time.Hour)
	x.end(third, events.CallSettled, nil)
	fourth, fifth := x.reserve(10), x.reserve(20)
	x.record()
	x.end(fourth, events.CallReleased, &events.Usage{Requests: 1})
	x.deny("requests")
	x.record()
	h.complete(18, events.Counts{}, 77) // what the scan says of it is not what counts
	x.end(fifth, events.CallSettled, cost(3))
	x.record()

	// 12 of another project and user is over and spends late; its own word held until then. 17 goes on, with calls that nobody has ended.
	y := h.account(12, 2, 4, user(2))
	id := y.reserve(5)
	y.end(id, events.CallSettled, cost(5))
	y.record()
	z := h.account(17, 2, 4, user(2))
	z.reserve(7)
	z.reserve(8)
	z.record()
	z.deny("cost")
	z.record()

	// Of a deleted repository, and of a deleted project.
	h.Later(48 * time.Hour)
	r := h.account(13, 1, 3, user(1))
	r.end(r.reserve(1), events.CallSettled, cost(13))
	r.record()
	a := h.account(14, 3, 5, user(1))
	a.end(a.reserve(1), events.CallSettled, cost(14))
	a.record()
	b := h.account(11, 1, 1, user(1)) // refused at once: nothing was spent
	b.deny("tokens")
	b.record()
}

// usageAnswers asks for sums of what was spent in every way.
func usageAnswers(t *testing.T, m projections.Reader, add func(string, any, error)) {
	t.Helper()
	ctx := t.Context()
	day := projections.Day("2026-01-03")
	unnamed, _, err := m.Usage(ctx, projections.UsageFilter{}, projections.Page{Limit: 1})
	add("usage by nothing by 1", unnamed, err)
	for _, by := range []projections.UsageBy{projections.ByDay, projections.ByProject, projections.ByUser, projections.ByScan} {
		for _, limit := range []int{0, 1} {
			for _, q := range []struct {
				name string
				f    projections.UsageFilter
			}{
				{"all", projections.UsageFilter{}},
				{"from a day on", projections.UsageFilter{From: day}},
				{"until a day", projections.UsageFilter{To: day}},
				{"of a day", projections.UsageFilter{From: day, To: day}},
				{"of no day", projections.UsageFilter{From: "2025-01-01", To: "2025-12-31"}},
				{"of project 1", projections.UsageFilter{Project: project(1)}},
				{"of project 3", projections.UsageFilter{Project: project(3)}},
				{"of user 2", projections.UsageFilter{User: user(2)}},
				{"of scan 18", projections.UsageFilter{Scan: scanID(18)}},
				{"of scan 18 in project 2", projections.UsageFilter{Scan: scanID(18), Project: project(2)}},
				{"of scan 99", projections.UsageFilter{Scan: scanID(99)}},
				{"for member 1", projections.UsageFilter{Member: user(1)}},
				{"for member 2", projections.UsageFilter{Member: user(2)}},
				{"for member 3, of user 1", projections.UsageFilter{Member: user(3), User: user(1)}},
				{"for member 3, of project 2", projections.UsageFilter{Member: user(3), Project: project(2)}},
				{"for member 9", projections.UsageFilter{Member: user(9)}},
			} {
				q.f.By = by
				name := fmt.Sprintf("usage %s by %q by %d", q.name, by, limit)
				var total projections.UsageSum
				list(add, name, limit, func(p projections.Page) ([]projections.UsageSum, projections.Cursor, error) {
					got, next, err := m.Usage(ctx, q.f, p)
					if p.After != "" && got.Total != total {
						t.Errorf("%s: the total is %+v on one page and %+v on the next", name, total, got.Total)
					}
					total = got.Total
					return got.Sums, next, err
				}, func(s projections.UsageSum) any { return s })
				if limit == 0 {
					add(name+", in all", total, nil)
				}
			}
		}
	}
}

// usageAddsUp compares what scans spent with what it was on which day.
func usageAddsUp(t *testing.T, m projections.Model) {
	story := Story(t)
	Apply(t, m, story.Events, 10)
	metered := 0
	var all projections.UsageSum
	for n := range 19 {
		s, err := m.Scan(t.Context(), scanID(n))
		if err != nil || s.Metered == 0 {
			continue
		}
		metered++
		got, _, err := m.Usage(t.Context(), projections.UsageFilter{Scan: s.ID}, projections.Page{})
		if err != nil || got.Total.Usage != s.Usage {
			t.Errorf("%s spent %+v by day, %v; want %+v", s.ID, got.Total.Usage, err, s.Usage)
		}
		all.Usage = all.Usage.Plus(s.Usage)
	}
	got, _, err := m.Usage(t.Context(), projections.UsageFilter{By: projections.ByProject}, projections.Page{})
	if err != nil || metered < 5 || got.Total.Usage != all.Usage || got.Total.Estimated != 1 {
		t.Errorf("in all %+v over %d scans, %v; want %+v", got.Total, metered, err, all)
	}
}

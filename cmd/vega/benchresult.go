package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"vega/services/report"
)

// benchResult is what vega bench prints. Times are milliseconds. Those of creation, reading back and the whole are the client's; the others lie between the
// moments that the deployment recorded, on the clocks of its machines.
type benchResult struct {
	SchemaVersion int            `json:"schema_version"`
	Server        string         `json:"server"`
	Scans         int            `json:"scans"`
	Concurrency   int            `json:"concurrency"`
	Completed     int            `json:"completed"`
	Failed        int            `json:"failed"`     // failed or cancelled
	Unfinished    int            `json:"unfinished"` // not over when the time was
	Seconds       float64        `json:"elapsed_seconds"`
	PerSecond     float64        `json:"scans_per_second"`
	Claims        float64        `json:"claims_per_second"` // from the first claim to the last
	Create        spread         `json:"create_ms"`
	ReadBack      spread         `json:"read_your_write_ms"`
	ToClaim       spread         `json:"create_to_claim_ms"`
	ToStart       spread         `json:"create_to_start_ms"`
	ToEnd         spread         `json:"start_to_end_ms"`
	Whole         spread         `json:"create_to_end_ms"`
	Waited        int            `json:"requests_told_to_wait"`
	Errors        map[string]int `json:"errors"`
}

// spread says how times are distributed.
type spread struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func spreadOf(d []time.Duration) spread {
	if len(d) == 0 {
		return spread{}
	}
	slices.Sort(d)
	at := func(share float64) float64 { return milliseconds(d[min(int(share*float64(len(d))), len(d)-1)]) }
	return spread{at(0.5), at(0.99), at(1)}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// result sums up; nobody runs any more.
func (l *load) result(took time.Duration) benchResult {
	r := benchResult{
		SchemaVersion: 1, Server: l.server.base, Scans: l.flags.scans, Concurrency: l.flags.concurrency,
		Seconds: took.Seconds(), Waited: l.refusals, Errors: l.errors, Create: spreadOf(l.creates), ReadBack: spreadOf(l.reads),
	}
	var claim, start, end, whole []time.Duration
	var claims []time.Time
	for _, s := range l.over {
		if s.Status != "completed" {
			r.Failed++
			continue
		}
		r.Completed++
		whole = append(whole, s.seen)
		if s.ClaimedAt == nil || s.StartedAt == nil || s.EndedAt == nil {
			continue // a server of another release
		}
		claims = append(claims, *s.ClaimedAt)
		claim = append(claim, s.ClaimedAt.Sub(s.CreatedAt))
		start = append(start, s.StartedAt.Sub(s.CreatedAt))
		end = append(end, s.EndedAt.Sub(*s.StartedAt))
	}
	r.Unfinished = r.Scans - r.Completed - r.Failed
	for _, n := range r.Errors {
		r.Unfinished -= n
	}
	r.PerSecond = float64(r.Completed) / took.Seconds()
	r.ToClaim, r.ToStart, r.ToEnd, r.Whole = spreadOf(claim), spreadOf(start), spreadOf(end), spreadOf(whole)
	if len(claims) > 1 {
		slices.SortFunc(claims, time.Time.Compare)
		if between := claims[len(claims)-1].Sub(claims[0]); between > 0 {
			r.Claims = float64(len(claims)-1) / between.Seconds()
		}
	}
	return r
}

// print writes the table.
func (r benchResult) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%d scans by %d clients in %.1f s on %s\n\n", r.Scans, r.Concurrency, r.Seconds, report.Printable(r.Server))
	fmt.Fprintf(t, "scans/s\t%.1f\t\n", r.PerSecond)
	fmt.Fprintf(t, "claims/s\t%.1f\t\n", r.Claims)
	fmt.Fprintf(t, "completed\t%d\t\n", r.Completed)
	fmt.Fprintf(t, "failed or cancelled\t%d\t\n", r.Failed)
	fmt.Fprintf(t, "unfinished\t%d\t\n", r.Unfinished)
	fmt.Fprintf(t, "requests told to wait\t%d\t\n", r.Waited)
	fmt.Fprintf(t, "\nms\tp50\tp99\tmax\t\n")
	for _, row := range []struct {
		what string
		is   spread
	}{
		{"create", r.Create}, {"read your write", r.ReadBack}, {"create to claim", r.ToClaim}, {"create to start", r.ToStart}, {"start to end", r.ToEnd}, {"create to end", r.Whole},
	} {
		fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%.1f\t\n", row.what, row.is.P50, row.is.P99, row.is.Max)
	}
	for _, what := range slices.Sorted(maps.Keys(r.Errors)) {
		fmt.Fprintf(t, "\n%d × %s\n", r.Errors[what], report.Printable(what))
	}
	return t.Flush()
}

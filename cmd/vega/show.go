package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"vega/events"
	"vega/services/report"
)

// show prints the result: a table for people, or one JSON document.
func show(w io.Writer, f scanFlags, v scanView, findings []findingView) error {
	d := report.Document{
		Tool:       report.Tool{Name: "Vega", Version: buildVersion()},
		Scan:       events.ScanID(v.ID),
		Repository: events.RepositoryID(v.RepositoryID),
		Snapshot:   events.SnapshotID(v.SnapshotID),
		Status:     v.Status,
		Coverage:   v.Coverage,
		Rejected:   v.Rejected,
	}
	for _, x := range findings {
		d.Findings = append(d.Findings, report.Finding{Finding: x.Finding, Triage: x.Triage})
	}
	d.Count()
	if f.json {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(struct {
			report.Document
			Usage      usageView   `json:"usage"`
			Comparison *comparison `json:"comparison"`
		}{d, v.Usage, v.Comparison})
	}
	opt := report.TableOptions{Width: -1, Color: isTerminal(w) && os.Getenv("NO_COLOR") == ""}
	if isTerminal(w) {
		if width, _, err := term.GetSize(int(w.(*os.File).Fd())); err == nil {
			opt.Width = width
		}
	}
	if err := report.Table(w, d, opt); err != nil {
		return fmt.Errorf("print the findings: %w", err)
	}
	if line := v.Comparison.line(); line != "" {
		if _, err := fmt.Fprintf(w, "\n%s\n", line); err != nil {
			return fmt.Errorf("print the comparison: %w", err)
		}
	}
	return nil
}

// line is the comparison in a sentence, without what is 0; empty when there is nothing to compare with.
func (c *comparison) line() string {
	if c == nil || c.Base == nil {
		return ""
	}
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{c.New, "new"}, {c.Reopened, "reopened"}, {c.Persisting, "persisting"}, {c.Resolved, "resolved"}, {c.Unknown, "unknown"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	if len(parts) == 0 {
		parts = []string{"nothing found, then and now"}
	}
	return "since the last scan: " + strings.Join(parts, ", ")
}

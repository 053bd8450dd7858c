package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

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
	}
	for _, x := range findings {
		d.Findings = append(d.Findings, report.Finding{Finding: x.Finding, Triage: x.Triage})
	}
	d.Count()
	if f.json {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(d)
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
	return nil
}

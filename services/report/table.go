package report

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/mattn/go-runewidth"

	"vega/events"
)

// TableOptions say what the terminal can do.
type TableOptions struct {
	Width int  // columns; 0 means 100, less than 60 is taken as 60, below 0 nothing is cut: for a pipe
	Color bool // ANSI colours for the severities
	Limit int  // findings shown at most; 0 means all
}

// Table writes the findings as a table for a terminal, worst first, then the counts and the coverage with its reasons.
// Nothing that comes from the source reaches the terminal unescaped.
func Table(w io.Writer, d Document, opt TableOptions) error {
	d = d.normal()
	width := max(60, cmp.Or(opt.Width, 100))
	shown := d.Findings
	if opt.Limit > 0 && len(shown) > opt.Limit {
		shown = shown[:opt.Limit]
	}
	const severityWidth = 8
	rest := width - severityWidth - 4 // two gaps of two
	placeWidth, titleWidth := len("LOCATION"), len("FINDING")
	for _, f := range shown {
		placeWidth = max(placeWidth, runewidth.StringWidth(Printable(place(f.Finding))))
		titleWidth = max(titleWidth, runewidth.StringWidth(Printable(cmp.Or(f.Title, ruleID(f)))))
	}
	if opt.Width >= 0 { // the title keeps half, and takes what the place does not need
		placeWidth = min(placeWidth, max(rest/2, rest-titleWidth))
		titleWidth = min(titleWidth, rest-placeWidth)
	}

	var b strings.Builder
	row := func(severity, paint, title, where string) {
		cell := pad(severity, severityWidth)
		if paint != "" && opt.Color {
			cell = "\x1b[" + paint + "m" + cell + "\x1b[0m"
		}
		line := cell + "  " + pad(fit(title, titleWidth), titleWidth) + "  " + fitLeft(where, placeWidth)
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	if len(shown) > 0 {
		row("SEVERITY", "", "FINDING", "LOCATION")
	}
	for _, f := range shown {
		row(string(f.Severity), colorOf(f.Severity), Printable(cmp.Or(f.Title, ruleID(f))), Printable(place(f.Finding)))
	}
	if hidden := len(d.Findings) - len(shown); hidden > 0 {
		fmt.Fprintf(&b, "and %d more\n", hidden)
	}
	if len(shown) > 0 {
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "Findings: %s\n", countsText(d.Counts))
	if d.Rejected > 0 {
		fmt.Fprintf(&b, "Rejected: %d (what they name does not exist, or a review refuted them)\n", d.Rejected)
	}
	fmt.Fprintf(&b, "Coverage: %s\n", d.Coverage.State)
	for _, r := range together(d.Coverage.Reasons) {
		fmt.Fprintf(&b, "  - %s\n", ReasonText(r))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// together makes one reason of those that follow each other and differ in their stage alone.
func together(reasons []events.CoverageReason) []events.CoverageReason {
	var out []events.CoverageReason
	for i, r := range reasons {
		if last := len(out) - 1; i > 0 && r.Stage != "" && r.Message == reasons[i-1].Message && r.Path == reasons[i-1].Path && r.Code == reasons[i-1].Code {
			out[last].Stage += ", " + r.Stage
			continue
		}
		out = append(out, r)
	}
	return out
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-runewidth.StringWidth(s)))
}

// fit keeps the start of s.
func fit(s string, width int) string { return runewidth.Truncate(s, width, "...") }

// fitLeft keeps the end of s: of a place the file's name and line matter most.
func fitLeft(s string, width int) string {
	over := runewidth.StringWidth(s) - width
	if over <= 0 {
		return s
	}
	return runewidth.TruncateLeft(s, over+3, "...")
}

func colorOf(s events.Severity) string {
	switch s {
	case events.SeverityCritical:
		return "1;31"
	case events.SeverityHigh:
		return "31"
	case events.SeverityMedium:
		return "33"
	case events.SeverityLow:
		return "36"
	case events.SeverityInfo:
		return "2"
	}
	return ""
}

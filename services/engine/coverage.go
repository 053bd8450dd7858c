package engine

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"vega/events"
)

// The codes of coverage reasons that this package gives.
const (
	codeNotConfigured = "not_configured"
	codeFailed        = "failed"
	codeTimedOut      = "timed_out"
	codeCap           = "cap_reached"
	codeLimit         = "limit_reached"
	codeSkipped       = "skipped"
	codeUnreadable    = "unreadable"
	codeTooLarge      = "too_large"
	codeBinary        = "binary"
)

// maxReasons bounds the reasons of one stage that name a path. What is beyond is a number.
const maxReasons = 100

// gaps collects what one stage did not look at. It is not safe for concurrent use.
type gaps struct {
	stage   string
	reasons []events.CoverageReason
	more    int
}

// add notes that p was not looked at.
func (g *gaps) add(p, code, format string, args ...any) {
	if len(g.reasons) >= maxReasons {
		g.more++
		return
	}
	g.reasons = append(g.reasons, events.CoverageReason{
		Stage: g.stage, Path: cleanText(p), Code: code, Message: cleanText(fmt.Sprintf(format, args...)),
	})
}

// list is what was collected in the order of the paths, with one more reason for all that did not fit.
func (g *gaps) list() []events.CoverageReason {
	out := slices.Clone(g.reasons)
	slices.SortStableFunc(out, func(a, b events.CoverageReason) int { return strings.Compare(a.Path, b.Path) })
	if g.more > 0 {
		out = append(out, events.CoverageReason{
			Stage: g.stage, Code: codeLimit, Message: fmt.Sprintf("%d more files were not looked at", g.more),
		})
	}
	return out
}

// outcome adds up what all stages recorded, in the order of the table.
func (r *run) outcome() Outcome {
	out := Outcome{Coverage: events.Coverage{State: events.CoverageComplete, Reasons: []events.CoverageReason{}}}
	for _, s := range r.stages {
		out.Coverage.Reasons = append(out.Coverage.Reasons, r.done[s.name].Reasons...)
		out.Rejected += r.done[s.name].Rejected
	}
	if len(out.Coverage.Reasons) > 0 {
		out.Coverage.State = events.CoveragePartial
	}
	for _, f := range r.findings {
		out.Counts.Add(f.Severity)
	}
	return out
}

// cleanText makes text from the source storable: UTF-8 without NUL (which JSON columns refuse), at most 1,000 bytes.
func cleanText(s string) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) > 1000 {
		s = strings.ToValidUTF8(s[:997], "") + "..."
	}
	return s
}

// within says whether p is one of the selected paths or below one. No selection is everything.
func within(p string, selected []string) bool {
	if len(selected) == 0 {
		return true
	}
	return slices.ContainsFunc(selected, func(s string) bool {
		s = path.Clean(s)
		return s == "." || p == s || strings.HasPrefix(p, s+"/")
	})
}

package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"vega/events"
	"vega/services/engine/pack"
)

// argument is what a claim says for itself beside what a finding shows.
type argument struct {
	AttackPath     string `json:"attack_path"`
	Preconditions  string `json:"preconditions"`
	SeverityReason string `json:"severity_reason"`
}

// How much of a claim's texts is kept, in bytes: an event holds fifty findings.
const (
	maxTitle       = 200
	maxDescription = 4000
	maxAttackPath  = 3000
	maxShort       = 1500
)

// claims makes candidates of what an audit answered, by file. Each is tied to its place here, as long as the quote is at hand unmasked: a quote that stands in the lines that were
// named, or else in exactly one other place of the file, which is then the candidate's. A quote that stands nowhere makes a candidate that verify refuses.
func (r *run) claims(ctx context.Context, a *agent, found []pack.AuditFinding, masked map[string][]span) []foundIn {
	byFile := map[string]*foundIn{}
	known := r.tree.names()
	for _, f := range found {
		f.File = r.inTree(f.File)
		if byFile[f.File] == nil {
			byFile[f.File] = &foundIn{Path: f.File, Masked: masked[f.File]}
		}
		byFile[f.File].Candidates = append(byFile[f.File].Candidates, r.claim(ctx, a, known, f, masked[f.File]))
	}
	var out []foundIn
	for _, f := range byFile {
		out = append(out, *f)
	}
	slices.SortFunc(out, func(a, b foundIn) int { return cmp.Compare(a.Path, b.Path) })
	return out
}

func (r *run) claim(ctx context.Context, a *agent, known names, f pack.AuditFinding, masked []span) candidate {
	text := func(s string, limit int) string { return clipText(a.redact.text(ctx, strings.TrimSpace(s)), limit) }
	rule, _ := r.pack.Rule(f.Rule) // the answer was checked against the taxonomy
	c := candidate{Finding: events.Finding{
		Rule: f.Rule, Stage: stageAudit, Severity: events.Severity(f.Severity), Title: text(f.Title, maxTitle),
		File: f.File, StartLine: f.StartLine, EndLine: f.EndLine, CWE: rule.CWE, Confidence: events.Confidence(f.Confidence), Validation: events.NotValidated,
		Evidence: text(f.Evidence, maxShort), Remediation: text(f.Remediation, maxShort),
	}, Argument: &argument{AttackPath: text(f.AttackPath, maxAttackPath), Preconditions: text(f.Preconditions, maxShort), SeverityReason: text(f.SeverityReason, maxShort)}}
	c.Description = text(f.Description, maxDescription)
	if c.Argument.AttackPath != "" {
		c.Description += "\n\nAttack path: " + c.Argument.AttackPath
	}
	if c.Argument.Preconditions != "" {
		c.Description += "\n\nPreconditions: " + c.Argument.Preconditions
	}
	if c.Argument.SeverityReason != "" {
		c.Description += "\n\nSeverity: " + c.Argument.SeverityReason
	}
	if places := r.notThere(known, c.Description, c.Evidence); len(places) > 0 {
		c.Evidence = clipText(strings.TrimSpace(c.Evidence+"\n\nNot in the source: "+strings.Join(places, ", ")+"."), maxShort+maxTitle)
	}
	content, _, err := r.contentOf(f.File)
	if err != nil {
		c.Snippet = text(f.Quote, maxShort) // verify says that there is no such file
		return c
	}
	lines := indexLines(content)
	from, to, ok := locateQuote(content, lines, f.Quote, f.StartLine, f.EndLine)
	if !ok {
		c.Snippet = text(f.Quote, maxShort)
		return c
	}
	if from != f.StartLine || to != f.EndLine {
		r.log(ctx, fmt.Sprintf("audit: the quote at %s:%d stands in line %d", f.File, f.StartLine, from))
	}
	c.StartLine, c.EndLine = from, to
	begin, _ := lines.bounds(content, from)
	_, end := lines.bounds(content, to)
	c.Shown = span{begin, end - begin}
	c.Snippet = r.masker.excerpt(content, lines, c.Shown, masked)
	c.Symbol = enclosingSymbol(f.File, content, lines, from)
	c.Identity = normalised(c.Snippet)
	return c
}

// locateQuote finds the lines of a quote: those that were named if it is in them, narrowed to it, else the only other place in the file. White space does not count.
func locateQuote(content []byte, lines lineIndex, quote string, start, end int) (from, to int, ok bool) {
	if start < 1 || end < start || end > len(lines) {
		return 0, 0, false // the file has no such lines, so the claim is about something else
	}
	want := normalised(quote)
	if want == "" {
		return 0, 0, false
	}
	if from, to, ok := quoteWithin(content, lines, want, start, end); ok {
		return from, to, true
	}
	n := strings.Count(strings.TrimSpace(quote), "\n") // line feeds in it
	var places [][2]int
	for i := 1; i+n <= len(lines) && len(places) < 2; i++ {
		if f, t, ok := quoteWithin(content, lines, want, i, i+n); ok {
			places = append(places, [2]int{f, t})
		}
	}
	if len(places) != 1 {
		return 0, 0, false
	}
	return places[0][0], places[0][1], true
}

// quoteWithin says whether a normalised quote stands in the lines from start to end, and in which of them.
func quoteWithin(content []byte, lines lineIndex, want string, start, end int) (from, to int, ok bool) {
	holds := func(a, b int) bool {
		begin, _ := lines.bounds(content, a)
		_, stop := lines.bounds(content, b)
		return strings.Contains(normalised(string(content[begin:stop])), want)
	}
	if !holds(start, end) {
		return 0, 0, false
	}
	for start < end && holds(start+1, end) {
		start++
	}
	for end > start && holds(start, end-1) {
		end--
	}
	return start, end, true
}

// clipText bounds a text to a number of bytes.
func clipText(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit-3], "") + "..."
}

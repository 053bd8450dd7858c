package report

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"vega/events"
)

// Markdown writes d as a GitHub-flavoured Markdown document. Text from the source and from a model is escaped, so it can
// neither make markup nor load anything.
func Markdown(w io.Writer, d Document) error {
	d = d.normal()
	var b strings.Builder
	fmt.Fprintf(&b, "# Security report%s\n\n", prefixed(": ", markdownText(d.Name)))
	b.WriteString("| | |\n| --- | --- |\n")
	line := func(what, value string) {
		if value != "" {
			fmt.Fprintf(&b, "| %s | %s |\n", what, value)
		}
	}
	line("Scan", codeSpan(string(d.Scan)))
	line("Snapshot", codeSpan(string(d.Snapshot)))
	line("Status", markdownText(d.Status))
	line("Coverage", "**"+string(d.Coverage.State)+"**")
	line("Findings", countsText(d.Counts))
	if d.Rejected > 0 {
		line("Rejected", fmt.Sprintf("%d claims: what they name does not exist, or an independent review refuted them", d.Rejected))
	}

	if len(d.Coverage.Reasons) > 0 {
		b.WriteString("\n## Not covered\n\n")
		for _, r := range d.Coverage.Reasons {
			fmt.Fprintf(&b, "- %s\n", markdownText(ReasonText(r)))
		}
	}
	b.WriteString("\n## Findings\n")
	if len(d.Findings) == 0 {
		b.WriteString("\nNone were found in what was covered.\n")
	}
	for i, f := range d.Findings {
		fmt.Fprintf(&b, "\n### %d. %s: %s\n\n", i+1, f.Severity, markdownText(cmp.Or(f.Title, ruleID(f))))
		fmt.Fprintf(&b, "%s · %s · confidence %s · validation %s · %s\n",
			codeSpan(place(f.Finding)), markdownText(strings.Join(append([]string{ruleID(f)}, f.CWE...), ", ")),
			cmp.Or(f.Confidence, "unknown"), cmp.Or(f.Validation, events.NotValidated), triageText(f.Triage))
		if f.Description != "" {
			fmt.Fprintf(&b, "\n%s\n", markdownText(f.Description))
		}
		if f.Snippet != "" {
			fmt.Fprintf(&b, "\n%s\n", fenced(f.Snippet))
		}
		if f.Evidence != "" {
			fmt.Fprintf(&b, "\nEvidence: %s\n", markdownText(f.Evidence))
		}
		if f.Remediation != "" {
			fmt.Fprintf(&b, "\nRemediation: %s\n", markdownText(f.Remediation))
		}
		if len(f.Also) > 0 {
			also := make([]string, len(f.Also))
			for j, p := range f.Also {
				also[j] = codeSpan(p)
			}
			fmt.Fprintf(&b, "\nAlso at %s\n", strings.Join(also, ", "))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// place is "file:line", or "file:first-last".
func place(f events.Finding) string {
	if f.EndLine > f.StartLine {
		return fmt.Sprintf("%s:%d-%d", f.File, f.StartLine, f.EndLine)
	}
	return fmt.Sprintf("%s:%d", f.File, f.StartLine)
}

func countsText(c events.Counts) string {
	var parts []string
	for i, n := range []int{c.Critical, c.High, c.Medium, c.Low, c.Info} {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, events.Severities()[i]))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "none")
}

func triageText(t events.Triage) string {
	return string(t.State) + prefixed(": ", strings.ReplaceAll(string(t.Reason), "_", " "))
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// markdownEscapes are the characters that make markup anywhere in a line. What only acts at its start (#, -, 1.) never
// stands there: every text follows something of ours, and line ends are kept out.
var markdownEscapes = strings.NewReplacer(
	`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "<", "&lt;", ">", "&gt;", "&", "&amp;", "|", `\|`,
	"~", `\~`, "!", `\!`, "#", `\#`, "@", "@\u2060", "://", ":\u2060//", "www.", "www\u2060.",
)

// markdownText is s as plain text on one line. A word joiner keeps addresses and mentions from becoming links.
func markdownText(s string) string {
	return markdownEscapes.Replace(Printable(strings.Join(strings.Fields(s), " ")))
}

// codeSpan shows s literally within a line.
func codeSpan(s string) string {
	if s == "" {
		return ""
	}
	s = strings.ReplaceAll(Printable(s), "|", `\|`)
	ticks := strings.Repeat("`", longestRun(s)+1)
	if strings.HasPrefix(s, "`") || strings.HasSuffix(s, "`") {
		s = " " + s + " "
	}
	return ticks + s + ticks
}

// fenced shows s literally as a block; the fence is longer than any in s.
func fenced(s string) string {
	fence := strings.Repeat("`", max(3, longestRun(s)+1))
	return fence + "\n" + printableLines(strings.TrimRight(s, "\n")) + "\n" + fence
}

// longestRun is the length of the longest run of backticks.
func longestRun(s string) (longest int) {
	n := 0
	for i := range len(s) {
		if s[i] != '`' {
			n = 0
			continue
		}
		n++
		longest = max(longest, n)
	}
	return longest
}

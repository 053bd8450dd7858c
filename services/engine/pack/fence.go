package pack

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A block of data begins and ends with a line in these brackets, and every line between them begins with linePrefix. Text from the source has
// neither bracket (clean writes them as numbers), so nothing in a block can look like its end.
const (
	fenceOpen  = "⟦"
	fenceClose = "⟧"
	linePrefix = "| "
)

// block collects the lines of one fenced block.
type block struct {
	label string // ours, never from the source
	b     strings.Builder
}

func newBlock(label string) *block { return &block{label: label} }

// line adds text as one line of at most limit bytes. before is ours.
func (k *block) line(before, s string, limit int) {
	k.b.WriteString(strings.TrimRight(linePrefix+before+oneLine(s, limit), " ") + "\n")
}

// text adds text with its lines, at most limit bytes of it.
func (k *block) text(title, s string, limit int) {
	if title != "" {
		k.line(title+":", "", 0)
	}
	if strings.TrimSpace(s) == "" {
		k.line("", "(nothing given)", 100)
		return
	}
	for l := range strings.SplitSeq(cut(clean(s, limit), limit), "\n") {
		k.b.WriteString(strings.TrimRight(linePrefix+l, " ") + "\n")
	}
}

// list adds a line for each item until items or bytes run out, and says how many are missing.
func (k *block) list(title string, items []string, maxItems, maxBytes int) {
	before := ""
	if title != "" {
		k.line(title+":", "", 0)
		before = "  "
	}
	if len(items) == 0 {
		k.line(before, "(none)", 100)
		return
	}
	used := 0
	for i, s := range items {
		s = oneLine(s, maxItemBytes)
		used += len(s)
		if i == maxItems || used > maxBytes {
			k.line(before, fmt.Sprintf("(and %d more, not listed)", len(items)-i), 100)
			return
		}
		k.line(before, s, maxItemBytes)
	}
}

// String is the whole block.
func (k *block) String() string {
	return fenceOpen + "data: " + k.label + fenceClose + "\n" + k.b.String() + fenceOpen + "end of data: " + k.label + fenceClose
}

// oneLine is clean text on one line, at most limit bytes of it.
func oneLine(s string, limit int) string {
	return cut(strings.ReplaceAll(clean(s, limit), "\n", " "), limit)
}

// clean makes text from outside harmless to read: all kinds of line ends become "\n", and what a reader does not see or what would look
// like our fences becomes its number, such as <U+202E>, so that it is still there to be found. Only as much of s is read as limit bytes can
// need: cleaning shortens text by half at most, so the result is longer than limit whenever something was left out.
func clean(s string, limit int) string {
	s = s[:min(len(s), 4*limit+64)]
	s = strings.ReplaceAll(s, "\r\n", "\n")
	var b strings.Builder
	b.Grow(len(s))
	for _, r := range s {
		switch {
		case r == '\t':
			b.WriteRune(r)
		case r == '\n', r == '\r', r == '\v', r == '\f', r == '\u0085', r == '\u2028', r == '\u2029':
			b.WriteByte('\n')
		case r == '⟦', r == '⟧', !unicode.IsPrint(r) && !unicode.Is(unicode.Zs, r):
			fmt.Fprintf(&b, "<U+%04X>", r)
		default:
			b.WriteRune(r) // U+FFFD for a byte that is not UTF-8
		}
	}
	return b.String()
}

// cut is at most limit bytes of s, cut between characters, with a mark that it was cut.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	const mark = " […]"
	end := max(limit-len(mark), 0)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + mark
}

// isLine reports whether s is one line of 1 to limit bytes.
func isLine(s string, limit int) bool {
	return strings.TrimSpace(s) != "" && len(s) <= limit && !strings.ContainsAny(s, "\n\r")
}

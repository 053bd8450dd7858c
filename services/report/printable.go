package report

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable is s with everything escaped that could act on a terminal or deceive its reader: control characters, line ends,
// bidirectional and zero-width characters, and bytes that are not UTF-8. What it returns is one line.
func Printable(s string) string {
	if !strings.ContainsFunc(s, unsafeRune) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteByte(' ')
		case !unsafeRune(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// printableLines is Printable for a text of several lines: the line feeds stay.
func printableLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = Printable(strings.TrimRight(l, "\r"))
	}
	return strings.Join(lines, "\n")
}

// unsafeRune says whether a character does something else than show itself. Blanks and all graphic characters are safe; the
// categories Cc, Cf (bidirectional overrides, zero-width ones), Zl, Zp, Co and Cs are not.
func unsafeRune(r rune) bool { return r != ' ' && !unicode.IsGraphic(r) }

// cut shortens s to at most n bytes at a character's border and says so with three dots.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	n -= len("...")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}

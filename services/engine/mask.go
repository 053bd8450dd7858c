package engine

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// masker makes masks: what stands for a credential everywhere outside of the function that found it.
type masker struct {
	key []byte
}

// mask is the first characters of secret and a keyed hash of it, so that the same credential is recognised in another
// place or scan and cannot be guessed without the key. White space does not count: a wrapped key is the same key. Four
// characters are shown, fewer of a secret shorter than sixteen.
func (m masker) mask(secret []byte) string {
	canonical := bytes.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, secret)
	h := hmac.New(sha256.New, m.key)
	h.Write([]byte("vega credential mask 1\x00"))
	h.Write(canonical)
	shown := canonical[:min(4, len(canonical)/4)]
	return fmt.Sprintf("%s[masked:%x]", bytes.Map(asciiOnly, shown), h.Sum(nil)[:8])
}

func asciiOnly(r rune) rune {
	if r <= ' ' || r > '~' {
		return '?'
	}
	return r
}

// span is where a credential lies in its file: length bytes from off.
type span struct {
	Off int `json:"offset"`
	Len int `json:"length"`
}

func (s span) end() int { return s.Off + s.Len }

// Snippets are short: a finding carries its lines, not the file.
const (
	maxSnippetLines = 12
	maxSnippetLine  = 240     // bytes
	snippetReach    = 1 << 10 // how much of a line is looked at on both sides of what is shown
)

// snippet is the text of the lines of shown, with everything masked that is or may be a credential: the spans, further occurrences
// of what they hold, passwords in addresses, and long random-looking words. Of long lines it is a piece. The same content
// always gives the same snippet, so a later stage can tell whether a snippet is true.
func (m masker) snippet(content []byte, lines lineIndex, shown span, spans []span) string {
	return shorten(m.maskLikely(m.showing(content, lines, shown, spans)))
}

// excerpt is like snippet, of code that is shown for what it does: masked is what was found to be a credential, wherever it stands, and passwords in addresses, but no word for its looks alone.
func (m masker) excerpt(content []byte, lines lineIndex, shown span, spans []span) string {
	return shorten(m.maskPasswords(m.showing(content, lines, shown, spans)))
}

// showing is the text of the lines of shown with what is known to be a credential masked.
func (m masker) showing(content []byte, lines lineIndex, shown span, spans []span) string {
	from, _ := lines.bounds(content, lines.at(shown.Off))
	_, to := lines.bounds(content, lines.at(shown.end()-1))
	// Work on lines of megabytes would be done for every credential in them. A word that the cut goes through is left out whole:
	// it may be part of a credential.
	if near := shown.Off - snippetReach; near > from {
		for from = near; from < shown.Off && valueByte[content[from]]; {
			from++
		}
	}
	if near := shown.end() + snippetReach; near < to {
		for to = near; to > shown.end() && valueByte[content[to-1]]; {
			to--
		}
	}
	text := string(m.maskSpans(content, from, to, spans))
	for _, s := range spans {
		if secret := content[s.Off:s.end()]; len(secret) >= 6 && len(secret) <= len(text) {
			text = strings.ReplaceAll(text, string(secret), m.mask(secret))
		}
	}
	return text
}

// shorten cuts a text to what a finding carries.
func shorten(text string) string {
	out := strings.Split(text, "\n")
	if len(out) > maxSnippetLines {
		out = append(out[:maxSnippetLines-1], "...")
	}
	for i, l := range out {
		out[i] = around(strings.TrimRight(l, "\r"), strings.Index(l, "[masked:"))
	}
	return cleanLines(strings.Join(out, "\n"))
}

// maskSpans is content[from:to] with the spans replaced. Spans that overlap are masked as one.
func (m masker) maskSpans(content []byte, from, to int, spans []span) []byte {
	sorted := slices.SortedFunc(slices.Values(spans), func(a, b span) int {
		return cmp.Or(cmp.Compare(a.Off, b.Off), cmp.Compare(b.Len, a.Len))
	})
	var out []byte
	at := from
	for i := 0; i < len(sorted); {
		begin, stop := sorted[i].Off, sorted[i].end()
		for i++; i < len(sorted) && sorted[i].Off < stop; i++ {
			stop = max(stop, sorted[i].end())
		}
		if stop <= from || begin >= to {
			continue
		}
		out = append(out, content[at:max(at, begin)]...)
		out = append(out, m.mask(content[begin:stop])...)
		at = max(at, stop)
	}
	return append(out, content[min(at, to):to]...)
}

var (
	maskPattern = regexp.MustCompile(`[!-~]{0,4}\[masked:[0-9a-f]{16}\]`)
	// likelySecret are words that no rule claimed but that have the alphabet and length of keys.
	likelySecret = regexp.MustCompile(`[A-Za-z0-9+/_=.~-]{16,}`)
	// passwordInURL is the password of an address: scheme://user:password@host.
	passwordInURL = regexp.MustCompile(`(://[^/\s:@"']*:)([^/\s@"']{3,})(@)`)
)

// maskLikely masks what may be a credential beside the one that was found. It may mask too much; this text is only shown.
func (m masker) maskLikely(text string) string {
	var b strings.Builder
	at := 0
	for _, masked := range maskPattern.FindAllStringIndex(text, -1) {
		b.WriteString(m.maskWords(text[at:masked[0]]))
		b.WriteString(text[masked[0]:masked[1]])
		at = masked[1]
	}
	b.WriteString(m.maskWords(text[at:]))
	return b.String()
}

// maskPasswords masks passwords in addresses that are not masked yet.
func (m masker) maskPasswords(text string) string {
	return passwordInURL.ReplaceAllStringFunc(text, func(s string) string {
		p := passwordInURL.FindStringSubmatch(s)
		if maskPattern.MatchString(p[2]) {
			return s
		}
		return p[1] + m.mask([]byte(p[2])) + p[3]
	})
}

func (m masker) maskWords(text string) string {
	text = m.maskPasswords(text)
	return likelySecret.ReplaceAllStringFunc(text, func(s string) string {
		if !strings.ContainsAny(s, "0123456789") || !strings.ContainsFunc(s, unicode.IsLetter) || entropy(s) < 3.2 {
			return s
		}
		return m.mask([]byte(s))
	})
}

// entropy is Shannon's, in bits per byte.
func entropy(s string) (bits float64) {
	var n [256]int
	for i := range len(s) {
		n[s[i]]++
	}
	for _, c := range n {
		if c > 0 {
			p := float64(c) / float64(len(s))
			bits -= p * math.Log2(p)
		}
	}
	return bits
}

// around cuts a long line to a piece that holds the byte at position at.
func around(line string, at int) string {
	if len(line) <= maxSnippetLine {
		return line
	}
	from := max(0, min(at-maxSnippetLine/3, len(line)-maxSnippetLine))
	to := from + maxSnippetLine
	for from > 0 && !utf8.RuneStart(line[from]) {
		from--
	}
	for to < len(line) && !utf8.RuneStart(line[to]) {
		to++
	}
	piece := line[from:to]
	if from > 0 {
		piece = "..." + piece
	}
	if to < len(line) {
		piece += "..."
	}
	return piece
}

// cleanLines makes a snippet storable: UTF-8, no NUL.
func cleanLines(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// lineIndex is the offset of the first byte of every line of a text. A line feed at the very end begins no line.
type lineIndex []int

func indexLines(content []byte) lineIndex {
	if len(content) == 0 {
		return nil
	}
	lines := lineIndex{0}
	for i := 0; ; {
		n := bytes.IndexByte(content[i:], '\n')
		if i += n + 1; n < 0 || i == len(content) {
			return lines
		}
		lines = append(lines, i)
	}
}

// at is the number, from 1, of the line that holds the byte at off.
func (l lineIndex) at(off int) int {
	i, found := slices.BinarySearch(l, off)
	if found {
		return i + 1
	}
	return max(i, 1)
}

// bounds is where a line that exists lies in content, without its line feed.
func (l lineIndex) bounds(content []byte, line int) (from, to int) {
	from, to = l[line-1], len(content)
	if line < len(l) {
		to = l[line] - 1
	} else if content[to-1] == '\n' {
		to--
	}
	return from, to
}

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

// Snippets are short: a finding carries its lines, not the file.
const (
	maxSnippetLines = 12
	maxSnippetLine  = 240 // bytes
)

// snippet is the text of lines start to end (from 1) with everything masked that is or may be a credential: the spans, further
// occurrences of what they hold, passwords in addresses, and long random-looking words. The same content always gives the
// same snippet, so a later stage can tell whether a snippet is true.
func (m masker) snippet(content []byte, start, end int, spans []span) string {
	from, to, ok := lineRange(content, start, end)
	if !ok {
		return ""
	}
	text := string(m.maskSpans(content, from, to, spans))
	for _, s := range spans {
		if secret := content[s.Off : s.Off+s.Len]; len(secret) >= 6 {
			text = strings.ReplaceAll(text, string(secret), m.mask(secret))
		}
	}
	text = m.maskLikely(text)
	lines := strings.Split(text, "\n")
	if len(lines) > maxSnippetLines {
		lines = append(lines[:maxSnippetLines-1], "...")
	}
	for i, l := range lines {
		lines[i] = around(strings.TrimRight(l, "\r"), strings.Index(l, "[masked:"))
	}
	return cleanLines(strings.Join(lines, "\n"))
}

// maskSpans is content[from:to] with the spans replaced. Spans that overlap are masked as one.
func (m masker) maskSpans(content []byte, from, to int, spans []span) []byte {
	sorted := slices.SortedFunc(slices.Values(spans), func(a, b span) int {
		return cmp.Or(cmp.Compare(a.Off, b.Off), cmp.Compare(b.Len, a.Len))
	})
	var out []byte
	at := from
	for i := 0; i < len(sorted); {
		begin, stop := sorted[i].Off, sorted[i].Off+sorted[i].Len
		for i++; i < len(sorted) && sorted[i].Off < stop; i++ {
			stop = max(stop, sorted[i].Off+sorted[i].Len)
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

func (m masker) maskWords(text string) string {
	text = passwordInURL.ReplaceAllStringFunc(text, func(s string) string {
		p := passwordInURL.FindStringSubmatch(s)
		return p[1] + m.mask([]byte(p[2])) + p[3]
	})
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

// lineRange is where lines start to end lie in content, without the last line feed; false when content has no such lines.
func lineRange(content []byte, start, end int) (from, to int, ok bool) {
	if start < 1 || end < start {
		return 0, 0, false
	}
	at := 0
	for range start - 1 {
		n := bytes.IndexByte(content[at:], '\n')
		if n < 0 {
			return 0, 0, false
		}
		at += n + 1
	}
	if at == len(content) { // what follows the last line feed is no line
		return 0, 0, false
	}
	from = at
	for i := start; ; i++ {
		n := bytes.IndexByte(content[at:], '\n')
		switch {
		case i == end && n < 0:
			return from, len(content), true
		case i == end:
			return from, at + n, true
		case n < 0 || at+n+1 == len(content):
			return 0, 0, false
		}
		at += n + 1
	}
}

// lineAt is the number, from 1, of the line that holds the byte at off.
func lineAt(content []byte, off int) int { return bytes.Count(content[:off], []byte("\n")) + 1 }

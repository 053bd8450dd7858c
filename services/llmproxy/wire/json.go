package wire

import (
	"encoding/binary"
	"encoding/json"
	"math/bits"
)

// maxDepth is how deep values may be nested. Other parsers stop between 128 and 10,000 levels; what all of them read is below.
const maxDepth = 128

// reader walks over JSON text without decoding it. It is strict: what it passes is JSON by RFC 8259, apart from UTF-8, which is checked elsewhere. Once bad is
// set nothing moves any more.
type reader struct {
	b     []byte
	i     int // the next byte
	depth int
	bad   bool
	deep  bool // bad because of maxDepth
}

func (r *reader) space() {
	for r.i < len(r.b) {
		switch r.b[r.i] {
		case ' ', '\n', '\r', '\t':
			r.i++
		default:
			return
		}
	}
}

// peek returns the first byte of the next value or sign; 0 at the end.
func (r *reader) peek() byte {
	r.space()
	if r.bad || r.i >= len(r.b) {
		return 0
	}
	return r.b[r.i]
}

// take moves over one sign, or is bad.
func (r *reader) take(c byte) bool {
	if r.peek() != c {
		r.bad = true
		return false
	}
	r.i++
	return true
}

// skip moves over a value.
func (r *reader) skip() {
	switch c := r.peek(); c {
	case '"':
		r.text()
	case '{':
		for range r.members {
			r.skip()
		}
	case '[':
		for range r.elements {
			r.skip()
		}
	case 't':
		r.word("true")
	case 'f':
		r.word("false")
	case 'n':
		r.word("null")
	default:
		r.number()
	}
}

// members goes through an object: it yields each name, without escapes, and the loop's body moves over the value.
func (r *reader) members(yield func(name []byte) bool) {
	if !r.enter('{') {
		return
	}
	for first := true; ; first = false {
		if r.leave('}', first) {
			return
		}
		if r.peek() != '"' {
			r.bad = true
			return
		}
		name, escaped := r.text()
		if escaped {
			name = unescaped(name)
		}
		if !r.take(':') || !yield(name) || r.bad {
			return
		}
	}
}

// elements goes through an array: it yields where each element begins, and the loop's body moves over it.
func (r *reader) elements(yield func(start int) bool) {
	if !r.enter('[') {
		return
	}
	for first := true; ; first = false {
		if r.leave(']', first) {
			return
		}
		r.space()
		if !yield(r.i) || r.bad {
			return
		}
	}
}

func (r *reader) enter(c byte) bool {
	if !r.take(c) {
		return false
	}
	if r.depth++; r.depth > maxDepth {
		r.bad, r.deep = true, true
		return false
	}
	return true
}

// leave moves over the end of an object or array, or over the comma before what follows.
func (r *reader) leave(c byte, first bool) bool {
	if r.peek() == c {
		r.i++
		r.depth--
		return true
	}
	return !first && !r.take(',')
}

// word moves over true, false or null.
func (r *reader) word(w string) {
	if len(r.b)-r.i < len(w) || string(r.b[r.i:r.i+len(w)]) != w {
		r.bad = true
		return
	}
	r.i += len(w)
}

func (r *reader) number() {
	if r.bad {
		return
	}
	if r.i < len(r.b) && r.b[r.i] == '-' {
		r.i++
	}
	if r.i < len(r.b) && r.b[r.i] == '0' {
		r.i++
	} else {
		r.digits()
	}
	if r.i < len(r.b) && r.b[r.i] == '.' {
		r.i++
		r.digits()
	}
	if r.i < len(r.b) && (r.b[r.i] == 'e' || r.b[r.i] == 'E') {
		r.i++
		if r.i < len(r.b) && (r.b[r.i] == '+' || r.b[r.i] == '-') {
			r.i++
		}
		r.digits()
	}
}

func (r *reader) digits() {
	start := r.i
	for r.i < len(r.b) && r.b[r.i]-'0' <= 9 {
		r.i++
	}
	r.bad = r.bad || r.i == start
}

// text moves over a string and returns what stands between its quotes, as it stands there.
func (r *reader) text() (inside []byte, escaped bool) {
	start := r.i + 1
	for i := start; ; {
		i = plain(r.b, i)
		if i >= len(r.b) || r.b[i] < ' ' {
			r.i, r.bad = i, true
			return nil, false
		}
		if r.b[i] == '"' {
			r.i = i + 1
			return r.b[start:i], escaped
		}
		escaped = true
		if i = escape(r.b, i+1); i < 0 {
			r.bad = true
			return nil, false
		}
	}
}

// plain returns the place of the first quote, backslash or control character from i on, or the end. It looks at eight bytes at once.
func plain(b []byte, i int) int {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	for ; i+8 <= len(b); i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		quote, slash := w^('"'*ones), w^('\\'*ones)
		if hit := ((quote-ones)&^quote | (slash-ones)&^slash | (w-' '*ones)&^w) & high; hit != 0 {
			return i + bits.TrailingZeros64(hit)/8 // the lowest hit is exact; a borrow can only make false ones above it
		}
	}
	for ; i < len(b) && b[i] != '"' && b[i] != '\\' && b[i] >= ' '; i++ {
	}
	return i
}

// escape returns where the escape ends whose letter is at i, or -1 when it is none.
func escape(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		if i+5 > len(b) {
			return -1
		}
		for _, c := range b[i+1 : i+5] {
			if c-'0' > 9 && c|0x20-'a' > 5 {
				return -1
			}
		}
		return i + 5
	}
	return -1
}

// unescaped resolves the escapes of a string that text returned.
func unescaped(inside []byte) []byte {
	var s string
	if json.Unmarshal(append(append([]byte{'"'}, inside...), '"'), &s) != nil {
		return inside // it cannot fail: text has checked it
	}
	return []byte(s)
}

// str moves over a string and returns what it means; false when the value is another one, which stays.
func (r *reader) str() (string, bool) {
	if r.peek() != '"' {
		return "", false
	}
	inside, escaped := r.text()
	if escaped {
		inside = unescaped(inside)
	}
	return string(inside), !r.bad
}

// null moves over null; false when the value is another one, which stays.
func (r *reader) null() bool {
	if r.peek() != 'n' {
		return false
	}
	r.word("null")
	return true
}

// plainName turns a name into the one that a parser may take it for that does not heed case; odd says that it was another one.
func plainName(name []byte) (plain []byte, odd bool) {
	for _, c := range name {
		if c-'a' > 25 && c-'0' > 9 && c != '_' {
			return folded(name)
		}
	}
	return name, false
}

func folded(name []byte) ([]byte, bool) {
	out := make([]byte, 0, len(name))
	for _, c := range string(name) {
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c == '\u212a': // the sign for kelvin
			c = 'k'
		case c == '\u017f': // the long s
			c = 's'
		}
		if c >= 0x80 {
			return name, false
		}
		out = append(out, byte(c))
	}
	return out, string(out) != string(name)
}

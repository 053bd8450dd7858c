package wire

import "bytes"

// picker picks a few members out of a JSON object that comes in pieces, and keeps nothing else of it, however large it is. It trusts the provider to write JSON
// and counts brackets only; what it has picked is read strictly afterwards.
//
// The members are those of the object itself, or, wrapped, those of the object in its member "response".
type picker struct {
	wrapped bool

	depth    int
	broken   bool // not one object
	whole    bool // its closing brace has come
	inner    bool // inside the member "response"
	str, esc bool // inside a string, behind a backslash
	isName   bool // the string is the name of a member that may matter
	names    bool // what comes next at this level is a name
	name     [24]byte
	nameLen  int
	member   member // the one whose value is being read
	got      [members][]byte
	over     [members]bool // longer than it may be
}

// member is one that may be picked.
type member int

const (
	none member = iota
	memberType
	memberUsage
	memberModel
	memberTier
	memberError
	memberResponse // looked into, not kept
	members
)

// sign has the bytes that give JSON its structure.
var sign = [256]bool{'"': true, '{': true, '}': true, '[': true, ']': true, ',': true, ':': true}

const (
	mostUsage = 16 << 10 // bytes of a usage object
	mostText  = 512      // bytes of any other member
)

func (k *picker) reset() {
	for i, b := range k.got {
		k.got[i] = b[:0]
	}
	*k = picker{wrapped: k.wrapped, got: k.got}
}

// cares reports whether members at this level may matter.
func (k *picker) cares() bool { return k.depth == 1 || k.depth == 2 && k.inner }

// feed takes the next piece. It stops early, and reports so, when done says that the object does not matter, which it is asked as soon as the type is known.
func (k *picker) feed(b []byte, done func(kind string) bool) (stopped bool) {
	for i := 0; i < len(b); {
		if k.str {
			i = k.text(b, i)
			continue
		}
		if k.depth > 0 && (k.member == none || k.member == memberResponse) {
			for i < len(b) && !sign[b[i]] { // numbers and words that are not kept
				i++
			}
			if i == len(b) {
				break
			}
		}
		c := b[i]
		i++
		switch c {
		case '"':
			k.str, k.isName, k.nameLen = true, k.names && k.cares(), 0
			k.keep(c)
		case '{', '[':
			k.keep(c)
			k.open(c)
		case '}', ']':
			if k.cares() {
				k.member = none
			}
			k.depth--
			if k.depth == 1 {
				k.inner = false
			}
			k.keep(c)
			if k.depth < 0 {
				k.broken = true
			}
			k.whole = k.depth == 0
		case ',':
			if !k.cares() {
				k.keep(c)
				break
			}
			was := k.member
			k.member, k.names = none, true
			if was == memberType && done != nil && done(string(unquoted(k.got[memberType]))) {
				return true
			}
		case ':':
			if k.cares() {
				k.names = false
			} else {
				k.keep(c)
			}
		case ' ', '\n', '\r', '\t':
			if len(k.got[k.member]) > 0 {
				k.keep(c)
			}
		default:
			if k.depth == 0 {
				k.broken = true
			}
			k.keep(c)
		}
	}
	return false
}

// open goes into an object or array.
func (k *picker) open(c byte) {
	switch {
	case k.depth == 0:
		k.broken = k.broken || k.whole || c != '{'
		k.names = true
	case k.depth == 1 && k.member == memberResponse && c == '{':
		k.inner, k.names, k.member = true, true, none
	}
	k.depth++
}

// text goes on inside a string and returns where it stopped.
func (k *picker) text(b []byte, i int) int {
	if k.esc {
		k.esc = false
		k.part(b[i : i+1])
		return i + 1
	}
	j := plain(b, i)
	if j == len(b) {
		k.part(b[i:])
		return j
	}
	if b[j] == '\\' {
		k.esc = true
	}
	if b[j] != '"' {
		k.part(b[i : j+1])
		return j + 1
	}
	k.part(b[i:j])
	k.str = false
	k.keep('"')
	if k.isName {
		k.member, k.isName = k.named(), false
		k.got[k.member], k.over[k.member] = k.got[k.member][:0], false // the last of two wins
	}
	return j + 1
}

// part takes a part of a string.
func (k *picker) part(b []byte) {
	if k.isName {
		k.nameLen = min(k.nameLen+copy(k.name[k.nameLen:], b), len(k.name))
		if len(b) > len(k.name) {
			k.nameLen = len(k.name)
		}
		return
	}
	for _, c := range b {
		if k.member == none || k.member == memberResponse || k.over[k.member] {
			return
		}
		k.keep(c)
	}
}

// keep adds a byte to the member that is being read.
func (k *picker) keep(c byte) {
	m := k.member
	if m == none || m == memberResponse || k.isName {
		return
	}
	most := mostText
	if m == memberUsage {
		most = mostUsage
	}
	if len(k.got[m]) >= most {
		k.over[m] = true
		return
	}
	k.got[m] = append(k.got[m], c)
}

// named is the member of the name that was read. None is as long as the buffer, so one that was cut off matches nothing.
func (k *picker) named() member {
	name := k.name[:k.nameLen]
	for _, c := range name {
		if c == '\\' {
			name = unescaped(name)
			break
		}
	}
	if k.wrapped && k.depth == 1 {
		switch string(name) {
		case "type":
			return memberType
		case "response":
			return memberResponse
		}
		return none
	}
	switch string(name) {
	case "usage":
		return memberUsage
	case "model":
		return memberModel
	case "service_tier":
		return memberTier
	case "error":
		return memberError
	}
	return none
}

// has reports whether a member was there and not null.
func (k *picker) has(m member) bool {
	return len(k.got[m]) > 0 && string(bytes.TrimSpace(k.got[m])) != "null"
}

// value is the text of a member; nil: it is too long.
func (k *picker) value(m member) []byte {
	if k.over[m] {
		return nil
	}
	return k.got[m]
}

// unquoted is the meaning of a string; nil when it is none.
func unquoted(text []byte) []byte {
	r := reader{b: text}
	if r.peek() != '"' {
		return nil
	}
	inside, escaped := r.text()
	if escaped {
		inside = unescaped(inside)
	}
	return inside
}

package wire

import (
	"bytes"
	"strings"
)

// Answer reads what passes to the agent: a stream of server-sent events, or one JSON document. It keeps a few hundred bytes of it, whatever its size and
// however it is cut. Of events that cannot say what was used it looks at the first line or the first field only. The zero Answer is not ready. It must not be
// used concurrently.
type Answer struct {
	endpoint Endpoint
	streams  bool
	closed   bool
	ended    bool
	usage    Usage
	known    bool

	// The line at hand.
	bom   int // bytes of a byte order mark that have come; 3: none can come any more
	cr    bool
	line  lineState
	field [6]byte // name of the line's field; longer than any that matters
	count int

	// The event at hand.
	data    bool // has a line of data
	skip    bool // cannot matter
	name    [32]byte
	named   int
	first   [8]byte // of the data
	length  int     // of the data, as far as it fits in first, and one more
	content picker
}

// lineState is what comes next in a line.
type lineState byte

const (
	lineStart  lineState = iota // its field's name
	lineData                    // after "data:", maybe a space
	lineEvent                   // after "event:", maybe a space
	insideData                  // data
	insideName                  // the event's name
	lineSkip                    // nothing that matters
)

var mark = []byte("\xef\xbb\xbf")

// NewAnswer reads an answer of the endpoint that has this Content-Type.
func NewAnswer(e Endpoint, contentType string) *Answer {
	kind, _, _ := strings.Cut(contentType, ";")
	a := &Answer{endpoint: e, streams: strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")}
	a.content.wrapped = a.streams && a.events()
	return a
}

// events reports whether each event of a stream has a type of its own, and the last one the whole response in it.
func (a *Answer) events() bool { return a.endpoint == Responses || a.endpoint == Compact }

// Streams reports whether the answer is a stream of events.
func (a *Answer) Streams() bool { return a.streams }

// Write takes the next piece of the body. It takes any cut, and never fails.
func (a *Answer) Write(p []byte) (int, error) {
	if !a.streams {
		a.content.feed(p, nil)
		return len(p), nil
	}
	n := len(p)
	lf := -1 // the next line feed of p, looked for once
	for at := 0; at < n; {
		if a.bom < len(mark) {
			if p[at] == mark[a.bom] {
				a.bom++
				at++
				continue
			}
			if a.bom > 0 {
				a.line = lineSkip // half a mark is the beginning of a field that nobody knows
			}
			a.bom = len(mark)
		}
		if a.cr {
			if a.cr = false; p[at] == '\n' {
				at++
				continue
			}
		}
		if lf < at {
			if lf = bytes.IndexByte(p[at:], '\n'); lf < 0 {
				lf = n
			} else {
				lf += at
			}
		}
		end := lf
		if cr := bytes.IndexByte(p[at:lf], '\r'); cr >= 0 {
			end = at + cr
			a.cr = true
		}
		a.piece(p[at:end])
		if end < n {
			a.endLine()
		}
		at = end + 1
	}
	return n, nil
}

// piece takes a piece of a line.
func (a *Answer) piece(b []byte) {
	for len(b) > 0 {
		switch a.line {
		case lineStart:
			c := b[0]
			b = b[1:]
			if c == ':' {
				a.startField()
			} else if a.count < len(a.field) {
				a.field[a.count] = c
				a.count++
			}
		case lineData, lineEvent:
			if b[0] == ' ' {
				b = b[1:]
			}
			a.line += insideData - lineData
		case insideData:
			a.feed(b)
			return
		case insideName:
			// A name that does not fit is cut off, and is then none that matters.
			a.named += copy(a.name[a.named:], b)
			return
		default:
			return
		}
	}
}

// startField knows what the line is.
func (a *Answer) startField() {
	switch string(a.field[:a.count]) {
	case "data":
		a.line = lineData
		if a.data {
			a.feed([]byte{'\n'})
		} else {
			a.data = true
			a.skip = a.named > 0 && a.events() && string(a.name[:a.named]) != "message" && !terminal(string(a.name[:a.named]))
		}
	case "event":
		a.line, a.named = lineEvent, 0
	default:
		a.line = lineSkip
	}
}

// feed takes data of the event.
func (a *Answer) feed(b []byte) {
	if a.length <= len(a.first) {
		copy(a.first[min(a.length, len(a.first)):], b)
		a.length = min(a.length+len(b), len(a.first)+1)
	}
	if a.skip || a.ended && a.events() {
		return
	}
	a.skip = a.content.feed(b, irrelevant)
}

func irrelevant(kind string) bool { return !terminal(kind) }

// terminal reports whether the event of that type is the last one of a response.
func terminal(kind string) bool {
	switch kind {
	case "response.completed", "response.incomplete", "response.failed", "response.cancelled", "error":
		return true
	}
	return false
}

func (a *Answer) endLine() {
	switch {
	case a.line == lineStart && a.count == 0:
		a.endEvent()
	case a.line == lineStart: // a field without a colon has no value
		a.startField()
	}
	a.line, a.count = lineStart, 0
}

// endEvent looks at an event that is complete.
func (a *Answer) endEvent() {
	if a.data && !a.skip {
		if a.events() {
			a.typed()
		} else {
			a.chunk()
		}
	}
	if a.data || a.named > 0 {
		a.data, a.skip, a.named, a.length = false, false, 0, 0
		a.content.reset()
	}
}

// typed looks at an event of a response. The first terminal one counts.
func (a *Answer) typed() {
	kind := string(unquoted(a.content.got[memberType]))
	if kind == "" {
		kind = string(a.name[:a.named])
	}
	if a.ended || !terminal(kind) || !a.content.whole || a.content.broken {
		return
	}
	a.ended = true
	a.take()
}

// chunk looks at an event of a chat. The last usage counts, because one that comes earlier is a count so far.
func (a *Answer) chunk() {
	const last = "[DONE]"
	if a.length >= len(last) && a.length <= len(a.first) && string(bytes.TrimSpace(a.first[:a.length])) == last {
		a.ended = true
		return
	}
	if a.ended || !a.content.whole || a.content.broken {
		return
	}
	if a.content.has(memberError) {
		a.ended = true
	}
	a.take()
}

// take keeps what a document says of usage, if it does.
func (a *Answer) take() {
	if !a.content.has(memberUsage) {
		return
	}
	a.usage, a.known = Usage{}, false
	if u, ok := usageOf(a.endpoint, a.content.value(memberUsage)); ok {
		u.Model = string(unquoted(a.content.value(memberModel)))
		u.Tier = string(unquoted(a.content.value(memberTier)))
		a.usage, a.known = u, true
	}
}

// Close says that the body is over. An event that lacks only its blank line counts.
func (a *Answer) Close() {
	if a.closed {
		return
	}
	a.closed = true
	if a.streams {
		a.endLine()
		a.endEvent()
		return
	}
	a.ended = true
	if a.content.whole && !a.content.broken {
		a.take()
	}
}

// Ended reports whether the agent has all of the answer: the terminal event of a stream, or, after Close, a document.
func (a *Answer) Ended() bool { return a.ended }

// AtBoundary reports whether an event of our own may be put in here: in a stream, and not inside an event.
func (a *Answer) AtBoundary() bool {
	return a.streams && a.line == lineStart && a.count == 0 && !a.data && a.named == 0 && (a.bom == 0 || a.bom == len(mark))
}

// Usage returns what the provider said that the call has used; false: it did not say so, or not so that it can be believed.
func (a *Answer) Usage() (Usage, bool) { return a.usage, a.known }

package wire

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Request is a request that may go out, once Body has changed it. It may be read concurrently.
type Request struct {
	Model     string
	Tier      string // service_tier as asked for; empty: it was not
	Stream    bool
	MaxOutput int64 // output limit as asked for, in tokens; 0: there was none

	body   []byte
	edits  []edit
	limits []limit // output limits that are there; none: one is put in at the end
	end    int     // where the last field of the object ends
	name   string  // of the endpoint's output limit, with comma and colon; empty: it has none
}

// edit replaces body[from:to].
type edit struct {
	from, to int
	put      string
	number   int64 // written after put, unless 0
}

// limit is the value of an output limit.
type limit struct {
	from, to int
	asked    int64 // tokens; 0: null
}

// Body is the request to send, with an output limit of at most maxOutput tokens, where the endpoint has one; 0 leaves the limit as it is. All bytes that need
// not change are the caller's own, in their order. It may be called again with another limit.
func (r *Request) Body(maxOutput int64) []byte { return r.AppendBody(nil, maxOutput) }

// AppendBody is Body behind what is in dst, in its place where that is large enough.
func (r *Request) AppendBody(dst []byte, maxOutput int64) []byte {
	var few [16]edit // what most requests need, on the stack
	edits := append(few[:0], r.edits...)
	if maxOutput > 0 && r.name != "" {
		for _, l := range r.limits {
			if l.asked == 0 || l.asked > maxOutput {
				edits = append(edits, edit{from: l.from, to: l.to, number: maxOutput})
			}
		}
		if len(r.limits) == 0 {
			edits = append(edits, edit{from: r.end, to: r.end, put: r.name, number: maxOutput})
		}
		slices.SortStableFunc(edits, func(a, b edit) int { return cmp.Compare(a.from, b.from) })
	}
	const longest = 20 // digits of a number
	size := len(r.body)
	for _, e := range edits {
		size += len(e.put) + longest - (e.to - e.from)
	}
	out, at := slices.Grow(dst, size), 0
	for _, e := range edits {
		out = append(append(out, r.body[at:e.from]...), e.put...)
		if e.number > 0 {
			out = strconv.AppendInt(out, e.number, 10)
		}
		at = e.to
	}
	return append(out, r.body[at:]...)
}

// Parse checks the body of a POST and finds what has to change. It keeps body, which must not change any more. allowed says which models may be called; nil
// allows all but those that search the web by themselves. Its error is always a *Refusal.
func Parse(e Endpoint, body []byte, allowed func(model string) bool) (*Request, error) {
	if !utf8.Valid(body) {
		return nil, &Refusal{CodeBad, "the body is not valid UTF-8"}
	}
	p := parser{reader: reader{b: body}, endpoint: e, allowed: allowed, request: &Request{body: body}}
	switch e {
	case Responses:
		p.request.name = `,"max_output_tokens":`
	case ChatCompletions:
		p.request.name = `,"max_completion_tokens":`
	case Compact, Embeddings:
	default:
		return nil, &Refusal{CodeBad, "this call takes no body"}
	}
	if p.object(); p.refusal == nil && p.bad {
		p.refusal = p.badJSON()
	}
	if p.refusal == nil {
		p.complete()
	}
	if p.refusal != nil {
		return nil, p.refusal
	}
	return p.request, nil
}

// parser is one run of Parse. A refusal makes the reader bad, which ends all loops.
type parser struct {
	reader
	endpoint Endpoint
	allowed  func(string) bool
	request  *Request
	refusal  *Refusal
	seen     field // fields that were there
	options  options
}

// options is what stands in the stream_options of a chat request.
type options struct {
	from, to int
	inside   int    // behind the opening brace; 0: no object
	empty    bool   // no member
	usage    [2]int // where the value of include_usage stands; zero: nowhere
	wanted   bool   // include_usage is true
}

// field is a set of fields of a request: one bit each, in the order of fieldNames.
type field uint32

const (
	fieldModel field = 1 << iota
	fieldStream
	fieldTier
	fieldStore
	fieldBackground
	fieldPrevious
	fieldConversation
	fieldPrompt
	fieldTools
	fieldChoice
	fieldSearch
	fieldN
	fieldBestOf
	fieldOptions
	fieldAudio
	fieldModalities
	fieldInput
	fieldMessages
	fieldMaxOutput
	fieldMaxCompletion
	fieldMax
)

var fieldNames = [...]string{
	"model", "stream", "service_tier", "store", "background", "previous_response_id", "conversation", "prompt", "tools", "tool_choice", "web_search_options",
	"n", "best_of", "stream_options", "audio", "modalities", "input", "messages", "max_output_tokens", "max_completion_tokens", "max_tokens",
}

func (f field) String() string { return fieldNames[bits.TrailingZeros32(uint32(f))] }

// fieldOf returns 0 for a field that does not matter.
func fieldOf(name []byte) field {
	for i, n := range fieldNames {
		if string(name) == n {
			return 1 << i
		}
	}
	return 0
}

// object reads the request.
func (p *parser) object() {
	for name := range p.members {
		plain, odd := plainName(name)
		f := fieldOf(plain)
		switch {
		case f == 0:
			p.skip()
		case odd:
			p.refuse(CodeField, "the field "+quoted(name)+" must be written "+quoted(plain))
		case p.seen&f != 0:
			p.refuse(CodeField, "the field "+quoted(name)+" is there twice")
		default:
			p.seen |= f
			p.space()
			p.field(f)
		}
		p.request.end = p.i
	}
	if p.peek(); !p.bad && p.i != len(p.b) {
		p.refuse(CodeBad, "the body goes on behind its JSON object, at byte "+strconv.Itoa(p.i))
	}
}

// field reads the value of a field that matters.
func (p *parser) field(f field) {
	r, from := p.request, p.i
	switch f {
	case fieldModel:
		model, ok := p.str()
		if !ok || model == "" {
			p.refuse(CodeModel, "the field model must be the name of a model")
			return
		}
		r.Model = model
		if strings.Contains(model, "-search-preview") || strings.Contains(model, "-search-api") {
			p.refuse(CodeModel, "the model "+quoted(model)+" searches the web, which scans must not")
		} else if p.allowed != nil && !p.allowed(model) {
			p.refuse(CodeModel, "the model "+quoted(model)+" is not one that may be called here")
		}
	case fieldStream:
		r.Stream = p.boolean(f.String())
	case fieldTier:
		tier, ok := p.str()
		if !ok && !p.null() {
			p.refuse(CodeField, "the field service_tier must be a string")
		}
		r.Tier = tier
	case fieldStore:
		if p.skip(); !p.bad && string(p.b[from:p.i]) != "false" {
			p.edit(from, p.i, "false")
		}
	case fieldBackground:
		if p.boolean(f.String()) {
			p.refuse(CodeField, "the field background must not be true: answers are not kept by the provider")
		}
	case fieldPrevious, fieldConversation, fieldPrompt, fieldAudio:
		if !p.null() {
			p.refuse(CodeField, "the field "+f.String()+" is not allowed here")
		}
	case fieldTools:
		p.tools(true)
	case fieldChoice:
		p.choice()
	case fieldSearch:
		if !p.null() {
			p.refuse(CodeTool, "web_search_options is not allowed: scans must not search the web")
		}
	case fieldN, fieldBestOf:
		if p.skip(); !p.bad && string(p.b[from:p.i]) != "1" && string(p.b[from:p.i]) != "null" {
			p.refuse(CodeField, "the field "+f.String()+" must be 1")
		}
	case fieldOptions:
		p.streamOptions()
	case fieldModalities:
		p.modalities()
	case fieldInput, fieldMessages:
		if p.endpoint == Embeddings {
			p.skip()
		} else {
			p.input()
		}
	case fieldMaxOutput, fieldMaxCompletion, fieldMax:
		p.limit(f)
	}
}

// limit reads an output limit.
func (p *parser) limit(f field) {
	main := p.endpoint == Responses && f == fieldMaxOutput || p.endpoint == ChatCompletions && f == fieldMaxCompletion
	if !main && !(p.endpoint == ChatCompletions && f == fieldMax) {
		p.skip()
		return
	}
	l := limit{from: p.i}
	if !p.null() {
		p.skip()
		if p.bad {
			return
		}
		text := string(p.b[l.from:p.i])
		if strings.Trim(text, "0123456789") != "" || text == "0" {
			p.refuse(CodeField, "the field "+f.String()+" must be a positive integer")
			return
		}
		asked, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			asked = math.MaxInt64 // more digits than that
		}
		l.asked = asked
	}
	l.to = p.i
	if l.asked > 0 || main {
		p.request.limits = append(p.request.limits, l)
	}
	p.request.MaxOutput = max(p.request.MaxOutput, l.asked)
}

func (p *parser) streamOptions() {
	if p.endpoint != ChatCompletions {
		p.skip()
		return
	}
	o := &p.options
	o.from = p.i
	if !p.null() {
		if p.peek() != '{' {
			p.refuse(CodeField, "the field stream_options must be an object")
			return
		}
		o.inside, o.empty = p.i+1, true
		for name := range p.members {
			o.empty = false
			plain, odd := plainName(name)
			if string(plain) != "include_usage" {
				p.skip()
				continue
			}
			if odd || o.usage[1] != 0 {
				p.refuse(CodeField, "the field stream_options.include_usage is there twice or in other letters")
				return
			}
			p.space()
			o.usage[0] = p.i
			o.wanted = p.boolean("stream_options.include_usage")
			o.usage[1] = p.i
		}
	}
	o.to = p.i
}

// modalities refuses sound, which has other prices than text.
func (p *parser) modalities() {
	if p.null() {
		return
	}
	if p.peek() != '[' {
		p.refuse(CodeField, "the field modalities must be an array")
		return
	}
	for range p.elements {
		if m, ok := p.str(); !ok || m != "text" {
			p.refuse(CodeField, "the field modalities may name text alone")
			return
		}
	}
}

// boolean reads true, false or null.
func (p *parser) boolean(name string) bool {
	switch p.peek() {
	case 't':
		p.word("true")
		return !p.bad
	case 'f':
		p.word("false")
	case 'n':
		p.word("null")
	default:
		p.refuse(CodeField, "the field "+name+" must be true or false")
	}
	return false
}

// complete adds the edits that need the whole request.
func (p *parser) complete() {
	r := p.request
	if p.seen&fieldModel == 0 {
		p.refuse(CodeModel, "the field model is missing")
		return
	}
	if p.endpoint == Responses && p.seen&fieldStore == 0 {
		p.edit(r.end, r.end, `,"store":false`)
	}
	if p.endpoint == ChatCompletions && r.Stream {
		p.wantUsage()
	}
	if len(r.limits) > 1 { // of a chat: null beside a limit in the old field would be a second one
		r.limits = slices.DeleteFunc(r.limits, func(l limit) bool { return l.asked == 0 })
	}
	slices.SortStableFunc(r.edits, func(a, b edit) int { return cmp.Compare(a.from, b.from) })
}

// wantUsage makes the stream of a chat say what it has used, which it does only when asked.
func (p *parser) wantUsage() {
	const asked = `"include_usage":true`
	o, end := p.options, p.request.end
	switch {
	case p.seen&fieldOptions == 0:
		p.edit(end, end, `,"stream_options":{`+asked+`}`)
	case o.inside == 0:
		p.edit(o.from, o.to, `{`+asked+`}`)
	case o.wanted:
	case o.usage[1] != 0:
		p.edit(o.usage[0], o.usage[1], "true")
	case o.empty:
		p.edit(o.inside, o.inside, asked)
	default:
		p.edit(o.inside, o.inside, asked+",")
	}
}

func (p *parser) edit(from, to int, put string) {
	p.request.edits = append(p.request.edits, edit{from: from, to: to, put: put})
}

// refuse keeps the first refusal. When the reader is bad already it was JSON that is not.
func (p *parser) refuse(code, message string) {
	if p.refusal == nil && !p.bad {
		p.refusal = &Refusal{code, message}
	}
	p.bad = true
}

func (p *parser) badJSON() *Refusal {
	if p.deep {
		return &Refusal{CodeBad, "the body is nested more than " + strconv.Itoa(maxDepth) + " levels deep"}
	}
	return &Refusal{CodeBad, "the body is not one valid JSON object, at byte " + strconv.Itoa(min(p.i, len(p.b)))}
}

package wire

// Usage is what a call has used, as the provider said it. Cached and CacheWrite are parts of Input, Reasoning is part of Output.
type Usage struct {
	Input, Cached, Output, Reasoning int64  // tokens, each at most 1e12
	CacheWrite                       int64  // tokens of the input that were put into the provider's cache, which newer models charge more for
	Tier                             string // service_tier of the answer; empty: not said
	Model                            string // the model that answered, often with its date; empty: not said
}

// mostTokens is more than any call can use.
const mostTokens = 1_000_000_000_000

// usageOf reads a usage object of either protocol. It returns false for what cannot be: no integers, negative or absurd ones, no input or (but for embeddings)
// no output, a part that is larger than its whole, a total above the sum, or two words for one thing that differ. Such a usage is unknown as a whole: what the
// call may have cost at most is charged then, and a wrong number never.
func usageOf(e Endpoint, text []byte) (u Usage, ok bool) {
	r := reader{b: text}
	if r.peek() != '{' {
		return Usage{}, false
	}
	input, output, total := int64(-1), int64(-1), int64(-1)
	for name := range r.members {
		switch string(name) {
		case "input_tokens", "prompt_tokens":
			r.count(&input)
		case "output_tokens", "completion_tokens":
			r.count(&output)
		case "total_tokens":
			r.count(&total)
		case "input_tokens_details", "prompt_tokens_details", "output_tokens_details", "completion_tokens_details":
			r.details(&u)
		default:
			r.skip()
		}
	}
	if e == Embeddings {
		output = max(output, 0)
	}
	u.Input, u.Output = input, output
	sound := !r.bad && input >= 0 && output >= 0 && u.Cached+u.CacheWrite <= input && u.Reasoning <= output && total <= input+output
	return u, sound
}

// count reads a number of tokens. One that was there before must be the same.
func (r *reader) count(n *int64) {
	if r.null() {
		return
	}
	r.space()
	start, v := r.i, int64(0)
	for r.i < len(r.b) && r.b[r.i]-'0' <= 9 && v <= mostTokens {
		v = v*10 + int64(r.b[r.i]-'0')
		r.i++
	}
	if r.i == start || r.b[start] == '0' && r.i > start+1 || v > mostTokens || *n >= 0 && *n != v {
		r.bad = true
		return
	}
	*n = v // what is behind it is a comma or a brace, or else the reader becomes bad
}

// details reads the parts of a number of tokens. A part that is not there is zero.
func (r *reader) details(u *Usage) {
	if r.null() {
		return
	}
	for name := range r.members {
		part := (*int64)(nil)
		switch string(name) {
		case "cached_tokens":
			part = &u.Cached
		case "cache_write_tokens":
			part = &u.CacheWrite
		case "reasoning_tokens":
			part = &u.Reasoning
		default:
			r.skip()
			continue
		}
		n := int64(-1)
		r.count(&n)
		*part = max(*part, n)
	}
}

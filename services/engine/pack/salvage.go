package pack

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
)

// maxSalvage bounds how often an answer is looked at again after something was taken out of it.
const maxSalvage = 60

// Salvage keeps of an answer what Check accepts: what is too long is cut, and an entry of a list that is not acceptable is taken out, the innermost one. taken are the problems of the entries that are
// gone, as Check names them at the time, but for those that only repeat another. ok is false when that does not make an acceptable answer; an answer that Check accepts comes back as it is.
func (p *Pack) Salvage(n Name, answer []byte) (kept []byte, taken []string, ok bool) {
	wrongs := p.check(n, answer)
	if len(wrongs) == 0 {
		return answer, nil, true
	}
	dec := json.NewDecoder(bytes.NewReader(answer))
	dec.UseNumber()
	var tree any
	if dec.Decode(&tree) != nil || len(answer) > maxAnswerBytes {
		return nil, nil, false
	}
	for range maxSalvage {
		found := false
		for _, w := range wrongs { // one that can be mended: taking one entry out moves the others
			mended, gone := mend(tree, w)
			if gone && !w.again {
				taken = append(taken, w.String())
			}
			if found = mended; found {
				break
			}
		}
		if !found {
			return nil, taken, false
		}
		b, err := json.Marshal(tree)
		if err != nil {
			return nil, taken, false
		}
		if wrongs = p.check(n, b); len(wrongs) == 0 {
			return b, taken, true
		}
	}
	return nil, taken, false
}

var step = regexp.MustCompile(`([^.\[\]]+)|\[(\d+)\]`)

// mend cuts what a problem says is too long, or takes the innermost list entry out that its place lies in. It changes tree.
func mend(tree any, w wrong) (mended, gone bool) {
	type link struct {
		parent any
		key    string
		index  int // -1: a field
	}
	var way []link
	at := tree
	for _, m := range step.FindAllStringSubmatch(w.place, -1) {
		switch v := at.(type) {
		case map[string]any:
			way = append(way, link{v, m[1], -1})
			at = v[m[1]]
		case []any:
			i, err := strconv.Atoi(m[2])
			if err != nil || i >= len(v) {
				return false, false
			}
			way = append(way, link{v, "", i})
			at = v[i]
		default:
			return false, false
		}
	}
	// put replaces what the way up to a link leads to.
	put := func(l link, v any) {
		switch parent := l.parent.(type) {
		case map[string]any:
			parent[l.key] = v
		case []any:
			parent[l.index] = v
		}
	}
	if w.cut > 0 && len(way) > 0 {
		switch v := at.(type) {
		case string:
			runes := []rune(v)
			put(way[len(way)-1], strings.TrimSpace(string(runes[:min(len(runes), w.cut)])))
			return true, false
		case []any:
			put(way[len(way)-1], v[:min(len(v), w.cut)])
			return true, false
		}
	}
	for i := len(way) - 1; i > 0; i-- {
		if list, ok := way[i].parent.([]any); ok {
			put(way[i-1], append(append([]any{}, list[:way[i].index]...), list[way[i].index+1:]...))
			return true, true
		}
	}
	return false, false
}

package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"vega/services/llmproxy/wire"
)

// FuzzParse holds Parse to encoding/json: what that refuses is refused, and what goes out means the same apart from the stated changes.
func FuzzParse(f *testing.F) {
	for _, body := range []string{
		`{"model":"m"}`, `{"model":"m","store":true,"max_output_tokens":9000,"max_tokens":5,"max_completion_tokens":null}`,
		`{"model":"m","stream":true,"stream_options":{"a":1,"include_usage":false}}`, `{"model":"m","stream":true,"stream_options":{ }}`,
		`{"model":"m","tools":[{"type":"web_search"},{"type":"function","a":[1,{"b":null}]}, {"type":"web_search"}]}`,
		`{"model":"m","input":[{"type":"additional_tools","tools":[{"type":"web_search"}]},{"role":"user","content":"\ud83d\ude00\n\\ \u0000"}]}`,
		`{"model":"m","x":-0.5e-7,"y":[[],{},"",true,false,null]}` + "\n", `{"\u0073tore":null,"model":"\u006d"}`,
		`{"model":"m","tool_choice":{"type":"function"},"n":1,"background":false}`, `{"model":"m","messages":[{"role":"user","content":[{"image_url":{"url":"data:x"}}]}]}`,
	} {
		for e := range byte(4) {
			f.Add(e, []byte(body), int64(100))
		}
	}
	f.Add(byte(0), fixture(f, "codex-0.149.json"), int64(32768))
	f.Add(byte(0), fixture(f, "codex-0.169.json"), int64(0))
	f.Fuzz(func(t *testing.T, which byte, body []byte, limit int64) {
		e := []wire.Endpoint{wire.Responses, wire.ChatCompletions, wire.Compact, wire.Embeddings}[which%4]
		limit &= 1<<40 - 1
		before := bytes.Clone(body)
		r, err := wire.Parse(e, body, nil)
		if err != nil {
			if no, ok := errors.AsType[*wire.Refusal](err); !ok || no.Code == "" || no.Message == "" || len(no.Message) > 400 || !utf8.ValidString(no.Message) {
				t.Fatalf("Parse(%q) = %v, want a short refusal", body, err)
			}
			return
		}
		in, ok := decoded(body)
		if !ok {
			t.Fatalf("Parse(%q) passed what encoding/json refuses", body)
		}
		out := r.Body(limit)
		got, ok := decoded(out)
		if !ok {
			t.Fatalf("Body of %q is no JSON: %q", body, out)
		}
		if !bytes.Equal(body, before) {
			t.Fatalf("the caller's bytes were changed: %q, were %q", body, before)
		}
		if want := changed(e, in, limit); !reflect.DeepEqual(got, want) {
			t.Fatalf("Parse(%s, %q).Body(%d)\n= %q, want\n%v", e, body, limit, out, want)
		}
		if again, err := wire.Parse(e, out, nil); err != nil || !bytes.Equal(again.Body(limit), out) {
			t.Fatalf("what goes out, %q, does not pass unchanged: %v", out, err)
		}
	})
}

// decoded is one JSON object with its numbers as they are written.
func decoded(b []byte) (map[string]any, bool) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v map[string]any
	if d.Decode(&v) != nil {
		return nil, false
	}
	_, err := d.Token()
	return v, errors.Is(err, io.EOF)
}

// changed makes the changes that Parse states.
func changed(e wire.Endpoint, v map[string]any, limit int64) map[string]any {
	if _, there := v["store"]; there || e == wire.Responses {
		v["store"] = false
	}
	if tools, there := v["tools"]; there {
		v["tools"] = stripped(tools)
	}
	for _, name := range []string{"input", "messages"} {
		list, _ := v[name].([]any)
		if e == wire.Embeddings {
			break // its input is text, or numbers of tokens
		}
		for _, item := range list {
			if object, ok := item.(map[string]any); ok && object["tools"] != nil {
				object["tools"] = stripped(object["tools"])
			}
		}
	}
	if e == wire.ChatCompletions && v["stream"] == true {
		options, _ := v["stream_options"].(map[string]any)
		if options == nil {
			options = map[string]any{}
		}
		options["include_usage"] = true
		v["stream_options"] = options
	}
	main := map[wire.Endpoint]string{wire.Responses: "max_output_tokens", wire.ChatCompletions: "max_completion_tokens"}[e]
	if main == "" || limit == 0 {
		return v
	}
	said := false
	for _, name := range []string{main, "max_tokens"} {
		if n, ok := v[name].(json.Number); ok && (name == main || e == wire.ChatCompletions) {
			said = true
			if asked, err := n.Int64(); err != nil || asked > limit {
				v[name] = number(limit)
			}
		}
	}
	if !said {
		v[main] = number(limit)
	}
	return v
}

func number(n int64) json.Number {
	b, _ := json.Marshal(n) // an integer cannot fail
	return json.Number(b)
}

func stripped(tools any) any {
	list, ok := tools.([]any)
	if !ok {
		return tools
	}
	kept := []any{}
	for _, tool := range list {
		kind, _ := tool.(map[string]any)["type"].(string)
		if !strings.HasPrefix(kind, "web_search") {
			kept = append(kept, tool)
		}
	}
	return kept
}

// FuzzAnswer holds an answer that comes in pieces to the same one in one piece.
func FuzzAnswer(f *testing.F) {
	for i, a := range answers {
		f.Add(byte(i), a.contentType != stream, []byte(a.body), []byte{byte(i), 3, 200})
	}
	for _, e := range []wire.Endpoint{wire.Responses, wire.ChatCompletions} {
		f.Add(byte(0), false, append(events(e), wire.FinalEvent(e, "x", true)...), []byte{1, 2, 3})
	}
	f.Fuzz(func(t *testing.T, which byte, document bool, body, cuts []byte) {
		e := []wire.Endpoint{wire.Responses, wire.ChatCompletions, wire.Compact, wire.Embeddings, wire.Models}[which%5]
		contentType := stream
		if document {
			contentType = "application/json"
		}
		want := read(e, contentType, string(body))
		var pieces []string
		for rest := string(body); rest != ""; {
			n := len(rest)
			if len(cuts) > 0 {
				n, cuts = min(int(cuts[0]), n), cuts[1:]
			}
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		if got := read(e, contentType, pieces...); got != want {
			t.Fatalf("%q in pieces %q:\n%+v, want\n%+v", body, pieces, got, want)
		}
		u := want.usage
		if !want.known && u != (wire.Usage{}) || u.Input < 0 || u.Output < 0 || u.Cached < 0 || u.CacheWrite < 0 || u.Cached+u.CacheWrite > u.Input || u.Reasoning < 0 || u.Reasoning > u.Output {
			t.Fatalf("%q: usage %+v, %v", body, u, want.known)
		}
	})
}

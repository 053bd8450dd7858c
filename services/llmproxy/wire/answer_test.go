package wire_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"vega/services/llmproxy/wire"
)

const stream = "text/event-stream; charset=utf-8"

// seen is all that an Answer says.
type seen struct {
	usage        wire.Usage
	known        bool
	ended, after bool // before and after Close
	boundary     bool
}

func read(e wire.Endpoint, contentType string, pieces ...string) seen {
	a := wire.NewAnswer(e, contentType)
	for _, p := range pieces {
		if n, err := a.Write([]byte(p)); n != len(p) || err != nil {
			panic(fmt.Sprint("Write = ", n, err))
		}
	}
	s := seen{ended: a.Ended(), boundary: a.AtBoundary()}
	a.Close()
	a.Close()
	s.after = a.Ended()
	s.usage, s.known = a.Usage()
	return s
}

const (
	said      = `"usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":60,"cache_write_tokens":30},"output_tokens":40,"output_tokens_details":{"reasoning_tokens":25},"total_tokens":140}`
	completed = `{"type":"response.completed","sequence_number":9,"response":{"id":"resp_1","object":"response","status":"completed","model":"gpt-5.4-2026-03-05","output":[{"type":"message","content":[{"type":"output_text","text":"a \"usage\": {\"input_tokens\":1} \\"}],"usage":{"input_tokens":7}}],"service_tier":"flex",` + said + `,"metadata":{"model":"x"}}}`
	chatUsage = `"usage":{"prompt_tokens":100,"completion_tokens":40,"total_tokens":140,"prompt_tokens_details":{"cached_tokens":60,"cache_write_tokens":30,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":25,"audio_tokens":0}}`
	chatEnd   = `{"id":"c","object":"chat.completion.chunk","model":"gpt-5.4-2026-03-05","service_tier":"flex","choices":[],` + chatUsage + `}`
	chatDelta = `{"id":"c","object":"chat.completion.chunk","model":"gpt-5.4-2026-03-05","service_tier":"flex","choices":[{"index":0,"delta":{"content":"\"usage\":{"}}],"usage":null}`
)

var spent = wire.Usage{Input: 100, Cached: 60, CacheWrite: 30, Output: 40, Reasoning: 25, Tier: "flex", Model: "gpt-5.4-2026-03-05"}

type answer struct {
	name        string
	endpoint    wire.Endpoint
	contentType string
	body        string
	want        seen
}

var answers = []answer{
	{"responses with names", wire.Responses, stream,
		"event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"usage\":null}}\n\n: ping\n\nevent: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"response.completed\"}\n\nevent: response.completed\ndata: " + completed + "\n\n",
		seen{spent, true, true, true, true}},
	{"responses without names", wire.Responses, stream,
		"data: {\"type\":\"response.created\",\"response\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\ndata:" + completed + "\n\n",
		seen{spent, true, true, true, true}},
	{"the type stands last", wire.Responses, stream,
		"data: {\"sequence_number\":9,\"response\":{" + said + ",\"model\":\"gpt-5.4-2026-03-05\",\"service_tier\":\"flex\"},\"type\":\"response.completed\"}\n\n",
		seen{spent, true, true, true, true}},
	{"the type stands last and is another", wire.Responses, stream,
		"data: {\"response\":{" + said + "},\"type\":\"response.in_progress\"}\n\n",
		seen{wire.Usage{}, false, false, false, true}},
	{"the type and the names in escapes", wire.Responses, stream,
		`data: {"t\u0079pe":"response\u002ecompleted","response":{"usage":{"input_tokens":1,"output_tokens":2}}}` + "\n\n",
		seen{wire.Usage{Input: 1, Output: 2}, true, true, true, true}},
	{"the name stands behind the data", wire.Responses, stream,
		"data: {\"response\":{" + said + "}}\nevent: response.incomplete\n\n",
		seen{wire.Usage{Input: 100, Cached: 60, CacheWrite: 30, Output: 40, Reasoning: 25}, true, true, true, true}},
	{"incomplete", wire.Responses, stream,
		"event: response.incomplete\ndata: {\"type\":\"response.incomplete\",\"response\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":2}}}\n\n",
		seen{wire.Usage{Input: 1, Output: 2}, true, true, true, true}},
	{"failed without usage", wire.Responses, stream,
		"event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"x\"},\"usage\":null}}\n\n",
		seen{wire.Usage{}, false, true, true, true}},
	{"error", wire.Responses, stream,
		"event: error\ndata: {\"type\":\"error\",\"message\":\"x\"}\n\n",
		seen{wire.Usage{}, false, true, true, true}},
	{"only the first end counts", wire.Responses, stream,
		"data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":2}}}\n\ndata: " + completed + "\n\n",
		seen{wire.Usage{Input: 1, Output: 2}, true, true, true, true}},
	{"carriage returns", wire.Responses, stream,
		"event: response.completed\rdata: {\"type\":\"response.completed\",\rdata: \"response\":{\"usage\":{\"input_tokens\":1,\rdata:\"output_tokens\":2}}}\r\r",
		seen{wire.Usage{Input: 1, Output: 2}, true, true, true, true}},
	{"both line ends, a mark, comments, ids and several lines of data", wire.Responses, stream,
		"\xef\xbb\xbf: hi\r\nid: 7\r\nretry: 10\r\nunknown\r\nevent:response.completed\r\ndata: {\"type\":\"response.completed\",\"response\":\r\ndata\r\ndata:  {\"usage\":{\"input_tokens\":1,\r\ndata: \"output_tokens\":2}}}\r\n\r\n",
		seen{wire.Usage{Input: 1, Output: 2}, true, true, true, true}},
	{"no last blank line", wire.Responses, stream, "event: response.completed\ndata: " + completed,
		seen{spent, true, false, true, false}},
	{"one line end at the end", wire.Responses, stream, "event: response.completed\ndata: " + completed + "\n",
		seen{spent, true, false, true, false}},
	{"cut inside the last event", wire.Responses, stream, "event: response.completed\ndata: " + completed[:len(completed)-1],
		seen{wire.Usage{}, false, false, false, false}},
	{"cut inside an event", wire.Responses, stream, "event: response.output_text.delta\ndata: {\"type\":\"resp",
		seen{wire.Usage{}, false, false, false, false}},
	{"an end without data", wire.Responses, stream, "event: response.completed\n\n",
		seen{wire.Usage{}, false, false, false, true}},
	{"an end that is no JSON", wire.Responses, stream, "event: response.completed\ndata: completed\n\n",
		seen{wire.Usage{}, false, false, false, true}},
	{"an event named message", wire.Responses, stream, "event: message\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":2}}}\n\n",
		seen{wire.Usage{Input: 1, Output: 2}, true, true, true, true}},
	{"nothing", wire.Responses, stream, "", seen{wire.Usage{}, false, false, false, true}},
	{"compact as a stream", wire.Compact, stream, "data: " + completed + "\n\n", seen{spent, true, true, true, true}},

	{"chat", wire.ChatCompletions, stream,
		"data: " + chatDelta + "\n\ndata: " + chatDelta + "\n\ndata: " + chatEnd + "\n\ndata: [DONE]\n\n",
		seen{spent, true, true, true, true}},
	{"chat that counts as it goes", wire.ChatCompletions, stream,
		"data: {\"model\":\"m\",\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\r\n\r\ndata: " + chatEnd + "\r\n\r\ndata:[DONE]\r\n\r\n",
		seen{spent, true, true, true, true}},
	{"chat without its end", wire.ChatCompletions, stream, "data: " + chatEnd + "\n\n",
		seen{spent, true, false, false, true}},
	{"chat whose end lacks its blank line", wire.ChatCompletions, stream, "data: " + chatEnd + "\n\ndata: [DONE]",
		seen{spent, true, false, true, false}},
	{"chat that fails", wire.ChatCompletions, stream, "data: {\"error\":{\"message\":\"x\"}}\n\n",
		seen{wire.Usage{}, false, true, true, true}},
	{"chat of which the last word is absurd", wire.ChatCompletions, stream,
		"data: " + chatEnd + "\n\ndata: {\"usage\":{\"prompt_tokens\":-1,\"completion_tokens\":1}}\n\ndata: [DONE]\n\n",
		seen{wire.Usage{}, false, true, true, true}},
	{"chat after its end", wire.ChatCompletions, stream,
		"data: [DONE]\n\ndata: " + chatEnd + "\n\n",
		seen{wire.Usage{}, false, true, true, true}},
	{"text that ends nothing", wire.ChatCompletions, stream, "data: [DONE] not\n\n", seen{wire.Usage{}, false, false, false, true}},

	{"a response as a document", wire.Responses, "application/json",
		" {\n \"id\": \"r\", \"output\": [{\"usage\": {\"input_tokens\": 9}}],\n \"model\" : \"gpt-5.4-2026-03-05\", \"service_tier\": \"flex\",\n " + strings.ReplaceAll(said, ",", " ,\n ") + "\n}\n",
		seen{spent, true, false, true, false}},
	{"a compaction", wire.Compact, "application/json", `{"output":[],` + said + `}`,
		seen{wire.Usage{Input: 100, Cached: 60, CacheWrite: 30, Output: 40, Reasoning: 25}, true, false, true, false}},
	{"a chat as a document", wire.ChatCompletions, "application/json; charset=utf-8", strings.Replace(chatEnd, "chunk", "x", 1),
		seen{spent, true, false, true, false}},
	{"embeddings", wire.Embeddings, "application/json", `{"object":"list","data":[{"embedding":[0.1,-2e-5]}],"model":"text-embedding-3-small","usage":{"prompt_tokens":8,"total_tokens":8}}`,
		seen{wire.Usage{Input: 8, Model: "text-embedding-3-small"}, true, false, true, false}},
	{"a document cut off", wire.ChatCompletions, "application/json", chatEnd[:len(chatEnd)-1], seen{wire.Usage{}, false, false, true, false}},
	{"an array", wire.ChatCompletions, "application/json", "[" + chatEnd + "]", seen{wire.Usage{}, false, false, true, false}},
	{"two documents", wire.ChatCompletions, "application/json", chatEnd + chatEnd, seen{wire.Usage{}, false, false, true, false}},
	{"an error as a document", wire.Responses, "application/json", `{"error":{"message":"usage"}}`, seen{wire.Usage{}, false, false, true, false}},
	{"models", wire.Models, "application/json", `{"data":[]}`, seen{wire.Usage{}, false, false, true, false}},
	{"no content type", wire.ChatCompletions, "", chatEnd, seen{spent, true, false, true, false}},
}

func TestUsageIsReadHoweverTheAnswerIsCut(t *testing.T) {
	t.Parallel()
	for _, tt := range answers {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := read(tt.endpoint, tt.contentType, tt.body); got != tt.want {
				t.Errorf("in one piece:\n%+v, want\n%+v", got, tt.want)
			}
			if got := read(tt.endpoint, tt.contentType, strings.Split(tt.body, "")...); got != tt.want {
				t.Errorf("byte by byte:\n%+v, want\n%+v", got, tt.want)
			}
			for i := range len(tt.body) {
				if got := read(tt.endpoint, tt.contentType, tt.body[:i], tt.body[i:]); got != tt.want {
					t.Fatalf("cut at %d, before %.20q:\n%+v, want\n%+v", i, tt.body[i:], got, tt.want)
				}
				for j := i; j < len(tt.body) && len(tt.body) < 400; j++ {
					if got := read(tt.endpoint, tt.contentType, tt.body[:i], tt.body[i:j], "", tt.body[j:]); got != tt.want {
						t.Fatalf("cut at %d and %d:\n%+v, want\n%+v", i, j, got, tt.want)
					}
				}
			}
		})
	}
}

func TestAnUsageThatCannotBeIsUnknown(t *testing.T) {
	t.Parallel()
	for usage, want := range map[string]bool{
		`{"input_tokens":1,"output_tokens":2}`:                                                                   true,
		`{"input_tokens":1,"output_tokens":2,"input_tokens_details":null,"output_tokens_details":{}}`:            true,
		`{"input_tokens":1,"output_tokens":2,"input_tokens_details":{"cached_tokens":null},"total_tokens":null}`: true,
		`{"input_tokens":1,"prompt_tokens":1,"output_tokens":2,"completion_tokens":2,"total_tokens":3}`:          true,
		`{"input_tokens":1000000000000,"output_tokens":0}`:                                                       true,
		`{"input_tokens":1000000000001,"output_tokens":0}`:                                                       false,
		`{"input_tokens":99999999999999999999999,"output_tokens":0}`:                                             false,
		`{"input_tokens":-1,"output_tokens":2}`:                                                                  false,
		`{"input_tokens":1.0,"output_tokens":2}`:                                                                 false,
		`{"input_tokens":1e3,"output_tokens":2}`:                                                                 false,
		`{"input_tokens":01,"output_tokens":2}`:                                                                  false,
		`{"input_tokens":"1","output_tokens":2}`:                                                                 false,
		`{"input_tokens":1}`:                                                                                     false,
		`{"output_tokens":1}`:                                                                                    false,
		`{"input_tokens":null,"output_tokens":1}`:                                                                false,
		`{"input_tokens":1,"prompt_tokens":2,"output_tokens":2}`:                                                 false,
		`{"input_tokens":1,"input_tokens":2,"output_tokens":2}`:                                                  false,
		`{"input_tokens":1,"output_tokens":2,"input_tokens_details":{"cached_tokens":2}}`:                        false,
		`{"input_tokens":3,"output_tokens":2,"input_tokens_details":{"cached_tokens":2,"cache_write_tokens":2}}`: false,
		`{"input_tokens":1,"output_tokens":2,"output_tokens_details":{"reasoning_tokens":3}}`:                    false,
		`{"input_tokens":1,"output_tokens":2,"total_tokens":4}`:                                                  false,
		`{"input_tokens":1,"output_tokens":2,"input_tokens_details":[]}`:                                         false,
		`{"input_tokens":1 1,"output_tokens":2}`:                                                                 false,
		`{"input_tokens":1,"output_tokens":2,"x":"` + strings.Repeat("x", 20<<10) + `"}`:                         false,
		`[]`: false,
		`7`:  false,
	} {
		for _, pieces := range [][]string{{usage}, strings.Split(usage, "")} {
			pieces = append(append([]string{"data: {\"type\":\"response.completed\",\"response\":{\"usage\":"}, pieces...), "}}\n\n")
			if got := read(wire.Responses, stream, pieces...); got.known != want || !got.ended {
				t.Errorf("usage %.100s: known %v, ended %v, want %v, true", usage, got.known, got.ended, want)
			}
		}
	}
}

func TestALargeAnswerIsReadWithoutBeingKept(t *testing.T) { // not parallel: allocations are counted
	text := strings.Repeat(`an output of \"many\" words\n`, 5<<20/28)
	body := []byte("event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"output\":[\"" + text + "\"],\"instructions\":\"" + text + "\"," + said + "}}\n\n")
	a := wire.NewAnswer(wire.Responses, stream)
	most := testing.AllocsPerRun(1, func() {
		a = wire.NewAnswer(wire.Responses, stream)
		for piece := range slices.Chunk(body, 32<<10) {
			_, _ = a.Write(piece) // never fails
		}
	})
	if u, ok := a.Usage(); !ok || u.Input != 100 || !a.Ended() {
		t.Errorf("Usage of an event of %d bytes = %+v, %v, ended %v", len(body), u, ok, a.Ended())
	}
	if most > 40 {
		t.Errorf("reading %d bytes took %v allocations, want a few", len(body), most)
	}
}

func TestAnEventOfOursEndsAStream(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		endpoint wire.Endpoint
		before   string
	}{
		{wire.Responses, ""},
		{wire.Responses, "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\"}\n\n"},
		{wire.Responses, "event: response.output_text.delta\ndata: {\"type\":\"resp"},
		{wire.Responses, "event: response.compl"},
		{wire.ChatCompletions, "data: " + chatDelta + "\n\n"},
		{wire.ChatCompletions, "data: " + chatDelta[:40]},
	} {
		a := wire.NewAnswer(tt.endpoint, stream)
		_, _ = a.Write([]byte(tt.before)) // never fails
		boundary := a.AtBoundary()
		if want := tt.before == "" || strings.HasSuffix(tt.before, "\n\n"); boundary != want {
			t.Errorf("AtBoundary after %q = %v, want %v", tt.before, boundary, want)
		}
		_, _ = a.Write(wire.FinalEvent(tt.endpoint, "the scan has \"spent\"\nall\xff", !boundary)) // never fails
		if _, known := a.Usage(); !a.Ended() || !a.AtBoundary() || known {
			t.Errorf("after %q our own event does not end the stream", tt.before)
		}
	}
	_, data, _ := bytes.Cut(wire.FinalEvent(wire.Responses, "enough", false), []byte("data: "))
	var final struct {
		Type     string
		Response struct {
			ID, Status string
			Error      struct{ Code, Message string }
		}
	}
	if err := json.Unmarshal(data, &final); err != nil || final.Type != "response.failed" || final.Response.ID == "" || final.Response.Status != "failed" ||
		final.Response.Error.Code != "invalid_prompt" || final.Response.Error.Message != "enough" {
		t.Errorf("FinalEvent = %s, %v", data, err)
	}
	if got, want := string(wire.ErrorBody("vega_x", "no")), `{"error":{"message":"no","type":"invalid_request_error","code":"vega_x","param":null}}`; got != want {
		t.Errorf("ErrorBody = %s, want %s", got, want)
	}
}

// events is a stream of fifty events.
func events(e wire.Endpoint) []byte {
	var b bytes.Buffer
	for i := range 49 {
		if e == wire.ChatCompletions {
			fmt.Fprintf(&b, "data: %s\n\n", chatDelta)
		} else {
			fmt.Fprintf(&b, "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":%d,\"item_id\":\"msg_68\",\"output_index\":0,\"content_index\":0,\"delta\":\" a few words of text\",\"logprobs\":[],\"obfuscation\":\"kJ2\"}\n\n", i)
		}
	}
	if e == wire.ChatCompletions {
		fmt.Fprintf(&b, "data: %s\n\ndata: [DONE]\n\n", chatEnd)
	} else {
		fmt.Fprintf(&b, "event: response.completed\ndata: %s\n\n", completed)
	}
	return b.Bytes()
}

func BenchmarkAnswer(b *testing.B) {
	unnamed := bytes.ReplaceAll(events(wire.Responses), []byte("event: response.output_text.delta\n"), nil)
	large := []byte(`{"data":[{"embedding":[` + strings.Repeat("-0.0123456789,", 100_000) + `0]}],"usage":{"prompt_tokens":8,"total_tokens":8}}`)
	for _, bench := range []struct {
		name, contentType string
		endpoint          wire.Endpoint
		body              []byte
		piece             int
	}{
		{"responses", stream, wire.Responses, events(wire.Responses), 230},
		{"responses-without-names", stream, wire.Responses, unnamed, 230},
		{"chat", stream, wire.ChatCompletions, events(wire.ChatCompletions), 190},
		{"embeddings", "application/json", wire.Embeddings, large, 32 << 10},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.SetBytes(int64(len(bench.body)))
			b.ReportAllocs()
			for b.Loop() {
				a := wire.NewAnswer(bench.endpoint, bench.contentType)
				for at := 0; at < len(bench.body); at += bench.piece {
					_, _ = a.Write(bench.body[at:min(at+bench.piece, len(bench.body))]) // never fails
				}
				if a.Close(); !a.Ended() {
					b.Fatal("not ended")
				}
				if _, ok := a.Usage(); !ok {
					b.Fatal("no usage")
				}
			}
		})
	}
}

func ExampleAnswer() {
	a := wire.NewAnswer(wire.ChatCompletions, "text/event-stream")
	fmt.Fprint(a, "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}],\"usage\":null}\n\nda")
	fmt.Fprint(a, "ta: {\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":3}}\n\n")
	fmt.Println(a.Ended(), a.AtBoundary())
	fmt.Fprint(a, "data: [DONE]\n\n")
	u, ok := a.Usage()
	fmt.Println(a.Ended(), u.Input, u.Output, ok)
	// Output:
	// false true
	// true 12 3 true
}

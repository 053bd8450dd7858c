package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vega/services/llmproxy/wire"
)

func parse(t *testing.T, e wire.Endpoint, body string) *wire.Request {
	t.Helper()
	r, err := wire.Parse(e, []byte(body), nil)
	if err != nil {
		t.Fatalf("Parse(%s, %s): %v", e, body, err)
	}
	return r
}

func TestOnlyWhatMustChangeDoes(t *testing.T) {
	t.Parallel()
	const r, c, k, em = wire.Responses, wire.ChatCompletions, wire.Compact, wire.Embeddings
	for _, tt := range []struct {
		name      string
		endpoint  wire.Endpoint
		max       int64
		body, out string
	}{
		{"nothing", r, 0, `{"model":"m","store":false}`, `{"model":"m","store":false}`},
		{"store is put in", r, 0, `{"model":"m"}`, `{"model":"m","store":false}`},
		{"store true", r, 0, `{"store" : true,"model":"m"}`, `{"store" : false,"model":"m"}`},
		{"store null", r, 0, `{"store":null,"model":"m"}`, `{"store":false,"model":"m"}`},
		{"store in escapes", r, 0, `{"\u0073tore":true,"model":"m"}`, `{"\u0073tore":false,"model":"m"}`},
		{"store of a chat is left out", c, 0, `{"model":"m"}`, `{"model":"m"}`},
		{"store of a chat", c, 0, `{"model":"m","store":true}`, `{"model":"m","store":false}`},
		{"store is not put into compact", k, 9, `{"model":"m"}`, `{"model":"m"}`},
		{"store of compact", k, 9, `{"model":"m","store":{"a":[1]}}`, `{"model":"m","store":false}`},
		{"embeddings", em, 9, `{"model":"m","input":["a",{"file_id":"x"}]}`, `{"model":"m","input":["a",{"file_id":"x"}]}`},
		{"space stays", r, 7, "\n{ \"model\" : \"m\" ,\t\"x\": 1.50e+1 \r\n}\n", "\n{ \"model\" : \"m\" ,\t\"x\": 1.50e+1,\"store\":false,\"max_output_tokens\":7 \r\n}\n"},

		{"limit is put in", r, 100, `{"model":"m","store":false}`, `{"model":"m","store":false,"max_output_tokens":100}`},
		{"limit null", r, 100, `{"max_output_tokens":null,"model":"m","store":false}`, `{"max_output_tokens":100,"model":"m","store":false}`},
		{"limit above", r, 100, `{"max_output_tokens":101,"model":"m","store":false}`, `{"max_output_tokens":100,"model":"m","store":false}`},
		{"limit above everything", r, 100, `{"max_output_tokens":99999999999999999999999,"model":"m","store":false}`, `{"max_output_tokens":100,"model":"m","store":false}`},
		{"limit below", r, 100, `{"max_output_tokens":99,"model":"m","store":false}`, `{"max_output_tokens":99,"model":"m","store":false}`},
		{"limit of a chat", c, 100, `{"model":"m"}`, `{"model":"m","max_completion_tokens":100}`},
		{"limit of a chat above", c, 100, `{"max_completion_tokens":1000,"model":"m"}`, `{"max_completion_tokens":100,"model":"m"}`},
		{"old limit of a chat above", c, 100, `{"max_tokens":1000,"model":"m"}`, `{"max_tokens":100,"model":"m"}`},
		{"old limit of a chat below", c, 100, `{"max_tokens":10,"model":"m"}`, `{"max_tokens":10,"model":"m"}`},
		{"old limit null", c, 100, `{"max_tokens":null,"model":"m"}`, `{"max_tokens":null,"model":"m","max_completion_tokens":100}`},
		{"old limit beside null", c, 100, `{"max_tokens":1000,"max_completion_tokens":null,"model":"m"}`, `{"max_tokens":100,"max_completion_tokens":null,"model":"m"}`},
		{"both limits", c, 100, `{"max_tokens":1000,"max_completion_tokens":2000,"model":"m"}`, `{"max_tokens":100,"max_completion_tokens":100,"model":"m"}`},
		{"a limit that is none of the endpoint's", r, 5, `{"max_tokens":1000,"model":"m","store":false}`, `{"max_tokens":1000,"model":"m","store":false,"max_output_tokens":5}`},

		{"usage of a chat's stream", c, 0, `{"model":"m","stream":true}`, `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`},
		{"no stream", c, 0, `{"model":"m","stream":false,"stream_options":null}`, `{"model":"m","stream":false,"stream_options":null}`},
		{"options null", c, 0, `{"model":"m","stream_options":null,"stream":true}`, `{"model":"m","stream_options":{"include_usage":true},"stream":true}`},
		{"options empty", c, 0, `{"model":"m","stream":true,"stream_options":{ }}`, `{"model":"m","stream":true,"stream_options":{"include_usage":true }}`},
		{"options with another", c, 0, `{"model":"m","stream":true,"stream_options":{"a":[]}}`, `{"model":"m","stream":true,"stream_options":{"include_usage":true,"a":[]}}`},
		{"usage not wanted", c, 0, `{"model":"m","stream":true,"stream_options":{"include_usage": false}}`, `{"model":"m","stream":true,"stream_options":{"include_usage": true}}`},
		{"usage null", c, 0, `{"model":"m","stream":true,"stream_options":{"include_usage":null}}`, `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`},
		{"usage wanted", c, 0, `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`, `{"model":"m","stream":true,"stream_options":{"include_usage":true}}`},
		{"options of responses are left", r, 0, `{"model":"m","store":false,"stream":true,"stream_options":{"include_obfuscation":false}}`, `{"model":"m","store":false,"stream":true,"stream_options":{"include_obfuscation":false}}`},

		{"web search alone", r, 0, `{"model":"m","store":false,"tools":[ {"type":"web_search"} ]}`, `{"model":"m","store":false,"tools":[]}`},
		{"web search first", r, 0, `{"model":"m","store":false,"tools":[{"type":"web_search"}, {"type":"function"}]}`, `{"model":"m","store":false,"tools":[{"type":"function"}]}`},
		{"web search last", r, 0, `{"model":"m","store":false,"tools":[{"type":"function"} , {"type":"web_search"} ]}`, `{"model":"m","store":false,"tools":[{"type":"function"} ]}`},
		{"web search between", r, 0, `{"model":"m","store":false,"tools":[{"type":"function"},{"type":"web_search_preview"},{"type":"custom"}]}`, `{"model":"m","store":false,"tools":[{"type":"function"},{"type":"custom"}]}`},
		{"web search everywhere", r, 0, `{"model":"m","store":false,"tools":[{"type":"web_search"},{"type":"web_search"},{"type":"function"},{"type":"web_search_2025_08_26"},{"type":"web_search"},{"type":"custom"},{"type":"web_search"}]}`, `{"model":"m","store":false,"tools":[{"type":"function"},{"type":"custom"}]}`},
		{"web search and nothing else", r, 0, `{"model":"m","store":false,"tools":[{"type":"web_search"},{"type":"web_search"}]}`, `{"model":"m","store":false,"tools":[]}`},
		{"web search with its type last", r, 0, `{"model":"m","store":false,"tools":[{"filters":{"type":"function"},"typ\u0065":"web_search"}]}`, `{"model":"m","store":false,"tools":[]}`},
		{"web search among the tools of an item", r, 0, `{"model":"m","store":false,"input":[{"type":"additional_tools","role":"developer","tools":[{"type":"web_search"},{"type":"custom"}]}]}`, `{"model":"m","store":false,"input":[{"type":"additional_tools","role":"developer","tools":[{"type":"custom"}]}]}`},
		{"everything at once", r, 5, `{"tools":[{"type":"web_search"}],"store":true,"model":"m","max_output_tokens":7}`, `{"tools":[],"store":false,"model":"m","max_output_tokens":5}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req := parse(t, tt.endpoint, tt.body)
			if got := string(req.Body(tt.max)); got != tt.out {
				t.Errorf("Body(%d) = %s, want %s", tt.max, got, tt.out)
			}
			if got := string(req.Body(tt.max)); got != tt.out {
				t.Errorf("the second Body(%d) = %s, want %s", tt.max, got, tt.out)
			}
		})
	}
}

func TestWhatMayNotGoOutIsRefusedByName(t *testing.T) {
	t.Parallel()
	const r, c = wire.Responses, wire.ChatCompletions
	with := func(field string) string { return `{"model":"m",` + field + `}` }
	for _, tt := range []struct {
		endpoint         wire.Endpoint
		body, code, word string
	}{
		{r, ``, wire.CodeBad, "JSON"},
		{r, `[]`, wire.CodeBad, "JSON"},
		{r, `"m"`, wire.CodeBad, "JSON"},
		{r, `{"model":"m"`, wire.CodeBad, "byte 12"},
		{r, `{"model":"m"} {}`, wire.CodeBad, "goes on"},
		{r, "\ufeff" + `{"model":"m"}`, wire.CodeBad, "JSON"},
		{r, `{"model":"m",}`, wire.CodeBad, "JSON"},
		{r, `{"model":"m" "a":1}`, wire.CodeBad, "JSON"},
		{r, `{'model':"m"}`, wire.CodeBad, "JSON"},
		{r, `{"model":"m","a":01}`, wire.CodeBad, "JSON"},
		{r, `{"model":"m","a":.5}`, wire.CodeBad, "JSON"},
		{r, `{"model":"m","a":1.}`, wire.CodeBad, "JSON"},
		{r, `{"model":"m","a":+1}`, wire.CodeBad, "JSON"},
		{r, `{"model":"m","a":1e}`, wire.CodeBad, "JSON"},
		{r, `{"model":"m","a":NaN}`, wire.CodeBad, "JSON"},
		{r, `{"model":"m","a":[1,]}`, wire.CodeBad, "JSON"},
		{r, `{"model":"m","a":nul}`, wire.CodeBad, "JSON"},
		{r, `{"model":"m","a":"\x"}`, wire.CodeBad, "JSON"},
		{r, `{"model":"m","a":"\u12g4"}`, wire.CodeBad, "JSON"},
		{r, "{\"model\":\"m\",\"a\":\"12345678\n\"}", wire.CodeBad, "JSON"},
		{r, "{\"model\":\"m\",\"a\":\"\xff\"}", wire.CodeBad, "UTF-8"},
		{r, `{"model":"m",/* */"a":1}`, wire.CodeBad, "JSON"},
		{r, `{"model":"m","a":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`, wire.CodeBad, "128 levels"},
		{wire.Models, `{"model":"m"}`, wire.CodeBad, "body"},

		{r, `{}`, wire.CodeModel, "missing"},
		{r, `{"model":""}`, wire.CodeModel, "model"},
		{r, `{"model":null}`, wire.CodeModel, "model"},
		{r, `{"model":["m"]}`, wire.CodeModel, "model"},
		{c, `{"model":"gpt-4o-search-preview-2025-03-11"}`, wire.CodeModel, "searches the web"},
		{c, `{"model":"gpt-5-search-api"}`, wire.CodeModel, "searches the web"},

		{r, `{"model":"m","model":"m"}`, wire.CodeField, "twice"},
		{r, `{"model":"m","store":false,"\u0073tore":true}`, wire.CodeField, "twice"},
		{r, with(`"Store":true`), wire.CodeField, `"Store" must be written "store"`},
		{r, with(`"\u017ftore":true`), wire.CodeField, "store"},
		{r, with(`"bac\u212aground":true`), wire.CodeField, "background"},
		{r, with(`"background":true`), wire.CodeField, "background"},
		{r, with(`"background":1`), wire.CodeField, "background"},
		{r, with(`"stream":"yes"`), wire.CodeField, "stream"},
		{r, with(`"previous_response_id":"resp_1"`), wire.CodeField, "previous_response_id"},
		{r, with(`"conversation":{"id":"c"}`), wire.CodeField, "conversation"},
		{r, with(`"prompt":{"id":"p"}`), wire.CodeField, "prompt"},
		{r, with(`"service_tier":1`), wire.CodeField, "service_tier"},
		{c, with(`"n":2`), wire.CodeField, "n must be 1"},
		{c, with(`"n":1.0`), wire.CodeField, "n must be 1"},
		{c, with(`"best_of":3`), wire.CodeField, "best_of"},
		{c, with(`"audio":{"voice":"x"}`), wire.CodeField, "audio"},
		{c, with(`"modalities":["text","audio"]`), wire.CodeField, "modalities"},
		{c, with(`"stream":true,"stream_options":7`), wire.CodeField, "stream_options"},
		{c, with(`"stream_options":{"include_usage":true,"include_usage":false}`), wire.CodeField, "include_usage"},
		{c, with(`"stream_options":{"include_usage":1}`), wire.CodeField, "include_usage"},
		{r, with(`"max_output_tokens":0`), wire.CodeField, "max_output_tokens"},
		{r, with(`"max_output_tokens":-1`), wire.CodeField, "max_output_tokens"},
		{r, with(`"max_output_tokens":1.5`), wire.CodeField, "max_output_tokens"},
		{r, with(`"max_output_tokens":1e3`), wire.CodeField, "max_output_tokens"},
		{r, with(`"max_output_tokens":"9"`), wire.CodeField, "max_output_tokens"},
		{c, with(`"max_tokens":[]`), wire.CodeField, "max_tokens"},

		{r, with(`"tools":{"type":"function"}`), wire.CodeTool, "array"},
		{r, with(`"tools":["web_search"]`), wire.CodeTool, "object"},
		{r, with(`"tools":[{"name":"f"}]`), wire.CodeTool, `""`},
		{r, with(`"tools":[{"type":"code_interpreter"}]`), wire.CodeTool, "code_interpreter"},
		{r, with(`"tools":[{"type":"file_search"}]`), wire.CodeTool, "file_search"},
		{r, with(`"tools":[{"type":"image_generation"}]`), wire.CodeTool, "image_generation"},
		{r, with(`"tools":[{"type":"computer_use_preview"}]`), wire.CodeTool, "computer_use_preview"},
		{r, with(`"tools":[{"type":"mcp","server_url":"https://x"}]`), wire.CodeTool, "mcp"},
		{r, with(`"tools":[{"type":"something_new"}]`), wire.CodeTool, "something_new"},
		{r, with(`"tools":[{"type":"function","type":"mcp"}]`), wire.CodeTool, "twice"},
		{r, with(`"tools":[{"type":"function","Type":"mcp"}]`), wire.CodeTool, "other letters"},
		{r, with(`"tools":[{"type":"shell"}]`), wire.CodeTool, "shell"},
		{r, with(`"tools":[{"type":"shell","environment":{"type":"container_auto"}}]`), wire.CodeTool, "shell"},
		{r, with(`"tools":[{"type":"shell","environment":{"type":"local","type":"container_auto"}}]`), wire.CodeTool, "shell"},
		{r, with(`"tools":[{"type":"tool_search"}]`), wire.CodeTool, "tool_search"},
		{r, with(`"tools":[{"type":"tool_search","execution":"server"}]`), wire.CodeTool, "tool_search"},
		{r, with(`"tools":[{"type":"namespace","tools":[{"type":"web_search"}]}]`), wire.CodeTool, "web_search"},
		{r, with(`"tools":[{"type":"namespace","tools":[{"type":"mcp"}]}]`), wire.CodeTool, "mcp"},
		{r, with(`"input":[{"type":"additional_tools","tools":[{"type":"mcp"}]}]`), wire.CodeTool, "mcp"},
		{r, with(`"input":[{"type":"tool_search_output","tools":[{"type":"code_interpreter"}]}]`), wire.CodeTool, "code_interpreter"},
		{c, with(`"tools":[{"type":"mcp"}]`), wire.CodeTool, "mcp"},
		{c, with(`"web_search_options":{}`), wire.CodeTool, "web_search_options"},
		{r, with(`"tool_choice":{"type":"web_search"}`), wire.CodeTool, "web_search"},
		{r, with(`"tool_choice":{"type":"mcp","server_label":"x"}`), wire.CodeTool, "mcp"},
		{r, with(`"tool_choice":{"type":"allowed_tools","mode":"auto","tools":[{"type":"function"},{"type":"file_search"}]}`), wire.CodeTool, "file_search"},
		{c, with(`"tool_choice":{"type":"allowed_tools","allowed_tools":{"tools":[{"TYPE":"mcp"}]}}`), wire.CodeTool, "mcp"},
		{r, with(`"tool_choice":"web_search"`), wire.CodeTool, "web_search"},
		{r, with(`"tool_choice":1`), wire.CodeTool, "tool_choice"},

		{r, with(`"input":[{"type":"item_reference","id":"msg_1"}]`), wire.CodeField, "stored"},
		{r, with(`"input":[{"id":"msg_1"}]`), wire.CodeField, "stored"},
		{r, with(`"input":[{"type":null,"id":"msg_1"}]`), wire.CodeField, "stored"},
		{r, with(`"input":[{"type":"message","type":"item_reference","id":"msg_1"}]`), wire.CodeField, "twice"},
		{r, with(`"input":[{"role":"user","content":[{"type":"input_image","image_url":"https://x/y.png"}]}]`), wire.CodeField, "image_url"},
		{r, with(`"input":[{"role":"user","content":[{"type":"input_image","image_url":" http://x"}]}]`), wire.CodeField, "image_url"},
		{r, with(`"input":[{"role":"user","content":[{"type":"input_image","image\u005furl":"http:\/\/x"}]}]`), wire.CodeField, "image_url"},
		{r, with(`"input":[{"role":"user","content":[{"type":"input_image","Image_URL":"http://x"}]}]`), wire.CodeField, "image_url"},
		{r, with(`"input":[{"type":"function_call_output","output":[{"type":"input_image","image_url":"https://x"}]}]`), wire.CodeField, "image_url"},
		{r, with(`"input":[{"role":"user","content":[{"type":"input_file","file_url":"https://x"}]}]`), wire.CodeField, "file_url"},
		{r, with(`"input":[{"role":"user","content":[{"type":"input_file","file_id":"file-1"}]}]`), wire.CodeField, "file_id"},
		{wire.Compact, with(`"input":[{"role":"user","content":[{"type":"input_file","file_id":"file-1"}]}]`), wire.CodeField, "file_id"},
		{c, with(`"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"detail":"low","url":"https://x"}}]}]`), wire.CodeField, "image_url"},
		{c, with(`"messages":[{"role":"user","content":[{"type":"file","file":{"file_id":"file-1"}}]}]`), wire.CodeField, "file_id"},
	} {
		req, err := wire.Parse(tt.endpoint, []byte(tt.body), nil)
		no, ok := errors.AsType[*wire.Refusal](err)
		if !ok || req != nil {
			t.Errorf("Parse(%s, %s) = %v, %v, want a refusal", tt.endpoint, tt.body, req, err)
			continue
		}
		if no.Code != tt.code || !strings.Contains(no.Message, tt.word) {
			t.Errorf("Parse(%s, %s) = %s: %s, want %s with %q", tt.endpoint, tt.body, no.Code, no.Message, tt.code, tt.word)
		}
	}
}

func TestWhatAnAgentSendsGoesOut(t *testing.T) {
	t.Parallel()
	const r, c = wire.Responses, wire.ChatCompletions
	for _, tt := range []struct {
		endpoint wire.Endpoint
		body     string
	}{
		{r, `{"model":"m","background":false,"previous_response_id":null,"conversation":null,"prompt":null,"service_tier":null,"tools":null,"tool_choice":null,"stream":null}`},
		{r, `{"model":"m","tools":[{"type":"function","parameters":{"properties":{"image_url":{"type":"string"},"file_id":{"type":"web_search"},"type":{"type":"string"}}}}]}`},
		{r, `{"model":"m","tools":[{"type":"local_shell"},{"type":"apply_patch"},{"type":"custom","format":{"type":"grammar"}},{"type":"shell","environment":{"type":"local"}},{"type":"tool_search","execution":"client"}]}`},
		{r, `{"model":"m","tools":[{"type":"namespace","name":"n","tools":[{"type":"function","name":"f"},{"type":"custom"}]}],"tool_choice":{"type":"function","name":"f"}}`},
		{r, `{"model":"m","tools":[{"type":"function","name":"a"}],"tool_choice":{"type":"allowed_tools","mode":"required","tools":[{"type":"function","name":"a"}]}}`},
		{r, `{"model":"m","input":"file_id image_url https://x \"file_id\":\"file-1\" {\"type\":\"item_reference\"}"}`},
		{r, `{"model":"m","input":[{"role":"user","content":"the \"image_url\":\"https://x\""},{"type":"function_call","arguments":"{\"file_id\":\"f\"}"},{"type":"function_call_output","output":"file_id"}]}`},
		{r, `{"model":"m","input":[{"role":"user","content":[{"type":"input_image","image_url":"data:image/png;base64,AAAA"},{"type":"input_file","file_id":null,"file_data":"data:,x"}]}]}`},
		{r, `{"model":"m","input":[{"type":"tool_search_output","execution":"client","tools":[{"type":"function","parameters":{"properties":{"file_id":{}}}}]}]}`},
		{r, `{"model":"m","text":{"format":{"schema":{"properties":{"file_id":{"type":"string"},"store":{}}}}},"metadata":{"Store":"x","model":"y"}}`},
		{c, `{"model":"m","n":1,"best_of":null,"modalities":["text"],"audio":null,"web_search_options":null,"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"DATA:image/png;base64,AAAA"}}]}]}`},
		{c, `{"model":"m","tools":[{"type":"function","function":{"name":"f","parameters":{}}}],"tool_choice":{"type":"function","function":{"name":"f"}}}`},
	} {
		parse(t, tt.endpoint, tt.body)
	}
}

func TestARequestSaysWhatItAsksFor(t *testing.T) {
	t.Parallel()
	r := parse(t, wire.Responses, `{"model":"gpt\u002d5","service_tier":"flex","stream":true,"max_output_tokens":77}`)
	if r.Model != "gpt-5" || r.Tier != "flex" || !r.Stream || r.MaxOutput != 77 {
		t.Errorf("Parse = %q %q %v %d, want gpt-5 flex true 77", r.Model, r.Tier, r.Stream, r.MaxOutput)
	}
	if r := parse(t, wire.ChatCompletions, `{"model":"m","max_tokens":5,"max_completion_tokens":9}`); r.MaxOutput != 9 {
		t.Errorf("MaxOutput of two limits = %d, want the larger, 9", r.MaxOutput)
	}
	if got, want := string(r.Body(50)), `{"model":"gpt\u002d5","service_tier":"flex","stream":true,"max_output_tokens":50,"store":false}`; got != want {
		t.Errorf("Body(50) = %s, want %s", got, want)
	}
	if got, want := string(r.Body(0)), `{"model":"gpt\u002d5","service_tier":"flex","stream":true,"max_output_tokens":77,"store":false}`; got != want {
		t.Errorf("Body(0) after Body(50) = %s, want %s", got, want)
	}
}

func TestOnlyAllowedModelsGoOut(t *testing.T) {
	t.Parallel()
	_, err := wire.Parse(wire.Responses, []byte(`{"model":"gpt-5.4"}`), func(m string) bool { return m == "gpt-5.4" })
	if err != nil {
		t.Errorf("an allowed model: %v", err)
	}
	long := strings.Repeat("x\u202e\x00", 1000)
	body, _ := json.Marshal(map[string]string{"model": long})
	_, err = wire.Parse(wire.Responses, body, func(string) bool { return false })
	no, ok := errors.AsType[*wire.Refusal](err)
	if !ok || no.Code != wire.CodeModel || len(no.Message) > 400 || strings.ContainsAny(no.Message, "\u202e\x00") {
		t.Errorf("a model with odd signs = %v, want a short printable refusal", err)
	}
}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRequestsOfTheRealAgentKeepTheirBytes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"codex-0.149.json", "codex-0.169.json"} {
		body := fixture(t, name)
		r, err := wire.Parse(wire.Responses, body, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := strings.Replace(string(body), `,{"type":"web_search","external_web_access":true}`, "", 1)
		if got := string(r.Body(0)); got != want {
			t.Errorf("%s changed in more than its web search", name)
		}
		want = strings.TrimSuffix(want, "}") + `,"max_output_tokens":32768}`
		if got := string(r.Body(32768)); got != want {
			t.Errorf("%s changed in more than its web search and limit", name)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	for _, name := range []string{"codex-0.149.json", "codex-0.169.json"} {
		body := fixture(b, name)
		b.Run(strings.TrimSuffix(name, ".json"), func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				r, err := wire.Parse(wire.Responses, body, nil)
				if err != nil {
					b.Fatal(err)
				}
				r.Body(32768)
			}
		})
	}
	b.Run("encoding-json", func(b *testing.B) {
		body := fixture(b, "codex-0.169.json")
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			var all map[string]json.RawMessage
			if json.Unmarshal(body, &all) != nil {
				b.Fatal("not JSON")
			}
		}
	})
}

func ExampleParse() {
	body := []byte(`{"model":"gpt-5.4","input":"hi","tools":[{"type":"web_search"},{"type":"function","name":"f"}]}`)
	r, err := wire.Parse(wire.Responses, body, func(model string) bool { return model == "gpt-5.4" })
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", r.Body(4096))
	_, err = wire.Parse(wire.Responses, bytes.Replace(body, []byte("web_search"), []byte("mcp"), 1), nil)
	fmt.Println(err)
	// Output:
	// {"model":"gpt-5.4","input":"hi","tools":[{"type":"function","name":"f"}],"store":false,"max_output_tokens":4096}
	// the tool "mcp" would be run by the provider, which scans must not use
}

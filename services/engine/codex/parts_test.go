package codex

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"vega/config/secret"
)

func TestEventsOfEveryKindAreRead(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 2<<20)
	in := strings.Join([]string{
		`{"type":"thread.started","thread_id":"t"}`,
		`{"type":"item.completed","item":{"id":"1","type":"command_execution","command":"ls","aggregated_output":"` + long + `","exit_code":3}}`,
		``,
		`WARNING: not an event`,
		`{"type":"something.new","item":"of another shape"}`,
		`{"type":"item.completed","item":{"id":"2","type":"agent_message","text":"first"}}`,
		`{"type":"error","message":"Reconnecting... 1/2"}`,
		`{"type":"item.completed","item":{"id":"3","type":"agent_message","text":"{\"ok\":true}"}}`,
		`{"type":"turn.completed","usage":{"input_tokens":1}}`,
	}, "\r\n")
	var types []string
	var o outcome
	err := readEvents(strings.NewReader(in), 4<<20, asIs, func(e Event) error {
		types = append(types, e.Type)
		if e.Item.Type == "command_execution" && (len(e.Item.Output) != len(long) || *e.Item.ExitCode != 3) {
			t.Errorf("%d bytes of output, exit %v", len(e.Item.Output), e.Item.ExitCode)
		}
		if e.Type == "something.new" && !bytes.Contains(e.Raw, []byte("of another shape")) {
			t.Errorf("raw %q", e.Raw)
		}
		o.take(e)
		return nil
	})
	if want := "[thread.started item.completed  something.new item.completed error item.completed turn.completed]"; err != nil || fmt.Sprint(types) != want {
		t.Errorf("read %v, %v; want %s", types, err, want)
	}
	if o.answer != `{"ok":true}` || !o.ended || o.failed != "" || o.notices == "" {
		t.Errorf("outcome %+v", o)
	}
}

func TestAFloodIsAnErrorAndALongLineIsCut(t *testing.T) {
	t.Parallel()
	if err := readEvents(io.LimitReader(zeros{}, 1<<20), 1<<16, asIs, func(Event) error { return nil }); !errors.Is(err, errOutput) {
		t.Errorf("readEvents = %v, want errOutput", err)
	}
	n := 0
	err := readEvents(io.MultiReader(io.LimitReader(zeros{}, maxLine+100), strings.NewReader("\n{\"type\":\"after\"}")), 2*maxLine, asIs, func(e Event) error {
		n++
		if n == 1 && (e.Type != "" || len(e.Raw) != maxLine || !e.Cut) || n == 2 && (e.Type != "after" || e.Cut) {
			t.Errorf("event %d is %q with %d bytes", n, e.Type, len(e.Raw))
		}
		return nil
	})
	if err != nil || n != 2 {
		t.Errorf("%d events, %v; want 2", n, err)
	}
	stop := errors.New("enough")
	if err := readEvents(strings.NewReader("{}\n{}\n"), 100, asIs, func(Event) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("readEvents = %v, want the callback's error", err)
	}
}

func asIs(line []byte) []byte { return line }

// zeros is a line that never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

// The line that is too long may be the answer, and what the model said before it is none.
func TestAnAnswerThatIsTooLongIsNamed(t *testing.T) {
	t.Parallel()
	message := func(text string) string {
		return `{"type":"item.completed","item":{"type":"agent_message","text":"` + text + `"}}` + "\n"
	}
	const end = `{"type":"turn.completed"}` + "\n"
	long := message(strings.Repeat("much ", maxLine/5))
	for name, c := range map[string]struct{ in, answer, missing string }{
		"nothing":                {end, "", "codex ended without an answer"},
		"an answer":              {message("this") + end, "this", ""},
		"one that is too long":   {message("first") + long + end, "", "a line of its report was longer than 8388608 bytes"},
		"a long line, an answer": {long + message("this") + end, "this", ""},
	} {
		var o outcome
		if err := readEvents(strings.NewReader(c.in), 2*maxLine, asIs, func(e Event) error { o.take(e); return nil }); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !o.ended || o.answer != c.answer || c.answer == "" && !strings.Contains(o.missing(), c.missing) {
			t.Errorf("%s: ended %t, answer %q, %q; want %q, %q", name, o.ended, o.answer, o.missing(), c.answer, c.missing)
		}
	}
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte(`{"type":"item.completed","item":{"type":"agent_message","text":"x"}}` + "\n"))
	f.Add([]byte("{\"type\":1}\n\n{\"item\":[]}\r\n\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var o outcome
		lines := 0
		err := readEvents(bytes.NewReader(in), 1<<20, asIs, func(e Event) error {
			lines++
			o.take(e)
			if len(e.Raw) == 0 {
				t.Error("an event without a line")
			}
			return nil
		})
		if err != nil && !errors.Is(err, errOutput) {
			t.Errorf("readEvents = %v", err)
		}
		if most := bytes.Count(in, []byte("\n")) + 1; lines > most {
			t.Errorf("%d events of %d lines", lines, most)
		}
	})
}

// upstream is a proxy that answers as a handler says.
func upstream(t *testing.T, h http.HandlerFunc) Upstream {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return Upstream{BaseURL: s.URL + "/v1", Token: secret.New("the token")}
}

func relayTo(t *testing.T, up Upstream, pace func(context.Context, Call) (Verdict, string)) *relay {
	t.Helper()
	r, err := startRelay(t.Context(), t.TempDir(), Task{Upstream: up, Pace: pace})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

// post asks the relay as Codex does.
func post(t *testing.T, r *relay, key, body string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/v1/responses", r.port), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("X-Other", "stays here")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

const completed = "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":100,\"input_tokens_details\":{\"cached_tokens\":40},\"output_tokens\":7,\"output_tokens_details\":{\"reasoning_tokens\":2}}}}\n\n"

func TestTheRelayAddsTheTokenAndCountsWhatIsSpent(t *testing.T) {
	t.Parallel()
	var got http.Header
	r := relayTo(t, upstream(t, func(w http.ResponseWriter, q *http.Request) {
		got = q.Header.Clone()
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: {\"type\":\"response.created\"}\n\n"+completed)
	}), nil)
	if status, text := post(t, r, r.key, `{"input":[]}`); status != 200 || !strings.HasSuffix(text, completed) {
		t.Errorf("answer %d %q", status, text)
	}
	if got.Get("Authorization") != "Bearer the token" || got.Get("X-Other") != "" {
		t.Errorf("the proxy got %v", got)
	}
	if u, no, _ := r.spent(); u != (Usage{1, 100, 40, 7, 2}) || no != nil {
		t.Errorf("spent %+v, refused %v", u, no)
	}
}

func TestTheRelayServesItsRunAlone(t *testing.T) {
	t.Parallel()
	r := relayTo(t, upstream(t, func(http.ResponseWriter, *http.Request) { t.Error("the proxy was asked") }), nil)
	for _, key := range []string{"", "wrong", r.key + "x"} {
		if status, _ := post(t, r, key, "{}"); status != http.StatusUnauthorized {
			t.Errorf("key %q: %d, want 401", key, status)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/v1/models", r.port), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("another path: %d, want 404", resp.StatusCode)
	}
}

func TestARunThatIsToldToFinishGetsOneLastRequest(t *testing.T) {
	t.Parallel()
	var bodies []string
	r := relayTo(t, upstream(t, func(w http.ResponseWriter, q *http.Request) {
		b, _ := io.ReadAll(q.Body)
		bodies = append(bodies, string(b))
		_, _ = io.WriteString(w, completed)
	}), func(_ context.Context, c Call) (Verdict, string) {
		if c.N == 2 {
			return Finish, "the money is gone"
		}
		return Go, ""
	})
	body := `{"model":"m","input":[{"type":"message","role":"user","content":"hello"}],"tools":[{"type":"function","name":"exec_command"}],"tool_choice":"auto"}`
	for i, want := range []int{200, 200, 400, 400} {
		if status, text := post(t, r, r.key, body); status != want || want == 400 && !strings.Contains(text, "the money is gone") {
			t.Errorf("request %d: %d %s, want %d", i+1, status, text, want)
		}
	}
	if len(bodies) != 2 || bodies[0] != body {
		t.Fatalf("the proxy got %q", bodies)
	}
	var last struct {
		ToolChoice string `json:"tool_choice"`
		Tools      []any
		Input      []struct{ Role string }
	}
	if err := json.Unmarshal([]byte(bodies[1]), &last); err != nil || last.ToolChoice != "none" || len(last.Tools) != 1 || len(last.Input) != 2 || last.Input[1].Role != "developer" || !strings.Contains(bodies[1], "the money is gone") {
		t.Errorf("the last request is %s (%v)", bodies[1], err)
	}
	if _, no, finished := r.spent(); finished != "the money is gone" || no == nil || no.Code != finishedCode {
		t.Errorf("finished %q, refused %v", finished, no)
	}
}

func TestTheRelayWaitsForAProxyThatAsksForPatience(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	r := relayTo(t, upstream(t, func(w http.ResponseWriter, _ *http.Request) {
		switch asked.Add(1) {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"error":{"code":"vega_unavailable","message":"the log does not answer"}}`)
		case 2:
			_, _ = io.WriteString(w, completed)
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"error":{"code":"vega_provider_unavailable","message":"the provider fails"}}`)
		}
	}), nil)
	told := make(chan string, 10)
	r.waits = func(why string) { told <- why }
	if status, _ := post(t, r, r.key, "{}"); status != 200 || asked.Load() != 2 {
		t.Errorf("%d after %d requests, want 200 after 2", status, asked.Load())
	}
	if why := <-told; why != "the log does not answer" || len(told) > 0 {
		t.Errorf("whoever watches is told %q and %d things more", why, len(told))
	}
	if status, _ := post(t, r, r.key, "{}"); status != http.StatusServiceUnavailable || asked.Load() != 3 {
		t.Errorf("the provider's trouble: %d after %d requests, want 503 at once", status, asked.Load())
	}
	if _, no, _ := r.spent(); no == nil || no.Code != "vega_provider_unavailable" || no.Message != "the provider fails" {
		t.Errorf("refused %+v", no)
	}
}

func TestAnAnswerThatBreaksOffBreaksOffForCodexToo(t *testing.T) {
	t.Parallel()
	r := relayTo(t, upstream(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "data: {}\n\n")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}), nil)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/v1/responses", r.port), strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the broken answer looks like a whole one")
	}
}

// A container holds the lifeline over the socket, by a path of any length, and sees its end when the relay closes.
func TestTheLifelineEndsWithTheRelay(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("a-long-name-", 15))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r, err := startRelay(t.Context(), dir, Task{Upstream: Upstream{BaseURL: "http://127.0.0.1:1/v1"}})
	if err != nil {
		t.Fatal(err)
	}
	folder, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	c, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), socketName))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: vega\r\nAuthorization: Bearer %s\r\n\r\n", lifelinePath, r.key)
	first := make([]byte, 12)
	if _, err := io.ReadFull(c, first); err != nil || string(first) != "HTTP/1.1 200" {
		t.Fatalf("lifeline %q, %v", first, err)
	}
	r.close()
	if _, err := io.ReadAll(c); err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
		t.Errorf("lifeline ended with %v", err)
	}
}

func FuzzLastRequest(f *testing.F) {
	f.Add([]byte(`{"input":[],"tool_choice":"auto"}`), "why")
	f.Add([]byte(`{"input":{}}`), "")
	f.Fuzz(func(t *testing.T, body []byte, why string) {
		out, err := lastRequest(body, why)
		if err == nil && !json.Valid(out) {
			t.Errorf("lastRequest(%q) = %q", body, out)
		}
	})
}

func TestVersionsAreCompared(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want bool
	}{{"0.149.1", "0.149.1", false}, {"0.149.0", "0.149.1", true}, {"0.99.9", "0.149.1", true}, {"1.0.0", "0.149.1", false}, {"0.169.0", "0.149.1", false}} {
		if got := older(c.a, c.b); got != c.want {
			t.Errorf("older(%s, %s) = %v", c.a, c.b, got)
		}
	}
}

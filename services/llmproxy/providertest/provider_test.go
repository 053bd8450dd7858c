package providertest_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	pt "vega/services/llmproxy/providertest"
)

func post(t *testing.T, ctx context.Context, p *pt.Provider, path, body string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, "POST", p.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+p.Key)
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func all(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTextSpeaksTheAPIThatWasAsked(t *testing.T) {
	t.Parallel()
	p := pt.Start(t, pt.Always(pt.Text("one <two> three", pt.Usage{Input: 11, Cached: 7, Output: 5, Reasoning: 3, Tier: "flex"})))
	for _, c := range []struct{ path, body, kind, want string }{
		{"/responses", `{"model":"m"}`, "application/json", `"total_tokens":16`},
		{"/responses", `{"model":"m","stream":true}`, "text/event-stream", `"input_tokens_details":{"cached_tokens":7}`},
		{"/chat/completions", `{"model":"m"}`, "application/json", `"completion_tokens":5`},
		{"/chat/completions", `{"model":"m","stream":true}`, "text/event-stream", "\n\ndata: [DONE]\n\n"},
	} {
		res := post(t, t.Context(), p, c.path, c.body)
		if got := all(t, res); res.Header.Get("Content-Type") != c.kind || !strings.Contains(got, c.want) || !strings.Contains(got, "<two>") {
			t.Errorf("%s %s is answered with %s: %s, want %s in it", c.path, c.body, res.Header.Get("Content-Type"), got, c.want)
		}
	}
	if found := p.Find(`"stream":true`); len(found) != 2 || found[0] != 2 || found[1] != 4 {
		t.Errorf("found in requests %v, want 2 and 4", found)
	}
	if r := p.Wait(4); r.N != 4 || r.Path != "/api/v1/chat/completions" || len(p.Find("nowhere")) != 0 {
		t.Errorf("request 4 is %+v", r)
	}
}

func TestAPausedStreamGoesOnWhenItIsTold(t *testing.T) {
	t.Parallel()
	told := make(chan struct{})
	p := pt.Start(t, pt.Always(pt.Stream(pt.Raw("data: 1\n\n"), pt.Pause(told), pt.Raw("data: 2\n\n"), pt.Cut())))
	res := post(t, t.Context(), p, "/responses", "{}")
	lines := bufio.NewReader(res.Body)
	if line, err := lines.ReadString('\n'); line != "data: 1\n" || err != nil {
		t.Fatalf("read %q, %v", line, err)
	}
	close(told)
	rest, err := io.ReadAll(lines)
	if string(rest) != "\ndata: 2\n\n" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read %q, %v, want the second event and a connection that broke off", rest, err)
	}
}

func TestAnAnswerEndsWhenNobodyReadsIt(t *testing.T) {
	t.Parallel()
	p := pt.Start(t, pt.InTurn(pt.Stream(pt.Created(), pt.Pause(nil)), pt.Silence(nil, nil)))
	ctx, leave := context.WithCancel(t.Context())
	post(t, ctx, p, "/responses", "{}")
	leave()
	<-p.Wait(1).Ended()
}

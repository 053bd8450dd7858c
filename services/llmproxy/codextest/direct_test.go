package codextest_test

import (
	"fmt"
	"strings"
	"testing"

	"vega/services/llmproxy/codextest"
	pt "vega/services/llmproxy/providertest"
)

const sentence = "a sentence that only this test says"

// cost is how the agent takes an answer that never changes: with how many requests, and what it says in the end.
type cost struct {
	name     string
	answer   pt.Answer
	old, new int    // requests of the oldest and of the newest release
	says     string // the failure contains it, in each release; empty: it is the release's own
}

// Without a proxy between them. A release that takes an answer otherwise is noticed here, and the proxy's answers have to be chosen again.
func quickCosts() []cost {
	u := pt.Usage{Input: 10, Output: 5}
	return []cost{
		{"404", pt.Error(404, "c", sentence), 6, 6, sentence},
		{"cut", pt.Stream(pt.Created(), pt.Delta("x"), pt.Cut()), 6, 6, "stream disconnected"},
		{"failed rate_limit_exceeded", pt.Failed("rate_limit_exceeded", sentence), 6, 6, sentence},
		{"incomplete", pt.Stream(pt.Created(), pt.Message("some words"), pt.Incomplete("max_output_tokens", u)), 6, 1, "max_output_tokens"},
		{"400", pt.Error(400, "c", sentence), 1, 1, sentence},
		{"429 insufficient_quota", pt.Error(429, "insufficient_quota", sentence), 1, 1, ""},
		{"429 usage_limit_reached", pt.Status(429, `{"error":{"type":"usage_limit_reached","message":"m"}}`), 1, 1, ""},
		{"429 of another kind", pt.Error(429, "rate_limit_exceeded", sentence, "Retry-After", "0"), 1, 6, ""},
		{"failed invalid_prompt", pt.Failed("invalid_prompt", sentence), 1, 1, sentence},
		{"failed invalid_prompt after a message", pt.Stream(pt.Created(), pt.Message("some words"), pt.FailedWith("invalid_prompt", sentence, u)), 1, 1, sentence},
		{"failed insufficient_quota", pt.Failed("insufficient_quota", sentence), 1, 1, ""},
		{"failed context_length_exceeded", pt.Failed("context_length_exceeded", sentence), 1, 1, ""},
	}
}

func TestWhatAnAnswerCosts(t *testing.T) {
	t.Parallel()
	direct(t, quickCosts())
}

// direct runs each row in each release, four at a time, in the rows' order: those that wait long stand first.
func direct(t *testing.T, rows []cost) {
	t.Helper()
	releases := []string{codextest.Releases[0], codextest.Releases[len(codextest.Releases)-1]}
	type run struct {
		provider *pt.Provider
		process  *codextest.Process
	}
	runs := make([]run, 0, len(releases)*len(rows))
	for _, row := range rows {
		for _, release := range releases {
			p := pt.Start(t, pt.Always(row.answer))
			runs = append(runs, run{p, codextest.Start(t, codextest.Options{Release: release, BaseURL: p.URL, Token: p.Key})})
		}
	}
	for i, r := range runs {
		row, release := rows[i/len(releases)], releases[i%len(releases)]
		t.Run(fmt.Sprintf("%s/%s", row.name, release), func(t *testing.T) {
			result := r.process.Wait()
			want := row.old
			if i%len(releases) == 1 {
				want = row.new
			}
			if got := len(r.provider.Requests()); got != want {
				t.Errorf("the agent sent %d requests, want %d", got, want)
			}
			if result.ExitCode != 1 || result.Failure() == "" || !strings.Contains(result.Failure(), row.says) {
				t.Errorf("the agent ended with %d and %q, want 1 and %q", result.ExitCode, result.Failure(), row.says)
			}
			for _, q := range r.provider.Requests() {
				if q.Method != "POST" || q.Path != "/api/v1/responses" {
					t.Errorf("the agent called %s %s", q.Method, q.Path)
				}
			}
		})
	}
}

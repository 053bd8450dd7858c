//go:build long

package codextest_test

import (
	"testing"

	pt "vega/services/llmproxy/providertest"
)

// What the agent repeats for half a minute.
func TestWhatAnAnswerCostsThatIsRepeatedForLong(t *testing.T) {
	t.Parallel()
	direct(t, []cost{
		{"500", pt.Error(500, "c", sentence), 30, 30, "high demand"}, // our own sentence is lost
		{"502", pt.Error(502, "c", sentence), 30, 30, sentence},
		{"503", pt.Error(503, "c", sentence), 30, 30, sentence},
		{"503 with Retry-After", pt.Error(503, "c", sentence, "Retry-After", "1"), 30, 30, sentence},
		{"no answer at all", pt.HangUp(), 30, 30, "error sending request"},
		{"401", pt.Error(401, "c", sentence), 6, 6, sentence},
		{"402", pt.Error(402, "c", sentence), 6, 6, sentence},
		{"403", pt.Error(403, "c", sentence), 6, 6, sentence},
		{"413", pt.Error(413, "c", sentence), 6, 6, sentence},
		{"422", pt.Error(422, "c", sentence), 6, 6, sentence},
		{"failed server_error", pt.Failed("server_error", sentence), 6, 6, sentence},
		{"no end", pt.Stream(pt.Created(), pt.Delta("x")), 6, 6, "response.completed"},
	})
}

// What the provider does not stop to do passes to the agent when the proxy has tried often enough.
func TestWhatEndsARunThroughTheProxyAfterLong(t *testing.T) {
	t.Parallel()
	through(t, []way{
		{name: "the provider fails for good", answer: pt.Always(pt.Error(500, "c", "m")), calls: [2]int{30, 30}, requests: [2]int{120, 120}, says: "the provider fails with HTTP 500"},
		{name: "the provider is busy for good", answer: pt.Always(pt.Error(429, "rate_limit_exceeded", "m")), calls: [2]int{30, 30}, requests: [2]int{120, 120}, says: "how often it is called"},
		{name: "the provider hangs up for good", answer: pt.Always(pt.HangUp()), calls: [2]int{30, 30}, requests: [2]int{60, 60}, says: "did not answer as a provider does"},
	})
}

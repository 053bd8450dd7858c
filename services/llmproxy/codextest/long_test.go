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

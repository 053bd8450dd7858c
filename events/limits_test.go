package events

import (
	"strings"
	"testing"
)

// A control subject inside a stream would be stored, and answered by it.
func TestLimitsSubjectLiesOutsideEveryStream(t *testing.T) {
	t.Parallel()
	got := LimitsSubject("local")
	if want := "vegactl.local.limits"; got != want {
		t.Errorf("LimitsSubject = %s, want %s", got, want)
	}
	for _, s := range append(StreamSubjects("local"), FeedSubjects("local")) {
		if strings.HasPrefix(got, strings.TrimRight(s, ">*")) {
			t.Errorf("%s lies in the stream's %s", got, s)
		}
	}
}

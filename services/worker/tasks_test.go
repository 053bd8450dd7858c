package worker

import (
	"testing"
	"time"

	"vega/services/scan"
)

func TestATaskThatECSDoesNotKnow(t *testing.T) {
	t.Parallel()
	const generation = 7
	for name, c := range map[string]struct {
		known  bool
		joined scan.Scan
		vanish time.Duration
		gone   bool // after the second answer; never after the first
	}{
		"it has just been started":                       {vanish: time.Hour},
		"it was started long ago":                        {gone: true},
		"ECS knew it":                                    {known: true, vanish: time.Hour, gone: true},
		"its runner has joined":                          {joined: scan.Scan{Generation: generation, Joined: "j"}, vanish: time.Hour, gone: true},
		"the runner of a later attempt of it has joined": {joined: scan.Scan{Generation: generation + 1, Joined: "j"}, vanish: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := &task{generation: generation, state: c.joined, known: c.known, since: time.Now().Add(-time.Minute), changed: make(chan struct{}, 1)}
			for i, want := range []bool{false, c.gone} {
				x.notKnown(c.vanish)
				if gone, why, _ := x.over(); gone != want || gone != (why != "") {
					t.Errorf("after answer %d gone is %v (%q), want %v", i+1, gone, why, want)
				}
			}
			x.described(taskState{status: "RUNNING"})
			if !x.known || !x.missing.IsZero() {
				t.Errorf("known again, but %v since %v", x.known, x.missing)
			}
		})
	}
}

package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"vega/events"
	"vega/services/engine"
	"vega/services/llmproxy"
	"vega/services/llmproxy/enginetest"
	pt "vega/services/llmproxy/providertest"
)

// programs is a tree of n programs, each with the same fault.
func programs(t testing.TB, n int) string {
	t.Helper()
	files := map[string]string{}
	for i := range n {
		files[fmt.Sprintf("svc%d/main.py", i+1)] = fmt.Sprintf("import os, sys\n\n\ndef run%d(name):\n    os.system(\"echo \" + name)\n\n\nrun%d(sys.argv[1])\n", i+1, i+1)
	}
	return tree(t, files)
}

// partsOf answers every question about that tree: one finding in each part, after looks at it.
func partsOf(n, looks int) func(enginetest.Question) pt.Answer {
	var parts []string
	for i := range n {
		parts = append(parts, fmt.Sprintf("svc%d", i+1))
	}
	return func(q enginetest.Question) pt.Answer {
		switch q.Stage {
		case "threat_model":
			return q.Answer(profileAnswer)
		case "plan":
			return q.Answer(planOf(parts...))
		case "audit":
			part := strings.TrimPrefix(q.Component, "Part ")
			if q.Results < looks && !q.Last {
				return q.Shell(fmt.Sprintf("cat %s/main.py # %d", part, q.Results))
			}
			return q.Answer(auditOf(part+"/main.py", found("injection.command", "high", part+"/main.py", 5, 5, `    os.system("echo " + name)`, "run"+strings.TrimPrefix(part, "svc"))))
		default:
			if q.Results == 0 && !q.Last {
				return q.Shell("cat */main.py")
			}
			return q.Answer(verdictOf("stands", "high", "svc1/main.py:5"))
		}
	}
}

// A budget that ends in the third of eight components leaves what was found so far, names what was not audited, and is not exceeded by one request.
func TestABudgetThatEndsInTheThirdOfEightComponents(t *testing.T) {
	t.Parallel()
	model := enginetest.Start(t, partsOf(8, 4))
	// One request for the threat model, one for the plan, three that are kept for the reviews, five for each of two components, and four for the third, which would take five.
	const limit = 2 + 3 + 5 + 5 + 4
	l := enginetest.Begin(t, model, func(c *llmproxy.Config) { c.MaxRequestsPerScan = limit })
	rec := newRecorder()
	e := aided(t, func(c *engine.Config) { c.Parallel = 1 })
	out, err := e.Run(t.Context(), aidedJob(t, l, programs(t, 8)), rec)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(model.Asked()); n > limit || n < limit-1 {
		t.Errorf("the provider was asked %d times, want all that the limit of %d allows", n, limit)
	}
	var files []string
	for _, f := range rec.findings {
		files = append(files, f.File)
	}
	slices.Sort(files)
	if len(files) < 2 || !slices.Equal(files[:2], []string{"svc1/main.py", "svc2/main.py"}) {
		t.Errorf("findings in %v, want at least those of the first two components", files)
	}
	if out.Coverage.State != events.CoveragePartial {
		t.Errorf("coverage %s, want partial", out.Coverage.State)
	}
	named := func(part string) bool {
		return slices.ContainsFunc(out.Coverage.Reasons, func(r events.CoverageReason) bool {
			return r.Stage == "audit" && r.Code == "cap_reached" && strings.Contains(r.Message, "("+part+")")
		})
	}
	for i := range 8 {
		part := fmt.Sprintf("svc%d", i+1)
		if want := i >= 2; named(part) != want {
			t.Errorf("the coverage names %s: %v, want %v; reasons %+v", part, named(part), want, out.Coverage.Reasons)
		}
	}
	if u := l.Spent(); u.Settled.Requests > limit || len(u.Open) != 0 {
		t.Errorf("the log has %+v with %d open", u.Settled, len(u.Open))
	}
}

// Time that ends leaves what was found so far as well: a component's own time costs that component, and the attempt's leaves enough for what comes after the model.
func TestTimeThatEndsLeavesWhatWasFound(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		run      time.Duration // of one run of the agent
		attempt  time.Duration // of the whole; 0: no end
		audited  []string
		timedOut []string
	}{
		{"of one run", 10 * time.Second, 0, []string{"svc1", "svc3"}, []string{"svc2"}},
		{"of the attempt", time.Hour, time.Minute, []string{"svc1"}, []string{"svc2", "svc3"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			usual := partsOf(3, 1)
			model := enginetest.Start(t, func(q enginetest.Question) pt.Answer {
				if q.Component == "Part svc2" && q.Results > 0 {
					return pt.Silence(nil, nil) // it thinks for ever
				}
				return usual(q)
			})
			l := enginetest.Begin(t, model, nil)
			ctx := t.Context()
			if c.attempt > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, c.attempt)
				defer cancel()
			}
			rec := newRecorder()
			job := aidedJob(t, l, programs(t, 3))
			job.Profile = new(profileAnswer.ThreatProfile)
			e := aided(t, func(cfg *engine.Config) { cfg.Parallel, cfg.RunTimeout = 1, c.run })
			out, err := e.Run(ctx, job, rec)
			if err != nil {
				t.Fatal(err)
			}
			var audited, timedOut []string
			for _, f := range rec.findings {
				audited = append(audited, strings.TrimSuffix(f.File, "/main.py"))
			}
			for _, r := range out.Coverage.Reasons {
				if r.Stage == "audit" && r.Code == "timed_out" {
					_, rest, _ := strings.Cut(r.Message, "(")
					part, _, _ := strings.Cut(rest, ")")
					timedOut = append(timedOut, part)
				}
			}
			slices.Sort(audited)
			slices.Sort(timedOut)
			if !slices.Equal(audited, c.audited) || !slices.Equal(timedOut, c.timedOut) || out.Coverage.State != events.CoveragePartial {
				t.Errorf("findings in %v, out of time %v, coverage %+v; want %v and %v", audited, timedOut, out.Coverage, c.audited, c.timedOut)
			}
		})
	}
}

// Nothing that an attempt recorded is asked again by the next one, component by component and claim by claim, and the findings are those of an attempt that nothing ended.
func TestTheNextAttemptAsksNothingTwice(t *testing.T) {
	t.Parallel()
	dir := programs(t, 2)
	whole := enginetest.Begin(t, enginetest.Start(t, partsOf(2, 1)), nil)
	want := newRecorder()
	if _, err := aided(t, nil).Run(t.Context(), aidedJob(t, whole, dir), want); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		{"before", "stage plan"}, {"after", "unit audit c1"}, {"before", "unit audit c2"}, {"after", "unit refute"}, {"before", "stage refute"},
	} {
		when, at := c[0], c[1]
		t.Run(when+" "+at, func(t *testing.T) {
			t.Parallel()
			model := enginetest.Start(t, partsOf(2, 1))
			l := enginetest.Begin(t, model, nil)
			rec := newRecorder()
			lost := false
			fail := func(what string) error {
				if !lost && strings.HasPrefix(what, at) {
					lost = true
					return errLost
				}
				return nil
			}
			if when == "before" {
				rec.before = fail
			} else {
				rec.after = fail
			}
			job := aidedJob(t, l, dir)
			e := aided(t, nil)
			if _, err := e.Run(t.Context(), job, rec); !errors.Is(err, errLost) {
				t.Fatalf("Run = %v, want errLost", err)
			}
			first := model.Asked()
			l.Attempt()
			again := next(t, job, rec)
			again.Access.BaseURL, again.Access.Token = l.Access()
			again.WorkDir = aidedJob(t, l, dir).WorkDir
			if _, err := e.Run(t.Context(), again, rec); err != nil {
				t.Fatal(err)
			}
			recorded := map[string]bool{} // what the first attempt had recorded
			for _, s := range again.Done {
				recorded[s.Stage] = true
			}
			for _, u := range again.Units {
				recorded[u.Stage+" "+u.Unit] = true
			}
			for _, q := range model.Asked()[len(first):] {
				unit := "audit c" + strings.TrimPrefix(q.Component, "Part svc")
				if recorded[q.Stage] || q.Stage == "audit" && recorded[unit] {
					t.Errorf("%s %s was asked again", q.Stage, q.Component)
				}
			}
			if got := fingerprints(rec.findings); !slices.Equal(got, fingerprints(want.findings)) {
				t.Errorf("findings %v, want %v", got, fingerprints(want.findings))
			}
		})
	}
}

func fingerprints(fs []events.Finding) []string {
	var out []string
	for _, f := range fs {
		out = append(out, string(f.Fingerprint)+" "+string(f.Validation))
	}
	slices.Sort(out)
	return out
}

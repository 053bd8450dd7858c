package pack_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"vega/services/engine/pack"
	"vega/v16"
)

// good is the pack's own example of an answer.
func good(tb testing.TB, n pack.Name) string {
	tb.Helper()
	b, err := fs.ReadFile(v16.Files(), "prompts/"+string(n)+".good.json")
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func TestGoodAnswersAreAcceptedAndHaveWhatTheirTypesSay(t *testing.T) {
	t.Parallel()
	p := builtIn(t)
	var (
		model  pack.ThreatModelAnswer
		plan   pack.PlanAnswer
		audit  pack.AuditAnswer
		refute pack.RefuteAnswer
	)
	for name, v := range map[pack.Name]any{pack.ThreatModel: &model, pack.Plan: &plan, pack.Audit: &audit, pack.Refute: &refute} {
		if err := p.Check(name, []byte(good(t, name))); err != nil {
			t.Errorf("Check(%s) = %v", name, err)
		}
		dec := json.NewDecoder(strings.NewReader(good(t, name)))
		dec.DisallowUnknownFields()
		if err := dec.Decode(v); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if model.Summary == "" || len(model.OutOfScope) == 0 || len(model.TrustBoundaries) == 0 {
		t.Errorf("threat model = %+v", model)
	}
	if len(plan.Components) != 3 || plan.Components[1].ID != "imports" || len(plan.LeftOut) != 3 || plan.LeftOut[0].Path == "" {
		t.Errorf("plan = %+v", plan)
	}
	if f := audit.Findings[0]; f.Rule != "access.object" || f.StartLine != 31 || f.EndLine != 34 || !strings.HasPrefix(f.Quote, "\texport, err") || f.SeverityReason == "" || f.AttackPath == "" {
		t.Errorf("finding = %+v", f)
	}
	if refute.Verdict != pack.Stands || len(refute.Checked) != 6 || refute.SeverityReason == "" {
		t.Errorf("refutation = %+v", refute)
	}
}

// emptyAudit is an audit without findings.
func emptyAudit(examined, summary string) string {
	return `{"findings":[],"examined":` + examined + `,"not_examined":[],"summary":"` + summary + `"}`
}

func TestAnAuditWithoutFindingsIsGood(t *testing.T) {
	t.Parallel()
	if err := builtIn(t).Check(pack.Audit, []byte(emptyAudit(`["a.go"]`, strings.Repeat("Asked and answered. ", 10)))); err != nil {
		t.Error(err)
	}
}

func TestABadAnswerIsRefusedWithItsProblems(t *testing.T) {
	t.Parallel()
	p := builtIn(t)
	for _, c := range []struct {
		name   string
		prompt pack.Name
		old    string // empty: the whole answer is new
		new    string
		want   string // one of the problems contains it
	}{
		{"empty", pack.Plan, "", "  \n", "the answer is empty"},
		{"prose", pack.Plan, "", "I could not find anything.", "line 1: the answer is no JSON"},
		{"fenced", pack.Plan, "", "```json\n" + good(t, pack.Plan) + "```", "line 1: the answer is no JSON"},
		{"cut off", pack.Refute, "", good(t, pack.Refute)[:200], "the answer is no JSON"},
		{"more behind it", pack.Refute, "", good(t, pack.Refute) + "{}", "the answer is no JSON"},
		{"null", pack.Refute, "", "null", "got null, want object"},
		{"a list", pack.Refute, "", "[]", "got array, want object"},
		{"not UTF-8", pack.Refute, `"stands"`, "\"st\xffnds\"", "is not UTF-8"},
		{"another prompt's answer", pack.Refute, "", good(t, pack.Plan), "missing properties"},
		{"field missing", pack.Refute, `"verdict": "stands",`, ``, "missing property 'verdict'"},
		{"field unknown", pack.Refute, `"verdict"`, `"mood": 1, "verdict"`, "'mood' not allowed"},
		{"field twice", pack.Refute, `"verdict": "stands",`, `"verdict": "stands", "verdict": "refuted",`, `has "verdict" twice`},
		{"wrong type", pack.Audit, `"start_line": 31`, `"start_line": "31"`, "findings[0].start_line: got string, want integer"},
		{"fraction", pack.Audit, `"start_line": 31`, `"start_line": 31.5`, "findings[0].start_line:"},
		{"a whole number in another form", pack.Audit, `"start_line": 31`, `"start_line": 3.1e1`, "cannot unmarshal"},
		{"huge number", pack.Audit, `"end_line": 34`, `"end_line": 1e400`, "findings[0].end_line: is 1e400"},
		{"unknown rule", pack.Audit, `"access.object"`, `"access.everything"`, "findings[0].rule: "},
		{"unknown severity", pack.Audit, `"severity": "high"`, `"severity": "severe"`, "findings[0].severity: "},
		{"unknown verdict", pack.Refute, `"stands"`, `"maybe"`, "verdict: "},
		{"line zero", pack.Audit, `"start_line": 31`, `"start_line": 0`, "findings[0].start_line: is 0, want 1 to"},
		{"lines turned round", pack.Audit, `"end_line": 34`, `"end_line": 30`, "findings[0].end_line: lines 31 to 30"},
		{"too many lines", pack.Audit, `"end_line": 34`, `"end_line": 131`, "findings[0].end_line: lines 31 to 131"},
		{"absolute path", pack.Audit, `"file": "web/export.go"`, `"file": "/web/export.go"`, `findings[0].file: "/web/export.go" is no path`},
		{"path that climbs", pack.Audit, `"file": "web/export.go"`, `"file": "web/../../etc/passwd"`, "findings[0].file: "},
		{"path with a dot in front", pack.Audit, `"file": "web/export.go"`, `"file": "./web/export.go"`, "findings[0].file: "},
		{"a folder as the file", pack.Audit, `"file": "web/export.go"`, `"file": "."`, "findings[0].file: "},
		{"title of two lines", pack.Audit, `"title": "Any member`, `"title": "Any\nmember`, "findings[0].title: must be one line"},
		{"NUL", pack.Audit, `"title": "Any`, `"title": "Any\u0000`, "findings[0].title: has a NUL"},
		{"long title", pack.Audit, `"title": "Any`, `"title": "` + strings.Repeat("ä", 200), "findings[0].title: has "},
		{"examined twice", pack.Audit, `"web/middleware.go", "web/export.go"`, `"web/export.go", "web/export.go"`, `examined[2]: "web/export.go" is there twice`},
		{"not examined without a path", pack.Audit, `"path": "web/share_preview.go"`, `"path": "../x"`, "not_examined[0].path: "},
		{"component id in capitals", pack.Plan, `"id": "imports"`, `"id": "Imports!"`, `components[1].id: "Imports!" must be`},
		{"component without paths", pack.Plan, `"paths": ["auth"]`, `"paths": []`, "components[2].paths: has 0 entries"},
		{"focus on a rule that is none", pack.Plan, `"path.traversal"`, `"path.escape"`, `components[1].focus[0]: "path.escape" is neither`},
		{"left out without a path", pack.Plan, `"path": "testdata"`, `"path": "/testdata"`, "left_out[2].path: "},
		{"nothing examined", pack.Audit, "", emptyAudit(`[]`, strings.Repeat("Asked and answered. ", 10)), "examined: has 0 entries, want 1 to"},
		{"nothing said", pack.Audit, "", emptyAudit(`["a.go"]`, "No problems found."+strings.Repeat(" ", 100)), "summary: has fewer than 80 characters"},
		{"nothing checked", pack.Refute, "", `{"checked":[],"reason":"` + strings.Repeat("It is so. ", 10) + `","verdict":"refuted","severity":"low","severity_reason":"Nothing is gained."}`, "checked: has 0 entries, want 1 to"},
		{"no components", pack.Plan, "", `{"components":[],"left_out":[]}`, "components: has 0 entries, want 1 to"},
		{"place without a line", pack.Refute, `"web/export.go:29-45"`, `"web/export.go"`, `checked[0]: "web/export.go" is no place`},
		{"place outside", pack.Refute, `"web/export.go:29-45"`, `"/etc/passwd:1"`, `checked[0]: "/etc/passwd:1" is no place`},
		{"no risks", pack.ThreatModel, "", `{"summary":"A program that does what such programs do, for everybody.","assets":["x of y"],"entry_points":[],"trust_boundaries":[],"risks":[],"out_of_scope":[]}`, "risks: has 0 entries"},
		{"unknown prompt", "repair", "", "{}", `the pack has no prompt "repair"`},
		{"too large", pack.Audit, "", `{"summary":"` + strings.Repeat("x", 1<<20) + `"}`, "at most 1048576 are allowed"},
		{"deep nesting", pack.Audit, "", strings.Repeat("[", 200_000), "the answer is no JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			answer := c.new
			if c.old != "" {
				before := good(t, c.prompt)
				answer = strings.Replace(before, c.old, c.new, 1)
				if answer == before {
					t.Fatalf("the example has no %q", c.old)
				}
			}
			err := p.Check(c.prompt, []byte(answer))
			e, ok := errors.AsType[*pack.AnswerError](err)
			if !ok {
				t.Fatalf("Check = %v, want an AnswerError", err)
			}
			if e.Name != c.prompt || len(e.Problems) == 0 || len(e.Problems) > 40 || len(err.Error()) > 4000 {
				t.Errorf("error = %+v", e)
			}
			if all := strings.Join(e.Problems, "\n"); !strings.Contains(all, c.want) {
				t.Errorf("problems are\n%s\nwant one with %q", all, c.want)
			}
		})
	}
}

func TestFoldersAndTheRootAreGoodPlacesOfAPlan(t *testing.T) {
	t.Parallel()
	for _, path := range []string{".", "auth/", "auth", "a b/ünï.go", `back\slash.c`} {
		quoted, err := json.Marshal(path)
		if err != nil {
			t.Fatal(err)
		}
		answer := strings.Replace(good(t, pack.Plan), `"paths": ["auth"]`, `"paths": [`+string(quoted)+`]`, 1)
		if err := builtIn(t).Check(pack.Plan, []byte(answer)); err != nil {
			t.Errorf("path %q: %v", path, err)
		}
	}
}

// Whoever steers the model can make an answer as long as the limit allows.
func TestAHugeAnswerIsCheckedInTimeThatGrowsWithItsLength(t *testing.T) {
	t.Parallel()
	p := builtIn(t)
	for _, entry := range []string{`"a"`, `1`} {
		entries := strings.Repeat(entry+",\n", 170_000)
		err := p.Check(pack.Audit, []byte(emptyAudit("["+strings.TrimSuffix(entries, ",\n")+"]", strings.Repeat("Asked and answered. ", 10))))
		e, ok := errors.AsType[*pack.AnswerError](err)
		if !ok || e.Problems[0] != "examined: has 170000 entries, want 1 to 300" {
			t.Errorf("Check = %v", err)
		}
	}
}

func TestSeveralProblemsAreAllNamed(t *testing.T) {
	t.Parallel()
	answer := good(t, pack.Audit)
	for old, change := range map[string]string{`"end_line": 34`: `"end_line": 1`, `"file": "web/export.go"`: `"file": "/x"`, `"title": "Any`: `"title": "A\nny`} {
		answer = strings.Replace(answer, old, change, 1)
	}
	err := builtIn(t).Check(pack.Audit, []byte(answer))
	e, ok := errors.AsType[*pack.AnswerError](err)
	if !ok || len(e.Problems) != 3 {
		t.Errorf("Check = %v, want 3 problems", err)
	}
}

// The answer is what a model says, so anything may come.
func FuzzCheck(f *testing.F) {
	p, err := pack.Load(v16.Files(), "the built-in pack")
	if err != nil {
		f.Fatal(err)
	}
	names := []pack.Name{pack.ThreatModel, pack.Plan, pack.Audit, pack.Refute}
	for i, n := range names {
		f.Add(i, []byte(good(f, n)))
	}
	f.Fuzz(func(t *testing.T, i int, answer []byte) {
		name := names[uint(i)%uint(len(names))]
		err := p.Check(name, answer)
		if err == nil {
			var v map[string]any
			if json.Unmarshal(answer, &v) != nil {
				t.Errorf("%q is accepted and is no JSON object", answer)
			}
		} else if _, ok := errors.AsType[*pack.AnswerError](err); !ok {
			t.Errorf("Check = %v, want an AnswerError", err)
		}
	})
}

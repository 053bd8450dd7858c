package pack_test

import (
	"encoding/json"
	"strings"
	"testing"

	"vega/services/engine/pack"
	"vega/v16"
)

func TestWhatIsAcceptableOfAnAnswerIsKept(t *testing.T) {
	t.Parallel()
	p, err := pack.Load(v16.Files(), "the built-in pack")
	if err != nil {
		t.Fatal(err)
	}
	good := func() pack.AuditFinding {
		return pack.AuditFinding{Rule: "injection.sql", Severity: "high", SeverityReason: "Anyone can send it.", Confidence: "high", Title: "A query is built from a parameter",
			Description: "The parameter is put into the query as it is.", File: "app.py", StartLine: 3, EndLine: 4, Quote: "db.execute(q)", Symbol: "show",
			AttackPath: "1. An attacker sends a parameter (app.py:1). 2. It is run (app.py:3).", Preconditions: "None", Evidence: "app.py:3 builds the query", Remediation: "Use parameters of the query."}
	}
	change := func(f func(*pack.AuditFinding)) pack.AuditFinding { x := good(); f(&x); return x }
	answer := func(findings ...pack.AuditFinding) []byte {
		b, err := json.Marshal(pack.AuditAnswer{Findings: findings, Examined: []string{"app.py"}, NotExamined: []pack.LeftOut{},
			Summary: "Requests come in at one place. Is any of them used in a query? The handlers were read from their registration to their end."})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, c := range []struct {
		name   string
		answer []byte
		kept   int // findings; -1: not even so
		taken  int
	}{
		{"all is well", answer(good()), 1, 0},
		{"a path of the machine", answer(good(), change(func(f *pack.AuditFinding) { f.File = "/etc/passwd" })), 1, 1},
		{"the same place twice", answer(good(), good(), change(func(f *pack.AuditFinding) { f.StartLine, f.EndLine = 9, 9 })), 2, 0},
		{"no such rule", answer(change(func(f *pack.AuditFinding) { f.Rule = "no.such" }), good()), 1, 1},
		{"too long a text", answer(change(func(f *pack.AuditFinding) { f.Description = strings.Repeat("long ", 20_000) })), 1, 0},
		{"all of them bad", answer(change(func(f *pack.AuditFinding) { f.File = "../x" }), change(func(f *pack.AuditFinding) { f.EndLine = 1 })), 0, 2},
		{"no summary", []byte(`{"findings":[],"examined":["app.py"],"not_examined":[]}`), -1, 0},
		{"no JSON", []byte("nothing was found"), -1, 0},
		{"nothing", nil, -1, 0},
	} {
		kept, taken, ok := p.Salvage(pack.Audit, c.answer)
		if ok != (c.kept >= 0) || ok && len(taken) != c.taken {
			t.Errorf("%s: salvaged %v, took %q out", c.name, ok, taken)
			continue
		}
		if !ok {
			continue
		}
		if err := p.Check(pack.Audit, kept); err != nil {
			t.Errorf("%s: what was kept is not accepted: %v", c.name, err)
		}
		var a pack.AuditAnswer
		if err := json.Unmarshal(kept, &a); err != nil || len(a.Findings) != c.kept {
			t.Errorf("%s: %d findings kept, %v; want %d", c.name, len(a.Findings), err, c.kept)
		}
	}
}

package engine_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"vega/events"
	"vega/services/engine"
	"vega/services/engine/pack"
	"vega/services/llmproxy/enginetest"
	pt "vega/services/llmproxy/providertest"
	"vega/services/report"
)

// Three revisions of a repository, each scanned from another folder by a model that answers in another order and in other words: what is the same weakness is recognised after its lines have moved, and
// each of the five classes is said where it is true.
func TestRevisionsAreCompared(t *testing.T) {
	t.Parallel()
	command := func(fn string) string { return "def " + fn + "(name):\n    os.system(\"echo \" + name)\n" }
	read := "def load(name):\n    return open(\"/srv/\" + name).read()\n"
	safe := "def handle(name):\n    subprocess.run([\"echo\", name])\n"
	head := "import os, subprocess\n\n\n"
	moved := "import os, subprocess\n\n# A longer beginning.\nLIMIT = 10\nNAMES = []\n\n\n"
	revisions := []struct {
		files map[string]string
		paths []string
		want  map[string]string // by file and function
	}{
		{
			files: map[string]string{"svc1/a.py": head + command("first") + "\n\n" + read, "svc2/b.py": head + command("handle"), "svc4/d.py": head + command("fourth")},
			want:  map[string]string{"svc1/a.py first": "new", "svc1/a.py load": "new", "svc2/b.py handle": "new", "svc4/d.py fourth": "new"},
		},
		{ // lines have moved, and the second service is mended
			files: map[string]string{"svc1/a.py": moved + read + "\n\n" + command("first"), "svc2/b.py": head + safe, "svc4/d.py": moved + command("fourth")},
			want:  map[string]string{"svc1/a.py first": "persisting", "svc1/a.py load": "persisting", "svc2/b.py handle": "resolved", "svc4/d.py fourth": "persisting"},
		},
		{ // the fault of the second service is back, one of the first is mended, the third has a new one, and the fourth is not looked at
			files: map[string]string{"svc1/a.py": moved + read, "svc2/b.py": moved + command("handle"), "svc3/c.py": head + command("third"), "svc4/d.py": moved + command("fourth")},
			paths: []string{"svc1", "svc2", "svc3"},
			want:  map[string]string{"svc1/a.py first": "resolved", "svc1/a.py load": "persisting", "svc2/b.py handle": "reopened", "svc3/c.py third": "new", "svc4/d.py fourth": "unknown"},
		},
	}
	objects := newRecorder().objects // all scans' objects, as the store keeps them
	var base *engine.Base
	for i, rev := range revisions {
		chance := rand.New(rand.NewPCG(uint64(i), 1))
		var files []string
		for name := range rev.files {
			if len(rev.paths) == 0 || slices.Contains(rev.paths, strings.Split(name, "/")[0]) {
				files = append(files, name)
			}
		}
		model := enginetest.Start(t, func(q enginetest.Question) pt.Answer {
			switch q.Stage {
			case "plan":
				return q.Answer(pack.PlanAnswer{LeftOut: []pack.LeftOut{}, Components: []pack.Component{{ID: fmt.Sprintf("all-%d", i), Title: "Everything", Paths: []string{"."}, Why: "All of it takes names from outside.", Focus: []string{"injection.command"}}}})
			case "audit":
				if q.Results == 0 {
					return q.Shell("cat */*.py")
				}
				a := auditOf(".")
				for _, name := range files {
					for n, line := range strings.Split(rev.files[name], "\n") {
						rule := map[bool]string{true: "injection.command", false: "path.traversal"}[strings.Contains(line, "os.system")]
						if strings.Contains(line, "os.system") || strings.Contains(line, "open(") {
							f := found(rule, "high", name, n+1, n+1, line, "whatever")
							f.Title = fmt.Sprintf("Words of revision %d", i)
							a.Findings = append(a.Findings, f)
						}
					}
				}
				chance.Shuffle(len(a.Findings), func(x, y int) { a.Findings[x], a.Findings[y] = a.Findings[y], a.Findings[x] })
				return q.Answer(a)
			default:
				if q.Results == 0 {
					return q.Shell("cat */*.py")
				}
				return q.Answer(verdictOf(pack.Stands, "high", files[0]+":1"))
			}
		})
		l := enginetest.Begin(t, model, nil)
		rec := newRecorder()
		rec.objects = objects
		job := aidedJob(t, l, tree(t, rev.files))
		job.Scan = events.ScanID(fmt.Sprintf("scan_local_%d", i)) // another one for the ledger; the lab's token does not ask
		job.Base, job.Paths, job.Profile = base, rev.paths, new(profileAnswer.ThreatProfile)
		out, err := aided(t, nil).Run(t.Context(), job, rec)
		if err != nil {
			t.Fatal(err)
		}
		if out.Coverage.State != events.CoverageComplete {
			t.Fatalf("revision %d: coverage %+v", i, out.Coverage)
		}
		k := slices.IndexFunc(rec.stages, func(s events.StageCompleted) bool { return s.Compared != nil })
		compared := rec.stages[k].Compared
		var ledger report.Ledger
		if err := json.NewDecoder(bytes.NewReader(objects[compared.Ledger.Key])).Decode(&ledger); err != nil {
			t.Fatal(err)
		}
		symbols := map[events.Fingerprint]string{}
		for _, f := range append(slices.Clone(rec.findings), known(base)...) {
			symbols[f.Fingerprint] = f.File + " " + f.Symbol
		}
		got := map[string]string{}
		counts := map[report.Class]int{}
		for _, w := range ledger.Changes() {
			name := symbols[w.Fingerprint]
			if name == "" { // not found in this scan nor in the one before
				name = w.File
			}
			got[name] = string(w.Class)
			counts[w.Class]++
		}
		if fmt.Sprint(got) != fmt.Sprint(rev.want) {
			t.Errorf("revision %d: %v, want %v", i, got, rev.want)
		}
		if compared.New != counts[report.ClassNew] || compared.Persisting != counts[report.ClassPersisting] || compared.Reopened != counts[report.ClassReopened] || compared.Resolved != counts[report.ClassResolved] || compared.Unknown != counts[report.ClassUnknown] {
			t.Errorf("revision %d: counts %+v are not those of the ledger, %v", i, compared, counts)
		}
		base = &engine.Base{Seen: report.Seen{Scan: job.Scan, Findings: rec.findings, Coverage: out.Coverage.State, Paths: rev.paths}, Ledger: compared.Ledger}
	}
}

func known(b *engine.Base) []events.Finding {
	if b == nil {
		return nil
	}
	return b.Seen.Findings
}

// The symbol that a place lies in does not depend on where in the file it is.
func TestEnclosingSymbols(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, code, want string }{
		{"a.go", "package a\n\nfunc (s *Server[T]) Handle(w W) {\n\tx := 1\n\tHERE\n}\n", "Server.Handle"},
		{"a.go", "package a\n\nfunc run() {\n\tHERE\n}\n", "run"},
		{"a.go", "package a\n\ntype T struct {\n\tHERE int\n}\n", "T"},
		{"a.py", "class Shop:\n    def pay(self, x):\n        if x:\n            HERE\n", "Shop.pay"},
		{"a.py", "def one():\n    pass\n\nHERE\n", ""},
		{"a.js", "export async function load(id) {\n  HERE\n}\n", "load"},
		{"a.ts", "class Api {\n  private async get(id: string): Promise<void> {\n    HERE\n  }\n}\n", "Api.get"},
		{"a.js", "app.post('/pay', (req, res) => {\n  HERE\n})\n", "app.post('/pay'"},
		{"A.java", "public class A {\n    @Override\n    public String name(int x) throws E {\n        HERE;\n    }\n}\n", "A.name"},
		{"a.php", "<?php\nclass P {\n    public function show($id) {\n        HERE;\n    }\n}\n", "P.show"},
		{"a.rb", "class P\n  def show\n    HERE\n  end\nend\n", "P.show"},
		{"a.rs", "impl P {\n    pub fn show(&self) {\n        HERE\n    }\n}\n", "P.show"},
		{"a.c", "static int parse(char *s)\n{\n    HERE;\n}\n", "parse"},
		{"main.tf", "resource \"aws_s3_bucket\" \"b\" {\n  HERE\n}\n", "\"aws_s3_bucket\" \"b\""},
		{"notes.txt", "HERE\n", ""},
	} {
		line := 1 + strings.Count(c.code[:strings.Index(c.code, "HERE")], "\n")
		if got := engine.EnclosingSymbol(c.name, []byte(c.code), line); got != c.want {
			t.Errorf("%s: %q, want %q in\n%s", c.name, got, c.want, c.code)
		}
	}
}

// What a scan that overlapped with the base had found is no news.
func TestFindingsOfAScanThatOverlappedAreKnown(t *testing.T) {
	t.Parallel()
	objects := map[string][]byte{}
	scan := func(id events.ScanID, base *engine.Base, files map[string]string) (*engine.Base, events.Compared) {
		rec := newRecorder()
		rec.objects = objects
		job := jobOn(t, tree(t, files))
		job.Scan, job.Base = id, base
		out, err := newEngine(t, engine.Options{}).Run(t.Context(), job, rec)
		if err != nil {
			t.Fatal(err)
		}
		k := slices.IndexFunc(rec.stages, func(s events.StageCompleted) bool { return s.Compared != nil })
		compared := *rec.stages[k].Compared
		return &engine.Base{Seen: report.Seen{Scan: id, Findings: rec.findings, Coverage: out.Coverage.State}, Ledger: compared.Ledger}, compared
	}
	leak := map[string]string{"deploy.py": "KEY = \"" + awsKey(3) + "\"\n"}
	slow, _ := scan("scan_local_slow", nil, leak)
	base, _ := scan("scan_local_base", nil, map[string]string{"README.md": "# nothing\n"})
	if _, c := scan("scan_local_unaware", base, leak); c.New != 1 || c.Persisting != 0 {
		t.Errorf("compared with the base alone: %+v", c)
	}
	later := []byte(`{"schema_version":99}`)
	objects["later"] = later
	base.Beside = []events.Object{*slow.Ledger, {Name: "ledger.json", Key: "later", Digest: events.DigestOf(later), Bytes: int64(len(later))}} // that of a later release is left out
	if _, c := scan("scan_local_next", base, leak); c.New != 0 || c.Persisting != 1 || c.Base != "scan_local_base" {
		t.Errorf("compared with both: %+v", c)
	}
}

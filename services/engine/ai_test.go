package engine_test

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vega/config/secret"
	"vega/events"
	"vega/scripts/installed"
	"vega/services/engine"
	"vega/services/engine/pack"
	"vega/services/llmproxy/enginetest"
	pt "vega/services/llmproxy/providertest"
	"vega/v16"
)

// aided is an engine that runs the newest Codex without a container.
func aided(t testing.TB, change func(*engine.Config)) *engine.Engine {
	t.Helper()
	bin, err := installed.Codex(installed.CodexReleases[len(installed.CodexReleases)-1])
	if err != nil {
		t.Fatal(err)
	}
	cfg := engine.Config{MaskSecret: secret.New("a key for tests"), CodexBin: bin, CodexBinGiven: true, CodexSandbox: "none", Model: "gpt-5.4", Parallel: 2, RuntimeRoot: t.TempDir()}
	if change != nil {
		change(&cfg)
	}
	e, err := engine.New(cfg, engine.Options{Version: "test", Log: slog.New(slog.DiscardHandler), Pack: v16.Files(), HostEnv: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// aidedJob is an attempt of a lab's scan at a tree.
func aidedJob(t testing.TB, l *enginetest.Lab, dir string) engine.Job {
	t.Helper()
	job := jobOn(t, dir)
	job.Scan = l.Scan
	job.Access.Missing = nil
	job.Access.BaseURL, job.Access.Token = l.Access()
	job.WorkDir = filepath.Join(t.TempDir(), "process", "attempt", "work")
	if err := os.MkdirAll(job.WorkDir, 0o700); err != nil {
		t.Fatal(err)
	}
	return job
}

// project is a copy of a real public module with files added to it.
func project(t testing.TB, files map[string]string) string {
	t.Helper()
	const module = "github.com/spf13/viper"
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(strings.TrimSpace(string(out)))); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const plantedServer = `package admin

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
)

// Handler serves the administration of a configuration.
func Handler(root string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /files", func(w http.ResponseWriter, r *http.Request) { readFile(root, w, r) })
	mux.HandleFunc("POST /reload", reload)
	return mux
}

func readFile(root string, w http.ResponseWriter, r *http.Request) {
	b, err := os.ReadFile(filepath.Join(root, r.URL.Query().Get("name")))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	_, _ = w.Write(b)
}

func reload(w http.ResponseWriter, r *http.Request) {
	out, err := exec.Command("sh", "-c", "viper-reload "+r.FormValue("service")).CombinedOutput()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(out)
}
`

// found is a claim with everything that the schema wants.
func found(rule, severity, file string, start, end int, quote, symbol string) pack.AuditFinding {
	return pack.AuditFinding{Rule: rule, Severity: severity, SeverityReason: "Anyone who reaches the port can do it.", Confidence: "high", Title: "A " + rule + " in " + symbol,
		Description: "What a request says reaches a dangerous operation unchecked.", File: file, StartLine: start, EndLine: end, Quote: quote, Symbol: symbol,
		AttackPath: "1. An attacker sends a request to the handler (" + file + "). 2. It is used as it is.", Preconditions: "None", Evidence: file + ": no check on the way", Remediation: "Check the value against a list."}
}

var profileAnswer = pack.ThreatModelAnswer{ThreatProfile: events.ThreatProfile{Summary: "A library that reads configuration, with an HTTP administration.", Assets: []string{"configuration files"},
	EntryPoints: []string{"admin/server.go: HTTP"}, TrustBoundaries: []string{"HTTP requests come from outside"}, Risks: []string{"commands run from requests"}, OutOfScope: []string{"the command line"}}}

// planOf makes a plan of components with one path each.
func planOf(paths ...string) pack.PlanAnswer {
	p := pack.PlanAnswer{LeftOut: []pack.LeftOut{}}
	for i, path := range paths {
		p.Components = append(p.Components, pack.Component{ID: fmt.Sprintf("c%d", i+1), Title: "Part " + path, Paths: []string{path}, Why: "It takes input from outside and acts on it.", Focus: []string{"injection.command"}})
	}
	return p
}

func auditOf(examined string, findings ...pack.AuditFinding) pack.AuditAnswer {
	if findings == nil {
		findings = []pack.AuditFinding{}
	}
	return pack.AuditAnswer{Findings: findings, Examined: []string{examined}, NotExamined: []pack.LeftOut{},
		Summary: "Requests come in at one place, " + examined + ". Is any of them used in a command? The handlers were read from their registration to their end."}
}

func verdictOf(verdict, severity string, checked ...string) pack.RefuteAnswer {
	return pack.RefuteAnswer{Verdict: verdict, Reason: "The handler was read from the route to the call; no check lies between them.", Checked: checked, Severity: severity, SeverityReason: "As claimed."}
}

// The whole way, with the real Codex: what is planted in a real project is found where it is, what is invented is rejected, what is found twice is one finding, what does not
// stand is refuted, and nothing is left out.
func TestAPlantedWeaknessIsFoundAndAnInventedOneIsNot(t *testing.T) {
	t.Parallel()
	dir := project(t, map[string]string{"admin/server.go": plantedServer})
	command := `	out, err := exec.Command("sh", "-c", "viper-reload "+r.FormValue("service")).CombinedOutput()`
	read := `	b, err := os.ReadFile(filepath.Join(root, r.URL.Query().Get("name")))`
	model := enginetest.Start(t, func(q enginetest.Question) pt.Answer {
		switch q.Stage {
		case "threat_model":
			if q.Results == 0 {
				return q.Shell("cat go.mod")
			}
			return q.Answer(profileAnswer)
		case "plan":
			return q.Answer(planOf("admin", "."))
		case "audit":
			if q.Results == 0 {
				return q.Shell("cat admin/server.go")
			}
			if q.Component == "Part admin" {
				return q.Answer(auditOf("admin/server.go",
					found("injection.command", "critical", "admin/server.go", 28, 28, command, "reload"),
					found("path.traversal", "high", "admin/server.go", 20, 21, read, "readFile"), // one line off
					found("injection.sql", "high", "admin/database.go", 3, 4, "db.Query(q)", "query"),
					found("ssrf.request", "medium", "admin/server.go", 5, 6, "http.Get(target)", "fetch")))
			}
			return q.Answer(auditOf(".",
				found("injection.command", "high", q.Source+"/admin/server.go", 28, 29, command, "reload"), // again, by its absolute path
				found("xss.stored", "low", "viper.go", 1, 1, strings.TrimRight(firstLine(t, dir, "viper.go"), "\n"), "")))
		case "refute":
			switch {
			case q.Results == 0:
				return q.Shell("nl -ba admin/server.go | sed -n 15,40p")
			case strings.Contains(q.Prompt, "xss.stored"):
				return q.Answer(verdictOf(pack.Refuted, "low", "admin/server.go:29"))
			case strings.Contains(q.Prompt, "path.traversal"):
				return q.Answer(verdictOf(pack.Uncertain, "medium", "admin/server.go:29"))
			default:
				return q.Answer(verdictOf(pack.Stands, "critical", "admin/server.go:29-31"))
			}
		}
		return q.Say("what?")
	})
	l := enginetest.Begin(t, model, nil)
	rec := newRecorder()
	out, err := aided(t, nil).Run(t.Context(), aidedJob(t, l, dir), rec)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range rec.findings {
		if f.Stage == "audit" {
			got = append(got, fmt.Sprintf("%s %s %s:%d-%d %s %s %s also %v", f.Severity, f.Rule, f.File, f.StartLine, f.EndLine, f.Symbol, f.Validation, f.Confidence, f.Also))
		}
	}
	want := []string{
		"critical injection.command admin/server.go:28-28 reload independently_reviewed high also []",
		"medium path.traversal admin/server.go:19-19 readFile static_reviewed low also []",
	}
	if !slices.Equal(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if out.Rejected != 3 { // a file and a quote that do not exist, and what was refuted
		t.Errorf("%d rejected, want 3", out.Rejected)
	}
	if out.Coverage.State != events.CoverageComplete {
		t.Errorf("coverage %+v, want complete", out.Coverage)
	}
	if !strings.Contains(model.Asked()[1].Outputs[0], "module github.com/spf13/viper") {
		t.Errorf("the model did not see the file that it asked for: %q", model.Asked()[1].Outputs)
	}
	for _, name := range []string{"threat-model.json", "plan.json", "audit.json", "transcript-audit-c1.jsonl", "transcript-plan.jsonl"} {
		rec.artifact(t, name)
	}
	if u := l.Spent(); u.Settled.Requests != int64(len(model.Asked())) || len(u.Open) != 0 {
		t.Errorf("the log has %d requests with %d open, the provider was asked %d times", u.Settled.Requests, len(u.Open), len(model.Asked()))
	}
	for _, s := range rec.stages {
		t.Logf("%s %s: %s", s.Stage, s.Status, s.Detail)
	}
	t.Log(strings.Join(rec.lines, "\n"))
}

func firstLine(t testing.TB, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vega/config/secret"
	"vega/events"
	"vega/services/engine"
	"vega/v16"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestStagesRunInTheirOrderAndReportThemselves(t *testing.T) {
	t.Parallel()
	rec, out := scan(t, archived(t, "polyglot.txtar"))
	var got []string
	for _, s := range rec.stages {
		got = append(got, s.Stage+" "+string(s.Status))
		if s.Attempt != 1 || s.StartedAt.IsZero() || s.Detail == "" {
			t.Errorf("incomplete record of a stage: %+v", s)
		}
	}
	want := []string{
		"inventory completed", "secrets completed", "threat_model not_configured", "plan not_configured", "audit not_configured",
		"verify completed", "refute not_configured", "merge completed", "report completed",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
	if out.Coverage.State != events.CoveragePartial || out.Counts.Total() != 0 {
		t.Errorf("outcome %+v, want partial coverage and no findings", out)
	}
	last := -1
	for _, p := range rec.progress {
		if p.Percent < last || p.Percent > 100 {
			t.Errorf("progress went from %d to %d", last, p.Percent)
		}
		last = p.Percent
	}
	if last != 100 {
		t.Errorf("the last progress is %d, want 100", last)
	}
}

func TestInventory(t *testing.T) {
	t.Parallel()
	rec, _ := scan(t, archived(t, "polyglot.txtar"))
	got := rec.artifact(t, "inventory.json")
	const golden = "testdata/polyglot.json"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}
}

func TestTheInventoryHoldsNoCredentials(t *testing.T) {
	t.Parallel()
	aws, api, password := awsKey(1), apiKey(2), "correct"+"-horse"
	rec, _ := scan(t, tree(t, map[string]string{
		"Dockerfile":       "FROM x\nCMD [\"app\", \"--aws-key\", \"" + aws + "\", \"--db\", \"pg://u:" + password + "@db/x\"]\n",
		"package.json":     "{\"scripts\": {\"start\": \"API_TOKEN=" + api + " node x.js\"}}\n",
		"requirements.txt": "private @ git+https://user:" + password + "@git.example.com/private.git@main\nflask==1.0\n",
		"package-lock.json": "{\"lockfileVersion\": 3, \"packages\": {\"node_modules/p\": {\"version\": \"git+https://user:" + password +
			"@git.example.com/p.git#0123456789012345678901234567890123456789\"}}}",
		"Cargo.lock": "version = 3\n[[package]]\nname = \"p\"\nversion = \"1.0.0\"\nsource = \"git+https://" + api + "@git.example.com/p#012345\"\n",
	}))
	assertNowhere(t, rec, aws, api, password)
	if inv := string(rec.artifact(t, "inventory.json")); !strings.Contains(inv, "AKIA[masked:") || !strings.Contains(inv, "flask") {
		t.Errorf("the inventory lacks what it should show:\n%s", inv)
	}
}

func TestASelectedPathIsAllThatIsLookedAt(t *testing.T) {
	t.Parallel()
	dir := tree(t, map[string]string{
		"a/x.env": "K=" + awsKey(1), "ab/x.env": "K=" + awsKey(2), "b/one.env": "K=" + awsKey(3), "b/two.env": "K=" + awsKey(4),
	})
	job := jobOn(t, dir)
	job.Paths = []string{"a/", "b/one.env", "gone"}
	rec := newRecorder()
	out, err := newEngine(t, engine.Options{}).Run(t.Context(), job, rec)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, f := range rec.findings {
		files = append(files, f.File)
	}
	if want := []string{"a/x.env", "b/one.env"}; !slices.Equal(files, want) {
		t.Errorf("findings in %v, want %v", files, want)
	}
	if !hasReason(out, "inventory", "gone", "unreadable") {
		t.Errorf("coverage does not name the path that is not there: %+v", out.Coverage.Reasons)
	}
}

func TestAGivenThreatProfileLeavesNoGap(t *testing.T) {
	t.Parallel()
	job := jobOn(t, tree(t, map[string]string{"a": "b"}))
	job.Profile = &events.ThreatProfile{Summary: "a shop"}
	rec := newRecorder()
	out, err := newEngine(t, engine.Options{}).Run(t.Context(), job, rec)
	if err != nil {
		t.Fatal(err)
	}
	if s := rec.stages[2]; s.Stage != "threat_model" || s.Status != events.StageSkipped {
		t.Errorf("stage %s is %s, want threat_model skipped", s.Stage, s.Status)
	}
	if hasReason(out, "threat_model", "", "not_configured") {
		t.Error("a given profile is a gap in the coverage")
	}
}

// TestEveryCrashIsResumedAfterTheLastRecordedStage lets every write of a scan fail, once before and once after it took effect, and
// goes on with a next attempt.
func TestEveryCrashIsResumedAfterTheLastRecordedStage(t *testing.T) {
	t.Parallel()
	block, _ := privateKey(t)
	dir := tree(t, map[string]string{"a.env": "K=" + awsKey(1) + "\n", "key.pem": block, "main.go": "package main\n\nfunc main() {}\n"})
	whole, wantOut := scan(t, dir)

	var writes []string
	seen := newRecorder()
	seen.before = func(what string) error { writes = append(writes, what); return nil }
	if _, err := newEngine(t, engine.Options{}).Run(t.Context(), jobOn(t, dir), seen); err != nil {
		t.Fatal(err)
	}
	if len(writes) < 15 {
		t.Fatalf("only %d writes: %v", len(writes), writes)
	}
	for _, what := range writes {
		for _, moment := range []string{"before", "after"} {
			t.Run(moment+" "+what, func(t *testing.T) {
				t.Parallel()
				rec := newRecorder()
				crash := func(w string) error {
					if w == what {
						return errLost
					}
					return nil
				}
				if moment == "before" {
					rec.before = crash
				} else {
					rec.after = crash
				}
				e := newEngine(t, engine.Options{})
				ran := make(map[string]int)
				e.OnStage(func(name string) { ran[name]++ })
				job := jobOn(t, dir)
				if _, err := e.Run(t.Context(), job, rec); !errors.Is(err, errLost) {
					t.Fatalf("Run = %v, want the recorder's error", err)
				}
				recorded := make(map[string]bool)
				for _, s := range rec.stages {
					recorded[s.Stage] = true
				}
				for name := range ran {
					if !recorded[name] {
						delete(ran, name) // it may run again: nothing says that it ran
					}
				}

				rec.before, rec.after = nil, nil
				out, err := e.Run(t.Context(), next(t, job, rec), rec)
				if err != nil {
					t.Fatal(err)
				}
				for _, name := range engine.StageNames() {
					if ran[name] != 1 {
						t.Errorf("%s ran %d times after it was recorded or without, want once", name, ran[name])
					}
				}
				if len(rec.stages) != len(engine.StageNames()) {
					t.Errorf("%d stages recorded, want each once", len(rec.stages))
				}
				if diff := cmp.Diff(whole.findings, rec.findings); diff != "" {
					t.Errorf("findings differ from an undisturbed scan's (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(wantOut, out); diff != "" {
					t.Errorf("outcome (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestAFinishedScanDoesNothingAgain(t *testing.T) {
	t.Parallel()
	dir := tree(t, map[string]string{"a.env": "K=" + awsKey(1)})
	rec, want := scan(t, dir)
	e := newEngine(t, engine.Options{})
	e.OnStage(func(name string) { t.Errorf("%s ran again", name) })
	got, err := e.Run(t.Context(), next(t, jobOn(t, dir), rec), rec)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
}

func TestWhatIsNotInTheSourceIsRejected(t *testing.T) {
	t.Parallel()
	key := "K=" + awsKey(1) + "\n"
	for name, after := range map[string]map[string]string{
		"the file is gone":            {"b": "b"},
		"the file is shorter":         {"a.env": "x\n"},
		"another line is there":       {"a.env": "x\ny\nno key\nz\n"},
		"another key is there":        {"a.env": "x\ny\nK=" + awsKey(2) + "\nz\n"},
		"the key moved":               {"a.env": key + "x\ny\nz\n"},
		"the place is past the end":   {"a.env": "x\ny\nK=\n"},
		"the file is a folder of now": {"a.env/f": "x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The first attempt finds the key, the second one verifies against another source.
			rec := newRecorder()
			rec.after = func(what string) error {
				if what == "stage audit" {
					return errLost
				}
				return nil
			}
			e := newEngine(t, engine.Options{})
			job := jobOn(t, tree(t, map[string]string{"a.env": "x\ny\n" + key + "z\n"}))
			if _, err := e.Run(t.Context(), job, rec); !errors.Is(err, errLost) {
				t.Fatal(err)
			}
			rec.after = nil
			job = next(t, job, rec)
			job.Dir = tree(t, after)
			out, err := e.Run(t.Context(), job, rec)
			if err != nil {
				t.Fatal(err)
			}
			if out.Rejected != 1 || len(rec.findings) != 0 || out.Counts.Total() != 0 {
				t.Errorf("%d rejected and %d findings, want 1 and 0", out.Rejected, len(rec.findings))
			}
		})
	}
}

func TestCancelStopsTheRunWithItsCause(t *testing.T) {
	t.Parallel()
	files := make(map[string]string)
	for i := range 200 {
		files[fmt.Sprintf("f%d.txt", i)] = strings.Repeat("token = compute()\n", 100)
	}
	dir := tree(t, files)
	cause := errors.New("cancelled by its owner")
	for _, stage := range []string{"inventory", "secrets", "verify", "merge", "report"} {
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(t.Context())
			rec := newRecorder()
			rec.onProgress = func(p engine.Progress) {
				if p.Component == stage {
					cancel(cause)
				}
			}
			_, err := newEngine(t, engine.Options{}).Run(ctx, jobOn(t, dir), rec)
			if !errors.Is(err, cause) {
				t.Errorf("Run = %v, want the cause", err)
			}
			for _, s := range rec.stages {
				if s.Stage == stage {
					t.Errorf("%s was recorded although it was cancelled", stage)
				}
			}
		})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := newEngine(t, engine.Options{}).Run(ctx, jobOn(t, dir), newRecorder()); !errors.Is(err, cause) {
		t.Errorf("Run with an ended context = %v, want the cause", err)
	}
}

func TestTwoScansOfTheSameSourceGiveTheSameBytes(t *testing.T) {
	t.Parallel()
	block, _ := privateKey(t)
	dir := archived(t, "polyglot.txtar")
	appendTo(t, filepath.Join(dir, "a.env"), "K="+awsKey(1)+"\nL="+awsKey(2)+"\n")
	appendTo(t, filepath.Join(dir, "key.pem"), block)
	first, _ := scan(t, dir)
	second, _ := scan(t, dir)
	for _, name := range []string{"v16-report.json", "runner-summary.json", "report.sarif", "inventory.json"} {
		if !bytes.Equal(first.artifact(t, name), second.artifact(t, name)) {
			t.Errorf("%s differs between two scans", name)
		}
	}
	if diff := cmp.Diff(first.findings, second.findings); diff != "" {
		t.Errorf("findings differ:\n%s", diff)
	}
}

func TestArtifacts(t *testing.T) {
	t.Parallel()
	rec, out := scan(t, tree(t, map[string]string{"a.env": "K=" + awsKey(1) + "\n", "a.go": "package a\n"}))
	var names []string
	for _, o := range rec.stages[len(rec.stages)-1].Artifacts {
		names = append(names, o.Name)
		if o.Bytes == 0 || o.MediaType == "" || o.Digest != events.DigestOf(rec.objects[o.Key]) {
			t.Errorf("artifact %+v is incomplete", o)
		}
	}
	want := []string{
		"v16-report.json", "runner-summary.json", "report.sarif", "inventory.json", "v16-events.jsonl", "v16-debug-bundle.zip",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("artifacts (-want +got):\n%s", diff)
	}
	var summary struct {
		Coverage events.Coverage `json:"coverage"`
		Counts   events.Counts   `json:"findings_by_severity"`
		Stages   []any           `json:"stages"`
	}
	if err := json.Unmarshal(rec.artifact(t, "runner-summary.json"), &summary); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(out.Coverage, summary.Coverage); diff != "" || summary.Counts != out.Counts || len(summary.Stages) != len(engine.StageNames())-1 {
		t.Errorf("summary %+v does not agree with the outcome %+v", summary, out)
	}
	lines := 0
	for line := range bytes.Lines(rec.artifact(t, "v16-events.jsonl")) {
		var l struct {
			N, Attempt int
			Kind       string
			Payload    map[string]any
		}
		lines++
		if err := json.Unmarshal(line, &l); err != nil || l.N != lines || l.Attempt != 1 || l.Payload == nil ||
			(l.Kind != "scan_progress" && l.Kind != "scan_log") {
			t.Errorf("line %d: %s (%v)", lines, line, err)
		}
	}
	if lines < 8 {
		t.Errorf("%d lines in v16-events.jsonl, want one at least for each stage", lines)
	}
}

func TestHostileTreesAreSurvived(t *testing.T) {
	t.Parallel()
	secretFile := filepath.Join(t.TempDir(), "outside.env")
	outside := awsKey(9)
	appendTo(t, secretFile, "K="+outside+"\n")
	dir := tree(t, map[string]string{
		"ok.env":                        "K=" + awsKey(1) + "\n",
		"ctl\x1b[31m\n.env":             "K=" + awsKey(2) + "\n",
		"not-utf8-\xff.env":             "K=" + awsKey(3) + "\n",
		"pnpm-lock.yaml":                "a: &a [*a, *a]\nb: [", // damaged
		"Cargo.lock":                    "[[[",
		"package-lock.json":             strings.Repeat("[", 100_000),
		"pom.xml":                       "<?xml version=\"1.0\"?><!DOCTYPE x [<!ENTITY y SYSTEM \"file:///etc/passwd\">]><project>&y;</project>",
		"requirements.txt":              "-r ../../../../etc/passwd\n-r requirements.txt\n--index-url https://u:p@h/\nflask==1.0\n",
		"package.json":                  `{"bin": {"a": 1}, "main": ["x"], "scripts": "no"}`,
		"Dockerfile":                    "CMD ",
		"one-line.js":                   strings.Repeat("key=\"a1b2c3d4e5\",", 5_000),
		"base64.txt":                    word(5, 1<<17, "abcdefghijABCDEFGHIJ0123456789+/"),
		"quotes.txt":                    strings.Repeat("key = '\"`", 50_000),
		"begin.pem":                     strings.Repeat("-----BEGIN RSA PRIVATE"+" KEY-----\n", 5_000),
		strings.Repeat("d/", 300) + "f": "deep",
	})
	for link, target := range map[string]string{"link.env": secretFile, "loop": ".", "up": "..", "dangling": "nowhere"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	rec, out := scan(t, dir)
	assertNowhere(t, rec, outside)
	all := rec.everything(t)
	for _, bad := range []string{"\x1b", "root:x:0", "link.env"} {
		if strings.Contains(strings.Join(rec.lines, "\n"), bad) || bad != "\x1b" && strings.Contains(all, bad) {
			t.Errorf("%q got out", bad)
		}
	}
	var files []string
	for _, f := range rec.findings {
		files = append(files, f.File)
	}
	if !slices.Contains(files, "ok.env") || slices.ContainsFunc(files, func(f string) bool { return strings.Contains(f, "ctl") }) {
		t.Errorf("findings in %q, want ok.env and nothing whose name cannot be shown", files)
	}
	for _, path := range []string{"Cargo.lock", "pnpm-lock.yaml", "package-lock.json", "not-utf8-\uFFFD.env"} {
		if !hasReason(out, "inventory", path, "unreadable") {
			t.Errorf("coverage does not say that %s could not be read: %+v", path, out.Coverage.Reasons)
		}
	}
}

func TestAnEmptyTreeIsScanned(t *testing.T) {
	t.Parallel()
	rec, out := scan(t, t.TempDir())
	if len(rec.stages) != len(engine.StageNames()) || out.Counts.Total() != 0 {
		t.Errorf("%d stages, counts %+v", len(rec.stages), out.Counts)
	}
}

func TestATreeThatIsNotThereIsAnError(t *testing.T) {
	t.Parallel()
	_, err := newEngine(t, engine.Options{}).Run(t.Context(), jobOn(t, filepath.Join(t.TempDir(), "gone")), newRecorder())
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Run = %v, want that the tree does not exist", err)
	}
}

func TestNewWantsAMaskKey(t *testing.T) {
	t.Parallel()
	_, err := engine.New(engine.Config{}, engine.Options{Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "VEGA_MASK_SECRET") {
		t.Errorf("New without a key = %v, want an error that names the variable", err)
	}
}

func TestAModelThatIsConfiguredIsNotBlamed(t *testing.T) {
	t.Parallel()
	e, err := engine.New(engine.Config{MaskSecret: secret.New("k")}, engine.Options{Log: slog.New(slog.DiscardHandler), Pack: v16.Files()})
	if err != nil {
		t.Fatal(err)
	}
	job := jobOn(t, tree(t, map[string]string{"a": "b"}))
	job.Access = engine.Access{}
	out, err := e.Run(t.Context(), job, newRecorder())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range out.Coverage.Reasons {
		if strings.Contains(r.Message, "VEGA_") {
			t.Errorf("reason %+v asks for a variable that is set", r)
		}
	}
}

func ExampleEngine_Run() {
	e, err := engine.New(engine.Config{MaskSecret: secret.New("k")}, engine.Options{Log: slog.New(slog.DiscardHandler), Pack: v16.Files()})
	if err != nil {
		panic(err)
	}
	source, work := os.TempDir()+"/vega-example-source", os.TempDir()+"/vega-example-work"
	for _, dir := range []string{source, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
	}
	if err := os.WriteFile(source+"/main.go", []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		panic(err)
	}
	rec := newRecorder()
	out, err := e.Run(context.Background(), engine.Job{Region: "local", Scan: "scan_local_1", Attempt: 1, Dir: source, WorkDir: work}, rec)
	fmt.Println(err, out.Coverage.State, out.Counts.Total())
	for _, s := range rec.stages[:2] {
		fmt.Println(s.Stage, s.Status, s.Detail)
	}
	// Output:
	// <nil> partial 0
	// inventory completed 1 files, 29 bytes, mostly Go; 0 dependencies
	// secrets completed 1 files searched, 0 places to verify
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vega/events"
	"vega/scripts/dockertest"
	"vega/scripts/installed"
	"vega/services/engine/pack"
	"vega/services/intake"
	"vega/services/llmproxy/enginetest"
	pt "vega/services/llmproxy/providertest"
)

// newestCodex is the program of the newest release that the tests have.
func newestCodex(t testing.TB) string {
	t.Helper()
	bin, err := installed.Codex(installed.CodexReleases[len(installed.CodexReleases)-1])
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// aidedBy is the environment of a process that reaches a model and runs Codex without a container.
func aidedBy(t testing.TB, m *enginetest.Model) []string {
	t.Helper()
	return []string{"VEGA_LLM_PROVIDER_BASE_URL=" + m.URL, "VEGA_LLM_PROVIDER_API_KEY=" + m.Key, "VEGA_LLM_PROXY_LISTEN_ADDR=127.0.0.1:0",
		"VEGA_V16_CODEX_BIN=" + newestCodex(t), "VEGA_V16_CODEX_SANDBOX=none", "VEGA_V16_PARALLEL=1"}
}

// auditor is a model that finds one fault in each of the parts of a tree, and holds the answers that a test wants held.
type auditor struct {
	t       *testing.T
	parts   int
	sleeper string // what a held audit leaves running: a command that nobody else here runs

	mu      sync.Mutex // guards what follows
	held    map[string]int
	reached chan string
}

func newAuditor(t *testing.T, parts int) *auditor {
	return &auditor{t: t, parts: parts, sleeper: fmt.Sprintf("sleep %d", 100_000+rand.IntN(1_000_000_000)), held: map[string]int{}, reached: make(chan string, 1)}
}

// hold has the nth answer to a question of a stage, counted from now, wait until its client is gone.
func (a *auditor) hold(stage string, nth int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held[stage] = nth
}

func (a *auditor) source() map[string]string {
	files := map[string]string{}
	for i := range a.parts {
		files[fmt.Sprintf("svc%d/main.py", i+1)] = fmt.Sprintf("import os, sys\n\n\ndef run%d(name):\n    os.system(\"echo \" + name)\n\n\nrun%d(sys.argv[1])\n", i+1, i+1)
	}
	return files
}

func (a *auditor) answer(q enginetest.Question) pt.Answer {
	a.mu.Lock()
	if n := a.held[q.Stage]; n > 0 && q.Results == 0 {
		a.held[q.Stage] = n - 1
		if n == 1 {
			a.mu.Unlock()
			if q.Stage == "audit" {
				return q.Shell("setsid " + a.sleeper + " >/dev/null 2>&1 & echo started") // and then its next request is held
			}
			return a.wait(q)
		}
	}
	a.mu.Unlock()
	switch q.Stage {
	case "threat_model":
		return q.Answer(pack.ThreatModelAnswer{ThreatProfile: events.ThreatProfile{Summary: "Programs that are started with a name and run a command with it.", Assets: []string{"the machine"}, EntryPoints: []string{"svc1/main.py: arguments"},
			TrustBoundaries: []string{"arguments come from outside"}, Risks: []string{"commands run from arguments"}, OutOfScope: []string{"nothing"}}})
	case "plan":
		p := pack.PlanAnswer{LeftOut: []pack.LeftOut{}}
		for i := range a.parts {
			p.Components = append(p.Components, pack.Component{ID: fmt.Sprintf("c%d", i+1), Title: fmt.Sprintf("svc%d", i+1), Paths: []string{fmt.Sprintf("svc%d", i+1)}, Why: "It takes an argument from outside.", Focus: []string{"injection.command"}})
		}
		return q.Answer(p)
	case "audit":
		if strings.Contains(strings.Join(q.Outputs, ""), "started") {
			return a.wait(q)
		}
		if q.Results == 0 {
			return q.Shell("cat " + q.Component + "/main.py")
		}
		file := q.Component + "/main.py"
		return q.Answer(pack.AuditAnswer{Examined: []string{file}, NotExamined: []pack.LeftOut{},
			Summary: "The one argument goes into a command. Is it checked on the way? It is not: the program was read from its first to its last line.",
			Findings: []pack.AuditFinding{{Rule: "injection.command", Severity: "high", SeverityReason: "Whoever starts it can do it.", Confidence: "high", Title: "The argument of " + file + " is run as a command",
				Description: "The argument is put into a command line without quoting.", File: file, StartLine: 5, EndLine: 5, Quote: `    os.system("echo " + name)`, Symbol: "run",
				AttackPath: "1. An attacker passes a name with a semicolon (" + file + ":8). 2. The shell runs what follows it (" + file + ":5).", Preconditions: "None", Evidence: file + ":5 builds the command", Remediation: "Use subprocess.run with a list."}}})
	default:
		if q.Results == 0 {
			return q.Shell("cat */main.py")
		}
		return q.Answer(pack.RefuteAnswer{Verdict: pack.Stands, Reason: "The argument was followed from the last line to the command; nothing checks it.", Checked: []string{"svc1/main.py:5"}, Severity: "high", SeverityReason: "As claimed."})
	}
}

func (a *auditor) wait(q enginetest.Question) pt.Answer {
	a.reached <- q.Stage
	return pt.Silence(nil, nil)
}

// await returns once a held answer was asked for.
func (a *auditor) await(stage string) {
	a.t.Helper()
	select {
	case got := <-a.reached:
		if got != stage {
			a.t.Fatalf("%s was reached, want %s", got, stage)
		}
	case <-time.After(2 * time.Minute):
		a.t.Fatalf("%s was not reached", stage)
	}
}

// sleeping says that a command that a killed attempt left runs still.
func (a *auditor) sleeping() bool {
	a.t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		a.t.Fatal(err)
	}
	return slices.ContainsFunc(lines, func(path string) bool {
		b, err := os.ReadFile(path)
		return err == nil && strings.TrimRight(strings.ReplaceAll(string(b), "\x00", " "), " ") == a.sleeper
	})
}

// Killing the process in each stage that asks the model costs the question that was on its way and nothing else: the provider is asked for no recorded answer again, and the findings are those
// of a scan that nothing ended, which a comparison of the two says as well.
func TestKillingTheServerInEachStageOfTheAgent(t *testing.T) {
	t.Parallel()
	const parts = 3
	a := newAuditor(t, parts)
	model := enginetest.Start(t, a.answer)
	home := t.TempDir()
	env := append(aidedBy(t, model), "VEGA_SCAN_MAX_ATTEMPTS=9")
	s := serveIn(t, home, env...)
	repo := a.prepare(s)
	stages := []struct {
		name string
		nth  int
	}{{"threat_model", 1}, {"plan", 1}, {"audit", 2}, {"refute", 2}}
	a.hold(stages[0].name, stages[0].nth)
	var scan struct{ ID string }
	s.do(t, http.MethodPost, "/repositories/"+repo+"/scans", map[string]any{}, &scan)
	for i, st := range stages {
		a.await(st.name)
		if st.name == "audit" && !a.sleeping() {
			t.Error("the audit started nothing that could be left")
		}
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		if i+1 < len(stages) {
			a.hold(stages[i+1].name, stages[i+1].nth)
		}
		s = serveIn(t, home, env...)
		if a.sleeping() {
			t.Error("what the killed attempt had started runs on")
		}
	}
	type view struct {
		Status   string
		Attempt  int
		Coverage struct {
			State   string
			Reasons []any
		}
		Findings events.Counts
	}
	follow := func(id string) (v view) {
		t.Helper()
		seq, err := newClient(s.base, s.token).follow(t.Context(), id, func(liveEvent) {})
		if err != nil {
			t.Fatal(err)
		}
		s.do(t, http.MethodGet, "/scans/"+id+"?at_least="+seq, nil, &v)
		return v
	}
	v := follow(scan.ID)
	if v.Status != "completed" || v.Attempt != 5 || v.Coverage.State != "complete" || v.Findings.High != parts {
		t.Errorf("the scan is %+v, want completed by the fifth attempt with complete coverage and %d findings", v, parts)
	}
	asked := map[string]int{}
	for _, q := range model.Asked() {
		name := q.Stage
		if q.Stage == "audit" {
			name += " " + q.Component
		}
		asked[name]++
	}
	// One more than without kills for each question that was on its way; the second component had made two requests.
	want := map[string]int{"threat_model": 2, "plan": 2, "audit svc1": 2, "audit svc2": 4, "audit svc3": 2, "refute": 2*parts + 1}
	if got, wanted := fmt.Sprint(asked), fmt.Sprint(want); got != wanted {
		t.Errorf("the provider was asked %s, want %s", got, wanted)
	}

	var again struct{ ID string }
	s.do(t, http.MethodPost, "/repositories/"+repo+"/scans", map[string]any{}, &again)
	if v := follow(again.ID); v.Status != "completed" || v.Attempt != 1 {
		t.Errorf("the scan without kills is %+v", v)
	}
	var compared struct {
		Base   string `json:"base_scan_id"`
		Counts json.RawMessage
	}
	s.do(t, http.MethodGet, "/scans/"+again.ID+"/compare", nil, &compared)
	if compared.Base != scan.ID || string(compared.Counts) != `{"new":0,"persisting":3,"reopened":0,"resolved":0,"unknown":0}` {
		t.Errorf("compared with %s: %s, want the same findings as %s has", compared.Base, compared.Counts, scan.ID)
	}
	s.stop(t)
}

// prepare makes a repository with the auditor's source on a server.
func (a *auditor) prepare(s *running) (repository string) {
	a.t.Helper()
	var archive bytes.Buffer
	if _, err := intake.PackDir(a.t.Context(), tree(a.t, a.source()), &archive, intake.PackOptions{}); err != nil {
		a.t.Fatal(err)
	}
	var project, repo struct{ ID string }
	s.do(a.t, http.MethodPost, "/projects", map[string]string{"name": "p"}, &project)
	s.do(a.t, http.MethodPost, "/projects/"+project.ID+"/repositories", map[string]string{"name": "r", "source_type": "upload"}, &repo)
	s.do(a.t, http.MethodPost, "/repositories/"+repo.ID+"/source", archive.Bytes(), &struct{}{})
	return repo.ID
}

// A cancelled scan is cancelled once nothing of its agent runs any more, and the provider is asked for nothing after that.
func TestCancellingAScanEndsItsAgent(t *testing.T) {
	t.Parallel()
	a := newAuditor(t, 2)
	model := enginetest.Start(t, a.answer)
	s := serveIn(t, t.TempDir(), aidedBy(t, model)...)
	repo := a.prepare(s)
	a.hold("audit", 1)
	var scan struct{ ID string }
	s.do(t, http.MethodPost, "/repositories/"+repo+"/scans", map[string]any{}, &scan)
	a.await("audit")
	asked := len(model.Asked())
	s.do(t, http.MethodPost, "/scans/"+scan.ID+"/cancel", map[string]any{"reason": "enough"}, nil)
	if _, err := newClient(s.base, s.token).follow(t.Context(), scan.ID, func(liveEvent) {}); err != nil {
		t.Fatal(err)
	}
	var v struct{ Status string }
	s.do(t, http.MethodGet, "/scans/"+scan.ID, nil, &v)
	if v.Status != "cancelled" {
		t.Errorf("the scan is %s", v.Status)
	}
	if a.sleeping() {
		t.Error("the scan is cancelled, and what its agent had started runs on")
	}
	if n := len(model.Asked()); n != asked {
		t.Errorf("the provider was asked %d times after the cancellation", n-asked)
	}
	s.stop(t)
}

// A worker of this machine reaches the model through the API process's proxy, without a setting of its own for the provider; what it does is seen live, with the last event's age.
func TestAWorkerOfThisMachineReachesTheModel(t *testing.T) {
	t.Parallel()
	a := newAuditor(t, 1)
	model := enginetest.Start(t, a.answer)
	home := t.TempDir()
	s := serveIn(t, home, append(aidedBy(t, model), "VEGA_SCAN_EXECUTION_MODE=external")...)
	w := newProcess(t, "worker", home, []string{"VEGA_SERVICE_ROLE=worker", "VEGA_V16_CODEX_BIN=" + newestCodex(t), "VEGA_V16_CODEX_SANDBOX=none"})
	w.start()
	repo := a.prepare(s)
	a.hold("audit", 1)
	var scan struct{ ID string }
	s.do(t, http.MethodPost, "/repositories/"+repo+"/scans", map[string]any{"budget": map[string]any{"requests": 50}}, &scan)
	a.await("audit")
	var v struct {
		Stage     string
		LastEvent string   `json:"last_event_at"`
		Age       *float64 `json:"last_event_age_seconds"`
		Caps      struct{ Requests int }
		Usage     struct{ Requests int }
	}
	until(t, time.Minute, "the scan shows where it is", func() bool {
		s.do(t, http.MethodGet, "/scans/"+scan.ID, nil, &v)
		return v.Stage == "audit" && v.Usage.Requests >= 3
	})
	if v.LastEvent == "" || v.Age == nil || *v.Age < 0 || v.Caps.Requests != 50 {
		t.Errorf("the scan is %+v", v)
	}
	var live struct {
		Items []struct {
			Kind    string
			Payload struct{ Message string }
		}
	}
	s.do(t, http.MethodGet, "/scans/"+scan.ID+"/events?limit=1000", nil, &live)
	if !slices.ContainsFunc(live.Items, func(e struct {
		Kind    string
		Payload struct{ Message string }
	}) bool {
		return e.Kind == "scan_log" && strings.Contains(e.Payload.Message, "audit c1: $ ") && strings.Contains(e.Payload.Message, a.sleeper)
	}) {
		t.Errorf("the live feed has no line with the agent's command: %+v", live.Items)
	}
	s.do(t, http.MethodPost, "/scans/"+scan.ID+"/cancel", map[string]any{}, nil)
	if _, err := newClient(s.base, s.token).follow(t.Context(), scan.ID, func(liveEvent) {}); err != nil {
		t.Fatal(err)
	}
}

// The command with a model: what it costs is shown, the budget holds, and what is found decides about the exit code.
func TestScanWithAModel(t *testing.T) {
	t.Parallel()
	a := newAuditor(t, 1)
	model := enginetest.Start(t, a.answer)
	home, src := t.TempDir(), tree(t, a.source())
	stdout, stderr, code := vega(t, home, aidedBy(t, model), "scan", src, "--budget", "2.50", "--max-requests", "40")
	if code != exitFindings {
		t.Fatalf("exit code %d, want %d: %s%s", code, exitFindings, stdout, stderr)
	}
	for _, want := range []string{"svc1/main.py:5", "1 high", "Coverage: complete"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the findings do not say %q: %s", want, stdout)
		}
	}
	if !strings.Contains(stderr, "of $2.50") || strings.Contains(stderr, "VEGA_LLM_PROVIDER_BASE_URL") {
		t.Errorf("the progress does not say what was spent, or says how to turn on what is on: %s", stderr)
	}
	asked := len(model.Asked())
	if stdout, stderr, code = vega(t, home, aidedBy(t, model), "scan", src, "--max-requests", "1"); code != exitIncomplete || len(model.Asked()) != asked+1 || !strings.Contains(stdout, "the scan's own budget") {
		t.Errorf("exit code %d after %d requests under a budget of one: %s%s", code, len(model.Asked())-asked, stdout, stderr)
	}
	stdout, stderr, code = vega(t, home, nil, "scan", src)
	if code != exitOK || strings.Count(stderr, "VEGA_LLM_PROVIDER_BASE_URL") != 1 || !strings.Contains(stderr, "codex-image") {
		t.Errorf("without a model: exit code %d, %s%s", code, stdout, stderr)
	}
}

// The default way: each run in a container of its own, started by the copy of the script that the binary carries. A server that is killed leaves no container, and the next one goes on.
func TestAScanInContainers(t *testing.T) {
	t.Parallel()
	e := dockertest.Start(t)
	if e == nil {
		return // it said why
	}
	const image = "vega-codex-runner:scan"
	e.RunnerImage(t, image)
	a := newAuditor(t, 1)
	model := enginetest.Start(t, a.answer)
	home := t.TempDir()
	// The first of a repeated variable counts: docker is Debian's, by the engine's own PATH.
	env := append(e.Env(), "VEGA_LLM_PROVIDER_BASE_URL="+model.URL, "VEGA_LLM_PROVIDER_API_KEY="+model.Key, "VEGA_LLM_PROXY_LISTEN_ADDR=127.0.0.1:0", "VEGA_V16_CODEX_DOCKER_IMAGE="+image, "VEGA_V16_CODEX_MEMORY=512m")
	s := serveIn(t, home, env...)
	repo := a.prepare(s)
	a.hold("audit", 1)
	var scan struct{ ID string }
	s.do(t, http.MethodPost, "/repositories/"+repo+"/scans", map[string]any{}, &scan)
	a.await("audit")
	running := func() string { return e.Must("ps", "--all", "--quiet", "--filter", "label=vega.scan="+scan.ID) }
	if running() == "" {
		t.Error("no container runs for the scan")
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	until(t, time.Minute, "the containers of the killed server are gone", func() bool { return running() == "" })
	s = serveIn(t, home, env...)
	seq, err := newClient(s.base, s.token).follow(t.Context(), scan.ID, func(liveEvent) {})
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Status   string
		Attempt  int
		Coverage struct {
			State   string
			Reasons []any
		}
		Findings events.Counts
	}
	s.do(t, http.MethodGet, "/scans/"+scan.ID+"?at_least="+seq, nil, &v)
	if v.Status != "completed" || v.Attempt != 2 || v.Coverage.State != "complete" || v.Findings.High != 1 {
		t.Errorf("the scan is %+v, want completed by the second attempt with complete coverage and its finding", v)
	}
	for _, q := range model.Asked() {
		if q.Source != "/source" {
			t.Errorf("%s was asked about %s, want the container's folder", q.Stage, q.Source)
		}
	}
	if left := running(); left != "" {
		t.Errorf("containers %s are left", left)
	}
	s.stop(t)
}

// A worker that is asked to stop in the middle of an audit leaves nothing running and gives the scan back, and another one goes on without asking for what was recorded.
func TestAStoppedWorkersAgentGoesOnElsewhere(t *testing.T) {
	t.Parallel()
	a := newAuditor(t, 2)
	model := enginetest.Start(t, a.answer)
	home := t.TempDir()
	s := serveIn(t, home, append(aidedBy(t, model), "VEGA_SCAN_EXECUTION_MODE=external")...)
	worker := func() *process {
		return newProcess(t, "worker", home, []string{"VEGA_SERVICE_ROLE=worker", "VEGA_V16_CODEX_BIN=" + newestCodex(t), "VEGA_V16_CODEX_SANDBOX=none", "VEGA_V16_PARALLEL=1", "VEGA_WORKER_DRAIN_SECONDS=0"})
	}
	first := worker()
	first.start()
	repo := a.prepare(s)
	a.hold("audit", 2)
	var scan struct{ ID string }
	s.do(t, http.MethodPost, "/repositories/"+repo+"/scans", map[string]any{}, &scan)
	a.await("audit")
	if err := first.stop(); err != nil {
		t.Errorf("the worker ended with %v", err)
	}
	if a.sleeping() {
		t.Error("the worker has ended, and what its agent had started runs on")
	}
	second := worker()
	second.start()
	seq, err := newClient(s.base, s.token).follow(t.Context(), scan.ID, func(liveEvent) {})
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Status   string
		Coverage struct{ State string }
		Findings events.Counts
	}
	s.do(t, http.MethodGet, "/scans/"+scan.ID+"?at_least="+seq, nil, &v)
	if v.Status != "completed" || v.Coverage.State != "complete" || v.Findings.High != 2 {
		t.Errorf("the scan is %+v", v)
	}
	asked := map[string]int{}
	for _, q := range model.Asked() {
		asked[q.Stage+q.Component]++
	}
	if asked["threat_model"] != 1 || asked["plan"] != 1 || asked["auditsvc1"] != 2 || asked["auditsvc2"] != 4 {
		t.Errorf("the provider was asked %v, want nothing twice but the audit that was on its way", asked)
	}
	var history struct{ Items []struct{ Type string } }
	s.do(t, http.MethodGet, "/scans/"+scan.ID+"/history?limit=1000", nil, &history)
	if !slices.ContainsFunc(history.Items, func(e struct{ Type string }) bool { return e.Type == "scan.released" }) {
		t.Errorf("the scan was not given back: %+v", history.Items)
	}
}

// A command that is killed leaves a scan behind. The next one says so, and cancels it when it is told to; what was on its way to the provider holds nothing back.
func TestAKilledScanCommandLeavesAScanToGoOnWithOrCancel(t *testing.T) {
	t.Parallel()
	a := newAuditor(t, 1)
	model := enginetest.Start(t, a.answer)
	home, src := t.TempDir(), tree(t, a.source())
	for _, cancel := range []bool{false, true} {
		a.hold("audit", 1)
		killed := command(t, home, aidedBy(t, model), "scan", src, "--budget", "1.20")
		if err := killed.Start(); err != nil {
			t.Fatal(err)
		}
		a.await("audit")
		_ = killed.Process.Kill()
		_ = killed.Wait() // it was killed
		args, want := []string{"scan", src}, "goes on as well"
		if cancel {
			args, want = append(args, "--cancel-earlier"), "is cancelled"
		}
		stdout, stderr, code := vega(t, home, aidedBy(t, model), args...)
		if code != exitFindings || strings.Count(stderr, want) != 1 {
			t.Errorf("exit code %d, want %d and one scan that %s: %s%s", code, exitFindings, want, stdout, stderr)
		}
		s := serveIn(t, home, append(aidedBy(t, model), "VEGA_DATA_DIR="+filepath.Join(home, ".local", "state", "vega"))...)
		var list struct {
			Items []struct{ ID, Status string }
		}
		until(t, 2*time.Minute, "every scan has ended", func() bool {
			s.do(t, http.MethodGet, "/scans", nil, &list)
			return !slices.ContainsFunc(list.Items, func(x struct{ ID, Status string }) bool { return x.Status != "completed" && x.Status != "cancelled" })
		})
		if got := len(list.Items); got != map[bool]int{false: 2, true: 4}[cancel] {
			t.Errorf("%d scans", got)
		}
		s.stop(t)
	}
}

// What lies in the folder that is scanned is run by nobody and decides nothing, also when the command is started in it.
func TestAFolderThatIsScannedFromInsideDecidesNothing(t *testing.T) {
	t.Parallel()
	proof := filepath.Join(t.TempDir(), "proof")
	evil := "#!/bin/sh\ntouch " + proof + "\n"
	src := tree(t, map[string]string{
		"src/main.py":                          "print('hello')\n",
		"evil.sh":                              evil,
		".env":                                 "VEGA_V16_CODEX_BIN=./evil.sh\nVEGA_LLM_PROVIDER_BASE_URL=http://127.0.0.1:9/stolen\nVEGA_REGION=stolen\n",
		"src/.env":                             "VEGA_V16_CODEX_BIN=../evil.sh\nVEGA_REGION=stolen\n",
		".git/HEAD":                            "ref: refs/heads/main\n",
		"lib/util.py":                          "print(1)\n",
		"scripts/codex-in-target-container.sh": evil,
		"v16/pack.json":                        "no pack",
	})
	if err := os.Chmod(filepath.Join(src, "evil.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(src, "scripts", "codex-in-target-container.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(src, link); err != nil {
		t.Fatal(err)
	}
	m := enginetest.Start(t, newAuditor(t, 1).answer)
	for name, c := range map[string]struct{ dir, path string }{
		"the folder itself":              {src, "."},
		"a folder in it":                 {src, "src"},
		"from a folder in it":            {filepath.Join(src, "src"), ".."},
		"another folder of the checkout": {filepath.Join(src, "src"), "../lib"},
		"by a link":                      {link, "."},
		"by another name than it is":     {src, link},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home := t.TempDir()
			env := []string{"HOME=" + home, "VEGA_LLM_PROVIDER_BASE_URL=" + m.URL, "VEGA_LLM_PROVIDER_API_KEY=" + m.Key, "VEGA_LLM_PROXY_LISTEN_ADDR=127.0.0.1:0"}
			out, errs, code := vega(t, c.dir, env, "scan", c.path, "--json")
			if code != exitIncomplete || !strings.Contains(errs, "vega: warning: .env in this folder is not read") {
				t.Errorf("exit code %d, %s%s", code, out, errs)
			}
			if strings.Contains(out, "scan_stolen_") || !strings.Contains(out, "scan_local_") {
				t.Errorf("the scan's settings are not the user's: %s", out)
			}
			if _, err := os.Stat(proof); err == nil {
				t.Error("a program of the source was run")
			}
		})
	}
	own := t.TempDir()
	if err := os.WriteFile(filepath.Join(own, ".env"), []byte("VEGA_REGION=mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, code := vega(t, own, nil, "scan", src, "--json"); code != exitOK || !strings.Contains(out, "scan_mine_") || strings.Contains(errs, "warning") {
		t.Errorf("with settings of one's own: exit code %d, %s%s", code, out, errs)
	}
}

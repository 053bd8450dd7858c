package engine_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vega/config/secret"
	"vega/events"
	"vega/scripts"
	"vega/services/engine"
	"vega/services/llmproxy"
	"vega/services/llmproxy/enginetest"
	pt "vega/services/llmproxy/providertest"
	"vega/v16"
)

// Whatever keeps the stages that need a model from running is said in one sentence, in each of them, before anything was spent; the other stages do their work.
func TestWhatKeepsTheModelAwayIsSaidInOneSentence(t *testing.T) {
	t.Parallel()
	programFile := func(t *testing.T, name, body string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	script := func(t *testing.T, docker string) (bin, path string) {
		t.Helper()
		bin = filepath.Join(t.TempDir(), "codex-in-target-container.sh")
		if err := os.WriteFile(bin, scripts.CodexInContainer(), 0o755); err != nil {
			t.Fatal(err)
		}
		tools := t.TempDir()
		for _, name := range []string{"bash", "env", "tr", "sed", "id", "tar", "cat", "sleep"} {
			for _, dir := range []string{"/usr/bin", "/bin"} {
				if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
					if err := os.Symlink(filepath.Join(dir, name), filepath.Join(tools, name)); err != nil {
						t.Fatal(err)
					}
					break
				}
			}
		}
		if docker != "" {
			if err := os.WriteFile(filepath.Join(tools, "docker"), []byte("#!/bin/sh\n"+docker+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		return bin, tools
	}
	for _, c := range []struct {
		name   string
		bin    func(t *testing.T) (bin, path string)
		answer pt.Answer // to the proxy's question to the provider
		proxy  func(*llmproxy.Config)
		change func(*engine.Job)
		says   string
	}{
		{name: "codex is missing", bin: func(*testing.T) (string, string) { return "/no/such/codex", "" }, says: "codex is not there: /no/such/codex is no program (VEGA_V16_CODEX_BIN)"},
		{name: "codex is too old", bin: func(t *testing.T) (string, string) { return programFile(t, "codex", "echo codex-cli 0.120.0"), "" }, says: "codex 0.120.0 is too old"},
		{name: "it is not codex", bin: func(t *testing.T) (string, string) { return programFile(t, "codex", "echo hello"), "" }, says: "is not Codex: it answers --version with \"hello\""},
		{name: "docker is missing", bin: func(t *testing.T) (string, string) { return script(t, "") }, says: "there is no docker command in PATH"},
		{name: "docker does not answer", bin: func(t *testing.T) (string, string) {
			return script(t, "echo Cannot connect to the Docker daemon >&2; exit 1")
		}, says: "the Docker engine does not answer: Cannot connect to the Docker daemon"},
		{name: "the image is missing", bin: func(t *testing.T) (string, string) {
			return script(t, `case "$1" in version) echo 28;; *) echo No such image >&2; exit 1;; esac`)
		}, says: "Docker has no image vega-codex-runner:latest: build it with make codex-image"},
		{name: "the proxy is down", change: func(j *engine.Job) { j.Access.BaseURL = "http://127.0.0.1:1/v1" }, says: "the LLM proxy does not answer: dial tcp 127.0.0.1:1"},
		{name: "the proxy does not know the token", change: func(j *engine.Job) { j.Access.Token = secret.New("not a token") }, says: "the token is not one of this proxy's"},
		{name: "the provider refuses the key", answer: pt.Error(401, "invalid_api_key", "bad key"), says: "key"},
		{name: "the provider is away", answer: pt.HangUp(), says: "provider"},
		{name: "the model is not allowed", proxy: func(c *llmproxy.Config) { c.AllowedModels = []string{"other-*"} }, says: "gpt-5.4"},
		{name: "the model has no price", proxy: func(c *llmproxy.Config) { c.MaxCostPerScan = 1e9 }, change: func(j *engine.Job) { j.Model = "house/unpriced" }, says: "house/unpriced"},
		{name: "nothing is set", change: func(j *engine.Job) {
			j.Access = engine.Access{Missing: []string{"VEGA_LLM_PROVIDER_BASE_URL", "VEGA_LLM_PROVIDER_API_KEY"}}
		}, says: "needs a model; set VEGA_LLM_PROVIDER_BASE_URL, VEGA_LLM_PROVIDER_API_KEY"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			model := enginetest.StartWith(t, c.answer, func(q enginetest.Question) pt.Answer {
				t.Errorf("the provider was asked about %s", q.Stage)
				return q.Say("no")
			})
			l := enginetest.Begin(t, model, c.proxy)
			e := aided(t, nil)
			if c.bin != nil {
				bin, path := c.bin(t)
				var err error
				e, err = engine.New(engine.Config{MaskSecret: secret.New("k"), CodexBin: bin, CodexBinGiven: true, CodexDockerImage: "vega-codex-runner:latest", Model: "gpt-5.4"},
					engine.Options{Log: slog.New(slog.DiscardHandler), Pack: v16.Files(), HostEnv: []string{"PATH=" + path, "HOME=/nowhere"}})
				if err != nil {
					t.Fatal(err)
				}
			}
			job := aidedJob(t, l, programs(t, 1))
			if c.change != nil {
				c.change(&job)
			}
			rec := newRecorder()
			out, err := e.Run(t.Context(), job, rec)
			if err != nil {
				t.Fatal(err)
			}
			for _, stage := range []string{"threat_model", "plan", "audit", "refute"} {
				said := ""
				for _, r := range out.Coverage.Reasons {
					if r.Stage == stage {
						said = r.Message
					}
				}
				if !strings.Contains(said, c.says) || strings.ContainsAny(said, "\n") {
					t.Errorf("%s: %q, want %q", stage, said, c.says)
				}
			}
			if out.Coverage.State != events.CoveragePartial || len(rec.stages) != len(engine.StageNames()) {
				t.Errorf("coverage %s after %d stages", out.Coverage.State, len(rec.stages))
			}
			if u := l.Spent(); u.Settled != (events.Usage{}) {
				t.Errorf("spent %+v, want nothing", u.Settled)
			}
		})
	}
}

// A pack that is not valid stops the start, with the file and the line.
func TestADamagedPackStopsTheStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(dir, v16.Files()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "severity.md"), []byte("# Severity\n\n{{.Nobody}}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := engine.New(engine.Config{MaskSecret: secret.New("k"), Root: dir, RootGiven: true}, engine.Options{Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "severity.md:3") || !strings.Contains(err.Error(), "VEGA_V16_ROOT") {
		t.Errorf("New = %v, want severity.md:3", err)
	}
	_, err = engine.New(engine.Config{MaskSecret: secret.New("k"), Root: filepath.Join(dir, "none"), RootGiven: true}, engine.Options{Log: slog.New(slog.DiscardHandler), Pack: v16.Files()})
	if err == nil || !strings.Contains(err.Error(), "VEGA_V16_ROOT") {
		t.Errorf("New with a folder that is not there = %v", err)
	}
}

package codex_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vega/config/secret"
	"vega/scripts/installed"
	"vega/services/engine/codex"
	"vega/services/engine/pack"
	pt "vega/services/llmproxy/providertest"
	"vega/v16"
)

// program is a release of Codex without a container.
func program(t testing.TB, release string) *codex.Program {
	t.Helper()
	bin, err := installed.Codex(release)
	if err != nil {
		t.Fatal(err)
	}
	return codex.New(codex.Options{Bin: bin, Sandbox: "none", HostEnv: []string{"PATH=" + os.Getenv("PATH")}})
}

const schema = `{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"],"additionalProperties":false}`

// task asks a provider something about a tree.
func task(t testing.TB, p *pt.Provider, source string) codex.Task {
	t.Helper()
	pack, err := pack.Load(v16.Files(), "the built-in pack")
	if err != nil {
		t.Fatal(err)
	}
	catalog, err := pack.Catalog("gpt-5.4")
	if err != nil {
		t.Fatal(err)
	}
	attempt := filepath.Join(t.TempDir(), "process", "attempt")
	dir := filepath.Join(attempt, "run")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return codex.Task{ID: "run-1", Label: "scan", Dir: dir, Folder: attempt, Source: source, Model: "gpt-5.4", Catalog: catalog, Schema: []byte(schema),
		Prompt: "Look at " + codex.SourcePath + ".", Upstream: codex.Upstream{BaseURL: p.URL, Token: secret.New(p.Key)}, Timeout: 2 * time.Minute}
}

var tiny = pt.Usage{Input: 10, Output: 5}

// each runs a test with every release.
func each(t *testing.T, f func(t *testing.T, release string)) {
	for _, release := range installed.CodexReleases {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			f(t, release)
		})
	}
}

func TestAnAnswerComesBackWithWhatItCost(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, release string) {
		source := t.TempDir()
		if err := os.WriteFile(filepath.Join(source, "main.go"), []byte("package main // the content\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		p := pt.Start(t, pt.InTurn(pt.Shell("cat '"+source+"/main.go'", tiny), pt.Shell("env", tiny), pt.Text(`{"ok":true}`, tiny)))
		task := task(t, p, source)
		var outputs []string
		task.OnEvent = func(e codex.Event) {
			if e.Type == "item.completed" && e.Item.Type == "command_execution" {
				outputs = append(outputs, e.Item.Output)
			}
		}
		res, err := program(t, release).Run(t.Context(), task)
		if err != nil || res.Answer != `{"ok":true}` || res.Usage.Requests != 3 || res.Usage.Input != 30 {
			t.Fatalf("Run = %+v, %v", res, err)
		}
		if len(outputs) != 2 || !strings.Contains(outputs[0], "the content") || !strings.Contains(outputs[1], "PWD="+filepath.Join(task.Dir, "home", "work")) {
			t.Errorf("the command printed %q", outputs)
		}
		if strings.Contains(strings.Join(outputs, ""), "VEGA_RUN_KEY") || strings.Contains(strings.Join(outputs, ""), p.Key) {
			t.Errorf("the model's commands see a key: %q", outputs)
		}
		body := string(p.Requests()[0].Body)
		if !strings.Contains(body, source) || !strings.Contains(body, `"strict":true`) {
			t.Errorf("the prompt does not say where the source is, or the schema is missing: %.300s", body)
		}
	})
}

// Without a container Codex's own sandbox keeps the model's commands from writing and from the network.
func TestAPlainCodexIsConfinedByItsSandbox(t *testing.T) {
	t.Parallel()
	bin, err := installed.Codex(installed.CodexReleases[len(installed.CodexReleases)-1])
	if err != nil {
		t.Fatal(err)
	}
	source := t.TempDir()
	p := pt.Start(t, pt.InTurn(pt.Shell("echo x >"+source+"/new || echo denied; (echo >/dev/tcp/127.0.0.1/1) 2>&1", tiny), pt.Text(`{"ok":true}`, tiny)))
	confined := codex.New(codex.Options{Bin: bin, Sandbox: "read-only", HostEnv: []string{"PATH=" + os.Getenv("PATH")}})
	task := task(t, p, source)
	if _, err := confined.Run(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	// What the model is told counts: of a command that ends at once and looks like one its sandbox has stopped, Codex 0.169.0 sometimes reports no event.
	_, told, _ := bytes.Cut(p.Requests()[1].Body, []byte("function_call_output"))
	told, _, _ = bytes.Cut(told, []byte(`"tools"`))
	if _, err := os.Stat(filepath.Join(source, "new")); err == nil || !bytes.Contains(told, []byte("denied")) || !bytes.Contains(told, []byte("Operation not permitted")) {
		t.Errorf("the model was told %.500q, and the file: %v", told, err)
	}
}

// What is started by a command of the model is gone when Run returns, whatever session it is in.
func TestACancelledRunLeavesNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, release string) {
		pids := filepath.Join(t.TempDir(), "pids")
		p := pt.Start(t, pt.Always(pt.Shell("echo $$ >>"+pids+"; setsid sleep 1000 & echo $! >>"+pids+"; echo ready >>"+pids+"; sleep 1000", tiny)))
		task := task(t, p, t.TempDir())
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		go func() { // ends with the file
			for t.Context().Err() == nil {
				if b, err := os.ReadFile(pids); err == nil && strings.Contains(string(b), "ready") {
					break
				}
				<-time.After(10 * time.Millisecond)
			}
			cancel(enough)
		}()
		if _, err := program(t, release).Run(ctx, task); !errors.Is(err, enough) {
			t.Errorf("Run = %v, want the cause", err)
		}
		b, err := os.ReadFile(pids)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, f := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(f)
			if err != nil {
				continue
			}
			n++
			if stat, err := os.ReadFile("/proc/" + f + "/stat"); syscall.Kill(pid, 0) == nil && err == nil && !strings.Contains(string(stat), ") Z ") {
				t.Errorf("process %d lives", pid)
			}
		}
		if n != 2 {
			t.Errorf("%d processes were started, want 2", n)
		}
	})
}

func TestWhyARunHasNoAnswer(t *testing.T) {
	t.Parallel()
	release := installed.CodexReleases[len(installed.CodexReleases)-1]
	for _, c := range []struct {
		name   string
		answer pt.Script
		change func(*codex.Task)
		kind   codex.FailureKind
		says   string
		code   string
	}{
		{name: "the proxy refuses", answer: pt.Always(pt.Error(400, "vega_scan_cap_exceeded", "this scan may make 2 requests")), kind: codex.Refused, says: "this scan may make 2 requests", code: "vega_scan_cap_exceeded"},
		{name: "the proxy refuses in the middle", answer: pt.InTurn(pt.Shell("true", tiny), pt.Error(400, "vega_scan_cap_exceeded", "no more")), kind: codex.Refused, says: "no more", code: "vega_scan_cap_exceeded"},
		{name: "the proxy is not there", answer: pt.Always(pt.Text("", tiny)), change: func(t *codex.Task) { t.Upstream.BaseURL = "://" }, kind: "", says: "not a URL"},
		{name: "its time is over", answer: pt.Always(pt.Stream(pt.Created(), pt.Pause(nil))), change: func(t *codex.Task) { t.Timeout = 2 * time.Second }, kind: codex.TimedOut, says: "longer than 2s"},
		{name: "nothing is said", answer: pt.Always(pt.Stream(pt.Created(), pt.Completed(tiny))), kind: codex.Crashed, says: "without an answer"},
		{name: "it is stopped", answer: pt.Always(pt.Shell("true", tiny)), change: func(t *codex.Task) {
			t.Pace = func(_ context.Context, c codex.Call) (codex.Verdict, string) {
				if c.N == 2 {
					return codex.Stop, "the budget is gone"
				}
				return codex.Go, ""
			}
		}, kind: codex.Stopped, says: "the budget is gone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			task := task(t, pt.Start(t, c.answer), t.TempDir())
			if c.change != nil {
				c.change(&task)
			}
			_, err := program(t, release).Run(t.Context(), task)
			f, ok := errors.AsType[*codex.Failure](err)
			if c.kind == "" {
				if ok || err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("Run = %v, want %q", err, c.says)
				}
				return
			}
			if !ok || f.Kind != c.kind || !strings.Contains(f.Message, c.says) {
				t.Fatalf("Run = %#v, want %s: %s", err, c.kind, c.says)
			}
			if c.code != "" && (f.Refusal == nil || f.Refusal.Code != c.code) {
				t.Errorf("refused with %+v, want %s", f.Refusal, c.code)
			}
		})
	}
}

func TestCheckSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	script := func(body string) string {
		path := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, bin, says string }{
		{"no such name", "codex-that-is-not-there", "codex is not there: codex-that-is-not-there is no program (VEGA_V16_CODEX_BIN)"},
		{"no such file", "/no/such/codex", "codex is not there: /no/such/codex is no program (VEGA_V16_CODEX_BIN)"},
		{"no program", plain, "codex cannot be run: " + plain + " may not be executed (VEGA_V16_CODEX_BIN)"},
		{"another program", script("echo git version 2"), "is not Codex: it answers --version with \"git version 2\""},
		{"too old", script("echo codex-cli 0.130.0"), "codex 0.130.0 is too old: 0.149.1 or newer is needed"},
		{"it explains itself", script("echo codex-in-target-container: the Docker engine does not answer >&2; exit 1"), "the Docker engine does not answer"},
		{"it says nothing", script("exit 3"), "exit status 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := codex.New(codex.Options{Bin: c.bin, HostEnv: []string{"PATH=" + os.Getenv("PATH")}}).Check(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Check = %v, want %q", err, c.says)
			}
		})
	}
	each(t, func(t *testing.T, release string) {
		if v, err := program(t, release).Check(t.Context()); err != nil || v.Number != release || v.Contained {
			t.Errorf("Check = %+v, %v", v, err)
		}
	})
}

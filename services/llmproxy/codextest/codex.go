package codextest

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vega/scripts/installed"
)

// Releases are the releases that can be run, the oldest first.
var Releases = installed.CodexReleases

const (
	tokenVariable = "VEGA_TEST_LLM_TOKEN" // is in the program's environment, and must not be in its commands'
	patience      = 5 * time.Minute       // until a run is killed
)

// places are taken by running processes.
var places = make(chan struct{}, 4)

// Options say how to run it.
type Options struct {
	Release string // one of Releases
	BaseURL string // of the provider, ending in /v1 or the like
	Token   string // what is shown to the provider
	Model   string // empty: gpt-5.4
	Prompt  string // empty: a short one
	Dir     string // where it works; empty: a new folder
	// Config is lines of config.toml for the provider's table, such as "stream_max_retries = 1"; without any the program's own limits hold.
	Config string
	// WebSearch is the setting web_search; empty: disabled.
	WebSearch string
	// Env is added to the environment, NAME=value.
	Env []string
}

// Event is one line of what the program reports.
type Event struct {
	Type  string // such as thread.started, item.completed, turn.failed
	Item  Item
	Error struct{ Message string }
	// Message is that of an event of type "error", which are also notices of another try.
	Message string
	Usage   struct {
		Input  int64 `json:"input_tokens"`
		Cached int64 `json:"cached_input_tokens"`
		Output int64 `json:"output_tokens"`
	}
}

// Item is a part of a turn.
type Item struct {
	Type             string // agent_message, command_execution, file_change, …
	Text             string
	Command          string
	AggregatedOutput string `json:"aggregated_output"`
	ExitCode         *int   `json:"exit_code"`
	Status           string
	Message          string
}

// Result is how a run ended.
type Result struct {
	Events   []Event
	Stdout   string
	Stderr   string
	ExitCode int // -1 if it was killed
}

// Failure is the message of turn.failed, empty if no turn failed.
func (r Result) Failure() string {
	for _, e := range r.Events {
		if e.Type == "turn.failed" {
			return e.Error.Message
		}
	}
	return ""
}

// Messages are what the model has said.
func (r Result) Messages() []string {
	var out []string
	for _, e := range r.Events {
		if e.Type == "item.completed" && e.Item.Type == "agent_message" {
			out = append(out, e.Item.Text)
		}
	}
	return out
}

// Commands are the commands that were run to their end.
func (r Result) Commands() []Item {
	var out []Item
	for _, e := range r.Events {
		if e.Type == "item.completed" && e.Item.Type == "command_execution" {
			out = append(out, e.Item)
		}
	}
	return out
}

// Process is a run on its way.
type Process struct {
	Home string // its CODEX_HOME and HOME

	tb     testing.TB
	cmd    *exec.Cmd
	out    bytes.Buffer // read after ended
	errs   bytes.Buffer
	ended  chan struct{}
	result error // of the process, written before ended is closed
}

// Run runs it to its end.
func Run(tb testing.TB, o Options) Result {
	tb.Helper()
	return Start(tb, o).Wait()
}

// Start starts it. It ends with the test, for sure.
func Start(tb testing.TB, o Options) *Process {
	tb.Helper()
	program, err := installed.Codex(o.Release)
	if err != nil {
		tb.Fatal(err)
	}
	if o.Dir == "" {
		o.Dir = tb.TempDir()
	}
	o.Model, o.Prompt = cmp.Or(o.Model, "gpt-5.4"), cmp.Or(o.Prompt, "Say hello.")
	tmp := tb.TempDir()
	p := &Process{Home: tb.TempDir(), tb: tb, ended: make(chan struct{})}
	if err := os.WriteFile(filepath.Join(p.Home, "config.toml"), []byte(config(o)), 0o600); err != nil {
		tb.Fatal(err)
	}
	p.cmd = exec.Command(program, "exec", "--json", "--skip-git-repo-check", "--ephemeral", "--dangerously-bypass-approvals-and-sandbox", o.Prompt)
	p.cmd.Dir = o.Dir
	p.cmd.Env = append([]string{"HOME=" + p.Home, "CODEX_HOME=" + p.Home, "TMPDIR=" + tmp, "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", tokenVariable + "=" + o.Token}, o.Env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.errs
	p.cmd.WaitDelay = 5 * time.Second // for commands that hold its output open
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	select {
	case places <- struct{}{}:
	case <-tb.Context().Done():
		tb.Fatal(tb.Context().Err())
	}
	if err := p.cmd.Start(); err != nil {
		<-places
		tb.Fatal(err)
	}
	go func() { // ends with the process, which the test's end kills
		p.result = p.cmd.Wait()
		<-places
		close(p.ended)
	}()
	tb.Cleanup(func() {
		p.Kill()
		<-p.ended
		p.sweep()
	})
	return p
}

// Kill kills the process and its group, if they still run.
func (p *Process) Kill() {
	select {
	case <-p.ended:
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it may just have ended
	}
}

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Wait returns how the run ended. It fails the test when the process does not end within five minutes, or writes what is no event.
func (p *Process) Wait() Result {
	p.tb.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-p.ended:
	case <-late.C:
		p.Kill()
		<-p.ended
		p.tb.Fatalf("codex did not end within %v; it wrote %s%s", patience, p.out.Bytes(), p.errs.Bytes())
	}
	r := Result{Stdout: p.out.String(), Stderr: p.errs.String(), ExitCode: p.cmd.ProcessState.ExitCode()}
	if _, exited := errors.AsType[*exec.ExitError](p.result); p.result != nil && !exited {
		p.tb.Fatalf("codex: %v; it wrote %s%s", p.result, r.Stdout, r.Stderr)
	}
	lines := bufio.NewScanner(strings.NewReader(r.Stdout))
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			p.tb.Fatalf("codex wrote %q, which is no event: %v", lines.Bytes(), err)
		}
		r.Events = append(r.Events, e)
	}
	if err := lines.Err(); err != nil {
		p.tb.Fatalf("read codex's events: %v", err)
	}
	return r
}

// sweep kills what has this process's home in its environment: its commands live in sessions of their own.
func (p *Process) sweep() {
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return
	}
	for _, path := range environs {
		b, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(b, []byte("HOME="+p.Home+"\x00")) {
			continue // it has just ended, or is somebody else's
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may just have ended
		}
	}
}

// config is the program's config.toml: quiet, bounded, and with one provider.
func config(o Options) string {
	return fmt.Sprintf(`model = %q
model_provider = "vega"
approval_policy = "never"
check_for_update_on_startup = false
web_search = %q

[analytics]
enabled = false

[features]
plugins = false
apps = false
goals = false
unbounded_connection_retries = false
shell_snapshot = false

[shell_environment_policy]
inherit = "core"

[model_providers.vega]
name = "Vega"
base_url = %q
env_key = %q
wire_api = "responses"
supports_websockets = false
%s
`, o.Model, cmp.Or(o.WebSearch, "disabled"), o.BaseURL, tokenVariable, o.Config)
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vega/scripts/dockertest"
	"vega/services/llmproxy/providertest"
)

const runnerImage = "vega-codex-runner:test"

// container is a run of Codex by the script, in a container.
type container struct {
	t      *testing.T
	engine *dockertest.Engine
	relay  *relay
	run    string
	folder string
	source string
	prompt string
	cmd    *exec.Cmd
	out    bytes.Buffer // both are read when it has ended
	errs   bytes.Buffer
	ended  chan struct{}
}

// newContainer prepares a run whose model is a provider.
func newContainer(t *testing.T, e *dockertest.Engine, p *providertest.Provider) *container {
	t.Helper()
	to, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	r := startRelay(t, &httputil.ReverseProxy{FlushInterval: -1, ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }, Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host, r.Out.URL.Path = to.Scheme, to.Host, to.Path+strings.TrimPrefix(r.In.URL.Path, "/v1")
		r.Out.Header.Set("Authorization", "Bearer "+p.Key)
	}})
	c := &container{t: t, engine: e, relay: r, run: strings.ToLower(rand.Text()), folder: "/worker/" + rand.Text(), source: t.TempDir(), prompt: "Audit this.", ended: make(chan struct{})}
	for path, text := range map[string]string{"main.go": "package main // the real file\n", "folder/other.go": "package folder\n"} {
		path = filepath.Join(c.source, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(c.source, 0o777); err != nil { // nothing but the mount keeps the container from writing
		t.Fatal(err)
	}
	return c
}

// script is a command of the script for this run.
func (c *container) script(args []string, env ...string) *exec.Cmd {
	c.t.Helper()
	const port = 4711
	home := c.t.TempDir()
	for name, text := range map[string]string{
		"schema.json": `{"type":"object","properties":{"answer":{"type":"string"}},"required":["answer"],"additionalProperties":false}`,
		"config.toml": fmt.Sprintf(`model = "gpt-5.4"
model_provider = "vega"
approval_policy = "never"
check_for_update_on_startup = false
web_search = "disabled"
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
base_url = "http://127.0.0.1:%d/v1"
env_key = "VEGA_RUN_KEY"
wire_api = "responses"
supports_websockets = false
request_max_retries = 0
stream_max_retries = 0
`, port),
	} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(text), 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "HOME", home)
	}
	cmd := exec.Command(filepath.Join("..", "..", "scripts", "codex-in-target-container.sh"), args...)
	cmd.Env = slices.Concat(c.engine.Env(), []string{"HOME=" + home, "CODEX_HOME=" + home, "VEGA_RUN_KEY=" + c.relay.key, "VEGA_V16_CODEX_DOCKER_IMAGE=" + runnerImage, "VEGA_CODEX_SOURCE=" + c.source,
		"VEGA_CODEX_SOCKET=" + c.relay.socket, fmt.Sprint("VEGA_CODEX_PORT=", port), "VEGA_CODEX_RUN=" + c.run, "VEGA_CODEX_SCAN=a scan", "VEGA_CODEX_FOLDER=" + c.folder, "VEGA_CODEX_MEMORY=512m",
		"VEGA_CODEX_PIDS=100", "VEGA_CODEX_TIMEOUT_SECONDS=300", "VEGA_CODEX_HOST_HOME=" + home}, env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// start starts Codex. Whatever becomes of it, nothing is left when the test has ended.
func (c *container) start(env ...string) *container {
	c.t.Helper()
	c.cmd = c.script([]string{"exec", "--json", "--skip-git-repo-check", "--ephemeral", "--dangerously-bypass-approvals-and-sandbox", "--output-schema", "HOME/schema.json", "-C", c.source, "-"}, env...)
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = strings.NewReader(c.prompt), &c.out, &c.errs
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() { // ends with the process, which the test's end kills
		_ = c.cmd.Wait()
		close(c.ended)
	}()
	c.t.Cleanup(func() {
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // it may have ended
		<-c.ended
		c.remove()
		if c.t.Failed() {
			c.t.Logf("the run's output:\n%s%s", c.out.Bytes(), c.errs.Bytes())
		}
	})
	return c
}

// wait waits for the end, and returns the exit code.
func (c *container) wait() int {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(2 * time.Minute):
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
		<-c.ended
		c.t.Fatalf("the run did not end")
	}
	return c.cmd.ProcessState.ExitCode()
}

// signal sends a signal to the script and to all that it has started.
func (c *container) signal(s syscall.Signal) {
	c.t.Helper()
	if err := syscall.Kill(-c.cmd.Process.Pid, s); err != nil {
		c.t.Fatal(err)
	}
}

// remove removes what is left of this run, or of others by env, and returns how many containers that were.
func (c *container) remove(env ...string) int {
	c.t.Helper()
	cmd := c.script([]string{"--remove"}, env...)
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("--remove: %v", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// left are the containers of this run that exist, running or not.
func (c *container) left() string {
	c.t.Helper()
	return c.engine.Must("ps", "--all", "--quiet", "--filter", "label=vega.run="+c.run)
}

// event returns when docker has told of something that happened to the run's container, now or before.
func (c *container) event(name string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := c.engine.Command(ctx, "events", "--since", "1h", "--filter", "event="+name, "--filter", "label=vega.run="+c.run, "--format", "{{.Actor.ID}}")
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer cancel()
	if lines := bufio.NewScanner(out); !lines.Scan() {
		c.t.Fatalf("docker tells of no %s: %v", name, context.Cause(ctx))
	}
}

// commands are what the model's commands have printed.
func (c *container) commands() []string {
	c.t.Helper()
	var out []string
	for line := range strings.Lines(c.out.String()) {
		var e struct {
			Type string
			Item struct {
				Type   string
				Output string `json:"aggregated_output"`
			}
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			c.t.Fatalf("Codex wrote %q, which is no event: %v", line, err)
		}
		if e.Type == "item.completed" && e.Item.Type == "command_execution" {
			out = append(out, e.Item.Output)
		}
	}
	return out
}

// shell answers with a call of Codex's shell, and with patience for what takes long on a busy machine.
func shell(t *testing.T, command string) providertest.Answer {
	t.Helper()
	arguments, err := json.Marshal(map[string]any{"cmd": command, "yield_time_ms": 30_000})
	if err != nil {
		t.Fatal(err)
	}
	return providertest.Call("exec_command", string(arguments), usage)
}

var usage = providertest.Usage{Input: 10, Output: 5}

// silence is a provider that never answers.
func silence(t *testing.T) *providertest.Provider {
	t.Helper()
	return providertest.Start(t, providertest.Always(providertest.Silence(nil, nil)))
}

func TestCodexInAContainer(t *testing.T) {
	t.Parallel()
	e := dockertest.Start(t)
	if e == nil {
		return // said why
	}
	begun := time.Now()
	e.RunnerImage(t, runnerImage)
	t.Logf("the image was built in %v", time.Since(begun).Round(time.Millisecond))

	for name, test := range map[string]func(*testing.T, *dockertest.Engine){
		"it reads the source and answers":                         readsAndAnswers,
		"the engine runs it and leaves nothing":                   contained,
		"it sees nothing else":                                    seesNothingElse,
		"it is confined as docker says":                           isConfined,
		"an interrupt ends it":                                    interruptEnds,
		"it goes with the worker":                                 goesWithTheWorker,
		"its time is limited":                                     timeIsLimited,
		"what is left is found and removed":                       leftIsRemoved,
		"three at once":                                           threeAtOnce,
		"it does not begin when nobody wants it":                  notWanted,
		"a source for its owner alone is named as such":           unreadableSource,
		"what needs more memory than it may have does not get it": memoryIsLimited,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, e)
		})
	}
	t.Run("the script knows the image", func(t *testing.T) {
		t.Parallel()
		c := newContainer(t, e, silence(t))
		out, err := c.script([]string{"--version"}).Output()
		if want := regexp.MustCompile(`^codex-cli [0-9.]+\nvega container runner 1\n$`); err != nil || !want.Match(out) {
			t.Errorf("--version: %q, %v", out, err)
		}
		out, err = c.script([]string{"--version"}, "VEGA_V16_CODEX_DOCKER_IMAGE=vega-none:1").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "Docker has no image vega-none:1") || strings.Count(string(out), "\n") != 1 {
			t.Errorf("--version without the image: %q, %v", out, err)
		}
		out, err = c.script([]string{"--version"}, "DOCKER_HOST=unix:///nonexistent").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "the Docker engine does not answer: ") || strings.Count(string(out), "\n") != 1 {
			t.Errorf("--version without the engine: %q, %v", out, err)
		}
	})
}

func readsAndAnswers(t *testing.T, e *dockertest.Engine) {
	p := providertest.Start(t, providertest.InTurn(shell(t, "cat /source/main.go; pwd"), providertest.Text(`{"answer":"42"}`, usage)))
	c := newContainer(t, e, p)
	c.prompt = "Audit this. " + strings.Repeat("word ", 60_000) + "And this is the end." // more than an argument may have
	begun := time.Now()
	if code := c.start().wait(); code != 0 {
		t.Errorf("exit %d", code)
	}
	t.Logf("the run took %v", time.Since(begun).Round(time.Millisecond))
	if got := c.commands(); len(got) != 1 || got[0] != "package main // the real file\n/source\n" {
		t.Errorf("the command printed %q", got)
	}
	if !strings.Contains(c.out.String(), `{\"answer\":\"42\"}`) {
		t.Errorf("the answer is not there")
	}
	requests := p.Requests()
	if len(requests) != 2 || !bytes.Contains(requests[0].Body, []byte("And this is the end.")) || !bytes.Contains(requests[0].Body, []byte(`"json_schema"`)) ||
		!bytes.Contains(requests[1].Body, []byte("the real file")) {
		t.Errorf("%d requests, without the prompt, the schema or the file", len(requests))
	}
	if found := p.Find(c.relay.key); len(found) > 0 {
		t.Errorf("requests %v have the run's key", found)
	}
	if left := c.left(); left != "" {
		t.Errorf("left: %s", left)
	}
}

func seesNothingElse(t *testing.T, e *dockertest.Engine) {
	machine, err := net.Listen("tcp", "127.0.0.1:0") // a service of the machine's
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Close()
	probe := fmt.Sprintf(`
try() { name=$1; shift; if ("$@") >/dev/null 2>&1; then echo "$name: yes"; else echo "$name: no"; fi; }
connect() { exec 3<>"/dev/tcp/127.0.0.1/$1"; }
try "write to the source" touch /source/new
try "change the source" dd if=/dev/null of=/source/main.go
try "write to the root" touch /new
try "write to the programs" touch /usr/local/bin/new
try "write to /tmp" touch /tmp/new
try "write to its home" touch "$HOME/new"
try "connect to the relay" connect 4711
try "connect to the machine" connect %d
try "remove the socket" rm /run/vega/proxy.sock
echo "user: $(id -u):$(id -g)"
grep -E '^(CapEff|CapPrm|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\t'
echo "interfaces: $(sed '1,2d; s/:.*//' /proc/net/dev | tr -d ' \n')"
echo "routes: $(sed 1d /proc/net/route | wc -l)"
echo "key: $(env | grep -c VEGA)"
echo "mounts: $(cut -d ' ' -f 2 /proc/self/mounts | grep -v -e '^/proc' -e '^/sys' -e '^/dev' -e '^/etc/' -e docker-init | sort | tr '\n' ' ')"
echo "core: $(ulimit -c)"
try "start 200 processes" sh -c 'i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done'
`, machine.Addr().(*net.TCPAddr).Port)
	p := providertest.Start(t, providertest.InTurn(shell(t, probe), providertest.Text(`{"answer":"done"}`, usage)))
	c := newContainer(t, e, p)
	if code := c.start().wait(); code != 0 {
		t.Errorf("exit %d", code)
	}
	got := c.commands()
	if len(got) != 1 {
		t.Fatalf("commands printed %q", got)
	}
	for _, want := range []string{
		"write to the source: no", "change the source: no", "write to the root: no", "write to the programs: no", "write to /tmp: yes", "write to its home: yes",
		"connect to the relay: yes", "connect to the machine: no", "remove the socket: no", "user: 65534:65534", "CapEff:0000000000000000", "CapPrm:0000000000000000", "CapBnd:0000000000000000",
		"NoNewPrivs:1", "Seccomp:2", "interfaces: lo", "routes: 0", "key: 0", "mounts: / /codex /run/vega/proxy.sock /source /tmp ", "core: 0", "start 200 processes: no",
	} {
		if !strings.Contains("\n"+got[0], "\n"+want+"\n") {
			t.Errorf("not so: %s\n%s", want, got[0])
		}
	}
	if b, err := os.ReadFile(filepath.Join(c.source, "main.go")); err != nil || string(b) != "package main // the real file\n" {
		t.Errorf("the source is now %q, %v", b, err)
	}
}

func isConfined(t *testing.T, e *dockertest.Engine) {
	p := silence(t)
	c := newContainer(t, e, p)
	c.prompt = "a prompt that nobody else may see"
	c.start()
	p.Wait(1)
	text := e.Must("inspect", "vega-codex-"+c.run)
	var got []struct {
		HostConfig struct {
			Memory, MemorySwap, PidsLimit, NanoCpus int64
			NetworkMode                             string
			ReadonlyRootfs, Privileged, AutoRemove  bool
			CapDrop, CapAdd, Binds, SecurityOpt     []string
			LogConfig                               struct{ Type string }
		}
		Config struct {
			User   string
			Labels map[string]string
		}
		Mounts []struct {
			Type, Source, Destination string
			RW                        bool
		}
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil || len(got) != 1 {
		t.Fatalf("inspect: %v", err)
	}
	h := got[0].HostConfig
	if h.Memory != 512<<20 || h.MemorySwap != 512<<20 || h.PidsLimit != 100 || h.NanoCpus != 1e9 {
		t.Errorf("the limits are %+v", h)
	}
	if h.NetworkMode != "none" || !h.ReadonlyRootfs || h.Privileged || !h.AutoRemove || !slices.Equal(h.CapDrop, []string{"ALL"}) || len(h.CapAdd) > 0 || !slices.Equal(h.SecurityOpt, []string{"no-new-privileges"}) ||
		h.LogConfig.Type != "none" || len(h.Binds) > 0 {
		t.Errorf("it is confined by %+v", h)
	}
	if got[0].Config.User != "65534:65534" {
		t.Errorf("its user is %s", got[0].Config.User)
	}
	for name, want := range map[string]string{"vega.codex": "1", "vega.run": c.run, "vega.scan": "a scan", "vega.folder": c.folder, "vega.codex.runner": "1"} {
		if have := got[0].Config.Labels[name]; have != want {
			t.Errorf("label %s is %q, want %q", name, have, want)
		}
	}
	mounts := map[string]bool{}
	for _, m := range got[0].Mounts {
		mounts[m.Source+" "+m.Destination] = m.RW
	}
	if want := map[string]bool{c.source + " /source": false, c.relay.socket + " /run/vega/proxy.sock": true}; fmt.Sprint(mounts) != fmt.Sprint(want) {
		t.Errorf("mounts: %v, want %v", mounts, want)
	}
	for _, secret := range []string{c.relay.key, c.prompt, "base_url"} {
		if strings.Contains(text, secret) {
			t.Errorf("docker inspect shows %q", secret)
		}
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range commands {
		b, err := os.ReadFile(path)
		if err == nil && (bytes.Contains(b, []byte(c.relay.key)) || bytes.Contains(b, []byte(c.prompt))) { // else it has just ended
			t.Errorf("the process list shows the key or the prompt: %q", b)
		}
	}
}

func interruptEnds(t *testing.T, e *dockertest.Engine) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			p := silence(t)
			c := newContainer(t, e, p).start()
			p.Wait(1)
			begun := time.Now()
			c.signal(s)
			code := c.wait()
			t.Logf("it took %v, exit code %d", time.Since(begun).Round(time.Millisecond), code)
			if code == 0 {
				t.Error("exit 0")
			}
			if left := c.left(); left != "" {
				t.Errorf("left: %s", left)
			}
		})
	}
}

// The script and docker's command are killed, and then the worker is gone: its relay ends.
func goesWithTheWorker(t *testing.T, e *dockertest.Engine) {
	p := silence(t)
	c := newContainer(t, e, p).start()
	p.Wait(1)
	c.signal(syscall.SIGKILL)
	c.wait()
	if c.left() == "" {
		t.Error("the container ended with the script, so this tests nothing")
	}
	begun := time.Now()
	c.relay.close()
	c.event("destroy")
	t.Logf("the container was gone after %v", time.Since(begun).Round(time.Millisecond))

	// The same with a script that lives: it says why.
	p = silence(t)
	c = newContainer(t, e, p).start()
	p.Wait(1)
	c.relay.close()
	if code := c.wait(); code != exitDeserted || !strings.Contains(c.errs.String(), "the worker is gone or has given up the run") {
		t.Errorf("exit %d", code)
	}
}

func timeIsLimited(t *testing.T, e *dockertest.Engine) {
	p := silence(t)
	c := newContainer(t, e, p).start("VEGA_CODEX_TIMEOUT_SECONDS=1")
	if code := c.wait(); code != exitLate || !strings.Contains(c.errs.String(), "codex took longer than 1s") {
		t.Errorf("exit %d", code)
	}
	if left := c.left(); left != "" {
		t.Errorf("left: %s", left)
	}
}

func leftIsRemoved(t *testing.T, e *dockertest.Engine) {
	p := silence(t)
	var left []*container
	for range 3 {
		c := newContainer(t, e, p)
		if len(left) > 0 {
			c.folder = left[0].folder
		}
		left = append(left, c.start())
	}
	p.Wait(len(left))
	for _, c := range left {
		c.signal(syscall.SIGKILL)
		c.wait()
	}
	if n := left[0].remove(); n != 1 || left[0].left() != "" || left[1].left() == "" {
		t.Errorf("by the run: %d removed", n)
	}
	if n := left[0].remove("VEGA_CODEX_RUN="); n != 2 || left[1].left()+left[2].left() != "" {
		t.Errorf("by the folder: %d removed", n)
	}
	if n := left[0].remove("VEGA_CODEX_RUN="); n != 0 {
		t.Errorf("again: %d removed", n)
	}
}

// The provider answers none of them before it was asked by all.
func threeAtOnce(t *testing.T, e *dockertest.Engine) {
	all := make(chan struct{})
	p := providertest.Start(t, func(n int, _ providertest.Recorded) providertest.Answer {
		if n == 3 {
			close(all)
		}
		return providertest.Silence(all, providertest.Text(`{"answer":"done"}`, usage))
	})
	var runs sync.WaitGroup
	begun := time.Now()
	for range 3 {
		c := newContainer(t, e, p).start()
		runs.Go(func() {
			<-c.ended
			if code := c.cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("exit %d", code)
			}
		})
	}
	runs.Wait()
	t.Logf("three runs took %v", time.Since(begun).Round(time.Millisecond))
}

func notWanted(t *testing.T, e *dockertest.Engine) {
	p := silence(t)
	c := newContainer(t, e, p).start("VEGA_RUN_KEY=of another run")
	if code := c.wait(); code != exitDeserted || c.out.Len() > 0 || !strings.Contains(c.errs.String(), "HTTP 401") {
		t.Errorf("exit %d", code)
	}
	if n := len(p.Requests()); n > 0 {
		t.Errorf("%d requests were made", n)
	}
}

func unreadableSource(t *testing.T, e *dockertest.Engine) {
	c := newContainer(t, e, silence(t))
	if err := os.Chmod(c.source, 0o711); err != nil {
		t.Fatal(err)
	}
	if code := c.start().wait(); code != exitError || !strings.Contains(c.errs.String(), "user 65534 cannot read the source") {
		t.Errorf("exit %d", code)
	}
}

func memoryIsLimited(t *testing.T, e *dockertest.Engine) {
	killed := make(chan struct{})
	p := providertest.Start(t, providertest.InTurn(shell(t, "tail /dev/zero"), providertest.Silence(killed, providertest.Text(`{"answer":"done"}`, usage))))
	c := newContainer(t, e, p).start("VEGA_CODEX_MEMORY=256m")
	c.event("oom")
	close(killed)
	if code := c.wait(); code != 0 && code != exitSignal+int(syscall.SIGKILL) { // the latter where the kernel chose Codex
		t.Errorf("exit %d", code)
	}
}

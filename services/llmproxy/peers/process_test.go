package peers

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"vega/config/secret"
	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/scripts/installed"
	"vega/services/llmproxy"
	"vega/services/scan"
)

// field is everything that runs.
type field struct{ contestants []*contestant } // direct, bare, and then the others

// open starts all processes; they end with the benchmark.
func open(b *testing.B) *field {
	b.Helper()
	_, provider := startRole(b, "provider")
	bareProcess, bareURL := startRole(b, "bare", "-peers.upstream="+provider)
	f := &field{contestants: []*contestant{
		newContestant("direct", provider, nil, nil, providerKey),
		newContestant("bare", bareURL, bareProcess, nil, "any"),
	}}
	for _, v := range []struct {
		name string
		sync string
	}{{"vega", "-peers.sync=false"}, {"vega-sync-always", "-peers.sync=true"}} {
		natsProcess, url := startRole(b, "nats", "-peers.folder="+b.TempDir(), v.sync)
		tokens := running(b, url, 8)
		p, base := startRole(b, "vega", "-peers.upstream="+provider, "-peers.nats="+url, v.sync)
		f.contestants = append(f.contestants, newContestant(v.name, base, p, natsProcess, tokens...))
	}
	p, base := startOpenAI(b, provider)
	openai := newContestant("openai", base, p, nil, "any")
	openai.slow, openai.http.Transport = 4, &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	f.contestants = append(f.contestants, openai)
	return f
}

// running makes n scans that run, and returns a token for each.
func running(b *testing.B, url string, n int) []string {
	b.Helper()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	nc := natstest.Dial(b, url)
	js, err := jetstream.New(nc)
	must(err)
	must(eventstore.Setup(b.Context(), js, natstest.Region, 1))
	store := natstest.OpenOver(b, nc)
	tokens, err := llmproxy.NewTokens(secret.New(tokenSecret), secret.String{})
	must(err)
	var out []string
	for i := range n {
		id := events.ScanID(fmt.Sprintf("scan_%s_bench%d", natstest.Region, i))
		do := func(c scan.Command) events.Seq {
			b.Helper()
			meta := events.Meta{Command: events.NewCommandID(), Actor: events.BySystem("bench"), At: time.Now().UTC()}
			_, made, err := eventstore.Do(b.Context(), store, events.ScanOf(natstest.Region, id), meta, func(s scan.Scan, _ events.Head) ([]events.Event, error) { return scan.Decide(s, c) })
			must(err)
			return made[0].Seq
		}
		do(scan.Queue{Request: events.ScanQueued{Project: "proj_test_p", Repository: "repo_test_r", Snapshot: "sha256:s", User: "user_u", Priority: events.Normal, MaxAttempts: 1}})
		generation := do(scan.Claim{Worker: "work_test_w", Host: "h"})
		do(scan.Start{Generation: generation, Engine: "e"})
		token, err := tokens.Issue(llmproxy.Grant{Scan: id, Attempt: 1, Generation: generation}, time.Now(), time.Now().Add(24*time.Hour))
		must(err)
		out = append(out, token.Reveal())
	}
	return out
}

// process is one that the benchmark has started. Nil is one that costs nothing.
type process struct{ pid int }

// startRole starts this binary in a role.
func startRole(b *testing.B, name string, args ...string) (*process, string) {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self, append([]string{"-peers.role=" + name}, args...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	p := start(b, cmd, func() { _ = in.Close() })
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		b.Fatalf("%s did not start: %v", name, lines.Err())
	}
	return p, lines.Text()
}

// startOpenAI starts the responses proxy that the agent's own program holds.
func startOpenAI(b *testing.B, provider string) (*process, string) {
	b.Helper()
	release := installed.CodexReleases[len(installed.CodexReleases)-1]
	program, err := installed.Codex(release)
	if err != nil {
		b.Fatal(err)
	}
	home := b.TempDir()
	info := filepath.Join(home, "server.json")
	cmd := exec.Command(program, "responses-api-proxy", "--server-info", info, "--upstream-url", provider+"/v1/responses")
	cmd.Env = []string{"HOME=" + home, "CODEX_HOME=" + home, "PATH=/usr/bin:/bin"}
	cmd.Stdin = strings.NewReader(providerKey + "\n")
	p := start(b, cmd, func() { _ = cmd.Process.Kill() })
	late := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var said struct{ Port int }
		if text, err := os.ReadFile(info); err == nil && json.Unmarshal(text, &said) == nil && said.Port > 0 {
			return p, fmt.Sprintf("http://127.0.0.1:%d", said.Port)
		}
		select {
		case <-tick.C:
		case <-late:
			b.Fatal("OpenAI's responses proxy does not start")
		}
	}
}

// start starts a process that ends with the benchmark, by end or else by force, and with the benchmark's process if that is killed.
func start(b *testing.B, cmd *exec.Cmd, end func()) *process {
	b.Helper()
	var said bytes.Buffer // read after it has ended
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		defer context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })()
		end()
		_ = cmd.Wait() // some are killed
		if b.Failed() {
			_, _ = io.Copy(b.Output(), &said)
		}
	})
	return &process{cmd.Process.Pid}
}

// cpu is the processor time that the process has taken so far, to 10 ms.
func (p *process) cpu(b *testing.B) time.Duration {
	b.Helper()
	if p == nil {
		return 0
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), ") ") // the name in parentheses may hold spaces
	fields := strings.Fields(after)
	if len(fields) < 13 {
		b.Fatalf("/proc/%d/stat is %s", p.pid, text)
	}
	var ticks int64
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// memory is what the process holds now and has held at most, in KiB.
func (p *process) memory(b *testing.B) (now, peak int64) {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		_, _ = fmt.Sscanf(line, "VmRSS: %d kB", &now) // other lines are others
		_, _ = fmt.Sscanf(line, "VmHWM: %d kB", &peak)
	}
	return now, peak
}

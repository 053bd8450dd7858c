package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const asProgram = "VEGA_CODEX_TEST_PROGRAM" // in the environment of a process that is the program itself

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// shortDir is a folder whose name is short enough for that of a socket in it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vega-codex-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// relay stands in for the engine's: it answers the lifeline, and everything else by next.
type relay struct {
	socket string
	key    string
	opened chan struct{} // gets a value for each lifeline
	server *http.Server
	end    context.CancelFunc // of every answer
	once   sync.Once
	served sync.WaitGroup
}

func startRelay(t *testing.T, next http.Handler) *relay {
	t.Helper()
	ctx, end := context.WithCancel(context.Background())
	r := &relay{socket: filepath.Join(shortDir(t), "proxy.sock"), key: "run-" + rand.Text(), opened: make(chan struct{}, 16), end: end}
	l, err := net.Listen("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.socket, 0o666); err != nil { // for the container's user
		t.Fatal(err)
	}
	r.server = &http.Server{BaseContext: func(net.Listener) context.Context { return ctx }, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch {
		case q.Header.Get("Authorization") != "Bearer "+r.key:
			w.WriteHeader(http.StatusUnauthorized)
		case q.Method == http.MethodGet && q.URL.Path == "/vega/lifeline":
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			r.opened <- struct{}{}
			select {
			case <-q.Context().Done():
			case <-ctx.Done():
			}
		default:
			next.ServeHTTP(w, q)
		}
	})}
	r.served.Go(func() { _ = r.server.Serve(l) })
	t.Cleanup(r.close)
	return r
}

// close ends everything at once, as the worker's death does.
func (r *relay) close() {
	r.once.Do(func() {
		r.end()
		_ = r.server.Close()
		r.served.Wait()
	})
}

// program is a run of the program as a process of its own, with a shell script as its Codex.
type program struct {
	t     *testing.T
	cmd   *exec.Cmd
	home  string
	lines *bufio.Scanner // what it prints
	errs  bytes.Buffer   // read when it has ended
}

// files is a tar of name, content, …
func files(t *testing.T, pairs ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: pairs[i], Size: int64(len(pairs[i+1])), Mode: 0o644})
		if err == nil {
			_, err = io.WriteString(w, pairs[i+1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sent is what the script sends.
func sent(t *testing.T, key, prompt string) []byte {
	t.Helper()
	return slices.Concat([]byte(key+"\n"), files(t, "./config.toml", "model = \"m\"\n"), make([]byte, 7168), []byte(prompt))
}

// freePort is a port of loopback that was free just now.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// start starts the program, and ends it with the test.
func start(t *testing.T, codex, socket string, stdin []byte, env ...string) *program {
	t.Helper()
	bin := t.TempDir()
	syscall.ForkLock.RLock() // a process that is being started meanwhile would hold the file open, and it could not be run
	err := os.WriteFile(filepath.Join(bin, "codex"), []byte("#!/bin/sh\n"+codex), 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, home: t.TempDir()}
	p.cmd = exec.Command(os.Args[0], "exec", "--json", "-")
	p.cmd.Dir = t.TempDir()
	p.cmd.Env = slices.Concat([]string{asProgram + "=1", "PATH=" + bin + ":/usr/bin:/bin", "CODEX_HOME=" + p.home, "TMPDIR=/tmp", "VEGA_CODEX_SOCKET=" + socket, "VEGA_CODEX_RUNNER=" + runner,
		fmt.Sprint("VEGA_CODEX_PORT=", freePort(t)), "VEGA_CODEX_TIMEOUT_SECONDS=600"}, env)
	p.cmd.Stdin, p.cmd.Stderr = bytes.NewReader(stdin), &p.errs
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout = w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	p.lines = bufio.NewScanner(r)
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); _ = r.Close() })
	return p
}

// line is the next line that it prints.
func (p *program) line() string {
	p.t.Helper()
	if !p.lines.Scan() {
		p.t.Fatalf("it ended: %v\n%s", p.lines.Err(), p.errs.Bytes())
	}
	return p.lines.Text()
}

// wait waits for its end, and for that of everything that holds its output.
func (p *program) wait() (rest string, code int) {
	p.t.Helper()
	var out strings.Builder
	for p.lines.Scan() {
		out.WriteString(p.lines.Text() + "\n")
	}
	if err := p.cmd.Wait(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			p.t.Fatal(err)
		}
	}
	return out.String(), p.cmd.ProcessState.ExitCode()
}

func TestCodexGetsThePromptItsFilesAndNothingElse(t *testing.T) {
	t.Parallel()
	r := startRelay(t, http.NotFoundHandler())
	p := start(t, `echo "$@"; env | sort | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD=; cat "$CODEX_HOME/config.toml"; cat; exit 7`, r.socket, sent(t, r.key, "audit\nthis"))
	path := ""
	for _, have := range p.cmd.Env {
		if strings.HasPrefix(have, "PATH=") {
			path = have
		}
	}
	out, code := p.wait()
	want := strings.Join([]string{"exec --json -", "CODEX_HOME=" + p.home, "HOME=" + p.home, "LANG=C.UTF-8", path, "TMPDIR=/tmp", "VEGA_RUN_KEY=" + r.key, `model = "m"`, "audit", "this", ""}, "\n")
	if code != 7 || out != want || p.errs.Len() > 0 {
		t.Errorf("exit %d, %q\n%s\nwant\n%s", code, p.errs.Bytes(), out, want)
	}
}

func TestCodexIsKilledWhenTheLifelineEnds(t *testing.T) {
	t.Parallel()
	r := startRelay(t, http.NotFoundHandler())
	p := start(t, `trap "" INT TERM; echo ready; while :; do sleep 1000; done`, r.socket, sent(t, r.key, "audit"))
	<-r.opened
	if got := p.line(); got != "ready" {
		t.Fatalf("it says %q", got)
	}
	r.close()
	if _, code := p.wait(); code != exitDeserted || !strings.Contains(p.errs.String(), "vega-codex: the worker is gone") {
		t.Errorf("exit %d: %s", code, p.errs.Bytes())
	}
}

func TestCodexIsNotStartedWithoutWhatItNeeds(t *testing.T) {
	t.Parallel()
	r := startRelay(t, http.NotFoundHandler())
	gone := filepath.Join(shortDir(t), "none")
	for name, c := range map[string]struct {
		socket string
		stdin  []byte
		env    string
		code   int
		want   string
	}{
		"no relay":              {gone, sent(t, r.key, "audit"), "", exitDeserted, "the worker's relay does not answer"},
		"a run that is over":    {r.socket, sent(t, "another key", "audit"), "", exitDeserted, "HTTP 401"},
		"no prompt":             {r.socket, sent(t, r.key, ""), "", exitError, "read the prompt: unexpected EOF"},
		"nothing":               {r.socket, nil, "", exitError, "read the key: unexpected EOF"},
		"another script":        {r.socket, sent(t, r.key, "audit"), "VEGA_CODEX_RUNNER=2", exitError, "started by version 2"},
		"no port":               {r.socket, sent(t, r.key, "audit"), "VEGA_CODEX_PORT=x", exitError, "VEGA_CODEX_PORT"},
		"no time limit":         {r.socket, sent(t, r.key, "audit"), "VEGA_CODEX_TIMEOUT_SECONDS=0", exitError, "VEGA_CODEX_TIMEOUT_SECONDS"},
		"no home":               {r.socket, sent(t, r.key, "audit"), "CODEX_HOME=/nonexistent", exitError, "read codex's files"},
		"no codex in the image": {r.socket, sent(t, r.key, "audit"), "PATH=/nonexistent", exitError, "start codex"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, "echo started", c.socket, c.stdin, c.env)
			out, code := p.wait()
			if code != c.code || out != "" || !strings.HasPrefix(p.errs.String(), "vega-codex: ") || !strings.Contains(p.errs.String(), c.want) || strings.Count(p.errs.String(), "\n") != 1 {
				t.Errorf("exit %d, want %d and %q: %q %q", code, c.code, c.want, out, p.errs.Bytes())
			}
		})
	}
}

func TestASignalIsPassedOn(t *testing.T) {
	t.Parallel()
	for signal, want := range map[syscall.Signal]int{syscall.SIGINT: 5, syscall.SIGTERM: 6} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			r := startRelay(t, http.NotFoundHandler())
			p := start(t, `trap 'kill -KILL $!; exit 5' INT; trap 'kill -KILL $!; exit 6' TERM; sleep 1000 & echo ready; wait`, r.socket, sent(t, r.key, "audit"))
			p.line()
			if err := p.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if _, code := p.wait(); code != want {
				t.Errorf("exit %d, want %d: %s", code, want, p.errs.Bytes())
			}
		})
	}
}

func TestCodexIsKilledWhenItDoesNotObey(t *testing.T) {
	t.Parallel()
	const stubborn = `trap "" INT TERM; echo ready >&3; while :; do sleep 1000; done`
	for name, c := range map[string]struct {
		signal bool
		limit  time.Duration
		code   int
		why    string
	}{
		"a signal":       {true, time.Hour, exitSignal + int(syscall.SIGKILL), "codex was killed"},
		"the time limit": {false, time.Nanosecond, exitLate, "codex took longer than 1ns"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("sh", "-c", stubborn)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			cmd.ExtraFiles = []*os.File{w}
			signals := make(chan os.Signal, 1)
			var told sync.WaitGroup
			defer told.Wait()
			told.Go(func() {
				if n, err := r.Read(make([]byte, 1)); c.signal && n == 1 && err == nil {
					signals <- syscall.SIGTERM
				}
			})
			code, err := supervise(cmd, signals, nil, c.limit)
			_ = w.Close()
			if code != c.code || err == nil || !strings.Contains(err.Error(), c.why) {
				t.Errorf("supervise = %d, %v; want %d, %s", code, err, c.code, c.why)
			}
		})
	}
}

func TestTheTimeLimitInterrupts(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	code, err := supervise(cmd, nil, nil, time.Millisecond)
	if code != exitLate || err == nil {
		t.Errorf("supervise = %d, %v", code, err)
	}
	if end := cmd.ProcessState.Sys().(syscall.WaitStatus); !end.Signaled() || end.Signal() != syscall.SIGINT {
		t.Errorf("the command ended with %v, want by the interrupt", cmd.ProcessState)
	}
}

func TestTheExitCodeSaysHowItEnded(t *testing.T) {
	t.Parallel()
	for script, want := range map[string]int{"exit 0": 0, "exit 3": 3, "kill -KILL $$": 137, "kill -SEGV $$": 139} {
		cmd := exec.Command("sh", "-c", script)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		code, err := supervise(cmd, nil, nil, time.Hour)
		if code != want || (err != nil) != (want > 128) {
			t.Errorf("%s: supervise = %d, %v; want %d", script, code, err, want)
		}
	}
}

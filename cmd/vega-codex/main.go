package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// runner is the version of what this program and the script agree on: what lies on standard input and in the environment.
const runner = "1"

// Exit codes of its own; all others are Codex's.
const (
	exitError    = 1
	exitLate     = 124 // the time limit, as timeout(1) has it
	exitDeserted = 143 // nobody wants the run any more; as if ended by SIGTERM
	exitSignal   = 128 // and the signal that ended Codex
)

func main() { os.Exit(run(os.Args[1:], os.Getenv, os.Stdin, os.Stderr)) }

// settings are what the environment says.
type settings struct {
	home   string        // CODEX_HOME: Codex's, empty and in memory
	socket string        // VEGA_CODEX_SOCKET: of the relay
	port   int           // VEGA_CODEX_PORT: what Codex takes for the LLM proxy, on 127.0.0.1
	limit  time.Duration // VEGA_CODEX_TIMEOUT_SECONDS: until Codex is interrupted
	path   string        // PATH
}

func readSettings(getenv func(string) string) (settings, error) {
	s := settings{home: cmp.Or(getenv("CODEX_HOME"), "/codex"), socket: cmp.Or(getenv("VEGA_CODEX_SOCKET"), "/run/vega/proxy.sock"), path: getenv("PATH")}
	if have := getenv("VEGA_CODEX_RUNNER"); have != runner {
		return s, fmt.Errorf("the image is for version %s of the script and was started by version %s: build it again with make codex-image", runner, cmp.Or(have, "unknown"))
	}
	var err error
	if s.port, err = strconv.Atoi(getenv("VEGA_CODEX_PORT")); err != nil || s.port < 1 || s.port > 65535 {
		return s, fmt.Errorf("VEGA_CODEX_PORT is %q, which is no port", getenv("VEGA_CODEX_PORT"))
	}
	seconds, err := strconv.Atoi(getenv("VEGA_CODEX_TIMEOUT_SECONDS"))
	if err != nil || seconds < 1 || seconds > 7*24*3600 {
		return s, fmt.Errorf("VEGA_CODEX_TIMEOUT_SECONDS is %q, which is no number of seconds", getenv("VEGA_CODEX_TIMEOUT_SECONDS"))
	}
	s.limit = time.Duration(seconds) * time.Second
	return s, nil
}

// run is the program. It returns its exit code, and has said in one sentence why if that is none of Codex's.
func run(args []string, getenv func(string) string, stdin io.Reader, stderr io.Writer) int {
	var code int
	var err error
	if len(args) == 1 && args[0] == "--version" {
		err = version()
	} else {
		code, err = codex(args, getenv, stdin)
	}
	if err != nil {
		fmt.Fprintf(stderr, "vega-codex: %v\n", err)
		return cmp.Or(code, exitError)
	}
	return code
}

// version prints Codex's version and this program's.
func version() error {
	out, err := exec.Command("codex", "--version").Output()
	if err != nil {
		return fmt.Errorf("codex --version: %w", err)
	}
	fmt.Printf("%s\nvega container runner %s\n", bytes.TrimSpace(out), runner)
	return nil
}

// codex runs Codex with args, once everything that it needs is there. It returns Codex's exit code, or one of this program's and why.
//
// Until Codex has been started a signal ends this program, and with it the container, as it ends every other program.
func codex(args []string, getenv func(string) string, stdin io.Reader) (int, error) {
	s, err := readSettings(getenv)
	if err != nil {
		return 0, err
	}
	if len(args) == 0 {
		return 0, errors.New("there is nothing to run: it is called by codex-in-target-container.sh")
	}
	if err := readable("."); err != nil {
		return 0, fmt.Errorf("user %d cannot read the source: %w", os.Getuid(), err)
	}
	in, err := readInput(stdin, s.home)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	l, err := openLifeline(ctx, s.socket, in.key)
	if err != nil {
		return exitDeserted, err
	}
	defer l.close()
	f, err := listen(s.port, s.socket)
	if err != nil {
		return 0, err
	}
	defer f.close()

	// Codex takes settings, skills and instructions from the folder that it starts in. The source's are data, so it starts in an empty one.
	work := filepath.Join(s.home, "work")
	if err := os.MkdirAll(work, 0o700); err != nil {
		return 0, fmt.Errorf("folder to work in: %w", err)
	}
	c := exec.Command("codex", args...)
	c.Dir = work
	c.Env = []string{"PATH=" + s.path, "HOME=" + s.home, "CODEX_HOME=" + s.home, "LANG=C.UTF-8", "TMPDIR=" + os.TempDir(), "VEGA_RUN_KEY=" + in.key}
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(in.prompt), os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.WaitDelay = killTime // something that it started may hold its standard input open
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	return supervise(c, signals, l.ended, s.limit)
}

// readable says whether a folder's names can be read: a source that was made for its owner alone would look empty to the model.
func readable(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Readdirnames(1); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

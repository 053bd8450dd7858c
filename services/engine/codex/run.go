package codex

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"vega/services/engine/process"
)

// Options say how Codex is run on this machine.
type Options struct {
	// Bin is a program, by path or by a name that is looked up in PATH: codex, or a script that takes the same arguments and runs it in a container.
	Bin string
	// Image is the Docker image for such a script.
	Image string
	// Sandbox is what a plain codex is run with: "read-only" for its own sandbox, "none" where something else confines it.
	Sandbox string
	// Memory, PIDs and CPUs bound a container.
	Memory string
	PIDs   int
	CPUs   string
	// HostEnv is what a program needs of this process's environment (NAME=value): PATH, and what says where Docker is.
	HostEnv []string
}

// Program is Codex as it is run on this machine. It is safe for concurrent use.
type Program struct {
	opt Options

	mu        sync.Mutex // guards contained
	contained *bool      // nil: not asked yet
}

// New returns a program that nobody has looked for yet: Check does.
func New(o Options) *Program { return &Program{opt: o} }

// Task is one question.
type Task struct {
	ID       string // of the run, unique on this machine; letters, digits, -_.
	Label    string // of the scan, for people who look at containers
	Dir      string // an empty folder for the run, which the caller removes; its parent is this user's alone
	Folder   string // the attempt's, by which what a killed process leaves is found
	Source   string // the tree, which is only read
	Model    string
	Catalog  []byte // model_catalog_json
	Schema   []byte // of the answer
	Prompt   string // says where the tree is by the word SourcePath
	Upstream Upstream
	Timeout  time.Duration

	// Waiting is told when a request waits, because the proxy is not there or asks for patience; nil: nobody is. It may be called while OnEvent is.
	Waiting func(why string)
	// Pace is asked before each request; nil: none is refused. why is a sentence for people and for the model.
	Pace func(context.Context, Call) (v Verdict, why string)
	// OnEvent gets every event, one after the other; nil: nobody does.
	OnEvent func(Event)
}

// SourcePath stands in a prompt for the folder of the tree, which is another one in a container.
const SourcePath = "{{SOURCE}}"

// containerSource is where the script's container has the tree.
const containerSource = "/source"

// Result is what a run came to.
type Result struct {
	Answer   string // the model's last message; whether it is what was asked for is the caller's to check
	Finished string // why the run was told to finish; empty when it came to its own end
	Usage    Usage
	Elapsed  time.Duration
}

// Failure says why a run has no answer.
type Failure struct {
	Kind    FailureKind
	Message string   // one sentence
	Refusal *Refusal // what the newest request was answered with, if it was refused
	Stderr  string   // the end of what the program wrote there
}

func (f *Failure) Error() string { return f.Message }

// FailureKind is what a caller may want to tell apart.
type FailureKind string

const (
	Refused  FailureKind = "refused"   // the proxy or the provider would not answer
	TimedOut FailureKind = "timed_out" // the run's own time was over
	Flooded  FailureKind = "flooded"   // it wrote too much
	Crashed  FailureKind = "crashed"   // the program ended without an answer
	Stopped  FailureKind = "stopped"   // Pace said so
)

var errTimeout = errors.New("the run's time is over")

// Run asks the question. It returns a *Failure when there is no answer, the cause of ctx when that ended, process.ErrLeft when something of the run could not be
// killed, and other errors for what went wrong on this machine. The result holds what was spent in any case.
func (p *Program) Run(ctx context.Context, t Task) (Result, error) {
	begun := time.Now()
	res, err := p.run(ctx, t)
	res.Elapsed = time.Since(begun)
	return res, err
}

func (p *Program) run(ctx context.Context, t Task) (Result, error) {
	contained, err := p.isContained(ctx)
	if err != nil {
		return Result{}, err
	}
	home := filepath.Join(t.Dir, "home")
	if err := os.MkdirAll(filepath.Join(home, workFolder), 0o700); err != nil {
		return Result{}, fmt.Errorf("folder of the run: %w", err)
	}
	temp := filepath.Join(t.Dir, "tmp")
	if err := os.MkdirAll(temp, 0o700); err != nil {
		return Result{}, fmt.Errorf("folder of the run: %w", err)
	}
	relay, err := startRelay(ctx, t.Dir, t)
	if err != nil {
		return Result{}, err
	}
	// From here on a crash of this process breaks the relay's connections; what runs in a container ends by that, what runs beside it at the next start.
	defer relay.close()
	mark := process.NewMark(t.Folder)
	source := t.Source
	if contained {
		source = containerSource
		if err := os.WriteFile(filepath.Join(filepath.Dir(t.Folder), containersFile), nil, 0o600); err != nil {
			return Result{}, fmt.Errorf("folder of the process: %w", err)
		}
	}
	prompt := filepath.Join(t.Dir, "prompt.md")
	for name, content := range map[string][]byte{
		filepath.Join(home, configFile):  []byte(configTOML(t.Model, relay.port, mark)),
		filepath.Join(home, catalogFile): t.Catalog,
		filepath.Join(home, schemaFile):  t.Schema,
		prompt:                           []byte(strings.ReplaceAll(t.Prompt, SourcePath, source)),
	} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			return Result{}, fmt.Errorf("folder of the run: %w", err)
		}
	}
	in, err := os.Open(prompt)
	if err != nil {
		return Result{}, fmt.Errorf("folder of the run: %w", err)
	}
	defer in.Close()

	args := []string{"exec", "--json", "--skip-git-repo-check", "--ephemeral"}
	if contained || p.opt.Sandbox == "none" {
		args = append(args, "--dangerously-bypass-approvals-and-sandbox")
	} else {
		args = append(args, "-s", "read-only")
	}
	args = append(args, "--output-schema", filepath.Join(home, schemaFile), "-")
	cmd := exec.Command(p.opt.Bin, args...) //nolint:gosec // what it runs is what the operator configured
	cmd.Dir = filepath.Join(home, workFolder)
	cmd.Env = p.environ(t, home, temp, relay)
	cmd.Stdin = in
	stderr := &tail{max: 4 << 10}
	// The key is good for nothing once the run is over, and is nobody's business all the same.
	clean := func(s string) string { return strings.ReplaceAll(s, relay.key, "[key]") }
	cmd.Stderr = stderr
	out, writer, err := os.Pipe()
	if err != nil {
		return Result{}, fmt.Errorf("start codex: %w", err)
	}
	defer out.Close()
	cmd.Stdout = writer

	timed, stopTimer := context.WithTimeoutCause(ctx, t.Timeout, errTimeout)
	defer stopTimer()
	running, stop := context.WithCancelCause(timed)
	defer stop(nil)
	var reading sync.WaitGroup
	var o outcome
	reading.Go(func() {
		err := readEvents(out, maxOutput, func(line []byte) []byte { return bytes.ReplaceAll(line, []byte(relay.key), []byte("[key]")) }, func(e Event) error {
			o.take(e)
			if t.OnEvent != nil {
				t.OnEvent(e)
			}
			return nil
		})
		if err != nil {
			stop(err)
			_, _ = io.Copy(io.Discard, out) // until its other end is closed: nobody may hang in a write
		}
	})
	perr := process.Run(running, cmd, mark)
	_ = writer.Close() // this process's copy; the reader ends once all copies are closed
	reading.Wait()
	why := context.Cause(running)
	relay.close()
	if contained {
		// The lifeline has ended the container; this makes sure of it before anybody is told that the run is over.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
		defer cancel()
		if err := p.remove(clean, "VEGA_CODEX_RUN="+t.ID); err != nil {
			perr = errors.Join(perr, fmt.Errorf("%w: %w", process.ErrLeft, err))
		}
	}

	res := Result{Answer: o.answer}
	var refusal *Refusal
	res.Usage, refusal, res.Finished = relay.spent()
	failed := func(kind FailureKind, format string, args ...any) (Result, error) {
		return res, &Failure{Kind: kind, Message: clean(fmt.Sprintf(format, args...)), Refusal: refusal, Stderr: clean(stderr.String())}
	}
	exit, exited := errors.AsType[*exec.ExitError](perr)
	switch {
	case errors.Is(perr, process.ErrLeft):
		return res, perr
	case ctx.Err() != nil:
		return res, context.Cause(ctx)
	case errors.Is(why, errTimeout):
		return failed(TimedOut, "it took longer than %s", t.Timeout)
	case errors.Is(why, errOutput):
		return failed(Flooded, "%v", why)
	case why != nil:
		return res, fmt.Errorf("read codex's events: %w", why)
	case perr != nil && !exited:
		return res, fmt.Errorf("run codex: %w", perr)
	case refusal != nil && refusal.Code == finishedCode && o.failed != "":
		return failed(Stopped, "%s", refusal.Message)
	case refusal != nil && o.failed != "":
		return failed(Refused, "%s", refusal.Message)
	case o.failed != "":
		return failed(Crashed, "codex: %s", o.failed)
	case exited:
		return failed(Crashed, "codex ended with %s: %s", exit.ProcessState, cmp.Or(lastLine(stderr.String()), o.notices, "without a word"))
	case !o.ended || o.answer == "":
		return failed(Crashed, "%s", o.missing())
	}
	return res, nil
}

// environ is all that the program gets to see. A plain codex has no use for what begins with VEGA_CODEX_; a script that starts a container takes from there what the container is
// made of.
func (p *Program) environ(t Task, home, temp string, r *relay) []string {
	return append(p.scriptEnviron(),
		"HOME="+home, "CODEX_HOME="+home, "TMPDIR="+temp, "LANG=C.UTF-8",
		keyVariable+"="+r.key,
		"VEGA_CODEX_SOURCE="+t.Source,
		"VEGA_CODEX_SOCKET="+filepath.Join(t.Dir, socketName),
		"VEGA_CODEX_PORT="+strconv.Itoa(r.port),
		"VEGA_CODEX_RUN="+t.ID,
		"VEGA_CODEX_SCAN="+t.Label,
		"VEGA_CODEX_FOLDER="+filepath.Dir(t.Folder),
		"VEGA_CODEX_TIMEOUT_SECONDS="+strconv.Itoa(int(t.Timeout.Seconds())+60),
	)
}

// scriptEnviron is what every call of the program gets.
func (p *Program) scriptEnviron() []string {
	var env []string
	for _, e := range p.opt.HostEnv {
		if home, ok := strings.CutPrefix(e, "HOME="); ok {
			e = "VEGA_CODEX_HOST_HOME=" + home
		}
		env = append(env, e)
	}
	for _, x := range [][2]string{
		{"VEGA_V16_CODEX_DOCKER_IMAGE", p.opt.Image}, {"VEGA_CODEX_MEMORY", p.opt.Memory}, {"VEGA_CODEX_CPUS", p.opt.CPUs},
	} {
		if x[1] != "" {
			env = append(env, x[0]+"="+x[1])
		}
	}
	if p.opt.PIDs > 0 {
		env = append(env, "VEGA_CODEX_PIDS="+strconv.Itoa(p.opt.PIDs))
	}
	return env
}

// tail keeps the end of what is written. Its methods may be called from any goroutine.
type tail struct {
	mu  sync.Mutex
	b   []byte
	max int
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p[max(0, len(p)-t.max):]...)
	t.b = t.b[max(0, len(t.b)-t.max):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(t.b), "\uFFFD")
}

func lastLine(s string) string {
	lines := bytes.Split(bytes.TrimSpace([]byte(s)), []byte("\n"))
	return string(bytes.TrimSpace(lines[len(lines)-1]))
}

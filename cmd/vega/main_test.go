package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vega/services/intake"
)

// The tests run this test binary as vega itself: asVega in the environment makes it one.
const asVega = "TEST_RUN_AS_VEGA"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Getenv(asVega) == "" && !strings.HasPrefix(os.Args[1], "-test.") {
		main() // the child process that unpacks archives is this binary again, with an empty environment
	}
	if os.Getenv(asVega) != "" {
		intake.ChildMain()
		made, err := assemblyFor(os.Getenv(timedEngine))
		if err != nil {
			panic(err)
		}
		os.Exit(run(made))
	}
	os.Exit(m.Run())
}

// command is vega with arguments, in a folder and with an environment of its own.
func command(t testing.TB, dir string, env []string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute) // a bound, so that a hang fails the test and not the run
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, self, args...)
	c.Dir = dir
	c.Env = append([]string{asVega + "=1", "PATH=" + os.Getenv("PATH"), "HOME=" + dir, "VEGA_LISTEN_ADDR=127.0.0.1:0"}, env...)
	return c
}

// vega runs a command to its end.
func vega(t testing.TB, dir string, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	c := command(t, dir, env, args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), errs.String(), exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), 0
}

// running is a running server.
type running struct {
	cmd   *exec.Cmd
	base  string // of the API, with prefix
	token string
	log   *bytes.Buffer
}

// serveIn starts a server on a data folder and waits until it is ready.
func serveIn(t testing.TB, dir string, env ...string) *running {
	t.Helper()
	s := &running{cmd: command(t, dir, env), log: &bytes.Buffer{}}
	s.cmd.Stderr = s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Kill(); _ = s.cmd.Wait() })
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) == 2 && f[0] == "API" {
			s.base = f[1]
			break
		}
	}
	if s.base == "" {
		_ = s.cmd.Wait()
		t.Fatalf("the server did not start: %s", s.log)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }() // ends with the process
	var login struct {
		Token string `json:"access_token"`
	}
	s.do(t, http.MethodPost, "/auth/login", map[string]string{"email": "debug@example.com", "password": "vega-debug-password"}, &login)
	s.token = login.Token
	return s
}

// do makes a request that must succeed.
func (s *running) do(t testing.TB, method, path string, in, out any) {
	t.Helper()
	if err := s.try(t.Context(), method, path, in, out); err != nil {
		t.Fatal(err)
	}
}

func (s *running) try(ctx context.Context, method, path string, in, out any) error {
	c := newClient(s.base, s.token)
	if body, ok := in.([]byte); ok {
		resp, err := c.send(ctx, method, path, "", "application/octet-stream", bytes.NewReader(body))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return json.NewDecoder(resp.Body).Decode(out)
	}
	return c.call(ctx, method, path, "", in, out)
}

// stop asks the server to end and waits.
func (s *running) stop(t testing.TB) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the server ended with %v: %s", err, s.log)
	}
}

// tree writes files into a new folder.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// leaky is a tree with two planted credentials; they are put together here so that this file holds none.
func leaky() map[string]string {
	key := "AKIA" + "Q3EGRIHW" + "KXBL7DMZ"
	var pem strings.Builder
	pem.WriteString("-----BEGIN RSA PRIVATE " + "KEY-----\n")
	for i := range 20 {
		fmt.Fprintf(&pem, "%064x\n", uint64(i+1)*0x9E3779B97F4A7C15)
	}
	pem.WriteString("-----END RSA PRIVATE " + "KEY-----\n")
	return map[string]string{
		"go.mod":          "module example.com/shop\n\ngo 1.24\n\nrequire github.com/go-chi/chi/v5 v5.2.0\n",
		"main.go":         "package main\n\nfunc main() {}\n",
		"config/prod.go":  "package config\n\n// used in production\nvar awsAccessKey = \"" + key + "\"\n",
		"deploy/id_rsa":   pem.String(),
		".gitignore":      "ignored/\n",
		"ignored/more.go": "package ignored\n\nvar awsAccessKey = \"" + key + "\"\n",
	}
}

func TestScanFindsWhatWasPlantedAndNothingElse(t *testing.T) {
	t.Parallel()
	home, src := t.TempDir(), tree(t, leaky())
	stdout, stderr, code := vega(t, home, nil, "scan", src, "--json", "--sarif", filepath.Join(home, "out.sarif"))
	if code != exitFindings {
		t.Fatalf("exit code %d, want %d: %s", code, exitFindings, stderr)
	}
	var doc struct {
		Status   string
		Coverage struct {
			State   string
			Reasons []struct{ Stage, Code, Message string }
		}
		Findings []struct {
			Severity string
			File     string `json:"file_path"`
			Start    int    `json:"start_line"`
			End      int    `json:"end_line"`
		}
	}
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil {
		t.Fatalf("%v in %s", err, stdout)
	}
	var got []string
	for _, f := range doc.Findings {
		got = append(got, fmt.Sprintf("%s %s:%d", f.Severity, f.File, f.Start))
	}
	if want := "[critical deploy/id_rsa:1 high config/prod.go:4]"; fmt.Sprint(got) != want {
		t.Errorf("found %v, want %s", got, want)
	}
	if doc.Coverage.State != "partial" || len(doc.Coverage.Reasons) == 0 || !strings.Contains(fmt.Sprint(doc.Coverage.Reasons), "VEGA_LLM_PROVIDER") {
		t.Errorf("coverage %+v, want partial with the variables that would complete it", doc.Coverage)
	}
	if strings.Contains(stdout+stderr, "Q3EGRIHW") {
		t.Error("the credential itself was printed")
	}
	sarif, err := os.ReadFile(filepath.Join(home, "out.sarif"))
	if err != nil || !strings.Contains(string(sarif), `"2.1.0"`) || strings.Contains(string(sarif), "Q3EGRIHW") {
		t.Errorf("SARIF: %v, %.200s", err, sarif)
	}
	if left, _ := filepath.Glob(filepath.Join(home, ".vega-sarif-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestExitCodesOfScan(t *testing.T) {
	t.Parallel()
	clean := map[string]string{"main.go": "package main\n\nfunc main() {}\n"}
	for _, c := range []struct {
		name string
		src  map[string]string
		args []string
		code int
	}{
		{"nothing found", clean, nil, exitOK},
		{"partial by configuration", clean, []string{"--require-complete"}, exitIncomplete},
		{"found below the limit", map[string]string{"config/prod.go": leaky()["config/prod.go"]}, []string{"--fail-on", "critical"}, exitOK},
		{"findings win over coverage", leaky(), []string{"--require-complete"}, exitFindings},
		{"never fail", leaky(), []string{"--fail-on", "none"}, exitOK},
		{"bad flag value", clean, []string{"--fail-on", "worse"}, exitError},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, stderr, code := vega(t, t.TempDir(), nil, append([]string{"scan", tree(t, c.src)}, c.args...)...)
			if code != c.code {
				t.Errorf("exit code %d, want %d: %s", code, c.code, stderr)
			}
		})
	}
	if _, _, code := vega(t, t.TempDir(), nil, "scan", "/does/not/exist"); code != exitError {
		t.Errorf("a missing folder exits %d", code)
	}
}

func TestScanKeepsTriageAndTalksToTheHolderOfItsFolder(t *testing.T) {
	t.Parallel()
	home, src := t.TempDir(), tree(t, leaky())
	data := "VEGA_DATA_DIR=" + filepath.Join(home, "data")
	s := serveIn(t, home, data)
	if _, stderr, code := vega(t, home, []string{data}, "scan", src, "-q"); code != exitFindings {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var list struct {
		Items []struct{ ID string }
	}
	s.do(t, http.MethodGet, "/findings", nil, &list)
	if len(list.Items) != 2 {
		t.Fatalf("the server has %d findings of the command's scan, want 2", len(list.Items))
	}
	for _, f := range list.Items {
		s.do(t, http.MethodPatch, "/findings/"+f.ID, map[string]string{"state": "dismissed", "reason": "false_positive", "note": "test data"}, nil)
	}
	s.stop(t)
	if _, stderr, code := vega(t, home, []string{data}, "scan", src, "-q"); code != exitOK {
		t.Errorf("exit code %d after everything was dismissed: %s", code, stderr)
	}
}

func TestScansOfSeveralTerminalsShareOneFolder(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	var terminals sync.WaitGroup
	for i := range 4 {
		files := leaky()
		files["which.txt"] = strings.Repeat(fmt.Sprintln("terminal", i), 1000*(i+1))
		src := tree(t, files)
		terminals.Go(func() {
			if _, stderr, code := vega(t, home, nil, "scan", src); code != exitFindings {
				t.Errorf("terminal %d: exit code %d: %s", i, code, stderr)
			}
		})
	}
	terminals.Wait()
}

func TestTwoScansOfOneFolderTakeTurns(t *testing.T) {
	t.Parallel()
	home, src := t.TempDir(), tree(t, leaky())
	var terminals sync.WaitGroup
	for range 3 {
		terminals.Go(func() {
			if _, stderr, code := vega(t, home, nil, "scan", src); code != exitFindings {
				t.Errorf("exit code %d: %s", code, stderr)
			}
		})
	}
	terminals.Wait()
}

func TestWhatCannotBePackedIsInTheCoverage(t *testing.T) {
	t.Parallel()
	home, src := t.TempDir(), tree(t, map[string]string{"main.go": "package main\n", "odd\nname.go": "package main\n"})
	stdout, stderr, code := vega(t, home, nil, "scan", src, "--json", "-q")
	if code != exitIncomplete || !strings.Contains(stdout, `"unreadable"`) || !strings.Contains(stdout, "name.go") {
		t.Errorf("exit code %d, want %d and the file named: %s%s", code, exitIncomplete, stdout, stderr)
	}
}

func TestOutputFollowsLinksAndLeavesDevicesAlone(t *testing.T) {
	t.Parallel()
	home, src := t.TempDir(), tree(t, leaky())
	real, link := filepath.Join(home, "real.sarif"), filepath.Join(home, "link.sarif")
	if err := errors.Join(os.WriteFile(real, []byte("old"), 0o600), os.Symlink(real, link)); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := vega(t, home, nil, "scan", src, "-q", "--sarif", link); code != exitFindings {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if b, err := os.ReadFile(real); err != nil || !strings.Contains(string(b), "2.1.0") {
		t.Errorf("the link's target holds %.40q, %v", b, err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link became %v, %v", info.Mode(), err)
	}
	pipe := filepath.Join(home, "pipe.sarif")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	read := make(chan string, 1)
	go func() { b, _ := os.ReadFile(pipe); read <- string(b) }()
	if _, stderr, code := vega(t, home, nil, "scan", src, "-q", "--sarif", pipe); code != exitFindings {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if got := <-read; !strings.Contains(got, "2.1.0") {
		t.Errorf("the pipe's reader got %.40q", got)
	}
}

func TestADamagedLogIsNamedAndNotServed(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	if _, stderr, code := vega(t, home, []string{"VEGA_DATA_DIR=whole"}, "scan", tree(t, leaky()), "-q"); code != exitFindings {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	for name, damage := range map[string]func(block []byte) []byte{
		"cut":     func(b []byte) []byte { return b[:len(b)*2/3] },
		"end":     func(b []byte) []byte { return b[:len(b)-10] },
		"flipped": func(b []byte) []byte { b[len(b)*999/1000] ^= 1; return b },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data := filepath.Join(home, name)
			if err := os.CopyFS(data, os.DirFS(filepath.Join(home, "whole"))); err != nil {
				t.Fatal(err)
			}
			blocks, err := filepath.Glob(filepath.Join(data, "nats/jetstream/*/streams/VEGA_EVENTS_*/msgs/1.blk"))
			if err != nil || len(blocks) != 1 {
				t.Fatalf("blocks %v, %v", blocks, err)
			}
			b, err := os.ReadFile(blocks[0])
			if err == nil {
				err = os.WriteFile(blocks[0], damage(b), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			if stdout, stderr, code := vega(t, home, []string{"VEGA_DATA_DIR=" + data}, "log", "verify"); code != exitError {
				t.Errorf("verify: exit code %d: %s%s", code, stdout, stderr)
			}
			if err := os.RemoveAll(filepath.Join(data, "readmodels")); err != nil {
				t.Fatal(err)
			}
			if stdout, stderr, code := vega(t, home, []string{"VEGA_DATA_DIR=" + data}); code != exitError {
				t.Errorf("start: exit code %d: %s%s", code, stdout, stderr)
			}
		})
	}
}

func TestALogThatIsNotThereIsNotMade(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	for _, args := range [][]string{{"log", "verify"}, {"log", "backup", "b.jsonl"}, {"log", "nothing"}} {
		if _, stderr, code := vega(t, home, nil, args...); code != exitError {
			t.Errorf("%v: exit code %d: %s", args, code, stderr)
		}
	}
	if made, err := os.ReadDir(home); err != nil || len(made) > 0 {
		t.Errorf("made %v, %v", made, err)
	}
}

func TestASecondProcessOnADataFolderIsRefused(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	s := serveIn(t, home)
	_, stderr, code := vega(t, home, nil)
	if code != exitError || !strings.Contains(stderr, fmt.Sprint(s.cmd.Process.Pid)) || !strings.Contains(stderr, "http://127.0.0.1:") {
		t.Errorf("exit code %d, said %q; want 3 and who holds the folder", code, stderr)
	}
}

func TestEveryMistakeOfTheConfigurationIsPrinted(t *testing.T) {
	t.Parallel()
	wrong := []string{"VEGA_WORKER_SLOTS=many", "VEGA_NATS_REPLICAS=2", "VEGA_API_PREFIX=v1", "VEGA_LOG_LEVEL=loud", "VEGA_SCAN_EXECUTION_MODE=fibre"}
	_, stderr, code := vega(t, t.TempDir(), wrong)
	if code != exitError {
		t.Errorf("exit code %d", code)
	}
	for _, w := range wrong {
		if name, _, _ := strings.Cut(w, "="); !strings.Contains(stderr, name) {
			t.Errorf("%s is not named in %q", name, stderr)
		}
	}
}

func TestBackupAndRestoreOfAServersLog(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	if _, stderr, code := vega(t, home, []string{"VEGA_DATA_DIR=a"}, "scan", tree(t, leaky()), "-q"); code != exitFindings {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	for _, step := range [][]string{{"VEGA_DATA_DIR=a", "backup", "b.jsonl"}, {"VEGA_DATA_DIR=c", "restore", "b.jsonl"}, {"VEGA_DATA_DIR=c", "verify"}} {
		if _, stderr, code := vega(t, home, step[:1], append([]string{"log"}, step[1:]...)...); code != exitOK {
			t.Fatalf("log %v: exit code %d: %s", step[1:], code, stderr)
		}
	}
	s := serveIn(t, home, "VEGA_DATA_DIR=c")
	var list struct{ Items []struct{ Status string } }
	s.do(t, http.MethodGet, "/scans", nil, &list)
	if len(list.Items) != 1 || list.Items[0].Status != "completed" {
		t.Errorf("scans of the restored log: %+v", list.Items)
	}
}

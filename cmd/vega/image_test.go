package main

import (
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
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dockerEngine is a Docker engine of this test's own: its socket, its images and its containers lie in one folder, and it touches no network of the machine's.
type dockerEngine struct {
	t   *testing.T
	dir string
}

// Debian's programs, by their full names: a developer's machine may have others of the same name first in its PATH.
const (
	dockerd = "/usr/sbin/dockerd"
	docker  = "/usr/bin/docker"
)

// startEngine starts an engine that ends with the test. It returns nil where none can be started, and says why: an engine needs root, the right to mount, and
// control groups that it may write to. Where those are there, a missing or broken engine fails the test.
func startEngine(t *testing.T) *dockerEngine {
	t.Helper()
	if why := noEngine(); why != "" {
		t.Logf("no Docker engine can be started here: %s", why)
		return nil
	}
	for _, program := range []string{dockerd, docker} {
		if _, err := os.Stat(program); err != nil {
			t.Fatalf("the Docker engine is not installed, run scripts/test-deps.sh test: %v", err)
		}
	}
	dir, err := os.MkdirTemp("", "vega-docker-") // short: the name of a socket may have 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	e := &dockerEngine{t, dir}
	t.Cleanup(func() {
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(string(mounts)) { // the engine leaves a network namespace behind
			if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], dir+"/") {
				_ = syscall.Unmount(f[1], syscall.MNT_DETACH)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the engine's folder: %v", err)
		}
	})
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(dockerd, "--host", e.socket(), "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
		"--config-file", filepath.Join(dir, "none.json"), "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := os.WriteFile(filepath.Join(dir, "none.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	started, ended := make(chan error), make(chan struct{})
	go func() { // the engine ends when the thread ends that started it, so that thread stays
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(ended)
	}()
	if err := <-started; err != nil {
		t.Fatalf("start the Docker engine: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it stops its containers
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
	})
	until(t, time.Minute, "the Docker engine answers", func() bool {
		select {
		case <-ended:
			b, _ := os.ReadFile(log.Name())
			t.Fatalf("the Docker engine ended: %s", b[max(0, len(b)-2000):])
		default:
		}
		return e.command(t.Context(), "version").Run() == nil
	})
	return e
}

// noEngine says why no engine can be started on this machine, or nothing.
func noEngine() string {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return "this is not root on Linux"
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err.Error()
	}
	m := regexp.MustCompile(`CapEff:\s+([0-9a-f]+)`).FindSubmatch(status)
	if m == nil {
		return "the process's capabilities are not known"
	}
	const sysAdmin = 21
	if caps, err := strconv.ParseUint(string(m[1]), 16, 64); err != nil || caps&(1<<sysAdmin) == 0 {
		return "root may not mount here (CAP_SYS_ADMIN)"
	}
	const writable = 2                                                                    // access(2)'s W_OK
	for _, group := range []string{"/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/cpu"} { // version 2, version 1
		if syscall.Access(group, writable) == nil {
			return ""
		}
	}
	return "the control groups cannot be written to"
}

func (e *dockerEngine) socket() string { return "unix://" + filepath.Join(e.dir, "docker.sock") }

func (e *dockerEngine) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, docker, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "DOCKER_HOST=" + e.socket(), "DOCKER_CONFIG=" + filepath.Join(e.dir, "config"), "DOCKER_BUILDKIT=0", "HOME=" + e.dir}
	return cmd
}

// docker runs a docker command to its end.
func (e *dockerEngine) docker(args ...string) (stdout, stderr string, code int) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.t.Context()), 3*time.Minute) // the test's own has ended when it cleans up
	defer cancel()
	cmd := e.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), errs.String(), exit.ExitCode()
	}
	if err != nil {
		e.t.Fatalf("docker %s: %v", args[0], err)
	}
	return out.String(), errs.String(), 0
}

// must runs a docker command that succeeds, and returns what it prints.
func (e *dockerEngine) must(args ...string) string {
	e.t.Helper()
	out, errs, code := e.docker(args...)
	if code != 0 {
		e.t.Fatalf("docker %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return strings.TrimSpace(out)
}

// dockerfile is the project's, cut in two: the command that builds the binary, and the final stage.
func dockerfile(t *testing.T) (build, final string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`RUN (CGO_ENABLED=0 go build .* \./cmd/vega)`).FindSubmatch(b)
	at := bytes.LastIndex(b, []byte("\nFROM scratch\n"))
	if command == nil || at < 0 {
		t.Fatalf("the Dockerfile has no build command or no final stage FROM scratch:\n%s", b)
	}
	return string(command[1]), string(b[at+1:])
}

// buildImage builds the image: its final stage as the Dockerfile has it, over what the first stage leaves behind, which is made here by the same command,
// because no base image can be counted on.
func (e *dockerEngine) buildImage(tag, version string) {
	e.t.Helper()
	build, final := dockerfile(e.t)
	dir := e.t.TempDir()
	out := filepath.Join(dir, "out")
	for path, mode := range map[string]os.FileMode{"data": 0o755, "etc/ssl/certs": 0o755, "tmp": 0o777 | os.ModeSticky} {
		if err := errors.Join(os.MkdirAll(filepath.Join(out, path), 0o755), os.Chmod(filepath.Join(out, path), mode)); err != nil {
			e.t.Fatal(err)
		}
	}
	certs, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(out, "etc/ssl/certs/ca-certificates.crt"), certs, 0o644); err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch AS build\nCOPY out /out\n"+final), 0o600); err != nil {
		e.t.Fatal(err)
	}
	cmd := exec.CommandContext(e.t.Context(), "sh", "-c", strings.Replace(build, "-o /out/vega", "-o "+filepath.Join(out, "vega"), 1))
	cmd.Dir, cmd.Env = filepath.Join("..", ".."), append(os.Environ(), "VERSION="+version)
	if b, err := cmd.CombinedOutput(); err != nil {
		e.t.Fatalf("%s: %v\n%s", build, err, b)
	}
	e.must("build", "--tag", tag, dir)
}

func TestTheImageRunsWithoutRootAndWithoutAWritableFileSystem(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	if e == nil {
		return // said why
	}
	const version = "v0.0.0-image-test"
	e.buildImage("vega:test", version)

	var image []struct {
		Size   int64
		Config struct {
			User        string
			Entrypoint  []string
			Volumes     map[string]any
			Healthcheck struct{ Test []string }
		}
	}
	if err := json.Unmarshal([]byte(e.must("image", "inspect", "vega:test")), &image); err != nil || len(image) != 1 {
		t.Fatalf("inspect the image: %v", err)
	}
	if c := image[0].Config; c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/vega"}) || !slices.Equal(c.Healthcheck.Test, []string{"CMD", "/vega", "healthcheck"}) || len(c.Volumes) != 1 {
		t.Errorf("the image is %+v", c)
	}
	t.Logf("the image has %d MB", image[0].Size>>20)

	// As compose.yaml runs it. The engine has no network of its own, so the machine's is used, and loopback on it.
	hardened := []string{"--network", "host", "--read-only", "--tmpfs", "/tmp:mode=1777,size=256m", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true", "--pids-limit", "1024"}
	run := func(args ...string) []string { return slices.Concat([]string{"run"}, hardened, args) }
	if got := e.must(run("--rm", "vega:test", "--version")...); got != "vega version "+version {
		t.Errorf("vega --version says %q, want %s", got, version)
	}
	if got := e.must(run("--rm", "--env", "VEGA_LISTEN_ADDR=127.0.0.1:0", "vega:test", "config")...); !regexp.MustCompile(`VEGA_DATA_DIR +/data +environment`).MatchString(got) {
		t.Errorf("vega config: %s", got)
	}
	if _, errs, code := e.docker(run("--rm", "vega:test")...); code != exitError || !strings.Contains(errs, "VEGA_DEBUG_PASSWORD") {
		t.Errorf("with the default password on every address: exit %d: %s", code, errs)
	}

	port := freePorts(t, 1)[0]
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	e.must(run("--detach", "--name", "api", "--volume", "state:/data", "--health-interval", "1s", "--health-start-period", "30s",
		"--env", fmt.Sprint("VEGA_LISTEN_ADDR=127.0.0.1:", port), "--env", "VEGA_DEBUG_PASSWORD=the password of this test", "vega:test")...)
	t.Cleanup(func() {
		if t.Failed() {
			out, errs, _ := e.docker("logs", "api")
			t.Logf("the container's log:\n%s%s", out, errs)
		}
		e.docker("rm", "--force", "--volumes", "api")
	})
	ready := func() bool {
		for _, path := range []string{"/healthz", "/readyz"} {
			resp, err := http.Get(base + path)
			if err != nil {
				return false
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return false
			}
		}
		return true
	}
	until(t, time.Minute, "the API in the container is ready", ready)
	until(t, time.Minute, "the container counts as healthy", func() bool {
		return e.must("inspect", "--format", "{{.State.Health.Status}}", "api") == "healthy"
	})
	status, err := os.ReadFile(fmt.Sprintf("/proc/%s/status", e.must("inspect", "--format", "{{.State.Pid}}", "api")))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`Uid:\s+65532\s`, `CapEff:\s+0+\n`, `NoNewPrivs:\s+1\n`} {
		if !regexp.MustCompile(want).Match(status) {
			t.Errorf("the process has not %s:\n%s", want, status)
		}
	}

	// The whole job in there: the archive is unpacked by a child process of the binary, and what was planted is found.
	c := newClient(base+"/v1", "")
	if err := c.login(t.Context(), "debug@example.com", "the password of this test"); err != nil {
		t.Fatal(err)
	}
	out, errs, code := vega(t, t.TempDir(), []string{"VEGA_TOKEN=" + c.token}, "scan", tree(t, leaky()), "--server", base+"/v1", "--json")
	if code != exitFindings || !json.Valid([]byte(out)) {
		t.Errorf("scan: exit %d, want %d\n%s%s", code, exitFindings, out, errs)
	}

	// It stops when it is asked to, and the volume keeps what it knew.
	e.must("stop", "--time", "20", "api")
	if got := e.must("inspect", "--format", "{{.State.ExitCode}}", "api"); got != "0" {
		t.Errorf("stopped with exit code %s", got)
	}
	e.must("start", "api")
	until(t, time.Minute, "the API in the container is ready again", ready)
	var scans struct{ Items []struct{ Status string } }
	if err := c.call(t.Context(), http.MethodGet, "/scans", "", nil, &scans); err != nil || len(scans.Items) != 1 || scans.Items[0].Status != "completed" {
		t.Errorf("after a restart the scans are %+v, %v; want the one that was completed", scans.Items, err)
	}
	if changed := e.must("diff", "api"); changed != "" {
		t.Errorf("the container's own file system changed:\n%s", changed)
	}
}

func TestTheImageIsBuiltOfWhatTheBinaryNeeds(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join("..", "..", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	from := regexp.MustCompile(`(?m)^FROM golang:(\d+\.\d+)\.(\d+)-\w+ AS build$`).FindSubmatch(b)
	want := regexp.MustCompile(`(?m)^go (\d+\.\d+)\.(\d+)$`).FindSubmatch(mod)
	if from == nil || want == nil || string(from[1]) != string(want[1]) {
		t.Errorf("the Dockerfile builds with %q, go.mod wants %q", from, want)
	}
	// What .dockerignore lets through is what the binary is made of.
	ignore, err := os.ReadFile(filepath.Join("..", "..", ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if .Module}}{{if .Module.Main}}{{.ImportPath}}{{end}}{{end}}", "./cmd/vega")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	need := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if parts := strings.Split(strings.TrimSpace(line), "/"); len(parts) > 1 {
			need[parts[1]] = true
		}
	}
	for folder := range need {
		if !bytes.Contains(ignore, []byte("\n!"+folder+"\n")) {
			t.Errorf(".dockerignore keeps %s away from the builder", folder)
		}
	}
}

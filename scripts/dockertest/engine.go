// Package dockertest starts a Docker engine for tests, where one can be started at all, and builds the images that tests run: no image can be pulled.
package dockertest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Engine is a Docker engine of a test's own: its socket, its images and its containers lie in one folder, and it touches no network of the machine's. Its methods
// may be called concurrently.
type Engine struct {
	t   testing.TB
	dir string
}

// Debian's programs, by their full names: a developer's machine may have others of the same name first in its PATH.
const (
	dockerd = "/usr/sbin/dockerd"
	docker  = "/usr/bin/docker"
)

const (
	startTime   = time.Minute
	stopTime    = 30 * time.Second // for stopping its containers
	commandTime = 3 * time.Minute
)

// Start starts an engine that ends with the test, and with everything that it runs. It returns nil where none can be started, and says why in the test's log: an
// engine needs root, the right to mount, and control groups that it may write to. Where those are there, a missing or broken engine fails the test.
func Start(t testing.TB) *Engine {
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
	e := &Engine{t, dir}
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
	cmd := exec.Command(dockerd, "--host", e.Host(), "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
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
		case <-time.After(stopTime):
			_ = cmd.Process.Kill()
			<-ended
		}
	})
	late := time.NewTimer(startTime)
	defer late.Stop()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for e.Command(t.Context(), "version").Run() != nil {
		select {
		case <-ended:
			b, _ := os.ReadFile(log.Name())
			t.Fatalf("the Docker engine ended: %s", b[max(0, len(b)-2000):])
		case <-late.C:
			b, _ := os.ReadFile(log.Name())
			t.Fatalf("the Docker engine does not answer after %v: %s", startTime, b[max(0, len(b)-2000):])
		case <-again.C:
		}
	}
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

// Host is what DOCKER_HOST must be for a client to reach the engine.
func (e *Engine) Host() string { return "unix://" + filepath.Join(e.dir, "docker.sock") }

// Env is the environment for a client of the engine: Debian's, and with nothing of the developer's own configuration.
func (e *Engine) Env() []string {
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DOCKER_HOST=" + e.Host(), "DOCKER_CONFIG=" + filepath.Join(e.dir, "config"), "DOCKER_BUILDKIT=0", "HOME=" + e.dir}
}

// Command is a docker command that has not been started.
func (e *Engine) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, docker, args...)
	cmd.Env = e.Env()
	return cmd
}

// Docker runs a docker command to its end.
func (e *Engine) Docker(args ...string) (stdout, stderr string, code int) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.t.Context()), commandTime) // the test's own has ended when it cleans up
	defer cancel()
	cmd := e.Command(ctx, args...)
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

// Must runs a docker command that succeeds, and returns what it prints.
func (e *Engine) Must(args ...string) string {
	e.t.Helper()
	out, errs, code := e.Docker(args...)
	if code != 0 {
		e.t.Fatalf("docker %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return strings.TrimSpace(out)
}

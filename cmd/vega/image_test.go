package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"vega/scripts/dockertest"
)

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
func buildImage(t *testing.T, e *dockertest.Engine, tag, version string) {
	t.Helper()
	build, final := dockerfile(t)
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	for path, mode := range map[string]os.FileMode{"data": 0o755, "etc/ssl/certs": 0o755, "tmp": 0o777 | os.ModeSticky} {
		if err := errors.Join(os.MkdirAll(filepath.Join(out, path), 0o755), os.Chmod(filepath.Join(out, path), mode)); err != nil {
			t.Fatal(err)
		}
	}
	certs, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(out, "etc/ssl/certs/ca-certificates.crt"), certs, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch AS build\nCOPY out /out\n"+final), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(build, "-o /out/vega", "-o "+filepath.Join(out, "vega"), 1))
	cmd.Dir, cmd.Env = filepath.Join("..", ".."), append(os.Environ(), "VERSION="+version)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, b)
	}
	e.Must("build", "--tag", tag, dir)
}

func TestTheImageRunsWithoutRootAndWithoutAWritableFileSystem(t *testing.T) {
	t.Parallel()
	e := dockertest.Start(t)
	if e == nil {
		return // said why
	}
	const version = "v0.0.0-image-test"
	buildImage(t, e, "vega:test", version)

	var image []struct {
		Size   int64
		Config struct {
			User        string
			Entrypoint  []string
			Volumes     map[string]any
			Healthcheck struct{ Test []string }
		}
	}
	if err := json.Unmarshal([]byte(e.Must("image", "inspect", "vega:test")), &image); err != nil || len(image) != 1 {
		t.Fatalf("inspect the image: %v", err)
	}
	if c := image[0].Config; c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/vega"}) || !slices.Equal(c.Healthcheck.Test, []string{"CMD", "/vega", "healthcheck"}) || len(c.Volumes) != 1 {
		t.Errorf("the image is %+v", c)
	}
	t.Logf("the image has %d MB", image[0].Size>>20)

	// As compose.yaml runs it. The engine has no network of its own, so the machine's is used, and loopback on it.
	hardened := []string{"--network", "host", "--read-only", "--tmpfs", "/tmp:mode=1777,size=256m", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true", "--pids-limit", "1024"}
	run := func(args ...string) []string { return slices.Concat([]string{"run"}, hardened, args) }
	if got := e.Must(run("--rm", "vega:test", "--version")...); got != "vega version "+version {
		t.Errorf("vega --version says %q, want %s", got, version)
	}
	if got := e.Must(run("--rm", "--env", "VEGA_LISTEN_ADDR=127.0.0.1:0", "vega:test", "config")...); !regexp.MustCompile(`VEGA_DATA_DIR +/data +environment`).MatchString(got) {
		t.Errorf("vega config: %s", got)
	}
	if _, errs, code := e.Docker(run("--rm", "vega:test")...); code != exitError || !strings.Contains(errs, "VEGA_DEBUG_PASSWORD") {
		t.Errorf("with the default password on every address: exit %d: %s", code, errs)
	}

	port := freePorts(t, 1)[0]
	base := fmt.Sprintf("http://127.0.0.1:%d", port)
	e.Must(run("--detach", "--name", "api", "--volume", "state:/data", "--health-interval", "1s", "--health-start-period", "30s",
		"--env", fmt.Sprint("VEGA_LISTEN_ADDR=127.0.0.1:", port), "--env", "VEGA_DEBUG_PASSWORD=the password of this test", "vega:test")...)
	t.Cleanup(func() {
		if t.Failed() {
			out, errs, _ := e.Docker("logs", "api")
			t.Logf("the container's log:\n%s%s", out, errs)
		}
		e.Docker("rm", "--force", "--volumes", "api")
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
		return e.Must("inspect", "--format", "{{.State.Health.Status}}", "api") == "healthy"
	})
	status, err := os.ReadFile(fmt.Sprintf("/proc/%s/status", e.Must("inspect", "--format", "{{.State.Pid}}", "api")))
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
	e.Must("stop", "--time", "20", "api")
	if got := e.Must("inspect", "--format", "{{.State.ExitCode}}", "api"); got != "0" {
		t.Errorf("stopped with exit code %s", got)
	}
	e.Must("start", "api")
	until(t, time.Minute, "the API in the container is ready again", ready)
	var scans struct{ Items []struct{ Status string } }
	if err := c.call(t.Context(), http.MethodGet, "/scans", "", nil, &scans); err != nil || len(scans.Items) != 1 || scans.Items[0].Status != "completed" {
		t.Errorf("after a restart the scans are %+v, %v; want the one that was completed", scans.Items, err)
	}
	if changed := e.Must("diff", "api"); changed != "" {
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
	if from != nil && bytes.Count(b, []byte("\nFROM golang:")) != bytes.Count(b, fmt.Appendf(nil, "\nFROM golang:%s.%s-", from[1], from[2])) {
		t.Error("the Dockerfile builds with more than one release of Go")
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

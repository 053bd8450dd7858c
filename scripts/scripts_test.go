package scripts_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"vega/scripts"
)

const (
	script = "./codex-in-target-container.sh"
	key    = "the-key-of-this-run"
	prompt = "\nAudit this,\nplease. "
)

// fakeDocker is a docker command that writes down how it was called, and does what files in its folder say: COMMAND.out and COMMAND.err are what it prints, COMMAND.out.N
// what it prints the Nth time only, COMMAND.code its exit code, where COMMAND is its first argument. What it gets on its standard input from "run --interactive" it writes down too.
const fakeDocker = `#!/bin/bash
for a; do printf '%s\0' "$a"; done >>"$FAKE/$1.args"
printf '\0' >>"$FAKE/$1.args"
env >"$FAKE/$1.env"
case "$*" in *--interactive*) cat >"$FAKE/stdin" ;; esac
echo >>"$FAKE/$1.count"
for out in "$FAKE/$1.out" "$FAKE/$1.out.$(grep -c '' "$FAKE/$1.count")"; do [ ! -e "$out" ] || cat "$out"; done
[ ! -e "$FAKE/$1.err" ] || cat "$FAKE/$1.err" >&2
[ ! -e "$FAKE/$1.code" ] || exit "$(cat "$FAKE/$1.code")"
`

// fixture is a folder with a fake docker, and what the script wants to be there.
type fixture struct {
	t                         *testing.T
	dir, home, source, socket string
	env                       map[string]string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	dir, err := os.MkdirTemp("", "vega-script-") // short: the name of a socket may have 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	f := &fixture{t: t, dir: dir, home: filepath.Join(dir, "home"), source: filepath.Join(dir, `a, "source" of mine`), socket: filepath.Join(dir, "s")}
	for path, text := range map[string]string{
		"bin/docker": fakeDocker, "home/config.toml": "model = \"m\"\n", "home/schema.json": "{}", "home/models.json": strings.Repeat("m", 20_000), "home/.hidden": "no", "home/folder/file": "no",
		`a, "source" of mine/main.go`: "package main\n",
	} {
		path = filepath.Join(dir, path)
		syscall.ForkLock.RLock() // a process that is being started meanwhile would hold the file open, and it could not be run
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755))
		syscall.ForkLock.RUnlock()
		if err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	f.env = map[string]string{
		"PATH": filepath.Join(dir, "bin") + ":/usr/bin:/bin", "FAKE": dir, "HOME": f.home, "CODEX_HOME": f.home, "VEGA_CODEX_HOST_HOME": "/nowhere/home", "VEGA_RUN_KEY": key,
		"VEGA_V16_CODEX_DOCKER_IMAGE": "runner:1", "VEGA_CODEX_SOURCE": f.source, "VEGA_CODEX_SOCKET": f.socket, "VEGA_CODEX_PORT": "4711",
		"VEGA_CODEX_RUN": "r1", "VEGA_CODEX_SCAN": "s1", "VEGA_CODEX_FOLDER": "/var/lib/vega/process 1", "VEGA_CODEX_TIMEOUT_SECONDS": "60",
	}
	return f
}

// run runs the script.
func (f *fixture) run(args ...string) (stdout, stderr string, code int) {
	f.t.Helper()
	cmd := exec.CommandContext(f.t.Context(), script, args...)
	for name, value := range f.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(prompt), &out, &errs
	if err := cmd.Run(); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			f.t.Fatal(err)
		}
		code = exit.ExitCode()
	}
	return out.String(), errs.String(), code
}

// docker says how docker is to answer a command.
func (f *fixture) docker(command, stdout, stderr string, code int) {
	f.t.Helper()
	for what, text := range map[string]string{"out": stdout, "err": stderr, "code": strconv.Itoa(code)} {
		if err := os.WriteFile(filepath.Join(f.dir, command+"."+what), []byte(text), 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
}

// read reads a file that the fake docker has written.
func (f *fixture) read(name string) string {
	f.t.Helper()
	b, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		f.t.Fatal(err)
	}
	return string(b)
}

// calls are the arguments of each call of a docker command.
func (f *fixture) calls(command string) [][]string {
	f.t.Helper()
	var out [][]string
	for call := range strings.SplitSeq(strings.TrimSuffix(f.read(command+".args"), "\x00\x00"), "\x00\x00") {
		out = append(out, strings.Split(call, "\x00"))
	}
	return out
}

// isolation is what every container is run with, on this machine, less its limits.
func isolation(limits ...string) []string {
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		uid, gid = 65534, 65534
	}
	out := slices.Concat([]string{"--rm", "--init", "--pull", "never", "--log-driver", "none", "--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"}, limits,
		[]string{"--label", "vega.codex=1"})
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"} {
		out = append(out, "--env", name+"=")
	}
	memory := fmt.Sprintf(":rw,noexec,nosuid,nodev,size=256m,mode=0700,uid=%d,gid=%d", uid, gid)
	return append(out, "--user", fmt.Sprintf("%d:%d", uid, gid), "--tmpfs", "/codex"+memory, "--tmpfs", "/tmp"+memory)
}

func limits(pids, memory, cpus string) []string {
	return []string{"--pids-limit", pids, "--ulimit", "core=0:0", "--memory", memory, "--memory-swap", memory, "--cpus", cpus}
}

// The whole command, so that whoever adds a flag, a mount or a variable to it does so in view of this list.
func TestCodexIsRunInAContainerThatHasNothingElse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		env    map[string]string
		limits []string
	}{
		"limits by default": {nil, limits("256", "2g", "1")},
		"limits given":      {map[string]string{"VEGA_CODEX_MEMORY": "512m", "VEGA_CODEX_PIDS": "99", "VEGA_CODEX_CPUS": "0.5"}, limits("99", "512m", "0.5")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			for name, value := range c.env {
				f.env[name] = value
			}
			f.docker("run", "{\"type\":\"thread.started\"}\n", "a warning\n", 42)
			out, errs, code := f.run("exec", "--json", "--output-schema", f.home+"/schema.json", "-C", f.source, f.source+"/sub folder", f.source+"r", "-c", "x="+f.home, "-")
			if code != 42 || out != "{\"type\":\"thread.started\"}\n" || errs != "a warning\n" {
				t.Errorf("exit %d, %q, %q; want docker's own", code, out, errs)
			}
			want := slices.Concat([]string{"run", "--interactive"}, isolation(c.limits...), []string{
				"--name", "vega-codex-r1", "--label", "vega.run=r1", "--label", "vega.scan=s1", "--label", "vega.folder=/var/lib/vega/process 1",
				"--mount", `type=bind,"source=` + f.dir + `/a, ""source"" of mine",target=/source,readonly`,
				"--mount", `type=bind,"source=` + f.socket + `",target=/run/vega/proxy.sock`, "--workdir", "/source",
				"--env", "VEGA_CODEX_RUNNER=1", "--env", "VEGA_CODEX_PORT=4711", "--env", "VEGA_CODEX_TIMEOUT_SECONDS=60",
				"runner:1", "exec", "--json", "--output-schema", "/codex/schema.json", "-C", "/source", "/source/sub folder", f.source + "r", "-c", "x=" + f.home, "-",
			})
			if got := f.calls("run"); len(got) != 1 || !slices.Equal(got[0], want) {
				t.Errorf("docker was called with\n%q, want\n%q", got, want)
			}
			env := f.read("run.env")
			if strings.Contains(env, key) || !strings.Contains(env, "\nHOME=/nowhere/home\n") {
				t.Errorf("docker's environment has the key, or not the user's home:\n%s", env)
			}
		})
	}
}

func TestTheKeyTheFilesAndThePromptTravelOnStandardInput(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, errs, code := f.run("exec", "-"); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	in := bufio.NewReader(strings.NewReader(f.read("stdin")))
	if line, err := in.ReadString('\n'); err != nil || line != key+"\n" {
		t.Errorf("the first line is %q, %v", line, err)
	}
	files := map[string]int64{}
	for archive := tar.NewReader(in); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = h.Size
	}
	if want := map[string]int64{"./config.toml": 12, "./schema.json": 2, "./models.json": 20_000}; fmt.Sprint(files) != fmt.Sprint(want) {
		t.Errorf("the files are %v, want %v", files, want)
	}
	rest, err := io.ReadAll(in)
	if got := strings.TrimLeft(string(rest), "\x00"); err != nil || got != prompt {
		t.Errorf("the prompt is %q, %v; want %q", got, err, prompt)
	}
}

// One of the folders may lie in the other.
func TestAPathIsRewrittenByTheInnerFolder(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	inner := filepath.Join(f.home, "folder")
	f.env["VEGA_CODEX_SOURCE"] = inner
	if _, errs, code := f.run("exec", inner+"/x", f.home+"/x", inner, f.home, "-"); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	call := f.calls("run")[0]
	if got, want := call[len(call)-5:], []string{"/source/x", "/codex/x", "/source", "/codex", "-"}; !slices.Equal(got, want) {
		t.Errorf("the arguments are %q, want %q", got, want)
	}
}

func TestWhatIsMissingIsSaidInOneSentence(t *testing.T) {
	t.Parallel()
	const away = "Cannot connect to the Docker daemon at unix:///x.\nIs the docker daemon running?\n"
	for name, c := range map[string]struct {
		args []string
		make func(*fixture)
		code int
		want []string // in the sentence
	}{
		"no docker":                {[]string{"--version"}, withoutDocker, 1, []string{"no docker command in PATH"}},
		"no docker to remove with": {[]string{"--remove"}, withoutDocker, 1, []string{"no docker command in PATH"}},
		"no docker to run with":    {[]string{"exec", "-"}, withoutDocker, 1, []string{"no docker command in PATH"}},
		"the engine is away": {[]string{"--version"}, func(f *fixture) { f.docker("version", "\n", away, 1) }, 1,
			[]string{"the Docker engine does not answer: Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?"}},
		"the engine is away and there is something to remove": {[]string{"--remove"}, func(f *fixture) { f.docker("ps", "", away, 1) }, 1, []string{"the Docker engine does not answer: Cannot connect"}},
		"no image": {[]string{"--version"}, func(f *fixture) { f.docker("image", "", "Error: No such image: runner:1\n", 1) }, 1, []string{"no image runner:1", "make codex-image", "No such image"}},
		"an image without the program": {[]string{"--version"}, func(f *fixture) { f.docker("run", "", "exec: \"--version\": not found\n", 127) }, 1,
			[]string{"the image runner:1 does not run Codex", "make codex-image", "not found"}},
		"an image of another version": {[]string{"--version"}, func(f *fixture) { f.docker("run", "codex-cli 0.1\nvega container runner 0\n", "", 0) }, 1,
			[]string{"the image runner:1 is not of this version", "make codex-image", "vega container runner 0"}},
		"an image of something else":  {[]string{"--version"}, func(f *fixture) { f.docker("run", "busybox\n", "", 0) }, 1, []string{"not of this version", "busybox"}},
		"no source":                   {[]string{"exec", "-"}, func(f *fixture) { f.env["VEGA_CODEX_SOURCE"] = f.dir + "/none" }, 1, []string{"VEGA_CODEX_SOURCE is " + "/"}},
		"no absolute source":          {[]string{"exec", "-"}, func(f *fixture) { f.env["VEGA_CODEX_SOURCE"] = "testdata" }, 1, []string{"VEGA_CODEX_SOURCE is testdata"}},
		"the whole machine as source": {[]string{"exec", "-"}, func(f *fixture) { f.env["VEGA_CODEX_SOURCE"] = "/" }, 1, []string{"VEGA_CODEX_SOURCE is /"}},
		"no socket":                   {[]string{"exec", "-"}, func(f *fixture) { f.env["VEGA_CODEX_SOCKET"] = f.home + "/config.toml" }, 1, []string{"config.toml, which is no socket"}},
		"no configuration":            {[]string{"exec", "-"}, func(f *fixture) { f.env["CODEX_HOME"] = f.source }, 1, []string{"there is no config.toml"}},
		"a key of two lines":          {[]string{"exec", "-"}, func(f *fixture) { f.env["VEGA_RUN_KEY"] = "a\nb" }, 1, []string{"VEGA_RUN_KEY has more than one line"}},
		"no key":                      {[]string{"exec", "-"}, func(f *fixture) { delete(f.env, "VEGA_RUN_KEY") }, 2, []string{"exec needs VEGA_RUN_KEY", "usage: "}},
		"no run":                      {[]string{"exec", "-"}, func(f *fixture) { delete(f.env, "VEGA_CODEX_RUN") }, 2, []string{"exec needs VEGA_CODEX_RUN", "usage: "}},
		"the prompt as an argument":   {[]string{"exec", "--json", "hello"}, func(*fixture) {}, 2, []string{"exec needs - as its last argument", "usage: "}},
		"an option as image":          {[]string{"exec", "-"}, func(f *fixture) { f.env["VEGA_V16_CODEX_DOCKER_IMAGE"] = "--privileged" }, 2, []string{"no image"}},
		"nothing to remove by": {[]string{"--remove"}, func(f *fixture) { delete(f.env, "VEGA_CODEX_RUN"); delete(f.env, "VEGA_CODEX_FOLDER") }, 2,
			[]string{"--remove needs VEGA_CODEX_RUN or VEGA_CODEX_FOLDER", "usage: "}},
		"another command": {[]string{"login"}, func(*fixture) {}, 2, []string{"called with login", "usage: "}},
		"no command":      {nil, func(*fixture) {}, 2, []string{"called with nothing", "usage: "}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			c.make(f)
			out, errs, code := f.run(c.args...)
			if code != c.code || out != "" || strings.Count(errs, "\n") != 1 || !strings.HasPrefix(errs, "codex-in-target-container: ") {
				t.Errorf("exit %d, want %d, with one line on standard error:\n%s%s", code, c.code, out, errs)
			}
			for _, want := range c.want {
				if !strings.Contains(errs, want) {
					t.Errorf("it says %q, want %q in it", errs, want)
				}
			}
		})
	}
}

// withoutDocker leaves only those programs in PATH that the script uses.
func withoutDocker(f *fixture) {
	f.t.Helper()
	bin := filepath.Join(f.dir, "few")
	if err := os.Mkdir(bin, 0o755); err != nil {
		f.t.Fatal(err)
	}
	for _, name := range []string{"bash", "env", "id", "tr", "sed", "tar", "cat", "sleep"} {
		path, err := exec.LookPath(name)
		if err == nil {
			err = os.Symlink(path, filepath.Join(bin, name))
		}
		if err != nil {
			f.t.Fatal(err)
		}
	}
	f.env["PATH"] = bin
}

func TestTheVersionIsAskedForInTheContainer(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const want = "codex-cli 0.169.0\nvega container runner 1\n"
	f.docker("run", want, "", 0)
	if out, errs, code := f.run("--version"); code != 0 || out != want || errs != "" {
		t.Errorf("exit %d, %q, %q; want %q", code, out, errs, want)
	}
	if got, want := f.calls("run"), slices.Concat([]string{"run"}, isolation(limits("256", "2g", "1")...), []string{"runner:1", "--version"}); !slices.Equal(got[0], want) {
		t.Errorf("docker was called with\n%q, want\n%q", got, want)
	}
	if got := f.calls("image"); !slices.Equal(got[0], []string{"image", "inspect", "--format", "{{.Id}}", "runner:1"}) {
		t.Errorf("docker was asked for the image with %q", got)
	}
}

func TestContainersAreRemovedByTheirLabels(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		run     string   // VEGA_CODEX_RUN
		there   []string // what docker lists, one time after the other
		filter  string
		removed []string
		count   string
	}{
		"by their run":                {"r1", []string{"aa\n"}, "label=vega.run=r1", []string{"aa"}, "1\n"},
		"by their folder":             {"", []string{"aa\nbb\n"}, "label=vega.folder=/var/lib/vega/process 1", []string{"aa", "bb"}, "2\n"},
		"none":                        {"r1", nil, "label=vega.run=r1", nil, "0\n"},
		"until all are gone":          {"r1", []string{"aa\nbb\n", "bb\n", "bb\n"}, "label=vega.run=r1", []string{"aa", "bb", "bb", "bb"}, "2\n"},
		"also what has only now come": {"r1", []string{"aa\n", "bb\n"}, "label=vega.run=r1", []string{"aa", "bb"}, "2\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.env["VEGA_CODEX_RUN"] = c.run
			for i, out := range c.there {
				if err := os.WriteFile(filepath.Join(f.dir, fmt.Sprint("ps.out.", i+1)), []byte(out), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			f.docker("rm", "", "Error: removal of container bb is already in progress\n", 1)
			out, errs, code := f.run("--remove")
			if code != 0 || out != c.count || errs != "" {
				t.Errorf("exit %d, %q, %q; want %q", code, out, errs, c.count)
			}
			if got, want := f.calls("ps")[0], []string{"ps", "--all", "--quiet", "--no-trunc", "--filter", "label=vega.codex=1", "--filter", c.filter}; !slices.Equal(got, want) {
				t.Errorf("docker was asked for them with %q, want %q", got, want)
			}
			var removed []string
			if len(c.there) > 0 {
				for _, call := range f.calls("rm") {
					removed = append(removed, call[len(call)-1])
				}
			}
			if !slices.Equal(removed, c.removed) {
				t.Errorf("removed %q, want %q", removed, c.removed)
			}
		})
	}
}

func TestTheBinaryCarriesTheScript(t *testing.T) {
	t.Parallel()
	want, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	got := scripts.CodexInContainer()
	if !bytes.Equal(got, want) {
		t.Error("it carries another one")
	}
	got[0] = 0
	if scripts.CodexInContainer()[0] == 0 {
		t.Error("a caller can change it for others")
	}
}

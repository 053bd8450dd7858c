package dockertest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"vega/scripts/installed"
)

// runnerPrograms are the machine's programs that stand in for those of the runner image's Debian.
var runnerPrograms = []string{"bash", "sh", "cat", "cut", "dd", "env", "find", "grep", "head", "id", "ls", "mkdir", "nl", "rm", "sed", "sleep", "sort", "tail", "touch", "tr", "uniq", "wc", "xargs"}

// RunnerImage builds the image that scripts/codex-in-target-container.sh runs, calls it name, and returns that: the stage codex-runner as the Dockerfile has it, over
// what the stages before it leave behind. Those are made here, because no base image can be pulled: vega-codex by the same command, Codex from what
// scripts/test-deps.sh has installed, in the Dockerfile's release, and programs of this machine with their libraries.
func (e *Engine) RunnerImage(t testing.TB, name string) string {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("build the runner image: %v", err)
		}
	}
	root, err := installed.Root()
	must(err)
	dockerfile, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	must(err)
	find := func(expression string) string {
		t.Helper()
		m := regexp.MustCompile(expression).FindSubmatch(dockerfile)
		if m == nil {
			t.Fatalf("the Dockerfile has nothing like %s", expression)
		}
		return string(m[1])
	}
	release := find(`\nARG CODEX=(\S+)\n`)
	build := find(`\nRUN (CGO_ENABLED=0 go build .* \./cmd/vega-codex)\n`)
	stage := find(`(?s)\n(FROM codex-tools AS codex-runner\n.*?\n)(?:#|FROM )`)

	dir := t.TempDir()
	codex, err := installed.Codex(release)
	must(err)
	must(copyFile(codex, filepath.Join(dir, "codex")))
	cmd := exec.CommandContext(t.Context(), "sh", "-c", strings.Replace(build, "-o /out/vega-codex", "-o "+filepath.Join(dir, "vega-codex"), 1))
	cmd.Dir = root
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, b)
	}
	must(copyTools(filepath.Join(dir, "tools"), filepath.Join(filepath.Dir(filepath.Dir(codex)), "codex-path", "rg")))
	// What it takes from other stages lies beside it.
	stage = regexp.MustCompile(`COPY --from=\S+ /out/(\S+)`).ReplaceAllString(stage, "COPY $1")
	must(os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch AS codex-tools\nCOPY tools /\n"+stage), 0o600))
	e.Must("build", "--target", "codex-runner", "--tag", name, dir)
	return name
}

// copyTools makes a root of a file system with runnerPrograms and a ripgrep that needs no libraries.
func copyTools(dir, rg string) error {
	for _, folder := range []string{"bin", "lib", "lib64"} { // as Debian has them
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, "usr", folder), 0o755), os.Symlink(filepath.Join("usr", folder), filepath.Join(dir, folder))); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "etc", "passwd"), []byte("root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"), 0o644); err != nil {
		return err
	}
	if locale := "/usr/lib/locale/C.utf8"; os.MkdirAll(filepath.Join(dir, locale), 0o755) == nil { // without it every shell would complain
		if err := os.CopyFS(filepath.Join(dir, locale), os.DirFS(locale)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := copyFile(rg, filepath.Join(dir, "usr", "bin", "rg")); err != nil {
		return err
	}
	library := regexp.MustCompile(`(/\S+) \(0x`)
	for _, name := range runnerPrograms {
		program, err := exec.LookPath(name)
		if err != nil {
			return err
		}
		if err := copyFile(program, filepath.Join(dir, "usr", "bin", name)); err != nil {
			return err
		}
		libraries, err := exec.Command("ldd", program).Output()
		if err != nil {
			return fmt.Errorf("ldd %s: %w", program, err)
		}
		for _, m := range library.FindAllSubmatch(libraries, -1) {
			to := filepath.Join(dir, string(m[1]))
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return err
			}
			if err := copyFile(string(m[1]), to); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
	}
	return nil
}

// copyFile copies a program to a new file; where it can it links it.
func copyFile(from, to string) error {
	from, err := filepath.EvalSymlinks(from)
	if err != nil {
		return err
	}
	if err := os.Link(from, to); err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

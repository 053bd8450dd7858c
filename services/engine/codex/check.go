package codex

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"vega/services/engine/process"
)

// Version is what a program says of itself.
type Version struct {
	Number    string // 0.169.0
	Contained bool   // it runs Codex in a container
}

// Oldest is the oldest release that is known to work: with what it reports, how it is configured and how it ends.
const Oldest = "0.149.1"

const (
	checkTime     = 30 * time.Second // a container engine that has just started is slow
	removeTime    = 30 * time.Second
	maxWord       = 16 << 10                  // bytes that are read of an answer
	containedLine = "vega container runner 1" // the second line of a script that runs Codex in a container
)

var versionLine = regexp.MustCompile(`^codex(?:-cli)? (\d+)\.(\d+)\.(\d+)\b`)

// Check asks the program for its version and nothing else. Its error is one sentence that says what is missing: the program, Docker, the image, a release that is not too old.
func (p *Program) Check(ctx context.Context) (Version, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	out, err := p.call(ctx, nil, "--version")
	if err != nil {
		return Version{}, err
	}
	first, rest, _ := strings.Cut(strings.TrimSpace(out), "\n")
	m := versionLine.FindStringSubmatch(strings.TrimSpace(first))
	if m == nil {
		return Version{}, fmt.Errorf("%s is not Codex: it answers --version with %.60q (VEGA_V16_CODEX_BIN)", p.opt.Bin, first)
	}
	v := Version{Number: strings.Join(m[1:], "."), Contained: strings.TrimSpace(rest) == containedLine}
	if older(v.Number, Oldest) {
		return v, fmt.Errorf("codex %s is too old: %s or newer is needed (VEGA_V16_CODEX_BIN)", v.Number, Oldest)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.contained = &v.Contained
	return v, nil
}

// isContained says whether the program is a script that runs Codex in a container; it asks it if nobody has.
func (p *Program) isContained(ctx context.Context) (bool, error) {
	p.mu.Lock()
	known := p.contained
	p.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	v, err := p.Check(ctx)
	return v.Contained, err
}

// containersFile stands in a process's folder once it has started containers: whoever finds the folder of a dead process knows that there may be some.
const containersFile = "containers"

// RemoveLeft removes the containers that a process which is no more has left, by the folder that its attempts' folders lay in.
func (p *Program) RemoveLeft(ctx context.Context, folder string) error {
	if _, err := os.Stat(filepath.Join(folder, containersFile)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return p.remove(ctx, "VEGA_CODEX_FOLDER="+folder)
}

func (p *Program) remove(ctx context.Context, which string) error {
	_, err := p.call(ctx, []string{which}, "--remove")
	return err
}

// call runs the program for a word, not for a scan. The error is what it says on standard error.
func (p *Program) call(ctx context.Context, env []string, arg string) (string, error) {
	cmd := exec.Command(p.opt.Bin, arg) //nolint:gosec // what it runs is what the operator configured
	cmd.Env = append(p.scriptEnviron(), env...)
	for _, e := range p.opt.HostEnv {
		if strings.HasPrefix(e, "HOME=") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.WaitDelay = time.Second
	out, errs := &tail{max: maxWord}, &tail{max: maxWord}
	cmd.Stdout, cmd.Stderr = out, errs
	begun := time.Now()
	err := process.Run(ctx, cmd, process.NewMark("a word of "+p.opt.Bin))
	switch {
	case err == nil:
		return out.String(), nil
	case errors.Is(err, fs.ErrNotExist) && isThere(p.opt.Bin):
		return "", fmt.Errorf("codex cannot be run: what the first line of %s names, or the linker that it needs, is not there (VEGA_V16_CODEX_BIN)", p.opt.Bin)
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("codex is not there: %s is no program (VEGA_V16_CODEX_BIN)", p.opt.Bin)
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("codex cannot be run: %s may not be executed (VEGA_V16_CODEX_BIN)", p.opt.Bin)
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s %s has not answered within %s (VEGA_V16_CODEX_BIN, or the Docker that it asks)", p.opt.Bin, arg, time.Since(begun).Round(time.Second))
	}
	said := lastLine(errs.String())
	if said == "" {
		return "", fmt.Errorf("%s %s: %w", p.opt.Bin, arg, err)
	}
	return "", errors.New(strings.TrimPrefix(said, "codex-in-target-container: "))
}

// isThere says whether a path names something.
func isThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// older compares two versions of three numbers.
func older(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range 3 {
		m, _ := strconv.Atoi(x[i]) // digits alone, or it would be no version
		n, _ := strconv.Atoi(y[i])
		if m != n {
			return m < n
		}
	}
	return false
}

package process_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"vega/services/engine/process"
)

// Everything that the command started is gone when Run returns, whatever it did to be left alone.
func TestNothingOfACancelledProcessIsLeft(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"children":          `sleep 1000 & echo $!; sleep 1000 & echo $!; echo ready; wait`,
		"ignores interrupt": `trap "" INT TERM; sleep 1000 & echo $!; echo ready; while :; do sleep 1000; done`,
		"own session":       `setsid sleep 1000 & echo $!; setsid sh -c 'trap "" INT; echo $$; exec sleep 1000' & sleep 0.1; echo ready; wait`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := exec.Command("sh", "-c", script)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			c.Stdout = w
			ctx, cancel := context.WithCancelCause(t.Context())
			pids := make(chan []int, 1)
			go func() {
				defer cancel(errors.New("enough"))
				var seen bytes.Buffer
				b := make([]byte, 64)
				for !strings.Contains(seen.String(), "ready") {
					n, err := r.Read(b)
					seen.Write(b[:n])
					if err != nil {
						break
					}
				}
				var out []int
				for _, f := range strings.Fields(seen.String()) {
					if pid, err := strconv.Atoi(f); err == nil {
						out = append(out, pid)
					}
				}
				pids <- out
			}()
			err = process.Run(ctx, c, process.NewMark(t.TempDir()))
			_ = w.Close()
			if err == nil || err.Error() != "enough" {
				t.Errorf("Run = %v, want the cause", err)
			}
			children := <-pids
			if len(children) == 0 {
				t.Fatal("the script started nothing")
			}
			for _, pid := range append(children, c.Process.Pid) {
				if alive(pid) {
					t.Errorf("process %d lives", pid)
				}
			}
			if _, err := io.Copy(io.Discard, r); err != nil { // ends only when nobody holds the other end
				t.Error(err)
			}
		})
	}
}

// alive says that a process exists and has not ended; init may not have heard of the end of an orphan yet.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func TestAProcessThatEndsLeavesNoChildren(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := exec.Command("sh", "-c", `setsid sleep 1000 >/dev/null 2>&1 & echo $!; exit 3`)
	c.Stdout = &out
	err := process.Run(t.Context(), c, process.NewMark(t.TempDir()))
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 3 {
		t.Errorf("Run = %v, want exit status 3", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(out.String()))
	if err != nil || alive(pid) {
		t.Errorf("child %q lives: %v", out.String(), err)
	}
}

func TestAProcessThatCannotStartSaysSo(t *testing.T) {
	t.Parallel()
	if err := process.Run(t.Context(), exec.Command("/no/such/program"), process.NewMark(t.TempDir())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Run = %v", err)
	}
}

func TestWhatADeadProcessLeftRunningIsKilled(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	start := func(folder string) *exec.Cmd {
		c := exec.Command("sleep", "1000")
		c.Env = append(os.Environ(), "VEGA_PROCESS_MARK="+folder+":x")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
		return c
	}
	left, other := start(root+"/process-1/attempt-a"), start(root+"/process-12/attempt-b")
	process.KillLeft(root + "/process-1")
	if err := left.Wait(); err == nil {
		t.Error("what was left ended by itself")
	}
	if !alive(other.Process.Pid) {
		t.Error("another process's command was killed")
	}
}

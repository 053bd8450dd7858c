package process

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// ownGroup makes the command the leader of a process group of its own, which dies with the thread that started it.
func ownGroup(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// marked finds the processes whose environment has an entry that begins so: the descendants of a command that was started with it, also those that left its group.
func marked(prefix string) []int {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	var out []int
	for _, dir := range dirs {
		environ, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil {
			continue // it has just ended, or is somebody else's
		}
		for have := range bytes.SplitSeq(environ, []byte{0}) {
			if !bytes.HasPrefix(have, []byte(prefix)) {
				continue
			}
			if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && !isZombie(dir) {
				out = append(out, pid)
			}
		}
	}
	return out
}

// isZombie says that a process has ended and only waits for its parent to hear of it.
func isZombie(dir string) bool {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return true
	}
	_, after, ok := bytes.Cut(stat, []byte(") ")) // the name in parentheses may hold anything
	return ok && bytes.HasPrefix(after, []byte("Z"))
}

//go:build unix

package intake

import (
	"errors"
	"os/exec"
	"syscall"
)

// isolate gives the child a process group of its own and kills all of it when
// the context ends.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

// confine takes from this process what unpacking does not need. What it has
// open stays open; it can open nothing more, neither a file nor a socket.
func confine(o order) error {
	set := func(resource int, value uint64) error {
		return syscall.Setrlimit(resource, &syscall.Rlimit{Cur: value, Max: value})
	}
	var memory error
	if memoryLimited {
		memory = limitMemory(uint64(o.Memory))
	}
	return errors.Join(
		memory,
		set(syscall.RLIMIT_NOFILE, 0),
		set(syscall.RLIMIT_CORE, 0),
		set(syscall.RLIMIT_CPU, uint64(o.CPUSeconds)),
		// A pack is at most a little larger than what it holds.
		set(syscall.RLIMIT_FSIZE, uint64(o.Limits.UncompressedBytes)+uint64(o.Limits.Entries)*4096+1<<30),
	)
}

// isFull reports whether err means that the disk or a quota is full.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

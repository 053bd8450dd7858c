package main

import (
	"errors"

	"golang.org/x/sys/unix"
)

// hideMemory keeps what this process knows from others of its own user, such as an agent that runs beside it: no core dump is written, and its memory and its
// first environment under /proc are readable to nobody but root. Programs that it starts are not hidden.
func hideMemory() error {
	return errors.Join(unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}), unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}

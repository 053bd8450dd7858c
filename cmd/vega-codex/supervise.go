package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// killTime is how long Codex has for ending by itself once it was interrupted. It takes some 30 ms.
const killTime = 3 * time.Second

// supervise runs a prepared command, the leader of a process group of its own, until it has ended. It returns the command's exit code; 128 and the signal if one
// ended it; or one of this program's exit codes and the reason if
//
//   - its time is up: it is interrupted, and soon killed;
//   - deserted is closed: it is killed at once, for nobody reads what it says.
//
// Signals are passed on; after the first it is killed if it does not end soon. What the command has started may live on in a session of its own.
func supervise(c *exec.Cmd, signals <-chan os.Signal, deserted <-chan struct{}, limit time.Duration) (int, error) {
	if err := c.Start(); err != nil {
		return 0, fmt.Errorf("start codex: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()                                    // ends with the command, which this function waits for
	kill := func() { _ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) } // it may just have ended

	late := time.NewTimer(limit)
	defer late.Stop()
	var enough <-chan time.Time // then it is killed
	var why error
	code := 0
	for {
		select {
		case err := <-ended:
			if why != nil {
				return code, why
			}
			return exitCode(err)
		case s := <-signals:
			_ = c.Process.Signal(s)
			if enough == nil {
				enough = time.After(killTime)
			}
		case <-late.C:
			code, why = exitLate, fmt.Errorf("codex took longer than %v", limit)
			_ = c.Process.Signal(syscall.SIGINT)
			enough = time.After(killTime)
		case <-enough:
			kill()
		case <-deserted:
			code, why, deserted = exitDeserted, errors.New("the worker is gone or has given up the run"), nil
			kill()
		}
	}
}

// exitCode is a command's, by how waiting for it ended.
func exitCode(err error) (int, error) {
	if err == nil || errors.Is(err, exec.ErrWaitDelay) { // it ended well, though something still held its standard input
		return 0, nil
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return 0, fmt.Errorf("wait for codex: %w", err)
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return exit.ExitCode(), nil
	}
	code := exitSignal + int(status.Signal())
	if status.Signal() == syscall.SIGKILL {
		return code, errors.New("codex was killed, most likely because it needed more memory than the container may have")
	}
	return code, fmt.Errorf("codex was ended by a signal: %v", status.Signal())
}

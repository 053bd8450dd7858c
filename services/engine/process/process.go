// Package process runs commands of a scan so that nothing of them outlives it, whatever they start and however they or this process end.
package process

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// MarkName is in the environment of everything that a stage starts, so that all of it can be found again. Its value is the attempt's folder, and
// after a colon what tells one command from another.
const MarkName = "VEGA_PROCESS_MARK"

const (
	interruptTime = 300 * time.Millisecond // for a process to end its own children when it is asked to stop
	killEvery     = 20 * time.Millisecond  // between two looks for what is left
	killTime      = 5 * time.Second        // until a process that cannot be killed is reported
)

// ErrLeft is returned when something that a stage started could not be killed.
var ErrLeft = errors.New("a process could not be killed")

// Mark is a name and a value in the environment of one command and of everything that it starts, by which all of that is found again. A command that
// gives its children another environment has to give them this too.
type Mark struct{ Name, Value string }

// NewMark returns a mark for a command of the attempt whose folder that is.
func NewMark(folder string) Mark { return Mark{MarkName, folder + ":" + rand.Text()} }

func (m Mark) String() string { return m.Name + "=" + m.Value }

// Run runs a prepared command, with everything that it starts, and returns its error once all of that is gone: after it ended by itself, and
// after ctx ended, when it is interrupted first and killed soon after. Descendants that moved to another session are found by the mark in
// their environment, where there is /proc. When this process dies, so does the command, on Linux; its descendants live on until whoever clears the
// attempt's folder calls KillLeft.
func Run(ctx context.Context, c *exec.Cmd, m Mark) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	mark := m.String()
	c.Env = append(c.Environ(), mark)
	ownGroup(c)
	started, ended := make(chan error, 1), make(chan struct{})
	var how error // written before ended is closed
	go func() {   // ends with the command
		// The kernel ties the command's life to the thread that started it, so that thread stays until the command has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.Start()
		started <- err
		if err == nil {
			how = c.Wait()
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", c.Path, err)
	}
	group := c.Process.Pid
	var err error
	select {
	case <-ended:
		err = how
	case <-ctx.Done():
		// Interrupted it may end its own children in order; killed it cannot.
		_ = syscall.Kill(-group, syscall.SIGINT) // already gone is what we want
		patience := time.NewTimer(interruptTime)
		defer patience.Stop()
		select {
		case <-ended:
		case <-patience.C:
			_ = syscall.Kill(-group, syscall.SIGKILL)
			select {
			case <-ended:
			case <-time.After(killTime): // it holds a pipe open, or the kernel does not let go of it
			}
		}
		err = context.Cause(ctx)
	}
	if left := killAll(group, mark); left != nil {
		return errors.Join(err, left)
	}
	return err
}

// KillLeft kills what commands of a process that is no more have left running, by the folder that their attempts' folders lay in.
func KillLeft(folder string) {
	for _, pid := range marked(MarkName + "=" + folder + "/") {
		_ = syscall.Kill(pid, syscall.SIGKILL) // already gone is what we want
	}
}

// killAll kills what is left of a group and what carries the mark, until nothing is.
func killAll(group int, mark string) error {
	for deadline := time.Now().Add(killTime); ; {
		alive := syscall.Kill(-group, syscall.SIGKILL) == nil
		left := marked(mark)
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if !alive && len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: group %d, processes %v", ErrLeft, group, left)
		}
		<-time.After(killEvery)
	}
}

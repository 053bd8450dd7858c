// Command vega is the whole product in one binary: it serves by role, scans from the command line, and looks after its log.
//
// This package is the only one that reads the environment, flags and signals. node.go has what all roles share, server.go, workerrole.go
// and their like wire one role each, lifecycle.go starts and stops their parts in order, scan.go is
// the command line's scan, which talks to a node over the same HTTP API as everybody else; scantarget.go finds or starts that node.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"vega/services/intake"
)

// Exit codes.
const (
	exitOK         = 0
	exitFindings   = 1 // findings at or above --fail-on
	exitIncomplete = 2 // coverage is incomplete because something failed or ran out
	exitError      = 3
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version = "dev"

func main() {
	intake.ChildMain() // the process that unpacks archives never comes back from here
	os.Exit(run(product()))
}

// run is main with its deferred calls.
func run(made assembly) int {
	// The first signal ends ctx, and with it the work, in order; the second ends the process.
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup means it
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	context.AfterFunc(ctx, stop)
	err := newRootCommand(made).ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	fmt.Fprintln(os.Stderr, "vega:", err)
	return exitError
}

// exitCode is an error that has said everything already.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

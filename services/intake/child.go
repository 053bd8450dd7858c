package intake

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// Hostile bytes are unpacked in a child process: this program again, with
// childArg as its only argument. The child gets an empty environment, the
// upload, the pack and the manifest as open files, and its orders as a line of
// JSON on standard input. It then gives up the right to open anything, limits
// its memory and its processor time, and answers with a line of JSON on
// standard output. Standard input stays open: when it ends, the parent is gone,
// and the child ends too.

// childArg is not for people; no help mentions it.
const childArg = "__vega-unpack-archive"

// hello is the first line of a child's output. A program that does not call
// ChildMain prints something else.
const hello = "vega-unpack-archive 1\n"

// What the child may use.
const (
	childMemory     = 384 << 20 // bytes of writable memory; beyond them it dies
	childMemorySoft = 96 << 20  // bytes at which the garbage collector works harder
	maxChildOutput  = 1 << 20   // bytes; a full report has some 100 KiB
)

// Numbers of the files that the child inherits.
const (
	fdUpload = 3 + iota
	fdPack
	fdManifest
)

// order is what the child is told.
type order struct {
	Size       int64  `json:"size"` // of the upload, bytes
	Limits     limits `json:"limits"`
	Memory     int64  `json:"memory"`      // bytes
	CPUSeconds int64  `json:"cpu_seconds"` // of processor time, all threads together
}

// answer is what the child says. One of its fields is set.
type answer struct {
	Report  *report  `json:"report,omitempty"`
	Refusal *Refusal `json:"refusal,omitempty"`
	Full    string   `json:"full,omitempty"`  // the disk is full
	Error   string   `json:"error,omitempty"` // something of ours failed
}

func isChild() bool { return len(os.Args) == 2 && os.Args[1] == childArg }

// childMainCalled says that ChildMain was called. A package variable that
// changes, against our rule: without it, a program that forgets the call would
// find out only when its child process runs its whole main function again.
var childMainCalled atomic.Bool

// ChildMain must be the first call of the main function, or of TestMain, of
// every program that opens an [Intake]. In the child processes that the intake
// starts it does their work and exits; in all others it returns at once.
func ChildMain() {
	childMainCalled.Store(true)
	if !isChild() {
		return
	}
	os.Exit(childMain(os.Stdin, os.Stdout))
}

func childMain(stdin io.Reader, stdout io.Writer) int {
	if _, err := io.WriteString(stdout, hello); err != nil {
		return 1
	}
	lines := bufio.NewReader(stdin)
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return 1
	}
	var o order
	if err := json.Unmarshal(line, &o); err != nil {
		return 1
	}
	go func() { // not waited for: it ends with the process, or ends the process
		_, _ = io.Copy(io.Discard, lines) // however it ends, the parent is gone
		os.Exit(1)
	}()
	out, err := json.Marshal(obey(o))
	if err != nil {
		return 1
	}
	if _, err := stdout.Write(append(out, '\n')); err != nil {
		return 1
	}
	return 0
}

func obey(o order) answer {
	upload, pack, manifest := os.NewFile(fdUpload, "upload"), os.NewFile(fdPack, "pack"), os.NewFile(fdManifest, "manifest")
	debug.SetMemoryLimit(min(childMemorySoft, o.Memory/2))
	// The parent ends this process in time; should it be stopped itself, this
	// does. It also makes the runtime open what it needs for timers, which it
	// could not do once confined.
	time.AfterFunc(time.Duration(o.CPUSeconds)*time.Second, func() { os.Exit(1) })
	if err := confine(o); err != nil {
		return answer{Error: fmt.Sprintf("limit own resources: %v", err)}
	}
	r, err := inspect(spoolReader{upload}, o.Size, o.Limits, pack, manifest)
	if err == nil {
		return answer{Report: &r}
	}
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		return answer{Refusal: refusal}
	}
	if isFull(err) {
		return answer{Full: err.Error()}
	}
	return answer{Error: err.Error()}
}

// errDied is the end of a child that cannot be blamed on us.
var errDied = errors.New("the process that unpacked the archive died")

// runChild lets a child process inspect the upload. Whatever way it returns,
// the child is gone then.
func (in *Intake) runChild(ctx context.Context, upload *Upload, pack, manifest *os.File) (*report, error) {
	program, err := ownProgram()
	if err != nil {
		return nil, err
	}
	timeout := in.config.Timeout
	childCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(childCtx, program, childArg)
	cmd.Env = childEnv()
	cmd.ExtraFiles = []*os.File{upload.file, pack, manifest}
	var stdout, stderr boundedBuffer
	stdout.limit, stderr.limit = maxChildOutput, 16<<10
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second // for pipes that a grandchild could hold; there is none
	isolate(cmd)
	orders, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	line, err := json.Marshal(order{
		Size:       upload.Bytes,
		Limits:     in.config.limits(),
		Memory:     childMemory,
		CPUSeconds: int64(timeout/time.Second)*2 + 1, // it has up to two busy threads
	})
	if err != nil {
		return nil, err
	}

	// On Linux the child dies with the thread that started it, so that thread
	// is kept until the child is done.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the unpacking process: %w", err)
	}
	if in.started != nil {
		in.started(cmd.Process)
	}
	_, writeErr := orders.Write(append(line, '\n')) // fails when the child is dead, which Wait explains
	waitErr := cmd.Wait()

	text, spoke := bytes.CutPrefix(stdout.bytes(), []byte(hello))
	var a answer
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case childCtx.Err() != nil:
		r := overLimit(CodeResourceLimit, "", "VEGA_ARCHIVE_TIMEOUT_SECONDS", int64(timeout/time.Second), int64(timeout/time.Second), "seconds taken to unpack")
		return nil, r
	case waitErr == nil && spoke && writeErr == nil && !stdout.cut && json.Unmarshal(text, &a) == nil:
		return a.result()
	case len(stdout.bytes()) > 0 && !spoke:
		return nil, fmt.Errorf("%s does not call intake.ChildMain first in its main function", os.Args[0])
	}
	in.log.Warn("archive unpacking process died", "err", errors.Join(waitErr, writeErr), "output", stderr.String())
	return nil, refuse(CodeResourceLimit, "", "%v: it needs more memory or time than it may have, or is malformed in a way that is not handled", errDied)
}

func (a answer) result() (*report, error) {
	switch {
	case a.Report != nil:
		return a.Report, nil
	case a.Refusal != nil:
		return nil, a.Refusal
	case a.Full != "":
		return nil, fmt.Errorf("%w: %s", ErrFull, a.Full)
	}
	return nil, errors.New(a.Error)
}

// boundedBuffer keeps the first limit bytes and lets the rest go.
type boundedBuffer struct {
	limit int
	cut   bool
	buf   bytes.Buffer
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	keep := min(len(p), b.limit-b.buf.Len())
	b.buf.Write(p[:keep])
	b.cut = b.cut || keep < len(p)
	return len(p), nil
}

func (b *boundedBuffer) bytes() []byte  { return b.buf.Bytes() }
func (b *boundedBuffer) String() string { return b.buf.String() }

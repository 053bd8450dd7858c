//go:build linux

package intake

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAChildThatDiesIsARefusal ends the child in the ways in which hostile
// bytes or an operator could.
func TestAChildThatDiesIsARefusal(t *testing.T) {
	t.Parallel()
	archive := zipOf(file("a"))
	for name, test := range map[string]struct {
		timeout time.Duration
		started func(*os.Process)
		limit   string
	}{
		"killed":                  {time.Minute, func(p *os.Process) { p.Kill() }, ""},
		"crashed":                 {time.Minute, func(p *os.Process) { p.Signal(syscall.SIGSEGV) }, ""},
		"stopped until the limit": {50 * time.Millisecond, func(p *os.Process) { p.Signal(syscall.SIGSTOP) }, "VEGA_ARCHIVE_TIMEOUT_SECONDS"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := testConfig()
			config.Timeout = test.timeout
			in := openIntake(t, config)
			var pid int
			in.started = func(p *os.Process) { pid = p.Pid; test.started(p) }
			_, err := take(t, in, archive)
			r, ok := errors.AsType[*Refusal](err)
			if !ok || r.Code != CodeResourceLimit || r.Limit != test.limit {
				t.Errorf("Inspect = %v, want %s with limit %q", err, CodeResourceLimit, test.limit)
			}
			if alive(pid) {
				t.Errorf("child %d is still there", pid)
			}
			in.started = nil
			if _, err := take(t, in, archive); err != nil && test.limit == "" {
				t.Errorf("the next archive: %v", err)
			}
		})
	}
}

func TestACancelledInspectionKillsTheChild(t *testing.T) {
	t.Parallel()
	in := openIntake(t, testConfig())
	upload, err := in.Receive(t.Context(), bytes.NewReader(zipOf(file("a"))), -1)
	if err != nil {
		t.Fatal(err)
	}
	defer upload.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("shutting down")
	var pid int
	in.started = func(p *os.Process) {
		pid = p.Pid
		p.Signal(syscall.SIGSTOP) // so that it cannot be faster than the cancellation
		cancel(reason)
	}
	if _, err := in.Inspect(ctx, upload); !errors.Is(err, reason) {
		t.Errorf("Inspect = %v, want %v", err, reason)
	}
	if alive(pid) {
		t.Errorf("child %d is still there", pid)
	}
	if left, _ := os.ReadDir(in.dir); len(left) != 0 {
		t.Errorf("left in the spool folder: %v", left)
	}
}

func TestInspectWaitsForASlot(t *testing.T) {
	t.Parallel()
	config := testConfig()
	config.Slots = 1
	in := openIntake(t, config)
	upload, err := in.Receive(t.Context(), bytes.NewReader(zipOf(file("a"))), -1)
	if err != nil {
		t.Fatal(err)
	}
	defer upload.Close()
	in.slots <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := in.Inspect(ctx, upload); !errors.Is(err, context.Canceled) {
		t.Errorf("Inspect without a free slot = %v, want context.Canceled", err)
	}
	<-in.slots
	if _, err := in.Inspect(t.Context(), upload); err != nil {
		t.Errorf("Inspect with a free slot: %v", err)
	}
}

// TestAChildDiesWithItsParent kills a process whose child is at work.
func TestAChildDiesWithItsParent(t *testing.T) {
	t.Parallel()
	parent := exec.Command(os.Args[0], "parent-to-be-killed", t.TempDir())
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil || !alive(pid) {
		t.Fatalf("child %d: %v", pid, err)
	}
	child, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(child)
	parent.Process.Kill()
	parent.Wait()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(child), Events: unix.POLLIN}}, 30_000); n != 1 || err != nil {
		t.Errorf("the child outlives its parent: poll = %d, %v", n, err)
	}
}

// alive reports whether the process exists and is no zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}

// helpers is what this test binary does, by its first argument, when a test
// starts it as something other than a test.
var helpers = map[string]func(args []string){
	"parent-to-be-killed": func(args []string) {
		in, err := Open(testConfig(), args[0], slog.New(slog.DiscardHandler))
		if err != nil {
			panic(err)
		}
		upload, err := in.Receive(context.Background(), bytes.NewReader(zipOf(file("a"))), -1)
		if err != nil {
			panic(err)
		}
		in.started = func(p *os.Process) {
			p.Signal(syscall.SIGSTOP)
			fmt.Println(p.Pid)
			os.Stdout.Close()
			select {} // until killed
		}
		in.Inspect(context.Background(), upload)
	},
	"spinning": func([]string) {
		if err := confine(order{Limits: testConfig().limits(), Memory: childMemory, CPUSeconds: 1}); err != nil {
			panic(err)
		}
		for time.Now().Before(time.Unix(1<<40, 0)) { // until killed
		}
	},
	"take-in": func(args []string) { takeIn(args[0], args[1]) },
	"confined": func([]string) {
		time.AfterFunc(time.Hour, func() {})
		if err := confine(order{Limits: testConfig().limits(), Memory: childMemory, CPUSeconds: 60}); err != nil {
			panic(err)
		}
		_, openErr := os.Open("/dev/null")
		_, dialErr := net.Dial("udp", "127.0.0.1:9")
		out, _ := json.Marshal([]bool{openErr != nil, dialErr != nil})
		fmt.Println(string(out))
		if !memoryLimited {
			os.Exit(2)
		}
		var hoard [][]byte
		for range 4 * childMemory >> 20 {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			hoard = append(hoard, b)
		}
		fmt.Println("has", len(hoard), "MiB")
	},
}

// TestAConfinedProcess sees what the child has given up.
func TestAConfinedProcess(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0], "confined")
	out, err := cmd.Output()
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Scan()
	if got, want := lines.Text(), "[true,true]"; got != want {
		t.Errorf("failed to open a file and a socket = %s, want %s", got, want)
	}
	if lines.Scan() || err == nil {
		t.Errorf("hoarded memory without end: %q, %v", lines.Text(), err)
	}
}

func TestAProcessThatSpinsIsKilled(t *testing.T) {
	t.Parallel()
	err := exec.Command(os.Args[0], "spinning").Run()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("after its processor time it ended with %v, want a kill", err)
	}
}

// TestAProgramWithoutChildMainIsFoundOut: not by its child, which would run all of its main function.
func TestAProgramWithoutChildMainIsFoundOut(t *testing.T) {
	t.Parallel()
	out, err := exec.Command(os.Args[0], withoutChildMain, t.TempDir()).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "intake.ChildMain") {
		t.Errorf("Open without ChildMain says %q, %v", out, err)
	}
}

func TestAFullDiskIsNotTheUploadsFault(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	archive := zipOf(file("a"))
	for name, to := range map[string][2]io.Writer{"pack": {full, discard{}}, "manifest": {discard{}, full}} {
		_, err = inspect(bytes.NewReader(archive), int64(len(archive)), testConfig().limits(), to[0], to[1])
		if _, refused := errors.AsType[*Refusal](err); refused || !isFull(err) {
			t.Errorf("%s on a full disk: %v, want ENOSPC", name, err)
		}
	}
	if _, err := (answer{Full: "write"}).result(); !errors.Is(err, ErrFull) {
		t.Errorf("the parent makes %v of it, want ErrFull", err)
	}
}

// hugeEntries is the number of entries in the archives of the long test.
const hugeEntries = 50_000

// taken is what the measured process tells.
type taken struct {
	Code                             string
	Files, CheckedOut                int
	ParentRSS, ChildRSS, CheckoutRSS int64 // bytes
}

// takeIn is the measured process.
func takeIn(archive, spool string) {
	config := Config{MaxSourceBytes: 2 << 30, MaxEntries: hugeEntries, MaxUncompressedBytes: 5 << 30, MaxRatio: 200, Timeout: 10 * time.Minute, Slots: 2}
	in, err := Open(config, spool, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	must(err)
	f, err := os.Open(archive)
	must(err)
	ctx := context.Background()
	upload, err := in.Receive(ctx, f, -1)
	must(err)
	s, err := in.Inspect(ctx, upload)
	upload.Close()
	result := taken{ParentRSS: maxRSS(unix.RUSAGE_SELF), ChildRSS: maxRSS(unix.RUSAGE_CHILDREN)}
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		result.Code = refusal.Code
	} else {
		must(err)
		result.Files = s.Files
		m, err := Checkout(ctx, s.ID, s.Manifest(), s.Pack(), spool+"-tree")
		must(err)
		s.Close()
		result.CheckedOut = len(m)
		result.CheckoutRSS = maxRSS(unix.RUSAGE_SELF)
	}
	out, err := json.Marshal(result)
	must(err)
	fmt.Println(string(out))
}

func maxRSS(who int) int64 {
	var usage unix.Rusage
	must(unix.Getrusage(who, &usage))
	return usage.Maxrss << 10
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

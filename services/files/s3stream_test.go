package files_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"vega/services/files"
	"vega/services/files/s3test"
)

// maxMemory is what a process that puts and reads one object at a time may have, in MiB, however large the object is.
const maxMemory = 320

func TestAQuarterOfAGigabyteGoesThroughLittleMemory(t *testing.T) {
	t.Parallel()
	streams(t, 256<<20)
}

// streams lets a process of its own put and read an object of size bytes, and looks at the most memory that it had.
func streams(t *testing.T, size int64) {
	t.Helper()
	srv := s3test.Shared(t)
	source, artifacts, _ := srv.Buckets(t)
	child := exec.CommandContext(t.Context(), os.Args[0], "stream-s3", strconv.FormatInt(size, 10))
	child.Env = append(srv.Env(), "SOURCE="+source, "ARTIFACTS="+artifacts)
	var errs bytes.Buffer
	child.Stderr = &errs
	out, err := child.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, errs.Bytes())
	}
	var memory int
	var put, read float64
	if _, err := fmt.Sscan(string(out), &memory, &put, &read); err != nil {
		t.Fatalf("the process said %q: %v", out, err)
	}
	t.Logf("%d MiB: at most %d MiB of memory, put %.0f MiB/s, read %.0f MiB/s", size>>20, memory, put, read)
	if memory > maxMemory {
		t.Errorf("%d MiB of memory with an object of %d MiB, want at most %d", memory, size>>20, maxMemory)
	}
	if keys, unfinished := srv.Objects(t, source); len(keys)+unfinished > 0 {
		t.Errorf("%q and %d uploads are left", keys, unfinished)
	}
}

// streamS3 is the process of streams: it has nothing but the environment. It prints its peak memory in MiB and its speeds, and fails when something of the store
// goes on after it was done.
func streamS3(size string) error {
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return err
	}
	ctx := context.Background()
	s, err := files.OpenS3(ctx, files.S3{Source: os.Getenv("SOURCE"), Artifacts: os.Getenv("ARTIFACTS"), PathStyle: true}, files.S3Options{}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	const key = "snapshots/s/pack"
	begun := time.Now()
	o, err := s.Put(ctx, key, io.LimitReader(rand.NewChaCha8([32]byte{3}), n)) // of unknown size
	if err != nil {
		return err
	}
	put := time.Since(begun)
	begun = time.Now()
	r, _, err := s.Open(ctx, key)
	if err != nil {
		return err
	}
	if m, err := io.Copy(io.Discard, files.Verify(r, o.Digest)); err != nil || m != n {
		return fmt.Errorf("read %d bytes: %w", m, err)
	}
	read := time.Since(begun)
	if err := r.Close(); err != nil {
		return err
	}
	// One that is given up in the middle, and one that is not read to its end.
	stopped, stop := context.WithCancel(ctx)
	if _, err := s.Put(stopped, key, &cancelAfter{io.LimitReader(rand.NewChaCha8([32]byte{4}), n), 40 << 20, stop}); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("a put that was given up: %w", err)
	}
	if r, _, err = s.Open(ctx, key); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, r, 1<<20); err != nil {
		return err
	}
	if err := r.Close(); err != nil {
		return err
	}
	if err := s.Delete(ctx, key); err != nil {
		return err
	}
	if err := nothingRuns(); err != nil {
		return err
	}
	fmt.Println(peak(), float64(n>>20)/put.Seconds(), float64(n>>20)/read.Seconds())
	return nil
}

type cancelAfter struct {
	io.Reader
	left   int
	cancel func()
}

func (c *cancelAfter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if c.left -= n; c.left < 0 {
		c.cancel()
	}
	return n, err
}

// nothingRuns waits until no goroutine but this one is inside the store or the transfer manager.
func nothingRuns() error {
	buf := make([]byte, 1<<20)
	deadline := time.Now().Add(10 * time.Second)
	for {
		all := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
		var running []string
		for _, g := range all[1:] {
			idle := strings.Contains(g, "net/http.(*persistConn)") // a connection that is kept for the next request, for a while
			if !idle && (strings.Contains(g, "vega/services/files.") || strings.Contains(g, "transfermanager")) {
				running = append(running, g)
			}
		}
		if len(running) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d goroutines go on:\n%s", len(running), strings.Join(running, "\n\n"))
		}
		runtime.Gosched()
	}
}

// peak is the most memory that this process's runtime had from the system, in MiB: that never shrinks. The race detector's own is not part of it.
func peak() int {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.Sys >> 20)
}

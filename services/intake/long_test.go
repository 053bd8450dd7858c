//go:build long && linux

package intake

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// TestTwoGigabytesInFlatMemory takes in archives of nearly the largest size with
// the largest number of entries, in a process of its own whose memory is
// measured, and again with an attack as their last entry.
func TestTwoGigabytesInFlatMemory(t *testing.T) {
	for _, format := range []string{"zip", "tar", "tar.gz", "tar.zst"} {
		for _, evil := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s evil=%v", format, evil), func(t *testing.T) {
				dir := t.TempDir()
				archive := filepath.Join(dir, "archive")
				writeHuge(t, archive, format, evil)
				info, err := os.Stat(archive)
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				spool := filepath.Join(dir, "spool")
				cmd := exec.Command(os.Args[0], "take-in", archive, spool)
				cmd.Stderr = os.Stderr
				out, err := cmd.Output()
				if err != nil {
					t.Fatal(err)
				}
				var got taken
				if err := json.Unmarshal(out, &got); err != nil {
					t.Fatal(err)
				}
				t.Logf("%d MB in %.1f s: parent %d MiB, child %d MiB, checked out with %d MiB",
					info.Size()/1e6, time.Since(start).Seconds(), got.ParentRSS>>20, got.ChildRSS>>20, got.CheckoutRSS>>20)
				for who, rss := range map[string]int64{"parent": got.ParentRSS, "child": got.ChildRSS, "checkout": got.CheckoutRSS} {
					if rss > 200e6 {
						t.Errorf("%s used %d MB, want less than 200", who, rss/1e6)
					}
				}
				if left, err := os.ReadDir(spool); err != nil || len(left) != 0 {
					t.Errorf("left in the spool folder: %v, %v", left, err)
				}
				if want := map[bool]string{true: CodePathEscape}[evil]; got.Code != want {
					t.Errorf("refused with %q, want %q", got.Code, want)
				}
				if !evil && (got.Files != hugeEntries || got.CheckedOut != hugeEntries) {
					t.Errorf("%d files taken in and %d checked out, want %d", got.Files, got.CheckedOut, hugeEntries)
				}
			})
		}
	}
}

const hugeBytes = 2_000_000_000

// writeHuge writes an archive of hugeEntries files with hugeBytes that do not
// compress, and some that do.
func writeHuge(t *testing.T, path, format string, evil bool) {
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	random := rand.NewChaCha8([32]byte{1})
	content := make([]byte, hugeBytes/hugeEntries)
	var add func(name string, content []byte) error
	var closers []io.Closer
	if format == "zip" {
		z := zip.NewWriter(f)
		closers = append(closers, z)
		add = func(name string, content []byte) error {
			w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
			if err == nil {
				_, err = w.Write(content)
			}
			return err
		}
	} else {
		var w io.Writer = f
		switch format {
		case "tar.gz":
			g, _ := gzip.NewWriterLevel(f, gzip.BestSpeed)
			closers = append(closers, g)
			w = g
		case "tar.zst":
			z, _ := zstd.NewWriter(f, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(8<<20))
			closers = append(closers, z)
			w = z
		}
		tw := tar.NewWriter(w)
		closers = append(closers, tw)
		add = func(name string, content []byte) error {
			err := tw.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o644, Typeflag: tar.TypeReg})
			if err == nil {
				_, err = tw.Write(content)
			}
			return err
		}
	}
	for i := range hugeEntries {
		random.Read(content)
		name := fmt.Sprintf("project/some/deep/folder-%03d/with/a/long/%s/file-%05d.go", i/200, strings.Repeat("name", 10), i)
		if evil && i == hugeEntries-1 {
			name = "../" + name
		}
		body := content
		if i%1000 == 0 {
			body = bytes.Repeat([]byte("package main\n"), 100_000)
		}
		if err := add(name, body); err != nil {
			t.Fatal(err)
		}
	}
	for i := len(closers) - 1; i >= 0; i-- {
		if err := closers[i].Close(); err != nil {
			t.Fatal(err)
		}
	}
}

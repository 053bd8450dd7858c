package files_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vega/services/files"
	"vega/services/files/filestest"
	"vega/services/files/s3test"
)

// TestMain lets a test start this binary again as a process of its own: one that dies inside a put, one whose memory is measured.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "put-until-killed" {
		putUntilKilled(os.Args[2])
		return
	}
	if len(os.Args) == 3 && os.Args[1] == "stream-s3" {
		if err := streamS3(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(s3test.Main(m.Run))
}

func TestLocalKeepsTheContract(t *testing.T) {
	t.Parallel()
	filestest.Run(t, func(t *testing.T) files.Store { return open(t, t.TempDir()) })
}

func TestAKilledPutLeavesATempFileThatTheNextOpenRemoves(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	child := exec.Command(os.Args[0], "put-until-killed", dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil { // it is inside the put now
		t.Fatalf("child: %v", err)
	}

	// While it lives, opening the same folder leaves its file alone.
	s := open(t, dir)
	if got := tempFiles(t, dir); len(got) != 1 {
		t.Errorf("temporary files beside a living put: %q, want one", got)
	}
	child.Process.Kill()
	child.Wait()
	if _, err := s.Stat(t.Context(), "half"); !errors.Is(err, files.ErrNotFound) {
		t.Errorf("Stat of the object whose put was killed = %v, want ErrNotFound", err)
	}

	open(t, dir)
	if got := tempFiles(t, dir); len(got) != 0 {
		t.Errorf("temporary files after the next Open: %q, want none", got)
	}
}

func putUntilKilled(dir string) {
	s, err := files.Open(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	time.AfterFunc(time.Hour, func() {}) // something is still to come, so the runtime does not call the wait below a deadlock
	r, w := io.Pipe()
	go func() {
		w.Write(make([]byte, 1<<20)) // returns when Put has read all of it
		os.Stdout.WriteString("x")
	}()
	s.Put(context.Background(), "half", r)
}

func TestALinkInTheFolderLeadsNowhere(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	if r, _, err := s.Open(t.Context(), "link/secret"); err == nil {
		r.Close()
		t.Error("Open followed a link out of the store")
	}
	if _, err := s.Put(t.Context(), "link/new", strings.NewReader("x")); err == nil {
		t.Error("Put followed a link out of the store")
	}
	if _, err := os.Stat(filepath.Join(outside, "new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was written outside: %v", err)
	}
}

func TestAKeyCannotBeTheFolderOfAnother(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	for _, key := range []string{"a", "b/c"} {
		if _, err := s.Put(t.Context(), key, strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"a/x", "b"} {
		if _, err := s.Put(t.Context(), key, strings.NewReader("x")); !errors.Is(err, files.ErrBadKey) {
			t.Errorf("Put(%s) = %v, want ErrBadKey", key, err)
		}
	}
}

func TestVerifyRefusesOtherBytes(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	o, err := s.Put(t.Context(), "k", strings.NewReader("as promised"))
	if err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]error{"as promised": nil, "as promiseD": files.ErrCorrupt, "as": files.ErrCorrupt, "": files.ErrCorrupt} {
		if _, err := io.ReadAll(files.Verify(strings.NewReader(content), o.Digest)); !errors.Is(err, want) {
			t.Errorf("reading %q verified = %v, want %v", content, err, want)
		}
	}
}

func TestDeleteRemovesEmptyFolders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	if _, err := s.Put(t.Context(), "a/b/c/d", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "a/b/c/d"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the emptied folders stayed: %v", err)
	}
}

func open(t *testing.T, dir string) *files.Local {
	t.Helper()
	s, err := files.Open(dir)
	if err != nil {
		t.Fatalf("files.Open: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func tempFiles(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, ".tmp"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

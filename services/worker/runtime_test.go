package worker

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOnlyDeadProcessesFoldersAreSwept(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	open := func() *runtimeFolder {
		f, err := openRuntime(root, func(string) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	living, dead := open(), open()
	inside := filepath.Join(dead.dir, attemptPrefix+"x", "source")
	if err := os.MkdirAll(inside, 0o500); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, attemptPrefix+"old"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := dead.lock.Close(); err != nil { // what the end of a process does
		t.Fatal(err)
	}
	mine := open()
	left, err := filepath.Glob(filepath.Join(root, "*-*"))
	if err != nil || len(left) != 2 {
		t.Errorf("left %v, %v; want the two living folders", left, err)
	}
	for _, f := range []*runtimeFolder{living, mine} {
		if err := f.close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(f.dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", f.dir, err)
		}
	}
}

func TestAFolderInWhichNothingWasLeftIsUsedAgain(t *testing.T) {
	t.Parallel()
	f, err := openRuntime(t.TempDir(), func(string) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	take := func() string {
		t.Helper()
		dir, err := f.take()
		if err != nil {
			t.Fatal(err)
		}
		if !holds(dir, scratchName) || !holds(filepath.Join(dir, scratchName)) {
			t.Errorf("%s is not empty", dir)
		}
		return dir
	}
	giveBack := func(dir string) {
		t.Helper()
		if err := f.giveBack(dir); err != nil {
			t.Error(err)
		}
	}
	first := take()
	second := take() // while the first is in use
	if first == second {
		t.Fatalf("two attempts have %s", first)
	}
	giveBack(first)
	if again := take(); again != first {
		t.Errorf("got %s, want %s again", again, first)
	}
	for _, left := range []string{filepath.Join(scratchName, "report.json"), filepath.Join(sourceName, "main.go"), "object-1"} {
		path := filepath.Join(first, left)
		if err := os.MkdirAll(path, 0o500); err != nil {
			t.Fatal(err)
		}
		giveBack(first)
		if _, err := os.Stat(first); !os.IsNotExist(err) {
			t.Errorf("%s was left in a folder that is still there: %v", left, err)
		}
		first = take()
	}
	giveBack(first)
	giveBack(second)
}

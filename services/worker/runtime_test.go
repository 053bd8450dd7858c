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
		f, err := openRuntime(root)
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

package worker

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Every process that runs scans has a folder of its own under the runtime root and holds a lock in it for as long as it lives, so that the next one to
// start can tell what crashed processes left, running commands included, from what is in use.
const (
	runtimePrefix = "process-"
	lockName      = "lock"
)

// runtimeFolder is this process's folder.
type runtimeFolder struct {
	dir  string
	lock *os.File

	mu    sync.Mutex // guards what follows, for an instant
	made  int        // attempts' folders so far, for their names
	clean []string   // attempts' folders in which nothing was left
}

// An attempt's folder has a folder for the source, which whoever brings that makes, and one for the engine.
const (
	sourceName  = "source"
	scratchName = "work"
)

// openRuntime makes a folder under root and removes those of processes that are no more, once clear has ended what they left running. A folder for which it says false stays for
// the next start.
func openRuntime(root string, clear func(folder string) bool) (*runtimeFolder, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("runtime folder: %w", err)
	}
	// Held until the own folder is locked: a folder without a lock is then always a dead process's.
	gate, err := lockFile(filepath.Join(root, lockName), syscall.LOCK_EX)
	if err != nil {
		return nil, fmt.Errorf("runtime folder: %w", err)
	}
	defer gate.Close() // frees the lock
	if err := sweepRuntime(root, clear); err != nil {
		return nil, fmt.Errorf("runtime folder: %w", err)
	}
	if root, err = filepath.Abs(root); err != nil {
		return nil, fmt.Errorf("runtime folder: %w", err)
	}
	dir, err := os.MkdirTemp(root, runtimePrefix)
	if err != nil {
		return nil, fmt.Errorf("runtime folder: %w", err)
	}
	// A crash from here on leaves the folder, and the next start of any process removes it.
	lock, err := lockFile(filepath.Join(dir, lockName), syscall.LOCK_EX|syscall.LOCK_NB)
	if err != nil {
		return nil, fmt.Errorf("runtime folder: %w", err)
	}
	return &runtimeFolder{dir: dir, lock: lock}, nil
}

// take returns a folder for one attempt, empty but for an empty scratchName. Making and removing folders waits for the disk, which is the most that a
// short attempt would do, so one that nothing was put in is used again.
func (f *runtimeFolder) take() (string, error) {
	f.mu.Lock()
	if n := len(f.clean); n > 0 {
		dir := f.clean[n-1]
		f.clean = f.clean[:n-1]
		f.mu.Unlock()
		return dir, nil
	}
	f.made++
	dir := filepath.Join(f.dir, attemptPrefix+strconv.Itoa(f.made))
	f.mu.Unlock()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("runtime folder: %w", err)
	}
	if err := os.Mkdir(filepath.Join(dir, scratchName), 0o700); err != nil {
		return "", fmt.Errorf("runtime folder: %w", err)
	}
	return dir, nil
}

// giveBack takes a folder from its attempt and removes it if there is anything in it. One that cannot be removed is not used again.
func (f *runtimeFolder) giveBack(dir string) error {
	if !holds(dir, scratchName) || !holds(filepath.Join(dir, scratchName)) {
		return removeTree(dir)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clean = append(f.clean, dir)
	return nil
}

// holds says that a folder has entries of these names and no others.
func holds(dir string, names ...string) bool {
	d, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer d.Close()
	found, err := d.Readdirnames(len(names) + 1) // io.EOF when there is none
	return (err == nil || errors.Is(err, io.EOF)) && slices.Equal(found, names)
}

func sweepRuntime(root string, clear func(string) bool) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		if strings.HasPrefix(e.Name(), runtimePrefix) {
			lock, err := lockFile(filepath.Join(dir, lockName), syscall.LOCK_EX|syscall.LOCK_NB)
			if errors.Is(err, syscall.EWOULDBLOCK) {
				continue // its process lives
			}
			if err != nil {
				return err
			}
			_ = lock.Close() // the folder goes next
			if abs, err := filepath.Abs(dir); err == nil && !clear(abs) {
				continue
			}
		} else if !strings.HasPrefix(e.Name(), attemptPrefix) { // an earlier release kept attempts right here
			continue
		}
		if err := removeTree(dir); err != nil {
			return err
		}
	}
	return nil
}

// close removes the folder.
func (f *runtimeFolder) close() error {
	return errors.Join(removeTree(f.dir), f.lock.Close())
}

func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), how); err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	return f, nil
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// dataLock is the right to write under the data folder. The kernel takes it back when the process ends, however it ends.
type dataLock struct {
	f   *os.File
	dir string
}

// holder says who holds a data folder and where it can be reached.
type holder struct {
	PID   int    `json:"pid"`
	URL   string `json:"url,omitempty"`
	Proxy string `json:"llm_proxy,omitempty"` // host and port of the LLM proxy inside it; empty when there is none
}

// lockedError says that another process holds the data folder.
type lockedError struct {
	dir    string
	holder holder
}

func (e *lockedError) Error() string {
	where := ""
	if e.holder.URL != "" {
		where = " and serves " + e.holder.URL
	}
	return fmt.Sprintf("the data folder %s belongs to process %d%s; only one process may own it (VEGA_DATA_DIR names another folder)", e.dir, e.holder.PID, where)
}

// lockData takes the data folder, making it if needed, or returns *lockedError.
func lockData(dir string) (*dataLock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "vega.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		h := readHolder(f)
		_ = f.Close() // it was only read
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &lockedError{dir, h}
		}
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	l := &dataLock{f, dir}
	return l, l.announce(holder{PID: os.Getpid()})
}

// announce writes into the lock who holds it.
func (l *dataLock) announce(h holder) error {
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if err := l.f.Truncate(0); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	if _, err := l.f.WriteAt(append(b, '\n'), 0); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	return nil
}

func (l *dataLock) release() error { return l.f.Close() }

// readHolder reads what the holder announced; a holder that is just starting has not yet.
func readHolder(f *os.File) holder {
	var h holder
	b := make([]byte, 4096)
	n, _ := f.ReadAt(b, 0) // ends early at the end of the file
	if json.Unmarshal(b[:n], &h) != nil {
		return holder{}
	}
	return h
}

//go:build !unix

package files

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// tryLock has no lock to take here: Vega runs on Unix, and elsewhere one
// process at a time may use a store.
func tryLock(*os.File) (bool, error) { return true, nil }

// syncFolder does nothing: folders cannot be synced here.
func syncFolder(*os.File) error { return nil }

func isFull(err error) bool {
	const diskFull, handleDiskFull = syscall.Errno(112), syscall.Errno(39)
	return errors.Is(err, diskFull) || errors.Is(err, handleDiskFull)
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

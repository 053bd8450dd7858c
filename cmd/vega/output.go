package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// writeOutput writes a file that the user named: a regular one is replaced as a whole or not at all, a link is followed, and what is no file (a pipe, a
// device) is written to.
func writeOutput(path string, mode fs.FileMode, write func(io.Writer) error) error {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".vega-*")
	if err != nil {
		return err
	}
	err = write(f)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	// A crash before the rename leaves .vega-* beside the file, which nothing reads.
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// checkOutput says at once whether the file can be made at all, before the work that fills it.
func checkOutput(path string) error {
	_, err := os.Stat(filepath.Dir(path))
	return err
}

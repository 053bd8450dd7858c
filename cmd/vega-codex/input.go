package main

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strings"
)

// Bounds of what is taken from standard input. Codex's home is memory, and so is the prompt.
const (
	maxKey     = 64 << 10
	maxFiles   = 32
	maxFile    = 4 << 20 // bytes of one file
	maxTotal   = 8 << 20 // bytes of all files
	maxPrompt  = 8 << 20
	maxPadding = 1 << 20 // zeros after the tar's end
)

// plainName is what a file of Codex's home may be called.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$`)

// input is what came on standard input, apart from the files.
type input struct {
	key    string // for the one provider
	prompt string
}

// readInput reads what the script sends, to its end: a line with the key; a tar of files, which it writes into home; the prompt, after the zeros that a tar is padded
// with, and so never beginning with one. A file that exists is never written over, and on an error home may have some of the files: the container ends then.
func readInput(r io.Reader, home string) (input, error) {
	in := bufio.NewReaderSize(r, maxKey)
	line, err := in.ReadSlice('\n')
	if err != nil {
		return input{}, fmt.Errorf("read the key: %w", unexpected(err))
	}
	key := strings.TrimSuffix(string(line), "\n")
	if key == "" {
		return input{}, errors.New("read the key: it is empty")
	}
	if err := unpack(in, home); err != nil {
		return input{}, fmt.Errorf("read codex's files: %w", err)
	}
	for n := 0; ; n++ {
		b, err := in.ReadByte()
		if err != nil {
			return input{}, fmt.Errorf("read the prompt: %w", unexpected(err))
		}
		if b != 0 {
			if err := in.UnreadByte(); err != nil {
				return input{}, fmt.Errorf("read the prompt: %w", err)
			}
			break
		}
		if n == maxPadding {
			return input{}, errors.New("read the prompt: there are only zeros")
		}
	}
	prompt, err := io.ReadAll(io.LimitReader(in, maxPrompt+1))
	if err != nil {
		return input{}, fmt.Errorf("read the prompt: %w", err)
	}
	if len(prompt) > maxPrompt {
		return input{}, fmt.Errorf("read the prompt: it has more than %d bytes", maxPrompt)
	}
	return input{key: key, prompt: string(prompt)}, nil
}

// unexpected names an end of the input where it is none.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// unpack writes the files of a tar into dir. It takes ordinary files with plain names, in no folder, each once.
func unpack(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	archive := tar.NewReader(r)
	left := int64(maxTotal)
	for n := 0; ; n++ {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			if n == 0 {
				return errors.New("there are none")
			}
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean(h.Name) // ./name is how tar names what it was given so
		switch {
		case n == maxFiles:
			return fmt.Errorf("there are more than %d", maxFiles)
		case h.Typeflag != tar.TypeReg || !plainName.MatchString(name):
			return fmt.Errorf("%q is no ordinary file with a plain name", h.Name)
		case h.Size < 0 || h.Size > maxFile:
			return fmt.Errorf("%s has more than %d bytes", name, maxFile)
		case h.Size > left:
			return fmt.Errorf("they have more than %d bytes in all", maxTotal)
		}
		left -= h.Size
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, archive)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

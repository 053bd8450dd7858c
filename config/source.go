package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/joho/godotenv"
)

// Origin is where a value came from.
type Origin string

const (
	OriginDefault     Origin = "default"     // the tag
	OriginFile        Origin = ".env"        // the .env file
	OriginEnvironment Origin = "environment" // the process's environment
	OriginDerived     Origin = "derived"     // computed from other settings
	OriginGenerated   Origin = "generated"   // made at the first start and kept under the data folder
)

// maxDotenv bounds a .env file, in bytes.
const maxDotenv = 1 << 20

// sources are the places that name variables.
type sources struct {
	environment map[string]string
	file        map[string]string
}

// lookup returns what a variable is set to. The environment wins, also with an empty value.
func (s sources) lookup(name string) (string, Origin, bool) {
	if v, ok := s.environment[name]; ok {
		return v, OriginEnvironment, true
	}
	v, ok := s.file[name]
	return v, OriginFile, ok
}

// parseEnviron splits "NAME=value" entries; the first of a repeated name counts, as in os.Getenv.
func parseEnviron(environ []string) map[string]string {
	m := make(map[string]string, len(environ))
	for _, entry := range environ {
		name, value, ok := strings.Cut(entry, "=")
		if _, repeated := m[name]; ok && !repeated {
			m[name] = value
		}
	}
	return m
}

// readDotenv reads a .env file; a missing one is empty. The error names the line and never what stands in it.
func readDotenv(path string) (map[string]string, error) {
	if path == "" {
		return nil, nil
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // a pipe would be waited for
		return nil, errors.New("it is not a file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()

	data, err := io.ReadAll(io.LimitReader(f, maxDotenv+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxDotenv {
		return nil, fmt.Errorf("larger than %d bytes", maxDotenv)
	}
	return parseDotenv(data)
}

func parseDotenv(data []byte) (map[string]string, error) {
	m, err := godotenv.UnmarshalBytes(data)
	if err == nil {
		return m, nil
	}
	// godotenv quotes the rest of the file in its error, secrets included, so only the place is told.
	if n := brokenLine(data); n > 0 {
		return nil, fmt.Errorf("line %d is not NAME=value, or a quote in it is not closed", n)
	}
	return nil, errors.New("it has a line that is not NAME=value, or a quote that is not closed")
}

// brokenLine finds the first line that cannot be read: the one after the longest readable beginning. It returns 0 for a file
// that is too long to try.
func brokenLine(data []byte) int {
	lines := bytes.SplitAfter(data, []byte("\n"))
	if len(lines) > 500 {
		return 0
	}
	for n := len(lines) - 1; n > 0; n-- {
		if _, err := godotenv.UnmarshalBytes(bytes.Join(lines[:n], nil)); err == nil {
			return n + 1
		}
	}
	return 1
}

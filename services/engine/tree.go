package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	encoding "golang.org/x/text/encoding/unicode"

	"vega/events"
)

// file is a regular file of the tree. Its path is slash-separated, relative, UTF-8 and free of control characters.
type file struct {
	path string
	size int64
}

// tree is the source of one run: the list of its regular files, made once, and the only way to their bytes. Reading is safe
// for concurrent use.
type tree struct {
	root     *os.Root
	files    []file // in the order of a walk, which is the same every time
	byPath   map[string]int
	links    int                     // symbolic links and other things that are no files; never followed
	unlisted []events.CoverageReason // what the walk could not list; belongs to the inventory
}

// errNotInTree says that a path names no regular file of the tree.
var errNotInTree = errors.New("not a file of the source")

// openTree lists the regular files of dir that are selected.
func openTree(ctx context.Context, dir string, selected []string) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	t := &tree{root: root, byPath: make(map[string]int)}
	missed := gaps{stage: stageInventory}
	found := make([]bool, len(selected))
	err = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for i, s := range selected {
			found[i] = found[i] || within(p, []string{s})
		}
		switch {
		case p == "." && err != nil:
			return err
		case err != nil:
			missed.add(p, codeUnreadable, "could not be listed")
			return nil
		case d.IsDir() || !within(p, selected):
			return nil
		case !d.Type().IsRegular():
			t.links++
			return nil
		case !showable(p):
			missed.add(p, codeUnreadable, "its name holds characters that no report can show")
			return nil
		}
		info, err := d.Info()
		if err != nil {
			missed.add(p, codeUnreadable, "could not be looked at")
			return nil
		}
		t.byPath[p] = len(t.files)
		t.files = append(t.files, file{p, info.Size()})
		return nil
	})
	if err != nil {
		_ = root.Close()
		return nil, err
	}
	for i, s := range selected {
		if !found[i] {
			missed.add(s, codeUnreadable, "the selected path is not in the snapshot")
		}
	}
	t.unlisted = missed.list()
	return t, nil
}

func (t *tree) close() { _ = t.root.Close() }

// bytes is the size of all files plus one for each, so that empty ones count as work too.
func (t *tree) bytes() (n int64) {
	for _, f := range t.files {
		n += f.size + 1
	}
	return n
}

// open opens a listed file. It returns errNotInTree for everything else, so no path from a finding or from a manifest leads
// anywhere the walk did not go.
func (t *tree) open(p string) (*os.File, error) {
	if _, ok := t.byPath[p]; !ok {
		return nil, fmt.Errorf("%.200q: %w", p, errNotInTree)
	}
	f, err := t.root.Open(p)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		_ = f.Close()
		return nil, fmt.Errorf("%.200q: %w", p, errNotInTree)
	}
	return f, nil
}

// head reads at most n bytes from the start of a listed file. whole says that this is all of it. UTF-16 that says so by its first two bytes comes
// back as UTF-8, line for line: editors and shells of Windows write it.
func (t *tree) head(p string, n int64) (b []byte, whole bool, err error) {
	f, err := t.open(p)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	var buf bytes.Buffer
	buf.Grow(int(min(n, t.files[t.byPath[p]].size) + bytes.MinRead))
	if _, err := io.Copy(&buf, io.LimitReader(f, n+1)); err != nil {
		return nil, false, err
	}
	if b = buf.Bytes(); int64(len(b)) > n {
		return asUTF8(b[:n]), false, nil
	}
	return asUTF8(b), true, nil
}

// asUTF8 decodes UTF-16 with a byte order mark and leaves everything else as it is.
func asUTF8(b []byte) []byte {
	if len(b) < 2 || !isBinary(b) || (b[0] != 0xFE || b[1] != 0xFF) && (b[0] != 0xFF || b[1] != 0xFE) {
		return b
	}
	text, err := encoding.UTF16(encoding.BigEndian, encoding.UseBOM).NewDecoder().Bytes(b)
	if err != nil {
		return b
	}
	return text
}

// showable says whether a path can stand in a finding: valid UTF-8, no control characters.
func showable(p string) bool {
	return utf8.ValidString(p) && !strings.ContainsFunc(p, unicode.IsControl)
}

// sniffBytes is how much of a file decides whether it is text.
const sniffBytes = 8000

// isBinary says whether a file that begins with b is no text.
func isBinary(b []byte) bool { return bytes.IndexByte(b[:min(len(b), sniffBytes)], 0) >= 0 }

// archiveSuffixes are files that hold other files. They are not opened.
var archiveSuffixes = []string{
	".zip", ".jar", ".war", ".ear", ".aar", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".whl", ".gem", ".nupkg",
	".apk", ".ipa", ".deb", ".rpm", ".iso", ".crate",
}

func isArchive(p string) bool {
	ext := strings.ToLower(path.Ext(p))
	return slices.Contains(archiveSuffixes, ext)
}

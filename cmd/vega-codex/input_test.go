package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestTheInputIsTheKeyTheFilesAndThePrompt(t *testing.T) {
	t.Parallel()
	for name, padding := range map[string]int{"no padding": 0, "a record of 10 KiB": 8192, "all that is allowed": maxPadding} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home := t.TempDir()
			prompt := "\n\x01 audit\x00this\n"
			stdin := slices.Concat([]byte("the key\n"), files(t, "./config.toml", "a = 1", "models.json", strings.Repeat("x", 1000), "empty", ""), make([]byte, padding), []byte(prompt))
			in, err := readInput(bytes.NewReader(stdin), home)
			if err != nil || in != (input{"the key", prompt}) {
				t.Errorf("readInput = %q, %v", in, err)
			}
			for name, want := range map[string]string{"config.toml": "a = 1", "models.json": strings.Repeat("x", 1000), "empty": ""} {
				path := filepath.Join(home, name)
				got, err := os.ReadFile(path)
				if err != nil || string(got) != want {
					t.Errorf("%s has %d bytes, %v; want %d", name, len(got), err, len(want))
				}
				if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
					t.Errorf("%s: %v, %v", name, info.Mode(), err)
				}
			}
		})
	}
}

// one is a tar of one entry, with as many bytes as its header says, or none where that is more than is worth making.
func one(t *testing.T, h tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	if h.Size > maxFile {
		return b.Bytes()
	}
	if _, err := w.Write(make([]byte, h.Size)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHostileInputIsRefused(t *testing.T) {
	t.Parallel()
	many := func(n, size int) []byte {
		var pairs []string
		for i := range n {
			pairs = append(pairs, fmt.Sprint("f", i), strings.Repeat("x", size))
		}
		return files(t, pairs...)
	}
	archives := map[string][]byte{
		"none":                   files(t),
		"no tar":                 []byte(strings.Repeat("no tar at all ", 100)),
		"a file above":           files(t, "../x", "x"),
		"a file elsewhere":       files(t, "/etc/passwd", "x"),
		"a file in a folder":     files(t, "a/b", "x"),
		"no name":                files(t, ".", "x"),
		"a hidden file":          files(t, ".profile", "x"),
		"an option":              files(t, "-rf", "x"),
		"a name of two lines":    files(t, "a\nb", "x"),
		"a long name":            files(t, strings.Repeat("a", 101), "x"),
		"the same file twice":    files(t, "a", "x", "./a", "y"),
		"one that is there":      files(t, "there", "x"),
		"one through a link":     files(t, "link", "x"),
		"a folder":               one(t, tar.Header{Typeflag: tar.TypeDir, Name: "a"}),
		"a symbolic link":        one(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "/etc/passwd"}),
		"a hard link":            one(t, tar.Header{Typeflag: tar.TypeLink, Name: "a", Linkname: "there"}),
		"a device":               one(t, tar.Header{Typeflag: tar.TypeChar, Name: "a", Devmajor: 1, Devminor: 3}),
		"a pipe":                 one(t, tar.Header{Typeflag: tar.TypeFifo, Name: "a"}),
		"a large file":           one(t, tar.Header{Typeflag: tar.TypeReg, Name: "a", Size: maxFile + 1}),
		"a file without end":     one(t, tar.Header{Typeflag: tar.TypeReg, Name: "a", Size: 1 << 40}),
		"too many files":         many(maxFiles+1, 0),
		"too many bytes in all":  many(3, maxFile-1),
		"a file that breaks off": files(t, "a", strings.Repeat("x", 2000))[:1500],
	}
	for _, name := range slices.Sorted(maps.Keys(archives)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "elsewhere")
			for path, text := range map[string]string{filepath.Join(home, "there"): "before", elsewhere: "before"} {
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink(elsewhere, filepath.Join(home, "link")); err != nil {
				t.Fatal(err)
			}
			tail := []byte("audit")
			if name == "a file that breaks off" {
				tail = nil
			}
			in, err := readInput(bytes.NewReader(slices.Concat([]byte("key\n"), archives[name], tail)), home)
			if err == nil || !strings.HasPrefix(err.Error(), "read codex's files: ") {
				t.Errorf("readInput = %q, %v", in, err)
			}
			for _, path := range []string{filepath.Join(home, "there"), elsewhere} {
				if b, err := os.ReadFile(path); err != nil || string(b) != "before" {
					t.Errorf("%s: %q, %v", path, b, err)
				}
			}
		})
	}
	for name, c := range map[string]struct {
		stdin []byte
		want  string
	}{
		"no line":            {[]byte("key"), "read the key: unexpected EOF"},
		"an empty key":       {[]byte("\n"), "read the key: it is empty"},
		"a key without end":  {bytes.Repeat([]byte("k"), maxKey+1), "read the key: bufio: buffer full"},
		"only zeros":         {slices.Concat([]byte("key\n"), files(t, "a", "x"), make([]byte, maxPadding+1), []byte("audit")), "there are only zeros"},
		"no prompt":          {slices.Concat([]byte("key\n"), files(t, "a", "x")), "read the prompt: unexpected EOF"},
		"a tar without end":  {slices.Concat([]byte("key\n"), files(t, "a", "x")[:1024]), "read the prompt: unexpected EOF"},
		"an infinite prompt": {slices.Concat([]byte("key\n"), files(t, "a", "x"), bytes.Repeat([]byte("p"), maxPrompt+1)), "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if in, err := readInput(bytes.NewReader(c.stdin), t.TempDir()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("readInput = %d bytes of prompt, %v; want %q", len(in.prompt), err, c.want)
			}
		})
	}
}

func FuzzReadInput(f *testing.F) {
	f.Add([]byte("key\n"))
	f.Add(append([]byte("key\n"), make([]byte, 2048)...))
	f.Fuzz(func(t *testing.T, stdin []byte) {
		home := t.TempDir()
		in, err := readInput(bytes.NewReader(stdin), home)
		if err == nil && (in.key == "" || in.prompt == "" || in.prompt[0] == 0) {
			t.Errorf("readInput = %q", in)
		}
		names, err := os.ReadDir(home)
		if err != nil || len(names) > maxFiles {
			t.Errorf("%d files, %v", len(names), err)
		}
		for _, n := range names {
			if !n.Type().IsRegular() || !plainName.MatchString(n.Name()) {
				t.Errorf("there is %q, a %v", n.Name(), n.Type())
			}
		}
	})
}

package intake

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// writeTree writes files, given as path → content, below dir.
func writeTree(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// packedPaths packs dir and lists what is in the archive, sorted.
func packedPaths(t testing.TB, dir string, options PackOptions) ([]string, Packed) {
	t.Helper()
	var b bytes.Buffer
	packed, err := PackDir(t.Context(), dir, &b, options)
	if err != nil {
		t.Fatalf("PackDir: %v", err)
	}
	var paths []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, h.Name)
	}
	slices.Sort(paths)
	return paths, packed
}

func TestAPackedFolderIsTakenIn(t *testing.T) {
	t.Parallel()
	dir := sample(t)
	in := openIntake(t, testConfig())
	plain, err := take(t, in, run(t, dir, "tar", "-cf", "-", "."))
	if err != nil {
		t.Fatal(err)
	}
	for _, compress := range []bool{false, true} {
		var first []byte
		for range 2 {
			var b bytes.Buffer
			packed, err := PackDir(t.Context(), dir, &b, PackOptions{Compress: compress})
			if err != nil {
				t.Fatal(err)
			}
			if packed.Files != 306 || packed.Links != 1 || packed.Bytes != plain.Bytes || len(packed.Warnings) != 0 {
				t.Errorf("packed %+v, want 306 files, 1 link, %d bytes", packed, plain.Bytes)
			}
			s, err := take(t, in, b.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			if s.ID != plain.ID {
				t.Errorf("id %s, want %s", s.ID, plain.ID)
			}
			if first == nil {
				first = b.Bytes()
			} else if !bytes.Equal(first, b.Bytes()) {
				t.Error("the same folder was packed to other bytes")
			}
		}
	}
}

func TestGitignoreOutsideARepository(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{
		".gitignore": "# comment\n*.log\n!keep.log\nbuild/\n/only-here\ndocs/**/*.tmp\n",
		"a.log":      "", "keep.log": "", "sub/b.log": "", "sub/keep.log": "",
		"build/x": "", "sub/build/y": "", "sub/builds/z": "",
		"only-here": "", "sub/only-here": "",
		"docs/a.tmp": "", "docs/b/c/d.tmp": "", "docs/e.txt": "",
		"sub/.gitignore": "!b.log\n/secret\n", "sub/secret": "", "secret": "",
	})
	paths, packed := packedPaths(t, dir, PackOptions{})
	want := []string{".gitignore", "docs/e.txt", "keep.log", "secret", "sub/.gitignore", "sub/b.log", "sub/builds/z", "sub/keep.log", "sub/only-here"}
	if !slices.Equal(paths, want) {
		t.Errorf("packed %q\nwant   %q", paths, want)
	}
	if packed.Ignored != 7 {
		t.Errorf("%d ignored, want 7", packed.Ignored)
	}
}

// TestIgnoringIsWhatGitDoes compares with git over random trees and rules.
func TestIgnoringIsWhatGitDoes(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	name := func() string {
		return pick("a", "b", "ab", "abc", "b.c", "a b", "[a]", "#x", "!y", "c\\d", "ü", "a*", ".x")
	}
	piece := func() string {
		return pick(name(), name(), "*", "**", "a*", "*b", "?", "??", "*.c", "[ab]", "[!a]", "[^b]*", "[a-b]b", "[[:alpha:]]", "[]a]", "[a", `\#x`, `\!y`, `a\ b`, "***", "a**", "**b", `c\\d`, "[[:upper:]]", "*a*b*", "ü")
	}
	line := func() string {
		var b strings.Builder
		b.WriteString(pick("", "", "", "!", "!", "#", "\\"))
		b.WriteString(pick("", "", "/"))
		b.WriteString(piece())
		for random.IntN(2) == 0 {
			b.WriteString("/" + piece())
		}
		b.WriteString(pick("", "", "/", " ", "  ", `\ `, "/ ", "\r", "\t"))
		return b.String()
	}
	for i := range 150 {
		dir := t.TempDir()
		files := map[string]string{}
		folders := []string{""}
		for range 30 {
			folder := folders[random.IntN(len(folders))]
			if random.IntN(3) == 0 && strings.Count(folder, "/") < 4 {
				folders = append(folders, folder+name()+"/")
				continue
			}
			files[folder+name()] = ""
		}
		for path := range files { // what is a folder somewhere is no file
			for other := range files {
				if strings.HasPrefix(other, path+"/") {
					delete(files, path)
				}
			}
		}
		var tracked []string
		for path := range files {
			if random.IntN(8) == 0 {
				tracked = append(tracked, path)
			}
		}
		var rules []string
		for range 1 + random.IntN(3) {
			var text strings.Builder
			if random.IntN(10) == 0 {
				text.WriteString("\ufeff")
			}
			for range 1 + random.IntN(5) {
				text.WriteString(line() + "\n")
			}
			folder := folders[random.IntN(len(folders))]
			if files[strings.TrimSuffix(folder, "/")] == "" {
				if _, isFile := files[strings.TrimSuffix(folder, "/")]; isFile {
					continue
				}
			}
			conflict := false
			for path := range files {
				conflict = conflict || strings.HasPrefix(folder, path+"/")
			}
			if !conflict {
				files[folder+".gitignore"] = text.String()
				rules = append(rules, fmt.Sprintf("%s.gitignore: %q", folder, text.String()))
			}
		}
		writeTree(t, dir, files)
		run(t, dir, "git", "init", "-q", ".")
		if i%3 == 0 {
			exclude := line() + "\n"
			writeTree(t, dir, map[string]string{".git/info/exclude": exclude})
			rules = append(rules, fmt.Sprintf("exclude: %q", exclude))
		}
		if i%2 == 0 && len(tracked) > 0 {
			slices.Sort(tracked)
			run(t, dir, "git", append([]string{"--literal-pathspecs", "add", "-f", "--"}, tracked...)...)
			rules = append(rules, fmt.Sprintf("tracked: %q", tracked))
		}
		listed := strings.Split(string(run(t, dir, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")), "\x00")
		want := listed[:len(listed)-1]
		slices.Sort(want)
		paths, _ := packedPaths(t, dir, PackOptions{})
		if !slices.Equal(paths, want) {
			only := func(a, b []string) (r []string) {
				for _, x := range a {
					if !slices.Contains(b, x) {
						r = append(r, x)
					}
				}
				return r
			}
			t.Errorf("rules %s\nonly we pack %q\nonly git lists %q", strings.Join(rules, "\n"), only(paths, want), only(want, paths))
		}
	}
}

func TestAFolderInARepositoryObeysItsRules(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	writeTree(t, top, map[string]string{
		".gitignore": "*.log\n/sub/generated/\n", "sub/.gitignore": "!keep.log\n", "sub/deep/.gitignore": "",
		"sub/deep/a.log": "", "sub/deep/keep.log": "", "sub/deep/x": "", "sub/generated/y": "",
		"sub/clone/a.log": "", "sub/clone/.git/info/exclude": "x\n", "sub/clone/x": "", "sub/clone/HEAD": "",
	})
	run(t, top, "git", "init", "-q", ".")
	paths, _ := packedPaths(t, filepath.Join(top, "sub"), PackOptions{})
	want := []string{".gitignore", "clone/HEAD", "clone/a.log", "deep/.gitignore", "deep/keep.log", "deep/x"}
	if !slices.Equal(paths, want) {
		t.Errorf("packed %q, want %q", paths, want)
	}
	paths, _ = packedPaths(t, filepath.Join(top, "sub", "deep"), PackOptions{})
	if want := []string{".gitignore", "keep.log", "x"}; !slices.Equal(paths, want) {
		t.Errorf("packed %q, want %q", paths, want)
	}
}

func TestAWorkTreeKnowsWhatIsTracked(t *testing.T) {
	t.Parallel()
	top, tree := t.TempDir(), filepath.Join(t.TempDir(), "tree")
	writeTree(t, top, map[string]string{".gitignore": ".env\n", ".env": "committed all the same"})
	run(t, top, "git", "init", "-q", ".")
	run(t, top, "git", "add", "-f", ".")
	run(t, top, "git", "commit", "-q", "-m", "x")
	run(t, top, "git", "worktree", "add", "-q", tree)
	for _, dir := range []string{top, tree} {
		paths, _ := packedPaths(t, dir, PackOptions{})
		if want := []string{".env", ".gitignore"}; !slices.Equal(paths, want) {
			t.Errorf("packed %q, want %q", paths, want)
		}
	}
}

func TestWhatCannotBePackedIsWarnedAbout(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"a": "x", "data/events": "ours", "new\nline": "x", "sub/data/x": "theirs"})
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	paths, packed := packedPaths(t, dir, PackOptions{Exclude: []string{filepath.Join(dir, "data"), "/not/there"}})
	if want := []string{"a", "link", "loop", "sub/data/x"}; !slices.Equal(paths, want) {
		t.Errorf("packed %q, want %q", paths, want)
	}
	if want := []Warning{{"fifo", WarnSpecialFile}, {`new\x0aline`, WarnBadName}}; !slices.Equal(packed.Warnings, want) {
		t.Errorf("warnings %v, want %v", packed.Warnings, want)
	}
}

func TestAFileThatChangesWhilePackedIsWarnedAbout(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"a": "x", "big": strings.Repeat("x", 4<<20), "z": "x"})
	shrunk := false
	w := writerFunc(func(b []byte) (int, error) {
		// Once the big file's bytes pass, it is cut off behind them.
		if !shrunk && len(b) > 1000 {
			shrunk = true
			return len(b), os.Truncate(filepath.Join(dir, "big"), 1<<20)
		}
		return len(b), nil
	})
	packed, err := PackDir(t.Context(), dir, w, PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []Warning{{"big", WarnChanged}}; !slices.Equal(packed.Warnings, want) || packed.Files != 3 {
		t.Errorf("packed %+v, want 3 files and %v", packed, want)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestPackDirEndsWithItsWriterAndItsContext(t *testing.T) {
	t.Parallel()
	dir := sample(t)
	broken := errors.New("connection lost")
	if _, err := PackDir(t.Context(), dir, writerFunc(func([]byte) (int, error) { return 0, broken }), PackOptions{}); !errors.Is(err, broken) {
		t.Errorf("PackDir = %v, want %v", err, broken)
	}
	ctx, cancel := context.WithCancel(t.Context())
	options := PackOptions{Progress: func(files int, _ int64) {
		if files == 5 {
			cancel()
		}
	}}
	if packed, err := PackDir(ctx, dir, io.Discard, options); !errors.Is(err, context.Canceled) {
		t.Errorf("PackDir = %+v, %v; want context.Canceled", packed, err)
	}
	if _, err := PackDir(t.Context(), filepath.Join(dir, "nothing"), io.Discard, PackOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("PackDir of nothing = %v, want ErrNotExist", err)
	}
}

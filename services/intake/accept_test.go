package intake

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// run runs a tool of the machine and returns its output. A tool that is
// missing fails the test.
func run(t testing.TB, dir, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.Env = append(cmd.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "LC_ALL=C.UTF-8",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return out
}

// sample is a tree with what real trees have: long names, odd names, links,
// empty files, executables, much in one folder.
func sample(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string, mode fs.FileMode) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("README.md", "# Sample\n", 0o644)
	write("empty", "", 0o644)
	write("bin/run", "#!/bin/sh\n", 0o755)
	write("with space/and 'quotes' & ünïcödé ✓.txt", "x", 0o644)
	write("zeros.bin", strings.Repeat("\x00", 3<<20), 0o644)
	write(strings.Repeat("long-folder-name/", 12)+strings.Repeat("n", 120)+".go", "package n\n", 0o644)
	for i := range 300 {
		write(fmt.Sprintf("many/file-%03d.txt", i), strings.Repeat(fmt.Sprint(i, " "), i), 0o644)
	}
	if err := os.Symlink("../README.md", filepath.Join(dir, "many", "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestOneTreeIsOneSnapshot packs one tree with the tools that people have. All
// of the archives must be taken in, and give the same id.
func TestOneTreeIsOneSnapshot(t *testing.T) {
	t.Parallel()
	in := openIntake(t, testConfig())
	dir, out := sample(t), t.TempDir()
	at := func(name string) string { return filepath.Join(out, name) }
	run(t, dir, "zip", "-q", "-r", "--symlinks", at("info.zip"), ".")
	run(t, dir, "zip", "-q", "-r", "--symlinks", "-0", at("stored.zip"), ".")
	run(t, dir, "zip", "-q", "-r", "--symlinks", "-fz", at("forced-zip64.zip"), ".")
	run(t, dir, "zip", "-q", "-r", "--symlinks", "-D", at("no-folders.zip"), ".")
	for _, format := range []string{"gnu", "oldgnu", "pax", "posix"} {
		run(t, dir, "tar", "--format="+format, "-cf", at(format+".tar"), ".")
	}
	run(t, dir, "sh", "-c", "tar -cf "+at("names.tar")+" *")
	run(t, dir, "tar", "-czf", at("dot.tar.gz"), ".")
	run(t, dir, "tar", "--zstd", "-cf", at("dot.tar.zst"), ".")
	run(t, dir, "sh", "-c", "tar -cf - . | zstd -q -19 --no-check > "+at("best.tar.zst"))
	run(t, dir, "git", "init", "-q", ".")
	run(t, dir, "git", "add", ".")
	run(t, dir, "git", "commit", "-q", "-m", "sample")
	run(t, dir, "git", "archive", "--format=zip", "-o", at("git.zip"), "HEAD")
	run(t, dir, "git", "archive", "--format=tar", "-o", at("git.tar"), "HEAD")
	run(t, dir, "git", "archive", "--format=tar.gz", "-o", at("git.tar.gz"), "HEAD")
	run(t, dir, "tar", "-cf", at("with-git.tar"), ".")
	run(t, dir, "zip", "-q", "-r", "--symlinks", at("with-git.zip"), ".")

	var id string
	entries, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		archive, err := os.ReadFile(at(e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		s, err := take(t, in, archive)
		if err != nil {
			t.Errorf("%s: %v", e.Name(), err)
			continue
		}
		if id == "" {
			id = s.ID
			checkTree(t, s, dir)
		}
		if s.ID != id || s.Files != 306 || s.Links != 1 {
			t.Errorf("%s: id %s with %d files and %d links, want %s with 306 and 1", e.Name(), s.ID, s.Files, s.Links, id)
		}
		want := []Warning{{"many/link", WarnLink}}
		if strings.HasPrefix(e.Name(), "with-git") {
			want = append(want, Warning{".git", WarnGitStripped})
		}
		if len(s.Warnings) != len(want) || !slices.Contains(s.Warnings, want[0]) || !slices.Contains(s.Warnings, want[len(want)-1]) {
			t.Errorf("%s: warnings %v, want %v", e.Name(), s.Warnings, want)
		}
	}
}

// TestStreamedZipIsTheSameSnapshot: what a pipe makes of a zip (descriptors,
// zip64 fields) changes nothing.
func TestStreamedZipIsTheSameSnapshot(t *testing.T) {
	t.Parallel()
	in := openIntake(t, testConfig())
	dir := sample(t)
	if err := os.Remove(filepath.Join(dir, "many", "link")); err != nil { // zip cannot stream links
		t.Fatal(err)
	}
	streamed, err := take(t, in, run(t, dir, "sh", "-c", "zip -q -r - . | cat"))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := take(t, in, run(t, dir, "tar", "-cf", "-", "."))
	if err != nil {
		t.Fatal(err)
	}
	if streamed.ID != plain.ID {
		t.Errorf("id %s, want %s", streamed.ID, plain.ID)
	}
}

// checkTree checks the snapshot out and compares it with the tree it came from.
func checkTree(t *testing.T, s *Snapshot, dir string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "tree")
	if _, err := Checkout(t.Context(), s.ID, s.Manifest(), s.Pack(), out); err != nil {
		t.Fatalf("Checkout: %v", err)
	}
	got, want := treeOf(t, out), treeOf(t, dir)
	for path, content := range want {
		if got[path] != content {
			t.Errorf("checked out %s with %d bytes, want %d", path, len(got[path]), len(content))
		}
		delete(got, path)
	}
	for path := range got {
		t.Errorf("checked out %s, which is not in the tree", path)
	}
}

func treeOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == ".git" {
			return fs.SkipDir
		}
		if e.Type().IsRegular() {
			content, err := os.ReadFile(filepath.Join(dir, path))
			tree[path] = string(content)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// TestOddWritersAreUnderstood holds archives as tools write them that are not
// on every machine: byte for byte what is odd about them.
func TestOddWritersAreUnderstood(t *testing.T) {
	t.Parallel()
	in := openIntake(t, testConfig())
	appleExtra := append(append([]byte("UX"), le16(8)...), make([]byte, 8)...)
	zip64 := func(values ...uint64) []byte {
		field := append(le16(1), le16(uint16(8*len(values)))...)
		for _, v := range values {
			field = append(field, le64(v)...)
		}
		return field
	}
	ones, five := new(uint32(0xffffffff)), []byte("five!")
	for name, test := range map[string]struct {
		archive []byte
		paths   []string
		code    string // of the warnings
	}{
		"macOS Finder": {
			rawZip{parts: []zipPart{
				{name: "proj/", mode: 0o040755, extra: appleExtra, localExtra: appleExtra[:4+8]},
				{name: "proj/main.c", content: five, deflate: true, mode: 0o100644, descriptor: 16, extra: appleExtra, localExtra: appleExtra},
				{name: "__MACOSX/", mode: 0o040775},
				{name: "__MACOSX/proj/", mode: 0o040775},
				{name: "__MACOSX/proj/._main.c", content: []byte("\x00\x05\x16\x07"), deflate: true, mode: 0o100644, descriptor: 16},
			}}.bytes(),
			[]string{"__MACOSX/proj/._main.c", "proj/main.c"}, "",
		},
		".NET Framework before 4.6.1": {
			rawZip{parts: []zipPart{
				{name: `proj\`, dos: true},
				{name: `proj\src\main.cs`, content: five, deflate: true, dos: true},
			}}.bytes(),
			[]string{"proj/src/main.cs"}, WarnBackslash,
		},
		"7-Zip zip64": {
			rawZip{parts: []zipPart{
				{name: "big", content: five, size: ones, packedSize: ones, localSize: ones, localPacked: ones, extra: zip64(5, 5), localExtra: zip64(5, 5)},
				{name: "far", content: five, header: ones, extra: zip64(30 + 3 + 20 + 5)},
			}, zip64: true, count: new(uint16(0xffff)), offset: ones}.bytes(),
			[]string{"big", "far"}, "",
		},
		"zip64 stream with descriptor": {
			rawZip{parts: []zipPart{{name: "a", content: five, deflate: true, descriptor: 24, localExtra: zip64(0, 0), localSize: ones, localPacked: ones}, file("b")}}.bytes(),
			[]string{"a", "b"}, "",
		},
		"descriptor without signature": {
			rawZip{parts: []zipPart{{name: "a", content: five, deflate: true, descriptor: 12}, file("b")}}.bytes(),
			[]string{"a", "b"}, "",
		},
		"descriptor announced and left out": {
			rawZip{parts: []zipPart{{name: "a", content: five, flags: flagDescriptor}, file("b")}}.bytes(),
			[]string{"a", "b"}, "",
		},
		"Java folder entries": {
			rawZip{parts: []zipPart{{name: "META-INF/", deflate: true, descriptor: 16, extra: []byte{0xfe, 0xca, 0, 0}}, file("META-INF/MANIFEST.MF")}}.bytes(),
			[]string{"META-INF/MANIFEST.MF"}, "",
		},
		"folder marked as deflated": {
			rawZip{parts: []zipPart{{name: "d/", method: new(uint16(methodDeflate))}, file("d/a")}}.bytes(),
			[]string{"d/a"}, "",
		},
		"zip with comments": {
			rawZip{parts: []zipPart{{name: "a", content: five, comment: "of a"}}, comment: "4e54d51c0ffee4e54d51c0ffee4e54d51c0ffee0"}.bytes(),
			[]string{"a"}, "",
		},
		"entries out of order": {
			rawZip{parts: []zipPart{{name: "b", content: five, header: new(uint32(36)), noLocal: true}, {name: "a", content: []byte("12345")}}, gap: localFile("b", five)}.bytes(),
			[]string{"a", "b"}, "",
		},
		"tar of the seventh edition": {
			v7(tarOf(tarPart{name: "a", content: five}, tarPart{name: "dir/", kind: tar.TypeDir}, tarPart{name: "dir/b", content: five})),
			[]string{"a", "dir/b"}, "",
		},
		"tar with one empty block": {append(tarWithoutEnd(tarPart{name: "a"}), make([]byte, 512)...), []string{"a"}, ""},
		"tar with contiguous file": {tarOf(tarPart{name: "a", kind: tar.TypeCont, content: five}), []string{"a"}, ""},
		"tar with repeated folders": {
			tarOf(tarPart{name: "d/", kind: tar.TypeDir}, tarPart{name: "d/a"}, tarPart{name: "d/", kind: tar.TypeDir}),
			[]string{"d/a"}, "",
		},
		"tar.gz in members": {gzipMembers(tarOf(tarPart{name: "a", content: bytes.Repeat(five, 1000)})), []string{"a"}, ""},
		"tar.zst after a skippable frame": {
			append([]byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'a', 'b', 'c'}, zstandard(t, tarOf(tarPart{name: "a"}))...),
			[]string{"a"}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := take(t, in, test.archive)
			if err != nil {
				t.Fatal(err)
			}
			var paths []string
			for _, e := range manifestOf(t, s) {
				paths = append(paths, e.Path)
			}
			if !slices.Equal(paths, test.paths) {
				t.Errorf("paths %q, want %q", paths, test.paths)
			}
			for _, w := range s.Warnings {
				if w.Code != test.code {
					t.Errorf("warning %v", w)
				}
			}
			if test.code != "" && len(s.Warnings) == 0 {
				t.Errorf("no warning, want %s", test.code)
			}
		})
	}
}

// TestPublicModulesAreTakenIn takes in the zips of large public Go modules, and
// reads them with archive/zip for comparison.
func TestPublicModulesAreTakenIn(t *testing.T) {
	t.Parallel()
	config := testConfig()
	config.MaxEntries, config.MaxSourceBytes = 50_000, 2<<30
	in := openIntake(t, config)
	for _, module := range []string{
		"github.com/go-git/go-git/v5", "golang.org/x/text", "golang.org/x/tools", "github.com/nats-io/nats-server/v2",
		"github.com/zricethezav/gitleaks/v8", "modernc.org/libc", "google.golang.org/grpc",
	} {
		t.Run(module, func(t *testing.T) {
			var download struct{ Zip string }
			version := strings.TrimSpace(string(run(t, ".", "go", "list", "-m", "-f", "{{.Version}}", module)))
			if err := json.Unmarshal(run(t, ".", "go", "mod", "download", "-json", module+"@"+version), &download); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(download.Zip)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			upload, err := in.Receive(t.Context(), f, -1)
			if err != nil {
				t.Fatal(err)
			}
			defer upload.Close()
			s, err := in.Inspect(t.Context(), upload)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			compareZip(t, download.Zip, s)
			for _, w := range s.Warnings {
				if w.Code != WarnAgentConfig && w.Code != WarnNameCollision && w.Code != WarnWindowsName {
					t.Errorf("warning %v", w)
				}
			}
		})
	}
}

// compareZip compares a snapshot with what archive/zip sees in its archive.
func compareZip(t *testing.T, path string, s *Snapshot) {
	t.Helper()
	r, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	m := manifestOf(t, s)
	if len(m) != len(r.File) {
		t.Errorf("%d entries, want %d", len(m), len(r.File))
	}
	for _, f := range r.File {
		i, ok := slices.BinarySearchFunc(m, f.Name, func(e Entry, name string) int { return strings.Compare(e.Path, name) })
		if !ok || m[i].Size != int64(f.UncompressedSize64) {
			t.Errorf("%s (%d bytes) is not in the manifest so", f.Name, f.UncompressedSize64)
		}
	}
}

// TestNPMTarballsAreTakenIn takes in a package as npm packs it.
func TestNPMTarballsAreTakenIn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"package.json": `{"name":"sample","version":"1.0.0","bin":"cli.js"}`, "cli.js": "#!/usr/bin/env node\n", "lib/ü.js": "x", "node_modules/x/index.js": "not packed",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run(t, dir, "npm", "pack", "--silent", "--offline", "--cache", t.TempDir())
	archive, err := os.ReadFile(filepath.Join(dir, "sample-1.0.0.tgz"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := take(t, openIntake(t, testConfig()), archive)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, e := range manifestOf(t, s) {
		paths = append(paths, e.Path)
	}
	if want := []string{"package/cli.js", "package/lib/ü.js", "package/package.json"}; !slices.Equal(paths, want) || len(s.Warnings) != 0 {
		t.Errorf("paths %q, warnings %v; want %q and none", paths, s.Warnings, want)
	}
}

// TestZstdWithTheLargestWindowIsTakenIn: the child's memory suffices for what is
// not refused.
func TestZstdWithTheLargestWindowIsTakenIn(t *testing.T) {
	t.Parallel()
	content := make([]byte, 40<<20)
	rand.NewChaCha8([32]byte{}).Read(content[:20<<20])
	copy(content[20<<20:], content[:20<<20]) // matches from far back
	archive := zstandard(t, tarOf(tarPart{name: "a", content: content}), zstd.WithWindowSize(maxZstdWindow), zstd.WithEncoderLevel(zstd.SpeedDefault))
	s, err := take(t, openIntake(t, testConfig()), archive)
	if err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256(content); manifestOf(t, s)[0].Sum != want {
		t.Error("the file has another digest")
	}
}

// TestOneArchiveIsOnePack: the pack is a function of the archive.
func TestOneArchiveIsOnePack(t *testing.T) {
	t.Parallel()
	in := openIntake(t, testConfig())
	dir := sample(t)
	archive := run(t, dir, "tar", "-czf", "-", ".")
	var packs [2][]byte
	for i := range packs {
		s, err := take(t, in, archive)
		if err != nil {
			t.Fatal(err)
		}
		if packs[i], err = io.ReadAll(s.Pack()); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(packs[0], packs[1]) {
		t.Errorf("two packs of one archive differ (%d and %d bytes)", len(packs[0]), len(packs[1]))
	}
}

// localFile is the local part of a stored zip entry.
func localFile(name string, content []byte) []byte {
	whole := zipOf(zipPart{name: name, content: content})
	return whole[:lenLocal+len(name)+len(content)]
}

// v7 takes the ustar magic from every header.
func v7(archive []byte) []byte {
	for at := 0; at+512 <= len(archive); at += 512 {
		b := archive[at:][:512]
		if string(b[257:262]) != "ustar" {
			continue
		}
		clear(b[257:])
		copy(b[148:156], "        ")
		sum := 0
		for _, c := range b {
			sum += int(c)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	}
	return archive
}

// gzipMembers compresses in several members, as pigz and bgzip may.
func gzipMembers(b []byte) []byte {
	return gzipped(b[:1000], b[1000:1001], nil, b[1001:])
}

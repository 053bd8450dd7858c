package intake

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fuzzLimits are small, so that the fuzzer can reach them.
var fuzzLimits = limits{Entries: 20, UncompressedBytes: 1 << 20, Ratio: 200}

func FuzzZip(f *testing.F) {
	for _, seed := range [][]byte{
		zipOf(file("a"), zipPart{name: "dir/b", content: bytes.Repeat([]byte("b"), 300), deflate: true, mode: 0o100755}),
		zipOf(zipPart{name: "dir/", mode: 0o040755}, zipPart{name: "link", content: []byte("../a"), mode: 0o120777}, file(".git/config"), file("AGENTS.md")),
		zipOf(zipPart{name: "a", content: []byte("x"), deflate: true, descriptor: 16}, zipPart{name: "b", content: []byte("y"), descriptor: 24}),
		rawZip{parts: []zipPart{file("a"), {name: `b\c`, content: []byte("x"), dos: true}}, zip64: true, comment: "comment"}.bytes(),
		zipOf(file("../evil")),
		overlapping(3),
		quoted(3),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		m := checkInspection(t, archive)
		if m == nil || !bytes.HasPrefix(archive, []byte("PK")) {
			return
		}
		// What we take in, archive/zip reads with the same content.
		r, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
		if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
			t.Fatalf("taken in, but archive/zip says: %v", err)
		}
		contents := map[string][32]byte{}
		for _, file := range r.File {
			if content, err := file.Open(); err == nil {
				hash := sha256.New()
				if _, err := io.Copy(hash, content); err != nil {
					t.Fatalf("%q is taken in, but archive/zip says: %v", file.Name, err)
				}
				contents[file.Name] = [32]byte(hash.Sum(nil))
			}
		}
		for _, e := range m {
			if sum, ok := contents[e.Path]; ok && e.Link == "" && sum != e.Sum {
				t.Errorf("%q has other content for archive/zip", e.Path)
			}
		}
	})
}

func FuzzTar(f *testing.F) {
	for _, seed := range [][]byte{
		tarOf(tarPart{name: "a", content: []byte("x")}, tarPart{name: "dir/", kind: tar.TypeDir}, tarPart{name: "dir/b", mode: 0o755}),
		tarOf(tarPart{name: "a"}, tarPart{name: "link", kind: tar.TypeSymlink, link: "a"}, tarPart{name: "hard", kind: tar.TypeLink, link: "a"}),
		tarOf(tarPart{name: "x", pax: map[string]string{"path": "long/name", "size": "3"}, content: []byte("abc")}),
		tarOf(tarPart{pax: map[string]string{"comment": "4e54d51"}, global: true}, tarPart{name: "a"}),
		tarOf(tarPart{name: "longname", kind: 'L', content: pad512("dir/" + strings.Repeat("n", 120))}, tarPart{name: "short"}),
		tarOf(tarPart{name: "holes", kind: tar.TypeGNUSparse, content: []byte("xyz")}),
		tarOf(tarPart{name: "../evil"}),
		gzipped(tarOf(tarPart{name: "a", content: []byte("x")})),
		zstandard(f, tarOf(tarPart{name: "a", content: []byte("x")})),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, archive []byte) { checkInspection(t, archive) })
}

// checkInspection inspects what may be an archive and, if it is taken in, checks
// everything that a snapshot promises. It returns the manifest then.
func checkInspection(t *testing.T, archive []byte) Manifest {
	t.Helper()
	var pack, manifest bytes.Buffer
	r, err := inspect(bytes.NewReader(archive), int64(len(archive)), fuzzLimits, &pack, &manifest)
	if err != nil {
		if _, ok := errors.AsType[*Refusal](err); !ok {
			t.Fatalf("failed with %v, which is no refusal", err)
		}
		return nil
	}
	if r.Files+r.Links > fuzzLimits.Entries || r.Bytes > fuzzLimits.UncompressedBytes || len(r.Warnings) > maxWarnings {
		t.Fatalf("beyond the limits: %+v", r)
	}
	sum := sha256.Sum256(manifest.Bytes())
	parent := t.TempDir()
	dir := filepath.Join(parent, "tree")
	m, err := Checkout(t.Context(), digestString(sum[:]), &manifest, &pack, dir)
	if err != nil {
		t.Fatalf("cannot be checked out: %v", err)
	}
	if beside, err := os.ReadDir(parent); err != nil || len(beside) != 1 {
		t.Fatalf("written beside the tree: %v, %v", beside, err)
	}
	var want, got []string
	for _, e := range m {
		if e.Link == "" {
			want = append(want, e.Path)
		}
	}
	err = fs.WalkDir(os.DirFS(dir), ".", func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			if !e.Type().IsRegular() {
				t.Errorf("%s was created as %v", path, e.Type())
			}
			got = append(got, path)
		}
		return err
	})
	slices.Sort(got)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("tree has %q, %v; want %q", got, err, want)
	}
	return m
}

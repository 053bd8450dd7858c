package intake

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func goldenManifest() Manifest {
	m := Manifest{
		{Path: "src/main.go", Mode: 0o644, Size: 13, Sum: sha256.Sum256([]byte("package main\n"))},
		{Path: "bin/run", Mode: 0o755, Size: 0, Sum: sha256.Sum256(nil)},
		{Path: "docs/latest", Link: LinkSymbolic, Target: `v2\x0a`},
		{Path: "docs/copy", Link: LinkHard, Target: "docs/v2"},
		{Path: `quote"back\slash <&> ü`, Mode: 0o644, Size: 1 << 40, Sum: sha256.Sum256([]byte("x"))},
		{Path: "docs-first", Mode: 0o644},
	}
	m.Sort()
	return m
}

// TestManifestFormat holds the canonical bytes: they are what ids are made of,
// so they never change.
func TestManifestFormat(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	if _, err := goldenManifest().WriteTo(&got); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/manifest.golden.jsonl"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("manifest is\n%s\nwant\n%s", got.Bytes(), want)
	}
	const id = "sha256:ecf90df6113ca995373b2804fddbfb0c6854ed38512b04768995b781f4fc76f1"
	if got := goldenManifest().ID(); got != id {
		t.Errorf("ID() = %s, want %s", got, id)
	}
	parsed, err := ParseManifest(bytes.NewReader(want), id)
	if err != nil {
		t.Fatal(err)
	}
	if parsed.ID() != id || len(parsed) != 6 {
		t.Errorf("parsed to %d entries with id %s", len(parsed), parsed.ID())
	}
}

func TestManifestsThatAreNotCanonicalAreRefused(t *testing.T) {
	t.Parallel()
	const (
		a = `{"path":"a","mode":"0644","size":0,"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}` + "\n"
		b = `{"path":"b","mode":"0644","size":0,"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}` + "\n"
	)
	if _, err := ParseManifest(strings.NewReader(manifestHeader+a+b), idOf(manifestHeader+a+b)); err != nil {
		t.Fatalf("a good manifest: %v", err)
	}
	for name, text := range map[string]string{
		"empty":             "",
		"no header":         a,
		"other version":     strings.Replace(manifestHeader, "1", "2", 1) + a,
		"not sorted":        manifestHeader + b + a,
		"twice":             manifestHeader + a + a,
		"white space":       manifestHeader + strings.Replace(a, ":", ": ", 1),
		"unknown field":     manifestHeader + strings.Replace(a, `"size"`, `"x":1,"size"`, 1),
		"no newline":        manifestHeader + strings.TrimSuffix(a, "\n"),
		"escaped otherwise": manifestHeader + strings.Replace(a, `"a"`, `"\u0061"`, 1),
		"path escapes":      manifestHeader + strings.Replace(a, `"a"`, `"../a"`, 1),
		"path absolute":     manifestHeader + strings.Replace(a, `"a"`, `"/a"`, 1),
		"path not clean":    manifestHeader + strings.Replace(a, `"a"`, `"x//a"`, 1),
		"path is a folder":  manifestHeader + strings.Replace(a, `"a"`, `"a/"`, 1),
		"path with newline": manifestHeader + strings.Replace(a, `"a"`, `"a\nb"`, 1),
		"mode setuid":       manifestHeader + strings.Replace(a, "0644", "4755", 1),
		"negative size":     manifestHeader + strings.Replace(a, `"size":0`, `"size":-1`, 1),
		"short digest":      manifestHeader + strings.Replace(a, "e3b0", "", 1),
		"upper-case digest": manifestHeader + strings.Replace(a, "e3b0", "E3B0", 1),
		"unknown link":      manifestHeader + `{"path":"a","link":"junction","target":"b"}` + "\n",
		"link with a mode":  manifestHeader + `{"path":"a","mode":"0644","link":"symlink","target":"b"}` + "\n",
		"not JSON":          manifestHeader + "hello\n",
	} {
		if m, err := ParseManifest(strings.NewReader(text), idOf(text)); err == nil {
			t.Errorf("%s: parsed to %+v", name, m)
		}
	}
	if _, err := ParseManifest(strings.NewReader(manifestHeader+a), idOf(manifestHeader+b)); err == nil {
		t.Error("a manifest with another id was taken")
	}
}

func idOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return digestString(sum[:])
}

// TestCheckoutBelievesNothing gives it packs that are not what the manifest says.
func TestCheckoutBelievesNothing(t *testing.T) {
	t.Parallel()
	content := []byte("content")
	m := Manifest{
		{Path: "a", Mode: 0o644, Size: 7, Sum: sha256.Sum256(content)},
		{Path: "dir/b", Mode: 0o644, Size: 7, Sum: sha256.Sum256(content)},
		{Path: "link", Link: LinkSymbolic, Target: "/etc"},
	}
	a, b := tarPart{name: "a", content: content}, tarPart{name: "dir/b", content: content}
	for name, pack := range map[string][]byte{
		"a file is missing":       tarOf(a),
		"a file too many":         tarOf(a, b, tarPart{name: "c"}),
		"a file twice":            tarOf(a, b, a),
		"other content":           tarOf(a, tarPart{name: "dir/b", content: []byte("Content")}),
		"other size":              tarOf(a, tarPart{name: "dir/b", content: []byte("content!")}),
		"a link for a file":       tarOf(a, tarPart{name: "dir/b", kind: tar.TypeSymlink, link: "/etc/passwd"}),
		"a file for a link":       tarOf(a, b, tarPart{name: "link", content: []byte("/etc")}),
		"a path that leads out":   tarOf(a, b, tarPart{name: "../evil", content: content}),
		"a folder that is a link": tarOf(tarPart{name: "dir", kind: tar.TypeSymlink, link: "/tmp"}, a, b),
		"cut off":                 tarOf(a, b)[:1500],
		"no tar":                  []byte("hello"),
	} {
		dir := filepath.Join(t.TempDir(), "tree")
		if _, err := Checkout(t.Context(), m.ID(), reader(m), bytes.NewReader(zstandard(t, pack)), dir); err == nil {
			t.Errorf("%s: checked out", name)
		}
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the folder is still there: %v", name, err)
		}
	}
	good := zstandard(t, tarOf(b, a))
	dir := filepath.Join(t.TempDir(), "tree")
	if _, err := Checkout(t.Context(), m.ID(), reader(m), bytes.NewReader(good), dir); err != nil {
		t.Fatalf("a good pack: %v", err)
	}
	if _, err := Checkout(t.Context(), m.ID(), reader(m), bytes.NewReader(good), dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("into a folder that exists: %v, want ErrExist", err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "dir", "b")); err != nil || string(got) != "content" {
		t.Errorf("dir/b after both: %q, %v", got, err)
	}
	if _, err := Checkout(t.Context(), m.ID(), reader(m), bytes.NewReader(good[:len(good)-5]), dir+"2"); err == nil {
		t.Error("a pack that is cut off was checked out")
	}
	if _, err := Checkout(t.Context(), m[:2].ID(), reader(m), bytes.NewReader(good), dir+"3"); err == nil {
		t.Error("the manifest of another snapshot was taken")
	}
}

func reader(m Manifest) io.Reader {
	var b bytes.Buffer
	m.WriteTo(&b)
	return &b
}

// TestASnapshotIsStoredOnce saves one tree from two archives.
func TestASnapshotIsStoredOnce(t *testing.T) {
	t.Parallel()
	in := openIntake(t, testConfig())
	stored := map[string][]byte{}
	var order []string
	var broken error
	has := func(_ context.Context, key string) (bool, error) { return stored[key] != nil, nil }
	put := func(_ context.Context, key string, r io.Reader) error {
		order = append(order, key)
		if broken != nil {
			return broken
		}
		content, err := io.ReadAll(r)
		stored[key] = content
		return err
	}
	asZip, err := take(t, in, zipOf(zipPart{name: "b", content: []byte("2")}, zipPart{name: "a", content: []byte("1")}))
	if err != nil {
		t.Fatal(err)
	}
	asTar, err := take(t, in, tarOf(tarPart{name: "./a", content: []byte("1")}, tarPart{name: "./b", content: []byte("2")}))
	if err != nil {
		t.Fatal(err)
	}
	broken = errors.New("disk full")
	if err := asZip.Save(t.Context(), has, put); !errors.Is(err, broken) {
		t.Errorf("Save to a broken store = %v, want %v", err, broken)
	}
	broken, order = nil, nil
	for _, s := range []*Snapshot{asZip, asTar, asZip} {
		if err := s.Save(t.Context(), has, put); err != nil {
			t.Fatal(err)
		}
	}
	id := asZip.ID
	if want := []string{PackKey(id), ManifestKey(id)}; asTar.ID != id || !slices.Equal(order, want) {
		t.Errorf("ids %s and %s, stored %q; want one id and %q", id, asTar.ID, order, want)
	}
	dir := filepath.Join(t.TempDir(), "tree")
	m, err := Checkout(t.Context(), id, bytes.NewReader(stored[ManifestKey(id)]), bytes.NewReader(stored[PackKey(id)]), dir)
	if err != nil || len(m) != 2 {
		t.Errorf("Checkout of what was stored: %d files, %v", len(m), err)
	}
}

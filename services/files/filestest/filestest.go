// Package filestest is what every [files.Store] owes its callers, as tests.
package filestest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"vega/services/files"
)

// Run checks a store against the contract of [files.Store]. The function open
// returns a new, empty store for one test and cleans up after it.
func Run(t *testing.T, open func(t *testing.T) files.Store) {
	for name, test := range map[string]func(*testing.T, files.Store){
		"put then open returns the bytes":           testRoundTrip,
		"put replaces":                              testReplace,
		"a failed put leaves the key as it was":     testFailedPut,
		"a cancelled put leaves the key as it was":  testCancelledPut,
		"an open reader survives replace":           testOpenReader,
		"what is not there is ErrNotFound":          testNotFound,
		"delete can be repeated":                    testDelete,
		"list yields keys in byte order by prefix":  testList,
		"list stops when the caller stops":          testListStops,
		"bad keys are refused":                      testBadKeys,
		"concurrent puts leave one whole object":    testConcurrentPuts,
		"concurrent puts and deletes of neighbours": testPutsBesideDeletes,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func testRoundTrip(t *testing.T, s files.Store) {
	random := rand.NewChaCha8([32]byte{7})
	for _, size := range []int{0, 1, 4096, 256<<10 + 1, 9 << 20} {
		content := make([]byte, size)
		random.Read(content)
		key := fmt.Sprintf("a/b-%d/c.bin", size)
		before := time.Now().Add(-time.Minute)

		// OneByteReader-like sources must not matter, so hide the length.
		put, err := s.Put(t.Context(), key, iotest.HalfReader(bytes.NewReader(content)))
		if err != nil {
			t.Fatalf("Put(%s): %v", key, err)
		}
		if want := digestOf(content); put.Digest != want || put.Key != key || put.Bytes != int64(size) {
			t.Errorf("Put(%s) = %+v, want digest %s and %d bytes", key, put, want, size)
		}
		if got := read(t, s, key); !bytes.Equal(got, content) {
			t.Errorf("read(%s) gave %d other bytes", key, len(got))
		}
		stat, err := s.Stat(t.Context(), key)
		if err != nil || stat.Key != key || stat.Bytes != int64(size) {
			t.Errorf("Stat(%s) = %+v, %v", key, stat, err)
		}
		if stat.Modified.Before(before) || stat.Modified.After(time.Now().Add(time.Minute)) {
			t.Errorf("Stat(%s).Modified = %v, want about now", key, stat.Modified)
		}
		r, _, err := s.Open(t.Context(), key)
		if err != nil {
			t.Fatalf("Open(%s): %v", key, err)
		}
		if _, err := io.Copy(io.Discard, files.Verify(r, put.Digest)); err != nil {
			t.Errorf("verified read of %s: %v", key, err)
		}
		r.Close()
	}
}

func testReplace(t *testing.T, s files.Store) {
	put(t, s, "k", "old and longer")
	put(t, s, "k", "new")
	if got := string(read(t, s, "k")); got != "new" {
		t.Errorf("after two puts the object is %q, want %q", got, "new")
	}
}

func testFailedPut(t *testing.T, s files.Store) {
	broken := errors.New("the body broke off")
	source := io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20)), iotest.ErrReader(broken))
	if _, err := s.Put(t.Context(), "dir/new", source); !errors.Is(err, broken) {
		t.Errorf("Put from a failing reader = %v, want its error", err)
	}
	if _, err := s.Stat(t.Context(), "dir/new"); !errors.Is(err, files.ErrNotFound) {
		t.Errorf("Stat after a failed first put = %v, want ErrNotFound", err)
	}
	put(t, s, "dir/old", "kept")
	source = io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken))
	if _, err := s.Put(t.Context(), "dir/old", source); !errors.Is(err, broken) {
		t.Errorf("Put from a failing reader = %v, want its error", err)
	}
	if got := string(read(t, s, "dir/old")); got != "kept" {
		t.Errorf("after a failed put the object is %q, want %q", got, "kept")
	}
}

func testCancelledPut(t *testing.T, s files.Store) {
	put(t, s, "k", "kept")
	ctx, cancel := context.WithCancel(t.Context())
	source := &cancelling{cancel: cancel}
	if _, err := s.Put(ctx, "k", source); !errors.Is(err, context.Canceled) {
		t.Errorf("Put with a context cancelled meanwhile = %v, want context.Canceled", err)
	}
	if got := string(read(t, s, "k")); got != "kept" {
		t.Errorf("after a cancelled put the object is %d bytes, want %q", len(got), "kept")
	}
}

// cancelling yields bytes without end and cancels after a megabyte of them.
type cancelling struct {
	cancel context.CancelFunc
	read   int
}

func (c *cancelling) Read(p []byte) (int, error) {
	if c.read += len(p); c.read > 1<<20 {
		c.cancel()
	}
	return len(p), nil
}

func testOpenReader(t *testing.T, s files.Store) {
	old := strings.Repeat("old ", 100_000)
	put(t, s, "k", old)
	r, size, err := s.Open(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if size != int64(len(old)) {
		t.Errorf("Open says %d bytes, want %d", size, len(old))
	}
	put(t, s, "k", "new")
	got, err := io.ReadAll(r)
	if err != nil || string(got) != old {
		t.Errorf("a reader from before the replacement gave %d bytes, %v; want the %d old ones", len(got), err, len(old))
	}
}

func testNotFound(t *testing.T, s files.Store) {
	put(t, s, "there/object", "x")
	for _, key := range []string{"nothing", "there", "there/object/below", "there/other"} {
		if _, _, err := s.Open(t.Context(), key); !errors.Is(err, files.ErrNotFound) {
			t.Errorf("Open(%s) = %v, want ErrNotFound", key, err)
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, files.ErrNotFound) {
			t.Errorf("Stat(%s) = %v, want ErrNotFound", key, err)
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("Delete(%s) = %v, want nil", key, err)
		}
	}
	if got := string(read(t, s, "there/object")); got != "x" {
		t.Errorf("the neighbour became %q", got)
	}
}

func testDelete(t *testing.T, s files.Store) {
	put(t, s, "a/b/c", "x")
	for range 2 {
		if err := s.Delete(t.Context(), "a/b/c"); err != nil {
			t.Fatalf("Delete: %v", err)
		}
	}
	if _, err := s.Stat(t.Context(), "a/b/c"); !errors.Is(err, files.ErrNotFound) {
		t.Errorf("Stat after Delete = %v, want ErrNotFound", err)
	}
	put(t, s, "a", "the key of a former folder")
}

func testList(t *testing.T, s files.Store) {
	keys := []string{"a-b", "a.b/x", "a/1", "a/2/deep", "a/2/deeper", "a0", "b/1", "scans/x/1", "scans/x/2", "scans/xy/1"}
	for i, key := range keys {
		put(t, s, key, strings.Repeat("x", i))
	}
	for prefix, want := range map[string][]string{
		"":          keys,
		"a":         keys[:6],
		"a/":        keys[2:5],
		"a/2/deep":  keys[3:5],
		"a/2/deepe": keys[4:5],
		"scans/x/":  keys[7:9],
		"scans/x":   keys[7:10],
		"none/":     nil,
		"a/1/below": nil,
	} {
		var got []string
		for o, err := range s.List(t.Context(), prefix) {
			if err != nil {
				t.Fatalf("List(%q): %v", prefix, err)
			}
			if i := slices.Index(keys, o.Key); i < 0 || o.Bytes != int64(i) || o.Modified.IsZero() {
				t.Errorf("List(%q) yields %+v", prefix, o)
			}
			got = append(got, o.Key)
		}
		if !slices.Equal(got, want) {
			t.Errorf("List(%q) = %q, want %q", prefix, got, want)
		}
	}
}

func testListStops(t *testing.T, s files.Store) {
	for _, key := range []string{"d/a", "d/b", "e/c"} {
		put(t, s, key, "x")
	}
	var got []string
	for o, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, o.Key); len(got) == 2 {
			break
		}
	}
	if want := []string{"d/a", "d/b"}; !slices.Equal(got, want) {
		t.Errorf("List until a break = %q, want %q", got, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for o, err := range s.List(ctx, "") {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("List with a cancelled context yields %+v, %v", o, err)
		}
	}
}

func testBadKeys(t *testing.T, s files.Store) {
	for _, key := range []string{
		"", ".", "..", "/", "/a", "a/", "a//b", "a/./b", "../a", "a/../b", "a/..", ".hidden", "a/.tmp/b", `a\b`, "a\x00b", "a b", "ü", "c:x", "a\n",
		strings.Repeat("x", 201), strings.Repeat("x/", 600) + "x",
	} {
		if _, err := s.Put(t.Context(), key, strings.NewReader("x")); !errors.Is(err, files.ErrBadKey) {
			t.Errorf("Put(%q) = %v, want ErrBadKey", key, err)
		}
		if _, _, err := s.Open(t.Context(), key); !errors.Is(err, files.ErrBadKey) {
			t.Errorf("Open(%q) = %v, want ErrBadKey", key, err)
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, files.ErrBadKey) {
			t.Errorf("Stat(%q) = %v, want ErrBadKey", key, err)
		}
		if err := s.Delete(t.Context(), key); !errors.Is(err, files.ErrBadKey) {
			t.Errorf("Delete(%q) = %v, want ErrBadKey", key, err)
		}
	}
	for _, prefix := range []string{"../", "a/../", "/", "a//", "a b"} {
		for o, err := range s.List(t.Context(), prefix) {
			if !errors.Is(err, files.ErrBadKey) {
				t.Errorf("List(%q) yields %+v, %v, want ErrBadKey", prefix, o, err)
			}
		}
	}
}

func testConcurrentPuts(t *testing.T, s files.Store) {
	contents := map[string]string{}
	var wg sync.WaitGroup
	for i := range 8 {
		content := strings.Repeat(fmt.Sprint(i), 100_000+i)
		contents[digestOf([]byte(content))] = content
		wg.Go(func() {
			if _, err := s.Put(t.Context(), "same/key", strings.NewReader(content)); err != nil {
				t.Errorf("Put: %v", err)
			}
		})
	}
	wg.Wait()
	got := string(read(t, s, "same/key"))
	if contents[digestOf([]byte(got))] != got || got == "" {
		t.Errorf("after concurrent puts the object is none of them (%d bytes)", len(got))
	}
}

func testPutsBesideDeletes(t *testing.T, s files.Store) {
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 25 {
				key := fmt.Sprintf("shared/folder/%d", i)
				put(t, s, key, key)
				if got := string(read(t, s, key)); got != key {
					t.Errorf("read(%s) = %q", key, got)
				}
				if err := s.Delete(t.Context(), key); err != nil {
					t.Errorf("Delete(%s): %v", key, err)
				}
			}
		})
	}
	wg.Wait()
}

func put(t *testing.T, s files.Store, key, content string) {
	t.Helper()
	if _, err := s.Put(t.Context(), key, strings.NewReader(content)); err != nil {
		t.Errorf("Put(%s): %v", key, err)
	}
}

func read(t *testing.T, s files.Store, key string) []byte {
	t.Helper()
	r, _, err := s.Open(t.Context(), key)
	if err != nil {
		t.Errorf("Open(%s): %v", key, err)
		return nil
	}
	defer r.Close()
	content, err := io.ReadAll(r)
	if err != nil {
		t.Errorf("read %s: %v", key, err)
	}
	return content
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

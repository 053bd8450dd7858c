package files

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
)

// tempDir holds the files of unfinished puts. No key reaches it, because no
// component of a key begins with a dot.
const tempDir = ".tmp"

// Local is a [Store] in a folder: the object "a/b" is the file a/b. Because
// of that no key may be a folder of another ("a" beside "a/b"): the second put
// of the two fails with [ErrBadKey].
type Local struct {
	root *os.Root

	// folders is held for reading while a put makes folders and renames into
	// them, and for writing while a delete removes empty ones. Other processes
	// are not under it: against them publish tries again.
	folders sync.RWMutex
}

var _ Store = (*Local)(nil)

// Open opens the store in dir, creating the folder if needed, and removes the
// temporary files that crashed processes left there. Those of living
// processes are locked by them and stay. Close it after use.
func Open(dir string) (*Local, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open file storage: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open file storage: %w", err)
	}
	s := &Local{root: root}
	if err := s.sweep(); err != nil {
		root.Close()
		return nil, fmt.Errorf("open file storage %s: %w", dir, err)
	}
	return s, nil
}

// Close releases the folder. Readers that are open stay usable.
func (s *Local) Close() error { return s.root.Close() }

// Put implements [Store].
func (s *Local) Put(ctx context.Context, key string, r io.Reader) (Object, error) {
	if err := CheckKey(key); err != nil {
		return Object{}, err
	}
	temp, err := s.createTemp()
	if err != nil {
		return Object{}, fmt.Errorf("put %s: %w", key, full(err))
	}
	name := path.Join(tempDir, path.Base(temp.Name()))
	stored := false
	defer func() {
		temp.Close() // also releases the lock
		if !stored {
			s.root.Remove(name)
		}
	}()

	hash := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(temp, hash), onlyReader{contextReader{ctx, r}}, make([]byte, 256<<10))
	if err != nil {
		return Object{}, fmt.Errorf("put %s: %w", key, full(err))
	}
	if err := temp.Sync(); err != nil {
		return Object{}, fmt.Errorf("put %s: %w", key, full(err))
	}
	// A crash up to here leaves the temporary file; the next Open removes it.
	if err := s.publish(name, key); err != nil {
		return Object{}, fmt.Errorf("put %s: %w", key, full(err))
	}
	stored = true
	return Object{Key: key, Digest: digestOf(hash), Bytes: n}, nil
}

// publish renames the synced temporary file to its key and syncs the folders
// that this changed.
func (s *Local) publish(temp, key string) error {
	s.folders.RLock()
	defer s.folders.RUnlock()
	dir := path.Dir(key)
	for attempt := range 100 {
		err := s.makeDir(dir)
		if err == nil {
			err = s.root.Rename(temp, key)
		}
		if errors.Is(err, fs.ErrNotExist) && attempt < 99 {
			continue // another process removed the empty folder meanwhile
		}
		if err != nil {
			return conflict(s.root, key, err)
		}
		break
	}
	// A crash here, before the folder is synced, leaves the old object or the
	// new one; the caller was promised neither yet.
	return s.syncDir(dir)
}

// makeDir creates dir and its missing parents, syncing each parent that gained
// an entry. A crash leaves empty folders, which are no objects.
func (s *Local) makeDir(dir string) error {
	if dir == "." {
		return nil
	}
	if info, err := s.root.Lstat(dir); err == nil && info.IsDir() {
		return nil
	}
	parent := path.Dir(dir)
	if err := s.makeDir(parent); err != nil {
		return err
	}
	if err := s.root.Mkdir(dir, 0o700); err != nil {
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if info, err := s.root.Lstat(dir); err == nil && !info.IsDir() {
			return fmt.Errorf("%w: %q is an object", ErrBadKey, dir)
		}
	}
	return s.syncDir(parent)
}

// conflict explains a failed rename whose target is a folder of other objects.
func conflict(root *os.Root, key string, err error) error {
	if info, statErr := root.Lstat(key); statErr == nil && info.IsDir() {
		return fmt.Errorf("%w: %q is a folder of other objects", ErrBadKey, key)
	}
	return err
}

func (s *Local) syncDir(dir string) error {
	f, err := s.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // pruned again by a Delete: nothing of ours was in it
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return syncFolder(f)
}

// Open implements [Store].
func (s *Local) Open(ctx context.Context, key string) (io.ReadCloser, int64, error) {
	if err := cmp.Or(ctx.Err(), CheckKey(key)); err != nil {
		return nil, 0, err
	}
	f, err := s.root.Open(key)
	if err != nil {
		return nil, 0, notFound(key, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, 0, notFound(key, err)
	}
	return f, info.Size(), nil
}

// Stat implements [Store].
func (s *Local) Stat(ctx context.Context, key string) (Object, error) {
	if err := cmp.Or(ctx.Err(), CheckKey(key)); err != nil {
		return Object{}, err
	}
	info, err := s.root.Lstat(key)
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return Object{}, notFound(key, err)
	}
	return Object{Key: key, Bytes: info.Size(), Modified: info.ModTime()}, nil
}

// Delete implements [Store]. It also removes the folders that became empty.
func (s *Local) Delete(ctx context.Context, key string) error {
	if err := cmp.Or(ctx.Err(), CheckKey(key)); err != nil {
		return err
	}
	if info, err := s.root.Lstat(key); err != nil || info.IsDir() {
		if err == nil || isMissing(err) {
			return nil
		}
		return fmt.Errorf("delete %s: %w", key, err)
	}
	if err := s.root.Remove(key); err != nil && !isMissing(err) {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	dir := path.Dir(key)
	s.folders.Lock()
	for dir != "." && s.root.Remove(dir) == nil { // fails on a folder with entries, which ends this
		dir = path.Dir(dir)
	}
	s.folders.Unlock()
	// A crash before this sync may bring the object back; a deletion is
	// repeated by whoever wanted it.
	return s.syncDir(dir)
}

// List implements [Store].
func (s *Local) List(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		if err := checkPrefix(prefix); err != nil {
			yield(Object{}, err)
			return
		}
		start := "."
		if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
			start = prefix[:i]
		}
		s.list(ctx, start, prefix, yield)
	}
}

// list yields the objects below dir and reports whether to go on.
func (s *Local) list(ctx context.Context, dir, prefix string, yield func(Object, error) bool) bool {
	if err := ctx.Err(); err != nil {
		yield(Object{}, err)
		return false
	}
	entries, err := fs.ReadDir(s.root.FS(), dir)
	if isMissing(err) {
		return true // nothing there, or deleted since its parent was read
	}
	if err != nil {
		yield(Object{}, fmt.Errorf("list %q: %w", prefix, err))
		return false
	}
	// Keys in byte order: "a.b" before "a/b", so a folder sorts with its slash.
	sortName := func(e fs.DirEntry) string {
		if e.IsDir() {
			return e.Name() + "/"
		}
		return e.Name()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(sortName(a), sortName(b)) })
	for _, e := range entries {
		key := path.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") {
			continue // ours, or a stray file: not an object
		}
		if e.IsDir() {
			sub := key + "/"
			if !strings.HasPrefix(sub, prefix) && !strings.HasPrefix(prefix, sub) {
				continue
			}
			if !s.list(ctx, key, prefix, yield) {
				return false
			}
			continue
		}
		if !e.Type().IsRegular() || !strings.HasPrefix(key, prefix) {
			continue
		}
		info, err := e.Info()
		if isMissing(err) {
			continue
		}
		if err != nil {
			yield(Object{}, fmt.Errorf("list %q: %w", prefix, err))
			return false
		}
		if !yield(Object{Key: key, Bytes: info.Size(), Modified: info.ModTime()}, nil) {
			return false
		}
	}
	return true
}

// createTemp returns a new, locked file in tempDir. The lock says "a living
// process writes this"; it goes with the process, however that ends.
func (s *Local) createTemp() (*os.File, error) {
	for {
		if err := s.root.Mkdir(tempDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		name := path.Join(tempDir, rand.Text())
		f, err := s.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		// Between the creation and the lock a sweep of another process may
		// have taken the file for an orphan; then take a new one.
		locked, err := tryLock(f)
		if err == nil && locked {
			if _, err := s.root.Lstat(name); err == nil {
				return f, nil
			}
		}
		f.Close()
		s.root.Remove(name)
		if err != nil {
			return nil, err
		}
	}
}

// sweep removes the temporary files that nobody holds a lock on.
func (s *Local) sweep() error {
	entries, err := fs.ReadDir(s.root.FS(), tempDir)
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(tempDir, e.Name())
		f, err := s.root.OpenFile(name, os.O_WRONLY, 0)
		if isMissing(err) {
			continue // its put ended meanwhile
		}
		if err != nil {
			return err
		}
		locked, err := tryLock(f)
		if err == nil && locked {
			err = s.root.Remove(name)
		}
		f.Close()
		if err != nil && !isMissing(err) {
			return err
		}
	}
	return nil
}

func notFound(key string, err error) error {
	if isMissing(err) {
		return fmt.Errorf("%w: %s", ErrNotFound, key)
	}
	return fmt.Errorf("open %s: %w", key, err)
}

// full marks errors that mean "no space left" with ErrFull.
func full(err error) error {
	if isFull(err) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

// contextReader ends with the context's error once the context is done.
type contextReader struct {
	ctx  context.Context
	from io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.from.Read(p)
}

// onlyReader hides everything of a reader but Read, so that io.CopyBuffer uses
// our buffer.
type onlyReader struct{ io.Reader }

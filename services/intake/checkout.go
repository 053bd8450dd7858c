package intake

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Checkout unpacks a snapshot into dir, which must not exist yet, and proves it
// while doing so: the manifest must hash to id, and dir ends up with exactly the
// files that the manifest lists, each with its size and digest. Files get mode
// 0644 (nothing of a scanned source is meant to be run), folders 0755; links are
// not created. manifest and pack are what [Snapshot.Manifest] and
// [Snapshot.Pack] gave; they are believed no more than an upload is. When it
// fails, dir is removed again; a crash leaves it, unfinished, for the caller to
// remove.
func Checkout(ctx context.Context, id string, manifest, pack io.Reader, dir string) (Manifest, error) {
	m, err := ParseManifest(contextReader{ctx, manifest}, id)
	if err != nil {
		return nil, fmt.Errorf("check out: %w", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("check out %s: %w", id, err)
	}
	if err := checkout(ctx, m, pack, dir); err != nil {
		return nil, errors.Join(fmt.Errorf("check out %s: %w", id, err), os.RemoveAll(dir))
	}
	return m, nil
}

func checkout(ctx context.Context, m Manifest, pack io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	w := &treeWriter{root: root, buf: make([]byte, 128<<10)}
	defer w.close()
	missing := make(map[string]*Entry, len(m))
	for i := range m {
		if e := &m[i]; e.Link == "" {
			missing[e.Path] = e
		}
	}
	z, err := zstd.NewReader(contextReader{ctx, pack}, zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxZstdWindow))
	if err != nil {
		return err
	}
	defer z.Close()
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read pack: %w", err)
		}
		e := missing[h.Name]
		if e == nil || h.Typeflag != tar.TypeReg || h.Size != e.Size {
			return fmt.Errorf("the pack holds %s, which the manifest does not list so", printable(h.Name))
		}
		delete(missing, h.Name)
		if err := w.write(e, r); err != nil {
			return err
		}
	}
	for name := range missing {
		return fmt.Errorf("the pack lacks %d files of the manifest, %s among them", len(missing), printable(name))
	}
	return nil
}

// treeWriter writes files below a root. It keeps the folder it wrote to last
// open, since most files lie beside the one before.
type treeWriter struct {
	root   *os.Root
	name   string   // of the open folder
	folder *os.Root // nil until the first file
	buf    []byte
}

func (w *treeWriter) close() {
	if w.folder != nil {
		w.folder.Close()
	}
	w.root.Close()
}

// write creates the entry's file from content, which must match it.
func (w *treeWriter) write(e *Entry, content io.Reader) error {
	folder, name := path.Split(e.Path)
	folder = strings.TrimSuffix(folder, "/")
	if w.folder == nil || folder != w.name {
		if err := w.enter(folder); err != nil {
			return err
		}
	}
	f, err := w.folder.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return diskError(err)
	}
	hash := sha256.New()
	_, err = io.CopyBuffer(hashingWriter{f, hash}, onlyReader{content}, w.buf)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", printable(e.Path), diskError(err))
	}
	if [32]byte(hash.Sum(nil)) != e.Sum {
		return fmt.Errorf("%s in the pack does not match its digest", printable(e.Path))
	}
	return nil
}

func (w *treeWriter) enter(folder string) error {
	if w.folder != nil {
		w.folder.Close()
		w.folder = nil
	}
	if folder == "" {
		folder = "."
	}
	if err := w.root.MkdirAll(folder, 0o755); err != nil {
		return diskError(err)
	}
	opened, err := w.root.OpenRoot(folder)
	if err != nil {
		return err
	}
	w.folder = opened
	w.name = strings.TrimSuffix(folder, ".")
	if folder != "." {
		w.name = folder
	}
	return nil
}

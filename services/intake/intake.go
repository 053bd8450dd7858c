package intake

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
)

// Intake takes in uploads: [Intake.Receive] spools the bytes,
// [Intake.Inspect] makes a snapshot of them. Methods may be called concurrently.
type Intake struct {
	config Config
	dir    string
	log    *slog.Logger
	slots  chan struct{} // a token per archive being unpacked

	// started, when a test sets it, is called with each child's process before
	// the child is told anything.
	started func(*os.Process)
}

// spoolPattern names spool files, for the moment in which they have a name.
const spoolPattern = "spool-*"

// Open prepares dir, a folder of its own on a disk with room for uploads and
// packs, and removes spool files that a crash left there. Several processes may
// share the folder. The main function of every program that calls Open calls
// [ChildMain] first; without that, Open fails.
func Open(config Config, dir string, log *slog.Logger) (*Intake, error) {
	if !childMainCalled.Load() {
		return nil, errors.New("open intake: the main function (or TestMain) did not call intake.ChildMain first")
	}
	if err := config.check(); err != nil {
		return nil, fmt.Errorf("open intake: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open intake: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open intake: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), strings.TrimSuffix(spoolPattern, "*")) {
			// A living process may be about to remove it itself; it goes on
			// without the name.
			if err := os.Remove(dir + "/" + e.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("open intake: %w", err)
			}
		}
	}
	return &Intake{config: config, dir: dir, log: log, slots: make(chan struct{}, config.Slots)}, nil
}

// createSpool returns a file that has no name and so is gone when it is closed,
// whatever ends the process. A crash between the two calls leaves an empty
// file, which the next Open removes.
func (in *Intake) createSpool() (*os.File, error) {
	f, err := os.CreateTemp(in.dir, spoolPattern)
	if err != nil {
		return nil, diskError(err)
	}
	if err := os.Remove(f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Upload is a received archive, unexamined. Close it after use.
type Upload struct {
	Bytes  int64
	Digest string // "sha256:<hex>" of the bytes as sent
	file   *os.File
}

// Close frees the upload's disk space.
func (u *Upload) Close() error { return u.file.Close() }

// Receive spools body to its end. It reads no more than the limit allows and
// holds none of it in memory. declared is the announced size in bytes, or -1:
// one that is too large is refused before the first byte is read. It fails with
// a *[Refusal] (source_too_large), ErrFull, or body's own error; then nothing
// is left on the disk.
func (in *Intake) Receive(ctx context.Context, body io.Reader, declared int64) (*Upload, error) {
	limit := in.config.MaxSourceBytes
	if declared > limit {
		return nil, sourceTooLarge(limit, declared)
	}
	f, err := in.createSpool()
	if err != nil {
		return nil, fmt.Errorf("receive upload: %w", err)
	}
	hash := sha256.New()
	// One byte beyond the limit tells an upload that is too large from one that fits.
	source := &io.LimitedReader{R: contextReader{ctx, body}, N: limit + 1}
	n, err := io.CopyBuffer(hashingWriter{f, hash}, onlyReader{source}, make([]byte, 256<<10))
	if err == nil && n > limit {
		err = sourceTooLarge(limit, n)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("receive upload: %w", diskError(err))
	}
	return &Upload{Bytes: n, Digest: digestString(hash.Sum(nil)), file: f}, nil
}

// CheckSize refuses, as Receive would, an upload that is announced with so many bytes.
func (in *Intake) CheckSize(bytes int64) error {
	if bytes > in.config.MaxSourceBytes {
		return sourceTooLarge(in.config.MaxSourceBytes, bytes)
	}
	return nil
}

func sourceTooLarge(limit, value int64) *Refusal {
	return overLimit(CodeSourceTooLarge, "", "VEGA_MAX_SOURCE_BYTES", limit, value, "bytes in the upload")
}

// Snapshot is an immutable capture of a source tree, fresh from
// [Intake.Inspect]: its parts are on the disk without a name until [Snapshot.Save].
// Close it after use.
type Snapshot struct {
	ID            string // "sha256:<hex>", the digest of the manifest: the same for the same tree
	Format        string // of the archive: zip, tar, tar.gz or tar.zst
	Files         int
	Links         int   // recorded, never created
	Bytes         int64 // of all files
	PackBytes     int64
	ManifestBytes int64
	Warnings      []Warning // at most maxWarnings

	manifest, pack *os.File
}

// Manifest returns the canonical bytes of the snapshot's [Manifest].
func (s *Snapshot) Manifest() io.Reader { return io.NewSectionReader(s.manifest, 0, s.ManifestBytes) }

// Pack returns the snapshot's pack, which [Checkout] unpacks.
func (s *Snapshot) Pack() io.Reader { return io.NewSectionReader(s.pack, 0, s.PackBytes) }

// Close frees the disk space of what was not saved.
func (s *Snapshot) Close() error { return errors.Join(s.manifest.Close(), s.pack.Close()) }

// Save stores the snapshot under [PackKey] and [ManifestKey], unless it is
// there already: equal trees are stored once. The manifest comes last, so a
// snapshot whose manifest is there is there whole; a crash between the two
// leaves a pack that the next Save of the same tree replaces. The functions are
// those of a file store: has reports whether a key is there, put stores an
// object durably.
func (s *Snapshot) Save(ctx context.Context,
	has func(ctx context.Context, key string) (bool, error),
	put func(ctx context.Context, key string, r io.Reader) error,
) error {
	stored, err := has(ctx, ManifestKey(s.ID))
	if err != nil {
		return fmt.Errorf("save snapshot %s: %w", s.ID, err)
	}
	if stored {
		return nil
	}
	if err := put(ctx, PackKey(s.ID), s.Pack()); err != nil {
		return fmt.Errorf("save snapshot %s: %w", s.ID, err)
	}
	if err := put(ctx, ManifestKey(s.ID), s.Manifest()); err != nil {
		return fmt.Errorf("save snapshot %s: %w", s.ID, err)
	}
	return nil
}

// ManifestKey is the file-store key of the manifest of the snapshot with that id.
func ManifestKey(id string) string {
	return "snapshots/" + strings.TrimPrefix(id, "sha256:") + "/manifest.jsonl"
}

// PackKey is the file-store key of the pack of the snapshot with that id.
func PackKey(id string) string {
	return "snapshots/" + strings.TrimPrefix(id, "sha256:") + "/pack.tar.zst"
}

// Inspect takes the upload apart, in a child process that can do nothing but
// that, and returns the snapshot it makes. It waits for a slot first. It fails
// with a *[Refusal] when the archive is refused or the child dies of it, with
// ErrFull, or with the context's cause; then nothing is left on the disk. The
// upload stays open.
func (in *Intake) Inspect(ctx context.Context, upload *Upload) (*Snapshot, error) {
	select {
	case in.slots <- struct{}{}:
		defer func() { <-in.slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("inspect upload: %w", context.Cause(ctx))
	}
	pack, err := in.createSpool()
	if err != nil {
		return nil, fmt.Errorf("inspect upload: %w", err)
	}
	manifest, err := in.createSpool()
	if err != nil {
		pack.Close()
		return nil, fmt.Errorf("inspect upload: %w", err)
	}
	s, err := in.inspect(ctx, upload, pack, manifest)
	if err != nil {
		pack.Close()
		manifest.Close()
		return nil, fmt.Errorf("inspect upload: %w", err)
	}
	return s, nil
}

func (in *Intake) inspect(ctx context.Context, upload *Upload, pack, manifest *os.File) (*Snapshot, error) {
	r, err := in.runChild(ctx, upload, pack, manifest)
	if err != nil {
		return nil, err
	}
	s := &Snapshot{
		Format: r.Format, Files: r.Files, Links: r.Links, Bytes: r.Bytes, Warnings: r.Warnings,
		manifest: manifest, pack: pack,
	}
	for _, part := range []struct {
		file *os.File
		size *int64
	}{{manifest, &s.ManifestBytes}, {pack, &s.PackBytes}} {
		info, err := part.file.Stat()
		if err != nil {
			return nil, err
		}
		*part.size = info.Size()
	}
	// The id is ours to compute: it must be that of the bytes that are saved.
	hash := sha256.New()
	if _, err := io.Copy(hash, s.Manifest()); err != nil {
		return nil, err
	}
	s.ID = digestString(hash.Sum(nil))
	return s, nil
}

// hashingWriter hashes what was written.
type hashingWriter struct {
	to   io.Writer
	hash hash.Hash
}

func (w hashingWriter) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	w.hash.Write(p[:n])
	return n, err
}

// contextReader ends with the context's error once the context is done.
type contextReader struct {
	ctx  context.Context
	from io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.from.Read(p)
}

// diskError marks errors that mean "no space left" with ErrFull.
func diskError(err error) error {
	if isFull(err) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

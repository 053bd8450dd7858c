package intake

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
)

// A pack holds the content of a snapshot's files in one object: a tar in zstd's
// fastest setting, one regular file per entry of the manifest that is no link,
// with its path and mode and nothing else (no times, no owners, no folders). It
// is written in one pass in the archive's own order, so one archive always
// gives one pack, while two archives of one tree may give two: either serves
// the snapshot, because whoever unpacks one proves every file by the manifest.

// packWriter writes a pack and computes the digests of what goes into it.
type packWriter struct {
	zstd *zstd.Encoder
	tar  *tar.Writer
	hash hash.Hash
	buf  []byte
}

func newPackWriter(w io.Writer) (*packWriter, error) {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2),
		zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, err
	}
	return &packWriter{zstd: z, tar: tar.NewWriter(z), hash: sha256.New(), buf: make([]byte, 128<<10)}, nil
}

// add writes one file and sets the entry's digest. An error of content comes
// back as it is.
func (p *packWriter) add(e *Entry, content io.Reader) error {
	header := tar.Header{
		Typeflag: tar.TypeReg,
		Name:     e.Path,
		Mode:     int64(e.Mode),
		Size:     e.Size,
		ModTime:  time.Unix(0, 0),
	}
	if err := p.tar.WriteHeader(&header); err != nil {
		return fmt.Errorf("write pack: %w", err)
	}
	p.hash.Reset()
	for {
		n, err := content.Read(p.buf)
		p.hash.Write(p.buf[:n])
		if _, err := p.tar.Write(p.buf[:n]); err != nil {
			return fmt.Errorf("write pack: %w", err)
		}
		if err == io.EOF {
			p.hash.Sum(e.Sum[:0])
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// close ends the pack.
func (p *packWriter) close() error {
	return errors.Join(p.tar.Close(), p.zstd.Close())
}

// abandon stops the compressor of a pack that is not wanted any more. After
// close it does nothing.
func (p *packWriter) abandon() {
	p.zstd.Reset(nil)
}

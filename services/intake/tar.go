package intake

import (
	"archive/tar"
	"errors"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// inspectTar reads a tar, compressed or not, from its first byte to its last.
// Names and declared sizes are judged entry by entry, before their data.
func inspectTar(in io.ReaderAt, size int64, f format, t *tree, out *packWriter) error {
	packed := io.NewSectionReader(in, 0, size)
	stream := &tarStream{limits: t.limits, packed: size}
	switch f {
	case formatGzip:
		z, err := gzip.NewReader(packed)
		if err != nil {
			return corrupt("", err)
		}
		stream.from = z
	case formatZstd:
		z, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return err
		}
		defer z.Close()
		stream.from = z
	default:
		stream.from = packed
	}
	r := tar.NewReader(stream)
	var (
		last string
		next int64 // where the next header has to be
	)
	for {
		header, err := r.Next()
		if err == io.EOF {
			return stream.finish(next)
		}
		if err != nil {
			if next == 0 && f != formatTar && errors.Is(err, tar.ErrHeader) {
				return refuse(CodeUnsupported, "", "this is %s data, but no tar is in it", strings.TrimPrefix(string(f), "tar."))
			}
			return tarError(last, err)
		}
		last, next = header.Name, stream.offset
		if header.Typeflag == tar.TypeReg || header.Typeflag == tar.TypeCont {
			next += (header.Size + 511) &^ 511
		}
		if err := inspectTarEntry(header, r, t, out); err != nil {
			return tarError(last, err)
		}
	}
}

func inspectTarEntry(h *tar.Header, content io.Reader, t *tree, out *packWriter) error {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") || key == "SCHILY.realsize" {
			return refuse(CodeSparse, h.Name, "an entry is a sparse file")
		}
	}
	var k kind
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont:
		k = kindFile
	case tar.TypeDir:
		k = kindFolder
	case tar.TypeSymlink:
		k = kindSymlink
	case tar.TypeLink:
		k = kindHardlink
	case tar.TypeGNUSparse:
		return refuse(CodeSparse, h.Name, "an entry is a sparse file")
	case tar.TypeXGlobalHeader:
		return checkGlobal(h)
	default:
		k = kindSpecial
	}
	path, err := t.add(h.Name, k, h.Size, false)
	if err != nil {
		return err
	}
	if path == "" {
		return nil // Next skips the content of what is stripped
	}
	if k != kindFile {
		return t.link(path, k, h.Linkname)
	}
	if h.Mode&0o6000 != 0 {
		t.warnings.add(path, WarnSpecialMode)
	}
	entry := Entry{Path: path, Mode: 0o644, Size: h.Size}
	if h.Mode&0o111 != 0 {
		entry.Mode = 0o755
	}
	if err := out.add(&entry, content); err != nil {
		return err
	}
	t.manifest = append(t.manifest, entry)
	return nil
}

// checkGlobal lets pass the header that git archive writes (a comment), and
// refuses one that would give every entry a name or a size: readers differ in
// whether they obey it.
func checkGlobal(h *tar.Header) error {
	for key := range h.PAXRecords {
		if key == "path" || key == "linkpath" || key == "size" || strings.HasPrefix(key, "GNU.sparse.") {
			return refuse(CodeInconsistent, h.Name, "a global header sets %s for all entries", printable(key))
		}
	}
	return nil
}

// tarError classifies an error of the tar reader or of what it reads from.
func tarError(entry string, err error) error {
	switch {
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrWindowSizeTooSmall):
		return refuse(CodeWindowTooLarge, "", "the zstd data needs more memory to unpack than the %d bytes that are given", maxZstdWindow)
	case errors.Is(err, tar.ErrHeader):
		return refuse(CodeCorrupt, entry, "after this entry there is no valid tar header")
	case errors.Is(err, tar.ErrFieldTooLong):
		return refuse(CodeNameTooLong, entry, "after this entry comes a header that is too long")
	}
	return corrupt(entry, err)
}

// tarStream is the unpacked tar, counted and bounded: no header, padding or
// tail makes it longer than the files allow.
type tarStream struct {
	from   io.Reader
	limits limits
	packed int64 // size of the upload
	offset int64 // bytes read
	check  int64 // offset at which to look at the ratio again
}

// Read implements io.Reader.
func (s *tarStream) Read(p []byte) (int, error) {
	n, err := s.from.Read(p)
	s.offset += int64(n)
	if s.offset > s.check {
		s.check = s.offset + 1<<20
		if err := s.judge(); err != nil {
			return 0, err
		}
	}
	return n, err
}

func (s *tarStream) judge() error {
	// Headers and padding take some 2 KiB per entry, PAX headers up to 1 MiB.
	// They may not be more than this altogether, beside the files' own bytes.
	overhead := int64(s.limits.Entries)*4096 + 64<<20
	if s.offset > s.limits.UncompressedBytes+overhead {
		return overLimit(CodeTooLargeUncompressed, "", "VEGA_MAX_ARCHIVE_UNCOMPRESSED_BYTES", s.limits.UncompressedBytes, s.offset, "bytes unpacked, headers included")
	}
	return checkRatio(s.offset, s.packed, s.limits)
}

// finish is called when the tar reader saw the end. The header that it read
// last began at last: nothing there means that the end was not an end.
func (s *tarStream) finish(last int64) error {
	if s.offset <= last {
		return refuse(CodeTruncated, "", "the tar is cut off: it does not end with an empty block")
	}
	// What follows the end is padding, or is something that other readers see.
	buf := make([]byte, 64<<10)
	for {
		n, err := s.Read(buf)
		for _, c := range buf[:n] {
			if c != 0 {
				return refuse(CodeTrailingData, "", "there is data after the end of the tar")
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if errors.Is(err, gzip.ErrHeader) || errors.Is(err, zstd.ErrMagicMismatch) {
				return refuse(CodeTrailingData, "", "there is data after the end of the archive")
			}
			return tarError("", err)
		}
	}
}

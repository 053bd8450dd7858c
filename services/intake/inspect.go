package intake

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/flate"
)

// report is what inspect found out, in the form in which the child process
// tells its parent.
type report struct {
	Format   string    `json:"format"` // zip, tar, tar.gz or tar.zst
	Files    int       `json:"files"`
	Links    int       `json:"links"`
	Bytes    int64     `json:"bytes"` // sum of the files' sizes
	Warnings []Warning `json:"warnings,omitempty"`
}

// inspect takes the archive of that size apart, writing its files to pack and
// then the manifest to manifest. It holds no file in memory and writes nothing
// else. It fails with a *Refusal when the archive is at fault, with another
// error when writing failed.
func inspect(in io.ReaderAt, size int64, l limits, pack, manifest io.Writer) (report, error) {
	format, err := sniff(in, size)
	if err != nil {
		return report{}, err
	}
	out, err := newPackWriter(pack)
	if err != nil {
		return report{}, err
	}
	defer out.abandon()
	t := newTree(l)
	if format == formatZip {
		err = inspectZip(in, size, t, out)
	} else {
		err = inspectTar(in, size, format, t, out)
	}
	if err != nil {
		return report{}, err
	}
	r := report{Format: string(format)}
	for i := range t.manifest {
		if e := &t.manifest[i]; e.Link != "" {
			r.Links++
		} else {
			r.Files++
			r.Bytes += e.Size
		}
	}
	if r.Files == 0 {
		return report{}, refuse(CodeEmpty, "", "there is no file in the archive")
	}
	if err := out.close(); err != nil {
		return report{}, fmt.Errorf("write pack: %w", err)
	}
	t.manifest.Sort()
	w := bufio.NewWriterSize(manifest, 256<<10)
	if _, err := t.manifest.WriteTo(w); err != nil {
		return report{}, fmt.Errorf("write manifest: %w", err)
	}
	if err := w.Flush(); err != nil {
		return report{}, fmt.Errorf("write manifest: %w", err)
	}
	r.Warnings = t.warnings.all()
	return r, nil
}

// format is a kind of archive.
type format string

const (
	formatZip  format = "zip"
	formatTar  format = "tar"
	formatGzip format = "tar.gz"
	formatZstd format = "tar.zst"
)

// sniff tells the format from the first bytes; nothing else is asked.
func sniff(in io.ReaderAt, size int64) (format, error) {
	head := make([]byte, min(size, 512))
	if err := readAt(in, head, 0); err != nil {
		return "", err
	}
	has := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }
	switch {
	case size == 0:
		return "", refuse(CodeEmpty, "", "the upload is empty")
	case has("PK\x03\x04"), has("PK\x05\x06"):
		return formatZip, nil
	case has("\x1f\x8b"):
		return formatGzip, nil
	case has("\x28\xb5\x2f\xfd"), len(head) >= 4 && binary.LittleEndian.Uint32(head)&^0xf == 0x184d2a50: // a frame, or a skippable one
		return formatZstd, nil
	case looksLikeTar(head):
		return formatTar, nil
	}
	for _, known := range []struct{ magic, name string }{
		{"PK\x07\x08", "a zip in several parts"},
		{"7z\xbc\xaf\x27\x1c", "a 7z archive"},
		{"Rar!\x1a\x07", "a rar archive"},
		{"\xfd7zXZ\x00", "xz data"},
		{"BZh", "bzip2 data"},
		{"\x04\x22\x4d\x18", "lz4 data"},
		{"\x5d\x00\x00", "lzma data"},
		{"LZIP", "lzip data"},
		{"MSCF", "a cab archive"},
		{"!<arch>\n", "an ar archive"},
		{"070701", "a cpio archive"},
		{"070707", "a cpio archive"},
		{"xar!", "a xar archive"},
		{"%PDF", "a PDF"},
		{"\x7fELF", "a program"},
		{"MZ", "a program"},
	} {
		if has(known.magic) {
			return "", refuse(CodeUnsupported, "", "this is %s; a zip, tar, tar.gz or tar.zst is taken", known.name)
		}
	}
	if _, err := findDirectory(in, size); err == nil || isRefusal(err, CodePrefixData) {
		return "", refuse(CodePrefixData, "", "this is a zip with other data before its beginning")
	}
	return "", refuse(CodeUnsupported, "", "this is not a zip, tar, tar.gz or tar.zst")
}

// looksLikeTar checks the checksum of the first header, which tars of every
// age have; a block of zeros is a tar without entries.
func looksLikeTar(block []byte) bool {
	if len(block) < 512 {
		return false
	}
	field := strings.Trim(string(block[148:156]), " \x00")
	if field == "" {
		return bytes.Count(block, []byte{0}) == len(block)
	}
	want, err := strconv.ParseInt(field, 8, 64)
	if err != nil {
		return false
	}
	var unsigned, signed int64
	for i, c := range block {
		if 148 <= i && i < 156 {
			c = ' '
		}
		unsigned += int64(c)
		signed += int64(int8(c))
	}
	return want == unsigned || want == signed
}

// inspectZip judges the whole structure and every name first, and only then
// unpacks a byte.
func inspectZip(in io.ReaderAt, size int64, t *tree, out *packWriter) error {
	z, err := readZip(in, size, t)
	if err != nil {
		return err
	}
	paths := make([]string, len(z.entries))
	for i := range z.entries {
		e := &z.entries[i]
		k := e.entryKind()
		if k == kindFolder && e.size != 0 {
			return refuse(CodeInconsistent, e.name, "a folder has content")
		}
		if k == kindSymlink && e.size > maxLinkTarget {
			return overLimit(CodeLinkTooLong, e.name, "link_target_bytes", maxLinkTarget, e.size, "bytes in a link's target")
		}
		if paths[i], err = t.add(e.name, k, e.size, e.dosNames()); err != nil {
			return err
		}
		if paths[i] != "" && e.attrs>>16&0o6000 != 0 {
			t.warnings.add(paths[i], WarnSpecialMode)
		}
	}
	if err := checkRatio(t.bytes, size, t.limits); err != nil {
		return err
	}
	if z.unlisted {
		t.warnings.add("", WarnUnlistedData)
	}

	u := newUnzipper(in)
	for i := range z.entries {
		e := &z.entries[i]
		content, err := u.open(e)
		if err != nil {
			return err
		}
		switch {
		case e.entryKind() == kindSymlink && paths[i] != "":
			var target bytes.Buffer
			if _, err := target.ReadFrom(content); err != nil {
				return err
			}
			if err := t.link(paths[i], kindSymlink, target.String()); err != nil {
				return err
			}
		case paths[i] != "":
			entry := Entry{Path: paths[i], Mode: 0o644, Size: e.size}
			if e.attrs>>16&0o111 != 0 {
				entry.Mode = 0o755
			}
			if err := out.add(&entry, content); err != nil {
				return err
			}
			t.manifest = append(t.manifest, entry)
		default: // a folder or something stripped: its data must be true all the same
			if _, err := io.CopyBuffer(io.Discard, onlyReader{content}, out.buf); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkRatio refuses what unpacks to far more than it is.
func checkRatio(unpacked, packed int64, l limits) error {
	if unpacked <= ratioFloor || unpacked/l.Ratio < packed {
		return nil
	}
	return overLimit(CodeBombRatio, "", "VEGA_MAX_ARCHIVE_RATIO", l.Ratio, unpacked/max(packed, 1), "times its own size is what the archive unpacks to")
}

// unzipper reads the data of zip entries, one at a time.
type unzipper struct {
	in    io.ReaderAt
	buf   *bufio.Reader
	flate io.ReadCloser
	crc   hash.Hash32

	// of the entry that is open
	entry *zipEntry
	from  io.Reader
	left  int64 // bytes of content
}

func newUnzipper(in io.ReaderAt) *unzipper {
	return &unzipper{in: in, buf: bufio.NewReaderSize(nil, 128<<10), flate: flate.NewReader(nil), crc: crc32.NewIEEE()}
}

// open returns the entry's content. It ends with io.EOF after exactly the
// declared size, when the checksum matched and no compressed byte is left over;
// else it fails with a *Refusal.
func (u *unzipper) open(e *zipEntry) (io.Reader, error) {
	u.entry, u.left = e, e.size
	u.crc.Reset()
	u.buf.Reset(io.NewSectionReader(u.in, e.data, e.packed))
	if e.method == methodStore || e.packed == 0 && e.entryKind() == kindFolder { // some writers mark folders as deflated
		u.from = u.buf
		return u, nil
	}
	if err := u.flate.(flate.Resetter).Reset(u.buf, nil); err != nil {
		return nil, err
	}
	u.from = u.flate
	return u, nil
}

// Read implements io.Reader.
func (u *unzipper) Read(p []byte) (int, error) {
	if u.left == 0 {
		return 0, u.finish()
	}
	n, err := u.from.Read(p[:min(int64(len(p)), u.left)])
	u.crc.Write(p[:n])
	u.left -= int64(n)
	if err == io.EOF && u.left > 0 {
		return n, refuse(CodeInconsistent, u.entry.name, "an entry unpacks to fewer bytes than the %d it declares", u.entry.size)
	}
	if err != nil && err != io.EOF {
		return n, corrupt(u.entry.name, err)
	}
	return n, nil
}

// finish checks what can only be known at the end.
func (u *unzipper) finish() error {
	var more [1]byte
	n, err := io.ReadFull(u.from, more[:])
	switch {
	case n > 0:
		return refuse(CodeInconsistent, u.entry.name, "an entry unpacks to more bytes than the %d it declares", u.entry.size)
	case err != io.EOF:
		return corrupt(u.entry.name, err)
	}
	if _, err := u.buf.ReadByte(); err != io.EOF && u.entry.packed > 0 {
		return refuse(CodeInconsistent, u.entry.name, "an entry has data after the end of its compressed data")
	}
	if u.crc.Sum32() != u.entry.crc {
		return refuse(CodeCorrupt, u.entry.name, "an entry does not match its checksum")
	}
	return io.EOF
}

// corrupt turns an error of a decoder into a refusal, leaving refusals and
// errors of reading the spool file as they are.
func corrupt(name string, err error) error {
	if _, ok := errors.AsType[*Refusal](err); ok {
		return err
	}
	if _, ok := errors.AsType[*spoolError](err); ok {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return refuse(CodeTruncated, name, "the archive is cut off")
	}
	return refuse(CodeCorrupt, name, "the archive's data is damaged: %v", err)
}

// readError classifies an error of reading structure: the end came too early,
// or the spool file cannot be read.
func readError(err error) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return refuse(CodeTruncated, "", "the archive is cut off")
	}
	return err
}

// spoolError is a failure of our own disk, not of the archive.
type spoolError struct{ err error }

func (e *spoolError) Error() string { return "read spool file: " + e.err.Error() }
func (e *spoolError) Unwrap() error { return e.err }

// spoolReader marks the errors of the spool file.
type spoolReader struct{ in io.ReaderAt }

func (r spoolReader) ReadAt(p []byte, offset int64) (int, error) {
	n, err := r.in.ReadAt(p, offset)
	if err != nil && err != io.EOF {
		err = &spoolError{err}
	}
	return n, err
}

func isRefusal(err error, code string) bool {
	r, ok := errors.AsType[*Refusal](err)
	return ok && r.Code == code
}

// onlyReader hides all of a reader but Read, so that io.CopyBuffer uses our buffer.
type onlyReader struct{ io.Reader }

package intake

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"io"
	"slices"
)

// The zip format stores everything about an entry twice, and the number and
// place of the entries up to twice more. readZip believes none of it alone: it
// reads the central directory as a stream, bounded by our limits and not by its
// own counts, compares every entry with its local header and data descriptor,
// and refuses whatever disagrees or overlaps. After that one view of the
// archive is left, and no archive/zip reader is needed that might see another.

const (
	sigLocal      = 0x04034b50
	sigCentral    = 0x02014b50
	sigEnd        = 0x06054b50
	sigEnd64      = 0x06064b50
	sigLocator64  = 0x07064b50
	sigDescriptor = 0x08074b50

	lenLocal     = 30
	lenCentral   = 46
	lenEnd       = 22
	lenLocator64 = 20
	lenEnd64     = 56

	methodStore   = 0
	methodDeflate = 8

	flagEncrypted  = 1<<0 | 1<<6 | 1<<13
	flagDescriptor = 1 << 3

	// maxDeflateRatio is what one byte of deflate can make at most, rounded up.
	maxDeflateRatio = 1033
)

// zipEntry is one entry of the central directory that its local header agrees with.
type zipEntry struct {
	name    string
	method  uint16
	flags   uint16
	creator byte   // system that made the entry: 0 DOS, 3 Unix, …
	attrs   uint32 // external attributes
	crc     uint32
	packed  int64 // bytes in the archive
	size    int64 // bytes unpacked
	header  int64 // offset of the local header
	data    int64 // offset of the data
	zip64   bool  // sizes or offset came from a zip64 field
}

// zipFile is what readZip found.
type zipFile struct {
	entries  []zipEntry // by offset
	unlisted bool       // there are bytes between the entries that belong to none
}

// readZip reads the structure of the zip of that size, and nothing of its data.
func readZip(in io.ReaderAt, size int64, t *tree) (*zipFile, error) {
	dir, err := findDirectory(in, size)
	if err != nil {
		return nil, err
	}
	if dir.count > uint64(2*t.limits.Entries) { // files and folders have t.limits.Entries each
		return nil, overLimit(CodeTooManyEntries, "", "VEGA_MAX_ARCHIVE_ENTRIES", int64(t.limits.Entries), int64(min(dir.count, 1<<62)), "entries declared by the zip")
	}
	entries, err := readDirectory(in, dir, t)
	if err != nil {
		return nil, err
	}
	f := &zipFile{entries: entries}
	if err := f.checkLayout(in, dir.offset); err != nil {
		return nil, err
	}
	return f, nil
}

// directory says where the central directory is.
type directory struct {
	offset, size int64
	count        uint64
}

// findDirectory finds the one end record and what it points to.
func findDirectory(in io.ReaderAt, size int64) (directory, error) {
	tail := make([]byte, min(size, lenEnd+0xffff))
	if err := readAt(in, tail, size-int64(len(tail))); err != nil {
		return directory{}, err
	}
	end, loose := -1, false
	for i := len(tail) - lenEnd; i >= 0; i-- {
		if binary.LittleEndian.Uint32(tail[i:]) != sigEnd {
			continue
		}
		if int(binary.LittleEndian.Uint16(tail[i+20:])) != len(tail)-i-lenEnd {
			loose = true
			continue
		}
		if end >= 0 {
			return directory{}, refuse(CodeInconsistent, "", "the zip has two possible ends, so its content is ambiguous")
		}
		end = i
	}
	if end < 0 && loose {
		return directory{}, refuse(CodeTrailingData, "", "the zip has data after its end")
	}
	if end < 0 {
		return directory{}, refuse(CodeTruncated, "", "the zip has no end record: it is cut off")
	}
	rec := tail[end:]
	var (
		at     = size - int64(len(tail)) + int64(end)
		disk   = binary.LittleEndian.Uint16(rec[4:])
		cdDisk = binary.LittleEndian.Uint16(rec[6:])
		here   = binary.LittleEndian.Uint16(rec[8:])
		count  = binary.LittleEndian.Uint16(rec[10:])
		dir    = directory{
			size:   int64(binary.LittleEndian.Uint32(rec[12:])),
			offset: int64(binary.LittleEndian.Uint32(rec[16:])),
			count:  uint64(count),
		}
	)
	dir64, at64, err := findDirectory64(in, at)
	if err != nil {
		return directory{}, err
	}
	if at64 >= 0 {
		if !agrees(uint64(count), 0xffff, dir64.count) ||
			!agrees(uint64(dir.size), 0xffffffff, uint64(dir64.size)) ||
			!agrees(uint64(dir.offset), 0xffffffff, uint64(dir64.offset)) {
			return directory{}, refuse(CodeInconsistent, "", "the zip's end record and its zip64 end record contradict each other")
		}
		dir, at = dir64, at64
	} else if disk != 0 || cdDisk != 0 || here != count {
		return directory{}, refuse(CodeUnsupported, "", "the zip is one part of several")
	}
	switch {
	case dir.offset < 0 || dir.size < 0 || dir.offset > at || dir.size > at-dir.offset:
		return directory{}, refuse(CodeInconsistent, "", "the zip's directory is said to lie outside the file")
	case dir.offset+dir.size < at:
		// Either bytes were put before the zip, which shifts everything, or
		// the directory is not where it is said to be.
		return directory{}, refuse(CodePrefixData, "", "the zip has data before its beginning or after its directory")
	}
	return dir, nil
}

// agrees reports whether a 16- or 32-bit field says the same as its zip64
// field: the same value, or all ones for "see there".
func agrees(field, ones, value uint64) bool { return field == ones || field == value }

// findDirectory64 reads the zip64 end record whose locator ends at end. Its
// offset is -1 when there is none.
func findDirectory64(in io.ReaderAt, end int64) (directory, int64, error) {
	none := directory{}
	if end < lenLocator64 {
		return none, -1, nil
	}
	var locator [lenLocator64]byte
	if err := readAt(in, locator[:], end-lenLocator64); err != nil {
		return none, 0, err
	}
	if binary.LittleEndian.Uint32(locator[:]) != sigLocator64 {
		return none, -1, nil
	}
	at := int64(binary.LittleEndian.Uint64(locator[8:]))
	disk, disks := binary.LittleEndian.Uint32(locator[4:]), binary.LittleEndian.Uint32(locator[16:])
	if at < 0 || at > end-lenLocator64-lenEnd64 || disk != 0 || disks > 1 {
		return none, 0, refuse(CodeInconsistent, "", "the zip64 locator points nowhere")
	}
	var rec [lenEnd64]byte
	if err := readAt(in, rec[:], at); err != nil {
		return none, 0, err
	}
	length := binary.LittleEndian.Uint64(rec[4:])
	if binary.LittleEndian.Uint32(rec[:]) != sigEnd64 || length != uint64(end-lenLocator64-at-12) {
		return none, 0, refuse(CodeInconsistent, "", "the zip64 end record is not where its locator points")
	}
	if binary.LittleEndian.Uint64(rec[24:]) != binary.LittleEndian.Uint64(rec[32:]) {
		return none, 0, refuse(CodeUnsupported, "", "the zip is one part of several")
	}
	return directory{
		count:  binary.LittleEndian.Uint64(rec[32:]),
		size:   int64(binary.LittleEndian.Uint64(rec[40:])),
		offset: int64(binary.LittleEndian.Uint64(rec[48:])),
	}, at, nil
}

// readDirectory reads the central directory as a stream, under the limits of
// number and names: a hostile one is given up on, not held in memory.
func readDirectory(in io.ReaderAt, dir directory, t *tree) ([]zipEntry, error) {
	var (
		r       = bufio.NewReaderSize(io.NewSectionReader(in, dir.offset, dir.size), 64<<10)
		left    = dir.size
		entries = make([]zipEntry, 0, dir.count)
		names   int64
		header  [lenCentral]byte
		field   []byte
	)
	for left > 0 {
		if uint64(len(entries)) == dir.count {
			return nil, refuse(CodeInconsistent, "", "the zip's directory holds more than the %d entries that it declares", dir.count)
		}
		if left < lenCentral {
			return nil, refuse(CodeInconsistent, "", "the zip's directory is cut off")
		}
		if _, err := io.ReadFull(r, header[:]); err != nil {
			return nil, readError(err)
		}
		if binary.LittleEndian.Uint32(header[:]) != sigCentral {
			return nil, refuse(CodeInconsistent, "", "the zip's directory holds something that is no entry")
		}
		var (
			nameLen    = int64(binary.LittleEndian.Uint16(header[28:]))
			extraLen   = int64(binary.LittleEndian.Uint16(header[30:]))
			commentLen = int64(binary.LittleEndian.Uint16(header[32:]))
		)
		if left -= lenCentral + nameLen + extraLen + commentLen; left < 0 {
			return nil, refuse(CodeInconsistent, "", "the zip's directory is cut off")
		}
		if names += nameLen; names > maxNamesBytes {
			return nil, overLimit(CodeNameTooLong, "", "names_bytes", maxNamesBytes, names, "bytes in all names together")
		}
		field = slices.Grow(field[:0], int(nameLen+extraLen))[:nameLen+extraLen]
		if _, err := io.ReadFull(r, field); err != nil {
			return nil, readError(err)
		}
		if _, err := r.Discard(int(commentLen)); err != nil {
			return nil, readError(err)
		}
		e := zipEntry{
			name:    string(field[:nameLen]),
			creator: header[5],
			flags:   binary.LittleEndian.Uint16(header[8:]),
			method:  binary.LittleEndian.Uint16(header[10:]),
			crc:     binary.LittleEndian.Uint32(header[16:]),
			packed:  int64(binary.LittleEndian.Uint32(header[20:])),
			size:    int64(binary.LittleEndian.Uint32(header[24:])),
			attrs:   binary.LittleEndian.Uint32(header[38:]),
			header:  int64(binary.LittleEndian.Uint32(header[42:])),
		}
		disk := binary.LittleEndian.Uint16(header[34:])
		if err := e.applyZip64(field[nameLen:], disk); err != nil {
			return nil, err
		}
		if err := e.check(dir.offset); err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	if uint64(len(entries)) != dir.count {
		return nil, refuse(CodeInconsistent, "", "the zip declares %d entries and its directory holds %d", dir.count, len(entries))
	}
	return entries, nil
}

// applyZip64 takes the sizes and the offset that do not fit 32 bits from the
// entry's zip64 field.
func (e *zipEntry) applyZip64(extra []byte, disk uint16) error {
	field, err := findZip64(extra, e.name)
	if err != nil {
		return err
	}
	for _, value := range []*int64{&e.size, &e.packed, &e.header} {
		if *value != 0xffffffff {
			continue
		}
		if len(field) < 8 {
			return refuse(CodeInconsistent, e.name, "an entry needs a zip64 field and has none")
		}
		*value = int64(binary.LittleEndian.Uint64(field))
		field = field[8:]
		e.zip64 = true
	}
	if disk == 0xffff && len(field) >= 4 {
		disk = uint16(min(binary.LittleEndian.Uint32(field), 0xffff))
	}
	if disk != 0 {
		return refuse(CodeUnsupported, e.name, "an entry lies on another disk")
	}
	return nil
}

// findZip64 returns the zip64 field of an entry's extra fields, nil if none.
func findZip64(extra []byte, name string) ([]byte, error) {
	var found []byte
	seen := false
	for len(extra) >= 4 {
		id, length := binary.LittleEndian.Uint16(extra), int(binary.LittleEndian.Uint16(extra[2:]))
		if extra = extra[4:]; length > len(extra) {
			// Java and Android write such; a zip64 field it cannot be.
			if id == 1 {
				return nil, refuse(CodeInconsistent, name, "an entry's zip64 field is cut off")
			}
			return found, nil
		}
		if id == 1 {
			if seen {
				return nil, refuse(CodeInconsistent, name, "an entry has two zip64 fields")
			}
			found, seen = extra[:length], true
		}
		extra = extra[length:]
	}
	return found, nil
}

// check looks at what the directory alone says of an entry.
func (e *zipEntry) check(end int64) error {
	switch {
	case e.flags&flagEncrypted != 0:
		return refuse(CodeEncrypted, e.name, "an entry is encrypted")
	case e.method != methodStore && e.method != methodDeflate:
		return refuse(CodeUnsupportedMethod, e.name, "an entry is compressed by method %d; stored and deflated ones are taken", e.method)
	case e.header < 0 || e.packed < 0 || e.size < 0 || e.header > end-lenLocal || e.packed > end-lenLocal-e.header:
		return refuse(CodeInconsistent, e.name, "an entry is said to lie outside the file")
	case e.method == methodStore && e.packed != e.size:
		return refuse(CodeInconsistent, e.name, "a stored entry declares two sizes")
	case e.size/maxDeflateRatio > e.packed:
		return refuse(CodeInconsistent, e.name, "an entry declares %d bytes, more than its %d compressed ones can hold", e.size, e.packed)
	}
	return nil
}

// checkLayout sorts the entries by offset, compares each with its local header,
// and sees that no two share a byte.
func (f *zipFile) checkLayout(in io.ReaderAt, directory int64) error {
	slices.SortStableFunc(f.entries, func(a, b zipEntry) int { return cmp.Compare(a.header, b.header) })
	local := newWindow(in, directory)
	var used int64 // up to here bytes belong to the entries so far
	for i := range f.entries {
		e := &f.entries[i]
		if i == 0 && e.header > 0 {
			return refuse(CodePrefixData, e.name, "the zip has data before its first entry")
		}
		if e.header < used { // inside the last entry's descriptor
			return refuse(CodeOverlap, e.name, "an entry shares bytes with %s", printable(f.entries[i-1].name))
		}
		if e.header > used {
			f.unlisted = true
		}
		if err := e.checkLocal(local); err != nil {
			return err
		}
		end, limit := e.data+e.packed, directory
		if end > limit {
			return refuse(CodeInconsistent, e.name, "an entry reaches into the zip's directory")
		}
		if i+1 < len(f.entries) {
			if limit = f.entries[i+1].header; end > limit {
				return refuse(CodeOverlap, f.entries[i+1].name, "an entry shares bytes with %s", printable(e.name))
			}
		}
		if e.flags&flagDescriptor != 0 {
			n, err := e.checkDescriptor(local, end, limit)
			if err != nil {
				return err
			}
			end += n
		}
		used = end
	}
	if used < directory {
		if len(f.entries) == 0 {
			return refuse(CodePrefixData, "", "the zip has data before its directory and no entries")
		}
		f.unlisted = true
	}
	return nil
}

// checkLocal compares the entry with its local header and finds its data.
func (e *zipEntry) checkLocal(in *window) error {
	header, err := in.at(e.header, lenLocal)
	if err != nil {
		return err
	}
	var (
		flags    = binary.LittleEndian.Uint16(header[6:])
		method   = binary.LittleEndian.Uint16(header[8:])
		crc      = binary.LittleEndian.Uint32(header[14:])
		packed   = int64(binary.LittleEndian.Uint32(header[18:]))
		size     = int64(binary.LittleEndian.Uint32(header[22:]))
		nameLen  = int(binary.LittleEndian.Uint16(header[26:]))
		extraLen = int(binary.LittleEndian.Uint16(header[28:]))
	)
	if binary.LittleEndian.Uint32(header) != sigLocal {
		return refuse(CodeInconsistent, e.name, "there is no local header where the directory says")
	}
	rest, err := in.at(e.header+lenLocal, nameLen+extraLen)
	if err != nil {
		return err
	}
	if !bytes.Equal(rest[:nameLen], []byte(e.name)) {
		return refuse(CodeInconsistent, e.name, "the local header calls the entry %s", printable(string(rest[:nameLen])))
	}
	field, err := findZip64(rest[nameLen:], e.name)
	if err != nil {
		return err
	}
	for _, value := range []*int64{&size, &packed} {
		if *value != 0xffffffff || len(field) < 8 {
			continue
		}
		*value = int64(binary.LittleEndian.Uint64(field))
		field = field[8:]
		e.zip64 = true
	}
	const compared = flagEncrypted | flagDescriptor
	if method != e.method || flags&compared != e.flags&compared {
		return refuse(CodeInconsistent, e.name, "the local header and the directory contradict each other about how the entry is stored")
	}
	// With a data descriptor the local header may leave these fields at zero.
	later := e.flags&flagDescriptor != 0
	if !(crc == e.crc || later && crc == 0) ||
		!(packed == e.packed || later && (packed == 0 || packed == 0xffffffff)) ||
		!(size == e.size || later && (size == 0 || size == 0xffffffff)) {
		return refuse(CodeInconsistent, e.name, "the local header and the directory contradict each other about the entry's size or checksum")
	}
	e.data = e.header + lenLocal + int64(nameLen) + int64(extraLen)
	return nil
}

// checkDescriptor compares the data descriptor at end, and returns its length.
// It comes with or without a signature and with 32- or 64-bit sizes. Some
// writers announce one and leave it out: no bytes before limit, where the next
// entry begins, is accepted; other bytes are not.
func (e *zipEntry) checkDescriptor(in *window, end, limit int64) (int64, error) {
	b, err := in.at(end, int(min(24, limit-end)))
	if err != nil {
		return 0, err
	}
	signed := len(b) >= 4 && binary.LittleEndian.Uint32(b) == sigDescriptor
	var skip int64
	if signed {
		skip = 4
		b = b[4:]
	}
	matches32 := len(b) >= 12 &&
		binary.LittleEndian.Uint32(b) == e.crc &&
		binary.LittleEndian.Uint32(b[4:]) == uint32(e.packed) &&
		binary.LittleEndian.Uint32(b[8:]) == uint32(e.size)
	matches64 := len(b) >= 20 &&
		binary.LittleEndian.Uint32(b) == e.crc &&
		binary.LittleEndian.Uint64(b[4:]) == uint64(e.packed) &&
		binary.LittleEndian.Uint64(b[12:]) == uint64(e.size)
	switch {
	case matches64 && (e.zip64 || !matches32):
		return skip + 20, nil
	case matches32 && e.packed <= 0xffffffff && e.size <= 0xffffffff:
		return skip + 12, nil
	case matches64:
		return skip + 20, nil
	case limit > end:
		return 0, refuse(CodeInconsistent, e.name, "the data descriptor and the directory contradict each other")
	}
	return 0, nil
}

// entryKind says what the entry is. Unix modes are believed from every creator,
// since some writers on Windows set them under a DOS creator.
func (e *zipEntry) entryKind() kind {
	const (
		typeMask = 0o170000
		regular  = 0o100000
		folder   = 0o040000
		symlink  = 0o120000
		dosDir   = 0x10
	)
	mode := e.attrs >> 16
	slash := e.name != "" && (e.name[len(e.name)-1] == '/' || e.dosNames() && e.name[len(e.name)-1] == '\\')
	switch mode & typeMask {
	case symlink:
		return kindSymlink
	case folder:
		return kindFolder
	case regular:
	case 0:
		if e.attrs&dosDir != 0 && e.size == 0 {
			return kindFolder
		}
	default:
		return kindSpecial
	}
	if slash {
		return kindFolder
	}
	return kindFile
}

// dosNames reports whether the creator's system separates by backslash.
func (e *zipEntry) dosNames() bool {
	switch e.creator {
	case 0, 6, 10, 11, 14: // DOS, OS/2, and what Windows has called itself
		return true
	}
	return false
}

// readAt fills b from offset, which the caller knows to lie in the file.
func readAt(in io.ReaderAt, b []byte, offset int64) error {
	n, err := in.ReadAt(b, offset)
	if n == len(b) {
		return nil
	}
	return readError(err)
}

// window reads small pieces at rising offsets through one buffer, so that
// 50,000 headers are not 50,000 system calls.
type window struct {
	in    io.ReaderAt
	end   int64 // nothing is read beyond
	start int64
	buf   []byte
}

func newWindow(in io.ReaderAt, end int64) *window {
	return &window{in: in, end: end, buf: make([]byte, 0, 256<<10)}
}

// at returns n bytes from offset, valid until the next call.
func (w *window) at(offset int64, n int) ([]byte, error) {
	if n < 0 || offset > w.end-int64(n) {
		return nil, refuse(CodeInconsistent, "", "an entry's header reaches beyond the entries")
	}
	if offset < w.start || offset+int64(n) > w.start+int64(len(w.buf)) {
		// Read little around a lone header, more where headers are close.
		want := int64(4 << 10)
		if near := w.start + int64(len(w.buf)); offset >= w.start && offset < near+(64<<10) {
			want = int64(cap(w.buf))
		}
		want = min(max(want, int64(n)), w.end-offset)
		w.buf = slices.Grow(w.buf[:0], int(want))[:want]
		w.start = offset
		if err := readAt(w.in, w.buf, offset); err != nil {
			w.buf = w.buf[:0]
			return nil, err
		}
	}
	return w.buf[offset-w.start:][:n], nil
}

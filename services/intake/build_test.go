package intake

import (
	"archive/tar"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// The builders here write archives that no library would write.

// zipPart is one entry of a rawZip. The fields on top are what an honest writer
// would be given; the rest overrides what it would have derived from them.
type zipPart struct {
	name    string
	content []byte
	deflate bool
	mode    uint32 // Unix mode with type bits; 0 for none
	creator byte   // 3 (Unix) unless dos
	dos     bool
	flags   uint16

	descriptor int // 0 none, else the number of bytes it has: 12, 16, 20 or 24

	packed                  []byte // the compressed data, when not derived
	method                  *uint16
	extra, localExtra       []byte
	comment                 string
	localName               *string
	crc, localCRC           *uint32
	size, localSize         *uint32
	packedSize, localPacked *uint32
	localMethod, localFlags *uint16
	header                  *uint32 // offset of the local header
	noLocal                 bool    // only in the directory
	badDescriptor           bool
}

type rawZip struct {
	parts    []zipPart
	prefix   []byte // shifts everything without being counted in
	gap      []byte // between entries and directory
	comment  string
	trailing []byte
	count    *uint16 // in the end record
	zip64    bool    // with a zip64 end record and locator
	count64  *uint64
	offset   *uint32 // of the directory, in the end record
}

func le16(v uint16) []byte { return binary.LittleEndian.AppendUint16(nil, v) }
func le32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
func le64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

func or[T any](p *T, v T) T {
	if p != nil {
		return *p
	}
	return v
}

func deflated(content []byte) []byte {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression)
	w.Write(content)
	w.Close()
	return b.Bytes()
}

// bytes lays the archive out.
func (z rawZip) bytes() []byte {
	var out, dir []byte
	count := 0
	for i := range z.parts {
		p := &z.parts[i]
		packed, method := p.content, uint16(methodStore)
		if p.deflate {
			packed, method = deflated(p.content), methodDeflate
		}
		if p.packed != nil {
			packed = p.packed
		}
		if p.method != nil {
			method = *p.method
		}
		flags := p.flags
		if p.descriptor > 0 {
			flags |= flagDescriptor
		}
		crc := or(p.crc, crc32.ChecksumIEEE(p.content))
		size, packedSize := or(p.size, uint32(len(p.content))), or(p.packedSize, uint32(len(packed)))
		header := or(p.header, uint32(len(out)))
		if !p.noLocal {
			localCRC, localPacked, localSize := crc, packedSize, size
			if p.descriptor > 0 {
				localCRC, localPacked, localSize = 0, 0, 0
			}
			name := or(p.localName, p.name)
			out = append(out, le32(sigLocal)...)
			out = append(out, le16(20)...)
			out = append(out, le16(or(p.localFlags, flags))...)
			out = append(out, le16(or(p.localMethod, method))...)
			out = append(out, 0, 0, 0x21, 0x50)
			out = append(out, le32(or(p.localCRC, localCRC))...)
			out = append(out, le32(or(p.localPacked, localPacked))...)
			out = append(out, le32(or(p.localSize, localSize))...)
			out = append(out, le16(uint16(len(name)))...)
			out = append(out, le16(uint16(len(p.localExtra)))...)
			out = append(out, name...)
			out = append(out, p.localExtra...)
			out = append(out, packed...)
			if p.badDescriptor {
				crc ^= 1
			}
			if p.descriptor == 16 || p.descriptor == 24 {
				out = append(out, le32(sigDescriptor)...)
			}
			switch p.descriptor {
			case 12, 16:
				out = append(out, le32(crc)...)
				out = append(out, le32(packedSize)...)
				out = append(out, le32(size)...)
			case 20, 24:
				out = append(out, le32(crc)...)
				out = append(out, le64(uint64(packedSize))...)
				out = append(out, le64(uint64(size))...)
			}
			if p.badDescriptor {
				crc ^= 1
			}
		}
		creator := p.creator
		if creator == 0 && !p.dos {
			creator = 3
		}
		dir = append(dir, le32(sigCentral)...)
		dir = append(dir, 20, creator, 20, 0)
		dir = append(dir, le16(flags)...)
		dir = append(dir, le16(method)...)
		dir = append(dir, 0, 0, 0x21, 0x50)
		dir = append(dir, le32(crc)...)
		dir = append(dir, le32(packedSize)...)
		dir = append(dir, le32(size)...)
		dir = append(dir, le16(uint16(len(p.name)))...)
		dir = append(dir, le16(uint16(len(p.extra)))...)
		dir = append(dir, le16(uint16(len(p.comment)))...)
		dir = append(dir, 0, 0, 0, 0)
		dir = append(dir, le32(p.mode<<16)...)
		dir = append(dir, le32(header)...)
		dir = append(dir, p.name...)
		dir = append(dir, p.extra...)
		dir = append(dir, p.comment...)
		count++
	}
	out = append(out, z.gap...)
	offset := len(out)
	out = append(out, dir...)
	if z.zip64 {
		at := len(out)
		out = append(out, le32(sigEnd64)...)
		out = append(out, le64(44)...)
		out = append(out, 45, 0, 45, 0)
		out = append(out, make([]byte, 8)...)
		n := or(z.count64, uint64(count))
		out = append(out, le64(n)...)
		out = append(out, le64(n)...)
		out = append(out, le64(uint64(len(dir)))...)
		out = append(out, le64(uint64(offset))...)
		out = append(out, le32(sigLocator64)...)
		out = append(out, le32(0)...)
		out = append(out, le64(uint64(at))...)
		out = append(out, le32(1)...)
	}
	end := or(z.count, uint16(count))
	out = append(out, le32(sigEnd)...)
	out = append(out, 0, 0, 0, 0)
	out = append(out, le16(end)...)
	out = append(out, le16(end)...)
	out = append(out, le32(uint32(len(dir)))...)
	out = append(out, le32(or(z.offset, uint32(offset)))...)
	out = append(out, le16(uint16(len(z.comment)))...)
	out = append(out, z.comment...)
	return append(append(bytes.Clone(z.prefix), out...), z.trailing...)
}

// zipOf is a zip of some parts.
func zipOf(parts ...zipPart) []byte { return rawZip{parts: parts}.bytes() }

func file(name string) zipPart { return zipPart{name: name, content: []byte("content of " + name)} }

// tarPart is one header of a raw tar, with its data.
type tarPart struct {
	name    string
	kind    byte // '0' unless set
	content []byte
	link    string
	mode    int64
	size    *int64
	pax     map[string]string // an extended header before it
	global  bool              // … for all entries
}

// tarOf is a tar in ustar format, made of headers that need not make sense.
func tarOf(parts ...tarPart) []byte {
	return append(tarWithoutEnd(parts...), make([]byte, 1024)...)
}

func tarWithoutEnd(parts ...tarPart) []byte {
	var out []byte
	for _, p := range parts {
		if p.pax != nil {
			var records []byte
			for key, value := range p.pax {
				records = append(records, paxRecord(key, value)...)
			}
			kind := byte('x')
			if p.global {
				kind = 'g'
			}
			out = append(out, tarBlocks("PaxHeaders/x", kind, "", 0o644, int64(len(records)), records)...)
			if p.global {
				continue
			}
		}
		kind, mode := p.kind, p.mode
		if kind == 0 {
			kind = tar.TypeReg
		}
		if mode == 0 {
			mode = 0o644
		}
		out = append(out, tarBlocks(p.name, kind, p.link, mode, or(p.size, int64(len(p.content))), p.content)...)
	}
	return out
}

func paxRecord(key, value string) string {
	n := len(key) + len(value) + 3
	for {
		record := fmt.Sprintf("%d %s=%s\n", n, key, value)
		if len(record) == n {
			return record
		}
		n = len(record)
	}
}

func tarBlocks(name string, kind byte, link string, mode, size int64, content []byte) []byte {
	b := make([]byte, 512)
	copy(b[0:100], name)
	fmt.Fprintf(writerAt(b[100:]), "%07o\x00%07o\x00%07o\x00%011o\x00%011o\x00", mode, 0, 0, size, 0)
	copy(b[148:156], "        ")
	b[156] = kind
	copy(b[157:257], link)
	copy(b[257:], "ustar\x0000")
	if kind == tar.TypeGNUSparse {
		copy(b[257:], "ustar  \x00")
		fmt.Fprintf(writerAt(b[386:]), "%011o\x00%011o\x00", 0, size) // the one piece of data
		fmt.Fprintf(writerAt(b[483:]), "%011o\x00", int64(1)<<32)     // the size with holes
	}
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	b = append(b, content...)
	return append(b, make([]byte, -len(content)&511)...)
}

type writerAt []byte

func (w writerAt) Write(p []byte) (int, error) { return copy(w, p), nil }

func gzipped(members ...[]byte) []byte {
	var b bytes.Buffer
	for _, m := range members {
		w := gzip.NewWriter(&b)
		w.Write(m)
		w.Close()
	}
	return b.Bytes()
}

func zstandard(t testing.TB, content []byte, options ...zstd.EOption) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, options...)
	if err != nil {
		t.Fatal(err)
	}
	// Two writes, so that the size is not known at the beginning of the frame.
	w.Write(content[:len(content)/2])
	w.Flush()
	w.Write(content[len(content)/2:])
	w.Close()
	return b.Bytes()
}

// overlapping is a zip whose entries all are the same bytes.
func overlapping(n int) []byte {
	content := bytes.Repeat([]byte("A"), 1<<20)
	parts := []zipPart{{name: "0", content: content, packed: deflated(content), method: new(uint16(methodDeflate)), crc: new(crc32.ChecksumIEEE(content))}}
	for i := 1; i < n; i++ {
		p := parts[0]
		p.name, p.localName = fmt.Sprint(i), new("0")
		p.header, p.noLocal = new(uint32(0)), true
		parts = append(parts, p)
	}
	return zipOf(parts...)
}

// quoted is a zip after David Fifield: the compressed data of each entry
// begins with a stored block that quotes the local header of the next one, so
// that all entries share the last one's data and each header is still where the
// directory says.
func quoted(n int) []byte {
	kernel := bytes.Repeat([]byte("B"), 1<<20)
	content, packed := kernel, deflated(kernel)
	var parts []zipPart
	var local []byte
	for i := n - 1; i >= 0; i-- {
		name := fmt.Sprintf("%04d", i)
		header := append([]byte(nil), le32(sigLocal)...)
		header = append(header, 20, 0, 0, 0, methodDeflate, 0, 0, 0, 0x21, 0x50)
		header = append(header, le32(crc32.ChecksumIEEE(content))...)
		header = append(header, le32(uint32(len(packed)))...)
		header = append(header, le32(uint32(len(content)))...)
		header = append(header, le16(uint16(len(name)))...)
		header = append(header, 0, 0)
		header = append(header, name...)
		parts = append(parts, zipPart{
			name: name, method: new(uint16(methodDeflate)), noLocal: true,
			crc: new(crc32.ChecksumIEEE(content)), size: new(uint32(len(content))), packedSize: new(uint32(len(packed))),
			header: new(uint32(len(packed))), // from the end, for now
		})
		local = append(header, packed...)
		quote := append([]byte{0}, le16(uint16(len(header)))...)
		quote = append(quote, le16(^uint16(len(header)))...)
		packed = append(append(quote, header...), packed...)
		content = append(bytes.Clone(header), content...)
	}
	for i := range parts {
		*parts[i].header = uint32(len(local)) - *parts[i].header - lenLocal - 4
	}
	return rawZip{parts: parts, gap: local}.bytes()
}

// deep is a path of n folders.
func deep(n int) string { return strings.Repeat("d/", n) + "file" }

package intake

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Manifest is the list of what a snapshot holds. Its canonical bytes are lines
// of JSON, in UTF-8, each ended by a newline:
//
//	{"vega_manifest":1}
//	{"path":"bin/run","mode":"0755","size":12,"sha256":"9f86…"}
//	{"path":"docs/latest","link":"symlink","target":"v2"}
//
// The first line names the format. Then comes one line per file or link, keys
// in the order shown, no other white space, sorted by the bytes of the path, no
// path twice. In strings only `"` and `\` are escaped, by a backslash. A file's
// mode is 0755 if any execute bit was set, else 0644; its size is in bytes, its
// digest in lower-case hex. A link is "symlink" or "hardlink". Folders are not
// listed: they are where files are.
//
// The SHA-256 of these bytes, as "sha256:<hex>", is the snapshot's id. So the
// id depends on the tree alone: not on the kind of archive, its compression,
// its order, its times, or what was left out of it (.git).
type Manifest []Entry

// Entry is one file or link of a snapshot.
type Entry struct {
	Path   string   // relative, clean, slash-separated, valid UTF-8
	Link   string   // "" for a file, LinkSymbolic or LinkHard
	Target string   // of a link: what it said, made printable; never followed
	Mode   uint32   // of a file: 0o644 or 0o755
	Size   int64    // of a file, bytes
	Sum    [32]byte // of a file: SHA-256 of its content
}

// The values of Entry.Link.
const (
	LinkSymbolic = "symlink"
	LinkHard     = "hardlink"
)

const manifestHeader = `{"vega_manifest":1}` + "\n"

// maxManifestBytes bounds what ParseManifest reads: more than any manifest has
// that Inspect makes under the largest MaxEntries allowed.
const maxManifestBytes = 256 << 20

// Sort puts the entries in canonical order.
func (m Manifest) Sort() {
	slices.SortFunc(m, func(a, b Entry) int { return cmp.Compare(a.Path, b.Path) })
}

// WriteTo writes the canonical bytes. The manifest must be sorted.
func (m Manifest) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, manifestHeader)
	total := int64(n)
	var line []byte
	for i := range m {
		if err != nil {
			return total, err
		}
		line = m[i].append(line[:0])
		n, err = w.Write(line)
		total += int64(n)
	}
	return total, err
}

// ID returns the snapshot's id. The manifest must be sorted.
func (m Manifest) ID() string {
	hash := sha256.New()
	_, _ = m.WriteTo(hash) // a hash does not fail
	return digestString(hash.Sum(nil))
}

// digestString writes a SHA-256 as ids are written.
func digestString(sum []byte) string { return "sha256:" + hex.EncodeToString(sum) }

// append appends the entry's canonical line.
func (e *Entry) append(line []byte) []byte {
	line = append(line, `{"path":`...)
	line = appendString(line, e.Path)
	if e.Link != "" {
		line = append(line, `,"link":`...)
		line = appendString(line, e.Link)
		line = append(line, `,"target":`...)
		line = appendString(line, e.Target)
		return append(line, "}\n"...)
	}
	line = fmt.Appendf(line, `,"mode":"%04o","size":`, e.Mode)
	line = strconv.AppendInt(line, e.Size, 10)
	line = append(line, `,"sha256":"`...)
	line = hex.AppendEncode(line, e.Sum[:])
	return append(line, "\"}\n"...)
}

// appendString appends a JSON string. Control characters do not occur here.
func appendString(line []byte, s string) []byte {
	line = append(line, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			line = append(line, '\\')
		}
		line = append(line, s[i])
	}
	return append(line, '"')
}

// ParseManifest reads a manifest and proves it: the bytes must hash to the
// snapshot's id and be canonical, and every path must be one that Inspect could
// have given. An error says which line is not.
func ParseManifest(r io.Reader, id string) (Manifest, error) {
	hash := sha256.New()
	lines := bufio.NewReaderSize(io.TeeReader(io.LimitReader(r, maxManifestBytes), hash), 256<<10)
	first, err := lines.ReadString('\n')
	if err != nil || first != manifestHeader {
		return nil, fmt.Errorf("read manifest of %s: it does not begin with %s", id, strings.TrimSpace(manifestHeader))
	}
	var m Manifest
	var again []byte
	for number := 2; ; number++ {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			break
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read manifest of %s: %w", id, err)
		}
		entry, err := parseEntry(line)
		if err == nil {
			if again = entry.append(again[:0]); !bytes.Equal(line, again) {
				err = errors.New("not in canonical form")
			} else if len(m) > 0 && m[len(m)-1].Path >= entry.Path {
				err = errors.New("not in order")
			}
		}
		if err != nil {
			return nil, fmt.Errorf("read manifest of %s: line %d: %w", id, number, err)
		}
		m = append(m, entry)
	}
	if got := digestString(hash.Sum(nil)); got != id {
		return nil, fmt.Errorf("read manifest of %s: its digest is %s", id, got)
	}
	return m, nil
}

func parseEntry(line []byte) (Entry, error) {
	var wire struct {
		Path, Mode, SHA256, Link, Target string
		Size                             int64
	}
	if err := json.Unmarshal(line, &wire); err != nil {
		return Entry{}, err
	}
	e := Entry{Path: wire.Path, Link: wire.Link, Target: wire.Target, Size: wire.Size}
	if path, _, err := cleanName(wire.Path, false); err != nil || path != wire.Path {
		return Entry{}, fmt.Errorf("path %q is not clean", printable(wire.Path))
	}
	if e.Link != "" {
		if e.Link != LinkSymbolic && e.Link != LinkHard {
			return Entry{}, fmt.Errorf("unknown kind of link %q", printable(e.Link))
		}
		return e, nil
	}
	switch wire.Mode {
	case "0644":
		e.Mode = 0o644
	case "0755":
		e.Mode = 0o755
	default:
		return Entry{}, fmt.Errorf("mode %q is not 0644 or 0755", printable(wire.Mode))
	}
	if e.Size < 0 {
		return Entry{}, errors.New("negative size")
	}
	if n, err := hex.Decode(e.Sum[:], []byte(wire.SHA256)); err != nil || n != len(e.Sum) {
		return Entry{}, errors.New("sha256 is not a digest")
	}
	return e, nil
}

package intake

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == withoutChildMain {
		_, err := Open(testConfig(), os.Args[2], slog.New(slog.DiscardHandler))
		fmt.Println(err)
		return
	}
	ChildMain()
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		helper := helpers[os.Args[1]] // an unknown one panics: it must not run all tests again
		helper(os.Args[2:])
		return
	}
	os.Exit(m.Run())
}

// withoutChildMain makes this binary one that forgot to call ChildMain.
const withoutChildMain = "without-child-main"

// testConfig has the defaults, as far as they do not matter, and small limits
// where an attack has to reach them.
func testConfig() Config {
	return Config{
		MaxSourceBytes: 64 << 20, MaxEntries: 2000, MaxUncompressedBytes: 512 << 20,
		MaxRatio: 200, Timeout: 2 * time.Minute, Slots: 2,
	}
}

func openIntake(t testing.TB, config Config) *Intake {
	t.Helper()
	in, err := Open(config, t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return in
}

// take receives and inspects an archive, and sees that a refusal leaves nothing.
func take(t testing.TB, in *Intake, archive []byte) (*Snapshot, error) {
	t.Helper()
	upload, err := in.Receive(t.Context(), bytes.NewReader(archive), -1)
	if err != nil {
		return nil, err
	}
	defer upload.Close()
	s, err := in.Inspect(t.Context(), upload)
	if err == nil {
		t.Cleanup(func() { s.Close() })
	}
	if left, err := os.ReadDir(in.dir); err != nil || len(left) != 0 {
		t.Errorf("left in the spool folder: %v, %v", left, err)
	}
	return s, err
}

// attacks that are refused, each with its code and the entry that is named.
func refusedAttacks(t *testing.T) map[string]attack {
	const (
		symlink = 0o120777
		char    = 0o020666
		block   = 0o060666
		fifo    = 0o010666
		socket  = 0o140666
	)
	link := func(name, target string) zipPart { return zipPart{name: name, content: []byte(target), mode: symlink} }
	big := bytes.Repeat([]byte{0}, 70<<20)
	seven := "7z\xbc\xaf\x27\x1c\x00\x04"
	many := make([]zipPart, 65_539)
	for i := range many {
		many[i] = zipPart{name: fmt.Sprintf("%05d", i)}
	}
	flood := many[:2001]
	var tarFlood, folderFlood []tarPart
	for i := range 2001 {
		tarFlood = append(tarFlood, tarPart{name: fmt.Sprint(i)})
		folderFlood = append(folderFlood, tarPart{name: "same/", kind: tar.TypeDir})
	}
	var impliedFlood []tarPart
	for i := range 100 {
		impliedFlood = append(impliedFlood, tarPart{name: fmt.Sprintf("%d/%s", i, deep(45))})
	}
	longComment := file("a")
	longComment.comment = strings.Repeat("c", 0xffff)

	return map[string]attack{
		// Names that lead out.
		"zip dot-dot":                 {zipOf(file("ok"), file("../evil")), CodePathEscape, "../evil"},
		"zip dot-dot inside":          {zipOf(file("a/../../evil")), CodePathEscape, "a/../../evil"},
		"zip absolute":                {zipOf(file("/etc/passwd")), CodePathEscape, "/etc/passwd"},
		"zip backslash":               {zipOf(file(`..\evil`)), CodePathEscape, `..\evil`},
		"zip backslash from DOS":      {zipOf(zipPart{name: `a\..\..\evil`, dos: true}), CodePathEscape, `a\..\..\evil`},
		"zip drive letter":            {zipOf(file("C:/evil")), CodePathEscape, "C:/evil"},
		"zip drive letter, backslash": {zipOf(file(`C:\evil`)), CodePathEscape, `C:\evil`},
		"zip network share":           {zipOf(file(`\\host\share`)), CodePathEscape, `\\host\share`},
		"tar dot-dot":                 {tarOf(tarPart{name: "../evil"}), CodePathEscape, "../evil"},
		"tar absolute":                {tarOf(tarPart{name: "/etc/passwd"}), CodePathEscape, "/etc/passwd"},
		"tar folder outside":          {tarOf(tarPart{name: "../", kind: tar.TypeDir}), CodePathEscape, "../"},
		"tar backslash":               {tarOf(tarPart{name: `..\evil`}), CodePathEscape, `..\evil`},
		"tar PAX path override":       {tarOf(tarPart{name: "harmless", pax: map[string]string{"path": "../evil"}}), CodePathEscape, "../evil"},
		"tar global path override":    {tarOf(tarPart{pax: map[string]string{"path": "evil"}, global: true}, tarPart{name: "a"}), CodeInconsistent, ""},
		"tar.gz dot-dot":              {gzipped(tarOf(tarPart{name: "../evil"})), CodePathEscape, "../evil"},
		"tar.zst dot-dot":             {zstandard(t, tarOf(tarPart{name: "../evil"})), CodePathEscape, "../evil"},
		"zip .git does not excuse":    {zipOf(file(".git/../../evil")), CodePathEscape, ".git/../../evil"},

		// Names that deceive.
		"zip NUL":               {zipOf(file("a\x00b")), CodeBadName, `a\x00b`},
		"zip newline":           {zipOf(file("a\nb")), CodeBadName, `a\x0ab`},
		"zip escape sequence":   {zipOf(file("a\x1b[2Jb")), CodeBadName, `a\x1b[2Jb`},
		"zip C1 control":        {zipOf(file("a\u0085b")), CodeBadName, `a\x85b`},
		"zip empty name":        {zipOf(file("")), CodeBadName, ""},
		"zip name of dots":      {zipOf(file("./.")), CodeBadName, "./."},
		"tar control character": {tarOf(tarPart{name: "a\x7fb"}), CodeBadName, `a\x7fb`},
		"tar PAX NUL":           {tarOf(tarPart{name: "x", pax: map[string]string{"path": "a\x00b"}}), CodeCorrupt, ""},
		"zip long name":         {zipOf(file(strings.Repeat("n", 256))), CodeNameTooLong, "nnn"},
		"zip long path":         {zipOf(file(strings.Repeat("name/", 900) + "x")), CodeNameTooLong, "name/"},
		"tar long path":         {tarOf(tarPart{name: "x", pax: map[string]string{"path": strings.Repeat("name/", 900) + "x"}}), CodeNameTooLong, "name/"},
		"zip deep":              {zipOf(file(deep(128))), CodeTooDeep, "d/d/"},
		"tar deep":              {tarOf(tarPart{name: "x", pax: map[string]string{"path": deep(128)}}), CodeTooDeep, "d/d/"},

		// Links and what comes through them.
		"zip symlink then write through it": {zipOf(link("dir", "/tmp"), file("dir/evil")), CodePathConflict, "dir/evil"},
		"zip write first, then symlink":     {zipOf(file("dir/evil"), link("dir", "/tmp")), CodePathConflict, "dir"},
		"zip same-name link then file":      {zipOf(link("a", "/tmp/evil"), file("a")), CodeDuplicate, "a"},
		"tar symlink then write through it": {tarOf(tarPart{name: "dir", kind: tar.TypeSymlink, link: "/tmp"}, tarPart{name: "dir/evil"}), CodePathConflict, "dir/evil"},
		"tar same-name link then file":      {tarOf(tarPart{name: "a", kind: tar.TypeSymlink, link: "/tmp/evil"}, tarPart{name: "./a"}), CodeDuplicate, "./a"},
		"tar hard link then file":           {tarOf(tarPart{name: "a", kind: tar.TypeLink, link: "/etc/passwd"}, tarPart{name: "a"}), CodeDuplicate, "a"},
		"tar hard link then below":          {tarOf(tarPart{name: "a", kind: tar.TypeLink, link: "b"}, tarPart{name: "a/b"}), CodePathConflict, "a/b"},
		"zip huge link target":              {zipOf(zipPart{name: "link", content: big, deflate: true, mode: symlink}), CodeLinkTooLong, "link"},
		"tar huge link target":              {tarOf(tarPart{name: "link", kind: tar.TypeSymlink, pax: map[string]string{"linkpath": strings.Repeat("x", 5000)}}), CodeLinkTooLong, "link"},

		// Things that are no files.
		"zip character device": {zipOf(zipPart{name: "null", mode: char}), CodeSpecialFile, "null"},
		"zip block device":     {zipOf(zipPart{name: "sda", mode: block}), CodeSpecialFile, "sda"},
		"zip FIFO":             {zipOf(zipPart{name: "fifo", mode: fifo}), CodeSpecialFile, "fifo"},
		"zip FIFO from DOS":    {zipOf(zipPart{name: "fifo", mode: fifo, dos: true}), CodeSpecialFile, "fifo"},
		"zip socket":           {zipOf(zipPart{name: "socket", mode: socket}), CodeSpecialFile, "socket"},
		"tar character device": {tarOf(tarPart{name: "null", kind: tar.TypeChar}), CodeSpecialFile, "null"},
		"tar block device":     {tarOf(tarPart{name: "sda", kind: tar.TypeBlock}), CodeSpecialFile, "sda"},
		"tar FIFO":             {tarOf(tarPart{name: "fifo", kind: tar.TypeFifo}), CodeSpecialFile, "fifo"},
		"tar multi-volume":     {tarOf(tarPart{name: "part", kind: 'M'}), CodeSpecialFile, "part"},
		"tar unknown type":     {tarOf(tarPart{name: "what", kind: 'Q'}), CodeSpecialFile, "what"},
		"tar GNU sparse":       {tarOf(tarPart{name: "holes", kind: tar.TypeGNUSparse, content: []byte("xyz")}), CodeSparse, "holes"},
		"tar PAX sparse 0.1":   {tarOf(tarPart{name: "holes", pax: map[string]string{"GNU.sparse.map": "0,0", "GNU.sparse.numblocks": "1", "GNU.sparse.size": "99999999999"}}), "", ""},
		"tar PAX sparse 1.0": {tarOf(tarPart{name: "holes", content: pad512("1\n1099511627776\n0\n"),
			pax: map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1099511627776"}}), CodeSparse, "holes"},
		"tar star sparse": {tarOf(tarPart{name: "holes", pax: map[string]string{"SCHILY.realsize": "99999"}}), CodeSparse, "holes"},

		// One path, several entries.
		"zip duplicate":         {zipOf(file("a"), file("b"), file("a")), CodeDuplicate, "a"},
		"zip duplicate dot":     {zipOf(file("a/b"), file("a/./b")), CodeDuplicate, "a/./b"},
		"zip duplicate slashes": {zipOf(file("a/b"), file("a//b")), CodeDuplicate, "a//b"},
		"tar duplicate":         {tarOf(tarPart{name: "a"}, tarPart{name: "a"}), CodeDuplicate, "a"},
		"zip file as folder":    {zipOf(file("a"), file("a/b")), CodePathConflict, "a/b"},
		"zip folder as file":    {zipOf(file("a/"), file("a")), "", "a"},
		"tar file as folder":    {tarOf(tarPart{name: "a"}, tarPart{name: "a/", kind: tar.TypeDir}), CodePathConflict, "a/"},

		// Bombs.
		"zip full overlap":           {overlapping(1000), CodeOverlap, ""},
		"zip quoted overlap":         {quoted(250), CodeOverlap, "0001"},
		"zip ratio":                  {zipOf(zipPart{name: "zeros", content: big, deflate: true}), CodeBombRatio, ""},
		"tar.gz ratio":               {gzipped(tarOf(tarPart{name: "zeros", content: big})), CodeBombRatio, ""},
		"tar.zst ratio":              {zstandard(t, tarOf(tarPart{name: "zeros", content: big})), CodeBombRatio, ""},
		"tar.gz of padding":          {gzipped(tarOf(tarPart{name: "a"}), big), CodeBombRatio, ""},
		"tar.zst of endless headers": {zstandard(t, bytes.Repeat(tarBlocks("x", 'x', "", 0o644, 0, nil), 150_000)), CodeBombRatio, ""},
		"zip declares too much": {zipOf(zipPart{name: "a", content: big[:4<<20], size: new(uint32(600 << 20)), method: new(uint16(methodDeflate))}),
			CodeTooLargeUncompressed, "a"},
		"zip sums too much": {zipOf(slices.Repeat([]zipPart{{name: "a", content: big[:1<<20], size: new(uint32(300 << 20)), method: new(uint16(methodDeflate))}}, 2)...),
			CodeTooLargeUncompressed, "a"},
		"tar declares too much":      {tarOf(tarPart{name: "a", size: new(int64(600 << 20))}), CodeTooLargeUncompressed, "a"},
		"tar declares an absurd sum": {tarOf(tarPart{name: "a"}, tarPart{name: "b", pax: map[string]string{"size": "9223372036854775807"}}), CodeTooLargeUncompressed, "b"},
		"zip entry flood":            {zipOf(flood...), CodeTooManyEntries, ""},
		"tar entry flood":            {tarOf(tarFlood...), CodeTooManyEntries, "2000"},
		"tar folder flood":           {gzipped(tarOf(folderFlood...)), CodeTooManyEntries, "same/"},
		"tar implied folders":        {tarOf(impliedFlood...), CodeTooManyEntries, ""},
		"zip comment flood":          {zipOf(slices.Repeat([]zipPart{longComment}, 300)...), CodeOverlapOrDuplicate, ""},

		// Lies.
		"zip count mod 65536":              {rawZip{parts: many, count: new(uint16(3))}.bytes(), CodeInconsistent, ""},
		"zip count mod 65536 and zip64":    {rawZip{parts: many[:3], zip64: true, count64: new(uint64(65_539))}.bytes(), "", ""},
		"zip count too large":              {rawZip{parts: many[:3], count: new(uint16(4))}.bytes(), CodeInconsistent, ""},
		"zip64 and plain count differ":     {rawZip{parts: many[:3], zip64: true, count: new(uint16(2))}.bytes(), CodeInconsistent, ""},
		"zip local name differs":           {zipOf(zipPart{name: "shown", localName: new("other")}), CodeInconsistent, "shown"},
		"zip local name differs in length": {zipOf(zipPart{name: "shown", localName: new("shown.exe")}), CodeInconsistent, "shown"},
		"zip local method differs":         {zipOf(zipPart{name: "a", content: []byte("x"), localMethod: new(uint16(8))}), CodeInconsistent, "a"},
		"zip local flags differ":           {zipOf(zipPart{name: "a", content: []byte("x"), localFlags: new(uint16(flagDescriptor))}), CodeInconsistent, "a"},
		"zip local encrypted flag only":    {zipOf(zipPart{name: "a", content: []byte("x"), localFlags: new(uint16(1))}), CodeInconsistent, "a"},
		"zip local size differs":           {zipOf(zipPart{name: "a", content: []byte("xyz"), deflate: true, localSize: new(uint32(2))}), CodeInconsistent, "a"},
		"zip local packed size differs":    {zipOf(zipPart{name: "a", content: []byte("xyz"), deflate: true, localPacked: new(uint32(2))}), CodeInconsistent, "a"},
		"zip local checksum differs":       {zipOf(zipPart{name: "a", content: []byte("xyz"), localCRC: new(uint32(2))}), CodeInconsistent, "a"},
		"zip checksum wrong":               {zipOf(zipPart{name: "a", content: []byte("xyz"), crc: new(uint32(2))}), CodeCorrupt, "a"},
		"zip size too small":               {zipOf(zipPart{name: "a", content: []byte("xyz"), deflate: true, size: new(uint32(2))}), CodeInconsistent, "a"},
		"zip size too large":               {zipOf(zipPart{name: "a", content: []byte("xyz"), deflate: true, size: new(uint32(4))}), CodeInconsistent, "a"},
		"zip size impossible":              {zipOf(zipPart{name: "a", content: []byte("xyz"), deflate: true, size: new(uint32(1 << 20))}), CodeInconsistent, "a"},
		"zip stored with two sizes":        {zipOf(zipPart{name: "a", content: []byte("xyz"), size: new(uint32(2))}), CodeInconsistent, "a"},
		"zip data after deflate stream":    {zipOf(zipPart{name: "a", content: []byte("xyz"), packed: append(deflated([]byte("xyz")), "hidden"...), method: new(uint16(methodDeflate))}), CodeInconsistent, "a"},
		"zip data in a folder":             {zipOf(zipPart{name: "dir/", content: []byte("xyz")}), CodeInconsistent, "dir/"},
		"zip deflate damaged":              {zipOf(zipPart{name: "a", content: []byte("xyz"), packed: []byte{0xff, 0xff, 0xff}, method: new(uint16(methodDeflate))}), CodeCorrupt, "a"},
		"zip descriptor differs":           {zipOf(zipPart{name: "a", content: []byte("xyz"), descriptor: 16, badDescriptor: true}), CodeInconsistent, "a"},
		"zip unsigned descriptor differs":  {zipOf(zipPart{name: "a", content: []byte("xyz"), descriptor: 12, badDescriptor: true}, file("b")), CodeInconsistent, "a"},
		"zip64 descriptor differs":         {zipOf(zipPart{name: "a", content: []byte("xyz"), descriptor: 24, badDescriptor: true}), CodeInconsistent, "a"},
		"zip64 field missing":              {zipOf(zipPart{name: "a", content: []byte("xyz"), size: new(uint32(0xffffffff)), method: new(uint16(methodDeflate))}), CodeInconsistent, "a"},
		"zip64 field cut off": {zipOf(zipPart{name: "a", content: []byte("xyz"), size: new(uint32(0xffffffff)), method: new(uint16(methodDeflate)),
			extra: slices.Concat(le16(1), le16(8), []byte("four"))}), CodeInconsistent, "a"},
		"zip64 field twice": {zipOf(zipPart{name: "a", content: []byte("xyz"),
			extra: slices.Concat(le16(1), le16(8), le64(3), le16(1), le16(8), le64(9))}), CodeInconsistent, "a"},
		"zip64 size lies": {zipOf(zipPart{name: "a", content: []byte("xyz"), size: new(uint32(0xffffffff)), deflate: true,
			extra: slices.Concat(le16(1), le16(8), le64(1<<63-1))}), CodeInconsistent, "a"},
		"zip64 local and central differ": {zipOf(zipPart{name: "a", content: []byte("xyz"), localSize: new(uint32(0xffffffff)), localPacked: new(uint32(0xffffffff)),
			localExtra: slices.Concat(le16(1), le16(16), le64(9), le64(9))}), CodeInconsistent, "a"},
		"zip header outside":        {zipOf(zipPart{name: "a", header: new(uint32(0xfffffff0))}), CodeInconsistent, "a"},
		"zip header elsewhere":      {zipOf(file("a"), zipPart{name: "b", content: make([]byte, 100), header: new(uint32(60))}), CodeInconsistent, "b"},
		"zip directory outside":     {rawZip{parts: []zipPart{file("a")}, offset: new(uint32(0xfffffff0))}.bytes(), CodeInconsistent, ""},
		"zip directory too early":   {rawZip{parts: []zipPart{file("a")}, offset: new(uint32(0))}.bytes(), CodePrefixData, ""},
		"zip of several disks":      {patch(zipOf(file("a")), -lenEnd+4, 1, 0), CodeUnsupported, ""},
		"zip two ends":              {twoEnds(), CodeInconsistent, ""},
		"zip prefix data":           {rawZip{parts: []zipPart{file("a")}, prefix: []byte("#!/bin/sh\n")}.bytes(), CodePrefixData, ""},
		"zip prefix zip":            {rawZip{parts: []zipPart{file("a")}, prefix: zipOf(file("hidden"))}.bytes(), CodePrefixData, ""},
		"zip counted prefix":        {countedPrefix(), CodePrefixData, ""},
		"zip trailing data":         {rawZip{parts: []zipPart{file("a")}, trailing: []byte("more")}.bytes(), CodeTrailingData, ""},
		"zip data after directory":  {rawZip{parts: []zipPart{file("a")}, zip64: true, comment: "c"}.withGapAfterDirectory(), CodePrefixData, ""},
		"zip encrypted":             {zipOf(zipPart{name: "a", content: []byte("xyz"), flags: 1}), CodeEncrypted, "a"},
		"zip strongly encrypted":    {zipOf(zipPart{name: "a", content: []byte("xyz"), flags: 1<<6 | 1}), CodeEncrypted, "a"},
		"zip deflate64":             {zipOf(zipPart{name: "a", content: []byte("xyz"), method: new(uint16(9))}), CodeUnsupportedMethod, "a"},
		"zip xz method":             {zipOf(zipPart{name: "a", content: []byte("xyz"), method: new(uint16(95))}), CodeUnsupportedMethod, "a"},
		"zip empty":                 {zipOf(), CodeEmpty, ""},
		"zip of folders":            {zipOf(zipPart{name: "a/"}), CodeEmpty, ""},
		"zip of .git only":          {zipOf(file(".git/config")), CodeEmpty, ""},
		"tar empty":                 {make([]byte, 10240), CodeEmpty, ""},
		"tar data after end":        {append(tarOf(tarPart{name: "a"}), tarOf(tarPart{name: "hidden"})...), CodeTrailingData, ""},
		"tar data after padded end": {append(append(tarOf(tarPart{name: "a"}), make([]byte, 100_000)...), 'x'), CodeTrailingData, ""},
		"tar without end":           {tarWithoutEnd(tarPart{name: "a", content: []byte("x")}), CodeTruncated, ""},
		"tar bad checksum":          {append(tarWithoutEnd(tarPart{name: "a"}), patch(tarOf(tarPart{name: "b"}), 0, 'c')...), CodeCorrupt, "a"},
		"tar hard link with data":   {tarOf(tarPart{name: "t"}, tarPart{name: "a", kind: tar.TypeLink, link: "t", content: []byte("hidden")}), CodeCorrupt, "a"},
		"tar.gz second member":      {gzipped(tarOf(tarPart{name: "a"}), tarOf(tarPart{name: "hidden"})), CodeTrailingData, ""},
		"tar.gz trailing data":      {append(gzipped(tarOf(tarPart{name: "a"})), "more than a header is"...), CodeTrailingData, ""},
		"tar.gz bad checksum":       {patch(gzipped(tarOf(tarPart{name: "a", content: []byte("xyz")})), -8, 1, 2, 3), CodeCorrupt, ""},
		"tar.zst second frame":      {append(zstandard(t, tarOf(tarPart{name: "a"})), zstandard(t, tarOf(tarPart{name: "hidden"}))...), CodeTrailingData, ""},
		"tar.zst trailing data":     {append(zstandard(t, tarOf(tarPart{name: "a"})), "more"...), "", ""},
		"tar.zst window":            {zstandard(t, tarOf(tarPart{name: "a", content: big}), zstd.WithWindowSize(64<<20)), CodeWindowTooLarge, ""},

		// Other formats.
		"empty upload":  {nil, CodeEmpty, ""},
		"text":          {[]byte("hello, world"), CodeUnsupported, ""},
		"7z":            {[]byte(seven), CodeUnsupported, ""},
		"rar":           {[]byte("Rar!\x1a\x07\x01\x00"), CodeUnsupported, ""},
		"xz":            {[]byte("\xfd7zXZ\x00\x00\x04"), CodeUnsupported, ""},
		"bzip2":         {[]byte("BZh91AY&SY"), CodeUnsupported, ""},
		"gzip of text":  {gzipped(bytes.Repeat([]byte("text "), 1000)), CodeUnsupported, ""},
		"gzip of gzip":  {gzipped(gzipped(tarOf(tarPart{name: "a"}))), "", ""},
		"zstd of a zip": {zstandard(t, zipOf(zipPart{name: "a", content: make([]byte, 2000)})), CodeUnsupported, ""},
	}
}

type attack struct {
	archive []byte
	code    string // "" for any
	entry   string // a prefix of what is named
}

// CodeOverlapOrDuplicate stands for attacks that several checks catch.
const CodeOverlapOrDuplicate = ""

func TestAttacksAreRefused(t *testing.T) {
	t.Parallel()
	in := openIntake(t, testConfig())
	for name, attack := range refusedAttacks(t) {
		t.Run(name, func(t *testing.T) {
			s, err := take(t, in, attack.archive)
			r, ok := errors.AsType[*Refusal](err)
			if !ok {
				t.Fatalf("Inspect = %+v, %v; want a refusal with %s", s, err, attack.code)
			}
			if attack.code != "" && r.Code != attack.code {
				t.Errorf("refused with %v, want code %s", r, attack.code)
			}
			if !strings.HasPrefix(r.Entry, attack.entry) {
				t.Errorf("refusal names entry %q, want %q", r.Entry, attack.entry)
			}
			if r.Message == "" || r.Code == CodeResourceLimit {
				t.Errorf("refused with %#v", r)
			}
			if r.Limit != "" && (r.LimitValue <= 0 || r.Value <= r.LimitValue && r.Code != CodeBombRatio) {
				t.Errorf("refusal names limit %s = %d and value %d", r.Limit, r.LimitValue, r.Value)
			}
			if got, want := r.Status(), 422; got != want {
				t.Errorf("Status() = %d, want %d", got, want)
			}
		})
	}
}

func TestAnUploadBeyondTheLimitIsRefused(t *testing.T) {
	t.Parallel()
	config := testConfig()
	config.MaxSourceBytes = 1000
	in := openIntake(t, config)
	for name, test := range map[string]struct {
		body     int
		declared int64
		value    int64
	}{
		"declared":           {0, 5000, 5000},
		"undeclared":         {2000, -1, 1001},
		"declared too small": {2000, 10, 1001},
	} {
		upload, err := in.Receive(t.Context(), bytes.NewReader(make([]byte, test.body)), test.declared)
		r, ok := errors.AsType[*Refusal](err)
		if !ok {
			t.Fatalf("%s: Receive = %v, %v; want a refusal", name, upload, err)
		}
		if r.Code != CodeSourceTooLarge || r.Limit != "VEGA_MAX_SOURCE_BYTES" || r.LimitValue != 1000 || r.Value != test.value || r.Status() != 413 {
			t.Errorf("%s: refused with %+v", name, r)
		}
	}
	upload, err := in.Receive(t.Context(), bytes.NewReader(make([]byte, 1000)), -1)
	if err != nil {
		t.Fatalf("Receive of exactly the limit: %v", err)
	}
	upload.Close()
	if left, _ := os.ReadDir(in.dir); len(left) != 0 {
		t.Errorf("left in the spool folder: %v", left)
	}
}

// attacks that are neutralised: taken in, harmless, with a warning at the entry.
func TestAttacksAreNeutralised(t *testing.T) {
	t.Parallel()
	const symlink = 0o120777
	in := openIntake(t, testConfig())
	for name, test := range map[string]struct {
		archive []byte
		warning Warning
		entry   *Entry // what the manifest has at the path, nil for nothing
	}{
		"zip setuid": {
			zipOf(zipPart{name: "sudo", mode: 0o104755}),
			Warning{"sudo", WarnSpecialMode}, &Entry{Mode: 0o755},
		},
		"tar setuid": {
			tarOf(tarPart{name: "sudo", mode: 0o4755}),
			Warning{"sudo", WarnSpecialMode}, &Entry{Mode: 0o755},
		},
		"tar setgid": {
			tarOf(tarPart{name: "sudo", mode: 0o2644}),
			Warning{"sudo", WarnSpecialMode}, &Entry{Mode: 0o644},
		},
		"zip link out": {
			zipOf(file("a"), zipPart{name: "link", content: []byte("/etc/passwd"), mode: symlink}),
			Warning{"link", WarnLinkOutside}, &Entry{Link: LinkSymbolic, Target: "/etc/passwd"},
		},
		"zip link out by dot-dot": {
			zipOf(file("a"), zipPart{name: "d/link", content: []byte("../../x"), mode: symlink}),
			Warning{"d/link", WarnLinkOutside}, &Entry{Link: LinkSymbolic, Target: "../../x"},
		},
		"zip link out from DOS": {
			zipOf(file("a"), zipPart{name: "link", content: []byte("/etc/passwd"), mode: symlink, dos: true}),
			Warning{"link", WarnLinkOutside}, &Entry{Link: LinkSymbolic, Target: "/etc/passwd"},
		},
		"zip link inside": {
			zipOf(file("a"), zipPart{name: "d/link", content: []byte("../a"), mode: symlink}),
			Warning{"d/link", WarnLink}, &Entry{Link: LinkSymbolic, Target: "../a"},
		},
		"zip link with control characters": {
			zipOf(file("a"), zipPart{name: "link", content: []byte("x\ny\xff"), mode: symlink}),
			Warning{"link", WarnLink}, &Entry{Link: LinkSymbolic, Target: `x\x0ay%FF`},
		},
		"tar link out": {
			tarOf(tarPart{name: "a"}, tarPart{name: "link", kind: tar.TypeSymlink, link: "/dev/null"}),
			Warning{"link", WarnLinkOutside}, &Entry{Link: LinkSymbolic, Target: "/dev/null"},
		},
		"tar hard link": {
			tarOf(tarPart{name: "d/a"}, tarPart{name: "d/link", kind: tar.TypeLink, link: "d/a"}),
			Warning{"d/link", WarnLink}, &Entry{Link: LinkHard, Target: "d/a"},
		},
		"tar hard link out": {
			tarOf(tarPart{name: "a"}, tarPart{name: "link", kind: tar.TypeLink, link: "../../etc/shadow"}),
			Warning{"link", WarnLinkOutside}, &Entry{Link: LinkHard, Target: "../../etc/shadow"},
		},
		"zip .git": {
			zipOf(file("a"), file(".git/config"), file(".git/hooks/post-checkout")),
			Warning{".git", WarnGitStripped}, nil,
		},
		"zip .git of a submodule": {
			zipOf(file("a"), file("sub/.GIT")),
			Warning{"sub/.GIT", WarnGitStripped}, nil,
		},
		"tar .git": {
			tarOf(tarPart{name: "a"}, tarPart{name: "./.git/", kind: tar.TypeDir}, tarPart{name: "./.git/config", content: []byte("x")}),
			Warning{".git", WarnGitStripped}, nil,
		},
		"zip agent configuration":        {zipOf(file("sub/AGENTS.md")), Warning{"sub/AGENTS.md", WarnAgentConfig}, &Entry{Mode: 0o644}},
		"zip agent configuration folder": {zipOf(file(".codex/config.toml")), Warning{".codex/config.toml", WarnAgentConfig}, &Entry{Mode: 0o644}},
		"zip case collision":             {zipOf(file("src/xt_DSCP.h"), file("src/xt_dscp.h")), Warning{"src/xt_dscp.h", WarnNameCollision}, &Entry{Mode: 0o644}},
		"zip folder case collision":      {zipOf(file("Src/a"), file("src/b")), Warning{"src", WarnNameCollision}, nil},
		"zip Unicode collision":          {zipOf(file("caf\u00e9"), file("cafe\u0301")), Warning{"cafe\u0301", WarnNameCollision}, &Entry{Mode: 0o644}},
		"zip Windows device":             {zipOf(file("drivers/aux.c")), Warning{"drivers/aux.c", WarnWindowsName}, &Entry{Mode: 0o644}},
		"zip Windows stream":             {zipOf(file("a:b")), Warning{"a:b", WarnWindowsName}, &Entry{Mode: 0o644}},
		"zip Windows trailing dot":       {zipOf(file("a./b")), Warning{"a./b", WarnWindowsName}, &Entry{Mode: 0o644}},
		"zip Unix backslash":             {zipOf(file(`dev\x2dlabel.swap`)), Warning{`dev\x2dlabel.swap`, WarnWindowsName}, &Entry{Mode: 0o644}},
		"zip bidi":                       {zipOf(file("gpj\u202egnp.exe")), Warning{`gpj\u202egnp.exe`, WarnBidiName}, nil},
		"zip not UTF-8":                  {zipOf(file("caf\xe9")), Warning{"caf%E9", WarnNotUTF8}, &Entry{Mode: 0o644}},
		"tar not UTF-8":                  {tarOf(tarPart{name: "caf\xe9"}), Warning{"caf%E9", WarnNotUTF8}, &Entry{Mode: 0o644}},
		"zip unlisted data":              {rawZip{parts: []zipPart{file("a")}, gap: []byte("hidden")}.bytes(), Warning{"", WarnUnlistedData}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := take(t, in, test.archive)
			if err != nil {
				t.Fatalf("Inspect: %v", err)
			}
			if !slices.Contains(s.Warnings, test.warning) {
				t.Errorf("warnings %v, want %v among them", s.Warnings, test.warning)
			}
			m := manifestOf(t, s)
			i := slices.IndexFunc(m, func(e Entry) bool { return e.Path == test.warning.Path })
			if test.entry == nil {
				if i >= 0 {
					t.Errorf("manifest has %+v, want nothing at that path", m[i])
				}
				return
			}
			if i < 0 {
				t.Fatalf("manifest has nothing at %s: %+v", test.warning.Path, m)
			}
			if got := m[i]; got.Mode != test.entry.Mode || got.Link != test.entry.Link || got.Target != test.entry.Target {
				t.Errorf("manifest has %+v, want %+v", got, test.entry)
			}
			dir := t.TempDir() + "/tree"
			if _, err := Checkout(t.Context(), s.ID, s.Manifest(), s.Pack(), dir); err != nil {
				t.Fatalf("Checkout: %v", err)
			}
			info, err := os.Lstat(dir + "/" + test.warning.Path)
			if test.entry.Link != "" {
				if err == nil {
					t.Errorf("a link was created: %v", info)
				}
				return
			}
			if err != nil || info.Mode() != 0o644 {
				t.Errorf("checked out as %v, %v; want -rw-r--r--", info, err)
			}
		})
	}
}

// What looks like an attack and is ordinary.
func TestModeZeroAndNestedArchivesAreFiles(t *testing.T) {
	t.Parallel()
	in := openIntake(t, testConfig())
	nested := zipOf(file("../evil"))
	for name, archive := range map[string][]byte{
		"zip": zipOf(zipPart{name: "nested.zip", content: nested}, zipPart{name: "locked", mode: 0o100000}, zipPart{name: "x.7z", content: []byte("7z\xbc\xaf\x27\x1c")}),
		"tar": tarOf(tarPart{name: "nested.zip", content: nested}, tarPart{name: "locked", mode: 0o000001 - 1}, tarPart{name: "x.7z", content: []byte("7z\xbc\xaf\x27\x1c")}),
	} {
		s, err := take(t, in, archive)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(s.Warnings) != 0 || s.Files != 3 {
			t.Errorf("%s: %d files, warnings %v; want 3 and none", name, s.Files, s.Warnings)
		}
		for _, e := range manifestOf(t, s) {
			if e.Mode != 0o644 {
				t.Errorf("%s: %+v, want mode 0644", name, e)
			}
		}
	}
}

func TestWarningsAreBounded(t *testing.T) {
	t.Parallel()
	var parts []zipPart
	for i := range 500 {
		parts = append(parts, file(fmt.Sprintf("%d/aux.c", i)), file(fmt.Sprintf("%d/Agents.md", i)))
	}
	s, err := take(t, openIntake(t, testConfig()), zipOf(parts...))
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Warnings) != 2*maxWarningsPerCode+1 || s.Warnings[len(s.Warnings)-1].Code != WarnMore {
		t.Errorf("%d warnings, the last %v; want %d of each code and %s", len(s.Warnings), s.Warnings[len(s.Warnings)-1], maxWarningsPerCode, WarnMore)
	}
}

// TestEveryTruncationIsRefused cuts archives at every byte.
func TestEveryTruncationIsRefused(t *testing.T) {
	t.Parallel()
	tarball := tarOf(tarPart{name: "a", content: []byte("some content")}, tarPart{name: "b", content: []byte("more")})
	for name, archive := range map[string][]byte{
		"zip":     zipOf(file("a"), zipPart{name: "b", content: []byte("more"), deflate: true, descriptor: 16}),
		"zip64":   rawZip{parts: []zipPart{file("a"), file("b")}, zip64: true}.bytes(),
		"tar":     tarball,
		"tar.gz":  gzipped(tarball),
		"tar.zst": zstandard(t, tarball),
	} {
		l := testConfig().limits()
		for n := range len(archive) {
			if name == "tar" && n >= len(archive)-512 {
				break // with one of its two empty blocks it is still whole
			}
			if r, err := inspect(bytes.NewReader(archive[:n]), int64(n), l, discard{}, discard{}); err == nil {
				t.Errorf("%s cut to %d of %d bytes was taken in: %+v", name, n, len(archive), r)
			}
		}
		if _, err := inspect(bytes.NewReader(archive), int64(len(archive)), l, discard{}, discard{}); err != nil {
			t.Errorf("%s whole: %v", name, err)
		}
	}
}

// TestChecksAreNotQuadratic gives the checks as much to compare as the limits
// allow. It has no stop-watch: a quadratic check would run into the test's
// time limit.
func TestChecksAreNotQuadratic(t *testing.T) {
	t.Parallel()
	l := Config{MaxEntries: 50_000, MaxUncompressedBytes: 1 << 30, MaxRatio: 1 << 30}.limits()
	parts := make([]zipPart, 50_000)
	for i := range parts {
		// Long common prefixes, case variants, deep folders.
		parts[i].name = fmt.Sprintf("%s%06d/%s", strings.Repeat("Common/", 20), i/2, [2]string{"File", "file"}[i%2])
	}
	archive := rawZip{parts: parts, zip64: true}.bytes()
	r, err := inspect(bytes.NewReader(archive), int64(len(archive)), l, discard{}, discard{})
	if err != nil || r.Files != len(parts) {
		t.Errorf("inspect = %d files, %v; want %d", r.Files, err, len(parts))
	}
}

func TestAConfigurationWithoutALimitIsRejected(t *testing.T) {
	t.Parallel()
	config := testConfig()
	config.MaxRatio = 0
	if _, err := Open(config, t.TempDir(), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "MaxRatio") {
		t.Errorf("Open = %v, want an error that names MaxRatio", err)
	}
}

func TestACancelledUploadLeavesNothing(t *testing.T) {
	t.Parallel()
	in := openIntake(t, testConfig())
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the client went away")
	body := readerFunc(func(p []byte) (int, error) {
		cancel(gone)
		return len(p), nil
	})
	if _, err := in.Receive(ctx, body, -1); !errors.Is(err, gone) {
		t.Errorf("Receive = %v, want %v", err, gone)
	}
	if left, _ := os.ReadDir(in.dir); len(left) != 0 {
		t.Errorf("left in the spool folder: %v", left)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func manifestOf(t testing.TB, s *Snapshot) Manifest {
	t.Helper()
	m, err := ParseManifest(s.Manifest(), s.ID)
	if err != nil {
		t.Fatalf("ParseManifest: %v", err)
	}
	return m
}

// patch overwrites bytes at offset, counted from the end when negative.
func patch(archive []byte, offset int, b ...byte) []byte {
	archive = bytes.Clone(archive)
	if offset < 0 {
		offset += len(archive)
	}
	copy(archive[offset:], b)
	return archive
}

func pad512(s string) []byte { return append([]byte(s), make([]byte, -len(s)&511)...) }

// twoEnds is a zip whose comment is a second end record that fits as well.
func twoEnds() []byte {
	second := zipOf()
	return rawZip{parts: []zipPart{file("a")}, comment: string(second)}.bytes()
}

// countedPrefix is a zip that says itself that it does not begin at the beginning.
func countedPrefix() []byte {
	prefix := bytes.Repeat([]byte("PK\x03\x04"), 10)
	inner := file("a")
	inner.header = new(uint32(len(prefix)))
	plain := rawZip{parts: []zipPart{inner}}
	offset := uint32(len(prefix) + lenLocal + len(inner.name) + len(inner.content))
	plain.offset = &offset
	return append(prefix, plain.bytes()...)
}

// withGapAfterDirectory puts bytes between the directory and the zip64 record.
func (z rawZip) withGapAfterDirectory() []byte {
	b := z.bytes()
	at := bytes.LastIndex(b, le32(sigEnd64))
	b = slices.Insert(b, at, []byte("hidden")...)
	locator := bytes.LastIndex(b, le32(sigLocator64))
	copy(b[locator+8:], le64(uint64(at+6)))
	return b
}

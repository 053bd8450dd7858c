package intake

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-git/go-git/v5/plumbing/format/index"
	"github.com/klauspost/compress/zstd"
)

// PackOptions says how [PackDir] packs.
type PackOptions struct {
	// Exclude lists absolute folders that are not packed, wherever they lie:
	// the data folder, when it is in the tree that is scanned.
	Exclude []string

	// Compress makes a tar.zst instead of a tar. It pays where the archive goes
	// over a network, or is near the limit of an upload's size.
	Compress bool

	// Progress, if set, is called after every file with what was packed so far.
	Progress func(files int, bytes int64)
}

// Packed says what [PackDir] has packed.
type Packed struct {
	Files    int
	Links    int
	Bytes    int64     // of all files
	Ignored  int       // files and folders left out because a .gitignore says so; what is in the folders is not counted
	Warnings []Warning // what was left out or odd, at most maxWarnings
}

// PackDir writes the folder dir to w as an archive that [Intake.Inspect] takes
// in: the same tree always gives the same bytes. It leaves out .git, the
// excluded folders, and what git would leave out: what .gitignore files say in
// the tree, in the folders above it up to the top of its git repository, and in
// .git/info/exclude. Files that git tracks are packed even if they are ignored,
// because they are in the repository. Outside a repository .gitignore files
// count all the same. Links are recorded, not followed. What cannot be read, or
// is no file, is left out with a warning. An error is that of w, of the context, or of
// reading dir itself.
func PackDir(ctx context.Context, dir string, w io.Writer, options PackOptions) (Packed, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Packed{}, fmt.Errorf("pack %s: %w", dir, err)
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return Packed{}, fmt.Errorf("pack %s: %w", dir, err)
	}
	defer root.Close()
	p := &dirPacker{ctx: ctx, root: root, options: options, buf: make([]byte, 256<<10)}
	for _, folder := range options.Exclude {
		info, err := os.Stat(folder)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Packed{}, fmt.Errorf("pack %s: excluded folder: %w", dir, err)
		}
		if top, err := root.Stat("."); err == nil && os.SameFile(top, info) {
			return Packed{}, fmt.Errorf("pack %s: this folder is excluded", dir)
		}
		p.excluded = append(p.excluded, info)
	}

	var z *zstd.Encoder
	if options.Compress {
		if z, err = zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2)); err != nil {
			return Packed{}, err
		}
		defer z.Reset(nil)
		w = z
	}
	p.tar = tar.NewWriter(w)
	err = p.folder(".", repositoryAround(abs))
	if err == nil {
		err = p.tar.Close()
	}
	if err == nil && z != nil {
		err = z.Close()
	}
	if err != nil {
		return Packed{}, fmt.Errorf("pack %s: %w", dir, err)
	}
	p.packed.Warnings = p.warnings.all()
	return p.packed, nil
}

type dirPacker struct {
	ctx      context.Context
	root     *os.Root
	options  PackOptions
	excluded []fs.FileInfo
	tar      *tar.Writer
	buf      []byte
	packed   Packed
	warnings warnings
}

// folder packs what is in the folder, which git is about to tell about.
func (p *dirPacker) folder(dir string, git gitView) error {
	if err := p.ctx.Err(); err != nil {
		return context.Cause(p.ctx)
	}
	entries, err := p.readDir(dir)
	if err != nil {
		if dir == "." {
			return err
		}
		p.warnings.add(dir, WarnUnreadable)
		return nil
	}
	if dir != "." && slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == ".git" }) {
		git = repository(filepath.Join(p.root.Name(), dir)) // a submodule, or a clone inside the tree
	}
	if i := slices.IndexFunc(entries, func(e fs.DirEntry) bool { return e.Name() == ".gitignore" }); i >= 0 && entries[i].Type().IsRegular() {
		rules, err := p.readIgnore(path.Join(dir, ".gitignore"))
		if err != nil {
			p.warnings.add(path.Join(dir, ".gitignore"), WarnUnreadable)
		}
		git = git.with(rules)
	}
	for _, e := range entries {
		if e.Name() == ".git" {
			continue
		}
		if err := p.entry(path.Join(dir, e.Name()), e, git); err != nil {
			return err
		}
	}
	return nil
}

func (p *dirPacker) readDir(dir string) ([]fs.DirEntry, error) {
	f, err := p.root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return entries, err
}

func (p *dirPacker) readIgnore(name string) (ignoreFile, error) {
	f, err := p.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseIgnore(f)
}

func (p *dirPacker) entry(name string, e fs.DirEntry, git gitView) error {
	info, err := e.Info()
	if err != nil {
		p.warnings.add(name, WarnUnreadable)
		return nil
	}
	if info.IsDir() && slices.ContainsFunc(p.excluded, func(x fs.FileInfo) bool { return os.SameFile(x, info) }) {
		return nil
	}
	ignored := git.ignores(e.Name(), info.IsDir())
	if info.IsDir() {
		inner := git.enter(e.Name())
		if ignored && !inner.tracksBelow() {
			p.packed.Ignored++
			return nil
		}
		inner.trackedOnly = ignored // then something in it is tracked
		return p.folder(name, inner)
	}
	if ignored {
		p.packed.Ignored++
		return nil
	}
	if _, _, err := cleanName(name, false); err != nil {
		p.warnings.add(name, WarnBadName)
		return nil
	}
	switch info.Mode().Type() {
	case fs.ModeSymlink:
		return p.link(name)
	case 0:
		return p.file(name)
	default:
		p.warnings.add(name, WarnSpecialFile)
		return nil
	}
}

func (p *dirPacker) link(name string) error {
	target, err := p.root.Readlink(name)
	if err != nil {
		p.warnings.add(name, WarnUnreadable)
		return nil
	}
	p.packed.Links++
	return p.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: time.Unix(0, 0)})
}

func (p *dirPacker) file(name string) error {
	// Without O_NONBLOCK a FIFO that took the file's place would hold us up.
	f, err := p.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		p.warnings.add(name, WarnUnreadable)
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		p.warnings.add(name, WarnUnreadable)
		return nil
	}
	// The first piece is read before the header is written: most of what cannot
	// be read shows then, and a small file gets the size that it really has.
	size := info.Size()
	n, err := io.ReadFull(f, p.buf)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		p.warnings.add(name, WarnUnreadable)
		return nil
	}
	if n < len(p.buf) && int64(n) != size || int64(n) > size {
		p.warnings.add(name, WarnChanged)
		size = int64(n)
	}
	header := tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)}
	if info.Mode()&0o111 != 0 {
		header.Mode = 0o755
	}
	if err := p.tar.WriteHeader(&header); err != nil {
		return err
	}
	if _, err := p.tar.Write(p.buf[:n]); err != nil {
		return err
	}
	if err := p.rest(name, f, size-int64(n)); err != nil {
		return err
	}
	p.packed.Files++
	p.packed.Bytes += size
	if p.options.Progress != nil {
		p.options.Progress(p.packed.Files, p.packed.Bytes)
	}
	return nil
}

// rest packs the remaining bytes of a large file. The header has promised them:
// where the file has become shorter, or fails, zeros take their place.
func (p *dirPacker) rest(name string, f io.Reader, left int64) error {
	for left > 0 {
		if p.ctx.Err() != nil {
			return context.Cause(p.ctx)
		}
		piece := p.buf[:min(int64(len(p.buf)), left)]
		n, err := io.ReadFull(f, piece)
		if err != nil {
			p.warnings.add(name, WarnChanged)
			clear(piece[n:])
			f = zeros{}
		}
		if _, err := p.tar.Write(piece); err != nil {
			return err
		}
		left -= int64(len(piece))
	}
	return nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// gitView is what git knows of one folder: the rules that hold in it, and the
// tracked paths.
type gitView struct {
	rules       []scopedRules
	tracked     []string // of the repository, sorted
	folder      string   // path of the folder in the repository, "" or ending in a slash
	trackedOnly bool     // the folder is ignored: only what is tracked is not
}

// scopedRules are the rules of one file. They are about paths relative to its
// folder: here is the way from there to the folder of the view.
type scopedRules struct {
	file ignoreFile
	here string // "" or ending in a slash
}

// with returns the view with one more file of rules, in the view's folder.
func (g gitView) with(file ignoreFile) gitView {
	if len(file) > 0 {
		g.rules = append(slices.Clone(g.rules), scopedRules{file: file})
	}
	return g
}

// enter returns the view of a folder in the view's folder.
func (g gitView) enter(name string) gitView {
	g.folder += name + "/"
	g.rules = slices.Clone(g.rules)
	for i := range g.rules {
		g.rules[i].here += name + "/"
	}
	return g
}

// ignores reports whether the entry of the view's folder is ignored and not
// tracked. Of the files with rules the nearest one that decides, decides.
func (g gitView) ignores(name string, isFolder bool) bool {
	if _, tracked := slices.BinarySearch(g.tracked, g.folder+name); tracked { // a folder: a submodule
		return false
	}
	if g.trackedOnly {
		return true
	}
	for _, rules := range slices.Backward(g.rules) {
		if ignored, decided := rules.file.match(rules.here+name, isFolder); decided {
			return ignored
		}
	}
	return false
}

// tracksBelow reports whether git tracks a file in the view's folder.
func (g gitView) tracksBelow() bool {
	i, _ := slices.BinarySearch(g.tracked, g.folder)
	return i < len(g.tracked) && strings.HasPrefix(g.tracked[i], g.folder)
}

// repositoryAround returns the view of dir in the repository that it lies in,
// with the rules of the folders above it. Outside one it is empty.
func repositoryAround(dir string) gitView {
	top := dir
	for {
		if _, err := os.Lstat(filepath.Join(top, ".git")); err == nil {
			break
		}
		parent := filepath.Dir(top)
		if parent == top {
			return gitView{}
		}
		top = parent
	}
	git := repository(top)
	way, err := filepath.Rel(top, dir)
	if err != nil || way == "." {
		return git
	}
	at := top
	for component := range strings.SplitSeq(filepath.ToSlash(way), "/") {
		git = git.with(readRules(filepath.Join(at, ".gitignore"))).enter(component)
		at = filepath.Join(at, component)
	}
	return git
}

// repository returns the view of the top folder of a repository. What of its
// administrative files cannot be read or understood does not count: then more
// is packed, or an ignored file less.
func repository(top string) gitView {
	var git gitView
	admin := adminFolder(top)
	git = git.with(readRules(filepath.Join(commonFolder(admin), "info", "exclude")))
	f, err := os.Open(filepath.Join(admin, "index"))
	if err != nil {
		return git
	}
	defer f.Close()
	var idx index.Index
	if err := index.NewDecoder(f).Decode(&idx); err != nil {
		return git
	}
	for _, e := range idx.Entries {
		git.tracked = append(git.tracked, e.Name)
	}
	slices.Sort(git.tracked)
	return git
}

// adminFolder is .git, or where a file .git says it is (work trees, submodules).
func adminFolder(top string) string {
	admin := filepath.Join(top, ".git")
	content, err := readSmall(admin)
	if err != nil {
		return admin
	}
	if target, ok := strings.CutPrefix(content, "gitdir: "); ok {
		if target = strings.TrimSpace(target); filepath.IsAbs(target) {
			return target
		}
		return filepath.Join(top, target)
	}
	return admin
}

// commonFolder is the folder that the work trees of a repository share.
func commonFolder(admin string) string {
	content, err := readSmall(filepath.Join(admin, "commondir"))
	if err != nil {
		return admin
	}
	if content = strings.TrimSpace(content); filepath.IsAbs(content) {
		return content
	}
	return filepath.Join(admin, content)
}

func readSmall(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, 4096))
	return string(content), err
}

func readRules(name string) ignoreFile {
	info, err := os.Lstat(name)
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	rules, _ := parseIgnore(f) // what could be read counts
	return rules
}

package intake

import (
	"hash/maphash"
	"strings"
)

// tree is what has been seen of an archive so far: which path is what, what to
// warn about, and how much it all is. Each check costs a map look-up or two per
// component of a path, whatever the other entries are.
type tree struct {
	limits   limits
	nodes    map[string]node
	folded   map[uint64]spelling // hash of fold(path) → the first path that folds to it
	stripped map[string]bool     // the .git paths that were warned about
	seed     maphash.Seed
	manifest Manifest
	warnings warnings

	entries int   // files and links, stripped ones included
	listed  int   // folder entries
	folders int   // distinct folders, listed or implied
	bytes   int64 // declared sizes of all files
	names   int64 // bytes of all names and targets
}

type node uint8

const (
	nodeFolder node = iota + 1 // listed itself, or implied by a path below it
	nodeLeaf                   // file or link
)

// spelling stands for a path by hashes of it and of its folder, which cost the
// same however long a hostile path is. A chance collision is a needless warning.
type spelling struct{ path, folder uint64 }

func newTree(l limits) *tree {
	return &tree{
		limits:   l,
		nodes:    map[string]node{},
		folded:   map[uint64]spelling{},
		stripped: map[string]bool{},
		seed:     maphash.MakeSeed(),
	}
}

// kind is what an archive says that an entry is.
type kind uint8

const (
	kindFolder kind = iota + 1
	kindFile
	kindSymlink
	kindHardlink
	kindSpecial // anything else
)

// add admits one entry under the name policy and the counting limits, and
// returns the path that it has in the snapshot. The path is "" when the entry
// adds nothing: a folder, or something that is stripped.
func (t *tree) add(name string, k kind, size int64, backslashes bool) (string, error) {
	if k == kindSpecial {
		return "", refuse(CodeSpecialFile, name, "an entry is a device, a FIFO or another special file")
	}
	if err := t.count(name, k, size); err != nil {
		return "", err
	}
	path, flags, err := cleanName(name, backslashes)
	if err != nil {
		return "", err
	}
	if path == "" {
		if k == kindFolder {
			return "", nil // the root itself
		}
		return "", refuse(CodeBadName, name, "an entry that is no folder has the name of one")
	}
	if err := t.place(path, name, k); err != nil {
		return "", err
	}
	if flags&flagGit != 0 {
		t.warnGit(path)
		return "", nil
	}
	t.warnAbout(path, flags, k)
	if k == kindFolder {
		return "", nil
	}
	return path, nil
}

// count holds the limits on number, size and names.
func (t *tree) count(name string, k kind, size int64) error {
	counter, what := &t.entries, "files in the archive"
	if k == kindFolder {
		counter, what = &t.listed, "folders in the archive"
	}
	if *counter++; *counter > t.limits.Entries {
		return overLimit(CodeTooManyEntries, name, "VEGA_MAX_ARCHIVE_ENTRIES", int64(t.limits.Entries), int64(*counter), what)
	}
	if t.names += int64(len(name)); t.names > maxNamesBytes {
		return overLimit(CodeNameTooLong, name, "names_bytes", maxNamesBytes, t.names, "bytes in all names together")
	}
	if k != kindFile {
		return nil
	}
	if size < 0 {
		return refuse(CodeInconsistent, name, "an entry declares a negative size")
	}
	if size > t.limits.UncompressedBytes-t.bytes { // the sum cannot overflow this way
		value := t.bytes + min(size, 1<<62)
		return overLimit(CodeTooLargeUncompressed, name, "VEGA_MAX_ARCHIVE_UNCOMPRESSED_BYTES", t.limits.UncompressedBytes, value, "bytes unpacked")
	}
	t.bytes += size
	return nil
}

// place puts the path and the folders above it into the tree.
func (t *tree) place(path, name string, k kind) error {
	switch was := t.nodes[path]; {
	case was == 0:
	case was == nodeFolder && k == kindFolder:
		return nil // listed after a file in it, or twice: says nothing new
	case was == nodeLeaf && k != kindFolder:
		return refuse(CodeDuplicate, name, "two entries have the same path")
	default:
		return refuse(CodePathConflict, name, "the path is a file or link in one entry and a folder in another")
	}
	if k == kindFolder {
		if err := t.addFolder(path, name); err != nil {
			return err
		}
	} else {
		t.nodes[path] = nodeLeaf
		t.noteFolded(path)
	}
	for i := strings.LastIndexByte(path, '/'); i > 0; i = strings.LastIndexByte(path[:i], '/') {
		folder := path[:i]
		switch t.nodes[folder] {
		case nodeFolder:
			return nil // and so are those above it
		case nodeLeaf:
			return refuse(CodePathConflict, name, "the path leads through %s, which is a file or link", printable(folder))
		}
		if err := t.addFolder(folder, name); err != nil {
			return err
		}
	}
	return nil
}

// addFolder notes a folder that is new. There may be twice as many as files:
// deep paths imply folders that the archive does not list.
func (t *tree) addFolder(folder, name string) error {
	if t.folders++; t.folders > 2*t.limits.Entries {
		return overLimit(CodeTooManyEntries, name, "VEGA_MAX_ARCHIVE_ENTRIES", int64(t.limits.Entries), int64(t.folders), "folders in the archive, of which twice as many are allowed")
	}
	t.nodes[folder] = nodeFolder
	t.noteFolded(folder)
	return nil
}

// noteFolded warns when another path in the same folder differs by case or
// Unicode form only. (What lies below two such folders collides because of
// them, and is not worth a warning each.)
func (t *tree) noteFolded(path string) {
	folder := path[:max(0, strings.LastIndexByte(path, '/'))]
	here := spelling{path: maphash.String(t.seed, path), folder: maphash.String(t.seed, folder)}
	key := maphash.String(t.seed, fold(path))
	first, ok := t.folded[key]
	if !ok {
		t.folded[key] = here
		return
	}
	if first.path != here.path && first.folder == here.folder {
		t.warnings.add(path, WarnNameCollision)
	}
}

// warnGit notes once that the .git at or above path is stripped.
func (t *tree) warnGit(path string) {
	end := 0
	for component := range strings.SplitSeq(path, "/") {
		if end += len(component); strings.EqualFold(component, ".git") {
			break
		}
		end++
	}
	if git := path[:end]; !t.stripped[git] {
		t.stripped[git] = true
		t.warnings.add(git, WarnGitStripped)
	}
}

func (t *tree) warnAbout(path string, flags nameFlags, k kind) {
	if flags&flagBackslash != 0 {
		t.warnings.add(path, WarnBackslash)
	}
	if flags&flagNotUTF8 != 0 {
		t.warnings.add(path, WarnNotUTF8)
	}
	if flags&flagWindows != 0 {
		t.warnings.add(path, WarnWindowsName)
	}
	if flags&flagBidi != 0 {
		t.warnings.add(path, WarnBidiName)
	}
	if flags&flagAgent != 0 && k != kindFolder {
		t.warnings.add(path, WarnAgentConfig)
	}
}

// link records a link that add admitted.
func (t *tree) link(path string, k kind, target string) error {
	if len(target) > maxLinkTarget {
		return overLimit(CodeLinkTooLong, path, "link_target_bytes", maxLinkTarget, int64(len(target)), "bytes in a link's target")
	}
	if t.names += int64(len(target)); t.names > maxNamesBytes {
		return overLimit(CodeNameTooLong, path, "names_bytes", maxNamesBytes, t.names, "bytes in all names together")
	}
	entry := Entry{Path: path, Link: LinkSymbolic, Target: escapeUnprintable(target)}
	leaves := false
	if k == kindHardlink {
		// A hard link names its target from the root of the archive.
		entry.Link = LinkHard
		leaves = linkLeaves("", target)
	} else {
		leaves = linkLeaves(path, target)
	}
	if leaves {
		t.warnings.add(path, WarnLinkOutside)
	} else {
		t.warnings.add(path, WarnLink)
	}
	t.manifest = append(t.manifest, entry)
	return nil
}

package engine

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	cpb "github.com/google/osv-scalibr/binary/proto/config_go_proto"
	"github.com/google/osv-scalibr/extractor"
	"github.com/google/osv-scalibr/extractor/filesystem"
	"github.com/google/osv-scalibr/extractor/filesystem/language/dart/pubspec"
	"github.com/google/osv-scalibr/extractor/filesystem/language/dotnet/packageslockjson"
	"github.com/google/osv-scalibr/extractor/filesystem/language/elixir/mixlock"
	"github.com/google/osv-scalibr/extractor/filesystem/language/golang/gomod"
	"github.com/google/osv-scalibr/extractor/filesystem/language/java/gradlelockfile"
	"github.com/google/osv-scalibr/extractor/filesystem/language/java/pomxml"
	"github.com/google/osv-scalibr/extractor/filesystem/language/javascript/bunlock"
	"github.com/google/osv-scalibr/extractor/filesystem/language/javascript/packagelockjson"
	"github.com/google/osv-scalibr/extractor/filesystem/language/javascript/pnpmlock"
	"github.com/google/osv-scalibr/extractor/filesystem/language/javascript/yarnlock"
	"github.com/google/osv-scalibr/extractor/filesystem/language/php/composerlock"
	"github.com/google/osv-scalibr/extractor/filesystem/language/python/pdmlock"
	"github.com/google/osv-scalibr/extractor/filesystem/language/python/pipfilelock"
	"github.com/google/osv-scalibr/extractor/filesystem/language/python/poetrylock"
	"github.com/google/osv-scalibr/extractor/filesystem/language/python/requirements"
	"github.com/google/osv-scalibr/extractor/filesystem/language/python/uvlock"
	"github.com/google/osv-scalibr/extractor/filesystem/language/ruby/gemfilelock"
	"github.com/google/osv-scalibr/extractor/filesystem/language/rust/cargolock"
	scalibrlog "github.com/google/osv-scalibr/log"
)

// dependency is a package that a lock file or manifest of the tree names.
type dependency struct {
	Ecosystem string `json:"ecosystem"` // as OSV names it
	Name      string `json:"name"`
	Version   string `json:"version,omitempty"` // empty: not pinned
	Path      string `json:"path"`              // the manifest
	Line      int    `json:"line,omitempty"`
	Dev       bool   `json:"dev,omitempty"` // only for development
	PURL      string `json:"purl,omitempty"`
}

// extractors are the parsers we take from osv-scalibr. Each reads one kind of file and nothing from the network; its own file
// system is our tree, so what a manifest refers to is found only inside of it.
var extractors = []func(*cpb.PluginConfig) (filesystem.Extractor, error){
	gomod.New, packagelockjson.New, yarnlock.New, pnpmlock.New, bunlock.New, requirements.New, poetrylock.New, pipfilelock.New,
	pdmlock.New, uvlock.New, cargolock.New, gemfilelock.New, composerlock.New, pomxml.New, gradlelockfile.New, packageslockjson.New,
	pubspec.New, mixlock.New,
}

// maxLockFile bounds what a parser is given: several build a tree of the whole file.
const maxLockFile = 16 << 20

// quietScalibr turns the parsers' logging off. It is package-wide in their library, and a line that they complain about may
// hold a credential.
var quietScalibr = sync.OnceFunc(func() { scalibrlog.SetLogger(noLog{}) })

// dependencies reads every lock file and manifest that an extractor knows, outside of vendored folders.
func (r *run) dependencies(ctx context.Context, missed *gaps) ([]dependency, error) {
	quietScalibr()
	var known []filesystem.Extractor
	for _, create := range extractors {
		e, err := create(&cpb.PluginConfig{})
		if err != nil {
			return nil, fmt.Errorf("prepare dependency parsers: %w", err)
		}
		known = append(known, e)
	}
	var out []dependency
	for _, f := range r.tree.files {
		if vendored(f.path) {
			continue
		}
		for _, e := range known {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if !e.FileRequired(treeFile{r.tree, f}) {
				continue
			}
			if f.size > maxLockFile {
				missed.add(f.path, codeTooLarge, "%d bytes; dependencies are read from files up to %d", f.size, maxLockFile)
				continue
			}
			found, err := r.extract(ctx, e, f)
			if err != nil {
				missed.add(f.path, codeUnreadable, "its dependencies could not be read: %s is damaged or of an unknown form", path.Base(f.path))
				continue
			}
			out = append(out, found...)
		}
	}
	slices.SortFunc(out, func(a, b dependency) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Ecosystem, b.Ecosystem), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Version, b.Version), cmp.Compare(a.Line, b.Line))
	})
	return slices.CompactFunc(out, func(a, b dependency) bool {
		return a.Path == b.Path && a.Ecosystem == b.Ecosystem && a.Name == b.Name && a.Version == b.Version
	}), nil
}

// extract runs one parser over one file. A parser that panics has failed on it.
func (r *run) extract(ctx context.Context, e filesystem.Extractor, f file) (out []dependency, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.opt.Log.Error("dependency parser panicked", "scan_id", r.job.Scan, "stage", stageInventory, "err", fmt.Sprint(p))
			out, err = nil, errors.New("parser panicked")
		}
	}()
	content, _, err := r.tree.head(f.path, maxLockFile)
	if err != nil {
		return nil, err
	}
	info, err := treeFile{r.tree, f}.Stat()
	if err != nil {
		return nil, err
	}
	found, err := e.Extract(ctx, &filesystem.ScanInput{
		FS: treeFS{r.tree}, Path: f.path, Info: info, Reader: bytes.NewReader(content),
	})
	if err != nil {
		return nil, err
	}
	for _, p := range found.Packages {
		out = append(out, dependencyOf(p, f.path))
	}
	return out, nil
}

func dependencyOf(p *extractor.Package, manifest string) dependency {
	d := dependency{Ecosystem: p.Ecosystem().String(), Name: withoutUser(p.Name), Version: withoutUser(p.Version), Path: manifest}
	if purl := p.PURL(); purl != nil {
		d.PURL = withoutUser(purl.String())
	}
	if p.Location.Descriptor != nil && p.Location.Descriptor.File != nil && p.Location.PathOrEmpty() == manifest {
		d.Line = p.Location.Descriptor.File.LineNumber
	}
	if g, ok := p.Metadata.(interface{ DepGroups() []string }); ok {
		d.Dev = slices.Contains(g.DepGroups(), "dev")
	}
	return d
}

// userInURL is what stands before the host of an address: a user, a token, both, plain or as a package URL escapes them.
var userInURL = regexp.MustCompile(`((?::|%3A)(?://|%2F%2F))[^/\s@?#]+(@|%40)`)

// withoutUser is text from a manifest without credentials in its addresses.
func withoutUser(s string) string { return userInURL.ReplaceAllString(cleanText(s), "$1***$2") }

// isLockFile knows the machine-made text that the search for credentials leaves out and nobody misses: lock files, whose
// contents the dependency list holds, wrapper scripts, and drawings.
func isLockFile(p string) bool {
	switch path.Base(p) {
	case "go.mod", "go.sum", "go.work", "go.work.sum", "deno.lock", "Pipfile.lock", "poetry.lock", "npm-shrinkwrap.json",
		"package-lock.json", "pnpm-lock.yaml", "yarn.lock", "gradle.lockfile", "modules.txt", "gradlew", "gradlew.bat", "mvnw", "mvnw.cmd",
		"verification-metadata.xml":
		return true
	}
	return strings.HasSuffix(strings.ToLower(p), ".svg")
}

// vendored says whether a path lies in a folder of other people's packages, whose own manifests describe them, not the
// application.
func vendored(p string) bool {
	return slices.ContainsFunc(strings.Split(path.Dir(p), "/"), func(s string) bool {
		return s == "node_modules" || s == "vendor" || s == "bower_components" || s == "site-packages"
	})
}

// treeFile is a file as an extractor is asked about it.
type treeFile struct {
	tree *tree
	file file
}

func (f treeFile) Path() string { return f.file.path }

func (f treeFile) Stat() (fs.FileInfo, error) { return treeFS{f.tree}.Stat(f.file.path) }

// treeFS is a tree as a file system: the listed files and nothing else.
type treeFS struct {
	tree *tree
}

func (t treeFS) Open(name string) (fs.File, error) {
	f, err := t.tree.open(path.Clean(name))
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return f, nil
}

func (t treeFS) Stat(name string) (fs.FileInfo, error) {
	f, err := t.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Stat()
}

func (t treeFS) ReadDir(name string) ([]fs.DirEntry, error) {
	return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
}

// noLog drops what the parsers have to say.
type noLog struct{}

func (noLog) Errorf(string, ...any) {}
func (noLog) Error(...any)          {}
func (noLog) Warnf(string, ...any)  {}
func (noLog) Warn(...any)           {}
func (noLog) Infof(string, ...any)  {}
func (noLog) Info(...any)           {}
func (noLog) Debugf(string, ...any) {}
func (noLog) Debug(...any)          {}

package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"path"
	"slices"

	"github.com/go-enry/go-enry/v2"

	"vega/events"
)

const (
	resultInventory = "inventory.json"

	// What the inventory lists at most. The counts beside the lists are of everything.
	maxManifests    = 2_000
	maxEntryPoints  = 1_000
	maxDependencies = 20_000

	// classifyBytes is how much of a file decides about its language and entry points.
	classifyBytes = 64 << 10
)

// inventory is what a source tree consists of.
type inventory struct {
	Schema       int          `json:"schema_version"`
	Files        int          `json:"files"`
	Bytes        int64        `json:"bytes"`
	Binary       int          `json:"binary_files"`
	Vendored     int          `json:"vendored_files"`
	Generated    int          `json:"generated_files"`
	Links        int          `json:"links"`     // symbolic links and the like; never followed
	Languages    []language   `json:"languages"` // most bytes first; vendored, generated and documentation files do not count
	Manifests    []manifest   `json:"manifests"`
	EntryPoints  []entryPoint `json:"entry_points"`
	Dependencies []dependency `json:"dependencies"`
	// How many there are; the lists hold the first maxManifests, maxEntryPoints and maxDependencies.
	ManifestCount   int `json:"manifest_count"`
	EntryPointCount int `json:"entry_point_count"`
	DependencyCount int `json:"dependency_count"`
}

// language is one programming or markup language.
type language struct {
	Name    string  `json:"name"`
	Files   int     `json:"files"`
	Bytes   int64   `json:"bytes"`
	Percent float64 `json:"percent"` // of the bytes of all languages, one decimal
}

// manifest is a file that describes a package, a build or a deployment.
type manifest struct {
	Path string `json:"path"`
	Kind string `json:"kind"`
}

// inventorySummary is an inventory on one screen.
type inventorySummary struct {
	Files        int        `json:"files"`
	Bytes        int64      `json:"bytes"`
	Languages    []language `json:"languages"`
	Manifests    int        `json:"manifests"`
	EntryPoints  int        `json:"entry_points"`
	Dependencies int        `json:"dependencies"`
}

func (i inventory) summary() inventorySummary {
	return inventorySummary{i.Files, i.Bytes, i.Languages[:min(len(i.Languages), 10)], i.ManifestCount, i.EntryPointCount, i.DependencyCount}
}

// look is what one file adds to the inventory.
type look struct {
	language  string // of code that counts
	manifest  string
	entries   []entryPoint
	binary    bool
	vendored  bool
	generated bool
}

// inventory lists languages, manifests, entry points and dependencies.
func (r *run) inventory(ctx context.Context) (result, error) {
	missed := gaps{stage: stageInventory}
	looks := make([]look, len(r.tree.files)) // one writer per element
	err := r.forEachFile(ctx, func(_ context.Context, i int, f file) error {
		head, _, err := r.tree.head(f.path, classifyBytes)
		if err != nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			missed.add(f.path, codeUnreadable, "could not be read")
			return nil
		}
		looks[i] = lookAt(f.path, head)
		return nil
	}, func(f file) { missed.add(f.path, codeFailed, "telling its language broke on it") })
	if err != nil {
		return result{}, err
	}

	inv := inventory{Schema: 1, Files: len(r.tree.files), Links: r.tree.links, Languages: []language{}}
	byName := make(map[string]*language)
	for i, l := range looks {
		f := r.tree.files[i]
		inv.Bytes += f.size
		inv.Binary += oneIf(l.binary)
		inv.Vendored += oneIf(l.vendored)
		inv.Generated += oneIf(l.generated)
		if l.manifest != "" {
			inv.Manifests = append(inv.Manifests, manifest{f.path, l.manifest})
		}
		inv.EntryPoints = append(inv.EntryPoints, l.entries...)
		if l.language != "" {
			if byName[l.language] == nil {
				byName[l.language] = &language{Name: l.language}
			}
			byName[l.language].Files++
			byName[l.language].Bytes += f.size
		}
	}
	inv.Languages = shares(byName)
	if err := r.maskDetails(ctx, inv.EntryPoints); err != nil {
		return result{}, err
	}
	inv.Dependencies, err = r.dependencies(ctx, &missed)
	if err != nil {
		return result{}, err
	}
	inv.ManifestCount, inv.Manifests = len(inv.Manifests), limited(inv.Manifests, maxManifests)
	inv.EntryPointCount, inv.EntryPoints = len(inv.EntryPoints), limited(inv.EntryPoints, maxEntryPoints)
	inv.DependencyCount, inv.Dependencies = len(inv.Dependencies), limited(inv.Dependencies, maxDependencies)

	detail := fmt.Sprintf("%d files, %d bytes", inv.Files, inv.Bytes)
	if len(inv.Languages) > 0 {
		detail += ", mostly " + inv.Languages[0].Name
	}
	object, err := r.put(ctx, resultInventory, inv)
	return result{
		status:  events.StageDone,
		detail:  fmt.Sprintf("%s; %d dependencies", detail, inv.DependencyCount),
		object:  object,
		reasons: append(slices.Clone(r.tree.unlisted), missed.list()...),
	}, err
}

// maskDetails masks credentials in the command lines that entry points quote.
func (r *run) maskDetails(ctx context.Context, entries []entryPoint) error {
	d, err := theDetector()
	if err != nil {
		return err
	}
	for i := range entries {
		e := &entries[i]
		if e.Detail == "" || ctx.Err() != nil {
			continue
		}
		text := []byte(e.Detail)
		var spans []span
		matches, _ := d.find(ctx, "", text)
		for _, m := range matches {
			spans = append(spans, m.span)
		}
		e.Detail = r.masker.snippet(text, indexLines(text), span{0, len(text)}, spans)
	}
	return ctx.Err()
}

// lookAt tells what a file is from its path and its first bytes.
func lookAt(p string, head []byte) look {
	l := look{manifest: manifestKind(p), binary: isBinary(head), vendored: enry.IsVendor(p)}
	if l.binary {
		return l
	}
	if l.vendored {
		l.manifest = ""
		return l
	}
	l.generated = enry.IsGenerated(p, head)
	if name := enry.GetLanguage(path.Base(p), head); !l.generated && !enry.IsDocumentation(p) {
		if t := enry.GetLanguageType(name); t == enry.Programming || t == enry.Markup {
			l.language = name
		}
		l.entries = entryPointsOf(p, name, head)
	}
	return l
}

// shares sorts the languages and computes their parts of the whole.
func shares(byName map[string]*language) []language {
	var total int64
	out := make([]language, 0, len(byName))
	for _, l := range byName {
		total += l.Bytes
		out = append(out, *l)
	}
	for i := range out {
		out[i].Percent = math.Round(float64(out[i].Bytes)*1000/float64(max(total, 1))) / 10
	}
	slices.SortFunc(out, func(a, b language) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// manifests names the files that say how something is built, what it depends on, and where it runs.
var manifests = map[string]string{
	"go.mod": "Go module", "go.work": "Go workspace", "package.json": "npm package", "package-lock.json": "npm lock file",
	"npm-shrinkwrap.json": "npm lock file", "yarn.lock": "Yarn lock file", "pnpm-lock.yaml": "pnpm lock file", "bun.lock": "Bun lock file",
	"deno.json": "Deno project", "requirements.txt": "pip requirements", "pyproject.toml": "Python project", "setup.py": "Python package",
	"setup.cfg": "Python package", "poetry.lock": "Poetry lock file", "Pipfile": "Pipenv project", "Pipfile.lock": "Pipenv lock file",
	"pdm.lock": "PDM lock file", "uv.lock": "uv lock file", "Cargo.toml": "Cargo package", "Cargo.lock": "Cargo lock file",
	"Gemfile": "Bundler project", "Gemfile.lock": "Bundler lock file", "composer.json": "Composer package",
	"composer.lock": "Composer lock file", "pom.xml": "Maven project", "build.gradle": "Gradle build", "build.gradle.kts": "Gradle build",
	"gradle.lockfile": "Gradle lock file", "buildscript-gradle.lockfile": "Gradle lock file", "packages.lock.json": "NuGet lock file",
	"mix.exs": "Mix project", "mix.lock": "Mix lock file", "pubspec.yaml": "Dart package", "pubspec.lock": "Dart lock file",
	"Package.swift": "Swift package", "CMakeLists.txt": "CMake build", "Makefile": "Make build", "Dockerfile": "container image",
	"Containerfile": "container image", "compose.yaml": "Compose file", "compose.yml": "Compose file", "docker-compose.yml": "Compose file",
	"docker-compose.yaml": "Compose file", "Chart.yaml": "Helm chart", "serverless.yml": "Serverless service", "Procfile": "process list",
	"BUILD.bazel": "Bazel build", "MODULE.bazel": "Bazel module",
}

// manifestKind says what kind of manifest a path is, "" for none.
func manifestKind(p string) string {
	if kind, ok := manifests[path.Base(p)]; ok {
		return kind
	}
	switch path.Ext(p) {
	case ".csproj", ".fsproj", ".vbproj":
		return ".NET project"
	case ".tf":
		return "Terraform"
	case ".gemspec":
		return "Ruby gem"
	}
	if isDockerfile(p) {
		return "container image"
	}
	return ""
}

// limited is at most n elements of s, never nil.
func limited[T any](s []T, n int) []T {
	if s == nil {
		return []T{}
	}
	return s[:min(len(s), n)]
}

func oneIf(b bool) int {
	if b {
		return 1
	}
	return 0
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

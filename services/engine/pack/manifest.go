package pack

import (
	"path"
	"regexp"
	"slices"
	"strings"
)

const (
	manifestFile  = "pack.json"
	readmeFile    = "README.md"
	schemaVersion = 1
)

// manifest is pack.json.
type manifest struct {
	Schema   int                         `json:"schema_version"`
	Version  string                      `json:"version"`
	Taxonomy string                      `json:"taxonomy"`
	Severity string                      `json:"severity"`
	Models   string                      `json:"models"`
	Base     string                      `json:"base_instructions"`
	Partials []string                    `json:"partials"` // templates that prompts include
	Prompts  []promptEntry               `json:"prompts"`
	Limits   map[string]map[string]bound `json:"limits"` // by prompt, then by field
	Guides   []guideEntry                `json:"guides"`
}

// promptEntry is one prompt and what belongs to it.
type promptEntry struct {
	Name     string `json:"name"`
	Template string `json:"template"`
	// Schema is what answers must match. The one of repair is that of its example: a repaired answer has the schema of the broken one.
	Schema    string `json:"schema"`
	Fixture   string `json:"fixture"` // an example of a good answer
	Checklist string `json:"checklist"`
}

// bound is how long a text (in characters), how long a list or how large a number may be.
type bound struct {
	Min     int  `json:"min,omitempty"`
	Max     int  `json:"max"`
	OneLine bool `json:"one_line,omitempty"` // a text without line ends
}

// guideEntry is a guide and when it applies: one condition that holds is enough.
type guideEntry struct {
	File         string   `json:"file"`
	Languages    []string `json:"languages,omitempty"`    // as go-enry names them
	Dependencies []string `json:"dependencies,omitempty"` // package names; '*' stands for any text
	Files        []string `json:"files,omitempty"`        // globs; without '/' they match the last part of a path
}

const repair = "repair" // the prompt without a schema of its own

var (
	versionForm = regexp.MustCompile(`^16\.\d+\.\d+$`)
	idForm      = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
)

// manifest reads and checks pack.json. Without a manifest nothing else can be checked.
func (s *source) manifest() (manifest, *node) {
	var m manifest
	if _, ok := s.files[manifestFile]; !ok {
		s.add(manifestFile, 1, "is missing")
		return m, nil
	}
	root := s.decode(manifestFile, manifestFile, 1, &m)
	if root == nil {
		return m, nil
	}
	if m.Schema != schemaVersion {
		s.add(manifestFile, root.at("schema_version"), "schema_version is %d, want %d", m.Schema, schemaVersion)
	}
	if !versionForm.MatchString(m.Version) {
		s.add(manifestFile, root.at("version"), "version is %q, want 16.minor.patch", m.Version)
	}
	prompts := root.field("prompts")
	seen := make(map[string]bool)
	for i, e := range m.Prompts {
		line := prompts.items[i].at("name")
		if e.Name != repair && !slices.Contains(names(), Name(e.Name)) {
			s.add(manifestFile, line, "prompt %q is unknown, want threat-model, plan, audit, refute or repair", e.Name)
		}
		if seen[e.Name] {
			s.add(manifestFile, line, "prompt %q is there twice", e.Name)
		}
		seen[e.Name] = true
	}
	for _, n := range append(names(), repair) {
		if !seen[string(n)] {
			s.add(manifestFile, root.at("prompts"), "prompt %q is missing", n)
		}
	}
	for _, f := range root.field("limits").members() {
		if !slices.Contains(names(), Name(f.name)) {
			s.add(manifestFile, f.line, "limits are for threat-model, plan, audit and refute, not for %q", f.name)
		}
	}
	s.strays(m)
	return m, root
}

// strays reports files that the manifest does not name: a file that looks like a part of the pack and is none misleads.
func (s *source) strays(m manifest) {
	named := []string{manifestFile, readmeFile, m.Taxonomy, m.Severity, m.Models, m.Base}
	named = append(named, m.Partials...)
	for _, p := range m.Prompts {
		named = append(named, p.Template, p.Schema, p.Fixture, p.Checklist)
	}
	for _, g := range m.Guides {
		named = append(named, g.File)
	}
	for name := range s.files {
		if !slices.Contains(named, name) {
			s.add(name, 1, "is not named in %s", manifestFile)
		}
	}
	if _, ok := s.files[readmeFile]; !ok {
		s.add(readmeFile, 1, "is missing")
	}
}

// members are the members of an object; a nil node has none.
func (n *node) members() []field {
	if n == nil {
		return nil
	}
	return n.fields
}

// elements are the items of a list; a nil node has none.
func (n *node) elements() []*node {
	if n == nil {
		return nil
	}
	return n.items
}

// glob reports whether name matches pattern, in which '*' stands for any text. Both are taken in lower case.
func glob(pattern, name string) bool {
	parts := strings.Split(strings.ToLower(pattern), "*")
	name = strings.ToLower(name)
	if len(parts) == 1 {
		return name == parts[0]
	}
	rest, ok := strings.CutPrefix(name, parts[0])
	if !ok {
		return false
	}
	last := parts[len(parts)-1]
	for _, p := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(rest, p)
		if !found {
			return false
		}
		rest = after
	}
	return strings.HasSuffix(rest, last)
}

// fileGlob reports whether the last parts of a path, as many as pattern has, match it.
func fileGlob(pattern, name string) bool {
	parts := strings.Split(name, "/")
	n := strings.Count(pattern, "/") + 1
	if n > len(parts) {
		return false
	}
	ok, err := path.Match(pattern, strings.Join(parts[len(parts)-n:], "/"))
	return ok && err == nil
}

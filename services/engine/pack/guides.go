package pack

import (
	"cmp"
	"path"
	"slices"
	"strings"
)

const (
	maxGuides     = 6     // that apply at once
	maxGuideBytes = 6_000 // of one
)

// guide is advice about a language or a framework.
type guide struct {
	guideEntry
	text string
}

// Facts say what a piece of source is made of, for choosing guides.
type Facts struct {
	Languages    []string // as go-enry names them, most first
	Dependencies []string // names of packages
	Files        []string // paths
}

// How a guide came to apply, the most specific first.
const (
	byDependency = iota
	byFile
	byLanguage
	byNothing
)

// Guides are the texts of the guides that apply, at most six: those for a dependency first, then those for kinds of files, then those for
// languages in the order of the facts. When there are more, the guide of the first language keeps its place.
func (p *Pack) Guides(f Facts) []string {
	type match struct {
		guide
		kind, rank int
	}
	var found []match
	for i, g := range p.guides {
		if kind, rank := g.applies(f); kind != byNothing {
			if kind != byLanguage {
				rank = i
			}
			found = append(found, match{g, kind, rank})
		}
	}
	slices.SortStableFunc(found, func(a, b match) int { return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.rank, b.rank)) })
	if len(found) > maxGuides {
		first := slices.IndexFunc(found, func(m match) bool { return m.kind == byLanguage })
		if first >= maxGuides {
			found[maxGuides-1] = found[first]
		}
		found = found[:maxGuides]
	}
	var out []string
	for _, m := range found {
		out = append(out, m.text)
	}
	return out
}

// Frameworks are those of some packages that a guide is about, in their order.
func (p *Pack) Frameworks(dependencies []string) []string {
	var out []string
	for _, d := range dependencies {
		if !slices.Contains(out, d) && slices.ContainsFunc(p.guides, func(g guide) bool {
			return slices.ContainsFunc(g.Dependencies, func(pattern string) bool { return glob(pattern, d) })
		}) {
			out = append(out, d)
		}
	}
	return out
}

// Concerns says that a guide is about files of this name, whatever language they are in.
func (p *Pack) Concerns(name string) bool {
	return slices.ContainsFunc(p.guides, func(g guide) bool {
		return slices.ContainsFunc(g.Files, func(pattern string) bool { return fileGlob(pattern, name) })
	})
}

// applies says by which kind of condition the guide applies and, if by its language, where that stands in the facts.
func (g guide) applies(f Facts) (kind, rank int) {
	for _, pattern := range g.Dependencies {
		if slices.ContainsFunc(f.Dependencies, func(d string) bool { return glob(pattern, d) }) {
			return byDependency, 0
		}
	}
	for _, pattern := range g.Files {
		if slices.ContainsFunc(f.Files, func(name string) bool { return fileGlob(pattern, name) }) {
			return byFile, 0
		}
	}
	for i, l := range f.Languages {
		if slices.Contains(g.Languages, l) {
			return byLanguage, i
		}
	}
	return byNothing, 0
}

// guides reads the guides.
func (s *source) guides(entries []guideEntry, at *node) []guide {
	var out []guide
	seen := make(map[string]bool)
	for i, e := range entries {
		n := at.items[i]
		content, ok := s.text(e.File, manifestFile, n.at("file"))
		if seen[e.File] {
			s.add(manifestFile, n.at("file"), "guide %s is there twice", e.File)
		}
		seen[e.File] = true
		if len(e.Languages)+len(e.Dependencies)+len(e.Files) == 0 {
			s.add(manifestFile, n.line, "guide %s has no condition, so it never applies", e.File)
		}
		for _, list := range []string{"languages", "dependencies", "files"} {
			for _, c := range n.field(list).elements() {
				if _, err := path.Match(c.text, ""); list == "files" && err != nil || strings.Trim(c.text, "*/ ") == "" {
					s.add(manifestFile, c.line, "guide %s has the condition %q, which matches nothing or everything", e.File, c.text)
				}
			}
		}
		if len(content) > maxGuideBytes {
			s.add(e.File, 1, "has %d bytes, a guide has at most %d", len(content), maxGuideBytes)
		}
		if ok {
			out = append(out, guide{e, strings.TrimSpace(content)})
		}
	}
	return out
}

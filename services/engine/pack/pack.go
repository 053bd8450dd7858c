package pack

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"text/template"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"vega/events"
)

// Name is a prompt whose answer has a schema.
type Name string

const (
	ThreatModel Name = "threat-model"
	Plan        Name = "plan"
	Audit       Name = "audit"
	Refute      Name = "refute"
)

func names() []Name { return []Name{ThreatModel, Plan, Audit, Refute} }

// Rule is one kind of weakness. Findings name it, and fingerprints are made of its ID.
type Rule struct {
	ID      string   `json:"id"` // dotted, lower case; never renamed
	Title   string   `json:"title"`
	CWE     []string `json:"cwe"`     // "CWE-89", the best match first
	Summary string   `json:"summary"` // what counts
	Not     string   `json:"not"`     // what does not
}

// Pack is a loaded pack. It never changes and is safe for concurrent use.
type Pack struct {
	version string
	digest  events.Digest
	rules   []Rule
	answers map[Name]*answerKind
	prompts map[string]*template.Template // by prompt
	guides  []guide
	base    string
	model   json.RawMessage // the entry of a model, without what is particular to one
}

// answerKind is what an answer must be.
type answerKind struct {
	schema   []byte
	compiled *jsonschema.Schema
	fields   []boundedField // in the order of the schema
}

// boundedField is a text, list or number of an answer.
type boundedField struct {
	name string // such as findings[].title
	unit string // characters, entries, or empty for a number
	bound
}

// field is the bounded field with a name; false when there is none.
func (k *answerKind) field(name string) (boundedField, bool) {
	i := slices.IndexFunc(k.fields, func(f boundedField) bool { return f.name == name })
	if i < 0 {
		return boundedField{}, false
	}
	return k.fields[i], true
}

// Load reads and validates a pack. where names it in errors (a folder, or "the built-in pack"). The error lists every problem, each as
// "file:line: what".
func Load(files fs.FS, where string) (*Pack, error) {
	s := read(files)
	m, root := s.manifest()
	if root == nil {
		return nil, s.err(where)
	}
	p := &Pack{version: m.Version, digest: s.digest(), answers: make(map[Name]*answerKind), prompts: make(map[string]*template.Template)}
	p.rules = s.taxonomy(m.Taxonomy, root.at("taxonomy"))
	p.guides = s.guides(m.Guides, root.field("guides"))
	p.base = s.baseInstructions(m.Base, root.at("base_instructions"))
	p.model = s.models(m.Models, root.at("models"))
	for i, e := range m.Prompts {
		s.text(e.Checklist, manifestFile, root.field("prompts").items[i].at("checklist"))
		if e.Name == repair || !slices.Contains(names(), Name(e.Name)) {
			continue
		}
		if kind := s.answerKind(p, e, root.field("prompts").items[i], m.Limits[e.Name], root); kind != nil {
			p.answers[Name(e.Name)] = kind
		}
	}
	for i, e := range m.Prompts {
		s.fixture(p, e, m, root.field("prompts").items[i].at("fixture"))
	}
	s.templates(p, m, root)
	if err := s.err(where); err != nil {
		return nil, err
	}
	return p, nil
}

// Version is the pack's own version, such as 16.1.0.
func (p *Pack) Version() string { return p.version }

// Digest is over the sorted names and the bytes of all files of the pack.
func (p *Pack) Digest() events.Digest { return p.digest }

// Rules are all rules in the order of the taxonomy.
func (p *Pack) Rules() []Rule {
	out := slices.Clone(p.rules)
	for i := range out {
		out[i].CWE = slices.Clone(out[i].CWE)
	}
	return out
}

// Rule is the rule with an id; false when there is none.
func (p *Pack) Rule(id string) (Rule, bool) {
	i := slices.IndexFunc(p.rules, func(r Rule) bool { return r.ID == id })
	if i < 0 {
		return Rule{}, false
	}
	r := p.rules[i]
	r.CWE = slices.Clone(r.CWE)
	return r, true
}

// Schema is what the agent gets as the schema of its answer; nil for a name that is none of the four.
func (p *Pack) Schema(n Name) []byte {
	if k := p.answers[n]; k != nil {
		return bytes.Clone(k.schema)
	}
	return nil
}

func (s *source) digest() events.Digest {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		fmt.Fprintf(h, "%d:%s%d:", len(name), name, len(s.files[name]))
		h.Write(s.files[name])
	}
	return events.Digest(fmt.Sprintf("sha256:%x", h.Sum(nil)))
}

var (
	ruleForm = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*(\.[a-z0-9]+(-[a-z0-9]+)*)+$`)
	cweForm  = regexp.MustCompile(`^CWE-[1-9]\d*$`)
)

// taxonomy reads the rules.
func (s *source) taxonomy(name string, line int) []Rule {
	var t struct {
		Schema int    `json:"schema_version"`
		Rules  []Rule `json:"rules"`
	}
	root := s.decode(name, manifestFile, line, &t)
	if root == nil {
		return nil
	}
	if t.Schema != schemaVersion {
		s.add(name, root.at("schema_version"), "schema_version is %d, want %d", t.Schema, schemaVersion)
	}
	if len(t.Rules) == 0 {
		s.add(name, root.at("rules"), "has no rules")
	}
	seen := make(map[string]bool)
	for i, r := range t.Rules {
		n := root.field("rules").items[i]
		if !ruleForm.MatchString(r.ID) {
			s.add(name, n.at("id"), "rule id %q, want dotted lower-case words", r.ID)
		}
		if seen[r.ID] {
			s.add(name, n.at("id"), "rule %q is there twice", r.ID)
		}
		seen[r.ID] = true
		if len(r.CWE) == 0 {
			s.add(name, n.at("cwe"), "rule %q has no CWE", r.ID)
		}
		for _, c := range n.field("cwe").elements() {
			if !cweForm.MatchString(c.text) {
				s.add(name, c.line, "rule %q has the CWE %q, want CWE- and a number", r.ID, c.text)
			}
		}
		for _, f := range []string{"title", "summary", "not"} {
			if v := n.field(f); v != nil && !isLine(v.text, 400) {
				s.add(name, v.line, "rule %q: %s must be one line of 1 to 400 bytes", r.ID, f)
			}
		}
	}
	return t.Rules
}

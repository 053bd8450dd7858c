package pack

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"vega/events"
)

// What a strict schema may have here: the part of JSON Schema that providers enforce while they generate, without references. Bounds are not in
// it; they are in the manifest.
var (
	objectKeywords = []string{"type", "description", "properties", "required", "additionalProperties"}
	arrayKeywords  = []string{"type", "description", "items"}
	leafKeywords   = []string{"type", "description", "enum"}
)

const (
	maxSchemaDepth = 5    // of objects and lists, as providers limit it
	maxEnumText    = 7500 // bytes of all values of one enum
)

// answerKind reads the schema of a prompt and its limits.
func (s *source) answerKind(p *Pack, e promptEntry, at *node, limits map[string]bound, manifest *node) *answerKind {
	if _, ok := s.text(e.Schema, manifestFile, at.at("schema")); !ok {
		return nil
	}
	data := s.files[e.Schema]
	root, broken := parse(data)
	if broken != nil {
		s.add(e.Schema, broken.line, "%s", broken.what)
		return nil
	}
	before := len(s.problems)
	if root.kind != object || root.field("type") == nil || root.field("type").text != "object" {
		s.add(e.Schema, root.line, "is no schema of an object")
	}
	s.strict(e.Schema, root, 1)
	s.enums(p, e.Schema, root)
	fields := s.limits(e, root, limits, manifest)
	if len(s.problems) > before {
		return nil
	}

	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err == nil {
		c := jsonschema.NewCompiler()
		if err = c.AddResource("pack:"+e.Schema, doc); err == nil {
			var compiled *jsonschema.Schema
			if compiled, err = c.Compile("pack:" + e.Schema); err == nil {
				return &answerKind{data, compiled, fields}
			}
		}
	}
	s.add(e.Schema, 1, "is no JSON schema: %v", err)
	return nil
}

// strict reports what a provider's strict mode would refuse, in a schema and all below it.
func (s *source) strict(file string, n *node, depth int) {
	if n.kind != object {
		s.add(file, n.line, "is no schema")
		return
	}
	kind := n.field("type")
	if kind == nil || kind.kind != text {
		s.add(file, n.line, "lacks a type")
		return
	}
	allowed := leafKeywords
	switch kind.text {
	case "object":
		allowed = objectKeywords
	case "array":
		allowed = arrayKeywords
	case "string", "integer", "number", "boolean":
	default:
		s.add(file, kind.line, "has the type %q", kind.text)
		return
	}
	for _, f := range n.fields {
		if !slices.Contains(allowed, f.name) {
			s.add(file, f.line, "has the keyword %q, which strict mode refuses or which has no place here", f.name)
		}
	}
	if depth > maxSchemaDepth && (kind.text == "object" || kind.text == "array") {
		s.add(file, n.line, "is nested more than %d deep", maxSchemaDepth)
		return
	}
	switch kind.text {
	case "object":
		if a := n.field("additionalProperties"); a == nil || a.text != "false" || a.kind != other {
			s.add(file, n.at("additionalProperties"), "is not strict: additionalProperties must be false")
		}
		required := n.field("required").strings()
		properties := n.field("properties").members()
		if len(properties) == 0 {
			s.add(file, n.line, "has no properties")
		}
		for _, f := range properties {
			if !slices.Contains(required, f.name) {
				s.add(file, f.line, "is not strict: %q is not required", f.name)
			}
			s.strict(file, f.value, depth+1)
		}
		for i, name := range required {
			if n.field("properties").field(name) == nil || slices.Contains(required[:i], name) {
				s.add(file, n.field("required").items[i].line, "requires %q, which is no property or is required twice", name)
			}
		}
	case "array":
		items := n.field("items")
		if items == nil {
			s.add(file, n.line, "lacks items")
			return
		}
		s.strict(file, items, depth+1)
	default:
		s.enum(file, n.field("enum"))
	}
}

// enum reports what is wrong with an enumeration.
func (s *source) enum(file string, n *node) {
	if n == nil {
		return
	}
	if n.kind != array || len(n.items) == 0 {
		s.add(file, n.line, "has an enum without values")
		return
	}
	size := 0
	for i, v := range n.items {
		if v.kind != text || slices.Contains(n.strings()[:i], v.text) {
			s.add(file, v.line, "has an enum value that is no text or is there twice: %q", v.text)
		}
		size += len(v.text)
	}
	if size > maxEnumText {
		s.add(file, n.line, "has an enum of %d bytes, at most %d are allowed", size, maxEnumText)
	}
}

// enums holds the enumerations that mirror something else against it: wherever a property of that name is, it must have exactly
// those values.
func (s *source) enums(p *Pack, file string, n *node) {
	want := map[string][]string{
		"severity":   texts(events.Severities()),
		"confidence": texts([]events.Confidence{events.ConfidenceHigh, events.ConfidenceMedium, events.ConfidenceLow}),
		"verdict":    {Stands, Refuted, Uncertain},
	}
	for _, r := range p.rules {
		want["rule"] = append(want["rule"], r.ID)
	}
	var walk func(n *node)
	walk = func(n *node) {
		for _, f := range n.field("properties").members() {
			if w, ok := want[f.name]; ok {
				got := f.value.field("enum").strings()
				line := f.value.at("enum")
				for _, v := range w {
					if !slices.Contains(got, v) {
						s.add(file, line, "the enum of %s lacks %q", f.name, v)
					}
				}
				for _, v := range f.value.field("enum").elements() {
					if !slices.Contains(w, v.text) {
						s.add(file, v.line, "the enum of %s has %q, which is unknown", f.name, v.text)
					}
				}
			}
			walk(f.value)
		}
		if items := n.field("items"); items != nil {
			walk(items)
		}
	}
	walk(n)
}

func texts[T ~string](list []T) []string {
	var out []string
	for _, v := range list {
		out = append(out, string(v))
	}
	return out
}

// limits holds the bounds of the manifest against the schema: each belongs to a text, a list or a number, and none of these is without. It
// returns them in the order of the schema.
func (s *source) limits(e promptEntry, schema *node, limits map[string]bound, manifest *node) []boundedField {
	at := manifest.field("limits").field(e.Name)
	if at == nil {
		s.add(manifestFile, manifest.at("limits"), "there are no limits for %q", e.Name)
		return nil
	}
	var fields []boundedField
	var walk func(n *node, place string)
	walk = func(n *node, place string) {
		if n.field("type") == nil {
			return // its problem is already there
		}
		switch kind := n.field("type").text; kind {
		case "object":
			for _, f := range n.field("properties").members() {
				walk(f.value, strings.TrimPrefix(place+"."+f.name, "."))
			}
		case "array":
			fields = append(fields, boundedField{place, "entries", limits[place]})
			if items := n.field("items"); items != nil {
				walk(items, place+"[]")
			}
		case "integer", "number":
			fields = append(fields, boundedField{place, "", limits[place]})
		case "string":
			if n.field("enum") == nil {
				fields = append(fields, boundedField{place, "characters", limits[place]})
			}
		}
	}
	walk(schema, "")
	for _, f := range at.fields {
		b := limits[f.name]
		if !slices.ContainsFunc(fields, func(known boundedField) bool { return known.name == f.name }) {
			s.add(manifestFile, f.line, "%s has no %s to bound", e.Schema, f.name)
		}
		if b.Min < 0 || b.Max < max(b.Min, 1) {
			s.add(manifestFile, f.line, "the bound of %s is %d to %d", f.name, b.Min, b.Max)
		}
	}
	for _, f := range fields {
		if _, ok := limits[f.name]; !ok {
			s.add(manifestFile, at.line, "the limits of %q lack %s", e.Name, f.name)
		}
	}
	return fields
}

// fixture holds the example of a prompt against its schema and its bounds.
func (s *source) fixture(p *Pack, e promptEntry, m manifest, line int) {
	if _, ok := s.text(e.Fixture, manifestFile, line); !ok {
		return
	}
	name := Name(e.Name)
	if e.Name == repair {
		i := slices.IndexFunc(m.Prompts, func(other promptEntry) bool { return other.Schema == e.Schema && other.Name != repair })
		if i < 0 {
			s.add(manifestFile, line, "the example of repair has the schema %q, which no other prompt has", e.Schema)
			return
		}
		name = Name(m.Prompts[i].Name)
	}
	if p.answers[name] == nil {
		return // its problems are already there
	}
	root, broken := parse(s.files[e.Fixture])
	if broken != nil {
		s.add(e.Fixture, broken.line, "%s", broken.what)
		return
	}
	for _, w := range p.check(name, s.files[e.Fixture]) {
		s.add(e.Fixture, root.lineOf(w.place), "is not valid: %s", w)
	}
}

// lineOf is the line of the value at a place such as findings[2].title, or of the nearest value above it.
func (n *node) lineOf(place string) int {
	for place != "" {
		var next *node
		if rest, ok := strings.CutPrefix(place, "["); ok {
			var i int
			number, after, _ := strings.Cut(rest, "]")
			if _, err := fmt.Sscanf(number, "%d", &i); err == nil && i < len(n.items) {
				next = n.items[i]
			}
			place = after
		} else {
			place = strings.TrimPrefix(place, ".")
			end := strings.IndexAny(place, ".[")
			if end < 0 {
				end = len(place)
			}
			next = n.field(place[:end])
			place = place[end:]
		}
		if next == nil {
			break
		}
		n = next
	}
	return n.line
}

package pack

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	maxFiles     = 500
	maxFileBytes = 1 << 20
	maxProblems  = 200
)

// source is the files of a pack and what is wrong with them.
type source struct {
	files    map[string][]byte
	problems []problem
}

// problem is one thing that is wrong. line counts from 1; it is 1 when the file as a whole is meant.
type problem struct {
	file string
	line int
	what string
}

func (s *source) add(file string, line int, format string, args ...any) {
	s.problems = append(s.problems, problem{file, max(line, 1), fmt.Sprintf(format, args...)})
}

// err is nil when nothing is wrong. Problems are ordered by file and line, each is named once.
func (s *source) err(where string) error {
	if len(s.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(s.problems, func(a, b problem) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.line, b.line), cmp.Compare(a.what, b.what))
	})
	list := slices.Compact(s.problems)
	var b strings.Builder
	fmt.Fprintf(&b, "engine pack in %s: %d problems", where, len(list))
	if len(list) == 1 {
		b.Reset()
		fmt.Fprintf(&b, "engine pack in %s: 1 problem", where)
	}
	for i, p := range list {
		if i == maxProblems {
			fmt.Fprintf(&b, "\n  and %d more", len(list)-i)
			break
		}
		fmt.Fprintf(&b, "\n  %s:%d: %s", p.file, p.line, p.what)
	}
	return errors.New(b.String())
}

// read reads all files. What cannot be read becomes a problem.
func read(from fs.FS) *source {
	s := &source{files: make(map[string][]byte)}
	walk := func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			s.add(name, 1, "cannot be read: %v", err)
			return nil
		}
		if name != "." && strings.IndexByte("._", d.Name()[0]) >= 0 {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() || path.Ext(name) == ".go" {
			return nil
		}
		if len(s.files) == maxFiles {
			s.add(name, 1, "a pack has at most %d files", maxFiles)
			return fs.SkipAll
		}
		info, err := fs.Stat(from, name) // of a link's target: mounted configuration is made of links
		switch {
		case err != nil:
			s.add(name, 1, "cannot be read: %v", err)
			return nil
		case !info.Mode().IsRegular():
			s.add(name, 1, "is no regular file")
			return nil
		case info.Size() > maxFileBytes:
			s.add(name, 1, "has %d bytes, at most %d are allowed", info.Size(), maxFileBytes)
			return nil
		}
		content, err := fs.ReadFile(from, name)
		if err != nil {
			s.add(name, 1, "cannot be read: %v", err)
			return nil
		}
		if i := firstInvalid(content); i >= 0 {
			s.add(name, lineAt(content, i), "is not UTF-8")
		}
		s.files[name] = content
		return nil
	}
	if err := fs.WalkDir(from, ".", walk); err != nil {
		s.add(".", 1, "cannot be read: %v", err)
	}
	return s
}

// text is a file's content. A file that is not there is a problem of the place that names it.
func (s *source) text(name, namedIn string, line int) (string, bool) {
	content, ok := s.files[name]
	switch {
	case name == "":
		s.add(namedIn, line, "names no file")
	case !ok:
		s.add(namedIn, line, "names %s, which is not in the pack", name)
	case strings.TrimSpace(string(content)) == "":
		s.add(name, 1, "is empty")
		return "", false
	}
	return string(content), ok
}

// decode reads a JSON file into v and reports every field that v does not know or that is missing: all are needed but those with
// omitempty. The tree knows the lines; it is nil when the file is no JSON.
func (s *source) decode(name, namedIn string, line int, v any) *node {
	if _, ok := s.text(name, namedIn, line); !ok {
		return nil
	}
	data := s.files[name]
	root, err := parse(data)
	if err != nil {
		s.add(name, err.line, "%s", err.what)
		return nil
	}
	s.compare(name, root, reflect.TypeOf(v).Elem())
	if err := json.Unmarshal(data, v); err != nil {
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			s.add(name, lineAt(data, int(e.Offset)-1), "%s is a %s, want %v", cmp.Or(e.Field, "the file"), e.Value, e.Type)
		} else {
			s.add(name, 1, "%v", err)
		}
		return nil
	}
	return root
}

// compare holds the names of a tree's fields against those of a type.
func (s *source) compare(file string, n *node, t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case n.kind == object && t.Kind() == reflect.Map:
		for _, f := range n.fields {
			s.compare(file, f.value, t.Elem())
		}
	case n.kind == array && t.Kind() == reflect.Slice:
		for _, item := range n.items {
			s.compare(file, item, t.Elem())
		}
	case n.kind == object && t.Kind() == reflect.Struct:
		known := make(map[string]reflect.Type)
		for f := range t.Fields() {
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			known[name] = f.Type
			if n.field(name) == nil && !strings.Contains(options, "omitempty") {
				s.add(file, n.line, "lacks the field %q", name)
			}
		}
		for _, f := range n.fields {
			if ft, ok := known[f.name]; ok {
				s.compare(file, f.value, ft)
			} else {
				s.add(file, f.line, "has the unknown field %q", f.name)
			}
		}
	}
}

// The kinds of nodes.
const (
	object = '{'
	array  = '['
	text   = '"'
	number = '0'
	other  = 't' // true, false, null
)

// node is a value of a JSON file, with the line on which it begins.
type node struct {
	kind   rune
	line   int
	text   string // of a string, a number or a word
	fields []field
	items  []*node
}

// field is one member of an object, with the line of its name.
type field struct {
	name  string
	line  int
	value *node
}

// field is the value of a member, nil if there is none. A nil node has no members.
func (n *node) field(name string) *node {
	if n == nil {
		return nil
	}
	for _, f := range n.fields {
		if f.name == name {
			return f.value
		}
	}
	return nil
}

// at is the line of a member's value, or of the object without it.
func (n *node) at(name string) int {
	if v := n.field(name); v != nil {
		return v.line
	}
	if n == nil {
		return 1
	}
	return n.line
}

// strings are the texts of a list of strings.
func (n *node) strings() []string {
	if n == nil {
		return nil
	}
	var out []string
	for _, i := range n.items {
		out = append(out, i.text)
	}
	return out
}

// syntaxError says where JSON is broken.
type syntaxError struct {
	line int
	what string
}

// parse reads JSON into a tree. A name that an object has twice is an error: readers disagree about which one counts.
func parse(data []byte) (*node, *syntaxError) {
	var any json.RawMessage
	if err := json.Unmarshal(data, &any); err != nil {
		line := 1
		if e, ok := errors.AsType[*json.SyntaxError](err); ok {
			line = lineAt(data, int(e.Offset)-1)
		}
		return nil, &syntaxError{line, "is no JSON: " + err.Error()}
	}
	p := parser{data: data, dec: json.NewDecoder(bytes.NewReader(data)), line: 1}
	p.dec.UseNumber()
	root := p.value()
	if p.err != nil {
		return nil, p.err
	}
	return root, nil
}

// parser makes a tree of JSON that is known to be well-formed.
type parser struct {
	data []byte
	dec  *json.Decoder
	off  int          // up to here lines are counted
	line int          // of off
	err  *syntaxError // the first
}

func (p *parser) token() (json.Token, int) {
	t, err := p.dec.Token()
	if end := int(p.dec.InputOffset()); end > p.off {
		p.line += bytes.Count(p.data[p.off:end], []byte("\n")) // a token has no line ends, so this is its own line
		p.off = end
	}
	if err != nil && p.err == nil {
		p.err = &syntaxError{p.line, "is no JSON: " + err.Error()}
	}
	return t, p.line
}

func (p *parser) value() *node {
	t, line := p.token()
	n := &node{line: line, kind: other}
	switch t := t.(type) {
	case json.Delim:
		n.kind = rune(t)
		seen := make(map[string]bool)
		for p.err == nil && p.dec.More() {
			if n.kind == array {
				n.items = append(n.items, p.value())
				continue
			}
			name, line := p.token()
			f := field{line: line, name: fmt.Sprint(name)}
			if seen[f.name] && p.err == nil {
				p.err = &syntaxError{line, fmt.Sprintf("has %q twice", f.name)}
			}
			seen[f.name] = true
			f.value = p.value()
			n.fields = append(n.fields, f)
		}
		p.token() // the closing one
	case string:
		n.kind, n.text = text, t
	case json.Number:
		n.kind, n.text = number, t.String()
	default:
		n.text = fmt.Sprint(t)
	}
	return n
}

// lineAt is the number of the line that holds the byte at off, from 1.
func lineAt(data []byte, off int) int {
	return bytes.Count(data[:max(0, min(off, len(data)))], []byte("\n")) + 1
}

// firstInvalid is the offset of the first byte that is not UTF-8, or -1.
func firstInvalid(data []byte) int {
	if utf8.Valid(data) {
		return -1
	}
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n <= 1 {
			return i
		}
		i += n
	}
	return -1
}

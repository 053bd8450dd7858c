package pack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"vega/events"
)

// The verdicts of a RefuteAnswer.
const (
	Stands    = "stands"    // the claim is true
	Refuted   = "refuted"   // the claim is wrong
	Uncertain = "uncertain" // the source does not tell
)

// ThreatModelAnswer is a drafted profile.
type ThreatModelAnswer struct {
	events.ThreatProfile
}

// PlanAnswer is what to audit, the riskiest first, and what not.
type PlanAnswer struct {
	Components []Component `json:"components"`
	LeftOut    []LeftOut   `json:"left_out"`
}

// Component is a part of the repository that one agent audits.
type Component struct {
	ID    string   `json:"id"` // lower case, digits and '-'; unique in its plan
	Title string   `json:"title"`
	Paths []string `json:"paths"` // files or folders, relative to the root; "." is everything
	Why   string   `json:"why"`
	Focus []string `json:"focus"` // ids of rules, or questions
}

// LeftOut is a path that was not looked at, and why.
type LeftOut struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// AuditAnswer is what one component's audit came to.
type AuditAnswer struct {
	Findings    []AuditFinding `json:"findings"`
	Examined    []string       `json:"examined"` // paths
	NotExamined []LeftOut      `json:"not_examined"`
	Summary     string         `json:"summary"` // which questions were asked and what answered them
}

// AuditFinding is a weakness as an agent claims it. Nothing of it is proven.
type AuditFinding struct {
	Rule           string `json:"rule"` // an id of the taxonomy
	Severity       string `json:"severity"`
	SeverityReason string `json:"severity_reason"`
	Confidence     string `json:"confidence"`
	Title          string `json:"title"`
	Description    string `json:"description"`
	File           string `json:"file"` // slash-separated, relative to the root
	StartLine      int    `json:"start_line"`
	EndLine        int    `json:"end_line"` // inclusive
	Quote          string `json:"quote"`    // those lines, verbatim
	Symbol         string `json:"symbol"`   // enclosing function or type; may be empty
	AttackPath     string `json:"attack_path"`
	Preconditions  string `json:"preconditions"`
	Evidence       string `json:"evidence"`
	Remediation    string `json:"remediation"`
}

// RefuteAnswer is what an independent look at a claim came to.
type RefuteAnswer struct {
	Verdict        string   `json:"verdict"`
	Reason         string   `json:"reason"`
	Checked        []string `json:"checked"`  // path:line, or path:line-line
	Severity       string   `json:"severity"` // the claim's, or a lower or higher one
	SeverityReason string   `json:"severity_reason"`
}

const (
	maxAnswerBytes     = 1 << 20
	maxAnswerProblems  = 40
	maxFindingLines    = 100 // of one finding's place
	maxProblemText     = 300 // bytes
	maxProblemsInError = 5   // that Error names; the field has all
)

// AnswerError says why an answer is not accepted, in words that a model can act on. Problems has at least one and at most 40 entries.
type AnswerError struct {
	Name     Name
	Problems []string
}

func (e *AnswerError) Error() string {
	shown := e.Problems[:min(len(e.Problems), maxProblemsInError)]
	more := ""
	if n := len(e.Problems) - len(shown); n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("answer to %s: %s%s", e.Name, strings.Join(shown, "; "), more)
}

// Check holds an answer against its schema, its bounds, and what neither can say. It returns an *AnswerError, or nil. The answer must be
// JSON and nothing else: what is fenced in ``` is not accepted.
func (p *Pack) Check(n Name, answer []byte) error {
	wrongs := p.check(n, answer)
	if len(wrongs) == 0 {
		return nil
	}
	e := &AnswerError{Name: n}
	for _, w := range wrongs[:min(len(wrongs), maxAnswerProblems)] {
		e.Problems = append(e.Problems, w.String())
	}
	return e
}

// wrong is one thing that is wrong with an answer. place is such as findings[2].title, empty for the whole.
type wrong struct {
	place string
	what  string
	cut   int  // a text that is too long would do with so many characters, a list with so many entries; 0: it is something else
	again bool // an entry says what an earlier one has said
}

func (w wrong) String() string {
	s := oneLine(w.what, maxProblemText)
	if w.place != "" {
		s = w.place + ": " + s
	}
	return s
}

// whole is one problem of an answer as such.
func whole(format string, args ...any) []wrong { return []wrong{{what: fmt.Sprintf(format, args...)}} }

func (p *Pack) check(n Name, answer []byte) []wrong {
	k := p.answers[n]
	switch {
	case k == nil:
		return whole("the pack has no prompt %q", n)
	case len(answer) > maxAnswerBytes:
		return whole("the answer has %d bytes, at most %d are allowed", len(answer), maxAnswerBytes)
	case firstInvalid(answer) >= 0:
		return whole("line %d is not UTF-8", lineAt(answer, firstInvalid(answer)))
	case len(bytes.TrimSpace(answer)) == 0:
		return whole("the answer is empty")
	}
	root, broken := parse(answer)
	if broken != nil {
		return whole("line %d: the answer %s", broken.line, broken.what)
	}
	c := checker{kind: k}
	c.bounds(root, "", "")
	if c.endless {
		return c.wrongs // a validator that lists each of a million errors takes many seconds
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(answer))
	if err != nil {
		return whole("%v", err)
	}
	if err := k.compiled.Validate(doc); err != nil {
		if e, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
			return schemaWrongs(e)
		}
		return whole("%v", err)
	}
	c.meaning(p, n, answer)
	return c.wrongs
}

// schemaWrongs are the innermost causes of a validator's error.
func schemaWrongs(e *jsonschema.ValidationError) []wrong {
	var out []wrong
	for _, u := range e.BasicOutput().Errors {
		if u.Error == nil {
			continue
		}
		switch u.Error.Kind.(type) {
		case *kind.Schema, *kind.Group:
			continue
		}
		var place strings.Builder
		for part := range strings.SplitSeq(strings.TrimPrefix(u.InstanceLocation, "/"), "/") {
			if _, err := strconv.Atoi(part); err == nil {
				place.WriteString("[" + part + "]")
			} else if part != "" {
				place.WriteString("." + part)
			}
		}
		out = append(out, wrong{place: strings.TrimPrefix(place.String(), "."), what: u.Error.String()})
	}
	if len(out) == 0 {
		out = append(out, whole("%v", e)...)
	}
	return out
}

// checker collects what is wrong with an answer beyond its schema.
type checker struct {
	kind    *answerKind
	wrongs  []wrong
	endless bool // a list has more entries than it may have
}

// add notes a problem. More than are reported are not kept.
func (c *checker) add(place, format string, args ...any) *wrong {
	if len(c.wrongs) == maxAnswerProblems {
		return new(wrong) // nobody's
	}
	c.wrongs = append(c.wrongs, wrong{place: place, what: fmt.Sprintf(format, args...)})
	return &c.wrongs[len(c.wrongs)-1]
}

// bounds holds every text, list and number against its bound. place has the indexes of lists, field has none.
func (c *checker) bounds(n *node, place, field string) {
	f, ok := c.kind.field(field)
	switch n.kind {
	case object:
		for _, f := range n.fields {
			c.bounds(f.value, strings.TrimPrefix(place+"."+f.name, "."), strings.TrimPrefix(field+"."+f.name, "."))
		}
	case array:
		if ok && f.unit == "entries" && (len(n.items) < f.Min || len(n.items) > f.Max) {
			w := c.add(place, "has %d entries, want %d to %d", len(n.items), f.Min, f.Max)
			if len(n.items) > f.Max {
				c.endless = true
				w.cut = f.Max
			}
		}
		for i, item := range n.items {
			c.bounds(item, fmt.Sprintf("%s[%d]", place, i), field+"[]")
		}
	case text:
		ok = ok && f.unit == "characters"
		length := utf8.RuneCountInString(n.text)
		switch {
		case strings.ContainsRune(n.text, 0):
			c.add(place, "has a NUL character")
		case ok && length > f.Max:
			c.add(place, "has %d characters, at most %d are allowed", length, f.Max).cut = f.Max
		case ok && utf8.RuneCountInString(strings.TrimSpace(n.text)) < f.Min:
			c.add(place, "has fewer than %d characters", f.Min)
		case ok && f.OneLine && strings.ContainsAny(n.text, "\n\r"):
			c.add(place, "must be one line")
		}
	case number:
		if ok && f.unit == "" {
			if v, err := strconv.ParseFloat(n.text, 64); err != nil || v < float64(f.Min) || v > float64(f.Max) {
				c.add(place, "is %s, want %d to %d", oneLine(n.text, 40), f.Min, f.Max)
			}
		}
	}
}

var checkedForm = regexp.MustCompile(`^(.+):([1-9]\d{0,7})(?:-([1-9]\d{0,7}))?$`)

// meaning checks what a schema cannot say.
func (c *checker) meaning(p *Pack, n Name, answer []byte) {
	switch n {
	case Plan:
		var a PlanAnswer
		if c.decode(answer, &a) {
			c.plan(p, a)
		}
	case Audit:
		var a AuditAnswer
		if c.decode(answer, &a) {
			c.audit(a)
		}
	case Refute:
		var a RefuteAnswer
		if c.decode(answer, &a) {
			c.refute(a)
		}
	case ThreatModel:
		c.decode(answer, new(ThreatModelAnswer))
	}
}

func (c *checker) decode(answer []byte, v any) bool {
	dec := json.NewDecoder(bytes.NewReader(answer))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		c.add("", "%v", err)
		return false
	}
	return true
}

func (c *checker) plan(p *Pack, a PlanAnswer) {
	for i, comp := range a.Components {
		place := fmt.Sprintf("components[%d]", i)
		if !idForm.MatchString(comp.ID) {
			c.add(place+".id", "%q must be lower-case words of letters and digits joined by '-'", comp.ID)
		}
		c.paths(place+".paths", comp.Paths)
		for j, f := range comp.Focus {
			if _, known := p.Rule(f); ruleForm.MatchString(f) && !known {
				c.add(fmt.Sprintf("%s.focus[%d]", place, j), "%q is neither the id of a rule nor a question", f)
			}
		}
	}
	c.leftOut("left_out", a.LeftOut)
}

func (c *checker) audit(a AuditAnswer) {
	type place struct {
		rule, file string
		line       int
	}
	seen := make(map[place]int)
	for i, f := range a.Findings {
		at := fmt.Sprintf("findings[%d]", i)
		c.path(at+".file", f.File, false)
		if f.EndLine < f.StartLine || f.EndLine-f.StartLine >= maxFindingLines {
			c.add(at+".end_line", "lines %d to %d, want 1 to %d lines", f.StartLine, f.EndLine, maxFindingLines)
		}
		key := place{f.Rule, f.File, f.StartLine}
		if first, ok := seen[key]; ok {
			c.add(at, "is the same rule and place as findings[%d]", first).again = true
		} else {
			seen[key] = i
		}
	}
	c.paths("examined", a.Examined)
	c.leftOut("not_examined", a.NotExamined)
}

func (c *checker) refute(a RefuteAnswer) {
	for i, s := range a.Checked {
		m := checkedForm.FindStringSubmatch(s)
		if m == nil || !validPath(m[1], false) {
			c.add(fmt.Sprintf("checked[%d]", i), "%q is no place, want path:line", s)
		}
	}
}

func (c *checker) paths(place string, list []string) {
	seen := make(map[string]bool)
	for i, s := range list {
		at := fmt.Sprintf("%s[%d]", place, i)
		c.path(at, s, true)
		if seen[s] {
			c.add(at, "%q is there twice", s).again = true
		}
		seen[s] = true
	}
}

func (c *checker) leftOut(place string, list []LeftOut) {
	for i, l := range list {
		c.path(fmt.Sprintf("%s[%d].path", place, i), l.Path, true)
	}
}

func (c *checker) path(place, s string, folders bool) {
	if !validPath(s, folders) {
		c.add(place, "%q is no path relative to the repository's root", s)
	}
}

// validPath reports whether s is relative, slash-separated and without "." and "..". A folder may end in a slash, and be "." itself.
func validPath(s string, folders bool) bool {
	if folders && s == "." {
		return true
	}
	if folders {
		s = strings.TrimSuffix(s, "/")
	}
	return fs.ValidPath(s) && s != "." && path.Clean(s) == s
}

package pack

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"vega/events"
)

// Subject is what is scanned, as the inventory found it. Everything in it is data from the source: prompts get it fenced, cleaned and
// cut to bounds, with a note of how much was left out.
type Subject struct {
	Files        int
	Bytes        int64
	Languages    []string // "Go, 31 files", most first
	Frameworks   []string
	Manifests    []string
	EntryPoints  []string // "main.go:10 server http.ListenAndServe("
	Dependencies []string
	Paths        []string // selected for the scan; empty: everything
}

// ThreatModelInput is for drafting a profile of a repository that has none.
type ThreatModelInput struct{ Subject }

// PlanInput is for dividing a repository into components.
type PlanInput struct {
	Subject
	Profile       events.ThreatProfile
	MaxComponents int      // 0, or more than the pack allows: what the pack allows
	Folders       []string // "services/api 41 files 310 KB"
}

// AuditInput is for auditing one component.
type AuditInput struct {
	Subject
	Profile     events.ThreatProfile
	Component   Component
	Others      []string // titles of the plan's other components
	Guides      []string // from Pack.Guides, which are not fenced
	MaxFindings int      // 0, or more than the pack allows: what the pack allows
}

// Claim is a finding without its finder's confidence: what an independent look gets.
type Claim struct {
	Rule        string // an id of the taxonomy
	Title       string
	Severity    string
	Description string
	File        string
	StartLine   int
	EndLine     int
	Quote       string
	AttackPath  string
	Evidence    string
}

// RefuteInput is for trying to refute one claim.
type RefuteInput struct {
	Profile events.ThreatProfile
	Claim   Claim
	Guides  []string // from Pack.Guides, which are not fenced
}

// RepairInput is for giving an answer once more that Check did not accept. The repaired answer has the schema of the broken one.
type RepairInput struct {
	Problems []string // of the AnswerError
	Answer   string   // as it came
}

// MaxPromptBytes is the longest that a prompt can be, whatever the input.
const MaxPromptBytes = 192 << 10

// What of an input a prompt carries at most; the rest is counted.
const (
	maxItemBytes = 300 // of one line of a list

	maxLanguages, maxLanguageBytes     = 20, 1_500
	maxFrameworks, maxFrameworkBytes   = 20, 1_000
	maxManifests, maxManifestBytes     = 80, 5_000
	maxEntries, maxEntryBytes          = 120, 10_000
	maxDependencies, maxDependencyByte = 200, 6_000
	maxPaths, maxPathBytes             = 100, 6_000
	maxFolders, maxFolderBytes         = 300, 14_000
	maxProfileItems, maxProfileBytes   = 30, 2_500 // of each of its lists
	maxFocus, maxFocusBytes            = 30, 4_000
	maxOthers, maxOtherBytes           = 60, 4_000
	maxRepairItems, maxRepairBytes     = 60, 8_000

	maxSummaryBytes = 3_000
	maxTextBytes    = 6_000 // of one text of a claim
	maxAnswerPrompt = 96 << 10
)

// ThreatModelPrompt asks for a ThreatModelAnswer.
func (p *Pack) ThreatModelPrompt(in ThreatModelInput) (string, error) {
	return p.render(string(ThreatModel), map[string]any{"Subject": in.block(), "Bounds": p.bounds(ThreatModel, "", 0)})
}

// PlanPrompt asks for a PlanAnswer.
func (p *Pack) PlanPrompt(in PlanInput) (string, error) {
	folders := newBlock("folders")
	folders.list("", in.Folders, maxFolders, maxFolderBytes)
	most := p.atMost(Plan, "components", in.MaxComponents)
	return p.render(string(Plan), map[string]any{
		"Subject": in.block(), "Profile": profileBlock(in.Profile), "Folders": folders.String(), "RuleIDs": p.ruleIDs(),
		"MaxComponents": most, "Bounds": p.bounds(Plan, "components", most),
	})
}

// AuditPrompt asks for an AuditAnswer.
func (p *Pack) AuditPrompt(in AuditInput) (string, error) {
	others := newBlock("other components")
	others.list("", in.Others, maxOthers, maxOtherBytes)
	most := p.atMost(Audit, "findings", in.MaxFindings)
	return p.render(string(Audit), map[string]any{
		"Subject": in.block(), "Profile": profileBlock(in.Profile), "Component": in.Component.block(), "Others": others.String(),
		"Guides": guideTexts(in.Guides), "Rules": p.Rules(), "MaxFindings": most, "Bounds": p.bounds(Audit, "findings", most),
	})
}

// RefutePrompt asks for a RefuteAnswer. A claim whose rule the taxonomy does not have is an error.
func (p *Pack) RefutePrompt(in RefuteInput) (string, error) {
	rule, ok := p.Rule(in.Claim.Rule)
	if !ok {
		return "", fmt.Errorf("prompt to refute a claim: the taxonomy has no rule %q", oneLine(in.Claim.Rule, 100))
	}
	return p.render(string(Refute), map[string]any{
		"Profile": profileBlock(in.Profile), "Claim": in.Claim.block(), "Rule": rule, "Guides": guideTexts(in.Guides),
		"Bounds": p.bounds(Refute, "", 0),
	})
}

// RepairPrompt asks for an answer once more. Of an answer longer than 96 KiB it shows the beginning.
func (p *Pack) RepairPrompt(in RepairInput) (string, error) {
	problems, answer := newBlock("problems"), newBlock("answer")
	problems.list("", in.Problems, maxRepairItems, maxRepairBytes)
	answer.text("", in.Answer, maxAnswerPrompt)
	return p.render(repair, map[string]any{"Problems": problems.String(), "Answer": answer.String()})
}

// render executes a prompt. A pack that was loaded has executed every prompt before, so an error here is a fault of this package.
func (p *Pack) render(name string, data map[string]any) (string, error) {
	t := p.prompts[name]
	if t == nil {
		return "", fmt.Errorf("the pack has no prompt %q", name)
	}
	var b strings.Builder
	if err := t.Execute(&b, data); err != nil {
		return "", fmt.Errorf("prompt %s: %w", name, err)
	}
	if b.Len() > MaxPromptBytes {
		return "", fmt.Errorf("prompt %s has %d bytes, at most %d are allowed", name, b.Len(), MaxPromptBytes)
	}
	return strings.TrimSpace(b.String()) + "\n", nil
}

// atMost is n within what the pack allows of a list.
func (p *Pack) atMost(name Name, field string, n int) int {
	limit, _ := p.answers[name].field(field)
	if n <= 0 {
		return limit.Max
	}
	return min(n, limit.Max)
}

// bounds are the bounds of an answer in words, so that an answer does not fail for a length that nobody named. The list called field may have at
// most most entries.
func (p *Pack) bounds(name Name, field string, most int) string {
	var parts []string
	for _, f := range p.answers[name].fields {
		if f.name == field {
			f.Max = most
		}
		if f.unit == "" {
			continue // numbers of lines have bounds that nobody reaches
		}
		s := fmt.Sprintf("`%s` at most %d %s", f.name, f.Max, f.unit)
		if f.Min > 1 || f.Min == 1 && f.unit == "entries" {
			s = fmt.Sprintf("`%s` %d to %d %s", f.name, f.Min, f.Max, f.unit)
		}
		if f.OneLine {
			s += " on one line"
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, "; ") + "."
}

// ruleIDs are the ids of all rules.
func (p *Pack) ruleIDs() string {
	var ids []string
	for _, r := range p.rules {
		ids = append(ids, "`"+r.ID+"`")
	}
	return strings.Join(ids, ", ")
}

func (s Subject) block() string {
	b := newBlock("repository")
	b.line("size: ", fmt.Sprintf("%d files, %d bytes", s.Files, s.Bytes), 100)
	if len(s.Paths) == 0 {
		b.line("selected: ", "everything", 100)
	} else {
		b.list("selected, and nothing else is to be audited", s.Paths, maxPaths, maxPathBytes)
	}
	b.list("languages", s.Languages, maxLanguages, maxLanguageBytes)
	b.list("frameworks", s.Frameworks, maxFrameworks, maxFrameworkBytes)
	b.list("manifests", s.Manifests, maxManifests, maxManifestBytes)
	b.list("entry points", s.EntryPoints, maxEntries, maxEntryBytes)
	b.list("dependencies", s.Dependencies, maxDependencies, maxDependencyByte)
	return b.String()
}

func profileBlock(p events.ThreatProfile) string {
	b := newBlock("threat profile")
	b.text("summary", p.Summary, maxSummaryBytes)
	b.list("assets", p.Assets, maxProfileItems, maxProfileBytes)
	b.list("entry points", p.EntryPoints, maxProfileItems, maxProfileBytes)
	b.list("trust boundaries", p.TrustBoundaries, maxProfileItems, maxProfileBytes)
	b.list("risks", p.Risks, maxProfileItems, maxProfileBytes)
	b.list("out of scope", p.OutOfScope, maxProfileItems, maxProfileBytes)
	return b.String()
}

func (c Component) block() string {
	b := newBlock("component")
	b.line("id: ", c.ID, maxItemBytes)
	b.line("title: ", c.Title, maxItemBytes)
	b.list("paths", c.Paths, maxPaths, maxPathBytes)
	b.text("why", c.Why, maxSummaryBytes)
	b.list("focus", c.Focus, maxFocus, maxFocusBytes)
	return b.String()
}

func (c Claim) block() string {
	b := newBlock("claim")
	b.line("title: ", c.Title, maxItemBytes)
	b.line("severity: ", c.Severity, 20)
	b.line("file: ", c.File, 4*maxItemBytes)
	b.line("lines: ", strconv.Itoa(c.StartLine)+" to "+strconv.Itoa(c.EndLine), 40)
	b.text("quote", c.Quote, maxTextBytes)
	b.text("description", c.Description, maxTextBytes)
	b.text("attack path", c.AttackPath, maxTextBytes)
	b.text("evidence", c.Evidence, maxTextBytes)
	return b.String()
}

// guideTexts bounds what a caller passes on: what Guides returns passes as it is.
func guideTexts(list []string) []string {
	var out []string
	for _, g := range list[:min(len(list), maxGuides)] {
		out = append(out, cut(g, maxGuideBytes))
	}
	return out
}

// samples are the values of each prompt with which Load tries it, all different, so that one which a template leaves out is missed.
func (p *Pack) samples() map[string]map[string]any {
	block := func(label string) string {
		b := newBlock(label)
		b.text("", "sample of "+label, 100)
		return b.String()
	}
	guides := []string{"first sample of a guide", "second sample of a guide"}
	return map[string]map[string]any{
		string(ThreatModel): {"Subject": block("repository"), "Bounds": "sample of bounds"},
		string(Plan): {"Subject": block("repository"), "Profile": block("threat profile"), "Folders": block("folders"), "RuleIDs": "sample of ids",
			"MaxComponents": 7919, "Bounds": "sample of bounds"},
		string(Audit): {"Subject": block("repository"), "Profile": block("threat profile"), "Component": block("component"),
			"Others": block("other components"), "Guides": guides, "Rules": p.rules, "MaxFindings": 7919, "Bounds": "sample of bounds"},
		string(Refute): {"Profile": block("threat profile"), "Claim": block("claim"), "Guides": guides, "Bounds": "sample of bounds",
			"Rule": Rule{ID: "sample.rule", Title: "sample title", CWE: []string{"CWE-7919"}, Summary: "sample summary", Not: "sample exception"}},
		repair: {"Problems": block("problems"), "Answer": block("answer")},
	}
}

// templates parses the prompts with the texts that they include, and tries each with samples and with as little as there can be.
func (s *source) templates(p *Pack, m manifest, root *node) {
	shared := template.New("").Option("missingkey=error")
	includes := append(slices.Clone(m.Partials), m.Severity)
	for i, name := range includes {
		line := root.at("severity")
		if i < len(m.Partials) {
			line = root.field("partials").items[i].line
		}
		if content, ok := s.text(name, manifestFile, line); ok {
			s.parseTemplate(shared, name, content)
		}
	}
	samples := p.samples()
	for i, e := range m.Prompts {
		content, ok := s.text(e.Template, manifestFile, root.field("prompts").items[i].at("template"))
		if !ok || samples[e.Name] == nil {
			continue
		}
		set, err := shared.Clone()
		if err != nil {
			s.add(e.Template, 1, "%v", err)
			continue
		}
		t := s.parseTemplate(set, e.Template, content)
		if t == nil {
			continue
		}
		p.prompts[e.Name] = t
		s.try(t, e, samples[e.Name], append(slices.Clone(m.Partials), m.Severity))
	}
}

func (s *source) parseTemplate(set *template.Template, name, content string) *template.Template {
	t, err := set.New(name).Parse(content)
	if err != nil {
		s.templateError(name, err)
		return nil
	}
	return t
}

// try executes a prompt and looks for everything that it was given. Audits and refutations must have the criteria of severity, and all that
// read the source must have every partial.
func (s *source) try(t *template.Template, e promptEntry, sample map[string]any, includes []string) {
	var b strings.Builder
	if err := t.Execute(&b, sample); err != nil {
		s.templateError(e.Template, err)
		return
	}
	out := b.String()
	for name, v := range sample {
		for _, want := range sampleTexts(v) {
			if !strings.Contains(out, want) {
				s.add(e.Template, 1, "does not place .%s", name)
				break
			}
		}
	}
	for i, name := range includes {
		severity := i == len(includes)-1
		if e.Name == repair || severity && e.Name != string(Audit) && e.Name != string(Refute) {
			continue
		}
		if !strings.Contains(out, strings.TrimSpace(string(s.files[name]))) {
			s.add(e.Template, 1, "does not include %s", name)
		}
	}
	bare := make(map[string]any)
	for name, v := range sample {
		if name == "Guides" {
			v = []string(nil)
		}
		bare[name] = v
	}
	if err := t.Execute(io.Discard, bare); err != nil {
		s.templateError(e.Template, err)
	}
}

// sampleTexts are what must be in a prompt that was given v.
func sampleTexts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case int:
		return []string{strconv.Itoa(v)}
	case []string:
		return v
	case Rule:
		return append([]string{v.ID, v.Title, v.Summary, v.Not}, v.CWE...)
	case []Rule:
		var out []string
		for _, r := range v {
			out = append(out, r.ID, r.Summary, r.Not)
		}
		return out
	}
	return nil
}

var templateErrorForm = regexp.MustCompile(`(?s)^template: (.+?):(\d+)(?::\d+)?: (.*)$`)

// templateError adds an error of text/template at the file and line that it names.
func (s *source) templateError(file string, err error) {
	if e, ok := errors.AsType[template.ExecError](err); ok {
		err = e.Err
	}
	m := templateErrorForm.FindStringSubmatch(err.Error())
	if m == nil {
		s.add(file, 1, "%v", err)
		return
	}
	line, _ := strconv.Atoi(m[2]) // digits
	s.add(cmp.Or(path.Clean(m[1]), file), line, "%s", m[3])
}

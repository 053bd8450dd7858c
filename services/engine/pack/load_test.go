package pack_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"vega/services/engine/pack"
	"vega/v16"
)

func builtIn(tb testing.TB) *pack.Pack {
	tb.Helper()
	p, err := pack.Load(v16.Files(), "the built-in pack")
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// copied is the built-in pack as files that a test may change.
func copied(tb testing.TB) fstest.MapFS {
	tb.Helper()
	out := make(fstest.MapFS)
	err := fs.WalkDir(v16.Files(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(v16.Files(), name)
		out[name] = &fstest.MapFile{Data: content, Mode: 0o644}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func TestTheBuiltInPackLoads(t *testing.T) {
	t.Parallel()
	p := builtIn(t)
	if !regexp.MustCompile(`^16\.\d+\.\d+$`).MatchString(p.Version()) {
		t.Errorf("version %q", p.Version())
	}
	if n := len(p.Rules()); n < 40 {
		t.Errorf("%d rules", n)
	}
	for _, n := range []pack.Name{pack.ThreatModel, pack.Plan, pack.Audit, pack.Refute} {
		if !json.Valid(p.Schema(n)) {
			t.Errorf("the schema of %s is no JSON", n)
		}
	}
	if p.Schema("repair") != nil || p.Schema("nonsense") != nil {
		t.Error("a prompt without a schema of its own has one")
	}
}

// A checkout has Go files and editors' files beside the pack; the copy in a program has not.
func TestAFolderAndTheBuiltInCopyHaveTheSameDigest(t *testing.T) {
	t.Parallel()
	folder := filepath.Join("..", "..", "..", "v16")
	if _, err := os.Stat(filepath.Join(folder, "v16.go")); err != nil {
		t.Fatal(err)
	}
	p, err := pack.Load(os.DirFS(folder), folder)
	if err != nil {
		t.Fatal(err)
	}
	if p.Digest() != builtIn(t).Digest() {
		t.Errorf("digest of the folder = %s, of the copy = %s", p.Digest(), builtIn(t).Digest())
	}
	files := copied(t)
	files["prompts/.audit.md.swp"] = &fstest.MapFile{Data: []byte{0xff}}
	files[".git/config"] = &fstest.MapFile{Data: []byte("x")}
	files["_notes/x.md"] = &fstest.MapFile{Data: []byte("x")}
	p, err = pack.Load(files, "a copy")
	if err != nil {
		t.Fatal(err)
	}
	if p.Digest() != builtIn(t).Digest() {
		t.Error("hidden files change the digest")
	}
}

func TestTheDigestChangesWithEveryFile(t *testing.T) {
	t.Parallel()
	files := copied(t)
	seen := map[string]string{string(builtIn(t).Digest()): "the pack itself"}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		original := files[name].Data
		files[name].Data = append(bytes.TrimSuffix(bytes.Clone(original), []byte("\n")), "\n\n"...)
		p, err := pack.Load(files, "a copy")
		if err != nil {
			t.Fatalf("a blank line in %s: %v", name, err)
		}
		if other, ok := seen[string(p.Digest())]; ok {
			t.Errorf("the digest with a changed %s is that of %s", name, other)
		}
		seen[string(p.Digest())] = name
		files[name].Data = original
	}
}

// damage is one change of a good pack, and what Load must say about it.
type damage struct {
	name   string
	file   string
	old    string // the first occurrence is replaced; empty: the whole file is
	new    string // "REMOVED" removes the file
	atFile string // empty: file
	at     string // the reported line is the first that has this text after the change; empty: line 1
	says   string
}

func TestADamagedPackIsRefusedWithFileAndLine(t *testing.T) {
	t.Parallel()
	for _, d := range []damage{
		{"no manifest", "pack.json", "", "REMOVED", "", "", "is missing"},
		{"no JSON", "pack.json", `"version": "16.1.0",`, `"version": "16.1.0"`, "", `"taxonomy": "taxonomy.json"`, "is no JSON"},
		{"cut off", "taxonomy.json", "", "{\n \"schema_version\": 1,\n \"rules\": [", "", `"rules": [`, "is no JSON"},
		{"unknown field", "pack.json", `"severity": "severity.md",`, `"severity": "severity.md", "colour": "red",`, "", `"colour"`, `has the unknown field "colour"`},
		{"unknown field of a prompt", "pack.json", `"name": "plan",`, "\"name\": \"plan\",\n\"nmae\": \"plan\",", "", `"nmae"`, `has the unknown field "nmae"`},
		{"missing field", "pack.json", `"models": "models.json",`, ``, "", "{", `lacks the field "models"`},
		{"field twice", "pack.json", `"severity": "severity.md",`, "\"severity\": \"severity.md\",\n\"severity\": \"other.md\",", "", `"other.md"`, `has "severity" twice`},
		{"wrong type", "pack.json", `"version": "16.1.0"`, `"version": 16`, "", `"version": 16`, "version is a number, want string"},
		{"wrong schema version", "pack.json", `"schema_version": 1`, `"schema_version": 2`, "", `"schema_version"`, "schema_version is 2, want 1"},
		{"version of another engine", "pack.json", `"16.1.0"`, `"17.0.0"`, "", `"17.0.0"`, `version is "17.0.0"`},
		{"prompt misnamed", "pack.json", `"name": "refute"`, `"name": "refutes"`, "", `"refutes"`, `prompt "refutes" is unknown`},
		{"prompt twice", "pack.json", `"name": "refute"`, `"name": "audit"`, "", `"prompts": [`, `prompt "refute" is missing`},
		{"template missing", "prompts/audit.md", "", "REMOVED", "pack.json", `"prompts/audit.md"`, "names prompts/audit.md, which is not in the pack"},
		{"checklist missing", "prompts/plan.checklist.md", "", "REMOVED", "pack.json", `"prompts/plan.checklist.md"`, "names prompts/plan.checklist.md, which is not in the pack"},
		{"checklist empty", "prompts/plan.checklist.md", "", "\n", "", "", "is empty"},
		{"fixture missing", "prompts/plan.good.json", "", "REMOVED", "pack.json", `"prompts/plan.good.json"`, "names prompts/plan.good.json, which is not in the pack"},
		{"schema missing", "schemas/plan.json", "", "REMOVED", "pack.json", `"schemas/plan.json"`, "names schemas/plan.json, which is not in the pack"},
		{"guide missing", "guides/go.md", "", "REMOVED", "pack.json", `"guides/go.md"`, "names guides/go.md, which is not in the pack"},
		{"partial missing", "prompts/common.md", "", "REMOVED", "pack.json", `"partials"`, "names prompts/common.md, which is not in the pack"},
		{"severity missing", "severity.md", "", "REMOVED", "pack.json", `"severity.md"`, "names severity.md, which is not in the pack"},
		{"base missing", "prompts/base.md", "", "REMOVED", "pack.json", `"prompts/base.md"`, "names prompts/base.md, which is not in the pack"},
		{"readme missing", "README.md", "", "REMOVED", "", "", "is missing"},
		{"stray file", "guides/cobol.md", "", "# COBOL", "", "", "is not named in pack.json"},
		{"not UTF-8", "guides/go.md", "# Go\n", "# Go\n\xff\n", "", "\xff", "is not UTF-8"},
		{"too large", "guides/go.md", "", strings.Repeat("x", 1<<20+1), "", "", "has 1048577 bytes"},

		{"rule twice", "taxonomy.json", `"id": "injection.query"`, `"id": "injection.sql"`, "", "\"id\": \"injection.sql\",\n      \"title\": \"Injection into", `rule "injection.sql" is there twice`},
		{"rule id in capitals", "taxonomy.json", `"id": "ssrf.request"`, `"id": "SSRF"`, "", `"SSRF"`, `rule id "SSRF"`},
		{"rule without CWE", "taxonomy.json", "\"cwe\": [\n        \"CWE-918\"\n      ]", `"cwe": []`, "", `"cwe": []`, `rule "ssrf.request" has no CWE`},
		{"CWE in another form", "taxonomy.json", `"CWE-918"`, `"CWE 918"`, "", `"CWE 918"`, `has the CWE "CWE 918"`},
		{"rule without a field", "taxonomy.json", `"title": "SQL injection",`, ``, "", "{\n      \"id\": \"injection.sql\"", `lacks the field "title"`},
		{"rule without a summary", "taxonomy.json", `"title": "SQL injection"`, `"title": " "`, "", `"title": " "`, `rule "injection.sql": title must be one line`},
		{"rule that the schema lacks", "schemas/audit.json", "\"ssrf.request\",\n", "", "", `"enum": [`, `the enum of rule lacks "ssrf.request"`},
		{"rule that the taxonomy lacks", "schemas/audit.json", `"ssrf.request"`, `"ssrf.reqest"`, "", `"ssrf.reqest"`, `the enum of rule has "ssrf.reqest", which is unknown`},
		{"severity that does not exist", "schemas/refute.json", `"info"`, `"none"`, "", `"none"`, `the enum of severity has "none"`},

		{"object not strict", "schemas/refute.json", `"additionalProperties": false`, `"additionalProperties": true`, "", `"additionalProperties"`, "additionalProperties must be false"},
		{"property not required", "schemas/refute.json", "    \"reason\",\n", "", "", `"reason": {`, `"reason" is not required`},
		{"requires what is not there", "schemas/refute.json", "    \"reason\",\n", "    \"reason\",\n    \"mood\",\n", "", `"mood"`, `requires "mood"`},
		{"bound in the schema", "schemas/refute.json", `"reason": {`, "\"reason\": {\n\"maxLength\": 10,", "", `"maxLength"`, `has the keyword "maxLength"`},
		{"reference in the schema", "schemas/refute.json", `"reason": {`, "\"reason\": {\n\"$ref\": \"#\",", "", `"$ref"`, `has the keyword "$ref"`},
		{"list without items", "schemas/plan.json", `"items": {`, `"item": {`, "", `"item"`, `has the keyword "item"`},
		{"unknown type", "schemas/refute.json", `"type": "string"`, `"type": "text"`, "", `"type": "text"`, `has the type "text"`},

		{"limit of no field", "pack.json", `"checked": {`, "\"chekced\": {\"max\": 3},\n      \"checked\": {", "", `"chekced"`, "has no chekced to bound"},
		{"field without limit", "pack.json", `"reason": {"min": 40, "max": 5000},`, ``, "", `"refute": {`, `the limits of "refute" lack reason`},
		{"limit turned round", "pack.json", `"reason": {"min": 40, "max": 5000}`, `"reason": {"min": 40, "max": 4}`, "", `"max": 4}`, "the bound of reason is 40 to 4"},
		{"limits of no prompt", "pack.json", `"limits": {`, "\"limits\": {\n\"repair\": {},", "", `"repair": {}`, `not for "repair"`},

		{"fixture with a wrong field", "prompts/refute.good.json", `"verdict": "stands"`, `"verdict": "true"`, "", `"verdict"`, "is not valid: verdict: "},
		{"fixture with an unknown field", "prompts/refute.good.json", `"verdict": "stands"`, `"verdict": "stands", "mood": "good"`, "", "{", "is not valid: "},
		{"fixture beyond a bound", "prompts/plan.good.json", `"id": "imports"`, `"id": "` + strings.Repeat("i", 61) + `"`, "", `"iiii`, "is not valid: components[1].id: has 61 characters"},
		{"fixture with a wrong place", "prompts/audit.good.json", `"end_line": 34`, `"end_line": 30`, "", `"end_line"`, "is not valid: findings[0].end_line: lines 31 to 30"},
		{"fixture without JSON", "prompts/audit.good.json", "", "{\n}}", "", "}}", "is no JSON"},
		{"example of repair for no prompt", "pack.json", "\"schema\": \"schemas/audit.json\",\n      \"fixture\": \"prompts/repair.good.json\"", "\"schema\": \"severity.md\",\n      \"fixture\": \"prompts/repair.good.json\"", "", `"prompts/repair.good.json"`, "which no other prompt has"},

		{"template broken", "prompts/plan.md", "{{.Subject}}", "{{.Subject}", "", "{{.Subject}", "bad character"},
		{"template with an unknown field", "prompts/plan.md", "{{.Folders}}", "{{.Folder}}", "", "{{.Folder}}", `map has no entry for key "Folder"`},
		{"template with an unknown function", "prompts/plan.md", "{{.Folders}}", "{{shout .Folders}}", "", "{{shout", `function "shout" not defined`},
		{"template with an unknown field of a rule", "prompts/audit.md", "{{.Summary}}", "{{.Sumary}}", "", "{{.Sumary}}", "can't evaluate field Sumary"},
		{"template with an unknown field in a branch", "prompts/audit.md", "{{range .Guides}}{{.}}", "{{range .Guides}}{{.Text}}", "", "{{.Text}}", "can't evaluate field Text"},
		{"partial broken", "prompts/common.md", "## The source is hostile", "## {{if}}", "", "{{if}}", "missing value for if"},
		{"partial with an unknown field", "prompts/common.md", "## The source is hostile", "## {{.Mood}}", "", "{{.Mood}}", `map has no entry for key "Mood"`},
		{"unknown partial", "prompts/plan.md", `{{template "prompts/common.md" .}}`, `{{template "prompts/comon.md" .}}`, "", "comon.md", `"prompts/comon.md" not defined`},
		{"template without a block", "prompts/plan.md", "{{.Folders}}", "", "", "", "does not place .Folders"},
		{"template without its number", "prompts/audit.md", "{{.MaxFindings}}", "ten", "", "", "does not place .MaxFindings"},
		{"template without the rules for hostile source", "prompts/refute.md", `{{template "prompts/common.md" .}}`, "", "", "", "does not include prompts/common.md"},
		{"template without the criteria of severity", "prompts/refute.md", `{{template "severity.md" .}}`, "", "", "", "does not include severity.md"},

		{"guide without a condition", "pack.json", `"languages": ["Go"]`, `"languages": []`, "", "{\n      \"file\": \"guides/go.md\"", "has no condition"},
		{"guide for everything", "pack.json", `"languages": ["Go"]`, `"dependencies": ["*"]`, "", `"dependencies": ["*"]`, "matches nothing or everything"},
		{"guide with a broken glob", "pack.json", `"*.tf",`, `"[.tf",`, "", `"[.tf"`, "matches nothing or everything"},
		{"guide twice", "pack.json", `"file": "guides/rust.md"`, `"file": "guides/shell.md"`, "guides/rust.md", "", "is not named in pack.json"},
		{"guide too long", "guides/go.md", "", strings.Repeat("word ", 1300), "", "", "a guide has at most 6000"},

		{"model field misspelled", "models.json", `"context_window"`, `"contextwindow"`, "", `"contextwindow"`, `has the unknown field "contextwindow"`},
		{"model field missing", "models.json", `"priority": 1,`, ``, "", `"model": {`, `lacks the field "priority"`},
		{"model without a shell", "models.json", `"unified_exec"`, `"disabled"`, "", `"disabled"`, `shell_type is "disabled"`},
		{"model with an impossible default", "models.json", `"default_reasoning_level": "medium"`, `"default_reasoning_level": "xhigh"`, "", `"default_reasoning_level"`, `default_reasoning_level is "xhigh"`},
		{"model with a tiny window", "models.json", `"context_window": 272000`, `"context_window": 272`, "", `"context_window": 272`, "context_window is 272 tokens"},
		{"base instructions with a template", "prompts/base.md", "# How you work", "# {{ personality }}", "", "{{ personality }}", "has {{"},
	} {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			files := copied(t)
			apply(t, files, d)
			_, err := pack.Load(files, "the folder /etc/pack")
			if err == nil {
				t.Fatal("the pack loads")
			}
			file, line := d.file, 1
			if d.atFile != "" {
				file = d.atFile
			}
			if d.at != "" {
				i := strings.Index(string(files[file].Data), d.at)
				if i < 0 {
					t.Fatalf("%s has no %q", file, d.at)
				}
				line = 1 + strings.Count(string(files[file].Data[:i]), "\n")
			}
			want := fmt.Sprintf("\n  %s:%d: ", file, line)
			for reported := range strings.SplitSeq(err.Error()+"\n", "\n") {
				if rest, ok := strings.CutPrefix("\n"+reported, want); ok && strings.Contains(rest, d.says) {
					return
				}
			}
			t.Errorf("got %v\nwant a line that begins with %q and says %q", err, strings.TrimSpace(want), d.says)
		})
	}
}

func apply(t *testing.T, files fstest.MapFS, d damage) {
	t.Helper()
	switch {
	case d.new == "REMOVED":
		delete(files, d.file)
	case d.old == "":
		files[d.file] = &fstest.MapFile{Data: []byte(d.new)}
	default:
		before := string(files[d.file].Data)
		after := strings.Replace(before, d.old, d.new, 1)
		if before == after {
			t.Fatalf("%s has no %q", d.file, d.old)
		}
		files[d.file] = &fstest.MapFile{Data: []byte(after)}
	}
}

func TestAllProblemsAreListedInOrderAndWhereIsNamed(t *testing.T) {
	t.Parallel()
	files := copied(t)
	delete(files, "prompts/plan.checklist.md")
	apply(t, files, damage{file: "taxonomy.json", old: `"CWE-918"`, new: `"918"`})
	apply(t, files, damage{file: "schemas/refute.json", old: `"additionalProperties": false`, new: `"additionalProperties": true`})
	_, err := pack.Load(files, "the folder /etc/pack")
	if err == nil {
		t.Fatal("the pack loads")
	}
	got := regexp.MustCompile(`:\d+: `).ReplaceAllString(err.Error(), ":N: ")
	want := `engine pack in the folder /etc/pack: 3 problems
  pack.json:N: names prompts/plan.checklist.md, which is not in the pack
  schemas/refute.json:N: is not strict: additionalProperties must be false
  taxonomy.json:N: rule "ssrf.request" has the CWE "918", want CWE- and a number`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestRulesCannotBeChangedByWhoAsksForThem(t *testing.T) {
	t.Parallel()
	p := builtIn(t)
	rules := p.Rules()
	rules[0].CWE[0], rules[0].ID = "CWE-1", "x"
	r, ok := p.Rule("injection.sql")
	if !ok || r.CWE[0] != "CWE-89" || r.Title == "" || r.Summary == "" || r.Not == "" {
		t.Errorf("Rule(injection.sql) = %+v, %v", r, ok)
	}
	r.CWE[0] = "CWE-2"
	if again, _ := p.Rule("injection.sql"); again.CWE[0] != "CWE-89" {
		t.Error("a rule that was given away changes the pack")
	}
	if _, ok := p.Rule("injection.none"); ok {
		t.Error("there is a rule that does not exist")
	}
	schema := p.Schema(pack.Audit)
	clear(schema)
	if !json.Valid(p.Schema(pack.Audit)) {
		t.Error("a schema that was given away changes the pack")
	}
}

// Written apart from the package's own check: what a provider's strict mode demands of a schema.
func TestEverySchemaIsStrict(t *testing.T) {
	t.Parallel()
	p := builtIn(t)
	var check func(t *testing.T, place string, v any, depth int) (properties int)
	check = func(t *testing.T, place string, v any, depth int) int {
		s, ok := v.(map[string]any)
		if !ok {
			t.Fatalf("%s is no object", place)
		}
		for k := range s {
			if !slices.Contains([]string{"type", "properties", "required", "additionalProperties", "items", "enum", "description"}, k) {
				t.Errorf("%s has %s", place, k)
			}
		}
		if depth > 5 {
			t.Errorf("%s is too deep", place)
		}
		n := 0
		switch s["type"] {
		case "object":
			properties := s["properties"].(map[string]any)
			var required []string
			for _, r := range s["required"].([]any) {
				required = append(required, r.(string))
			}
			slices.Sort(required)
			if !slices.Equal(required, slices.Sorted(maps.Keys(properties))) || s["additionalProperties"] != false {
				t.Errorf("%s is not strict", place)
			}
			for name, sub := range properties {
				n += 1 + check(t, place+"."+name, sub, depth+1)
			}
		case "array":
			n += check(t, place+"[]", s["items"], depth+1)
		case "string", "integer":
		default:
			t.Errorf("%s has the type %v", place, s["type"])
		}
		return n
	}
	for _, name := range []pack.Name{pack.ThreatModel, pack.Plan, pack.Audit, pack.Refute} {
		var v any
		if err := json.Unmarshal(p.Schema(name), &v); err != nil {
			t.Fatal(err)
		}
		if n := check(t, string(name), v, 1); n > 100 {
			t.Errorf("%s has %d properties", name, n)
		}
	}
}

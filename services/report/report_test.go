package report_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vega/events"
	"vega/services/report"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// document is a scan with a finding of every severity and everything hostile that source can say.
func document() report.Document {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	find := func(n int, s events.Severity, file string, line int) report.Finding {
		fp := events.NewFingerprint("rule", nil, file, "", fmt.Sprint(n))
		return report.Finding{Finding: events.Finding{
			ID: events.FindingIDFor("local", "repo_local_a", fp), Fingerprint: fp, Rule: fmt.Sprintf("rule-%d", n), Stage: "secrets",
			Severity: s, Title: fmt.Sprintf("Finding %d", n), Description: "What it is.", File: file, StartLine: line, EndLine: line,
			Snippet: "key = \"AKIA[masked:0011223344556677]\"", CWE: []string{"CWE-798"}, Confidence: events.ConfidenceHigh,
			Validation: events.NotValidated, Remediation: "Revoke it.",
		}}
	}
	low := find(1, events.SeverityLow, "src/a b#?.go", 3)
	low.Triage = events.Triage{State: events.TriageDismissed, Reason: events.FalsePositive, Note: "a test value", Actor: "user:u", At: at}
	high := find(2, events.SeverityHigh, "src/main.go", 10)
	high.LineHash, high.EndLine, high.Also = "39fa2ee980eb94b0:1", 12, []string{"src/main.go:40", "odd"}
	critical := find(3, events.SeverityCritical, "=cmd|'/c calc'!A0.pem", 1)
	critical.Title, critical.Description = "=HYPERLINK(\"http://x\")", "<img src=x onerror=alert(1)> [a](http://x) `b` \x1b[31mred\x1b[0m @all"
	critical.Snippet = "```\n-----BEGIN\n````"
	medium := find(4, events.SeverityMedium, "c:/weird/\u202Etxt.go", 7)
	info := find(5, events.SeverityInfo, "README.md", 0)
	info.Rule, info.Title = "", ""
	outside := find(6, events.SeverityLow, "../../etc/passwd", 1)
	d := report.Document{
		Tool: report.Tool{Name: "Vega", Version: "1.2.3"}, Scan: "scan_local_x", Repository: "repo_local_a", Name: "shop <b>",
		Snapshot: "sha256:aa", Attempt: 1, Status: "completed", StartedAt: at, FinishedAt: at.Add(time.Minute),
		Coverage: events.Coverage{State: events.CoveragePartial, Reasons: []events.CoverageReason{
			{Stage: "audit", Code: "not_configured", Message: "set VEGA_LLM_PROVIDER_API_KEY"},
			{Stage: "secrets", Path: "big\x07.sql", Code: "too_large", Message: "9 MB"},
		}},
		Rejected: 2,
		Stages:   []report.Stage{{Name: "inventory", Status: events.StageDone, Detail: "12 files"}},
		Findings: []report.Finding{low, high, critical, medium, info, outside},
	}
	d.Count()
	return d
}

func empty() report.Document {
	return report.Document{Scan: "scan_local_x", Status: "completed", Coverage: events.Coverage{State: events.CoverageComplete}}
}

var forms = map[string]func(io.Writer, report.Document) error{
	"report.json":  report.JSON,
	"report.sarif": report.SARIF,
	"report.csv":   report.CSV,
	"report.md":    report.Markdown,
	"report.txt": func(w io.Writer, d report.Document) error {
		return report.Table(w, d, report.TableOptions{Width: 80})
	},
}

func TestEveryFormIsStable(t *testing.T) {
	t.Parallel()
	for name, write := range forms {
		for prefix, d := range map[string]report.Document{"full-": document(), "empty-": empty()} {
			got, again := render(t, write, d), render(t, write, d)
			if !bytes.Equal(got, again) {
				t.Errorf("%s%s: two renderings differ", prefix, name)
			}
			file := filepath.Join("testdata", prefix+name)
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s%s (-want +got):\n%s", prefix, name, diff)
			}
		}
	}
}

func TestEveryFormStatesTheCoverage(t *testing.T) {
	t.Parallel()
	for name, write := range forms {
		if got := string(render(t, write, empty())); !strings.Contains(got, "complete") {
			t.Errorf("%s without findings does not state the coverage:\n%s", name, got)
		}
		got := string(render(t, write, document()))
		for _, want := range []string{"partial", "not_configured", "VEGA_LLM_PROVIDER_API_KEY", "too_large"} {
			if !strings.Contains(strings.ReplaceAll(got, `\_`, "_"), want) {
				t.Errorf("%s does not say %q", name, want)
			}
		}
	}
}

func TestCSVCellsAreNoFormulas(t *testing.T) {
	t.Parallel()
	rows, err := csv.NewReader(bytes.NewReader(render(t, report.CSV, document()))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		for _, cell := range row {
			if cell != "" && strings.ContainsAny(cell[:1], "=+-@\t\r\n") {
				t.Errorf("cell %q begins like a formula", cell)
			}
		}
	}
}

func TestTerminalAndMarkdownCarryNoControlCharacters(t *testing.T) {
	t.Parallel()
	control := regexp.MustCompile("[\x00-\x09\x0b-\x1f\x7f\u0080-\u009f\u202a-\u202e\u2066-\u2069]")
	for _, name := range []string{"report.md", "report.txt"} {
		if at := control.FindString(string(render(t, forms[name], document()))); at != "" {
			t.Errorf("%s holds %q", name, at)
		}
	}
}

func TestTableFitsItsWidth(t *testing.T) {
	t.Parallel()
	d := document()
	d.Coverage.Reasons = nil
	d.Findings[0].File = strings.Repeat("deep/", 60) + "名前.go"
	d.Findings[0].Title = strings.Repeat("長い", 80)
	var b bytes.Buffer
	if err := report.Table(&b, d, report.TableOptions{Width: 72, Limit: 5}); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if n := len([]rune(line)); n > 73 {
			t.Errorf("line of %d characters: %q", n, line)
		}
	}
	for _, want := range []string{"名前.go:3", "and 1 more"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, b.String())
		}
	}
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain ünï 名前":      "plain ünï 名前",
		"a\x1b[31mb\x07":    `a\x1b[31mb\x07`,
		"two\nlines\tand":   `two\nlines and`,
		"bad\xff\xfe":       `bad\xff\xfe`,
		"real \uFFFD stays": "real \uFFFD stays",
		"bidi\u202Ecod.exe": `bidi\u202ecod.exe`,
		"zero\u200Bwidth":   `zero\u200bwidth`,
		"c1\u009b31m":       `c1\x9b31m`,
		"":                  "",
	} {
		if got := report.Printable(in); got != want {
			t.Errorf("Printable(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestLineHashesComeBackFromTheJSONForm(t *testing.T) {
	t.Parallel()
	d := document()
	got, err := report.LineHashesOf(bytes.NewReader(render(t, report.JSON, d)))
	if err != nil {
		t.Fatal(err)
	}
	if want := map[events.FindingID]string{d.Findings[1].ID: d.Findings[1].LineHash}; cmp.Diff(want, got) != "" {
		t.Errorf("LineHashesOf = %v, want %v", got, want)
	}
}

func TestJSONHasTheAPIsNames(t *testing.T) {
	t.Parallel()
	var got struct {
		Schema   int              `json:"schema_version"`
		Findings []map[string]any `json:"findings"`
	}
	if err := json.Unmarshal(render(t, report.JSON, document()), &got); err != nil {
		t.Fatal(err)
	}
	if got.Schema != report.Schema || len(got.Findings) != 6 {
		t.Fatalf("schema %d with %d findings, want %d with 6", got.Schema, len(got.Findings), report.Schema)
	}
	for _, name := range []string{
		"id", "fingerprint", "severity", "title", "description", "file_path", "start_line", "end_line", "snippet", "cwe", "confidence",
		"validation", "remediation", "triage",
	} {
		if _, ok := got.Findings[0][name]; !ok {
			t.Errorf("a finding lacks %q", name)
		}
	}
	if state := got.Findings[0]["triage"].(map[string]any)["state"]; state != "open" {
		t.Errorf("an untouched finding's triage state = %v, want open", state)
	}
}

func render(t *testing.T, write func(io.Writer, report.Document) error, d report.Document) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b, d); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func ExampleTable() {
	d := report.Document{
		Coverage: events.Coverage{State: events.CoverageComplete},
		Findings: []report.Finding{{Finding: events.Finding{
			Severity: events.SeverityHigh, Title: "AWS access key", File: "deploy/env.sh", StartLine: 4, EndLine: 4,
		}}},
	}
	d.Count()
	_ = report.Table(os.Stdout, d, report.TableOptions{Width: 60})
	// Output:
	// SEVERITY  FINDING         LOCATION
	// high      AWS access key  deploy/env.sh:4
	//
	// Findings: 1 high
	// Coverage: complete
}

func TestTheSameReasonOfSeveralStagesIsOneLine(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	same := func(stage string) events.CoverageReason {
		return events.CoverageReason{Stage: stage, Code: "not_configured", Message: "needs a model"}
	}
	d := report.Document{Coverage: events.Coverage{State: events.CoveragePartial, Reasons: []events.CoverageReason{
		{Stage: "secrets", Path: "a", Code: "binary", Message: "left out"}, {Stage: "secrets", Path: "b", Code: "binary", Message: "left out"}, same("plan"), same("audit"), same("refute"),
	}}}
	if err := report.Table(&b, d, report.TableOptions{Width: -1}); err != nil {
		t.Fatal(err)
	}
	if want := "Coverage: partial\n  - secrets: a (binary): left out\n  - secrets: b (binary): left out\n  - plan, audit, refute (not_configured): needs a model\n"; !strings.HasSuffix(b.String(), want) {
		t.Errorf("%s\nwant at the end\n%s", b.String(), want)
	}
}

package report_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"vega/events"
	"vega/services/report"
)

func TestSARIFPassesTheOfficialSchemaAndGitHubsRules(t *testing.T) {
	t.Parallel()
	schema := officialSchema(t)
	many := empty()
	for i := range 25_010 {
		f := document().Findings[1]
		f.Rule = fmt.Sprintf("rule-%d", i%7)
		f.StartLine, f.EndLine = i+1, i+1
		many.Findings = append(many.Findings, f)
	}
	for name, d := range map[string]report.Document{"full": document(), "empty": empty(), "zero": {}, "too many": many} {
		got := render(t, report.SARIF, d)
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(got))
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Findings) < 100 { // the validator takes seconds for the large one, which has nothing else in it
			if err := schema.Validate(v); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, problem := range whatGitHubRefuses(t, got) {
			t.Errorf("%s: %s", name, problem)
		}
	}
}

func TestSARIFLeavesOutOnlyWhatHasNoPlaceAndSaysSo(t *testing.T) {
	t.Parallel()
	var log sarifLog
	if err := json.Unmarshal(render(t, report.SARIF, document()), &log); err != nil {
		t.Fatal(err)
	}
	run := log.Runs[0]
	if got := len(run.Results); got != 5 {
		t.Errorf("%d results, want 5 (one of 6 lies outside of the source)", got)
	}
	if run.Results[0].Level != "error" || run.Results[0].Properties["severity"] != "critical" {
		t.Errorf("the first result is %v, want the critical one", run.Results[0].Properties)
	}
	var notes []string
	for _, n := range run.Invocations[0].Notifications {
		notes = append(notes, n.Message.Text)
	}
	all := strings.Join(notes, "\n")
	for _, want := range []string{"1 findings have no usable path", "audit (not_configured)", "coverage: partial"} {
		if !strings.Contains(all, want) {
			t.Errorf("the notifications do not say %q:\n%s", want, all)
		}
	}
	if s := run.Results[4].Suppressions; len(s) != 0 {
		t.Errorf("an open finding is suppressed: %v", s)
	}
	if s := run.Results[3].Suppressions; len(s) != 1 {
		t.Errorf("the dismissed finding has %d suppressions, want 1", len(s))
	}
}

// sarifLog is the part of a log that GitHub reads.
type sarifLog struct {
	Schema  string `json:"$schema"`
	Version string `json:"version"`
	Runs    []struct {
		Tool struct {
			Driver struct {
				Name  string `json:"name"`
				Rules []struct {
					ID               string                `json:"id"`
					ShortDescription struct{ Text string } `json:"shortDescription"`
					FullDescription  struct{ Text string } `json:"fullDescription"`
					Help             struct{ Text string } `json:"help"`
					Properties       struct {
						Tags     []string `json:"tags"`
						Severity any      `json:"security-severity"`
					} `json:"properties"`
				} `json:"rules"`
			} `json:"driver"`
		} `json:"tool"`
		AutomationDetails struct{ ID string } `json:"automationDetails"`
		OriginalBases     any                 `json:"originalUriBaseIds"`
		Invocations       []struct {
			Successful    bool `json:"executionSuccessful"`
			Notifications []struct {
				Message struct{ Text string } `json:"message"`
			} `json:"toolExecutionNotifications"`
		} `json:"invocations"`
		Results []struct {
			RuleID       string                `json:"ruleId"`
			RuleIndex    int                   `json:"ruleIndex"`
			Level        string                `json:"level"`
			Message      struct{ Text string } `json:"message"`
			Fingerprints map[string]string     `json:"partialFingerprints"`
			Properties   map[string]any        `json:"properties"`
			Suppressions []any                 `json:"suppressions"`
			Locations    []struct {
				Physical struct {
					Artifact struct{ URI string } `json:"artifactLocation"`
					Region   struct {
						StartLine int `json:"startLine"`
						EndLine   int `json:"endLine"`
					} `json:"region"`
				} `json:"physicalLocation"`
			} `json:"locations"`
		} `json:"results"`
	} `json:"runs"`
}

var lineHash = regexp.MustCompile(`^([0-9a-f]{1,16}|fp1:[0-9a-f]{32}):[0-9]+$`)

// whatGitHubRefuses holds a log against the rules that GitHub documents beside the schema.
func whatGitHubRefuses(t *testing.T, b []byte) (problems []string) {
	t.Helper()
	bad := func(format string, args ...any) {
		if len(problems) < 10 {
			problems = append(problems, fmt.Sprintf(format, args...))
		}
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(b)
	_ = z.Close()
	if zipped.Len() > 10<<20 {
		bad("%d bytes compressed", zipped.Len())
	}
	var log sarifLog
	if err := json.Unmarshal(b, &log); err != nil {
		t.Fatal(err)
	}
	if log.Schema == "" || log.Version != "2.1.0" || len(log.Runs) != 1 {
		bad("schema %q, version %q, %d runs", log.Schema, log.Version, len(log.Runs))
		return problems
	}
	run := log.Runs[0]
	if run.Tool.Driver.Name == "" || run.Tool.Driver.Rules == nil || run.Results == nil || run.OriginalBases != nil {
		bad("no driver name, no rules, no results, or originalUriBaseIds")
	}
	if !strings.Contains(run.AutomationDetails.ID, "/") {
		bad("automationDetails.id %q names no category", run.AutomationDetails.ID)
	}
	for _, r := range run.Tool.Driver.Rules {
		for _, text := range []string{r.ID, r.ShortDescription.Text, r.FullDescription.Text, r.Help.Text} {
			if text == "" {
				bad("rule %q lacks an id, a description or help", r.ID)
			}
		}
		if len(r.ShortDescription.Text) > 1024 || len(r.FullDescription.Text) > 1024 || len(r.Properties.Tags) > 20 {
			bad("rule %q: a description or the tags are too long", r.ID)
		}
		s, ok := r.Properties.Severity.(string)
		if n, err := strconv.ParseFloat(s, 64); !ok || err != nil || n <= 0 || n > 10 {
			bad("rule %q: security-severity %v", r.ID, r.Properties.Severity)
		}
	}
	if len(run.Results) > 25_000 {
		bad("%d results", len(run.Results))
	}
	for i, r := range run.Results {
		if r.Message.Text == "" || len(r.Locations) == 0 || r.RuleIndex >= len(run.Tool.Driver.Rules) ||
			run.Tool.Driver.Rules[r.RuleIndex].ID != r.RuleID {
			bad("result %d has no message, no location or another rule than its index", i)
			continue
		}
		if !lineHash.MatchString(r.Fingerprints["primaryLocationLineHash"]) {
			bad("result %d: primaryLocationLineHash %q", i, r.Fingerprints["primaryLocationLineHash"])
		}
		p := r.Locations[0].Physical
		u, err := url.Parse(p.Artifact.URI)
		if err != nil || u.Path == "" || u.IsAbs() || u.Host != "" || u.RawQuery != "" || u.Fragment != "" ||
			strings.HasPrefix(u.Path, "/") || strings.Contains("/"+u.Path+"/", "/../") {
			bad("result %d: uri %q", i, p.Artifact.URI)
		}
		if p.Region.StartLine < 1 || p.Region.EndLine < p.Region.StartLine {
			bad("result %d: lines %d to %d", i, p.Region.StartLine, p.Region.EndLine)
		}
	}
	return problems
}

func officialSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	b, err := os.ReadFile("testdata/sarif-schema-2.1.0.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("sarif.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("sarif.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLineHashesAreGitHubs(t *testing.T) {
	t.Parallel()
	// Values that GitHub's own uploader computes.
	windows := []string{
		"e9496ae3ebfced30:1", "fb7c023a8b9ccb3f:1", "ce8ba1a563dcdaca:1", "e20e36e16fcb0cc8:1", "b3edc88f2938467e:1",
		"c8e28b0b4002a3a0:1", "c129715d7a2bc9a3:1",
	}
	for _, c := range []struct {
		in   string
		want []string
	}{
		{"", []string{"c129715d7a2bc9a3:1"}},
		{" a\nb\n  \t\tc\n d", []string{"271789c17abda88f:1", "54703d4cd895b18:1", "180aee12dab6264:1", "a23a3dc5e078b07b:1"}},
		{" hello; \t\nworld!!!\n\n\n  \t\tGreetings\n End\n", windows},
		{" hello; \t\nworld!!!\r\r\r  \t\tGreetings\r End\r", windows},
		{" hello; \t\r\nworld!!!\r\n\r\n\r\n  \t\tGreetings\r\n End\r\n", windows},
		{" hello; \t\nworld!!!\r\n\n\r  \t\tGreetings\r End\r\n", windows},
		{strings.Repeat("Lorem ipsum dolor sit amet.\n", 10), []string{
			"a7f2ff13bc495cf2:1", "a7f2ff13bc495cf2:2", "a7f2ff13bc495cf2:3", "a7f2ff13bc495cf2:4", "a7f2ff13bc495cf2:5",
			"a7f2ff13bc495cf2:6", "a7f2ff1481e87703:1", "a9cf91f7bbf1862b:1", "55ec222b86bcae53:1", "cc97dc7b1d7d8f7b:1",
			"c129715d7a2bc9a3:1",
		}},
	} {
		var got []string
		err := report.LineHashes(strings.NewReader(c.in), func(line int, hash string) {
			got = append(got, hash)
			if line != len(got) {
				t.Errorf("%q: line %d comes as number %d", c.in, line, len(got))
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Join(got, " ") != strings.Join(c.want, " ") {
			t.Errorf("LineHashes(%q) = %v, want %v", c.in, got, c.want)
		}
	}
}

func TestLineHashKnowsNoIndentation(t *testing.T) {
	t.Parallel()
	hash := func(s string) (first string) {
		_ = report.LineHashes(strings.NewReader(s), func(line int, h string) {
			if line == 1 {
				first = h
			}
		})
		return first
	}
	if got, want := hash("\tkey := 1 // 🔑\nend\n"), hash("key  :=  1 // 🔑\n  end\n"); got != want {
		t.Errorf("hash with a tab = %s, without = %s", got, want)
	}
}

func TestSecuritySeverityFallsIntoGitHubsBands(t *testing.T) {
	t.Parallel()
	for severity, band := range map[events.Severity][2]float64{
		events.SeverityCritical: {9.01, 10}, events.SeverityHigh: {7, 8.9}, events.SeverityMedium: {4, 6.9},
		events.SeverityLow: {0.1, 3.9}, events.SeverityInfo: {0.1, 3.9},
	} {
		d := empty()
		d.Findings = []report.Finding{{Finding: events.Finding{Rule: "r", Severity: severity, File: "a", StartLine: 1, EndLine: 1}}}
		var log sarifLog
		if err := json.Unmarshal(render(t, report.SARIF, d), &log); err != nil {
			t.Fatal(err)
		}
		s, _ := log.Runs[0].Tool.Driver.Rules[0].Properties.Severity.(string)
		if n, err := strconv.ParseFloat(s, 64); err != nil || n < band[0] || n > band[1] {
			t.Errorf("%s: security-severity %q, want within %v", severity, s, band)
		}
	}
}

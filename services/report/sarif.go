package report

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"

	"vega/events"
)

// What GitHub code scanning takes at most. Beyond it refuses the file or drops what it likes; we keep the worst and say so.
const (
	maxSARIFResults = 25_000
	maxSARIFText    = 1024 // of a rule's descriptions
	maxSARIFTags    = 20
	maxSARIFNotes   = 200 // coverage reasons as notifications

	sarifSchema = "https://json.schemastore.org/sarif-2.1.0.json"
	// category is what GitHub files the results under: automationDetails.id up to its last slash. Results of a later upload
	// in the same category replace these.
	category = "vega/"
)

// SARIF writes d as a SARIF 2.1.0 log with one run, also when there are no findings. A finding without a usable relative path
// is left out, because one of them makes GitHub refuse the whole file; the run's notifications count them.
//
// A result is told apart by its rule and its line hash, or where that is unknown by its fingerprint. Coverage stands in the
// run's properties, and each reason is a notification of the invocation. A dismissed finding is a suppressed result.
func SARIF(w io.Writer, d Document) error {
	d = d.normal()
	var usable []Finding
	for _, f := range d.Findings {
		if sarifURI(f.File) != "" {
			usable = append(usable, f)
		}
	}
	unplaced := len(d.Findings) - len(usable)
	cutOff := max(0, len(usable)-maxSARIFResults)
	usable = usable[:len(usable)-cutOff]

	run := sarif.NewRun()
	run.Tool = sarif.NewTool().WithDriver(sarif.NewToolComponent().
		WithName(d.Tool.Name).WithVersion(cmp.Or(d.Tool.Version, "0")).WithFullName("Vega source code scanner"))
	run.WithAutomationDetails(sarif.NewRunAutomationDetails().WithID(category + string(d.Scan)))
	run.WithColumnKind("unicodeCodePoints")
	rules, index := sarifRules(usable)
	run.Tool.Driver.Rules = rules
	for _, f := range usable {
		run.AddResult(sarifResult(f, index[ruleID(f)]))
	}
	run.AddInvocation(sarifInvocation(d, unplaced, cutOff))
	run.WithProperties(sarif.NewPropertyBag().
		Add("coverage", d.Coverage).
		Add("scan_id", d.Scan).
		Add("snapshot_id", d.Snapshot).
		Add("rejected", d.Rejected))

	log := sarif.NewReport()
	log.Version = "2.1.0"
	log.Schema = sarifSchema
	log.AddRun(run)
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(log); err != nil {
		return fmt.Errorf("encode sarif: %w", err)
	}
	_, err := out.WriteTo(w)
	return err
}

func sarifResult(f Finding, rule int) *sarif.Result {
	r := sarif.NewRuleResult(ruleID(f)).
		WithRuleIndex(rule).
		WithLevel(sarifLevel(f.Severity)).
		WithMessage(sarif.NewTextMessage(sarifText(cmp.Or(f.Title, ruleID(f)) + sentence(f.Description))))
	start := max(1, f.StartLine)
	region := sarif.NewRegion().WithStartLine(start).WithEndLine(max(start, f.EndLine))
	if f.Snippet != "" {
		region.WithSnippet(sarif.NewArtifactContent().WithText(f.Snippet))
	}
	r.AddLocation(sarifLocation(sarifURI(f.File), region))
	for i, place := range f.Also {
		file, line, ok := cutPlace(place)
		if uri := sarifURI(file); ok && uri != "" {
			also := sarifLocation(uri, sarif.NewRegion().WithStartLine(line))
			also.WithID(i + 1).WithMessage(sarif.NewTextMessage("also here"))
			r.RelatedLocations = append(r.RelatedLocations, also)
		}
	}
	r.PartialFingerprints = map[string]string{
		"primaryLocationLineHash": cmp.Or(f.LineHash, string(f.Fingerprint)+":1"),
		"vegaFingerprint/v1":      string(f.Fingerprint),
	}
	props := sarif.NewPropertyBag().
		Add("finding_id", f.ID).
		Add("severity", f.Severity).
		Add("confidence", f.Confidence).
		Add("validation", f.Validation).
		Add("triage", f.Triage.State)
	if len(f.CWE) > 0 {
		props.Add("cwe", f.CWE)
	}
	r.WithProperties(props)
	if f.Triage.State == events.TriageDismissed {
		r.AddSuppression(sarif.NewSuppression().
			WithKind("external").
			WithStatus("accepted").
			WithJustification(strings.TrimSuffix(string(f.Triage.Reason)+": "+f.Triage.Note, ": ")))
	}
	return r
}

func sarifLocation(uri string, region *sarif.Region) *sarif.Location {
	return sarif.NewLocation().WithPhysicalLocation(sarif.NewPhysicalLocation().
		WithArtifactLocation(sarif.NewArtifactLocation().WithURI(uri)).
		WithRegion(region))
}

// sarifRules makes one rule per rule id in the order of the findings, and says where each is. A rule is as severe as its worst
// finding, which comes first: GitHub shows one severity per rule.
func sarifRules(fs []Finding) (rules []*sarif.ReportingDescriptor, index map[string]int) {
	rules = []*sarif.ReportingDescriptor{} // present in the file also with no results
	index = make(map[string]int)
	for _, f := range fs {
		id := ruleID(f)
		if _, have := index[id]; have {
			continue
		}
		index[id] = len(rules)
		tags := []string{"security"}
		for _, cwe := range f.CWE {
			if n, err := strconv.Atoi(strings.TrimPrefix(strings.ToUpper(cwe), "CWE-")); err == nil {
				tags = append(tags, fmt.Sprintf("external/cwe/cwe-%03d", n))
			}
		}
		title := cut(Printable(cmp.Or(f.Title, id)), maxSARIFText)
		props := sarif.NewPropertyBag().
			Add("security-severity", securitySeverity(f.Severity)).
			Add("precision", cmp.Or(string(f.Confidence), "medium")).
			Add("problem.severity", problemSeverity(f.Severity)).
			WithTags(slices.Compact(tags[:min(len(tags), maxSARIFTags)]))
		help := cmp.Or(f.Remediation, f.Description, title)
		rules = append(rules, sarif.NewReportingDescriptor().
			WithID(id).
			WithName(id).
			WithShortDescription(sarif.NewMultiformatMessageString().WithText(title)).
			WithFullDescription(sarif.NewMultiformatMessageString().WithText(cut(cmp.Or(f.Description, title), maxSARIFText))).
			WithHelp(sarif.NewMultiformatMessageString().WithText(help).WithMarkdown(markdownText(help))).
			WithDefaultConfiguration(sarif.NewReportingConfiguration().WithLevel(sarifLevel(f.Severity))).
			WithProperties(props))
	}
	return rules, index
}

func sarifInvocation(d Document, unplaced, cutOff int) *sarif.Invocation {
	inv := sarif.NewInvocation().WithExecutionSuccessful(d.Status == "completed")
	if !d.StartedAt.IsZero() {
		inv.WithStartTimeUtc(d.StartedAt.UTC().Format(time.RFC3339))
	}
	if !d.FinishedAt.IsZero() {
		inv.WithEndTimeUtc(d.FinishedAt.UTC().Format(time.RFC3339))
	}
	note := func(level, text string) {
		inv.AddToolExecutionNotification(sarif.NewNotification().WithLevel(level).WithMessage(sarif.NewTextMessage(sarifText(text))))
	}
	if d.Coverage.State != events.CoverageComplete {
		note("warning", "coverage: "+string(d.Coverage.State))
	}
	for i, r := range d.Coverage.Reasons {
		if i == maxSARIFNotes {
			note("warning", fmt.Sprintf("and %d more reasons", len(d.Coverage.Reasons)-i))
			break
		}
		note("warning", "not covered: "+ReasonText(r))
	}
	if unplaced > 0 {
		note("error", fmt.Sprintf("%d findings have no usable path and are left out", unplaced))
	}
	if cutOff > 0 {
		note("error", fmt.Sprintf("%d findings are left out: at most %d fit, the worst are kept", cutOff, maxSARIFResults))
	}
	return inv
}

// ReasonText is a coverage reason as one line: "<stage or path> (<code>): <message>".
func ReasonText(r events.CoverageReason) string {
	what := Printable(strings.TrimSuffix(r.Stage+": "+r.Path, ": "))
	if r.Stage == "" {
		what = Printable(r.Path)
	}
	return strings.TrimSpace(fmt.Sprintf("%s (%s): %s", what, r.Code, Printable(r.Message)))
}

// ruleID is the rule, or without one the first weakness class.
func ruleID(f Finding) string {
	if f.Rule == "" && len(f.CWE) > 0 {
		return f.CWE[0]
	}
	return cmp.Or(f.Rule, "unclassified")
}

// sarifURI is file as a relative URI reference, or empty when it is not a path inside the source.
func sarifURI(file string) string {
	if file == "" || file == "." || path.IsAbs(file) || path.Clean(file) != file || strings.HasPrefix(file+"/", "../") {
		return ""
	}
	segments := strings.Split(file, "/")
	for i, s := range segments {
		// A colon in the first segment would make it a scheme.
		segments[i] = strings.ReplaceAll(url.PathEscape(s), ":", "%3A")
	}
	return strings.Join(segments, "/")
}

// cutPlace splits "path:line".
func cutPlace(place string) (file string, line int, ok bool) {
	i := strings.LastIndexByte(place, ':')
	if i < 0 {
		return "", 0, false
	}
	line, err := strconv.Atoi(place[i+1:])
	return place[:i], line, err == nil && line > 0
}

// sarifText is s as a message: printable, with the brackets escaped that would make an embedded link.
func sarifText(s string) string {
	return strings.NewReplacer("[", `\[`, "]", `\]`).Replace(printableLines(s))
}

func sentence(s string) string {
	if s == "" {
		return ""
	}
	return ". " + s
}

func sarifLevel(s events.Severity) string {
	switch s {
	case events.SeverityCritical, events.SeverityHigh:
		return "error"
	case events.SeverityMedium:
		return "warning"
	case events.SeverityLow, events.SeverityInfo:
		return "note"
	}
	return "warning"
}

func problemSeverity(s events.Severity) string {
	if l := sarifLevel(s); l != "note" {
		return l
	}
	return "recommendation"
}

// securitySeverity is a number in a string: above 9.0 critical, from 7.0 high, from 4.0 medium, from 0.1 low.
func securitySeverity(s events.Severity) string {
	switch s {
	case events.SeverityCritical:
		return "9.5"
	case events.SeverityHigh:
		return "8.0"
	case events.SeverityMedium:
		return "5.5"
	case events.SeverityLow:
		return "2.0"
	case events.SeverityInfo:
		return "0.1"
	}
	return "5.5"
}

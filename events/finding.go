package events

import "time"

// Severity of a finding, worst first: critical, high, medium, low, info.
type Severity string

const (
	SeverityCritical Severity = "critical"
	SeverityHigh     Severity = "high"
	SeverityMedium   Severity = "medium"
	SeverityLow      Severity = "low"
	SeverityInfo     Severity = "info"
)

// Severities lists them, worst first.
func Severities() []Severity {
	return []Severity{SeverityCritical, SeverityHigh, SeverityMedium, SeverityLow, SeverityInfo}
}

// Rank is 0 for critical to 4 for info, and 5 for anything else.
func (s Severity) Rank() int {
	for i, x := range Severities() {
		if s == x {
			return i
		}
	}
	return len(Severities())
}

// Confidence is how sure the finder is: high, medium or low.
type Confidence string

const (
	ConfidenceHigh   Confidence = "high"
	ConfidenceMedium Confidence = "medium"
	ConfidenceLow    Confidence = "low"
)

// Validation is what was done to believe a finding.
type Validation string

const (
	NotValidated          Validation = "none"
	StaticReviewed        Validation = "static_reviewed"
	IndependentlyReviewed Validation = "independently_reviewed"
	Reproduced            Validation = "reproduced"
)

// Finding is one weakness at one place. Snippet, Evidence and Description hold no credential: found ones are masked.
type Finding struct {
	ID          FindingID   `json:"id"`
	Fingerprint Fingerprint `json:"fingerprint"`
	Rule        string      `json:"rule"`
	Stage       string      `json:"stage"` // which stage found it
	Severity    Severity    `json:"severity"`
	Title       string      `json:"title"`
	Description string      `json:"description"`
	File        string      `json:"file_path"` // slash-separated, relative to the snapshot's root
	StartLine   int         `json:"start_line"`
	EndLine     int         `json:"end_line"` // inclusive
	Snippet     string      `json:"snippet"`
	Symbol      string      `json:"symbol,omitempty"` // enclosing function or type, where known
	CWE         []string    `json:"cwe,omitempty"`    // "CWE-798"
	Confidence  Confidence  `json:"confidence"`
	Validation  Validation  `json:"validation"`
	Evidence    string      `json:"evidence,omitempty"`
	Remediation string      `json:"remediation,omitempty"`
	// Also are further places of the same finding in this scan ("path:line"), at most 20.
	Also []string `json:"also,omitempty"`
}

// MaxFindingsPerEvent bounds FindingsRecorded; MaxFindingsPerScan is where a scan stops recording and says so in its coverage.
const (
	MaxFindingsPerEvent = 50
	MaxFindingsPerScan  = 5000
)

// FindingsRecorded adds findings to a scan, at most MaxFindingsPerEvent.
type FindingsRecorded struct {
	Attempt  int       `json:"attempt"`
	Stage    string    `json:"stage"`
	Findings []Finding `json:"findings"`
}

// TriageState is what people decided about a finding.
type TriageState string

const (
	TriageOpen      TriageState = "open"
	TriageConfirmed TriageState = "confirmed"
	TriageDismissed TriageState = "dismissed"
)

// DismissReason is why a finding was dismissed.
type DismissReason string

const (
	FalsePositive DismissReason = "false_positive"
	AcceptedRisk  DismissReason = "accepted_risk"
	WillNotFix    DismissReason = "will_not_fix"
	AlreadyFixed  DismissReason = "already_fixed"
)

// FindingTriaged is a person's decision about a weakness. It is bound to the fingerprint, so it holds for every later scan.
type FindingTriaged struct {
	Project     ProjectID     `json:"project_id"`
	Repository  RepositoryID  `json:"repository_id"`
	Fingerprint Fingerprint   `json:"fingerprint"`
	From        TriageState   `json:"from"`
	State       TriageState   `json:"state"`
	Reason      DismissReason `json:"reason,omitempty"` // only with dismissed
	Note        string        `json:"note,omitempty"`
}

// Triage is the current decision about a finding; the zero value is open and untouched.
type Triage struct {
	State  TriageState   `json:"state"`
	Reason DismissReason `json:"reason,omitempty"`
	Note   string        `json:"note,omitempty"`
	Actor  Actor         `json:"actor,omitempty"`
	At     time.Time     `json:"at,omitzero"`
}

func (FindingsRecorded) event() {}
func (FindingTriaged) event()   {}

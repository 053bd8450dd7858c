package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"vega/events"
)

// Schema is the number of the JSON form's shape.
const Schema = 1

// Document is everything a report says about one scan. The zero values of Project, Attempt, the times and Usage are left out.
type Document struct {
	Tool       Tool                `json:"tool"`
	Scan       events.ScanID       `json:"scan_id"`
	Project    events.ProjectID    `json:"project_id,omitempty"`
	Repository events.RepositoryID `json:"repository_id,omitempty"`
	Name       string              `json:"repository_name,omitempty"` // for people
	Snapshot   events.SnapshotID   `json:"snapshot_id,omitempty"`
	Paths      []string            `json:"paths,omitempty"` // what was asked for; empty means everything
	Attempt    int                 `json:"attempt,omitempty"`
	Status     string              `json:"status"` // of the scan: completed, failed, cancelled, running, …
	StartedAt  time.Time           `json:"started_at,omitzero"`
	FinishedAt time.Time           `json:"finished_at,omitzero"`
	Coverage   events.Coverage     `json:"coverage"`
	Counts     events.Counts       `json:"findings_by_severity"`
	Rejected   int                 `json:"rejected"` // findings that were not believed and are not in here
	Usage      *events.Usage       `json:"usage,omitempty"`
	Stages     []Stage             `json:"stages,omitempty"`
	Findings   []Finding           `json:"findings"`
}

// Tool is the program that made the findings.
type Tool struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
}

// Stage is how one stage of the engine ended.
type Stage struct {
	Name   string             `json:"name"`
	Status events.StageStatus `json:"status"`
	Detail string             `json:"detail,omitempty"`
}

// Finding is a finding with what people decided about it and what a line-based tool knows it by.
type Finding struct {
	events.Finding
	Triage events.Triage `json:"triage"`
	// LineHash is the hash of StartLine in its file (see LineHashes). Without it SARIF falls back to the fingerprint.
	LineHash string `json:"line_hash,omitempty"`
}

// Count recomputes Counts from the findings.
func (d *Document) Count() {
	d.Counts = events.Counts{}
	for _, f := range d.Findings {
		d.Counts.Add(f.Severity)
	}
}

// normal is the document as every form shows it: findings worst first, no nil where a reader expects a list, an untouched
// finding open. It shares nothing that it changes with d.
func (d Document) normal() Document {
	d.Tool.Name = cmp.Or(d.Tool.Name, "Vega")
	d.Coverage.State = cmp.Or(d.Coverage.State, events.CoverageUnknown)
	if d.Coverage.Reasons == nil {
		d.Coverage.Reasons = []events.CoverageReason{}
	}
	d.Findings = slices.Clone(d.Findings)
	if d.Findings == nil {
		d.Findings = []Finding{}
	}
	for i := range d.Findings {
		d.Findings[i].Triage.State = cmp.Or(d.Findings[i].Triage.State, events.TriageOpen)
	}
	slices.SortStableFunc(d.Findings, func(a, b Finding) int { return Order(a.Finding, b.Finding) })
	return d
}

// Order compares findings for readers: worst first, then surest, then by place, then by id.
func Order(a, b events.Finding) int {
	return cmp.Or(
		cmp.Compare(a.Severity.Rank(), b.Severity.Rank()),
		cmp.Compare(rankOf(a.Confidence), rankOf(b.Confidence)),
		cmp.Compare(a.File, b.File),
		cmp.Compare(a.StartLine, b.StartLine),
		cmp.Compare(a.Rule, b.Rule),
		cmp.Compare(a.ID, b.ID),
	)
}

func rankOf(c events.Confidence) int {
	switch c {
	case events.ConfidenceHigh:
		return 0
	case events.ConfidenceMedium:
		return 1
	case events.ConfidenceLow:
		return 2
	}
	return 3
}

// JSON writes d as one indented JSON document with a final newline. HTML characters stay as they are.
func JSON(w io.Writer, d Document) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		Schema int `json:"schema_version"`
		Document
	}{Schema, d.normal()})
}

// LineHashesOf reads the line hashes by finding from a document that JSON wrote, so that an export made where the source is
// not at hand names results as the scan itself did.
func LineHashesOf(r io.Reader) (map[events.FindingID]string, error) {
	var d struct {
		Findings []struct {
			ID       events.FindingID `json:"id"`
			LineHash string           `json:"line_hash"`
		} `json:"findings"`
	}
	if err := json.NewDecoder(r).Decode(&d); err != nil {
		return nil, fmt.Errorf("read line hashes from a report: %w", err)
	}
	hashes := make(map[events.FindingID]string, len(d.Findings))
	for _, f := range d.Findings {
		if f.LineHash != "" {
			hashes[f.ID] = f.LineHash
		}
	}
	return hashes, nil
}

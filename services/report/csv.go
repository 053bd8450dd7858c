package report

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// csvColumns are the columns of every row. record says what a row is: coverage (one row), coverage_reason, finding.
var csvColumns = []string{
	"record", "id", "severity", "title", "file_path", "start_line", "end_line", "rule", "cwe", "confidence", "validation",
	"triage_state", "triage_reason", "fingerprint", "description", "remediation",
}

// CSV writes d as comma-separated values: a header, a row with the coverage (its state in the title column), a row for each
// of its reasons, a row for each finding. A cell that a spreadsheet would take for a formula begins with an apostrophe.
func CSV(w io.Writer, d Document) error {
	d = d.normal()
	out := csv.NewWriter(w)
	row := func(cells map[string]string) error {
		r := make([]string, len(csvColumns))
		for i, c := range csvColumns {
			r[i] = inertCell(cells[c])
		}
		return out.Write(r)
	}
	if err := out.Write(csvColumns); err != nil {
		return fmt.Errorf("write csv: %w", err)
	}
	rows := []map[string]string{{
		"record": "coverage", "id": string(d.Scan), "title": string(d.Coverage.State),
		"description": fmt.Sprintf("%d findings, %d rejected", len(d.Findings), d.Rejected),
	}}
	for _, r := range d.Coverage.Reasons {
		rows = append(rows, map[string]string{
			"record": "coverage_reason", "id": r.Stage, "title": r.Code, "file_path": r.Path, "description": r.Message,
		})
	}
	for _, f := range d.Findings {
		rows = append(rows, map[string]string{
			"record": "finding", "id": string(f.ID), "severity": string(f.Severity), "title": f.Title, "file_path": f.File,
			"start_line": strconv.Itoa(f.StartLine), "end_line": strconv.Itoa(f.EndLine), "rule": f.Rule,
			"cwe": strings.Join(f.CWE, " "), "confidence": string(f.Confidence), "validation": string(f.Validation),
			"triage_state": string(f.Triage.State), "triage_reason": string(f.Triage.Reason),
			"fingerprint": string(f.Fingerprint), "description": f.Description, "remediation": f.Remediation,
		})
	}
	for _, r := range rows {
		if err := row(r); err != nil {
			return fmt.Errorf("write csv: %w", err)
		}
	}
	out.Flush()
	return out.Error()
}

// inertCell keeps a cell from being run as a formula or acting on a terminal. encoding/csv itself quotes separators and line
// ends.
func inertCell(s string) string {
	s = printableLines(s)
	if s != "" && strings.ContainsRune("=+-@\t\r\n＝＋－＠", []rune(s)[0]) {
		return "'" + s
	}
	return s
}

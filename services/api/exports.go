package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"vega/events"
	"vega/projections"
	"vega/services/report"
)

// exportForms are the forms of an export by name.
var exportForms = []exportForm{
	{"sarif", "application/sarif+json", ".sarif", report.SARIF},
	{"json", "application/json", ".json", report.JSON},
	{"csv", "text/csv; charset=utf-8", ".csv", report.CSV},
	{"markdown", "text/markdown; charset=utf-8", ".md", report.Markdown},
}

type exportForm struct {
	name, mediaType, suffix string
	write                   func(io.Writer, report.Document) error
}

// createExport answers with the document itself. The form comes in the body.
func (s *Server) createExport(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Format string `json:"format"`
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			return err
		}
		return invalid("format", "want a body with this one field")
	}
	return s.export(w, r, in.Format)
}

// getExport is createExport with the form in the path, for links.
func (s *Server) getExport(w http.ResponseWriter, r *http.Request) error {
	return s.export(w, r, r.PathValue("format"))
}

func (s *Server) export(w http.ResponseWriter, r *http.Request, format string) error {
	form, err := formOf(format)
	if err != nil {
		return err
	}
	body, doc, err := s.exported(r.Context(), form)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", form.mediaType)
	h.Set("Content-Disposition", attachment(string(doc.Scan)+form.suffix))
	h.Set("Content-Security-Policy", "sandbox")
	h.Set("Vega-Coverage", string(doc.Coverage.State))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	return nil
}

func formOf(name string) (exportForm, error) {
	i := slices.IndexFunc(exportForms, func(f exportForm) bool { return f.name == name })
	if i < 0 {
		return exportForm{}, invalid("format", "want sarif, json, csv or markdown")
	}
	return exportForms[i], nil
}

// exported is the scan that the path names in one form: 5,000 findings at most, so small enough to know that it is whole before it is sent.
func (s *Server) exported(ctx context.Context, form exportForm) ([]byte, report.Document, error) {
	doc, err := s.document(ctx)
	if err != nil {
		return nil, doc, err
	}
	var out bytes.Buffer
	if err := form.write(&out, doc); err != nil {
		return nil, doc, fmt.Errorf("export %s: %w", form.name, err)
	}
	return out.Bytes(), doc, nil
}

// document is the scan as it is now, with every finding and today's triage.
func (s *Server) document(ctx context.Context) (report.Document, error) {
	c := callOf(ctx)
	row := c.scan
	d := report.Document{
		Tool: report.Tool{Name: "Vega", Version: s.Version}, Scan: row.ID, Project: row.Project, Repository: row.Repository, Name: c.repository.Name,
		Snapshot: row.Snapshot, Paths: row.Paths, Attempt: row.Attempt, Status: string(row.Status), StartedAt: row.StartedAt, FinishedAt: row.FinishedAt,
		Coverage: row.Coverage, Rejected: row.Rejected, Usage: &row.Usage,
	}
	for _, st := range row.Stages {
		d.Stages = append(d.Stages, report.Stage{Name: st.Stage, Status: st.Status, Detail: st.Detail})
	}
	hashes := s.lineHashes(ctx, row)
	for page := (projections.Page{Limit: projections.MaxLimit}); ; {
		views, next, err := s.Model.Findings(ctx, projections.FindingFilter{Scan: row.ID}, page)
		if err != nil {
			return d, err
		}
		for _, v := range views {
			d.Findings = append(d.Findings, report.Finding{Finding: v.Finding.Finding, Triage: v.Triage, LineHash: hashes[v.ID]})
		}
		if next == "" {
			break
		}
		page.After = next
	}
	d.Count()
	return d, nil
}

// lineHashes come from the report that the scan wrote where the source was at hand. Without it SARIF tells results apart by fingerprint.
func (s *Server) lineHashes(ctx context.Context, row projections.Scan) map[events.FindingID]string {
	for _, a := range artifacts(row) {
		if a.object.MediaType != "application/json" || !strings.HasSuffix(a.object.Name, "report.json") {
			continue
		}
		body, err := s.readObject(ctx, a.object)
		if err != nil {
			return nil
		}
		hashes, err := report.LineHashesOf(bytes.NewReader(body))
		if err != nil {
			return nil
		}
		return hashes
	}
	return nil
}

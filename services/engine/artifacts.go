package engine

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"vega/events"
	"vega/services/report"
)

// The logical names of what a scan leaves for people.
const (
	artifactReport  = "v16-report.json"
	artifactSummary = "runner-summary.json"
	artifactSARIF   = "report.sarif"
	artifactEvents  = "v16-events.jsonl"
	artifactBundle  = "v16-debug-bundle.zip"
)

// summary is runner-summary.json: how the run went, without the findings.
type summary struct {
	Schema     int                 `json:"schema_version"`
	Scan       events.ScanID       `json:"scan_id"`
	Repository events.RepositoryID `json:"repository_id"`
	Snapshot   events.SnapshotID   `json:"snapshot_id"`
	Attempt    int                 `json:"attempt"`
	Engine     string              `json:"engine"`
	Pack       packSummary         `json:"pack"`
	Model      string              `json:"model,omitempty"` // absent where none was asked
	Paths      []string            `json:"paths,omitempty"`
	Stages     []report.Stage      `json:"stages"`
	Coverage   events.Coverage     `json:"coverage"`
	Counts     events.Counts       `json:"findings_by_severity"`
	Rejected   int                 `json:"rejected"`
	Inventory  *inventorySummary   `json:"inventory,omitempty"`
}

// packSummary says which engine pack a run went by.
type packSummary struct {
	Version string        `json:"version"`
	Digest  events.Digest `json:"digest"`
}

// report makes the artifacts. They hold no clock but the times in v16-events.jsonl, so the same scan gives the same bytes.
func (r *run) report(ctx context.Context) (result, error) {
	doc, err := r.document(ctx)
	if err != nil {
		return result{}, err
	}
	var inv inventory
	if err := r.result(ctx, stageInventory, &inv); err != nil {
		return result{}, err
	}
	sum := summary{
		Schema: 1, Scan: r.job.Scan, Repository: r.job.Repository, Snapshot: r.job.Snapshot, Attempt: r.job.Attempt,
		Engine: r.Version(), Pack: packSummary{r.pack.Version(), r.pack.Digest()}, Paths: r.job.Paths, Stages: doc.Stages, Coverage: doc.Coverage, Counts: doc.Counts, Rejected: doc.Rejected,
	}
	if len(r.job.Access.Missing) == 0 && r.job.Access.BaseURL != "" {
		sum.Model = r.Model(r.job.Model)
	}
	if r.done[stageInventory].Result != nil {
		sum.Inventory = new(inv.summary())
	}

	var res result
	var bundled []bundleEntry
	for _, s := range r.stages { // what earlier stages left for people, transcripts among it
		for _, o := range r.done[s.name].Artifacts {
			bundled = append(bundled, bundleEntry{o.Name, func() (io.ReadCloser, error) { return r.rec.Get(ctx, o) }})
		}
	}
	add := func(name, mediaType string, write func(io.Writer) error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// The file goes with the working folder; the object that it becomes is garbage until the stage is recorded.
		f, err := os.OpenFile(filepath.Join(r.job.WorkDir, "out-"+name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		defer f.Close()
		if err := write(f); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		o, err := r.store(ctx, name, mediaType, f)
		if err != nil {
			return err
		}
		res.artifacts = append(res.artifacts, o)
		bundled = append(bundled, bundleEntry{name, func() (io.ReadCloser, error) { return os.Open(f.Name()) }})
		return nil
	}
	for _, a := range []struct {
		name, mediaType string
		write           func(io.Writer) error
	}{
		{artifactReport, "application/json", func(w io.Writer) error { return report.JSON(w, doc) }},
		{artifactSummary, "application/json", func(w io.Writer) error { return writeJSON(w, sum) }},
		{artifactSARIF, "application/sarif+json", func(w io.Writer) error { return report.SARIF(w, doc) }},
		{resultInventory, "application/json", func(w io.Writer) error { return writeJSON(w, inv) }},
		{artifactEvents, "application/x-ndjson", r.writeFeed},
		{artifactBundle, "application/zip", func(w io.Writer) error { return writeBundle(w, bundled) }},
	} {
		if err := add(a.name, a.mediaType, a.write); err != nil {
			return result{}, err
		}
	}
	res.status, res.detail = events.StageDone, fmt.Sprintf("%d artifacts", len(res.artifacts))
	return res, nil
}

// document is the scan as it stands before the report stage is recorded; this stage adds nothing to it.
func (r *run) document(ctx context.Context) (report.Document, error) {
	out := r.outcome()
	doc := report.Document{
		Tool: report.Tool{Name: "Vega", Version: r.Version()}, Scan: r.job.Scan, Repository: r.job.Repository, Snapshot: r.job.Snapshot,
		Paths: r.job.Paths, Attempt: r.job.Attempt, Status: "completed", Coverage: out.Coverage, Counts: out.Counts, Rejected: out.Rejected,
	}
	for _, s := range r.stages {
		if d, ok := r.done[s.name]; ok {
			doc.Stages = append(doc.Stages, report.Stage{Name: s.name, Status: d.Status, Detail: d.Detail})
		}
	}
	hashes, err := r.lineHashes(ctx)
	if err != nil {
		return report.Document{}, err
	}
	for _, f := range r.findings {
		doc.Findings = append(doc.Findings, report.Finding{Finding: f, LineHash: hashes[place{f.File, f.StartLine}]})
	}
	return doc, nil
}

type place struct {
	file string
	line int
}

// lineHashes computes the hash of every line that a finding begins on. A file that cannot be read has none.
func (r *run) lineHashes(ctx context.Context) (map[place]string, error) {
	lines := make(map[string]map[int]bool)
	for _, f := range r.findings {
		if lines[f.File] == nil {
			lines[f.File] = make(map[int]bool)
		}
		lines[f.File][f.StartLine] = true
	}
	hashes := make(map[place]string, len(r.findings))
	for name, wanted := range lines {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		content, whole, err := r.tree.head(name, r.opt.MaxFileBytes)
		if err != nil || !whole {
			continue
		}
		_ = report.LineHashes(bytes.NewReader(content), func(line int, hash string) {
			if wanted[line] {
				hashes[place{name, line}] = hash
			}
		})
	}
	return hashes, nil
}

func (r *run) writeFeed(w io.Writer) error {
	in, err := r.feed.reader()
	if err != nil {
		return err
	}
	_, err = io.Copy(w, in)
	return err
}

// bundleEntry is a file that goes into the debug bundle.
type bundleEntry struct {
	name string
	open func() (io.ReadCloser, error)
}

// writeBundle zips the other artifacts. Every entry has the same time.
func writeBundle(w io.Writer, entries []bundleEntry) error {
	z := zip.NewWriter(w)
	for _, e := range entries {
		out, err := z.CreateHeader(&zip.FileHeader{
			Name: e.name, Method: zip.Deflate, Modified: time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC),
		})
		if err != nil {
			return err
		}
		in, err := e.open()
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		_ = in.Close()
		if err != nil {
			return err
		}
	}
	return z.Close()
}

package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/engine"
	"vega/services/scan"
)

// recorder makes durable what the engine brings, in the name of one attempt.
type recorder struct {
	a   *attempt
	dir string // for spooling
}

// ErrObjectChanged is returned by Get when the stored bytes are not those that the event recorded.
var ErrObjectChanged = errors.New("stored object does not have the recorded digest")

// Put spools r to learn its digest, then stores it under the attempt and the digest, so attempts never write over each other's files. A crash
// after it leaves an object that no event names.
func (r *recorder) Put(ctx context.Context, name, mediaType string, in io.Reader) (events.Object, error) {
	f, err := os.CreateTemp(r.dir, "object-*")
	if err != nil {
		return events.Object{}, fmt.Errorf("store %s: %w", name, err)
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name()) // the attempt's whole folder is removed in the end
	}()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), in)
	if err != nil {
		return events.Object{}, fmt.Errorf("store %s: %w", name, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return events.Object{}, fmt.Errorf("store %s: %w", name, err)
	}
	sum := hex.EncodeToString(h.Sum(nil))
	o := events.Object{
		Name:      name,
		Key:       fmt.Sprintf("scans/%s/%d-%d/%s/%s", r.a.id, r.a.number, r.a.generation, sum, name),
		Digest:    events.Digest("sha256:" + sum),
		Bytes:     n,
		MediaType: mediaType,
	}
	if err := r.a.w.Objects.Put(ctx, o.Key, f); err != nil {
		return events.Object{}, fmt.Errorf("store %s: %w", name, err)
	}
	return o, nil
}

// Get opens an object that this or an earlier attempt recorded. Reading it to its end fails when its bytes are not the recorded ones.
func (r *recorder) Get(ctx context.Context, o events.Object) (io.ReadCloser, error) {
	in, err := r.a.w.Objects.Open(ctx, o.Key)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", o.Name, err)
	}
	return &verified{ReadCloser: in, sum: sha256.New(), want: o.Digest}, nil
}

// Findings records findings in events of bounded size.
func (r *recorder) Findings(ctx context.Context, stage string, f []events.Finding) error {
	return r.a.do(ctx, scan.RecordFindings{Generation: r.a.generation, Stage: stage, Findings: f})
}

// Unit records the end of a piece of a stage.
func (r *recorder) Unit(ctx context.Context, u events.UnitCompleted) error {
	return r.a.do(ctx, scan.CompleteUnit{Generation: r.a.generation, Result: u})
}

// Stage records a stage's end.
func (r *recorder) Stage(ctx context.Context, s events.StageCompleted) error {
	return r.a.do(ctx, scan.CompleteStage{Generation: r.a.generation, Result: s})
}

// Progress and Log go to the live feed, which may lose them.
func (r *recorder) Progress(_ context.Context, p engine.Progress) {
	payload := map[string]any{"message": clip(p.Message), "percent": p.Percent}
	if p.Component != "" {
		payload["component"] = p.Component
	}
	if p.Total > 0 {
		payload["units_done"], payload["units_total"] = p.Done, p.Total
	}
	r.feed("scan_progress", payload)
}

func (r *recorder) Log(_ context.Context, line string) {
	r.feed("scan_log", map[string]any{"message": clip(line)})
}

func (r *recorder) feed(kind string, payload map[string]any) {
	l := eventstore.FeedLine{Kind: kind, Attempt: r.a.number, Generation: r.a.generation, At: time.Now().UTC(), Payload: payload}
	if err := r.a.w.Store.PublishFeed(r.a.id, l); err != nil {
		r.a.w.Log.Debug("feed line lost", "scan_id", r.a.id, "err", err)
	}
}

// maxFeedText bounds the text of one feed line, in bytes.
const maxFeedText = 8 << 10

func clip(s string) string {
	if len(s) <= maxFeedText {
		return s
	}
	s = strings.ToValidUTF8(s[:maxFeedText], "")
	return s + "…"
}

package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"vega/events"
	"vega/services/report"
)

// run is one call of Engine.Run. Stages run one after the other; only forEachFile, eachPiece and what they call are concurrent.
type run struct {
	*Engine
	job  Job
	rec  Recorder
	tree *tree
	feed *feed

	done     map[string]events.StageCompleted // by stage, of all attempts
	findings []events.Finding                 // recorded, of all attempts

	theAgent *agent   // what asks the model, once a stage needed it
	noAgent  *noModel // why there is none

	codeFiles []codeFile // what an audit has to look at, once somebody has looked

	passed  int   // the weights of the stages that are over
	current stage // the one that runs

	mu      sync.Mutex // guards what follows, and rec and feed while work goes on concurrently; held while something is recorded
	percent int
	failed  error                             // the first error of rec: nothing can go on after it
	units   map[unitName]events.UnitCompleted // of all attempts
}

// fatal is the first error of the recorder, after which nothing can go on.
func (r *run) fatal() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// perform runs one stage. A stage that panics has failed: what it parses comes from strangers.
func (r *run) perform(ctx context.Context, s stage) (res result, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.opt.Log.Error("stage panicked", "scan_id", r.job.Scan, "attempt", r.job.Attempt, "stage", s.name,
				"err", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = errors.New("the stage ran into a defect of its own")
		}
	}()
	return s.run(r, ctx)
}

// forEachFile calls work for the files of the tree on a few goroutines, until one returns an error or ctx ends. A panic in work
// becomes a call of broken, which is never concurrent. Progress is counted in the sizes of the files.
func (r *run) forEachFile(ctx context.Context, work func(context.Context, int, file) error, broken func(file)) error {
	total := r.tree.bytes()
	var finished int64
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.opt.Concurrency)
	for i, f := range r.tree.files {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() (err error) {
			defer func() {
				p := recover()
				r.mu.Lock()
				defer r.mu.Unlock()
				if p != nil {
					r.opt.Log.Error("file broke a parser", "scan_id", r.job.Scan, "stage", r.current.name, "err", fmt.Sprint(p))
					broken(f)
				}
				finished += f.size + 1
				r.advance(ctx, finished, total)
			}()
			return work(gctx, i, f)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// weight is a stage's share of the work, in percent.
func (r *run) weight(s stage) int {
	if len(r.job.Access.Missing) > 0 || r.job.Access.BaseURL == "" {
		return s.weight
	}
	return s.aided
}

// begin tells the watchers that a stage begins.
func (r *run) begin(ctx context.Context, s stage) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current = s
	r.progress(ctx, s.name+" started", s.name, 0, 1)
}

// advance reports progress inside the current stage whenever the percentage grows. The caller holds mu.
func (r *run) advance(ctx context.Context, done, total int64) {
	if p := r.passed + int(int64(r.weight(r.current))*done/max(total, 1)); p > r.percent {
		r.progress(ctx, r.current.name, r.current.name, done, total)
	}
}

// progress tells the watchers how far the current stage is. The caller holds mu.
func (r *run) progress(ctx context.Context, message, component string, done, total int64) {
	weight := r.weight(r.current)
	if component == "" {
		weight = 0
	}
	r.percent = max(r.percent, min(100, r.passed+int(int64(weight)*done/max(total, 1))))
	r.tell(ctx, Progress{Message: message, Component: component, Percent: r.percent})
}

// pieces tells the watchers how many pieces of the current stage are recorded. The caller holds mu.
func (r *run) pieces(ctx context.Context, done, total int64) {
	name := r.current.name
	r.percent = max(r.percent, min(100, r.passed+int(int64(r.weight(r.current))*done/max(total, 1))))
	r.tell(ctx, Progress{Message: fmt.Sprintf("%s: %d of %d", name, done, total), Component: name, Percent: r.percent, Done: int(done), Total: int(total)})
}

func (r *run) tell(ctx context.Context, p Progress) {
	r.feed.write("scan_progress", p)
	r.rec.Progress(ctx, p)
}

// log tells the watchers one line, from any goroutine.
func (r *run) log(ctx context.Context, line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logLine(ctx, line)
}

// logLine needs mu. What a line says of the source is made printable.
func (r *run) logLine(ctx context.Context, line string) {
	line = report.Printable(cleanText(line))
	r.feed.write("scan_log", map[string]string{"message": line})
	r.rec.Log(ctx, line)
}

// put stores v as JSON.
func (r *run) put(ctx context.Context, name string, v any) (*events.Object, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", name, err)
	}
	o, err := r.store(ctx, name, "application/json", bytes.NewReader(b))
	return &o, err
}

// store stores the bytes of in. An object without an event that names it is garbage, which maintenance removes.
func (r *run) store(ctx context.Context, name, mediaType string, in io.Reader) (events.Object, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o, err := r.rec.Put(ctx, name, mediaType, in)
	if err != nil {
		r.failed = fmt.Errorf("store %s: %w", name, err)
	}
	return o, r.failed
}

// result reads back what a stage stored, in this attempt or an earlier one. A stage that stored nothing leaves v as it is.
func (r *run) result(ctx context.Context, stageName string, v any) error {
	return r.read(ctx, r.done[stageName].Result, v)
}

// read reads back a stored object; nil leaves v as it is.
func (r *run) read(ctx context.Context, o *events.Object, v any) error {
	if o == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	in, err := r.rec.Get(ctx, *o)
	if err != nil {
		r.failed = fmt.Errorf("read %s: %w", o.Name, err)
		return r.failed
	}
	defer in.Close()
	if err := json.NewDecoder(bufio.NewReader(in)).Decode(v); err != nil {
		return fmt.Errorf("decode %s: %w", o.Name, err)
	}
	return nil
}

// maxFeedBytes bounds the file that keeps what watchers were told.
const maxFeedBytes = 8 << 20

// feed keeps the lines that watchers were told, one JSON object per line, so that they can be read after the live feed has
// forgotten them. Losing the file loses history of no consequence: write errors only end it.
type feed struct {
	attempt int
	now     func() time.Time
	file    *os.File
	out     *bufio.Writer
	n       int
	bytes   int
	full    bool
}

// feedLine is one line of v16-events.jsonl.
type feedLine struct {
	N       int       `json:"n"` // from 1 in each attempt
	Attempt int       `json:"attempt"`
	At      time.Time `json:"at"`
	Kind    string    `json:"kind"` // scan_progress or scan_log
	Payload any       `json:"payload"`
}

func openFeed(job Job, now func() time.Time) (*feed, error) {
	f, err := os.OpenFile(filepath.Join(job.WorkDir, artifactEvents), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open working folder: %w", err)
	}
	return &feed{attempt: job.Attempt, now: now, file: f, out: bufio.NewWriter(f)}, nil
}

func (f *feed) write(kind string, payload any) {
	if f.full {
		return
	}
	f.n++
	line, err := json.Marshal(feedLine{f.n, f.attempt, f.now().UTC().Round(0), kind, payload})
	if err == nil && f.bytes+len(line) > maxFeedBytes {
		f.full = true
		line, err = json.Marshal(feedLine{f.n, f.attempt, f.now().UTC().Round(0), "scan_log",
			map[string]string{"message": "the log is full; later lines were not kept"}})
	}
	if err == nil {
		_, err = f.out.Write(append(line, '\n'))
	}
	f.full = f.full || err != nil
	f.bytes += len(line) + 1
}

// reader returns what was written so far, from the start.
func (f *feed) reader() (io.Reader, error) {
	if err := f.out.Flush(); err != nil {
		return nil, err
	}
	size, err := f.file.Seek(0, io.SeekEnd)
	return io.NewSectionReader(f.file, 0, size), err
}

func (f *feed) close() { _ = f.file.Close() }

package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"time"

	"vega/events"
)

// Options are what the engine needs beside its configuration.
type Options struct {
	Version string           // of this build; stands in reports
	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger     // required; what operators read, never source or findings
	// Concurrency is how many files of one scan are read at once; 0: as many as there are processors, at most 4.
	Concurrency int
	// MaxFileBytes is how much of a file is analysed: larger text files are named in the coverage. 0: 2 MiB.
	MaxFileBytes int64
}

// Engine runs scans. It holds no state of any of them and is safe for concurrent use.
type Engine struct {
	opt     Options
	masker  masker
	missing []string // variables that would turn the model stages on
	stages  []stage
}

// New checks the parts of cfg that the deterministic stages need. It fails when MaskSecret is empty.
func New(cfg Config, opt Options) (*Engine, error) {
	if cfg.MaskSecret.IsZero() {
		return nil, errors.New("engine: VEGA_MASK_SECRET is empty: credentials cannot be masked without a key")
	}
	if opt.Log == nil {
		return nil, errors.New("engine: no logger")
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	opt.Concurrency = cmp.Or(opt.Concurrency, min(runtime.GOMAXPROCS(0), 4))
	opt.MaxFileBytes = cmp.Or(opt.MaxFileBytes, 2<<20)
	return &Engine{
		opt:     opt,
		masker:  masker{key: []byte(cfg.MaskSecret.Reveal())},
		missing: slices.Clone(cfg.ModelAccess.Missing),
		stages:  stageTable(),
	}, nil
}

// Version is what AttemptStarted records as the engine.
func (e *Engine) Version() string { return cmp.Or(e.opt.Version, "dev") }

// Job is one attempt at a scan.
type Job struct {
	Region     events.Region
	Scan       events.ScanID
	Repository events.RepositoryID
	Snapshot   events.SnapshotID
	Attempt    int
	Dir        string                // the source tree; only read. Everything in it was checked against the snapshot
	Paths      []string              // files and folders to look at, slash-separated; empty means everything
	WorkDir    string                // an empty folder for this attempt; the caller removes it
	Profile    *events.ThreatProfile // nil: none was given
	Model      string                // for stages that need a model; this build has none

	// What earlier attempts recorded, in order.
	Done     []events.StageCompleted
	Findings []events.Finding
}

// Recorder makes things durable. Put, Get, Findings and Stage return when it is done, and an error of theirs ends the run
// with that error. The engine never calls two methods at once.
type Recorder interface {
	// Put stores what r holds and returns where it lies. It is stored once, however often it is put.
	Put(ctx context.Context, name, mediaType string, r io.Reader) (events.Object, error)
	// Get opens an object that Put stored, in this attempt or an earlier one.
	Get(ctx context.Context, o events.Object) (io.ReadCloser, error)
	// Findings records any number of findings of a stage. None of them is in Job.Findings.
	Findings(ctx context.Context, stage string, f []events.Finding) error
	// Stage records that a stage ended.
	Stage(ctx context.Context, s events.StageCompleted) error
	// Progress and Log tell people who watch. They do not wait and may lose what they are told.
	Progress(ctx context.Context, p Progress)
	Log(ctx context.Context, line string)
}

// Progress says how far a run is. Percent is the share of the work that is done, measured in bytes read; it never falls.
type Progress struct {
	Message   string `json:"message"`
	Component string `json:"component,omitempty"` // the stage
	Percent   int    `json:"percent"`             // 0 to 100
}

// Outcome is what a run that went through all stages came to.
type Outcome struct {
	Coverage events.Coverage
	Counts   events.Counts
	Rejected int
}

// Run takes a scan through the stages that no earlier attempt recorded.
//
// It returns the context's cause when ctx ends, which takes milliseconds; a Recorder's error as it is, wrapped; and another
// error only when the tree cannot be opened at all. A stage that fails is no error but a reason in the coverage.
func (e *Engine) Run(ctx context.Context, job Job, rec Recorder) (Outcome, error) {
	t, err := openTree(ctx, job.Dir, job.Paths)
	if err != nil {
		return Outcome{}, fmt.Errorf("open source tree: %w", err)
	}
	defer t.close()
	feed, err := openFeed(job, e.opt.Now)
	if err != nil {
		return Outcome{}, err
	}
	defer feed.close()
	r := &run{Engine: e, job: job, rec: rec, tree: t, feed: feed, findings: slices.Clone(job.Findings)}
	r.done = make(map[string]events.StageCompleted, len(e.stages))
	for _, s := range job.Done {
		r.done[s.Stage] = s
	}

	for i, s := range e.stages {
		if _, recorded := r.done[s.name]; recorded {
			r.passed += s.weight
			continue
		}
		if err := ctx.Err(); err != nil {
			return Outcome{}, context.Cause(ctx)
		}
		completed := events.StageCompleted{Attempt: job.Attempt, Stage: s.name, StartedAt: e.opt.Now().UTC().Round(0)}
		r.begin(ctx, s)
		res, err := r.perform(ctx, s)
		if ctx.Err() != nil {
			return Outcome{}, context.Cause(ctx)
		}
		if r.fatal != nil {
			return Outcome{}, fmt.Errorf("%s: %w", s.name, r.fatal)
		}
		if err != nil {
			e.opt.Log.Warn("stage failed", "scan_id", job.Scan, "attempt", job.Attempt, "stage", s.name, "err", err)
			res = failed(s.name, err)
		}
		completed.Status, completed.Detail, completed.Result = res.status, res.detail, res.object
		completed.Artifacts, completed.Reasons, completed.Rejected = res.artifacts, res.reasons, res.rejected
		r.log(ctx, fmt.Sprintf("%s %s: %s", s.name, res.status, res.detail))
		// Until this is recorded a crash makes the next attempt do the stage again: its objects get the same digests and merge
		// records no finding twice. Once it is, the next attempt starts at e.stages[i+1].
		if err := rec.Stage(ctx, completed); err != nil {
			return Outcome{}, fmt.Errorf("record stage %s: %w", e.stages[i].name, err)
		}
		r.done[s.name] = completed
		r.passed += s.weight
	}
	r.progress(ctx, "done", "", 0, 0)
	return r.outcome(), nil
}

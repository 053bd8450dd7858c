package engine

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"vega/events"
	"vega/services/engine/codex"
	"vega/services/engine/pack"
	"vega/services/report"
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
	// Pack is the engine pack that this build carries, and Script its way to run Codex in a container: for a configuration that names neither where the usual places have none.
	Pack   fs.FS
	Script []byte
	// HostEnv is what the programs that run Codex need of this process's environment, as NAME=value: PATH, HOME, and what says where Docker is.
	HostEnv []string
}

// Engine runs scans. It holds no state of any of them and is safe for concurrent use.
type Engine struct {
	opt           Options
	masker        masker
	pack          *pack.Pack
	program       *codex.Program
	model         string
	parallel      int
	maxComponents int
	runTimeout    time.Duration
	stages        []stage
}

// New checks what cfg says and reads the engine pack. It fails when MaskSecret is empty, and when the pack is not valid, with file and line. Whether Codex is there is asked by
// CheckCodex, and by each scan that needs it.
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
	e := &Engine{
		opt:           opt,
		masker:        masker{key: []byte(cfg.MaskSecret.Reveal())},
		model:         cfg.Model,
		parallel:      cmp.Or(cfg.Parallel, 3),
		maxComponents: cmp.Or(cfg.MaxComponents, 12),
		runTimeout:    cmp.Or(cfg.RunTimeout, 30*time.Minute),
		stages:        stageTable(),
	}
	var err error
	if e.pack, err = openPack(cfg, opt.Pack); err != nil {
		return nil, err
	}
	bin, err := codexProgram(cfg, opt.Script)
	if err != nil {
		return nil, err
	}
	e.program = codex.New(codex.Options{
		Bin: bin, Image: cfg.CodexDockerImage, Sandbox: cfg.CodexSandbox, Memory: cfg.CodexMemory, PIDs: cfg.CodexPIDs, CPUs: cfg.CodexCPUs, HostEnv: opt.HostEnv,
	})
	return e, nil
}

// openPack reads the pack in the folder that cfg names, or the one that this build carries when nobody named one: a folder that happens to lie where the process was started may
// belong to whoever wrote the source.
func openPack(cfg Config, carried fs.FS) (*pack.Pack, error) {
	if !cfg.RootGiven {
		if carried == nil {
			return nil, errors.New("engine: this build carries no engine pack (VEGA_V16_ROOT names one)")
		}
		return pack.Load(carried, "the built-in engine pack")
	}
	_, err := os.Stat(cfg.Root)
	if err != nil {
		return nil, fmt.Errorf("engine pack: %w (VEGA_V16_ROOT)", err)
	}
	p, err := pack.Load(os.DirFS(cfg.Root), cfg.Root)
	if err != nil {
		return nil, fmt.Errorf("VEGA_V16_ROOT: %w", err)
	}
	return p, nil
}

// scriptName is what the container script is called where it is written.
const scriptName = "codex-in-target-container.sh"

// codexProgram is the program that cfg names, by a path that does not depend on the folder it is started in. When nobody named one it is the script that this build carries, never one that
// happens to lie where the process was started. It is written below the runtime folder; the same bytes each time, so processes that share the folder may do it at once.
func codexProgram(cfg Config, script []byte) (string, error) {
	if cfg.CodexBinGiven || len(script) == 0 {
		if !strings.ContainsRune(cfg.CodexBin, filepath.Separator) {
			return cfg.CodexBin, nil // looked up in PATH
		}
		return filepath.Abs(cfg.CodexBin)
	}
	dir, err := filepath.Abs(filepath.Join(cfg.RuntimeRoot, "bin"))
	if err != nil {
		return "", fmt.Errorf("engine: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("engine: %w", err)
	}
	path := filepath.Join(dir, scriptName)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, script) {
		return path, nil
	}
	f, err := os.CreateTemp(dir, scriptName+".*")
	if err != nil {
		return "", fmt.Errorf("engine: %w", err)
	}
	_, err = f.Write(script)
	err = errors.Join(err, f.Chmod(0o700), f.Close())
	// A crash here leaves a file with a random name beside it, which nothing reads.
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the error says enough
		return "", fmt.Errorf("engine: write %s: %w", scriptName, err)
	}
	return path, nil
}

// Version is what AttemptStarted records as the engine.
func (e *Engine) Version() string { return cmp.Or(e.opt.Version, "dev") }

// PackDigest is what AttemptStarted records of the engine pack.
func (e *Engine) PackDigest() events.Digest { return e.pack.Digest() }

// CheckCodex says in one sentence what keeps Codex from running here; nil: nothing.
func (e *Engine) CheckCodex(ctx context.Context) error {
	_, err := e.program.Check(ctx)
	return err
}

// RemoveLeft removes the containers that a process which is no more has left; folder is the one that its attempts' folders lay in. Its commands on this machine are
// ended by process.KillLeft.
func (e *Engine) RemoveLeft(ctx context.Context, folder string) error {
	return e.program.RemoveLeft(ctx, folder)
}

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
	Model      string                // asked for with the scan; empty: the configured one
	Access     Access                // how the model is reached
	Base       *Base                 // the scan before this one; nil: there was none

	// What earlier attempts recorded, in order.
	Done     []events.StageCompleted
	Units    []events.UnitCompleted
	Findings []events.Finding
}

// Base is the scan that a job's findings are compared with.
type Base struct {
	Seen   report.Seen
	Ledger *events.Object  // nil: it recorded none
	Beside []events.Object // the ledgers of scans that it cannot know of, because they overlapped with it; newest first
}

// Recorder makes things durable. Put, Get, Findings, Unit and Stage return when it is done, and an error of theirs ends the run
// with that error. The engine never calls two methods at once.
type Recorder interface {
	// Put stores what r holds and returns where it lies. It is stored once, however often it is put.
	Put(ctx context.Context, name, mediaType string, r io.Reader) (events.Object, error)
	// Get opens an object that Put stored, in this attempt or an earlier one.
	Get(ctx context.Context, o events.Object) (io.ReadCloser, error)
	// Findings records any number of findings of a stage. None of them is in Job.Findings.
	Findings(ctx context.Context, stage string, f []events.Finding) error
	// Unit records that a piece of a stage ended.
	Unit(ctx context.Context, u events.UnitCompleted) error
	// Stage records that a stage ended.
	Stage(ctx context.Context, s events.StageCompleted) error
	// Progress and Log tell people who watch. They do not wait and may lose what they are told.
	Progress(ctx context.Context, p Progress)
	Log(ctx context.Context, line string)
}

// Progress says how far a run is. Percent is the share of the work that is done, which never falls: bytes read where files are read, and recorded pieces where a model is asked.
type Progress struct {
	Message   string `json:"message"`
	Component string `json:"component,omitempty"` // the stage
	Percent   int    `json:"percent"`             // 0 to 100
	// Done and Total count the pieces of a stage that is made of several; 0 of any other.
	Done  int `json:"units_done,omitempty"`
	Total int `json:"units_total,omitempty"`
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
	r := &run{Engine: e, job: job, rec: rec, tree: t, feed: feed, findings: slices.Clone(job.Findings), units: make(map[unitName]events.UnitCompleted, len(job.Units))}
	r.done = make(map[string]events.StageCompleted, len(e.stages))
	for _, s := range job.Done {
		r.done[s.Stage] = s
	}
	for _, u := range job.Units {
		r.units[unitName{u.Stage, u.Unit}] = u
	}

	for i, s := range e.stages {
		if _, recorded := r.done[s.name]; recorded {
			r.passed += r.weight(s)
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
		if fatal := r.fatal(); fatal != nil {
			return Outcome{}, fmt.Errorf("%s: %w", s.name, fatal)
		}
		if err != nil {
			e.opt.Log.Warn("stage failed", "scan_id", job.Scan, "attempt", job.Attempt, "stage", s.name, "err", err)
			res = failed(s.name, err)
		}
		completed.Status, completed.Detail, completed.Result = res.status, res.detail, res.object
		completed.Artifacts, completed.Reasons, completed.Rejected, completed.Compared = res.artifacts, res.reasons, res.rejected, res.compared
		r.log(ctx, fmt.Sprintf("%s %s: %s", s.name, res.status, res.detail))
		// Until this is recorded a crash makes the next attempt do the stage again: its objects get the same digests and merge
		// records no finding twice. Once it is, the next attempt starts at e.stages[i+1].
		if err := rec.Stage(ctx, completed); err != nil {
			return Outcome{}, fmt.Errorf("record stage %s: %w", e.stages[i].name, err)
		}
		r.done[s.name] = completed
		r.passed += r.weight(s)
	}
	r.mu.Lock()
	r.progress(ctx, "done", "", 0, 0)
	r.mu.Unlock()
	return r.outcome(), nil
}

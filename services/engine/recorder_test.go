package engine_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"vega/config/secret"
	"vega/events"
	"vega/services/engine"
	"vega/v16"
)

// recorder is a Recorder in memory. It outlives attempts, like the log and the object store do.
type recorder struct {
	mu       sync.Mutex
	objects  map[string][]byte
	stages   []events.StageCompleted
	units    []events.UnitCompleted
	findings []events.Finding
	progress []engine.Progress
	lines    []string
	busy     bool // a method is running: no other may

	// before and after are asked with "<method> <name>" around every write, and may refuse it.
	before, after func(what string) error
	onProgress    func(engine.Progress)
}

var errLost = errors.New("connection lost")

func newRecorder() *recorder { return &recorder{objects: make(map[string][]byte)} }

func (r *recorder) Put(_ context.Context, name, mediaType string, in io.Reader) (events.Object, error) {
	b, err := io.ReadAll(in)
	if err != nil {
		return events.Object{}, err
	}
	o := events.Object{Name: name, Key: name + "/" + string(events.DigestOf(b)), Digest: events.DigestOf(b), Bytes: int64(len(b)), MediaType: mediaType}
	return o, r.write("put "+name, func() { r.objects[o.Key] = b })
}

func (r *recorder) Get(_ context.Context, o events.Object) (io.ReadCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := r.objects[o.Key]
	if !ok {
		return nil, fmt.Errorf("no object %s", o.Key)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (r *recorder) Findings(_ context.Context, stage string, f []events.Finding) error {
	return r.write("findings "+stage, func() { r.findings = append(r.findings, f...) })
}

func (r *recorder) Stage(_ context.Context, s events.StageCompleted) error {
	return r.write("stage "+s.Stage, func() { r.stages = append(r.stages, s) })
}

func (r *recorder) Unit(_ context.Context, u events.UnitCompleted) error {
	return r.write("unit "+u.Stage+" "+u.Unit, func() { r.units = append(r.units, u) })
}

func (r *recorder) Progress(_ context.Context, p engine.Progress) {
	_ = r.write("", func() { r.progress = append(r.progress, p) })
	if r.onProgress != nil {
		r.onProgress(p)
	}
}

func (r *recorder) Log(_ context.Context, line string) {
	_ = r.write("", func() { r.lines = append(r.lines, line) })
}

func (r *recorder) write(what string, effect func()) error {
	r.mu.Lock()
	if r.busy {
		panic("two recorder methods at once")
	}
	r.busy = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.busy = false
		r.mu.Unlock()
	}()
	if what != "" && r.before != nil {
		if err := r.before(what); err != nil {
			return err
		}
	}
	effect()
	if what != "" && r.after != nil {
		return r.after(what)
	}
	return nil
}

// artifact is the last object of that name.
func (r *recorder) artifact(t *testing.T, name string) []byte {
	t.Helper()
	for _, s := range r.stages {
		for _, o := range s.Artifacts {
			if o.Name == name {
				return r.objects[o.Key]
			}
		}
	}
	t.Fatalf("no artifact %s", name)
	return nil
}

// everything is all that a scan let out: objects, the contents of zips, findings, stages, lines.
func (r *recorder) everything(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, o := range r.objects {
		b.Write(o)
		if z, err := zip.NewReader(bytes.NewReader(o), int64(len(o))); err == nil {
			for _, f := range z.File {
				in, err := f.Open()
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(&b, in); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	fmt.Fprintf(&b, "%+v %+v %+v %q", r.findings, r.stages, r.progress, r.lines)
	return b.String()
}

// newEngine is an engine without a model whose clock stands still.
func newEngine(t testing.TB, opt engine.Options) *engine.Engine {
	t.Helper()
	opt.Version = "test"
	opt.Log = slog.New(slog.DiscardHandler)
	opt.Pack = v16.Files()
	opt.Now = func() time.Time { return time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC) }
	e, err := engine.New(engine.Config{
		MaskSecret: secret.New("a key for tests"),
		CodexBin:   "codex-is-not-installed",
	}, opt)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// jobOn is a first attempt at scanning dir.
func jobOn(t testing.TB, dir string) engine.Job {
	t.Helper()
	return engine.Job{
		Region: "local", Scan: "scan_local_s", Repository: "repo_local_r", Snapshot: "sha256:00", Attempt: 1, Dir: dir, WorkDir: t.TempDir(),
		Access: engine.Access{Missing: []string{"VEGA_LLM_PROVIDER_BASE_URL", "VEGA_LLM_PROVIDER_API_KEY"}},
	}
}

// next is the attempt after the ones that rec has seen.
func next(t testing.TB, job engine.Job, rec *recorder) engine.Job {
	t.Helper()
	job.Attempt++
	job.WorkDir = t.TempDir()
	job.Done = append([]events.StageCompleted(nil), rec.stages...)
	job.Units = append([]events.UnitCompleted(nil), rec.units...)
	job.Findings = append([]events.Finding(nil), rec.findings...)
	return job
}

// scan runs a first attempt to its end.
func scan(t testing.TB, dir string) (*recorder, engine.Outcome) {
	t.Helper()
	rec := newRecorder()
	out, err := newEngine(t, engine.Options{}).Run(t.Context(), jobOn(t, dir), rec)
	if err != nil {
		t.Fatal(err)
	}
	return rec, out
}

// tree writes files below a new folder.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		p := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// archived is a tree from testdata.
func archived(t testing.TB, name string) string {
	t.Helper()
	a, err := txtar.ParseFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, f := range a.Files {
		files[f.Name] = string(f.Data)
	}
	return tree(t, files)
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"vega/events"
	"vega/services/engine"
	commands "vega/services/engine/process"
	"vega/services/worker"
)

// timed is an engine whose stages take a while and do nothing: what is tested is everything around it. It exists in this test binary alone.
type timed struct {
	Stages  int           // how many
	Takes   time.Duration // one stage on average; from half to one and a half of it
	Process bool          // a stage is a process with children, one of them in a session of its own, not a wait
	Count   string        // a file that gets a line, "scan stage attempt", when a stage begins
	Hold    string        // while this file exists, the stage named in it does not end
}

// timedEngine names the variable that makes this test binary run scans with the engine in it.
const timedEngine = "TEST_TIMED_ENGINE"

// env is the environment's entry for a process.
func (e timed) env(t testing.TB) string {
	t.Helper()
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return timedEngine + "=" + string(b)
}

// assemblyFor is the product, or the product with the engine that spec describes.
func assemblyFor(spec string) (assembly, error) {
	a := product()
	if spec == "" {
		return a, nil
	}
	var e timed
	if err := json.Unmarshal([]byte(spec), &e); err != nil {
		return a, err
	}
	a.engine = func(engine.Config, engine.Options) (worker.Engine, error) { return e, nil }
	a.launch = worker.LaunchOptions{Poll: 100 * time.Millisecond, Look: 200 * time.Millisecond, Sweep: 5 * time.Second, Again: 50 * time.Millisecond}
	return a, nil
}

func (timed) Version() string                          { return "timed" }
func (timed) PackDigest() events.Digest                { return "" }
func (timed) Model(asked string) string                { return asked }
func (timed) RemoveLeft(context.Context, string) error { return nil }

func (e timed) Run(ctx context.Context, j engine.Job, r engine.Recorder) (engine.Outcome, error) {
	done := map[string]bool{}
	for _, s := range j.Done {
		done[s.Stage] = true
	}
	for i, stage := range engine.StageNames()[:e.Stages] {
		if done[stage] {
			continue
		}
		start := time.Now().UTC()
		if err := e.count(fmt.Sprintf("%s %s %d\n", j.Scan, stage, j.Attempt)); err != nil {
			return engine.Outcome{}, err
		}
		r.Progress(ctx, engine.Progress{Message: stage, Component: stage, Percent: 100 * i / e.Stages})
		if err := e.stage(ctx, stage, j.WorkDir); err != nil {
			return engine.Outcome{}, err
		}
		o, err := r.Put(ctx, stage+".json", "application/json", strings.NewReader(`{"scan":"`+string(j.Scan)+`"}`))
		if err != nil {
			return engine.Outcome{}, err
		}
		if err := r.Stage(ctx, events.StageCompleted{Stage: stage, Status: events.StageDone, StartedAt: start, Result: &o}); err != nil {
			return engine.Outcome{}, err
		}
	}
	return engine.Outcome{Coverage: events.Coverage{State: events.CoverageComplete, Reasons: []events.CoverageReason{}}}, nil
}

func (e timed) stage(ctx context.Context, name, dir string) error {
	takes := e.Takes/2 + rand.N(e.Takes+1)
	if e.Process {
		if e.held(name) {
			takes = time.Hour
		}
		seconds := fmt.Sprintf("%.3f", takes.Seconds())
		return commands.Run(ctx, exec.Command("sh", "-c", "setsid sleep "+seconds+" & sleep "+seconds+"; wait"), commands.NewMark(dir))
	}
	for {
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if !e.held(name) {
			return nil
		}
	}
}

func (e timed) held(stage string) bool {
	if e.Hold == "" {
		return false
	}
	b, err := os.ReadFile(e.Hold)
	return err == nil && strings.TrimSpace(string(b)) == stage
}

// count appends a line; a line this short is written whole, whoever else writes.
func (e timed) count(line string) error {
	if e.Count == "" {
		return nil
	}
	f, err := os.OpenFile(e.Count, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(line); err != nil {
		return err
	}
	return f.Close()
}

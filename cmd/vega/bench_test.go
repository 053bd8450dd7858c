package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore/natstest"
)

// BenchmarkStartToReady measures from the start of the process to its greeting, on an empty folder and with 100,000 events in the log that the
// read model has seen. Goal: below 1,000 ms.
func BenchmarkStartToReady(b *testing.B) {
	for _, n := range []int{0, 100_000} {
		b.Run(fmt.Sprintf("events=%d", n), func(b *testing.B) {
			home := b.TempDir()
			fillLog(b, filepath.Join(home, "data", "nats"), n)
			first := serveIn(b, home, "VEGA_REGION="+string(natstest.Region)) // folds the log once
			first.stop(b)
			for b.Loop() {
				start := time.Now()
				s := serveIn(b, home, "VEGA_REGION="+string(natstest.Region))
				b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms-to-ready")
				b.StopTimer()
				s.stop(b)
				b.StartTimer()
			}
		})
	}
}

// fillLog writes n events of scans that are over into a log's folder.
func fillLog(b *testing.B, dir string, n int) {
	b.Helper()
	store, stop := natstest.Start(b, dir, false)
	defer stop()
	const perScan = 5
	meta := events.Meta{Command: "fill", Actor: events.BySystem("bench"), At: time.Now()}
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := w; i < n/perScan; i += 8 {
				a := events.ScanOf(natstest.Region, events.ScanID(fmt.Sprintf("scan_test_%d", i)))
				var head events.Head
				for _, e := range []events.Event{
					events.ScanQueued{Project: "p", Repository: "r", Snapshot: "sha256:0", User: "u", Priority: events.Normal, MaxAttempts: 3},
					events.AttemptClaimed{Attempt: 1, Worker: "w"}, events.AttemptStarted{Attempt: 1, Worker: "w"},
					events.StageCompleted{Attempt: 1, Stage: "inventory", Status: events.StageDone}, events.ScanCompleted{Attempt: 1},
				} {
					m := meta
					m.Command = events.CommandID(fmt.Sprintf("fill-%d-%d", i, head.Version))
					r, err := store.Append(b.Context(), a, head, m, e)
					if err != nil {
						b.Error(err)
						return
					}
					head = r[0].Head()
				}
			}
		})
	}
	writers.Wait()
	if info, err := store.Info(b.Context()); err != nil || int(info.Last) != n {
		b.Fatalf("the log ends at %d, %v; want %d", info.Last, err, n)
	}
}

// benched runs vega bench to its end and returns what it measured. Its temporary files must be gone by then.
func benched(t *testing.T, env []string, args ...string) (benchResult, int) {
	t.Helper()
	home, tmp := t.TempDir(), t.TempDir()
	out, errs, code := vega(t, home, append(env, "TMPDIR="+tmp), append([]string{"bench", "--json"}, args...)...)
	var r benchResult
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v: %s%s", err, out, errs)
	}
	for _, dir := range []string{home, tmp} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
	return r, code
}

func TestBenchMeasuresThisMachine(t *testing.T) {
	t.Parallel()
	r, code := benched(t, nil, "--scans", "7", "--concurrency", "6")
	if code != 0 || r.Completed != 7 || r.Failed != 0 || r.Unfinished != 0 || r.Waited != 0 || len(r.Errors) > 0 {
		t.Errorf("exit %d, %+v", code, r)
	}
	if r.PerSecond <= 0 || r.Claims <= 0 {
		t.Errorf("%.1f scans/s, %.1f claims/s", r.PerSecond, r.Claims)
	}
	for what, x := range map[string]spread{"create": r.Create, "read back": r.ReadBack, "to claim": r.ToClaim, "to start": r.ToStart, "to end": r.ToEnd, "whole": r.Whole} {
		if x.P50 <= 0 || x.P99 < x.P50 || x.Max < x.P99 {
			t.Errorf("%s: %+v", what, x)
		}
	}
	if r.ToStart.P50 < r.ToClaim.P50 || r.Whole.P50 < r.ToStart.P50 {
		t.Errorf("the parts are longer than the whole: %+v", r)
	}
}

func TestBenchOfAServerLeavesNothingThere(t *testing.T) {
	t.Parallel()
	s := serveIn(t, t.TempDir())
	env := []string{"VEGA_TOKEN=" + s.token}
	r, code := benched(t, env, "--server", s.base, "--scans", "4", "--concurrency", "2", "--path", tree(t, leaky()))
	if code != 0 || r.Completed != 4 || r.Server != s.base {
		t.Errorf("exit %d, %+v", code, r)
	}
	projects := func() int {
		t.Helper()
		var list struct {
			Items []struct{ ID string } `json:"items"`
		}
		s.do(t, http.MethodGet, "/projects", nil, &list)
		return len(list.Items)
	}
	if n := projects(); n != 0 {
		t.Errorf("%d projects left", n)
	}

	interrupted := command(t, t.TempDir(), env, "bench", "--server", s.base, "--scans", "100000", "--concurrency", "2")
	errs, err := interrupted.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := interrupted.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(errs)
	last := ""
	for lines.Scan() {
		last = lines.Text()
		if strings.Contains(last, "are over") {
			if err := interrupted.Process.Signal(syscall.SIGINT); err != nil {
				t.Error(err)
			}
		}
	}
	_ = interrupted.Wait()
	if code := interrupted.ProcessState.ExitCode(); code != exitError || !strings.Contains(last, "interrupted after") {
		t.Errorf("exit %d, %s", code, last)
	}
	if n := projects(); n != 0 {
		t.Errorf("%d projects left after Ctrl-C", n)
	}
	if _, code := benched(t, env, "--server", s.base, "--scans", "1", "--keep"); code != 0 || projects() != 1 {
		t.Errorf("with --keep: exit %d, %d projects", code, projects())
	}
}

func TestBenchRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	file := filepath.Join(tree(t, map[string]string{"a": ""}), "a")
	for args, want := range map[string]string{
		"--scans 0":                    "--scans is 0, want 1 to 100000",
		"--concurrency 1001":           "--concurrency is 1001, want 1 to 1000",
		"--timeout 1ms":                "--timeout is 1ms",
		"--path /nowhere":              "--path: stat /nowhere",
		"--path " + file:               "is not a folder",
		"--server example.com":         "--server is not an http or https URL",
		"--server https://example.com": "API key in VEGA_TOKEN",
		"--rate 5":                     "unknown flag: --rate",
	} {
		out, errs, code := vega(t, t.TempDir(), nil, append([]string{"bench"}, strings.Fields(args)...)...)
		if code != exitError || out != "" || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %q, %q; want %q", args, code, out, errs, want)
		}
	}
}

func TestBenchWaitsWhenItIsAskedTo(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch asked.Add(1) {
		case 1:
			w.WriteHeader(http.StatusTooManyRequests)
		case 2:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			w.Header().Set("Vega-Sequence", "7")
			fmt.Fprint(w, `{"id":"scan_test_a"}`)
		}
	}))
	defer s.Close()
	l := &load{server: &server{client: newClient(s.URL, "")}}
	before := time.Now()
	begin, id, seq, err := l.create(t.Context())
	if err != nil || id != "scan_test_a" || seq != "7" || l.refusals != 2 || len(l.creates) != 1 {
		t.Errorf("create = %s, %s, %v; %d refusals, %d timed", id, seq, err, l.refusals, len(l.creates))
	}
	if begin.Sub(before) < 1100*time.Millisecond {
		t.Errorf("it waited only %v", begin.Sub(before))
	}
}

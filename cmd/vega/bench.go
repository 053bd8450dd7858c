package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

type benchFlags struct {
	server      string
	scans       int
	concurrency int
	path        string
	timeout     time.Duration
	json        bool
	keep        bool
	quiet       bool
}

// Bounds of what one run may ask of a deployment.
const (
	maxBenchScans       = 100_000
	maxBenchConcurrency = 1_000
)

func newBenchCommand(made assembly) *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure how fast a deployment takes and runs scans",
		Long: `Makes a project and a small repository, runs scans of it, and prints how many got through and how long each part took.
The scans are real: every stage that the deployment has runs, models included, on a tree of three files or on --path.

With --server it loads that deployment, as the user whose token is in VEGA_TOKEN. Without, it measures this machine: a server
inside this process, configured as 'vega' would be, but on a temporary folder, and with a limit of active scans that lets
--concurrency through. An answer of 429 or 503 is waited out, as the server asks, and counted.

In the end, or on Ctrl-C, the repository and the project are deleted again. The log keeps what happened.

Exit code 3 when not every scan completed.`,
		Example: `  vega bench
  vega bench --scans 500 --concurrency 16 --json > bench.json
  VEGA_TOKEN=... vega bench --server https://vega.example.com/v1 --scans 200 --concurrency 4`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runBench(cmd.Context(), made, f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.server, "server", "", "`URL` of a server's API, prefix included; the token is in VEGA_TOKEN")
	fl.IntVar(&f.scans, "scans", 50, fmt.Sprintf("how many scans, at most %d", maxBenchScans))
	fl.IntVar(&f.concurrency, "concurrency", 4, fmt.Sprintf("how many clients run them, each one scan at a time, at most %d", maxBenchConcurrency))
	fl.StringVar(&f.path, "path", "", "scan this `FOLDER` instead of three small files")
	fl.DurationVar(&f.timeout, "timeout", 10*time.Minute, "stop after this long and print what was measured")
	fl.BoolVar(&f.json, "json", false, "print one JSON document on stdout instead of a table")
	fl.BoolVar(&f.keep, "keep", false, "keep the project, the repository and, without --server, the folder")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "no progress")
	return cmd
}

func (f benchFlags) check() error {
	switch {
	case f.scans < 1 || f.scans > maxBenchScans:
		return fmt.Errorf("--scans is %d, want 1 to %d", f.scans, maxBenchScans)
	case f.concurrency < 1 || f.concurrency > maxBenchConcurrency:
		return fmt.Errorf("--concurrency is %d, want 1 to %d", f.concurrency, maxBenchConcurrency)
	case f.timeout < time.Second || f.timeout > 24*time.Hour:
		return fmt.Errorf("--timeout is %s, want 1s to 24h", f.timeout)
	}
	if f.path == "" {
		return nil
	}
	info, err := os.Stat(f.path)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is not a folder", f.path)
	}
	if err != nil {
		return fmt.Errorf("--path: %w", err)
	}
	return nil
}

func runBench(ctx context.Context, made assembly, f benchFlags, stdout, stderr io.Writer) (err error) {
	if err := f.check(); err != nil {
		return err
	}
	p := &progress{w: stderr, quiet: f.quiet} // lines, never a bar: there are many scans
	s, err := benchServer(ctx, made, f, p, stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	s.http.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: 5 * time.Minute, MaxIdleConnsPerHost: 2 * f.concurrency}
	ground, err := prepare(ctx, s, f, p)
	defer func() {
		if !f.keep {
			err = errors.Join(err, ground.remove(context.WithoutCancel(ctx)))
		}
	}()
	if err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted before the first scan")
		}
		return err
	}
	l := &load{server: s, flags: f, ground: ground, errors: map[string]int{}}
	r := l.run(ctx, p)
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted after %d of %d scans", r.Completed+r.Failed, f.scans)
	}
	if f.json {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	} else {
		err = r.print(stdout)
	}
	if err == nil && r.Completed < f.scans {
		return exitCode(exitError) // what is missing was printed
	}
	return err
}

// benchServer is the deployment that is measured.
func benchServer(ctx context.Context, made assembly, f benchFlags, p *progress, stderr io.Writer) (*server, error) {
	if f.server != "" {
		return connectServer(ctx, made, scanFlags{server: f.server}, "", stderr)
	}
	cfg, err := loadConfig(stderr)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "vega-bench-")
	if err != nil {
		return nil, err
	}
	// A crash from here on leaves the folder, in the place where temporary things are looked for.
	remove := func() error { return os.RemoveAll(dir) }
	if f.keep {
		remove = func() error { return nil }
		p.say("everything is kept in %s", dir)
	}
	cfg.DataDir, cfg.Engine.RuntimeRoot = dir, filepath.Join(dir, "v16")
	cfg.ForOneProcess()
	cfg.Dispatch.MaxActivePerUser = max(cfg.Dispatch.MaxActivePerUser, f.concurrency)
	cfg.LogLevel = max(cfg.LogLevel, slog.LevelWarn)
	n, err := openAPINode(ctx, cfg, made, newLogger(cfg, stderr), nil)
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	s, err := startInside(ctx, n, dir)
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	stop := s.close
	s.close = func() error { return errors.Join(stop(), remove()) }
	return s, nil
}

// ground is what the scans are of.
type ground struct {
	server        *server
	project, repo string
	snapshot      string
}

// small is the tree that is scanned unless there is a better one.
var small = map[string]string{
	"main.go":   "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(\"hello\") }\n",
	"go.mod":    "module example.com/bench\n\ngo 1.24\n",
	"README.md": "# Bench\n\nA tree for vega bench.\n",
}

// prepare makes the project and the repository and takes the snapshot. What it returns beside an error is what there is to remove.
func prepare(ctx context.Context, s *server, f benchFlags, p *progress) (g ground, err error) {
	g.server = s
	var made struct {
		ID string `json:"id"`
	}
	name := "vega bench " + time.Now().UTC().Format(time.DateTime)
	if err := s.call(ctx, http.MethodPost, "/projects", "", map[string]string{"name": name}, &made); err != nil {
		return g, fmt.Errorf("make the project: %w", err)
	}
	g.project = made.ID
	if err := s.call(ctx, http.MethodPost, "/projects/"+g.project+"/repositories", "", map[string]string{"name": "bench", "source_type": "upload"}, &made); err != nil {
		return g, fmt.Errorf("make the repository: %w", err)
	}
	g.repo = made.ID
	dir := f.path
	if dir == "" {
		if dir, err = os.MkdirTemp("", "vega-bench-tree-"); err != nil {
			return g, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		for name, text := range small {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				return g, err
			}
		}
	}
	g.snapshot, _, err = upload(ctx, s, g.repo, dir, p)
	return g, err
}

// removeTime bounds how long the tool cleans up after itself.
const removeTime = 30 * time.Second

// remove deletes what prepare made; scans that still run are cancelled with it.
func (g ground) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	for _, x := range []struct{ what, id string }{{"repositories", g.repo}, {"projects", g.project}} {
		if x.id == "" {
			continue
		}
		if err := g.server.call(ctx, http.MethodDelete, "/"+x.what+"/"+x.id, "", nil, nil); err != nil {
			return fmt.Errorf("delete what was made (%s %s): %w", x.what, x.id, err)
		}
	}
	return nil
}

// load runs the scans.
type load struct {
	server *server
	flags  benchFlags
	ground ground

	mu       sync.Mutex // guards what follows, for an instant
	given    int        // scans that clients have begun
	over     []ranScan
	refusals int            // answers that asked to wait
	errors   map[string]int // what else went wrong, by what was said
	creates  []time.Duration
	reads    []time.Duration // GET with at_least right after the POST
}

// ranScan is a scan that is over, as the client and the deployment saw it.
type ranScan struct {
	Status    string     `json:"status"`
	CreatedAt time.Time  `json:"created_at"`
	ClaimedAt *time.Time `json:"claimed_at"`
	StartedAt *time.Time `json:"started_at"`
	EndedAt   *time.Time `json:"finished_at"`

	seen time.Duration // from the POST to the client's knowledge of the end
}

func (l *load) run(ctx context.Context, p *progress) benchResult {
	ctx, cancel := context.WithTimeout(ctx, l.flags.timeout)
	defer cancel()
	begin := time.Now()
	var clients, teller sync.WaitGroup
	for range min(l.flags.concurrency, l.flags.scans) {
		clients.Go(func() {
			for l.next(ctx) {
				l.one(ctx)
			}
		})
	}
	told, stop := context.WithCancel(ctx)
	teller.Go(func() { l.tell(told, p) })
	clients.Wait()
	took := time.Since(begin)
	stop()
	teller.Wait()
	return l.result(took)
}

// next gives a client leave for one more scan.
func (l *load) next(ctx context.Context) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.given == l.flags.scans || ctx.Err() != nil {
		return false
	}
	l.given++
	return true
}

// one runs one scan and keeps what it saw of it. What ends with ctx counts as not finished.
func (l *load) one(ctx context.Context) {
	begin, id, seq, err := l.create(ctx)
	if err == nil {
		err = l.readBack(ctx, id, seq)
	}
	var end ranScan
	if err == nil {
		end, err = l.await(ctx, id)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		end.seen = time.Since(begin)
		l.over = append(l.over, end)
	} else if ctx.Err() == nil {
		l.errors[err.Error()]++
	}
}

// create makes a scan and returns when the request began that made it. A request that was told to wait begins anew.
func (l *load) create(ctx context.Context) (begin time.Time, id, seq string, err error) {
	body, err := json.Marshal(map[string]string{"snapshot_id": l.ground.snapshot})
	if err != nil {
		return begin, "", "", err
	}
	for {
		begin = time.Now()
		var made struct {
			ID string `json:"id"`
		}
		seq, err = l.server.write(ctx, "/repositories/"+l.ground.repo+"/scans", body, &made)
		if err == nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.creates = append(l.creates, time.Since(begin))
			return begin, made.ID, seq, nil
		}
		wait, ok := asksToWait(err)
		if !ok {
			return begin, "", "", fmt.Errorf("create: %w", err)
		}
		l.mu.Lock()
		l.refusals++
		l.mu.Unlock()
		if err := pause(ctx, wait); err != nil {
			return begin, "", "", err
		}
	}
}

// readBack asks for the scan as of its own creation.
func (l *load) readBack(ctx context.Context, id, seq string) error {
	begin := time.Now()
	if err := l.server.call(ctx, http.MethodGet, "/scans/"+id+atLeast(seq), "", nil, nil); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads = append(l.reads, time.Since(begin))
	return nil
}

// A scan is asked for again after firstLook, then ever more rarely. A live stream for each would be a load of its own.
const (
	firstLook = 5 * time.Millisecond
	lastLook  = 250 * time.Millisecond
)

// await returns the scan once it is over.
func (l *load) await(ctx context.Context, id string) (ranScan, error) {
	for wait := firstLook; ; wait = min(wait*3/2, lastLook) {
		if err := pause(ctx, wait); err != nil {
			return ranScan{}, err
		}
		var v ranScan
		err := l.server.call(ctx, http.MethodGet, "/scans/"+id, "", nil, &v)
		if _, later := asksToWait(err); err != nil && !later {
			return v, fmt.Errorf("wait for the end: %w", err)
		}
		if err == nil && slices.Contains([]string{"completed", "failed", "cancelled"}, v.Status) {
			return v, nil
		}
	}
}

// tell says once a second how far it is.
func (l *load) tell(ctx context.Context, p *progress) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			l.mu.Lock()
			over, refusals := len(l.over), l.refusals
			l.mu.Unlock()
			p.say("%d of %d scans are over, %d requests had to wait", over, l.flags.scans, refusals)
		case <-ctx.Done():
			return
		}
	}
}

// asksToWait says whether the server wants a request later, and after how long.
func asksToWait(err error) (time.Duration, bool) {
	refused, ok := errors.AsType[*apiError](err)
	if !ok || (refused.Status != http.StatusTooManyRequests && refused.Status != http.StatusServiceUnavailable) {
		return 0, false
	}
	return min(max(refused.RetryAfter, 100*time.Millisecond), 10*time.Second), true
}

// pause returns ctx's error when that ends first.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"vega/events"
	"vega/services/intake"
	"vega/services/llmproxy/price"
)

type scanFlags struct {
	sarif           string
	failOn          string
	requireComplete bool
	json            bool
	server          string
	name            string
	priority        string
	model           string
	budget          string // US dollars, as it was written
	maxRequests     int64
	maxTokens       int64
	cancelEarlier   bool
	quiet           bool
	verbose         bool
}

const (
	maxBudget = price.NanoUSD(1e6 * 1e9) // a million US dollars
	unlimited = -1 << 63                 // the flag was not given
)

// spending is the budget as the API takes it; nil when there is none. Its error names the flag.
func (f scanFlags) spending() (map[string]any, error) {
	out := map[string]any{}
	if f.budget != "" {
		var cost price.NanoUSD
		if err := cost.UnmarshalText([]byte(f.budget)); err != nil {
			return nil, fmt.Errorf("--budget is %q, want US dollars with at most nine decimals and at most a million, such as 2.50", f.budget)
		}
		if cost <= 0 || cost > maxBudget {
			return nil, fmt.Errorf("--budget is %s, want more than 0 and at most a million US dollars; without it there is no limit but the configured one", f.budget)
		}
		out["cost_usd"] = json.Number(cost.String())
	}
	for _, n := range []struct {
		flag, field string
		value       int64
	}{{"max-requests", "requests", f.maxRequests}, {"max-tokens", "tokens", f.maxTokens}} {
		switch {
		case n.value == unlimited:
		case n.value <= 0:
			return nil, fmt.Errorf("--%s is %d, want 1 or more; without it there is no limit but the configured one", n.flag, n.value)
		default:
			out[n.field] = n.value
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

// limitValue is a number that a flag limits something to.
type limitValue struct{ n *int64 }

func (v *limitValue) String() string { return "" } // the default is no number
func (v *limitValue) Type() string   { return "N" }
func (v *limitValue) Set(s string) error {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return errors.New("want a whole number")
	}
	*v.n = n
	return nil
}

func newScanCommand(made assembly) *cobra.Command {
	var f scanFlags
	cmd := &cobra.Command{
		Use:   "scan [PATH]",
		Short: "Scan a folder and print what was found",
		Long: `Packs a folder (what .gitignore leaves out is left out, also outside git), uploads it, scans it, shows the progress,
and prints what was found and what was not looked at.

With no --server it runs one inside this process and keeps its state in VEGA_DATA_DIR, or, when that is not set, in the
user's state folder, so findings and their triage are there the next time. When another process holds that folder, it
talks to that one. Ctrl-C cancels the scan.

Exit codes:
  0  done, nothing at or above --fail-on
  1  findings at or above --fail-on
  2  the coverage is incomplete because something failed or ran out (with --require-complete: for any reason)
  3  error, or cancelled
('go run' turns each of them into 1; 'go build ./cmd/vega' makes a binary that keeps them.)`,
		Example: `  vega scan .
  vega scan ~/src/shop --sarif shop.sarif --fail-on critical
  vega scan . --json > result.json
  vega scan . --budget 2.50 --max-requests 200
  VEGA_TOKEN=... vega scan . --server https://vega.example.com/v1`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("budget") && f.budget == "" || cmd.Flags().Changed("model") && f.model == "" {
				return errors.New("--budget and --model want a value when they are given")
			}
			path := "."
			if len(args) > 0 {
				path = args[0]
			}
			return runScan(cmd.Context(), made, f, path, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.sarif, "sarif", "", "write SARIF 2.1.0 to this `FILE`")
	fl.StringVar(&f.failOn, "fail-on", "high", "lowest severity that makes the exit code 1: critical, high, medium, low, info or none")
	fl.BoolVar(&f.requireComplete, "require-complete", false, "exit 2 whenever the coverage is not complete")
	fl.BoolVar(&f.json, "json", false, "print one JSON document on stdout instead of tables")
	fl.StringVar(&f.server, "server", "", "`URL` of a server's API, prefix included; VEGA_TOKEN holds an access token, or an API key with the scopes read and scan")
	fl.StringVar(&f.name, "name", "", "name of the repository (default: the folder's name)")
	fl.StringVar(&f.priority, "priority", "normal", "high, normal or low")
	fl.StringVar(&f.model, "model", "", "model to use instead of VEGA_V16_MODEL")
	fl.StringVar(&f.budget, "budget", "", "most that the model may cost in this scan, in `USD`, beside the configured limit (default: no limit of its own)")
	f.maxRequests, f.maxTokens = unlimited, unlimited
	fl.Var(&limitValue{&f.maxRequests}, "max-requests", "most calls to the model, beside the configured limit")
	fl.Var(&limitValue{&f.maxTokens}, "max-tokens", "most tokens, input and output, beside the configured limit")
	fl.BoolVar(&f.cancelEarlier, "cancel-earlier", false, "cancel the scans that an earlier command has left unfinished in this state folder, instead of going on with them too")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "no progress")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "show the log lines of the stages, too")
	for flag, values := range map[string][]string{"fail-on": append(severityNames(), "none"), "priority": {"high", "normal", "low"}} {
		// It fails only for a flag that does not exist.
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

func severityNames() []string {
	var names []string
	for _, s := range events.Severities() {
		names = append(names, string(s))
	}
	return names
}

// scanView is what the command needs of GET scans/{id}.
type scanView struct {
	ID           string          `json:"id"`
	RepositoryID string          `json:"repository_id"`
	SnapshotID   string          `json:"snapshot_id"`
	Status       string          `json:"status"`
	Coverage     events.Coverage `json:"coverage"`
	Rejected     int             `json:"findings_rejected"`
	Usage        usageView       `json:"usage"`
	Caps         capsView        `json:"caps"`
	Comparison   *comparison     `json:"comparison"`
	Error        *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// usageView is what a scan spent, as the API says it.
type usageView struct {
	Requests          int64   `json:"requests"`
	InputTokens       int64   `json:"input_tokens"`
	CachedInputTokens int64   `json:"cached_input_tokens"`
	OutputTokens      int64   `json:"output_tokens"`
	ReasoningTokens   int64   `json:"reasoning_tokens"`
	CostUSD           float64 `json:"cost_usd"`
}

// capsView is what a scan may spend; 0 is no limit.
type capsView struct {
	Requests int64   `json:"requests"`
	Tokens   int64   `json:"tokens"`
	CostUSD  float64 `json:"cost_usd"`
}

// comparison is how a scan stands to the one before.
type comparison struct {
	Base       *string `json:"base_scan_id"`
	New        int     `json:"new"`
	Persisting int     `json:"persisting"`
	Reopened   int     `json:"reopened"`
	Resolved   int     `json:"resolved"`
	Unknown    int     `json:"unknown"`
}

func runScan(ctx context.Context, made assembly, f scanFlags, path string, stdout, stderr io.Writer) error {
	if f.failOn != "none" && !slices.Contains(severityNames(), f.failOn) {
		return fmt.Errorf("--fail-on is %q, want critical, high, medium, low, info or none", f.failOn)
	}
	if !slices.Contains([]string{"high", "normal", "low"}, f.priority) {
		return fmt.Errorf("--priority is %q, want high, normal or low", f.priority)
	}
	if _, err := f.spending(); err != nil {
		return err
	}
	if f.sarif == "-" {
		return errors.New("--sarif wants a file, standard output is for the findings")
	}
	if err := checkOutput(f.sarif); f.sarif != "" && err != nil {
		return fmt.Errorf("--sarif: %w", err)
	}
	dir, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if info, err := os.Stat(dir); err != nil {
		return err
	} else if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", path)
	}
	p := newProgress(stderr, f.quiet)
	p.verbose = f.verbose
	defer p.done()
	j := &job{dir: dir, flags: f}
	for {
		server, err := connectServer(ctx, made, f, dir, stderr)
		if err != nil {
			return err
		}
		if !server.borrowed && f.server == "" {
			if err := meetEarlier(ctx, server, f.cancelEarlier, p); err != nil {
				return errors.Join(err, server.close())
			}
		}
		code, err := j.run(ctx, server, p, stdout)
		p.done()
		err = errors.Join(err, server.close())
		if err != nil && server.borrowed && ctx.Err() == nil && isGone(err) {
			// The process that held the folder has ended. What was done is in the folder; go on from there.
			continue
		}
		if err != nil && ctx.Err() != nil && j.scan == "" {
			return errors.New("interrupted before the scan began")
		}
		if err != nil {
			return err
		}
		if code != exitOK {
			return exitCode(code)
		}
		return nil
	}
}

// meetEarlier names the scans that an earlier command has left behind, which go on in this process, or cancels them.
func meetEarlier(ctx context.Context, s *server, cancel bool, p *progress) error {
	var list struct {
		Items []struct {
			ID        string    `json:"id"`
			CreatedAt time.Time `json:"created_at"`
		}
	}
	if err := s.call(ctx, http.MethodGet, "/scans?status=queued,claimed,running,cancelling", "", nil, &list); err != nil {
		return fmt.Errorf("look for earlier scans: %w", err)
	}
	for _, v := range list.Items {
		begun := v.CreatedAt.Local().Format(time.DateTime)
		if !cancel {
			p.say("scan %s, begun %s and not ended then, goes on as well, within its own budget (--cancel-earlier cancels it)", v.ID, begun)
			continue
		}
		err := s.call(ctx, http.MethodPost, "/scans/"+v.ID+"/cancel", "", nil, nil)
		if refused, ok := errors.AsType[*apiError](err); ok && refused.Status == http.StatusConflict {
			continue // it has just ended
		}
		if err != nil {
			return fmt.Errorf("cancel scan %s: %w", v.ID, err)
		}
		p.say("scan %s, begun %s and not ended then, is cancelled", v.ID, begun)
	}
	return nil
}

// isGone says that the server is stopping, or that nobody answers at its address any more.
func isGone(err error) bool {
	if refused, ok := errors.AsType[*apiError](err); ok {
		return refused.Status == http.StatusServiceUnavailable || refused.Status == 499 || refused.Code == "upload_interrupted"
	}
	_, network := errors.AsType[*net.OpError](err)
	return network || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// job is one run of the command. What is done already is not done again on another server of the same folder.
type job struct {
	dir      string
	flags    scanFlags
	repo     string
	snapshot string
	left     []intake.Warning // what packing left out or found odd
	scan     string
}

// run does what is left of the job on a server and returns the exit code.
func (j *job) run(ctx context.Context, s *server, p *progress, stdout io.Writer) (int, error) {
	var err error
	if j.repo == "" {
		if j.repo, err = repositoryFor(ctx, s, j.flags, j.dir); err != nil {
			return 0, err
		}
	}
	if j.snapshot == "" {
		if err = j.upload(ctx, s, p); err != nil {
			return 0, err
		}
	}
	var v scanView
	if j.scan == "" {
		req := map[string]any{"snapshot_id": j.snapshot, "priority": j.flags.priority}
		if j.flags.model != "" {
			req["model"] = j.flags.model
		}
		budget, err := j.flags.spending()
		if err != nil {
			return 0, err
		}
		if budget != nil {
			req["budget"] = budget
		}
		err = whileBusy(ctx, p, "repository_not_ready", func() error {
			return s.call(ctx, http.MethodPost, "/repositories/"+j.repo+"/scans", "", req, &v)
		})
		if err != nil {
			return 0, fmt.Errorf("start the scan: %w", err)
		}
		j.scan = v.ID
		p.limit(v.Caps)
		p.say("scan %s", j.scan)
	}
	watch, unwatch := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	waiting.Go(func() { tellWaiting(watch, s, j.scan, p) })
	waiting.Go(func() { p.tick(watch) })
	seq, err := s.follow(ctx, j.scan, p.event)
	unwatch()
	waiting.Wait()
	if err != nil && ctx.Err() == nil {
		return 0, fmt.Errorf("follow the scan: %w", err)
	}
	if ctx.Err() != nil {
		return 0, cancelScan(context.WithoutCancel(ctx), s, j.scan, p)
	}
	if err := s.call(ctx, http.MethodGet, "/scans/"+j.scan+atLeast(seq), "", nil, &v); err != nil {
		return 0, err
	}
	p.done()
	if v.Status != "completed" {
		if v.Error != nil {
			return 0, fmt.Errorf("the scan %s: %s (%s)", v.Status, v.Error.Message, v.Error.Code)
		}
		return 0, fmt.Errorf("the scan was %s", v.Status)
	}
	findings, err := allFindings(ctx, s, j.scan)
	if err != nil {
		return 0, err
	}
	if j.flags.sarif != "" {
		if err := writeSARIF(ctx, s, j.scan, j.flags.sarif); err != nil {
			return 0, err
		}
	}
	v.Coverage = withLeftOut(v.Coverage, j.left)
	if err := show(stdout, j.flags, v, findings); err != nil {
		return 0, err
	}
	p.spent(v.Usage)
	if slices.ContainsFunc(v.Coverage.Reasons, func(r events.CoverageReason) bool { return r.Code == "not_configured" }) {
		for _, line := range turnOn {
			p.say("%s", line)
		}
	}
	return verdict(j.flags, v.Coverage, findings), nil
}

// turnOn says what a scan needs whose stages that use a model were left out.
var turnOn = [3]string{
	"The stages that use a model did not run. They need its provider: VEGA_LLM_PROVIDER_BASE_URL (such as https://api.openai.com/v1) and VEGA_LLM_PROVIDER_API_KEY.",
	"They also need the Codex CLI: `make codex-image` builds its Docker image; VEGA_V16_CODEX_BIN=codex runs the one that is installed, without a container (it reads whatever you can: for source that you trust).",
	"--budget USD, --max-requests N and --max-tokens N bound what a scan may spend; without them only the configured limits hold.",
}

// tellWaiting says why a scan does not begin, until it does or ctx ends.
func tellWaiting(ctx context.Context, s *server, id string, p *progress) {
	t := time.NewTicker(2 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		var v struct {
			Status   string
			Position int `json:"queue_position"`
		}
		if s.call(ctx, http.MethodGet, "/scans/"+id, "", nil, &v) != nil {
			continue // following it says what is wrong
		}
		if v.Status != "queued" {
			return
		}
		place := ""
		if v.Position > 0 {
			place = fmt.Sprintf(", position %d in the queue", v.Position)
		}
		var workers struct {
			Items []struct{ Stale, Draining bool }
		}
		if s.call(ctx, http.MethodGet, "/ops/workers", "", nil, &workers) != nil { // for admins alone
			p.say("waiting for a worker%s", place)
			continue
		}
		able := 0
		for _, w := range workers.Items {
			if !w.Stale && !w.Draining {
				able++
			}
		}
		if able == 0 {
			p.say("waiting%s: no worker takes scans; start one with VEGA_SERVICE_ROLE=worker vega", place)
		} else {
			p.say("waiting for one of %d workers%s", able, place)
		}
	}
}

// repositoryFor finds or makes the repository of a folder: the same folder on the same server is always the same one.
func repositoryFor(ctx context.Context, s *server, f scanFlags, dir string) (string, error) {
	var project, repo struct {
		ID string `json:"id"`
	}
	if err := s.call(ctx, http.MethodPost, "/projects", "vega-scan", map[string]string{"name": "Command line"}, &project); err != nil {
		return "", fmt.Errorf("make the project: %w", err)
	}
	name := f.name
	if name == "" {
		name = filepath.Base(dir)
	}
	key := fmt.Sprintf("vega-scan-%x", sha256.Sum256([]byte(dir+"\x00"+name)))
	in := map[string]string{"name": name, "source_type": "upload"}
	if err := s.call(ctx, http.MethodPost, "/projects/"+project.ID+"/repositories", key, in, &repo); err != nil {
		return "", fmt.Errorf("make the repository: %w", err)
	}
	return repo.ID, nil
}

// upload takes the snapshot.
func (j *job) upload(ctx context.Context, s *server, p *progress) error {
	var packed intake.Packed
	err := whileBusy(ctx, p, "ingest_in_progress", func() (err error) {
		j.snapshot, packed, err = upload(ctx, s, j.repo, j.dir, p)
		return err
	})
	if err != nil {
		return err
	}
	j.left = packed.Warnings
	p.packed(packed)
	return nil
}

// busyPatience is how long another upload of the same folder is waited for.
const busyPatience = 2 * time.Minute

// whileBusy calls f again while it is refused with a code that says that somebody else uploads the same folder.
func whileBusy(ctx context.Context, p *progress, code string, f func() error) error {
	for begun := time.Now(); ; {
		err := f()
		if busy, ok := errors.AsType[*apiError](err); !ok || busy.Code != code || time.Since(begun) > busyPatience {
			return err
		}
		p.say("waiting for another upload of this folder")
		pause := time.NewTimer(300 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		}
	}
}

// upload packs the folder into the request, so nothing is written to disk on this side, and waits until the snapshot is taken.
func upload(ctx context.Context, s *server, repo, dir string, p *progress) (string, intake.Packed, error) {
	r, w := io.Pipe()
	var packing sync.WaitGroup
	var packed intake.Packed
	packing.Go(func() {
		var err error
		packed, err = intake.PackDir(ctx, dir, w, intake.PackOptions{Exclude: s.exclude, Progress: p.packing})
		_ = w.CloseWithError(err) // never fails; a nil error is the end of the file
	})
	resp, err := s.send(ctx, http.MethodPost, "/repositories/"+repo+"/source", "", "application/octet-stream", r)
	_ = r.Close() // ends a packer whose reader gave up; closing a pipe does not fail
	packing.Wait()
	if err != nil {
		return "", packed, fmt.Errorf("upload: %w", err)
	}
	defer resp.Body.Close()
	var out struct {
		Status   string `json:"ingest_status"`
		Snapshot string `json:"snapshot_id"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return "", packed, fmt.Errorf("upload: %w", err)
	}
	if out.Snapshot == "" {
		return "", packed, fmt.Errorf("upload: the repository is %s", out.Status)
	}
	return out.Snapshot, packed, nil
}

// cancelScan asks for the end and waits until the work has really stopped.
func cancelScan(ctx context.Context, s *server, id string, p *progress) error {
	p.say("cancelling the scan")
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var v scanView
	if err := s.call(ctx, http.MethodPost, "/scans/"+id+"/cancel", "", nil, &v); err != nil {
		if refused, ok := errors.AsType[*apiError](err); !ok || refused.Status != http.StatusConflict {
			return fmt.Errorf("interrupted, and the scan could not be cancelled: %w", err)
		}
	}
	seq, err := s.follow(ctx, id, func(liveEvent) {})
	if err != nil {
		return fmt.Errorf("interrupted; the scan is still being cancelled: %w", err)
	}
	if err := s.call(ctx, http.MethodGet, "/scans/"+id+atLeast(seq), "", nil, &v); err != nil {
		return err
	}
	p.spent(v.Usage)
	return fmt.Errorf("interrupted; scan %s is %s", id, v.Status)
}

// atLeast is the query that makes a read at least as new as an event.
func atLeast(seq string) string {
	if seq == "" {
		return ""
	}
	return "?at_least=" + url.QueryEscape(seq)
}

// findingView is a finding as the API shows it, kept whole for --json.
type findingView struct {
	events.Finding
	Triage events.Triage `json:"triage"`
}

func allFindings(ctx context.Context, s *server, id string) ([]findingView, error) {
	var out []findingView
	cursor := ""
	for {
		var page struct {
			Items []findingView `json:"items"`
			Next  string        `json:"next_cursor"`
		}
		path := "/scans/" + id + "/findings?limit=1000"
		if cursor != "" {
			path += "&cursor=" + url.QueryEscape(cursor)
		}
		if err := s.call(ctx, http.MethodGet, path, "", nil, &page); err != nil {
			return nil, fmt.Errorf("findings: %w", err)
		}
		out = append(out, page.Items...)
		if cursor = page.Next; cursor == "" {
			return out, nil
		}
	}
}

func writeSARIF(ctx context.Context, s *server, id, path string) error {
	resp, err := s.send(ctx, http.MethodPost, "/scans/"+id+"/exports", "", "application/json", strings.NewReader(`{"format":"sarif"}`))
	if err != nil {
		return fmt.Errorf("SARIF: %w", err)
	}
	defer resp.Body.Close()
	err = writeOutput(path, 0o644, func(w io.Writer) error {
		_, err := io.Copy(w, resp.Body)
		return err
	})
	if err != nil {
		return fmt.Errorf("SARIF: %w", err)
	}
	return nil
}

// withLeftOut adds what packing could not take in to what the scan could not look at: the server never saw it.
func withLeftOut(c events.Coverage, left []intake.Warning) events.Coverage {
	reasons := slices.Clone(c.Reasons)
	for _, w := range left {
		if w.Code == intake.WarnUnreadable || w.Code == intake.WarnBadName {
			reasons = append(reasons, events.CoverageReason{Path: w.Path, Code: "unreadable", Message: "not packed: " + w.Code})
		}
	}
	if len(reasons) > len(c.Reasons) {
		c.State = events.CoveragePartial
	}
	c.Reasons = reasons
	return c
}

// verdict turns a completed scan into an exit code; findings win over coverage. What people dismissed does not count.
func verdict(f scanFlags, coverage events.Coverage, findings []findingView) int {
	limit := slices.Index(severityNames(), f.failOn) // -1 for none
	for _, x := range findings {
		if x.Severity.Rank() <= limit && x.Triage.State != events.TriageDismissed {
			return exitFindings
		}
	}
	if coverage.State == events.CoverageComplete {
		return exitOK
	}
	if f.requireComplete {
		return exitIncomplete
	}
	for _, r := range coverage.Reasons {
		if r.Code != "not_configured" && r.Code != "skipped" && r.Code != "binary" { // nothing failed and nothing ran out
			return exitIncomplete
		}
	}
	return exitOK
}

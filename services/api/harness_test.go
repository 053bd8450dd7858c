package api

import (
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vega/config/secret"
	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/projections"
	"vega/services/auth"
	"vega/services/dispatch"
	"vega/services/files"
	"vega/services/intake"
	"vega/services/scan"
)

// world is a whole installation without workers: real log, read model, files and HTTP.
type world struct {
	t      testing.TB
	store  *eventstore.Store
	model  model
	runner *projections.Runner
	files  files.Store
	api    *Server
	auth   *auth.Custom
	url    string // with the prefix
	logs   *lockedBuffer
	stop   context.CancelFunc // of the server
	done   chan error         // what Serve returned
	// unfollow stops the read model.
	unfollow context.CancelFunc
	// admin, user and other are signed in: the debug admin and two who know nothing of each other.
	admin, user, other *client
}

var testAccounts = []auth.Account{
	{Email: "debug@example.com", Password: secret.New("vega-debug-password"), Admin: true},
	{Email: "user@example.com", Password: secret.New("users-password")},
	{Email: "other@example.com", Password: secret.New("others-password")},
}

// stageNames stand for the engine's.
var stageNames = []string{"inventory", "secrets", "merge", "report"}

// options of a world; the zero value is an ordinary one.
type options struct {
	limit   int // active scans a user
	change  func(*Deps)
	stalled bool // the read model does not follow the log
	store   *eventstore.Store
	spool   string
	quiet   bool // log what operators see, no more
	// accounts are testAccounts and others.
	accounts []auth.Account
	grace    time.Duration // of the server's stop
	// files opens the file storage; nil: openFiles.
	files     func(testing.TB) files.Store
	maxSource int64 // bytes of an upload; 0: 1 MiB
}

func newWorld(t testing.TB, o options) *world {
	t.Helper()
	w := &world{t: t, store: o.store, logs: &lockedBuffer{}, done: make(chan error, 1)}
	if w.store == nil {
		w.store = natstest.Open(t)
	}
	level := slog.LevelDebug
	if o.quiet {
		level = slog.LevelInfo
	}
	log := slog.New(slog.NewJSONHandler(w.logs, &slog.HandlerOptions{Level: level}))
	if o.accounts == nil {
		o.accounts = testAccounts
	}
	if o.spool == "" {
		o.spool = t.TempDir()
	}
	var err error
	w.model = openModel(t)
	w.runner, err = projections.NewRunner(t.Context(), w.store, w.model, log)
	must(t, err)
	if o.files == nil {
		o.files = openFiles
	}
	w.files = o.files(t)
	in, err := intake.Open(intake.Config{MaxSourceBytes: cmp.Or(o.maxSource, 1<<20), MaxEntries: 100, MaxUncompressedBytes: 4 * cmp.Or(o.maxSource, 1<<20), MaxRatio: 200, Timeout: time.Minute, Slots: 2}, o.spool, log)
	must(t, err)
	who, err := auth.NewCustom(t.Context(), w.store, auth.CustomOptions{Secret: secret.New("a signing secret"), Accounts: o.accounts})
	must(t, err)
	w.auth = who
	d := Deps{
		Config: Config{AppName: "Vega", Prefix: "/v1"}, Store: w.store, Model: w.model, Runner: w.runner, Admission: dispatch.NewAdmission(w.store, cmp.Or(o.limit, 4)),
		Auth: who, Files: w.files, Intake: in, Stages: stageNames, MaxAttempts: 3, Log: log, Metrics: prometheus.NewRegistry(), Version: "test",
		Fleet: FleetFunc(func(context.Context) ([]Worker, error) {
			return []Worker{{ID: "work_test_1", Host: "here", Version: "test", Slots: 2, Beat: time.Now()}}, nil
		}),
	}
	if o.change != nil {
		o.change(&d)
	}
	w.api, err = New(d)
	must(t, err)
	w.api.beat = 50 * time.Millisecond
	w.api.patience = 200 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	var running sync.WaitGroup
	running.Go(func() { w.done <- Serve(ctx, l, w.api, cmp.Or(o.grace, 5*time.Second)) })
	follow, unfollow := context.WithCancel(context.Background())
	w.unfollow = unfollow
	if !o.stalled {
		running.Go(func() {
			if err := w.runner.Run(follow); err != nil {
				t.Errorf("read model: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		unfollow()
		running.Wait()
		must(t, w.model.Close())
	})
	w.url = "http://" + l.Addr().String() + "/v1"
	w.admin, w.user, w.other = w.login(0), w.login(1), w.login(2)
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// login signs an account in.
func (w *world) login(account int) *client {
	w.t.Helper()
	a := testAccounts[account]
	c := &client{w: w, t: w.t, user: auth.UserID(a.Email)}
	got := c.do("POST", "/auth/login", object{"email": a.Email, "password": a.Password.Reveal()}).want(200).object()
	c.token = got["access_token"].(string)
	c.refresh = got["refresh_token"].(string)
	return c
}

// client is somebody with a token.
type client struct {
	w       *world
	t       testing.TB
	user    events.UserID
	token   string
	refresh string
}

type object = map[string]any

// answer is a response, read to its end.
type answer struct {
	t      testing.TB
	what   string
	status int
	header http.Header
	body   []byte
}

// do sends a request. body is nil, bytes or a string as they are, a reader, or anything for JSON; headers are pairs.
func (c *client) do(method, path string, body any, headers ...string) answer {
	c.t.Helper()
	a, err := c.try(method, path, body, headers...)
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

func (c *client) try(method, path string, body any, headers ...string) (answer, error) {
	r, err := c.request(method, path, body, headers...)
	if err != nil {
		return answer{}, err
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return answer{c.t, method + " " + path, res.StatusCode, res.Header, b}, err
}

func (c *client) request(method, path string, body any, headers ...string) (*http.Request, error) {
	var in io.Reader
	mediaType := "application/json"
	switch b := body.(type) {
	case nil:
		mediaType = ""
	case []byte:
		in, mediaType = bytes.NewReader(b), "application/octet-stream"
	case string:
		in = strings.NewReader(b)
	case io.Reader:
		in, mediaType = b, "application/octet-stream"
	default:
		j, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		in = bytes.NewReader(j)
	}
	url := c.w.url + path
	if strings.HasPrefix(path, "http") {
		url = path
	}
	r, err := http.NewRequestWithContext(c.t.Context(), method, url, in)
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	if mediaType != "" {
		r.Header.Set("Content-Type", mediaType)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r, nil
}

func (a answer) want(status int) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s: status %d, want %d: %.2000s", a.what, a.status, status, a.body)
	}
	return a
}

// refused checks status and code of an error in the ordinary shape, and returns its details.
func (a answer) refused(status int, code string) object {
	a.t.Helper()
	var e struct {
		Schema int `json:"schema_version"`
		Error  struct {
			Code, Message string
			Retryable     *bool
			Details       object
		}
	}
	if err := json.Unmarshal(a.body, &e); err != nil || a.status != status || e.Schema != 1 || e.Error.Code != code || e.Error.Message == "" || e.Error.Retryable == nil || e.Error.Details == nil {
		a.t.Errorf("%s: %d %.2000s, want %d with code %s in the shape of errors", a.what, a.status, a.body, status, code)
	}
	return e.Error.Details
}

func (a answer) object() object {
	a.t.Helper()
	var o object
	a.into(&o)
	return o
}

func (a answer) items() []object {
	a.t.Helper()
	var page struct{ Items []object }
	a.into(&page)
	if page.Items == nil {
		a.t.Fatalf("%s: no items in %.500s", a.what, a.body)
	}
	return page.Items
}

func (a answer) into(v any) {
	a.t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		a.t.Fatalf("%s: %v in %.500s", a.what, err, a.body)
	}
}

func (a answer) id() string {
	a.t.Helper()
	id, _ := a.object()["id"].(string)
	if id == "" {
		a.t.Fatalf("%s: no id in %.500s", a.what, a.body)
	}
	return id
}

// archive is a zip of files by name.
func zipOf(t testing.TB, files map[string]string) []byte {
	t.Helper()
	return zipWith(t, files, true)
}

func zipWith(t testing.TB, files map[string]string, compressed bool) []byte {
	t.Helper()
	method := zip.Store
	if compressed {
		method = zip.Deflate
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	var names []string
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		f, err := z.CreateHeader(&zip.FileHeader{Name: n, Method: method})
		must(t, err)
		_, err = io.WriteString(f, files[n])
		must(t, err)
	}
	must(t, z.Close())
	return b.Bytes()
}

// project and repository make one each for the client; the repository is ready.
func (c *client) project() string {
	c.t.Helper()
	return c.do("POST", "/projects", object{"name": "a project"}).want(201).id()
}

func (c *client) repository(project string) string {
	c.t.Helper()
	return c.do("POST", "/projects/"+project+"/repositories", object{"name": "a repository", "source_type": "upload"}).want(201).id()
}

func (c *client) ready(project string) string {
	c.t.Helper()
	id := c.repository(project)
	c.do("POST", "/repositories/"+id+"/source", zipOf(c.t, map[string]string{"main.go": "package main\n", "README.md": "# here\n"})).want(202)
	return id
}

// worker drives a scan by hand, as a worker would.
type worker struct {
	w          *world
	id         events.ScanID
	generation events.Seq
}

func (w *world) claim(id string) *worker {
	w.t.Helper()
	k := &worker{w: w, id: events.ScanID(id)}
	made := k.do(scan.Claim{Worker: "work_test_1", Host: "here"})
	k.generation = made[0].Seq
	return k
}

func (k *worker) do(c scan.Command) []events.Recorded {
	k.w.t.Helper()
	made, err := k.try(c)
	must(k.w.t, err)
	return made
}

func (k *worker) try(c scan.Command) ([]events.Recorded, error) {
	meta := events.Meta{Command: events.NewCommandID(), Actor: events.ByWorker("work_test_1"), At: time.Now().UTC()}
	_, made, err := eventstore.Do(context.Background(), k.w.store, events.ScanOf(natstest.Region, k.id), meta, func(s scan.Scan, _ events.Head) ([]events.Event, error) {
		return scan.Decide(s, c)
	})
	if err == nil && len(made) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_ = k.w.runner.WaitFor(ctx, made[len(made)-1].Seq)
	}
	return made, err
}

func (k *worker) start() { k.do(scan.Start{Generation: k.generation, Engine: "test"}) }

func (k *worker) stage(name string, artifacts ...events.Object) {
	k.do(scan.CompleteStage{Generation: k.generation, Result: events.StageCompleted{Stage: name, Status: events.StageDone, Detail: name + " is done", StartedAt: time.Now().UTC(), Artifacts: artifacts}})
}

func (k *worker) line(i int) {
	must(k.w.t, k.w.store.PublishFeed(k.id, eventstore.FeedLine{Kind: "scan_log", Attempt: 1, Generation: k.generation, At: time.Now().UTC(), Payload: object{"message": fmt.Sprintf("line %d", i)}}))
}

// heard waits until the feed holds n lines of the scan: publishing one does not wait for that.
func (k *worker) heard(n int) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, err := range k.w.store.FollowFeed(ctx, k.id, 0) {
		must(k.w.t, err)
		if n--; n == 0 {
			return
		}
	}
	k.w.t.Errorf("%d lines are missing in the feed", n)
}

func (k *worker) complete() {
	k.do(scan.Complete{Generation: k.generation, Coverage: events.Coverage{State: events.CoveragePartial, Reasons: []events.CoverageReason{{Stage: "audit", Code: "not_configured", Message: "needs a model"}}},
		Usage: events.Usage{Requests: 2, InputTokens: 10, OutputTokens: 5, CostNanoUSD: 1_500_000_000}})
}

// finding is one weakness of a repository.
func finding(repository, file string, line int, severity events.Severity) events.Finding {
	fp := events.NewFingerprint("rule", []string{"CWE-798"}, file, "", fmt.Sprint(line))
	return events.Finding{ID: events.FindingIDFor(natstest.Region, events.RepositoryID(repository), fp), Fingerprint: fp, Rule: "rule", Stage: "secrets", Severity: severity,
		Title: "A secret", Description: "It lies open.", File: file, StartLine: line, EndLine: line, Snippet: "key = AKIA****", CWE: []string{"CWE-798"},
		Confidence: events.ConfidenceHigh, Validation: events.StaticReviewed, Evidence: "masked", Remediation: "Remove it."}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

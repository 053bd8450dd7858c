package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"vega/events/eventstore"
	"vega/services/dispatch/sqstest"
	"vega/services/intake"
	"vega/services/worker/ecstest"
)

// With -chaos.seed a run that failed does the same things at the same moments again; what meets what at each of them is up to the machine.
var (
	chaosSeed = flag.Uint64("chaos.seed", 0, "seed of TestChaos; 0: a new one")
	chaosFor  = flag.Duration("chaos.for", 0, "how long TestChaos goes on; 0: two minutes, or half an hour with -tags long")
)

const (
	chaosWorkers = 4
	chaosLimit   = 12 // active scans of the one user
	chaosTTL     = 2  // seconds of a heartbeat's life
)

// TestChaos runs scans through all execution modes, one after the other, while everything that they stand on is killed, stopped, cut off and slowed down.
// Afterwards the log is the witness: every accepted scan ended exactly once, every attempt had one owner, nothing was written by an attempt after the
// next one had begun, the limit held, and the read model equals one that is built anew.
func TestChaos(t *testing.T) {
	t.Parallel()
	length := *chaosFor
	if length == 0 {
		length = 2 * time.Minute
		if long {
			length = 30 * time.Minute
		}
	}
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d, for %s: go test ./cmd/vega -run TestChaos -chaos.seed=%d -chaos.for=%s", seed, length, seed, length)
	w := newChaos(t)
	w.setUp()

	modes := []string{"external", "sqs", "ecs"}
	chance := rand.New(rand.NewPCG(seed, 1))
	customers, stopCustomers := context.WithCancel(t.Context())
	var shopping sync.WaitGroup
	shopping.Go(func() { w.createScans(customers) })
	for i, mode := range modes {
		t.Logf("mode %s", mode)
		w.enter(mode)
		w.disturb(plan(chance, mode, length/time.Duration(len(modes))))
		w.calm()
		if i < len(modes)-1 {
			w.leave()
		}
	}
	stopCustomers()
	shopping.Wait()
	w.finish()
}

// disturbance is one thing that happens at a moment after the beginning of a phase.
type disturbance struct {
	at   time.Duration
	what string
	n    int           // which worker or server
	size time.Duration // of a delay
}

// plan draws what happens in a phase. Every harm is followed by its end.
func plan(chance *rand.Rand, mode string, length time.Duration) []disturbance {
	var all []disturbance
	harm := func(at, lasts time.Duration, what, undo string, n int) {
		all = append(all, disturbance{at, what, n, time.Duration(20+chance.IntN(200)) * time.Millisecond}, disturbance{min(at+lasts, length), undo, n, 0})
	}
	some := func(least, most time.Duration) time.Duration {
		return least + time.Duration(chance.Int64N(int64(most-least)))
	}
	for at := time.Second; at < length; at += some(300*time.Millisecond, 2*time.Second) {
		n := chance.IntN(chaosWorkers)
		switch k := chance.IntN(100); {
		case k < 35:
			harm(at, some(0, 2*time.Second), "kill worker", "start worker", n)
		case k < 50:
			harm(at, some(200*time.Millisecond, 3*chaosTTL*time.Second/2), "pause worker", "resume worker", n)
		case k < 62:
			harm(at, some(100*time.Millisecond, 2*chaosTTL*time.Second), "cut worker", "mend worker", n)
		case k < 72:
			harm(at, some(time.Second, 4*time.Second), "slow worker", "mend worker", n)
		case k < 78:
			harm(at, some(time.Second, 2*chaosTTL*time.Second), "silence worker", "mend worker", n)
		case k < 84:
			harm(at, some(0, time.Second), "kill api", "start api", 0)
		case k < 88:
			harm(at, some(0, 2*time.Second), "kill maintenance", "start maintenance", 0)
		case k < 94:
			harm(at, 0, "drain worker", "start worker", n)
		default:
			switch mode {
			case "sqs":
				harm(at, some(500*time.Millisecond, 3*time.Second), "stop sqs", "start sqs", 0)
			case "ecs":
				harm(at, 0, "vanish task", "nothing", n)
			}
		}
	}
	// One server at a time: with two of three away nothing can be promised, only waited for.
	for at := some(3*time.Second, 8*time.Second); at < length-5*time.Second; at += some(10*time.Second, 16*time.Second) {
		what := "kill leader"
		if chance.IntN(3) == 0 {
			what = "kill server"
		}
		all = append(all, disturbance{at, what, chance.IntN(3), 0}, disturbance{at + some(500*time.Millisecond, 4*time.Second), "start servers", 0, 0})
	}
	slices.SortStableFunc(all, func(a, b disturbance) int { return int(a.at - b.at) })
	return all
}

// chaos is a deployment: a cluster, an API process, a maintenance process, and workers that reach the cluster through wires of their own.
type chaos struct {
	t           *testing.T
	cluster     *natsCluster
	home        string // of the API process; its files are everybody's
	api         *process
	maintenance *process
	workers     []*process
	wires       []*wire
	sqs         *sqstest.Server
	ecs         *ecstest.Server
	sqsFront    string // where processes reach it
	queue       string
	engine      string
	port        int

	repo     string
	accepted accepted
	refused  atomic.Int64
	cancels  atomic.Int64
	did      map[string]int
}

func newChaos(t *testing.T) *chaos {
	w := &chaos{t: t, cluster: startCluster(t), home: t.TempDir(), port: freePorts(t, 1)[0], did: map[string]int{}}
	w.engine = timed{Stages: 4, Takes: 150 * time.Millisecond}.env(t)
	w.sqs = sqstest.Start(t)
	w.queue, _ = w.sqs.Queue(t, sqstest.Options{})
	w.sqsFront = flaky(t, w.sqs.URL)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tasks := w.machine("tasks")
	w.ecs = ecstest.Run(t, ecstest.Options{Command: []string{self}, StopTimeout: 2 * time.Second, Step: 20 * time.Millisecond,
		Env: append(w.env(tasks, w.cluster.url()), asVega+"=1", "PATH="+os.Getenv("PATH"), "HOME="+tasks, "VEGA_DATA_DIR="+filepath.Join(tasks, "data"))})
	if out, errs, code := vega(t, w.home, append(w.env(w.home, w.cluster.url()), "VEGA_NATS_REPLICAS=3"), "setup"); code != 0 {
		t.Fatalf("setup: %s%s", out, errs)
	}
	w.api = newProcess(t, "api", w.home, nil)
	w.maintenance = newProcess(t, "maintenance", w.machine("maintenance"), nil)
	for i := range chaosWorkers {
		w.workers = append(w.workers, newProcess(t, fmt.Sprint("worker ", i), w.machine(fmt.Sprint("worker", i)), nil))
		w.wires = append(w.wires, newWire(t, w.cluster))
	}
	return w
}

// machine is a home folder of its own whose files are the API's, as on a shared disk.
func (w *chaos) machine(name string) string {
	dir := filepath.Join(w.t.TempDir(), name)
	files := filepath.Join(w.home, "data", "files")
	for _, d := range []string{files, filepath.Join(dir, "data")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := os.Symlink(files, filepath.Join(dir, "data", "files")); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

// env is what every process of the deployment is configured with.
func (w *chaos) env(home, natsURL string, more ...string) []string {
	return append([]string{
		"VEGA_NATS_URL=" + natsURL, "VEGA_MASK_SECRET=a secret for masks, 32 bytes long", "VEGA_AUTH_SECRET=a secret for tokens, 32 bytes long",
		fmt.Sprint("VEGA_WORKER_HEARTBEAT_TTL_SECONDS=", chaosTTL), "VEGA_WORKER_DISCONNECT_GRACE_SECONDS=1", "VEGA_WORKER_SLOTS=4", "VEGA_WORKER_DRAIN_SECONDS=1",
		fmt.Sprint("VEGA_MAX_ACTIVE_SCANS_PER_USER=", chaosLimit), "VEGA_SCAN_MAX_ATTEMPTS=100", "VEGA_LOG_FORMAT=json", w.engine,
	}, more...)
}

// setUp makes a repository to scan.
func (w *chaos) setUp() {
	w.enter("external")
	c := w.client()
	var project, repo struct{ ID string }
	ctx := w.t.Context()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	must(c.call(ctx, http.MethodPost, "/projects", "", map[string]string{"name": "p"}, &project))
	must(c.call(ctx, http.MethodPost, "/projects/"+project.ID+"/repositories", "", map[string]string{"name": "r", "source_type": "upload"}, &repo))
	var archive bytes.Buffer
	_, err := intake.PackDir(ctx, tree(w.t, leaky()), &archive, intake.PackOptions{})
	must(err)
	resp, err := c.send(ctx, http.MethodPost, "/repositories/"+repo.ID+"/source", "", "application/octet-stream", &archive)
	must(err)
	must(resp.Body.Close())
	w.repo = repo.ID
	w.leave()
}

// enter starts everything in a mode. Scans of the mode before may be waiting.
func (w *chaos) enter(mode string) {
	var more []string
	switch mode {
	case "sqs":
		more = append(w.sqs.Env()[1:], "AWS_ENDPOINT_URL_SQS="+w.sqsFront, "VEGA_SCAN_EXECUTION_MODE=sqs", "VEGA_SCAN_QUEUE_URL="+w.queue)
	default:
		more = []string{"VEGA_SCAN_EXECUTION_MODE=external"}
	}
	if mode == "ecs" {
		more = append(more, "VEGA_SCAN_WORKER_EXECUTION_MODE=ecs", "VEGA_ECS_CLUSTER=scans", "VEGA_ECS_TASK_DEFINITION=vega-runner", "VEGA_ECS_CONTAINER_NAME=vega",
			"AWS_ENDPOINT_URL_ECS="+w.ecs.URL(), "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY=x", "AWS_EC2_METADATA_DISABLED=true")
	}
	w.api.env = w.env(w.home, w.cluster.url(), append(more, fmt.Sprint("VEGA_LISTEN_ADDR=127.0.0.1:", w.port))...)
	w.maintenance.env = w.env(w.maintenance.dir, w.cluster.url(), append(more, "VEGA_SERVICE_ROLE=maintenance")...)
	for i, p := range w.workers {
		p.env = w.env(p.dir, w.wires[i].url(), append(more, "VEGA_SERVICE_ROLE=worker")...)
	}
	w.startAll()
	w.ready()
}

func (w *chaos) startAll() {
	w.api.start()
	w.maintenance.start()
	for _, p := range w.workers {
		p.start()
	}
}

// leave ends every process of the mode; what runs is released, what waits goes on waiting.
func (w *chaos) leave() {
	for _, p := range append(slices.Clone(w.workers), w.maintenance, w.api) {
		p.up() // it has been started a moment ago, perhaps
		if err := p.stop(); err != nil {
			w.t.Errorf("%s ended with %v", p.name, err)
		}
	}
}

func (w *chaos) client() *client {
	c := newClient(fmt.Sprintf("http://127.0.0.1:%d/v1", w.port), "")
	until(w.t, time.Minute, "a login", func() bool {
		ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
		defer cancel()
		return c.login(ctx, "debug@example.com", "vega-debug-password") == nil
	})
	return c
}

func (w *chaos) ready() {
	until(w.t, time.Minute, "the API is ready", func() bool {
		resp, err := (&http.Client{Timeout: time.Second}).Get(fmt.Sprintf("http://127.0.0.1:%d/healthz", w.port))
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// createScans asks for scans as fast as the limit lets it, and for the end of one in twenty. What was answered 202 has to end.
func (w *chaos) createScans(ctx context.Context) {
	c := newClient(fmt.Sprintf("http://127.0.0.1:%d/v1", w.port), "")
	for i := 0; ctx.Err() == nil; {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		var v struct{ ID string }
		var err error
		if c.token == "" {
			err = c.login(try, "debug@example.com", "vega-debug-password")
		}
		if err == nil {
			priority := []string{"high", "normal", "low"}[i%3]
			err = c.call(try, http.MethodPost, "/repositories/"+w.repo+"/scans", fmt.Sprintf("chaos-%d", i), map[string]any{"priority": priority}, &v)
		}
		if err == nil && i%20 == 19 {
			if c.call(try, http.MethodPost, "/scans/"+v.ID+"/cancel", "", map[string]any{}, nil) == nil {
				w.cancels.Add(1)
			}
		}
		cancel()
		if err == nil {
			w.accepted.mu.Lock()
			w.accepted.ids = append(w.accepted.ids, v.ID)
			w.accepted.mu.Unlock()
			i++
			continue
		}
		w.refused.Add(1)
		select {
		case <-time.After(20 * time.Millisecond): // the limit is reached, or the server is away: the customer's own pace
		case <-ctx.Done():
		}
	}
}

// disturb does what was planned.
func (w *chaos) disturb(plan []disturbance) {
	start := time.Now()
	for _, d := range plan {
		select {
		case <-time.After(time.Until(start.Add(d.at))):
		case <-w.t.Context().Done():
			return
		}
		if d.what != "nothing" {
			w.did[d.what]++
			w.t.Logf("%6.2fs %s %d", time.Since(start).Seconds(), d.what, d.n)
		}
		w.do(d)
	}
}

func (w *chaos) do(d disturbance) {
	switch d.what {
	case "kill worker":
		w.workers[d.n].kill()
	case "start worker":
		w.workers[d.n].start()
	case "drain worker":
		if p := w.workers[d.n]; p.cmd != nil {
			p.signal(syscall.SIGCONT)
			w.wires[d.n].mend()
			w.do(disturbance{what: "start servers"})
			p.up()
			if err := p.stop(); err != nil {
				w.t.Errorf("%s, asked to stop, ended with %v", p.name, err)
			}
		}
	case "pause worker":
		w.workers[d.n].signal(syscall.SIGSTOP)
	case "resume worker":
		w.workers[d.n].signal(syscall.SIGCONT)
	case "cut worker":
		w.wires[d.n].cut()
	case "slow worker":
		w.wires[d.n].slow(d.size)
	case "silence worker":
		w.wires[d.n].black()
	case "mend worker":
		w.wires[d.n].mend()
	case "kill api":
		w.api.kill()
	case "start api":
		w.api.start()
	case "kill maintenance":
		w.maintenance.kill()
	case "start maintenance":
		w.maintenance.start()
	case "stop sqs":
		w.sqs.Stop(w.t)
	case "start sqs":
		w.sqs.Restart(w.t)
	case "vanish task":
		for _, task := range w.ecs.Tasks() {
			if task.Status == "RUNNING" && !task.Vanished {
				w.ecs.Vanish(task.ARN)
				break
			}
		}
	case "kill leader":
		w.cluster.kill(w.cluster.leader())
	case "kill server":
		w.cluster.kill(d.n)
	case "start servers":
		for i := range w.cluster.nodes {
			w.cluster.start(i)
		}
		until(w.t, time.Minute, "all servers have the whole log", w.cluster.current)
	}
}

// calm undoes what is still undone at the end of a phase.
func (w *chaos) calm() {
	for i, p := range w.workers {
		w.wires[i].mend()
		p.signal(syscall.SIGCONT)
	}
	w.do(disturbance{what: "start servers"})
	w.startAll()
	w.ready()
}

// finish waits for every accepted scan to end and hears the witness.
func (w *chaos) finish() {
	c := w.client()
	ids := w.accepted.ids
	w.t.Logf("%d scans accepted, %d tries refused, %d cancelled; did %v", len(ids), w.refused.Load(), w.cancels.Load(), w.did)
	for _, id := range ids {
		until(w.t, 2*time.Minute, "the end of "+id, func() bool {
			var v struct{ Status string }
			ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
			defer cancel()
			return c.call(ctx, http.MethodGet, "/scans/"+id, "", nil, &v) == nil && slices.Contains([]string{"completed", "failed", "cancelled"}, v.Status)
		})
	}
	w.leave()
	nc, err := eventstore.Connect(w.cluster.url(), "")
	if err != nil {
		w.t.Fatal(err)
	}
	defer nc.Close()
	store, err := eventstore.Open(w.t.Context(), nc, eventstore.Options{Region: "local"})
	if err != nil {
		w.t.Fatal(err)
	}
	defer store.Close()
	saw := testimony(w.t, store, filepath.Join(w.home, "data", "readmodels"), ids, chaosLimit)
	w.t.Logf("the log has %d events: %s", saw.events, strings.Join(saw.counts(), ", "))
	for i, f := range saw.failed {
		if i < 10 {
			w.t.Errorf("a scan failed in attempt %d: %s: %s", f.Attempt, f.Code, f.Message)
		}
	}
	if len(ids) == 0 || saw.kinds["scan.expired"] == 0 {
		w.t.Error("nothing was put to the test")
	}
}

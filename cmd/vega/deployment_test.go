package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vega/projections/pgtest"
	"vega/services/dispatch/sqstest"
	"vega/services/files/s3test"
	"vega/services/intake"
)

// deployment is what the servers of a production deployment are, each a real one on this machine's loopback, and the settings that name them.
type deployment struct {
	t        *testing.T
	cluster  *natsCluster
	postgres *pgtest.Server
	database string
	s3       *s3test.Server
	buckets  [3]string // source, artifacts, exports
	env      []string  // of every process
	apis     []*replica
}

// replica is one API process.
type replica struct {
	*process
	port int
}

func (r *replica) base() string { return fmt.Sprintf("http://127.0.0.1:%d/v1", r.port) }

// deploy starts the servers. No process of Vega's runs yet. The first of a repeated variable counts, so env wins.
func deploy(t *testing.T, env ...string) *deployment {
	t.Helper()
	d := &deployment{t: t, cluster: startCluster(t), postgres: pgtest.Start(t, pgtest.Options{}), s3: s3test.Start(t)}
	d.database = d.postgres.Database(t)
	d.buckets[0], d.buckets[1], d.buckets[2] = d.s3.Buckets(t)
	d.env = slices.Concat(env, d.s3.Env(), []string{
		"VEGA_NATS_URL=" + d.cluster.url(), "VEGA_NATS_REPLICAS=3",
		"VEGA_PERSISTENCE_BACKEND=postgres", "VEGA_DATABASE_URL=" + d.database,
		"VEGA_FILE_STORAGE_BACKEND=s3", "VEGA_S3_PATH_STYLE=true", "VEGA_S3_SOURCE_BUCKET=" + d.buckets[0], "VEGA_S3_ARTIFACTS_BUCKET=" + d.buckets[1], "VEGA_S3_EXPORTS_BUCKET=" + d.buckets[2],
		"VEGA_SCAN_EXECUTION_MODE=external", "VEGA_MASK_SECRET=a secret for masks, 32 bytes long", "VEGA_AUTH_SECRET=a secret for tokens, 32 bytes long",
		"VEGA_LOG_FORMAT=json", "VEGA_WORKER_DISCONNECT_GRACE_SECONDS=0",
	})
	if out, errs, code := vega(t, t.TempDir(), d.env, "setup"); code != 0 {
		t.Fatalf("setup: exit %d\n%s%s", code, out, errs)
	}
	return d
}

// queue makes an SQS queue and returns the settings of sqs mode.
func (d *deployment) queue() []string {
	d.t.Helper()
	server := sqstest.Start(d.t)
	url, _ := server.Queue(d.t, sqstest.Options{})
	return append([]string{"VEGA_SCAN_EXECUTION_MODE=sqs", "VEGA_SCAN_QUEUE_URL=" + url}, server.Env()[0])
}

// api starts one more API process, on a machine of its own.
func (d *deployment) api(env ...string) *replica {
	d.t.Helper()
	port := freePorts(d.t, 1)[0]
	r := &replica{port: port}
	r.process = newProcess(d.t, fmt.Sprint("api ", len(d.apis)+1), d.t.TempDir(), slices.Concat(env, []string{fmt.Sprint("VEGA_LISTEN_ADDR=127.0.0.1:", port)}, d.env))
	d.apis = append(d.apis, r)
	r.start()
	return r
}

// role starts a process of another role, on a machine of its own.
func (d *deployment) role(role string, env ...string) *process {
	d.t.Helper()
	p := newProcess(d.t, role, d.t.TempDir(), slices.Concat(env, []string{"VEGA_SERVICE_ROLE=" + role}, d.env))
	p.start()
	return p
}

// client signs in at a replica with the debug credentials, as soon as it answers.
func (d *deployment) client(r *replica) *client {
	d.t.Helper()
	c := newClient(r.base(), "")
	until(d.t, time.Minute, r.name+" lets somebody in", func() bool {
		ctx, cancel := context.WithTimeout(d.t.Context(), 5*time.Second)
		defer cancel()
		return c.login(ctx, "debug@example.com", "vega-debug-password") == nil
	})
	return c
}

// written is a write's answer: what it made, and the sequence of its event.
type written struct {
	ID       string
	Sequence uint64
}

// write makes something and returns what the answer says; the answer may be lost.
func write(ctx context.Context, c *client, method, path, key string, in any) (w written, err error) {
	b, err := json.Marshal(in)
	if err != nil {
		return w, err
	}
	resp, err := c.send(ctx, method, path, key, "application/json", bytes.NewReader(b))
	if err != nil {
		return w, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&w); err != nil {
		return w, err
	}
	if header := resp.Header.Get("Vega-Sequence"); header != "" {
		_, err = fmt.Sscan(header, &w.Sequence)
	}
	return w, err
}

// repository makes a project with a repository that is ready.
func (d *deployment) repository(c *client) string {
	d.t.Helper()
	ctx := d.t.Context()
	project, err := write(ctx, c, http.MethodPost, "/projects", "", map[string]string{"name": "p"})
	if err != nil {
		d.t.Fatal(err)
	}
	repo, err := write(ctx, c, http.MethodPost, "/projects/"+project.ID+"/repositories", "", map[string]string{"name": "r", "source_type": "upload"})
	if err != nil {
		d.t.Fatal(err)
	}
	var archive bytes.Buffer
	if _, err := intake.PackDir(ctx, tree(d.t, leaky()), &archive, intake.PackOptions{}); err != nil {
		d.t.Fatal(err)
	}
	resp, err := c.send(ctx, http.MethodPost, "/repositories/"+repo.ID+"/source", "", "application/octet-stream", &archive)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		d.t.Fatal(err)
	}
	return repo.ID
}

// metric is the value of one metric without labels; false when the process does not tell it.
func metric(ctx context.Context, r *replica, name string) (float64, bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c := newClient(strings.TrimSuffix(r.base(), "/v1"), "")
	resp, err := c.send(ctx, http.MethodGet, "/metrics", "", "", nil)
	if err != nil {
		return 0, false
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil {
		return 0, false
	}
	for line := range strings.Lines(body.String()) {
		var v float64
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			_, err := fmt.Sscan(rest, &v)
			return v, err == nil
		}
	}
	return 0, false
}

// leader is the replica that brings events into the read model, or nil.
func (d *deployment) leader() *replica {
	for _, r := range d.apis {
		if v, ok := metric(d.t.Context(), r, "vega_read_model_leads"); ok && v == 1 {
			return r
		}
	}
	return nil
}

// writes are projects that are created through all replicas until ctx ends, and reads each one back through another replica with at_least: it has to be there.
type writes struct {
	blind bool        // nothing is read back
	made  chan string // ids that were answered 201
	done  atomic.Int64
	reads atomic.Int64
	wrong atomic.Int64 // reads that lacked what they were asked to have
	slow  atomic.Int64 // longest time between two accepted writes, ns
}

func (d *deployment) run(ctx context.Context, l *writes, clients []*client) {
	for i := 0; ctx.Err() == nil; i++ {
		c := clients[i%len(clients)]
		key := fmt.Sprintf("load-%p-%d", l, i)
		begun := time.Now()
		var w written
		for ctx.Err() == nil {
			// The same key until it is accepted: a lost answer makes no second project.
			try, cancel := context.WithTimeout(ctx, 10*time.Second)
			var err error
			w, err = write(try, c, http.MethodPost, "/projects", key, map[string]string{"name": key})
			cancel()
			if err == nil {
				break
			}
			c = clients[(i+1)%len(clients)]
			_ = pause(ctx, 20*time.Millisecond)
		}
		if w.ID == "" {
			return
		}
		if took := time.Since(begun); took > time.Duration(l.slow.Load()) {
			l.slow.Store(int64(took))
		}
		l.done.Add(1)
		l.made <- w.ID
		if l.blind || w.Sequence == 0 {
			continue // or an earlier try had made it
		}
		other := clients[(i+1)%len(clients)]
		var page struct {
			Items []struct{ ID string }
		}
		read, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := other.call(read, http.MethodGet, fmt.Sprintf("/projects?limit=1000&at_least=%d", w.Sequence), "", nil, &page)
		cancel()
		if err != nil {
			continue // away, or behind: it said so
		}
		l.reads.Add(1)
		if !slices.ContainsFunc(page.Items, func(p struct{ ID string }) bool { return p.ID == w.ID }) && len(page.Items) < 1000 {
			l.wrong.Add(1)
		}
	}
}

// everything lists all projects of a replica.
func (d *deployment) everything(c *client) map[string]int {
	d.t.Helper()
	seen := map[string]int{}
	for cursor := ""; ; {
		var page struct {
			Items []struct{ ID string }
			Next  string `json:"next_cursor"`
		}
		if err := c.call(d.t.Context(), http.MethodGet, "/projects?limit=1000&cursor="+cursor, "", nil, &page); err != nil {
			d.t.Fatal(err)
		}
		for _, p := range page.Items {
			seen[p.ID]++
		}
		if cursor = page.Next; cursor == "" {
			return seen
		}
	}
}

// sameAsRebuilt builds the read model anew and fails for every row that was not the same.
func (d *deployment) sameAsRebuilt(c *client) {
	d.t.Helper()
	var report struct {
		Sequence    uint64
		Different   int
		Differences []json.RawMessage
	}
	until(d.t, time.Minute, "the read model is rebuilt", func() bool {
		return c.call(d.t.Context(), http.MethodPost, "/ops/read-model/rebuild", "", map[string]any{}, &report) == nil
	})
	if report.Different != 0 {
		d.t.Errorf("%d rows differ from a rebuild from zero, at event %d: %s", report.Different, report.Sequence, report.Differences[0])
	}
}

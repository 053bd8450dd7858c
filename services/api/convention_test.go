package api

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/scan"
)

// 200 requests at once for one user: exactly the limit gets a scan, the rest are told why, and ended scans make room.
func TestLimitOfActiveScansIsExact(t *testing.T) {
	t.Parallel()
	const limit = 4
	w := newWorld(t, options{limit: limit})
	path := "/repositories/" + w.user.ready(w.user.project()) + "/scans"
	var mu sync.Mutex
	var accepted []string
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			a := w.user.do("POST", path, object{})
			if a.status == 202 {
				mu.Lock()
				defer mu.Unlock()
				accepted = append(accepted, a.id())
				return
			}
			d := a.refused(429, "active_scan_limit")
			if after, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || after < 1 || d["limit"] != float64(limit) || d["limit_name"] != "VEGA_MAX_ACTIVE_SCANS_PER_USER" || len(d["active"].([]any)) != limit {
				t.Errorf("429 with Retry-After %q and details %v", a.header.Get("Retry-After"), d)
			}
		})
	}
	wg.Wait()
	if len(accepted) != limit {
		t.Fatalf("%d of 200 were accepted, want %d", len(accepted), limit)
	}
	if n := len(w.user.do("GET", "/scans", nil).items()); n != limit {
		t.Errorf("%d scans exist", n)
	}
	for i, id := range accepted {
		if i == 0 {
			w.user.do("POST", "/scans/"+id+"/cancel", nil).want(202)
		} else {
			k := w.claim(id)
			k.start()
			k.complete()
		}
		w.user.do("POST", path, object{}).want(202)
		w.user.do("POST", path, object{}).refused(429, "active_scan_limit")
	}
}

// The same key is the same request: many at once make one thing, another body is refused, and a refused request gives its key back.
func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{limit: 1})
	project := w.user.project()
	repository := w.user.ready(project)
	scans := "/repositories/" + repository + "/scans"
	for _, tc := range []struct {
		path        string
		body, other object
		status      int
	}{
		{"/projects", object{"name": "keyed"}, object{"name": "other"}, 201},
		{"/projects/" + project + "/repositories", object{"name": "keyed", "source_type": "upload"}, object{"name": "keyed", "source_type": "push"}, 201},
		{scans, object{"paths": []string{"main.go"}}, object{"paths": []string{"README.md"}}, 202},
	} {
		var mu sync.Mutex
		ids := map[string]bool{}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				a := w.user.do("POST", tc.path, tc.body, "Idempotency-Key", "one key").want(tc.status)
				mu.Lock()
				defer mu.Unlock()
				ids[a.id()] = true
			})
		}
		wg.Wait()
		if len(ids) != 1 {
			t.Errorf("POST %s with one key made %v", tc.path, ids)
		}
		w.user.do("POST", tc.path, tc.other, "Idempotency-Key", "one key").refused(422, "idempotency_key_reused")
		must(t, purge(w, "idempotency.")) // as after a day: the log still knows
		w.user.do("POST", tc.path, tc.other, "Idempotency-Key", "one key").refused(422, "idempotency_key_reused")
		w.user.do("POST", tc.path, object{"nonsense": 1}, "Idempotency-Key", "fresh key").refused(422, "invalid_request")
		if tc.path == scans {
			// The limit is reached, and the keyed scan is still the answer to its key, also when it is over.
			w.user.do("POST", tc.path, tc.body, "Idempotency-Key", "fresh key").refused(429, "active_scan_limit")
			for id := range ids {
				w.user.do("POST", "/scans/"+id+"/cancel", object{"reason": "enough"}, "Idempotency-Key", "stop").want(202)
				w.user.do("POST", tc.path, tc.body, "Idempotency-Key", "fresh key").want(202)
				if a := w.user.do("POST", tc.path, tc.body, "Idempotency-Key", "one key").want(202); a.id() != id || a.object()["status"] != "cancelled" {
					t.Errorf("the key of a cancelled scan answers %s", a.body)
				}
				w.user.do("POST", "/scans/"+id+"/cancel", object{"reason": "enough"}, "Idempotency-Key", "stop").want(202)
			}
			continue
		}
		w.user.do("POST", tc.path, tc.body, "Idempotency-Key", "fresh key").want(tc.status)
	}
	// A key means something to its user and its thing alone.
	w.other.do("POST", "/projects", object{"name": "mine"}, "Idempotency-Key", "one key").want(201)
	second := w.user.project()
	w.user.do("POST", "/projects/"+second+"/repositories", object{"name": "keyed", "source_type": "upload"}, "Idempotency-Key", "one key").refused(422, "idempotency_key_reused")
}

func purge(w *world, prefix string) error {
	kv, err := w.store.JetStream().KeyValue(context.Background(), eventstore.ExpiringBucket)
	if err != nil {
		return err
	}
	keys, err := kv.Keys(context.Background())
	if err != nil {
		return err
	}
	for _, k := range keys {
		if strings.HasPrefix(k, prefix) {
			if err := kv.Purge(context.Background(), k); err != nil {
				return err
			}
		}
	}
	return nil
}

// Of two changes that saw the same version, one wins.
func TestIfMatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	x := w.things()
	for _, tc := range []struct {
		name, get, method, path string
		body                    func(i int) any
	}{
		{"project", "/projects/" + x.project, "PATCH", "/projects/" + x.project, func(i int) any { return object{"name": fmt.Sprint("name ", i)} }},
		{"profile", "/repositories/" + x.repository + "/threat-profile", "PUT", "/repositories/" + x.repository + "/threat-profile", func(i int) any { return object{"summary": fmt.Sprint("summary ", i)} }},
		{"finding", "/findings/" + x.finding, "PATCH", "/findings/" + x.finding, func(i int) any { return object{"state": "confirmed", "note": fmt.Sprint("note ", i)} }},
	} {
		tag := w.user.do("GET", tc.get, nil).want(200).header.Get("ETag")
		var won, lost atomic.Int32
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if a := w.user.do(tc.method, tc.path, tc.body(i), "If-Match", tag); a.status == 200 {
					won.Add(1)
				} else {
					a.refused(412, "version_mismatch")
					lost.Add(1)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 || lost.Load() != 7 {
			t.Errorf("%s: %d won and %d lost with the same ETag %s", tc.name, won.Load(), lost.Load(), tag)
		}
		now := w.user.do("GET", tc.get, nil).want(200).header.Get("ETag")
		if now == tag {
			t.Errorf("%s: the ETag is still %s", tc.name, tag)
		}
		w.user.do(tc.method, tc.path, tc.body(100), "If-Match", `"999", W/`+now).want(200)
		w.user.do(tc.method, tc.path, tc.body(101), "If-Match", `*`).want(200)
		w.user.do(tc.method, tc.path, tc.body(102), "If-Match", canary).refused(412, "version_mismatch")
	}
}

// A read can ask for at least a write, and is told when the model does not get there.
func TestAtLeast(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	a := w.user.do("POST", "/projects", object{"name": "a"}).want(201)
	seq := a.header.Get("Vega-Sequence")
	w.user.do("GET", "/projects/"+a.id()+"?at_least="+seq, nil).want(200)
	b := w.user.do("GET", "/projects?at_least=1000000", nil)
	if d := b.refused(503, "read_model_behind"); d["at_least"] != 1e6 || b.header.Get("Retry-After") == "" {
		t.Errorf("details %v, Retry-After %q", d, b.header.Get("Retry-After"))
	}
}

// While the read model stands still, writes answer after a second from the log.
func TestWritesAnswerWithoutTheReadModel(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{stalled: true})
	a := w.user.do("POST", "/projects", object{"name": "unseen"}).want(201)
	if o := a.object(); o["name"] != "unseen" || o["version"] != 1.0 || a.header.Get("ETag") != `"1"` || a.header.Get("Vega-Sequence") != "1" {
		t.Errorf("answer: %s", a.body)
	}
	w.user.do("GET", "/projects/"+a.id()+"?at_least=1", nil).refused(503, "read_model_behind")
	if d := w.user.do("GET", "/readyz", nil).refused(503, "not_ready"); fmt.Sprint(d["failing"]) != "[read_model]" {
		t.Errorf("readyz: %v", d)
	}
	w.user.do("GET", "/healthz", nil).want(200)
}

// The past is shown as it was, and what is over does not change when it is read again.
func TestScanAsItWas(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	x := w.things()
	k := &worker{w: w, id: events.ScanID(x.scan)}
	row, err := w.model.Scan(t.Context(), k.id)
	must(t, err)
	k.generation = row.Generation
	k.stage("inventory")
	k.complete()
	want := map[string][2]any{
		"scan.queued": {"queued", 0.0}, "scan.claimed": {"claimed", 1.0}, "scan.started": {"running", 1.0}, "scan.findings_recorded": {"running", 1.0},
		"scan.stage_completed": {"running", 1.0}, "scan.completed": {"completed", 1.0},
	}
	history := w.user.do("GET", "/scans/"+x.scan+"/history", nil).want(200)
	for i, e := range history.items() {
		s := w.user.do("GET", fmt.Sprintf("/scans/%s?at=%.0f", x.scan, e["sequence"]), nil).want(200).object()
		if exp := want[e["type"].(string)]; s["status"] != exp[0] || s["attempt"] != exp[1] || s["version"] != float64(i+1) || s["sequence"] != e["sequence"] {
			t.Errorf("after %s: %v", e["type"], s)
		}
		if e["actor"] == "" || e["data"] == nil || e["at"] == nil || e["version"] != float64(i+1) {
			t.Errorf("history: %v", e)
		}
	}
	now := w.user.do("GET", "/scans/"+x.scan, nil).want(200)
	if then := w.user.do("GET", "/scans/"+x.scan+"?at=1000000", nil).want(200); string(now.body) != string(then.body) {
		t.Errorf("now\n%s\nand as of its last event\n%s", now.body, then.body)
	}
	for _, path := range []string{"", "/history", "/events", "/findings", "/artifacts", "/exports/json", "/exports/sarif"} {
		a, b := w.user.do("GET", "/scans/"+x.scan+path, nil).want(200), w.user.do("GET", "/scans/"+x.scan+path, nil).want(200)
		if string(a.body) != string(b.body) {
			t.Errorf("GET %s twice:\n%s\n%s", path, a.body, b.body)
		}
	}
}

// Pages put together are the whole, whatever their size.
func TestPagesAddUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	x := w.things()
	k := &worker{w: w, id: events.ScanID(x.scan)}
	row, err := w.model.Scan(t.Context(), k.id)
	must(t, err)
	k.generation = row.Generation
	var fs []events.Finding
	for i := range 23 {
		fs = append(fs, finding(x.repository, fmt.Sprintf("d/f%02d.go", i%7), i, events.Severities()[i%5]))
	}
	k.do(scan.RecordFindings{Generation: k.generation, Stage: "secrets", Findings: fs})
	k.complete()
	for range 7 {
		w.user.project()
	}
	for path, n := range map[string]int{"/scans/" + x.scan + "/findings": 24, "/findings": 24, "/projects": 8, "/scans/" + x.scan + "/history": 6, "/repositories/" + x.repository + "/events": 3} {
		key := "id"
		if strings.HasSuffix(path, "history") {
			key = "sequence"
		}
		whole := ids(w.user.do("GET", path+"?limit=1000", nil).want(200).items(), key)
		if len(whole) != n {
			t.Errorf("GET %s: %d items, want %d", path, len(whole), n)
		}
		for _, size := range []int{1, 3, 8} {
			var parts []string
			cursor := ""
			for {
				a := w.user.do("GET", fmt.Sprintf("%s?limit=%d&cursor=%s", path, size, cursor), nil).want(200)
				parts = append(parts, ids(a.items(), key)...)
				next, more := a.object()["next_cursor"].(string)
				if !more {
					break
				}
				cursor = next
			}
			if strings.Join(parts, " ") != strings.Join(whole, " ") {
				t.Errorf("GET %s in pages of %d: %v, want %v", path, size, parts, whole)
			}
		}
	}
}

func ids(items []object, key string) []string {
	var out []string
	for _, i := range items {
		out = append(out, fmt.Sprint(i[key]))
	}
	return out
}

// A full disk and a log that is away are 503 with a time to come back, and nothing that was acknowledged is lost.
func TestFullAndAway(t *testing.T) {
	t.Parallel()
	store, stop := natstest.Start(t, t.TempDir(), false)
	impatient, err := eventstore.Open(t.Context(), store.Conn(), eventstore.Options{Region: natstest.Region, Patience: 200 * time.Millisecond})
	must(t, err)
	w := newWorld(t, options{store: impatient})
	kept := w.user.project()
	stream, err := store.JetStream().Stream(t.Context(), eventstore.StreamName(natstest.Region))
	must(t, err)
	cfg := stream.CachedInfo().Config
	cfg.MaxBytes = int64(stream.CachedInfo().State.Bytes) + 10
	_, err = store.JetStream().UpdateStream(t.Context(), cfg)
	must(t, err)
	a := w.user.do("POST", "/projects", object{"name": "no room"})
	a.refused(503, "storage_full")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	cfg.MaxBytes = -1
	_, err = store.JetStream().UpdateStream(t.Context(), cfg)
	must(t, err)
	w.user.do("POST", "/projects", object{"name": "room again"}, "Idempotency-Key", "k").want(201)
	w.unfollow()
	impatient.Close()
	stop()
	for _, key := range []string{"", "k2"} {
		r := []string{}
		if key != "" {
			r = append(r, "Idempotency-Key", key)
		}
		a = w.user.do("POST", "/projects", object{"name": "nobody hears"}, r...)
		a.refused(503, "unavailable")
		if a.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	if d := w.user.do("GET", "/readyz", nil).refused(503, "not_ready"); fmt.Sprint(d["failing"]) != "[nats]" {
		t.Errorf("readyz: %v", d)
	}
	if n := len(w.user.do("GET", "/projects", nil).want(200).items()); n != 2 {
		t.Errorf("%d projects are shown, want 2", n)
	}
	w.user.do("GET", "/projects/"+kept, nil).want(200)
	w.user.do("GET", "/healthz", nil).want(200)
}

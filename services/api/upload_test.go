package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/catalog"
)

func TestRefusedArchiveSaysWhyEverywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	project := w.user.project()
	repository := w.user.repository(project)
	path := "/repositories/" + repository
	many := map[string]string{}
	for i := range 101 {
		many[fmt.Sprintf("f%d", i)] = "x"
	}
	for _, tc := range []struct {
		name    string
		body    []byte
		status  int
		code    string
		details object
	}{
		{"escape", zipOf(t, map[string]string{"ok.txt": "x", "../../evil.txt": "x"}), 422, "archive_path_escape", object{"entry": "../../evil.txt"}},
		{"entries", zipOf(t, many), 422, "archive_too_many_entries", object{"limit_name": "VEGA_MAX_ARCHIVE_ENTRIES", "limit": 100.0}},
		{"uncompressed", zipOf(t, map[string]string{"zeros": strings.Repeat("0", 5<<20)}), 422, "archive_too_large_uncompressed", object{"limit_name": "VEGA_MAX_ARCHIVE_UNCOMPRESSED_BYTES", "limit": 4194304.0}},
		{"source", bytes.Repeat([]byte("x"), 1<<20+1), 413, "source_too_large", object{"limit_name": "VEGA_MAX_SOURCE_BYTES", "limit": 1048576.0, "value": 1048577.0}},
	} {
		got := w.user.do("POST", path+"/source", tc.body).refused(tc.status, tc.code)
		for k, v := range tc.details {
			if got[k] != v {
				t.Errorf("%s: details %v, want %s %v", tc.name, got, k, v)
			}
		}
		repo := w.user.do("GET", path, nil).want(200).object()
		why, _ := repo["ingest_error"].(object)
		if repo["ingest_status"] != "failed" || why["code"] != tc.code || why["message"] == "" || why["details"] == nil || repo["latest_snapshot"] != nil {
			t.Errorf("%s: repository %v", tc.name, repo)
		}
		w.user.do("POST", path+"/scans", nil).refused(409, "repository_not_ready")
	}
	if n := w.objects(); n != 0 {
		t.Errorf("%d objects are stored after refusals", n)
	}
	w.user.do("POST", path+"/source", zipOf(t, map[string]string{"a": "b"})).want(202)
	if repo := w.user.do("GET", path, nil).object(); repo["ingest_status"] != "ready" || repo["ingest_error"] != nil {
		t.Errorf("after a good upload: %v", repo)
	}
	// A ready repository stays one when another source is refused, and says why it was.
	w.user.do("POST", path+"/source", []byte("no archive")).refused(422, "archive_unsupported")
	if repo := w.user.do("GET", path, nil).object(); repo["ingest_status"] != "ready" || repo["ingest_error"] == nil || repo["latest_snapshot"] == nil {
		t.Errorf("after a refused second source: %v", repo)
	}
	w.user.do("POST", path+"/scans", nil).want(202)
	push := w.user.do("POST", "/projects/"+project+"/repositories", object{"name": "p", "source_type": "push"}).want(201).id()
	w.user.do("POST", "/repositories/"+push+"/source", zipOf(t, map[string]string{"a": "b"})).refused(409, "not_an_upload_repository")
}

func (w *world) objects() int {
	w.t.Helper()
	n := 0
	for _, err := range w.files.List(context.Background(), "") {
		must(w.t, err)
		n++
	}
	return n
}

// A client that goes away in the middle leaves a repository that says so, and no file.
func TestInterruptedUpload(t *testing.T) {
	t.Parallel()
	spool := t.TempDir()
	w := newWorld(t, options{spool: spool})
	id := w.user.repository(w.user.project())
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(w.url, "http://"), "/v1"))
	must(t, err)
	fmt.Fprintf(conn, "POST /v1/repositories/%s/source HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 100000\r\n\r\nPK\x03\x04 and no more", id, w.user.token)
	w.await(events.RepositoryOf(natstest.Region, events.RepositoryID(id)), "repository.ingest_started")
	if repo := w.user.do("GET", "/repositories/"+id, nil).want(200).object(); repo["ingest_status"] != "ingesting" {
		t.Errorf("during the upload: %v", repo)
	}
	w.user.do("POST", "/repositories/"+id+"/source", zipOf(t, map[string]string{"a": "b"})).refused(409, "ingest_in_progress")
	w.user.do("POST", "/repositories/"+id+"/scans", nil).refused(409, "repository_not_ready")
	must(t, conn.Close())
	w.await(events.RepositoryOf(natstest.Region, events.RepositoryID(id)), "repository.ingest_failed")
	repo := w.user.do("GET", "/repositories/"+id, nil).want(200).object()
	if why, _ := repo["ingest_error"].(object); repo["ingest_status"] != "failed" || why["code"] != "upload_interrupted" {
		t.Errorf("after the interruption: %v", repo)
	}
	left, err := os.ReadDir(spool)
	must(t, err)
	if len(left) != 0 || w.objects() != 0 {
		t.Errorf("left behind: %v and %d objects", left, w.objects())
	}
	w.user.do("POST", "/repositories/"+id+"/source", zipOf(t, map[string]string{"a": "b"})).want(202)
}

// await returns when the read model has an event of that kind.
func (w *world) await(a events.Aggregate, kind events.Kind) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for r, err := range w.store.Follow(ctx, 0, a.Filter()) {
		must(w.t, err)
		if r.Kind == kind {
			must(w.t, w.runner.WaitFor(ctx, r.Seq))
			return
		}
	}
	w.t.Fatalf("no %s in time", kind)
}

// An upload whose process is gone is in the way until its lease runs out.
func TestDeadUploadIsTakenOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	id := w.user.repository(w.user.project())
	meta := events.Meta{Command: events.NewCommandID(), Actor: events.ByUser(w.user.user), At: time.Now().UTC()}
	_, _, err := eventstore.Do(t.Context(), w.store, events.RepositoryOf(natstest.Region, events.RepositoryID(id)), meta, func(r catalog.Repository, _ events.Head) ([]events.Event, error) {
		return r.StartIngest("up_dead", false)
	})
	must(t, err)
	_, err = w.api.expiring.Create(t.Context(), leaseKey("up_dead"), nil)
	must(t, err)
	w.user.do("POST", "/repositories/"+id+"/source", zipOf(t, map[string]string{"a": "b"})).refused(409, "ingest_in_progress")
	must(t, purge(w, "upload."))
	w.user.do("POST", "/repositories/"+id+"/source", zipOf(t, map[string]string{"a": "b"})).want(202)
}

// Equal trees are one snapshot, stored once; its objects go with the last repository that has it.
func TestSnapshotsAreShared(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	project := w.user.project()
	body := zipOf(t, map[string]string{"a": "b"})
	var ids []string
	var snapshots []any
	for range 3 {
		id := w.user.repository(project)
		ids = append(ids, id)
		snapshots = append(snapshots, w.user.do("POST", "/repositories/"+id+"/source", body).want(202).object()["snapshot_id"])
	}
	if snapshots[0] != snapshots[1] || snapshots[1] != snapshots[2] || w.objects() != 2 {
		t.Fatalf("snapshots %v in %d objects", snapshots, w.objects())
	}
	for _, id := range ids { // each capture vouches for the pack that is really stored
		past, _, err := w.store.Load(t.Context(), events.RepositoryOf(natstest.Region, events.RepositoryID(id)), events.Head{})
		must(t, err)
		taken := past[len(past)-1].Event.(events.SnapshotTaken)
		for _, o := range []events.Object{taken.Manifest, taken.Pack} {
			in, n, err := w.files.Open(t.Context(), o.Key)
			must(t, err)
			b, err := io.ReadAll(in)
			must(t, err)
			must(t, in.Close())
			if events.DigestOf(b) != o.Digest || n != o.Bytes {
				t.Errorf("%s: stored %s of %d bytes, recorded %s of %d", o.Name, events.DigestOf(b), n, o.Digest, o.Bytes)
			}
		}
	}
	scanID := w.user.do("POST", "/repositories/"+ids[0]+"/scans", nil).want(202).id()
	w.claim(scanID).start()
	for i, id := range ids {
		w.user.do("DELETE", "/repositories/"+id, nil, "If-Match", `"77"`).refused(412, "version_mismatch")
		w.user.do("DELETE", "/repositories/"+id, nil).want(204)
		w.user.do("DELETE", "/repositories/"+id, nil).refused(404, "not_found")
		if got, want := w.objects(), []int{2, 2, 0}[i]; got != want {
			t.Errorf("after deleting %d of 3: %d objects, want %d", i+1, got, want)
		}
	}
	w.await(events.ScanOf(natstest.Region, events.ScanID(scanID)), "scan.cancel_requested")
}

// Uploads and deletions of one tree by many at once never leave a ready repository without its objects.
func TestSnapshotSurvivesDeletionsElsewhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	project := w.user.project()
	body := zipOf(t, map[string]string{"a": "b"})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 3 {
				id := w.user.repository(project)
				w.user.do("POST", "/repositories/"+id+"/source", body).want(202)
				if w.objects() < 2 {
					t.Error("a ready repository has no objects")
				}
				w.user.do("DELETE", "/repositories/"+id, nil).want(204)
			}
		})
	}
	wg.Wait()
	if n := w.objects(); n != 0 {
		t.Errorf("%d objects are left", n)
	}
}

// A server that stops during an upload says so to the client and in the log.
func TestStopDuringUpload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{grace: 50 * time.Millisecond})
	id := w.user.repository(w.user.project())
	in, out := io.Pipe()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _ = w.user.try("POST", "/repositories/"+id+"/source", io.Reader(in)) // cut off, or told
	}()
	_, err := out.Write([]byte("PK\x03\x04"))
	must(t, err)
	w.await(events.RepositoryOf(natstest.Region, events.RepositoryID(id)), "repository.ingest_started")
	w.stop()
	must(t, <-w.done)
	w.await(events.RepositoryOf(natstest.Region, events.RepositoryID(id)), "repository.ingest_failed")
	must(t, out.Close())
	<-answered
	if _, err := http.Get(w.url + "/healthz"); err == nil {
		t.Error("the server still answers")
	}
}

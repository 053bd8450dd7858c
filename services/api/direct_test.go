package api

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"vega/events"
)

// s3World is a world whose files are in buckets, whatever the others stand on.
func s3World(t *testing.T, o options) *world {
	t.Helper()
	o.files = s3Files
	return newWorld(t, o)
}

// put sends a part to the link that was signed for it.
func put(t *testing.T, link object, body []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), link["method"].(string), link["url"].(string), bytes.NewReader(body))
	must(t, err)
	for name, v := range link["headers"].(object) {
		r.Header.Set(name, v.(string))
	}
	res, err := http.DefaultClient.Do(r)
	must(t, err)
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); res.StatusCode != 200 {
		t.Fatalf("part: %s %s", res.Status, b)
	}
}

func TestSourceUploadedInPartsIsTakenIn(t *testing.T) {
	t.Parallel()
	w := s3World(t, options{maxSource: 32 << 20})
	repository := w.user.repository(w.user.project())
	path := "/repositories/" + repository
	noise := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	archive := zipStored(t, map[string]string{"a": noise + noise + noise, "b": noise + noise + noise + "!", "main.go": "package main\n"})
	begun := w.user.do("POST", path+"/source/uploads", object{"bytes": len(archive)}).want(201).object()
	uploads := path + "/source/uploads/" + begun["upload_id"].(string)
	links := w.user.do("POST", uploads+"/parts", object{"parts": []object{{"number": 1, "bytes": minPart}, {"number": 2}}}).want(200).items()

	// The client dies after the second part; another one sees what is missing.
	put(t, links[1], archive[minPart:])
	w.user.do("POST", uploads+"/complete", nil).refused(409, "upload_incomplete")
	state := w.user.do("GET", uploads, nil).want(200).object()
	if parts := state["parts"].([]any); state["status"] != "receiving" || len(parts) != 1 || parts[0].(object)["number"] != 2.0 {
		t.Fatalf("what has arrived is %v", state)
	}
	put(t, links[0], archive[:minPart])
	w.user.do("POST", uploads+"/complete", object{"bytes": 7}).refused(409, "upload_incomplete")
	if repo := w.user.do("GET", path, nil).object(); repo["ingest_status"] != "pending" {
		t.Errorf("refused completions left the repository %v", repo["ingest_status"])
	}
	for _, stranger := range []*client{w.other, {w: w, t: t}} {
		if a := stranger.do("GET", uploads, nil); a.status != 404 && a.status != 401 {
			t.Errorf("a stranger gets %d", a.status)
		}
	}
	done := w.user.do("POST", uploads+"/complete", object{"sha256": string(events.DigestOf(archive)), "bytes": len(archive)}).want(202).object()
	if done["ingest_status"] != "ready" || done["snapshot_id"] == "" {
		t.Errorf("completed: %v", done)
	}
	again := w.user.do("POST", uploads+"/complete", nil).want(202).object() // the answer may have been lost
	if again["snapshot_id"] != done["snapshot_id"] || again["sequence"] != done["sequence"] {
		t.Errorf("completed again: %v, want %v", again, done)
	}
	if state := w.user.do("GET", uploads, nil).want(200).object(); state["status"] != "taken_in" {
		t.Errorf("afterwards it is %v", state)
	}
	for o, err := range w.files.List(t.Context(), "uploads/") {
		t.Errorf("%s is left, %v", o.Key, err)
	}
	w.user.do("POST", path+"/scans", nil).want(202)
}

func TestDirectUploadsThatAreWrong(t *testing.T) {
	t.Parallel()
	w := s3World(t, options{})
	project := w.user.project()
	path := "/repositories/" + w.user.repository(project)
	elsewhere := "/repositories/" + w.user.repository(project)
	w.user.do("POST", path+"/source/uploads", object{"bytes": 1<<20 + 1}).refused(413, "source_too_large")
	w.user.do("POST", path+"/source/uploads", object{"bytes": -1}).refused(422, "invalid_request")
	id := w.user.do("POST", path+"/source/uploads", nil).want(201).object()["upload_id"].(string)
	uploads := path + "/source/uploads/"
	for _, parts := range []any{nil, []object{{"number": 1}, {"number": 1}}, []object{}, []object{{"number": 0}}, []object{{"number": 10001}}, []object{{"number": 1, "sha256": "x"}}, []object{{"number": 1, "bytes": -1}}, "x"} {
		w.user.do("POST", uploads+id+"/parts", object{"parts": parts}).refused(422, "invalid_request")
	}
	w.user.do("POST", uploads+id+"/parts", object{"parts": []object{{"number": 1, "bytes": 2 << 20}}}).refused(413, "source_too_large")
	for _, wrong := range []string{"x", "x.y", "..%2f.eA", id + "x", strings.Repeat("a", 3500) + ".eA"} {
		w.user.do("GET", uploads+wrong, nil).refused(404, "not_found")
	}
	w.user.do("GET", elsewhere+"/source/uploads/"+id, nil).refused(404, "not_found")
	w.user.do("POST", uploads+id+"/complete", nil).refused(409, "upload_incomplete")
	w.user.do("POST", uploads+id+"/complete", object{"sha256": "x"}).refused(422, "invalid_request")
	w.user.do("POST", uploads+id+"/complete", object{"else": 1}).refused(422, "invalid_request")

	// What is no archive is refused like a body is, and goes.
	link := w.user.do("POST", uploads+id+"/parts", object{"parts": []object{{"number": 1}}}).want(200).items()[0]
	put(t, link, []byte("not an archive"))
	w.user.do("POST", uploads+id+"/complete", object{"sha256": string(events.DigestOf([]byte("else")))}).refused(422, "source_digest_mismatch")
	if state := w.user.do("GET", uploads+id, nil).want(200).object(); state["status"] != "whole" {
		t.Errorf("after a wrong sum it is %v", state)
	}
	w.user.do("POST", uploads+id+"/complete", nil).refused(422, "archive_unsupported")
	w.user.do("GET", uploads+id, nil).refused(404, "not_found")
	if n := w.objects(); n != 0 {
		t.Errorf("%d objects are left", n)
	}
	summed := w.user.do("POST", path+"/source/uploads", object{"part_sha256": true}).want(201).object()["upload_id"].(string)
	w.user.do("POST", uploads+summed+"/parts", object{"parts": []object{{"number": 1}}}).refused(422, "invalid_request")
	w.user.do("POST", uploads+summed+"/parts", object{"parts": []object{{"number": 1, "sha256": string(events.DigestOf(nil))}}}).want(200)
	w.user.do("DELETE", uploads+summed, nil).want(204)
	again := w.user.do("POST", path+"/source/uploads", nil).want(201).object()["upload_id"].(string)
	for range 2 {
		w.user.do("DELETE", uploads+again, nil).want(204)
	}
	w.user.do("GET", uploads+again, nil).refused(404, "not_found")
	push := w.user.do("POST", "/projects/"+project+"/repositories", object{"name": "p", "source_type": "push"}).want(201).id()
	w.user.do("POST", "/repositories/"+push+"/source/uploads", nil).refused(409, "not_an_upload_repository")
}

func TestLocalFilesTakeNoDirectUploads(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{files: localFiles})
	path := "/repositories/" + w.user.repository(w.user.project()) + "/source/uploads"
	w.user.do("POST", path, nil).refused(409, "direct_uploads_off")
	w.user.do("GET", path+"/x.eA", nil).refused(409, "direct_uploads_off")
}

// A link serves an artifact or an export without a token, whatever the file storage is.
func TestDownloadLinks(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T) *world{
		"local files": func(t *testing.T) *world { return newWorld(t, options{files: localFiles}) },
		"S3":          func(t *testing.T) *world { return s3World(t, options{}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			repository := w.user.ready(w.user.project())
			id := w.user.do("POST", "/repositories/"+repository+"/scans", object{}).want(202).id()
			k := w.claim(id)
			k.start()
			stored, err := w.files.Put(context.Background(), "scans/"+id+"/1/v16-report.json", strings.NewReader(`{"a":1}`))
			must(t, err)
			k.stage("report", events.Object{Name: "scans/" + id + "/v16-report.json", Key: stored.Key, Digest: events.Digest(stored.Digest), Bytes: stored.Bytes, MediaType: "application/json"})
			k.complete()
			path := "/scans/" + id + "/downloads"
			for _, body := range []object{{}, {"artifact": "a", "export": "csv"}, {"export": "pdf"}} {
				w.user.do("POST", path, body).refused(422, "invalid_request")
			}
			w.user.do("POST", path, object{"artifact": "none"}).refused(404, "not_found")
			w.other.do("POST", path, object{"export": "csv"}).refused(404, "not_found")

			fetch := func(body object) (string, http.Header) {
				link := w.user.do("POST", path, body).want(201).object()
				url := link["url"].(string)
				if strings.Contains(w.logs.String(), url) {
					t.Error("the link is in the log")
				}
				a := (&client{w: w, t: t}).do("GET", url, nil).want(200)
				return string(a.body), a.header
			}
			got, header := fetch(object{"artifact": "scans/" + id + "/v16-report.json"})
			if got != `{"a":1}` || !strings.Contains(header.Get("Content-Disposition"), "v16-report.json") || header.Get("Content-Type") != "application/json" {
				t.Errorf("the artifact's link serves %q as %v", got, header)
			}
			want := string(w.user.do("POST", "/scans/"+id+"/exports", object{"format": "csv"}).want(200).body)
			if got, header = fetch(object{"export": "csv"}); got != want || !strings.Contains(header.Get("Content-Disposition"), id+".csv") {
				t.Errorf("the export's link serves %q as %v, want %q", got, header, want)
			}
			(&client{w: w, t: t}).do("GET", "/downloads/"+strings.Repeat("a", 26), nil).refused(404, "not_found")
		})
	}
}

// zipStored is a zip whose entries are not compressed.
func zipStored(t testing.TB, content map[string]string) []byte {
	t.Helper()
	return zipWith(t, content, false)
}

package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"

	"vega/events"
	"vega/services/scan"
)

// things is one of everything, made by the world's user.
type things struct{ project, repository, scan, finding string }

func (w *world) things() things {
	w.t.Helper()
	var x things
	x.project = w.user.project()
	x.repository = w.user.ready(x.project)
	x.scan = w.user.do("POST", "/repositories/"+x.repository+"/scans", nil).want(202).id()
	k := w.claim(x.scan)
	k.start()
	f := finding(x.repository, "main.go", 1, events.SeverityHigh)
	k.do(scan.RecordFindings{Generation: k.generation, Stage: "secrets", Findings: []events.Finding{f}})
	x.finding = string(f.ID)
	return x
}

// path fills a route's parameters in.
func (x things) path(pattern string) string {
	return strings.NewReplacer("{project_id}", x.project, "{repository_id}", x.repository, "{scan_id}", x.scan, "{finding_id}", x.finding,
		"{user_id}", "user_someone", "{path}", "report.json", "{format}", "json").Replace(pattern)
}

// Every route is checked here by what it says of itself, so a new one cannot be forgotten.
func TestEveryRouteLooksAtItsCaller(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	x := w.things()
	viewer, editor := w.other, w.other
	nobody := &client{w: w, t: t}
	liar := &client{w: w, t: t, token: w.user.token[:len(w.user.token)-6] + "AAAAAA"}
	absent := things{"proj_test_absent", "repo_test_absent", "scan_test_absent", "find_test_absent"}
	malformed := []string{"UPPER", "a.b", "a%2fb", "..%2f..", strings.Repeat("x", 101), "%00", "*", ">", "ä"}
	send := func(c *client, r route, x things) answer {
		body := any(object{})
		if r.method == "GET" {
			body = nil
		}
		return c.do(r.method, strings.TrimSuffix(w.url, "/v1")+x.path(r.path), body)
	}
	byRole := map[access]int{}
	for _, r := range w.api.routes {
		byRole[r.access]++
		if r.access == public {
			continue
		}
		for _, c := range []*client{nobody, liar} {
			a := send(c, r, x)
			a.refused(401, "unauthenticated")
			if !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer ") {
				t.Errorf("%s %s: WWW-Authenticate is %q", r.method, r.path, a.header.Get("WWW-Authenticate"))
			}
		}
		switch {
		case r.access == admin:
			send(w.user, r, x).refused(403, "forbidden")
		case r.access.role() != "":
			send(w.other, r, x).refused(404, "not_found")
			send(w.user, r, absent).refused(404, "not_found")
			send(w.admin, r, absent).refused(404, "not_found")
			for _, id := range malformed {
				if a := send(w.user, r, things{id, id, id, id}); a.status != 404 {
					t.Errorf("%s %s with id %s: %d", r.method, r.path, id, a.status)
				}
			}
		}
	}
	for _, a := range []access{public, signedIn, 2, 3, 4, admin} {
		if byRole[a] == 0 {
			t.Errorf("no route asks for %d: the test looks at nothing", a)
		}
	}

	// A member whose role is too small is told so.
	w.user.do("PUT", "/projects/"+x.project+"/members/"+string(viewer.user), object{"role": "viewer"}).want(200)
	for _, r := range w.api.routes {
		if role := r.access.role(); role == events.RoleEditor || role == events.RoleOwner {
			send(viewer, r, x).refused(403, "forbidden")
		} else if strings.HasSuffix(r.path, "/compare") {
			send(viewer, r, x).refused(409, "comparison_not_ready") // for what it is, not for who asks
		} else if role == events.RoleViewer && r.method == "GET" && !strings.Contains(r.path, "{path}") && !strings.HasSuffix(r.path, "/events") {
			send(viewer, r, x).want(200)
		}
	}
	w.user.do("PUT", "/projects/"+x.project+"/members/"+string(editor.user), object{"role": "editor"}).want(200)
	for _, r := range w.api.routes {
		if r.access.role() == events.RoleOwner {
			send(editor, r, x).refused(403, "forbidden")
		}
	}
	if got := w.other.do("GET", "/projects/"+x.project, nil).want(200).object()["role"]; got != "editor" {
		t.Errorf("role is %v", got)
	}
	w.other.do("PATCH", "/findings/"+x.finding, object{"state": "confirmed"}).want(200)

	// What is deleted is gone for everybody, with all that was in it.
	w.user.do("DELETE", "/projects/"+x.project, nil).want(204)
	for _, r := range w.api.routes {
		if r.access.role() != "" {
			send(w.user, r, x).refused(404, "not_found")
			send(w.admin, r, x).refused(404, "not_found")
		}
	}
	for _, path := range []string{"/projects", "/scans", "/findings"} {
		if items := w.admin.do("GET", path, nil).want(200).items(); len(items) != 0 {
			t.Errorf("GET %s after the deletion: %v", path, items)
		}
	}
}

// TestNoRouteBesideTheTable fails when something is put on the router without going through the door.
func TestNoRouteBesideTheTable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	known := map[string]bool{"GET /": true, "GET /docs": true, "GET /openapi.json": true}
	for _, r := range w.api.routes {
		known[r.method+" "+strings.Replace(r.path, "{path}", "*", 1)] = true
	}
	must(t, chi.Walk(w.api.router, func(method, path string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if !known[method+" "+path] {
			t.Errorf("%s %s is not in the table", method, path)
		}
		return nil
	}))
}

// A registration that forgets the role of a thing does not survive New.
func TestRouteOfAThingNeedsARole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	for _, tc := range []struct {
		a       access
		pattern string
	}{{signedIn, "GET /scans/{scan_id}/x"}, {public, "GET /projects/{project_id}/x"}, {admin, "GET /ops/{repository_id}"}, {2, "GET /nothing"}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s with access %d was registered", tc.pattern, tc.a)
				}
			}()
			w.api.operation(tc.a, tc.pattern, "x", "x", nil)
		}()
	}
}

func TestListsShowOnlyOnesOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	x := w.things()
	k := &worker{w: w, id: events.ScanID(x.scan)}
	s, err := w.model.Scan(t.Context(), k.id)
	must(t, err)
	k.generation = s.Generation
	k.complete()
	for _, tc := range []struct {
		path string
		c    *client
		n    int
	}{
		{"/projects", w.user, 1}, {"/projects", w.other, 0}, {"/projects", w.admin, 1},
		{"/scans", w.user, 1}, {"/scans", w.other, 0}, {"/scans", w.admin, 1},
		{"/findings", w.user, 1}, {"/findings", w.other, 0}, {"/findings", w.admin, 1},
		{"/scans?repository_id=" + x.repository, w.other, 0}, {"/scans?project_id=" + x.project, w.other, 0},
		{"/scans?repository_id=" + x.repository, w.user, 1}, {"/scans?project_id=" + x.project, w.user, 1}, {"/scans?project_id=proj_test_else", w.user, 0},
		{"/scans?status=completed", w.user, 1}, {"/scans?status=failed,completed", w.user, 1}, {"/scans?status=queued,running", w.user, 0},
		{"/findings?severity=high", w.user, 1}, {"/findings?severity=low,medium", w.user, 0}, {"/findings?state=open", w.user, 1}, {"/findings?state=dismissed", w.user, 0},
		{"/repositories/" + x.repository + "/scans", w.user, 1}, {"/repositories/" + x.repository + "/scans?status=failed", w.user, 0},
		{"/repositories/" + x.repository + "/findings", w.user, 1}, {"/repositories/" + x.repository + "/snapshots", w.user, 1},
		{"/repositories/" + x.repository + "/events", w.user, 3}, {"/scans/" + x.scan + "/findings?severity=high", w.user, 1}, {"/scans/" + x.scan + "/findings?severity=info", w.user, 0},
		{"/projects/" + x.project + "/repositories", w.user, 1}, {"/projects/" + x.project + "/members", w.user, 1},
	} {
		if items := tc.c.do("GET", tc.path, nil).want(200).items(); len(items) != tc.n {
			t.Errorf("GET %s: %d items, want %d: %v", tc.path, len(items), tc.n, items)
		}
	}
}

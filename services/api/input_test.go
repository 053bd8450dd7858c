package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
)

// canary stands for a value that must not come back or get into the log.
const canary = "CANARY-5f1c"

func TestWrongInputIsNamedAndNotEchoed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	x := w.things()
	u := w.user
	scans, projects, repositories := "/repositories/"+x.repository+"/scans", "/projects", "/projects/"+x.project+"/repositories"
	profile, triage, members := "/repositories/"+x.repository+"/threat-profile", "/findings/"+x.finding, "/projects/"+x.project+"/members/"
	long := strings.Repeat("x", 2000)
	for _, tc := range []struct {
		name, method, path string
		body               any
		status             int
		code, field        string // field: as the details name it
	}{
		{"no body", "POST", projects, "", 400, "body_required", ""},
		{"not JSON", "POST", projects, "{" + canary, 400, "invalid_json", ""},
		{"two values", "POST", projects, `{"name":"a"} {"x":"` + canary + `"}`, 400, "invalid_json", ""},
		{"a list", "POST", projects, `["` + canary + `"]`, 422, "invalid_request", "body"},
		{"null", "POST", projects, `null`, 422, "invalid_request", "body"},
		{"field missing", "POST", projects, object{}, 422, "invalid_request", "body"},
		{"unknown field", "POST", projects, object{"name": "a", "colour": canary}, 422, "invalid_request", "colour"},
		{"wrong type", "POST", projects, object{"name": []string{canary}}, 422, "invalid_request", "name"},
		{"null name", "POST", projects, object{"name": nil}, 422, "invalid_request", "name"},
		{"number for text", "POST", projects, `{"name":12345678901234567890}`, 422, "invalid_request", "name"},
		{"empty name", "POST", projects, object{"name": ""}, 422, "invalid_request", "name"},
		{"blank name", "POST", projects, object{"name": " \t "}, 422, "invalid_request", "name"},
		{"long name", "POST", projects, object{"name": strings.Repeat("x", 201)}, 422, "invalid_request", "name"},
		{"very long name", "POST", projects, object{"name": long}, 422, "invalid_request", "name"},
		{"control character", "POST", projects, object{"name": canary + "\x1b[2J"}, 422, "invalid_request", "name"},
		{"long unknown field", "POST", projects, object{"name": "a", long: 1}, 422, "invalid_request", long[:64] + "..."},
		{"unprintable unknown field", "POST", projects, object{"name": "a", "\x1b[2J": 1}, 422, "invalid_request", "?[2J"},
		{"too large", "POST", projects, object{"name": strings.Repeat("x", 1<<20)}, 413, "body_too_large", ""},
		{"deep", "POST", projects, `{"name":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`, 400, "invalid_json", ""},
		{"bad source type", "POST", repositories, object{"name": "a", "source_type": canary}, 422, "invalid_request", "source_type"},
		{"git without URL", "POST", repositories, object{"name": "a", "source_type": "git"}, 422, "invalid_request", "git_url"},
		{"git URL with password", "POST", repositories, object{"name": "a", "source_type": "git", "git_url": "https://me:" + canary + "@example.com/x"}, 422, "invalid_request", "git_url"},
		{"git option", "POST", repositories, object{"name": "a", "source_type": "git", "git_url": "https://example.com/x", "git_ref": "--upload-pack=" + canary}, 422, "invalid_request", "git_ref"},
		{"git ext", "POST", repositories, object{"name": "a", "source_type": "git", "git_url": "ext::sh -c " + canary}, 422, "invalid_request", "git_url"},
		{"URL for upload", "POST", repositories, object{"name": "a", "source_type": "upload", "git_url": "https://example.com/x"}, 422, "invalid_request", "git_url"},
		{"absolute path", "POST", scans, object{"paths": []string{"a", "/" + canary}}, 422, "invalid_request", "paths[1]"},
		{"path outside", "POST", scans, object{"paths": []string{"../" + canary}}, 422, "invalid_request", "paths[0]"},
		{"path not clean", "POST", scans, object{"paths": []string{"a/../" + canary}}, 422, "invalid_request", "paths[0]"},
		{"path with NUL", "POST", scans, object{"paths": []string{canary + "\x00"}}, 422, "invalid_request", "paths[0]"},
		{"empty path", "POST", scans, object{"paths": []string{""}}, 422, "invalid_request", "paths[0]"},
		{"paths as text", "POST", scans, object{"paths": canary}, 422, "invalid_request", "paths"},
		{"too many paths", "POST", scans, object{"paths": make([]string, 1001)}, 422, "invalid_request", "paths"},
		{"bad priority", "POST", scans, object{"priority": canary}, 422, "invalid_request", "priority"},
		{"bad model", "POST", scans, object{"model": "gpt;" + canary}, 422, "invalid_request", "model"},
		{"model like a flag", "POST", scans, object{"model": "-c"}, 422, "invalid_request", "model"},
		{"model like a path", "POST", scans, object{"model": "../../x"}, 422, "invalid_request", "model"},
		{"budget of text", "POST", scans, object{"budget": canary}, 422, "invalid_request", "budget"},
		{"budget of something else", "POST", scans, object{"budget": object{"minutes": 3}}, 422, "invalid_request", "budget.minutes"},
		{"negative requests", "POST", scans, object{"budget": object{"requests": -1}}, 422, "invalid_request", "budget.requests"},
		{"half a token", "POST", scans, object{"budget": object{"tokens": 0.5}}, 422, "invalid_request", "budget.tokens"},
		{"tokens of text", "POST", scans, object{"budget": object{"tokens": canary}}, 422, "invalid_request", "budget.tokens"},
		{"negative cost", "POST", scans, object{"budget": object{"cost_usd": -0.5}}, 422, "invalid_request", "budget.cost_usd"},
		{"cost of text", "POST", scans, object{"budget": object{"cost_usd": "2.5" + canary}}, 422, "invalid_request", "budget.cost_usd"},
		{"ten decimals", "POST", scans, `{"budget":{"cost_usd":1.0000000001}}`, 422, "invalid_request", "budget.cost_usd"},
		{"ten decimals, shorter", "POST", scans, `{"budget":{"cost_usd":1e-10}}`, 422, "invalid_request", "budget.cost_usd"},
		{"hardly anything", "POST", scans, `{"budget":{"cost_usd":1e-300}}`, 422, "invalid_request", "budget.cost_usd"},
		{"more than there is", "POST", scans, object{"budget": object{"cost_usd": 1e7}}, 422, "invalid_request", "budget.cost_usd"},
		{"far too many requests", "POST", scans, `{"budget":{"requests":1e18}}`, 422, "invalid_request", "budget.requests"},
		{"base of nonsense", "GET", "/scans/" + x.scan + "/compare?base=" + canary, nil, 422, "invalid_request", "base"},
		{"base of nothing", "GET", "/scans/" + x.scan + "/compare?base=scan_test_none", nil, 422, "invalid_request", "base"},
		{"class of nothing", "GET", "/scans/" + x.scan + "/compare?class=new," + canary, nil, 422, "invalid_request", "class[1]"},
		{"cursor of a comparison", "GET", "/scans/" + x.scan + "/compare?cursor=" + canary, nil, 422, "invalid_request", "cursor"},
		{"unknown snapshot", "POST", scans, object{"snapshot_id": "sha256:" + canary}, 422, "invalid_request", "snapshot_id"},
		{"empty summary", "PUT", profile, object{"summary": ""}, 422, "invalid_request", "summary"},
		{"long asset", "PUT", profile, object{"summary": "s", "assets": []string{"a", strings.Repeat("x", 2001)}}, 422, "invalid_request", "assets[1]"},
		{"too many risks", "PUT", profile, object{"summary": "s", "risks": make([]string, 201)}, 422, "invalid_request", "risks"},
		{"bad triage state", "PATCH", triage, object{"state": canary}, 422, "invalid_request", "state"},
		{"dismissed without reason", "PATCH", triage, object{"state": "dismissed"}, 422, "invalid_request", "reason"},
		{"reason without dismissal", "PATCH", triage, object{"state": "confirmed", "reason": "false_positive"}, 422, "invalid_request", "reason"},
		{"long note", "PATCH", triage, object{"state": "confirmed", "note": strings.Repeat("x", 4001)}, 422, "invalid_request", "note"},
		{"bad role", "PUT", members + "user_x", object{"role": canary}, 422, "invalid_request", "role"},
		{"bad member", "PUT", members + "USER", object{"role": "viewer"}, 422, "invalid_request", "user_id"},
		{"last owner", "DELETE", members + string(u.user), nil, 409, "last_owner", ""},
		{"bad export form", "POST", "/scans/" + x.scan + "/exports", object{"format": canary}, 422, "invalid_request", "format"},
		{"unknown export field", "POST", "/scans/" + x.scan + "/exports", object{"format": "json", "x": canary}, 422, "invalid_request", "format"},
		{"bad export link", "GET", "/scans/" + x.scan + "/exports/" + canary, nil, 422, "invalid_request", "format"},
		{"limit 0", "GET", "/projects?limit=0", nil, 422, "invalid_request", "limit"},
		{"limit 1001", "GET", "/scans?limit=1001", nil, 422, "invalid_request", "limit"},
		{"limit of text", "GET", "/scans?limit=" + canary, nil, 422, "invalid_request", "limit"},
		{"limit of an event page", "GET", "/scans/" + x.scan + "/events?limit=" + canary, nil, 422, "invalid_request", "limit"},
		{"cursor of nothing", "GET", "/projects?cursor=" + canary, nil, 422, "invalid_request", "cursor"},
		{"cursor of findings", "GET", "/findings?cursor=" + canary, nil, 422, "invalid_request", "cursor"},
		{"cursor of a history", "GET", "/scans/" + x.scan + "/history?cursor=" + canary, nil, 422, "invalid_request", "cursor"},
		{"event id", "GET", "/scans/" + x.scan + "/events?after=" + canary, nil, 422, "invalid_request", "after"},
		{"bad status filter", "GET", "/scans?status=" + canary, nil, 422, "invalid_request", "status[0]"},
		{"bad severity filter", "GET", "/findings?severity=high," + canary, nil, 422, "invalid_request", "severity[1]"},
		{"at_least of text", "GET", "/projects?at_least=" + canary, nil, 422, "invalid_request", "at_least"},
		{"at before the scan", "GET", "/scans/" + x.scan + "?at=1", nil, 404, "not_found", ""},
		{"at of text", "GET", "/scans/" + x.scan + "?at=" + canary, nil, 422, "invalid_request", "at"},
		{"login without password", "POST", "/auth/login", object{"email": canary}, 422, "invalid_request", "body"},
		{"login with nonsense", "POST", "/auth/login", object{"email": canary, "password": canary}, 401, "invalid_credentials", ""},
		{"refresh with nonsense", "POST", "/auth/refresh", object{"refresh_token": canary}, 401, "unauthenticated", ""},
		{"no such path", "GET", "/" + canary, nil, 404, "not_found", ""},
		{"no such method", "PUT", "/projects", object{}, 405, "method_not_allowed", ""},
		{"empty archive", "POST", "/repositories/" + x.repository + "/source", []byte{}, 422, "archive_empty", ""},
		{"no archive", "POST", "/repositories/" + x.repository + "/source", []byte(canary), 422, "archive_unsupported", ""},
	} {
		a := u.do(tc.method, tc.path, tc.body)
		d := a.refused(tc.status, tc.code)
		if bytes.Contains(a.body, []byte(canary)) {
			t.Errorf("%s: the answer echoes the value: %s", tc.name, a.body)
		}
		if tc.field != "" {
			fields, _ := d["fields"].([]any)
			if len(fields) == 0 || fields[0].(object)["field"] != tc.field {
				t.Errorf("%s: details are %v, want field %s", tc.name, d, tc.field)
			}
		}
		problem := u.do(tc.method, tc.path, tc.body, "Accept", "application/problem+json")
		var p problemBody
		problem.into(&p)
		if problem.header.Get("Content-Type") != "application/problem+json" || p.Status != tc.status || p.Code != tc.code || p.Type != "urn:vega:error:"+tc.code || p.Detail == "" {
			t.Errorf("%s as a problem: %s %s", tc.name, problem.header.Get("Content-Type"), problem.body)
		}
	}
	if strings.Contains(w.logs.String(), canary) {
		t.Error("the log holds a value that was sent")
	}
	u.do("POST", projects, object{"name": "a"}, "Content-Type", "text/plain").refused(415, "unsupported_media_type")
	u.do("POST", projects, object{"name": "a"}, "Idempotency-Key", strings.Repeat("k", 256)).refused(422, "invalid_request")
	u.do("POST", projects, object{"name": "a"}, "Idempotency-Key", "ä").refused(422, "invalid_request")
	u.do("POST", projects, object{"name": "a"}, "Idempotency-Key", "").refused(422, "invalid_request")
}

// FuzzCreateBodies throws bodies at every route that takes JSON, in one process, and wants an answer in a known shape.
func FuzzCreateBodies(f *testing.F) {
	for i := range 8 {
		for _, s := range []string{``, `{}`, `null`, `{"name":"a"}`, `{"name":"a","source_type":"upload"}`, `{"paths":["a"],"priority":"high"}`, `{"state":"dismissed","reason":"false_positive"}`,
			`{"summary":"s","assets":["a"]}`, `{"role":"viewer"}`, `{"format":"sarif"}`, `{"email":"a","password":"b"}`, `{"name":"\ud800"}`, `[[[[`, "{\"name\":\"\xff\"}", `{"name":1e999}`} {
			f.Add(uint8(i), []byte(s), "application/json")
		}
	}
	w := newWorld(f, options{})
	x := w.things()
	routes := []struct{ method, path string }{
		{"POST", "/projects"}, {"POST", "/projects/" + x.project + "/repositories"}, {"POST", "/repositories/" + x.repository + "/scans"}, {"PATCH", "/findings/" + x.finding},
		{"PUT", "/repositories/" + x.repository + "/threat-profile"}, {"PUT", "/projects/" + x.project + "/members/user_x"}, {"POST", "/scans/" + x.scan + "/exports"}, {"POST", "/auth/login"},
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte, mediaType string) {
		route := routes[int(which)%len(routes)]
		r := httptest.NewRequestWithContext(context.Background(), route.method, "/v1"+route.path, bytes.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+w.user.token)
		r.Header["Content-Type"] = []string{mediaType}
		rec := httptest.NewRecorder()
		w.api.ServeHTTP(rec, r)
		switch {
		case rec.Code >= 500:
			t.Fatalf("%s %s with %q: %d %s", route.method, route.path, body, rec.Code, rec.Body)
		case rec.Code >= 400:
			var e errorBody
			if err := json.Unmarshal(rec.Body.Bytes(), &e); err != nil || e.Error.Code == "" || e.Schema != 1 {
				t.Fatalf("%s %s with %q: %d %s", route.method, route.path, body, rec.Code, rec.Body)
			}
		case !json.Valid(rec.Body.Bytes()):
			t.Fatalf("%s %s with %q: %d %s", route.method, route.path, body, rec.Code, rec.Body)
		}
	})
}

func TestAMethodThatIsNotTakenNamesThoseThatAre(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	if got := w.user.do("PUT", "/projects", object{}).want(405).header.Get("Allow"); got != "GET, POST" {
		t.Errorf("Allow = %q, want GET, POST", got)
	}
}

func TestAnEventIDBeyondTheLogIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	x := w.things()
	w.user.do("GET", "/scans/"+x.scan+"/events?after=999999-0", nil).refused(422, "invalid_request")
	w.user.do("GET", "/scans/"+x.scan+"/events", nil, "Accept", "text/event-stream", "Last-Event-ID", "999999-0").refused(422, "invalid_request")
}

package api

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vega/events/eventstore/natstest"
	"vega/services/auth"
)

// apiKey makes a key of the client and returns one that uses it.
func (c *client) apiKey(scopes ...string) (*client, string) {
	c.t.Helper()
	a := c.do("POST", "/api-keys", object{"name": "a key", "scopes": scopes, "expires_in_days": 7}).want(201)
	return &client{w: c.w, t: c.t, user: c.user, token: a.object()["key"].(string)}, a.id()
}

func TestAPIKeyIsShownOnceAndWorksUntilRevoked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	project := w.user.project()
	key, id := w.user.apiKey("scan", "read")
	if a := w.user.do("GET", "/api-keys", nil).want(200); strings.Contains(string(a.body), key.token) || len(a.items()) != 1 || a.items()[0]["id"] != id || a.items()[0]["status"] != "active" {
		t.Errorf("the list shows %s", a.body)
	}
	if got := w.user.do("GET", "/api-keys/"+id, nil).want(200); strings.Contains(string(got.body), `"key"`) || fmt.Sprint(got.object()["scopes"]) != "[read scan]" {
		t.Errorf("the key shows as %s", got.body)
	}
	if me := key.do("GET", "/auth/me", nil).want(200).object(); me["id"] != string(w.user.user) || me["api_key_id"] != id {
		t.Errorf("the key is %v", me)
	}
	byHeader := &client{w: w, t: t}
	byHeader.do("GET", "/projects/"+project, nil, "X-Api-Key", key.token).want(200)
	byHeader.do("GET", "/projects/"+project, nil, "X-Api-Key", "something").refused(401, "unauthenticated")

	// What the key does is its user's doing, and the history says by which key.
	scan := key.do("POST", "/repositories/"+key.ready(project)+"/scans", object{}).want(202).id()
	event := key.do("GET", "/scans/"+scan+"/history", nil).want(200).items()[0]
	if event["actor"] != "user:"+string(w.user.user) || !strings.HasPrefix(event["cause"].(string), id+"/") {
		t.Errorf("the scan was queued by %v because of %v", event["actor"], event["cause"])
	}

	w.other.do("DELETE", "/api-keys/"+id, nil).refused(404, "not_found")
	w.other.do("GET", "/api-keys/"+id+"/history", nil).refused(404, "not_found")
	w.user.do("DELETE", "/api-keys/"+id, nil, "If-Match", `"9"`).refused(412, "version_mismatch")
	w.user.do("DELETE", "/api-keys/"+id, nil).want(204)
	w.user.do("DELETE", "/api-keys/"+id, nil).want(204)
	key.do("GET", "/projects/"+project, nil).refused(401, "unauthenticated")
	if got := w.user.do("GET", "/api-keys/"+id, nil).want(200).object(); got["status"] != "revoked" || got["revoked_at"] == nil {
		t.Errorf("the revoked key shows as %v", got)
	}
	var kinds []string
	history := w.admin.do("GET", "/api-keys/"+id+"/history", nil).want(200)
	for _, e := range history.items() {
		kinds = append(kinds, e["type"].(string))
	}
	if fmt.Sprint(kinds) != "[api_key.created api_key.revoked]" || strings.Contains(string(history.body), "sha256:") {
		t.Errorf("its history is %s", history.body)
	}
	secret := key.token[strings.LastIndex(key.token, "_")+1:]
	if strings.Contains(w.logs.String(), secret) {
		t.Error("the key is in the log")
	}
}

func TestAPIKeyReachesItsScopesAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	project := w.user.project()
	repository := w.user.ready(project)
	read, _ := w.user.apiKey("read")
	triage, _ := w.user.apiKey("triage")
	scan, _ := w.user.apiKey("scan")
	all, _ := w.user.apiKey("admin")

	read.do("GET", "/projects", nil).want(200)
	for _, refused := range []answer{
		read.do("POST", "/projects", object{"name": "x"}), read.do("POST", "/repositories/"+repository+"/scans", object{}),
		triage.do("GET", "/projects", nil), scan.do("GET", "/projects", nil), scan.do("DELETE", "/projects/"+project, nil), scan.do("GET", "/api-keys", nil),
		read.do("GET", "/ops/queue", nil),
	} {
		if d := refused.refused(403, "scope_missing"); d["needs"] == "" || d["scopes"] == nil {
			t.Errorf("%s: details %v", refused.what, d)
		}
	}
	scan.do("POST", "/repositories/"+repository+"/scans", object{}).want(202)
	triage.do("GET", "/auth/me", nil).want(200)
	triage.do("PATCH", "/findings/find_test_none", object{"state": "confirmed"}).refused(404, "not_found")
	all.do("GET", "/projects", nil).want(200)
	all.do("PATCH", "/projects/"+project, object{"name": "y"}).want(200)
	all.do("GET", "/ops/queue", nil).refused(403, "forbidden") // its user is no admin
	all.do("POST", "/api-keys", object{"name": "child", "scopes": []string{"read"}}).refused(403, "api_key_used")
	w.other.do("GET", "/api-keys?all=true", nil).refused(403, "forbidden")

	operator, _ := w.admin.apiKey("admin")
	operator.do("GET", "/ops/queue", nil).want(200)
	if n := len(operator.do("GET", "/api-keys?all=true", nil).want(200).items()); n != 5 {
		t.Errorf("an admin sees %d keys, want 5", n)
	}
	viewer, _ := w.admin.apiKey("read")
	viewer.do("GET", "/projects/"+project, nil).refused(404, "not_found") // a key without admin is no admin's
}

func TestAPIKeyRequestsThatAreWrong(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	for _, body := range []object{
		{}, {"name": "x"}, {"name": "", "scopes": []string{"read"}}, {"name": "x", "scopes": []string{}}, {"name": "x", "scopes": []string{"write"}},
		{"name": "x\u0000", "scopes": []string{"read"}}, {"name": "x", "scopes": []string{"read"}, "expires_in_days": 0}, {"name": "x", "scopes": []string{"read"}, "expires_in_days": 367},
		{"name": "x", "scopes": []string{"read"}, "expires_in_days": -1}, {"name": "x", "scopes": "read"},
	} {
		w.user.do("POST", "/api-keys", body).refused(422, "invalid_request")
	}
	if n := len(w.user.do("GET", "/api-keys", nil).items()); n != 0 {
		t.Errorf("refused requests left %d keys", n)
	}
	first := w.user.do("POST", "/api-keys", object{"name": "x", "scopes": []string{"scan", "read", "read"}}, "Idempotency-Key", "one").want(201).object()
	again := w.user.do("POST", "/api-keys", object{"name": "x", "scopes": []string{"scan", "read", "read"}}, "Idempotency-Key", "one").want(201).object()
	if first["id"] != again["id"] || first["key"] == nil || again["key"] != nil {
		t.Errorf("the same request again answers %v, want the same key without its secret", again)
	}
	w.user.do("POST", "/api-keys", object{"name": "y", "scopes": []string{"read"}}, "Idempotency-Key", "one").refused(422, "idempotency_key_reused")
}

// Which scope each route asks of an API key is part of the interface: the golden file makes a change of it visible.
func TestScopesOfRoutes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	var got strings.Builder
	for _, r := range w.api.routes {
		if r.access == public {
			continue
		}
		scope := r.scope
		if scope == "" {
			scope = "-"
		}
		fmt.Fprintf(&got, "%-7s%-8s%s\n", scope, r.method, strings.TrimPrefix(r.path, "/v1"))
		if changes := r.method != http.MethodGet; changes && scope == "read" && !strings.HasSuffix(r.path, "/exports") && !strings.HasSuffix(r.path, "/downloads") {
			t.Errorf("%s %s changes something with a key to read", r.method, r.path)
		}
	}
	path := filepath.Join("testdata", "scopes.txt")
	if *update {
		must(t, os.MkdirAll("testdata", 0o755))
		must(t, os.WriteFile(path, []byte(got.String()), 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if got.String() != string(want) {
		t.Errorf("scopes are\n%s\nwant\n%s", got.String(), want)
	}
}

func TestAKeyIsNoAccessToken(t *testing.T) {
	t.Parallel()
	if auth.IsKey("eyJhbGciOiJIUzI1NiJ9.e30.x") {
		t.Error("a JWT counts as an API key")
	}
}

func TestRateLimits(t *testing.T) {
	t.Parallel()
	store := natstest.Open(t)
	limits := auth.RateLimits{UserPerMinute: 6, APIKeyPerMinute: 2}
	w := newWorld(t, options{store: store, change: func(d *Deps) {
		d.Limiter = auth.NewLimiter(auth.LimiterOptions{Limits: limits, NATS: store.Conn(), Region: natstest.Region})
	}})
	key, _ := w.user.apiKey("read") // the first of six
	for left := 1; left >= 0; left-- {
		a := key.do("GET", "/projects", nil).want(200)
		if got, want := a.header.Get("RateLimit-Remaining"), fmt.Sprint(left); got != want || a.header.Get("RateLimit-Limit") != "2" || !strings.Contains(a.header.Get("RateLimit-Policy"), "\"user\";q=6;w=60") {
			t.Errorf("headers %v, want %s of 2 left", a.header, want)
		}
	}
	a := key.do("GET", "/projects", nil)
	if d := a.refused(429, "rate_limited"); d["limit_name"] != "VEGA_RATE_LIMIT_API_KEY_PER_MINUTE" || d["limit"] != 2.0 || a.header.Get("Retry-After") == "" {
		t.Errorf("429 with %v and %v", d, a.header)
	}
	for range 3 { // what the key did counts for its user, what was refused does not
		w.user.do("GET", "/projects", nil).want(200)
	}
	if d := w.user.do("GET", "/projects", nil).refused(429, "rate_limited"); d["limit_name"] != "VEGA_RATE_LIMIT_USER_PER_MINUTE" {
		t.Errorf("429 with %v", d)
	}
	w.other.do("GET", "/projects", nil).want(200)
	w.user.do("GET", "/healthz", nil).want(200)
}

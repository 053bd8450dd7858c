package api

import (
	"context"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// The documentation works in a browser that can reach nothing but this machine, and asks nobody else for anything.
func TestDocsInABrowser(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{change: func(d *Deps) { d.Config.AppName = `<Vega> & "friends"` }})
	base := strings.TrimSuffix(w.url, "/v1")
	netlog := filepath.Join(t.TempDir(), "net.json")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--no-first-run", "--user-data-dir="+t.TempDir(), "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
		"--log-net-log="+netlog, "--virtual-time-budget=10000", "--dump-dom", base+"/docs").Output()
	if err != nil {
		t.Fatalf("chromium: %v", err)
	}
	dom := string(out)
	if !strings.Contains(dom, `data-ready="yes"`) || !strings.Contains(dom, "<title>&lt;Vega&gt; &amp; \"friends\"</title>") {
		t.Fatalf("the page was not drawn: %.2000s", dom)
	}
	for _, item := range w.api.api.OpenAPI().Paths {
		for _, op := range []string{opID(item.Get), opID(item.Put), opID(item.Post), opID(item.Delete), opID(item.Patch)} {
			if op != "" && !strings.Contains(dom, `id="`+op+`"`) {
				t.Errorf("%s is not on the page", op)
			}
		}
	}
	log, err := os.ReadFile(netlog)
	must(t, err)
	asked := map[string]bool{}
	for _, m := range regexp.MustCompile(`"url":("(?:https?|wss?):[^"]*")`).FindAllSubmatch(log, -1) {
		var s string
		must(t, json.Unmarshal(m[1], &s))
		u, err := url.Parse(s)
		must(t, err)
		asked[u.Path] = true
		if u.Hostname() != "127.0.0.1" && !strings.HasSuffix(u.Hostname(), "google.com") && !strings.HasSuffix(u.Hostname(), "googleapis.com") { // the browser's own
			t.Errorf("the page asked for %s", s)
		}
	}
	if !asked["/docs"] || !asked["/openapi.json"] {
		t.Errorf("the net log knows only of %v", asked)
	}
}

func opID(op *huma.Operation) string {
	if op == nil {
		return ""
	}
	return op.OperationID
}

func TestPagesNameNoOtherHost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	base := strings.TrimSuffix(w.url, "/v1")
	for _, path := range []string{"/", "/docs"} {
		a := w.user.do("GET", base+path, nil).want(200)
		if !strings.HasPrefix(a.header.Get("Content-Type"), "text/html") || !strings.Contains(a.header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("GET %s: %v", path, a.header)
		}
		if m := regexp.MustCompile(`(?:src|href)="(?:https?:)?//[^"]*"|https?://`).Find(a.body); m != nil {
			t.Errorf("GET %s names %s", path, m)
		}
	}
	var doc object
	w.user.do("GET", base+"/openapi.json", nil).want(200).into(&doc)
	if doc["openapi"] != "3.1.0" || doc["info"].(object)["title"] != "Vega" {
		t.Errorf("openapi: %v", doc["info"])
	}
	for _, path := range []string{"/healthz", "/readyz", "/v1/healthz", "/v1/readyz", "/metrics", "/v1/metrics"} {
		(&client{w: w, t: t}).do("GET", base+path, nil).want(200)
	}
}

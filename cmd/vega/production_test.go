package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"vega/services/auth/cognitotest"
	"vega/services/intake"
)

// The configuration page's production example: Postgres, S3, SQS and Cognito, in the environment called prod, every role a process on a machine of its own.
func TestTheProductionExampleDoesTheWholeJob(t *testing.T) {
	t.Parallel()
	pool := cognitotest.Start(t).Pool(t)
	admin := pool.User(t, "ann@example.com", "Password-of-ann-1", "admin")
	member := pool.User(t, "ben@example.com", "Password-of-ben-1")
	d := deploy(t, append(pool.Env(), "VEGA_ENVIRONMENT=prod", "VEGA_AUTH_PROVIDER=cognito", "VEGA_DATABASE_AUTO_MIGRATE=false")...)
	d.env = slices.Concat(d.queue(), d.env)

	// A role that cannot work says so at once; the operator then does what it says.
	out, errs, code := vega(t, t.TempDir(), d.env)
	if code == 0 || !strings.Contains(errs, "vega migrate up") {
		t.Errorf("the API without tables: exit %d\n%s%s", code, out, errs)
	}
	if out, errs, code = vega(t, t.TempDir(), d.env, "migrate", "status"); code != 0 || !strings.Contains(out, "pending") {
		t.Errorf("migrate status: exit %d\n%s%s", code, out, errs)
	}
	for range 2 {
		if out, errs, code = vega(t, t.TempDir(), d.env, "migrate", "up"); code != 0 || strings.Contains(out, "pending") || !strings.Contains(out, "applied") {
			t.Errorf("migrate up: exit %d\n%s%s", code, out, errs)
		}
	}
	if out, errs, code = vega(t, t.TempDir(), d.env, "doctor"); code != 0 || strings.Contains(out, "PROBLEM") {
		t.Errorf("doctor: exit %d\n%s%s", code, out, errs)
	}

	first, second := d.api(), d.api()
	workerEnv := []string{"VEGA_V16_CODEX_BIN=" + newestCodex(t), "VEGA_LLM_PROXY_BASE_URL=http://127.0.0.1:1", "VEGA_LLM_PROXY_AUTH_SECRET=a secret for tokens of the proxy", "VEGA_HEALTH_LISTEN_ADDR=127.0.0.1:0"}
	roles := []*process{d.role("worker", workerEnv...), d.role("worker", workerEnv...), d.role("maintenance"),
		d.role("llm-proxy", "VEGA_LLM_PROXY_LISTEN_ADDR=127.0.0.1:0", "VEGA_LLM_PROXY_AUTH_SECRET=a secret for tokens of the proxy", "VEGA_LLM_PROVIDER_BASE_URL=http://127.0.0.1:1/v1", "VEGA_LLM_PROVIDER_API_KEY=a-provider-key")}
	for _, p := range append(roles, first.process, second.process) {
		p.up()
	}

	// Signing in happens elsewhere, and the API says where.
	ctx := t.Context()
	nobody := newClient(first.base(), "")
	var refused *apiError
	if err := nobody.login(ctx, "ann@example.com", "Password-of-ann-1"); !errors.As(err, &refused) || refused.Code != "sign_in_elsewhere" || refused.Details["sign_in_url"] == "" {
		t.Errorf("login answers %v, want where to sign in", err)
	}
	tokens := pool.SignIn(t, "ben@example.com", "Password-of-ben-1")
	ben, elsewhere := newClient(first.base(), tokens.AccessToken), newClient(second.base(), tokens.IDToken)
	var me struct {
		ID, Subject string
		Admin       bool
	}
	if err := elsewhere.call(ctx, http.MethodGet, "/auth/me", "", nil, &me); err != nil || me.Admin || !strings.Contains(me.ID, member) {
		t.Errorf("ben is %+v, %v; want the pool's %s", me, err, member)
	}
	ann := newClient(second.base(), pool.SignIn(t, "ann@example.com", "Password-of-ann-1").AccessToken)
	if err := ann.call(ctx, http.MethodGet, "/auth/me", "", nil, &me); err != nil || !me.Admin || !strings.Contains(me.ID, admin) {
		t.Errorf("ann is %+v, %v; want an admin", me, err)
	}

	// The source goes straight to the bucket, in parts; the other process takes it in.
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	project, err := write(ctx, ben, http.MethodPost, "/projects", "", map[string]string{"name": "shop"})
	must(err)
	repo, err := write(ctx, elsewhere, http.MethodPost, "/projects/"+project.ID+"/repositories", "", map[string]string{"name": "shop", "source_type": "upload"})
	must(err)
	var archive bytes.Buffer
	_, err = intake.PackDir(ctx, tree(t, leaky()), &archive, intake.PackOptions{})
	must(err)
	var begun struct {
		ID string `json:"upload_id"`
	}
	uploads := "/repositories/" + repo.ID + "/source/uploads"
	must(ben.call(ctx, http.MethodPost, uploads, "", map[string]any{"bytes": archive.Len()}, &begun))
	var links struct {
		Items []struct {
			Method, URL string
			Headers     map[string]string
		}
	}
	must(ben.call(ctx, http.MethodPost, uploads+"/"+begun.ID+"/parts", "", map[string]any{"parts": []map[string]any{{"number": 1, "bytes": archive.Len()}}}, &links))
	request, err := http.NewRequestWithContext(ctx, links.Items[0].Method, links.Items[0].URL, bytes.NewReader(archive.Bytes()))
	must(err)
	for name, v := range links.Items[0].Headers {
		request.Header.Set(name, v)
	}
	answer, err := http.DefaultClient.Do(request)
	must(err)
	must(answer.Body.Close())
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("the part was answered %s", answer.Status)
	}
	must(elsewhere.call(ctx, http.MethodPost, uploads+"/"+begun.ID+"/complete", "", map[string]any{"bytes": archive.Len()}, nil))

	// A program scans with a key of ben's that may do nothing else.
	var key struct{ ID, Key string }
	must(ben.call(ctx, http.MethodPost, "/api-keys", "", map[string]any{"name": "CI", "scopes": []string{"read", "scan"}}, &key))
	ci := newClient(second.base(), key.Key)
	scan, err := write(ctx, ci, http.MethodPost, "/repositories/"+repo.ID+"/scans", "", map[string]any{})
	must(err)
	var v scanView
	until(t, 2*time.Minute, "the scan is completed", func() bool {
		must(ci.call(ctx, http.MethodGet, "/scans/"+scan.ID, "", nil, &v))
		return v.Status == "completed"
	})
	var findings struct {
		Items []struct{ ID, Severity string }
	}
	must(ci.call(ctx, http.MethodGet, "/scans/"+scan.ID+"/findings", "", nil, &findings))
	if len(findings.Items) == 0 || v.Coverage.State != "partial" {
		t.Errorf("%d findings, coverage %s; want what was planted, and partial without a model", len(findings.Items), v.Coverage.State)
	}
	if err := ci.call(ctx, http.MethodPatch, "/findings/"+findings.Items[0].ID, "", map[string]any{"state": "confirmed"}, nil); !errors.As(err, &refused) || refused.Code != "scope_missing" {
		t.Errorf("the key triages: %v", err)
	}
	must(ben.call(ctx, http.MethodPatch, "/findings/"+findings.Items[0].ID, "", map[string]any{"state": "confirmed"}, nil))

	// An export is fetched from its bucket, without a token.
	var link struct{ URL string }
	must(ci.call(ctx, http.MethodPost, "/scans/"+scan.ID+"/downloads", "", map[string]any{"export": "sarif"}, &link))
	resp, err := http.Get(link.URL)
	must(err)
	sarif, err := io.ReadAll(resp.Body)
	must(errors.Join(err, resp.Body.Close()))
	if resp.StatusCode != http.StatusOK || !json.Valid(sarif) || !strings.HasPrefix(link.URL, d.s3.URL) {
		t.Errorf("the export's link was answered %s: %.200s", resp.Status, sarif)
	}
	if keys, _ := d.s3.Objects(t, d.buckets[2]); len(keys) != 1 {
		t.Errorf("the exports bucket holds %v", keys)
	}
	if keys, unfinished := d.s3.Objects(t, d.buckets[0]); len(keys) != 2 || unfinished != 0 {
		t.Errorf("the source bucket holds %v and %d unfinished uploads", keys, unfinished)
	}

	for _, p := range append(roles, first.process, second.process) {
		if err := p.stop(); err != nil {
			t.Errorf("%s ended with %v", p.name, err)
		}
	}
	for _, p := range append(roles, first.process, second.process) {
		log, err := os.ReadFile(p.log.Name())
		must(err)
		for what, s := range map[string]string{"an access token": tokens.AccessToken, "an ID token": tokens.IDToken, "an API key": key.Key, "an address": "ben@example.com",
			"the database's password": passwordOf(d.database), "the provider's key": "a-provider-key", "the proxy's secret": "a secret for tokens of the proxy", "a signed link": link.URL} {
			if bytes.Contains(log, []byte(s)) {
				t.Errorf("%s is in the log of %s", what, p.name)
			}
		}
	}
}

// passwordOf is the password in a connection string.
func passwordOf(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	user, _, _ := strings.Cut(rest, "@")
	_, password, _ := strings.Cut(user, ":")
	if password == "" {
		panic(fmt.Sprintf("no password in %q", url))
	}
	return password
}

// What json read models know, Postgres knows after one start: the log has everything.
func TestSwitchingToPostgresIsOneStart(t *testing.T) {
	t.Parallel()
	d := deploy(t, "VEGA_DATA_DIR=data")
	json := slices.Concat([]string{"VEGA_PERSISTENCE_BACKEND=json"}, d.env)
	r := d.api(json...)
	c := d.client(r)
	var made []string
	for i := range 5 {
		w, err := write(t.Context(), c, http.MethodPost, "/projects", "", map[string]string{"name": fmt.Sprint("p", i)})
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, w.ID)
	}
	before := listing(t, c)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	after := d.api()
	c = d.client(after)
	if got := listing(t, c); got != before || !strings.Contains(got, made[0]) {
		t.Errorf("with Postgres the list is\n%s\nwant\n%s", got, before)
	}
	d.sameAsRebuilt(c)
}

// listing is a list's answer, byte for byte.
func listing(t *testing.T, c *client) string {
	t.Helper()
	resp, err := c.send(context.WithoutCancel(t.Context()), http.MethodGet, "/projects", "", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The same without VEGA_NATS_URL, as the page has it: the log is the API process's own, and a worker on its machine finds it.
func TestTheProductionExampleWithTheEmbeddedLog(t *testing.T) {
	t.Parallel()
	pool := cognitotest.Start(t).Pool(t)
	pool.User(t, "ann@example.com", "Password-of-ann-1")
	d := deploy(t, append(pool.Env(), "VEGA_ENVIRONMENT=prod", "VEGA_AUTH_PROVIDER=cognito")...)
	d.env = slices.Concat([]string{"VEGA_NATS_URL=", "VEGA_NATS_REPLICAS=1"}, d.queue(), d.env)
	r := d.api()
	w := newProcess(t, "worker", r.dir, slices.Concat([]string{"VEGA_SERVICE_ROLE=worker", "VEGA_V16_CODEX_BIN=" + newestCodex(t), "VEGA_LLM_PROXY_BASE_URL=http://127.0.0.1:1", "VEGA_LLM_PROXY_AUTH_SECRET=a secret for tokens of the proxy"}, d.env))
	w.start()
	r.up()
	w.up()
	c := newClient(r.base(), pool.SignIn(t, "ann@example.com", "Password-of-ann-1").AccessToken)
	scan, err := write(t.Context(), c, http.MethodPost, "/repositories/"+d.repository(c)+"/scans", "", map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	until(t, 2*time.Minute, "the scan is completed", func() bool {
		var v scanView
		return c.call(t.Context(), http.MethodGet, "/scans/"+scan.ID, "", nil, &v) == nil && v.Status == "completed"
	})
	for _, p := range []*process{w, r.process} {
		if err := p.stop(); err != nil {
			t.Errorf("%s ended with %v", p.name, err)
		}
	}
}

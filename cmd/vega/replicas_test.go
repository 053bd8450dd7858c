package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"
)

// The read model lives in Postgres, and any of the processes that keep it true may die at any moment, Postgres included: nothing is lost, nothing comes
// twice, and a read that asks for a write has it.
func TestKillingWhatKeepsTheReadModel(t *testing.T) {
	t.Parallel()
	kills := 5
	if long {
		kills = 50
	}
	d := deploy(t)
	d.api()
	d.api()
	clients := []*client{d.client(d.apis[0]), d.client(d.apis[1])}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	l := &writes{made: make(chan string, 1_000_000)}
	var working sync.WaitGroup
	for range 4 {
		working.Go(func() { d.run(ctx, l, clients) })
	}
	written := func(more int64) {
		t.Helper()
		goal := l.done.Load() + more
		until(t, 2*time.Minute, fmt.Sprintf("%d more writes", more), func() bool { return l.done.Load() >= goal })
	}
	chance := rand.New(rand.NewPCG(1, 2))
	var takeovers []time.Duration
	for i := range kills {
		written(20)
		victim := []string{"projector", "postgres", "any API process"}[i%3]
		switch victim {
		case "postgres":
			d.postgres.Kill(t)
			written(3) // the log is the truth: writes go on
			d.postgres.Restart(t)
		case "projector":
			var first *replica
			until(t, time.Minute, "a process projects", func() bool { first = d.leader(); return first != nil })
			first.kill()
			begun := time.Now()
			until(t, time.Minute, "the other process projects", func() bool { next := d.leader(); return next != nil && next != first })
			takeovers = append(takeovers, time.Since(begun))
			written(20)
			first.start()
			first.up()
		default:
			r := d.apis[chance.IntN(2)]
			r.kill()
			written(5)
			r.start()
			r.up()
		}
	}
	written(20)
	stop()
	working.Wait()
	close(l.made)
	if l.wrong.Load() > 0 {
		t.Errorf("%d of %d reads with at_least lacked the write they asked for", l.wrong.Load(), l.reads.Load())
	}
	for i, r := range d.apis {
		until(t, time.Minute, r.name+" has everything", func() bool {
			lag, ok := metric(t.Context(), r, "vega_read_model_lag_events")
			return ok && lag == 0
		})
		seen := d.everything(d.client(r))
		for id, n := range seen {
			if n != 1 {
				t.Errorf("%s lists %s %d times", r.name, id, n)
			}
		}
		if i == 0 {
			for id := range l.made {
				if seen[id] != 1 {
					t.Errorf("%s was accepted and is not listed", id)
				}
			}
		}
	}
	d.sameAsRebuilt(d.client(d.apis[0]))
	t.Logf("%d kills; %d writes, %d reads with at_least; takeovers of the projection %v; longest wait for a write %s",
		kills, l.done.Load(), l.reads.Load(), takeovers, time.Duration(l.slow.Load()))
}

// While Postgres is away writes are taken, single things are shown, and lists say when to come back; afterwards nothing is missing.
func TestPostgresAwayUnderLoad(t *testing.T) {
	t.Parallel()
	outage := 5 * time.Second
	if long {
		outage = time.Minute
	}
	d := deploy(t)
	r := d.api()
	c := d.client(r)
	repo := d.repository(c)
	scan, err := write(t.Context(), c, http.MethodPost, "/repositories/"+repo+"/scans", "", map[string]any{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	l := &writes{blind: true, made: make(chan string, 1_000_000)}
	var working sync.WaitGroup
	for range 4 {
		working.Go(func() { d.run(ctx, l, []*client{c}) })
	}
	until(t, time.Minute, "20 writes", func() bool { return l.done.Load() >= 20 })

	d.postgres.Kill(t)
	gone, before := time.Now(), l.done.Load()
	var refused *apiError
	until(t, time.Minute, "a list says that it is not there", func() bool {
		return errors.As(c.call(ctx, http.MethodGet, "/scans", "", nil, nil), &refused)
	})
	if refused.Status != http.StatusServiceUnavailable || refused.Code != "read_model_unavailable" || refused.RetryAfter == 0 {
		t.Errorf("the list answered %+v, want 503 read_model_unavailable with Retry-After", refused)
	}
	if err := c.call(ctx, http.MethodGet, "/scans/"+scan.ID, "", nil, nil); err != nil {
		t.Errorf("a scan is not shown: %v", err)
	}
	second, err := write(ctx, c, http.MethodPost, "/repositories/"+repo+"/scans", "", map[string]any{})
	if err != nil {
		t.Errorf("a scan is not taken: %v", err)
	}
	until(t, time.Minute, "the lag is visible", func() bool {
		lag, ok := metric(t.Context(), r, "vega_read_model_lag_events")
		up, told := metric(t.Context(), r, "vega_read_model_up")
		return ok && told && lag > 0 && up == 0
	})
	var notReady *apiError
	if err := newClient(r.base(), "").call(ctx, http.MethodGet, "/readyz", "", nil, nil); !errors.As(err, &notReady) || notReady.Status != http.StatusServiceUnavailable {
		t.Errorf("readyz says %v", err)
	}
	_ = pause(ctx, outage-time.Since(gone))
	during := l.done.Load() - before
	if during == 0 {
		t.Error("no write was taken during the outage")
	}
	d.postgres.Restart(t)
	stop()
	working.Wait()
	close(l.made)
	until(t, time.Minute, "the lag is gone", func() bool {
		lag, ok := metric(t.Context(), r, "vega_read_model_lag_events")
		return ok && lag == 0
	})
	seen := d.everything(c)
	for id := range l.made {
		if seen[id] != 1 {
			t.Errorf("%s was accepted and is listed %d times", id, seen[id])
		}
	}
	if err := c.call(t.Context(), http.MethodGet, "/scans/"+second.ID, "", nil, nil); err != nil {
		t.Error(err)
	}
	d.sameAsRebuilt(c)
	t.Logf("Postgres away for %s: %d writes taken meanwhile, longest wait for one %s", time.Since(gone), during, time.Duration(l.slow.Load()))
}

// An API that is started in the middle of an outage is alive and says that it is not ready, instead of being silent until somebody ends it.
func TestAnAPIStartedWhilePostgresIsAwayIsAlive(t *testing.T) {
	t.Parallel()
	d := deploy(t)
	d.postgres.Kill(t)
	r := d.api()
	alive := newClient(r.base(), "")
	until(t, time.Minute, "it answers for its health", func() bool { return alive.call(t.Context(), http.MethodGet, "/healthz", "", nil, nil) == nil })
	for _, path := range []string{"/readyz", "/projects"} {
		var refused *apiError
		if err := alive.call(t.Context(), http.MethodGet, path, "", nil, nil); !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable || refused.RetryAfter == 0 {
			t.Errorf("GET %s: %v, want 503 with Retry-After", path, err)
		}
	}
	if out, errs, code := vega(t, t.TempDir(), r.env, "healthcheck"); code != 0 {
		t.Errorf("healthcheck: exit %d\n%s%s", code, out, errs)
	}
	if _, _, code := vega(t, t.TempDir(), r.env, "healthcheck", "--ready"); code != exitUnhealthy {
		t.Errorf("healthcheck --ready: exit %d, want %d", code, exitUnhealthy)
	}
	d.postgres.Restart(t)
	r.up()
	if _, err := write(t.Context(), d.client(r), http.MethodPost, "/projects", "", map[string]string{"name": "p"}); err != nil {
		t.Error(err)
	}
	if err := r.stop(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}

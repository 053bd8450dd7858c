package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vega/services/intake"
)

// TestKillingTheServerLosesNothing runs scans while the server is killed again and again. Afterwards the log is the witness.
func TestKillingTheServerLosesNothing(t *testing.T) {
	t.Parallel()
	kills, scans := 20, 30
	if long {
		kills, scans = 100, 150
	}
	killTheServer(t, kills, scans)
}

// accepted are the scans that a server answered 202 for.
type accepted struct {
	mu  sync.Mutex
	ids []string
}

func killTheServer(t *testing.T, kills, scans int) {
	const limit = 4
	home := t.TempDir()
	data := filepath.Join(home, "data")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))

	src := tree(t, leaky())
	for i := range 100 { // work enough that a kill finds a scan running
		if err := os.WriteFile(filepath.Join(src, fmt.Sprintf("file%d.go", i)), bytes.Repeat([]byte("package main // nothing to see\n"), 400), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var archive bytes.Buffer
	if _, err := intake.PackDir(t.Context(), src, &archive, intake.PackOptions{}); err != nil {
		t.Fatal(err)
	}

	s := serveIn(t, home)
	var project, repo struct{ ID string }
	s.do(t, http.MethodPost, "/projects", map[string]string{"name": "p"}, &project)
	s.do(t, http.MethodPost, "/projects/"+project.ID+"/repositories", map[string]string{"name": "r", "source_type": "upload"}, &repo)
	s.do(t, http.MethodPost, "/repositories/"+repo.ID+"/source", archive.Bytes(), &struct{}{})

	var got accepted
	var server atomic.Pointer[running]
	server.Store(s)
	ctx, stop := context.WithTimeout(t.Context(), 7*time.Minute) // ends only what hangs
	defer stop()
	// The client asks for scans as fast as it is let, with keys of its own, and asks again when the server was away.
	var client sync.WaitGroup
	done := make(chan struct{})
	client.Go(func() {
		defer close(done)
		for i := range scans {
			for ctx.Err() == nil {
				var v struct{ ID string }
				now := server.Load()
				err := newClient(now.base, now.token).call(ctx, http.MethodPost, "/repositories/"+repo.ID+"/scans", fmt.Sprintf("key-%d", i), map[string]any{}, &v)
				if err == nil {
					got.mu.Lock()
					got.ids = append(got.ids, v.ID)
					got.mu.Unlock()
					break
				}
				select {
				case <-time.After(20 * time.Millisecond): // the server is away, or the limit is reached: the client's own pace
				case <-ctx.Done():
				}
			}
		}
	})
	for range kills {
		select {
		case <-time.After(time.Duration(50+chance.IntN(400)) * time.Millisecond): // the moment of the kill is what is random here
		case <-done:
		}
		now := server.Load()
		_ = now.cmd.Process.Kill()
		_ = now.cmd.Wait()
		server.Store(serveIn(t, home))
	}
	client.Wait()
	s = server.Load()
	for _, id := range got.ids {
		c := newClient(s.base, s.token)
		if _, err := c.follow(t.Context(), id, func(liveEvent) {}); err != nil {
			t.Fatalf("follow %s: %v", id, err)
		}
	}
	s.stop(t)
	if len(got.ids) != scans {
		t.Fatalf("%d scans accepted, want %d", len(got.ids), scans)
	}
	witness(t, data, got.ids, limit)
}

// witness reads the stopped server's log and folder.
func witness(t *testing.T, data string, ids []string, limit int) {
	testimony(t, reopened(t, data), filepath.Join(data, "readmodels"), ids, limit)
	noLeftovers(t, data)
}

// noLeftovers looks for working files after everything has ended.
func noLeftovers(t *testing.T, data string) {
	for _, dir := range []string{"spool", "v16"} {
		if left, err := filepath.Glob(filepath.Join(data, dir, "*-*")); err != nil || len(left) > 0 {
			t.Errorf("%s holds %v, %v", dir, left, err)
		}
	}
	err := filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && (strings.HasSuffix(path, ".tmp") || strings.Contains(path, "/.tmp/")) {
			t.Errorf("left behind: %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestAScanThatWasKilledSaysSo kills the server in the middle of a scan and looks at what the log says about its stages.
func TestAScanThatWasKilledSaysSo(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	src := tree(t, nil)
	for i := range 2000 {
		if err := os.WriteFile(filepath.Join(src, fmt.Sprintf("file%d.go", i)), bytes.Repeat([]byte("package main // nothing to see\n"), 400), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var archive bytes.Buffer
	if _, err := intake.PackDir(t.Context(), src, &archive, intake.PackOptions{}); err != nil {
		t.Fatal(err)
	}
	s := serveIn(t, home)
	var project, repo, sc struct{ ID string }
	s.do(t, http.MethodPost, "/projects", map[string]string{"name": "p"}, &project)
	s.do(t, http.MethodPost, "/projects/"+project.ID+"/repositories", map[string]string{"name": "r", "source_type": "upload"}, &repo)
	s.do(t, http.MethodPost, "/repositories/"+repo.ID+"/source", archive.Bytes(), &struct{}{})
	s.do(t, http.MethodPost, "/repositories/"+repo.ID+"/scans", map[string]any{}, &sc)
	var killed sync.Once
	_, err := newClient(s.base, s.token).follow(t.Context(), sc.ID, func(e liveEvent) {
		if e.Kind == "scan_started" {
			killed.Do(func() { _ = s.cmd.Process.Kill(); _ = s.cmd.Wait() })
		}
	})
	if err == nil {
		t.Fatal("the stream of a killed server ended as if the scan had")
	}
	s = serveIn(t, home)
	if _, err := newClient(s.base, s.token).follow(t.Context(), sc.ID, func(liveEvent) {}); err != nil {
		t.Fatal(err)
	}
	var history struct {
		Items []struct {
			Type  string
			Actor string
			Data  json.RawMessage
		}
	}
	s.do(t, http.MethodGet, "/scans/"+sc.ID+"/history?limit=1000", nil, &history)
	stages, kinds := map[string]int{}, []string{}
	for _, h := range history.Items {
		kinds = append(kinds, h.Type)
		if h.Type == "scan.stage_completed" {
			var d struct{ Stage string }
			if err := json.Unmarshal(h.Data, &d); err != nil {
				t.Fatal(err)
			}
			stages[d.Stage]++
		}
	}
	all := strings.Join(kinds, " ")
	if !strings.Contains(all, "scan.started") || !strings.Contains(all, "scan.expired") || !strings.HasSuffix(all, "scan.completed") {
		t.Errorf("history %s, want started, expired and completed in it", all)
	}
	for name, n := range stages {
		if n != 1 {
			t.Errorf("stage %s is recorded %d times", name, n)
		}
	}
}

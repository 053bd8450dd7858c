package api

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

type healthBody struct {
	Status  string `json:"status" enum:"ok"`
	Version string `json:"version"`
	Region  string `json:"region"`
}

// getHealth says that the process answers; whether its parts do is readyz's business.
func (s *Server) getHealth(context.Context, *nothing) (*plain[healthBody], error) {
	return &plain[healthBody]{Body: healthBody{"ok", s.Version, string(s.region)}}, nil
}

type readyBody struct {
	Status string   `json:"status" enum:"ready"`
	Checks []string `json:"checks" doc:"The parts that were asked and work"`
}

func (s *Server) getReady(ctx context.Context, _ *nothing) (*plain[readyBody], error) {
	out, err := ready(ctx, append([]Check{{"nats", s.checkLog}, {"read_model", s.checkModel}}, s.Checks...))
	if err != nil {
		return nil, err
	}
	return &plain[readyBody]{Body: out}, nil
}

// ready asks every part at once and names those that fail.
func ready(ctx context.Context, checks []Check) (readyBody, error) {
	problems := make([]string, len(checks))
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	var asking sync.WaitGroup
	for i, c := range checks {
		asking.Go(func() {
			if err := c.Run(ctx); err != nil {
				problems[i] = err.Error()
			}
		})
	}
	asking.Wait()
	out := readyBody{Status: "ready"}
	var failing []string
	details := map[string]any{}
	for i, c := range checks {
		out.Checks = append(out.Checks, c.Name)
		if problems[i] != "" {
			failing = append(failing, c.Name)
			details[c.Name] = problems[i]
		}
	}
	if len(failing) > 0 {
		return out, &failure{status: http.StatusServiceUnavailable, code: "not_ready", message: "not ready: " + strings.Join(failing, ", "), retryable: true, retryAfter: time.Second,
			details: map[string]any{"failing": failing, "problems": details}, cause: fmt.Errorf("%v", details)}
	}
	return out, nil
}

// Health is what a process without an API answers with about itself: healthz, readyz and metrics, at the root.
type Health struct {
	Version string
	Region  string
	Checks  []Check
	Metrics *prometheus.Registry
}

// ServeHTTP answers one request. It may be called concurrently.
func (h Health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(status int, body any) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body) // a client that is gone reads nothing
	}
	refuse := func(err error) {
		f := explain(err)
		maps.Copy(w.Header(), f.GetHeaders())
		body, _ := f.body("")
		answer(f.status, body)
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET")
		refuse(fail(http.StatusMethodNotAllowed, "method_not_allowed", "this path does not take that method"))
		return
	}
	switch r.URL.Path {
	case "/healthz":
		answer(http.StatusOK, healthBody{"ok", h.Version, h.Region})
	case "/readyz":
		out, err := ready(r.Context(), h.Checks)
		if err != nil {
			refuse(err)
			return
		}
		answer(http.StatusOK, out)
	case "/metrics":
		promhttp.HandlerFor(h.Metrics, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	default:
		refuse(errNotFound)
	}
}

// Starting answers for an API that waits for a part it stands on: it is alive, and nothing else can be asked of it yet.
type Starting struct {
	Version string
	Region  string
	Prefix  string // of the API
}

// ServeHTTP answers one request. It may be called concurrently.
func (s Starting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if path := strings.TrimPrefix(r.URL.Path, s.Prefix); path == "/healthz" {
		r = r.Clone(r.Context())
		r.URL.Path = path
		Health{Version: s.Version, Region: s.Region}.ServeHTTP(w, r)
		return
	}
	f := &failure{status: http.StatusServiceUnavailable, code: "starting", message: "the server waits for a part that it stands on; nothing was lost", retryable: true, retryAfter: 2 * time.Second}
	maps.Copy(w.Header(), f.GetHeaders())
	body, mediaType := f.body(r.Header.Get("Accept"))
	w.Header().Set("Content-Type", mediaType)
	w.WriteHeader(f.status)
	_ = json.NewEncoder(w).Encode(body) // a client that is gone reads nothing
}

// readyTime bounds readyz.
const readyTime = 2 * time.Second

func (s *Server) checkLog(ctx context.Context) error {
	_, err := s.Store.Info(ctx)
	return err
}

// checkModel says whether the read model reaches what the log had a moment ago.
func (s *Server) checkModel(ctx context.Context) error {
	info, err := s.Store.Info(ctx)
	if err != nil {
		return nil //nolint:nilerr // the log's own check says it
	}
	wait, cancel := context.WithTimeout(ctx, readyTime/2)
	defer cancel()
	if s.Runner.WaitFor(wait, info.Last) != nil {
		return fmt.Errorf("it stands at event %d and the log at %d", s.Runner.At(), max(info.Last, s.Runner.At()))
	}
	return nil
}

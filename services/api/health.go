package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
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

// getReady asks every part at once and names those that fail.
func (s *Server) getReady(ctx context.Context, _ *nothing) (*plain[readyBody], error) {
	checks := append([]Check{{"nats", s.checkLog}, {"read_model", s.checkModel}}, s.Checks...)
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
		return nil, &failure{status: http.StatusServiceUnavailable, code: "not_ready", message: "not ready: " + strings.Join(failing, ", "), retryable: true, retryAfter: time.Second,
			details: map[string]any{"failing": failing, "problems": details}, cause: fmt.Errorf("%v", details)}
	}
	return &plain[readyBody]{Body: out}, nil
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

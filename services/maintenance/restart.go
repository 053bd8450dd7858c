package maintenance

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"vega/events/eventstore"
	"vega/projections"
	"vega/services/catalog"
	"vega/services/llmproxy"
	"vega/services/scan"
)

// GiveBackScans gives back every scan that has an owner. Only a process that knows all earlier owners to be dead may call it, before its own worker starts. The
// model must have seen the whole log: candidates come from there, decisions from the log. A crash in the middle leaves the rest for the next start.
func GiveBackScans(ctx context.Context, store *eventstore.Store, model projections.Reader, log *slog.Logger) error {
	m := New(Parts{Store: store, Log: log}, Options{})
	open, err := model.Unfinished(ctx)
	if err != nil {
		return fmt.Errorf("recover scans: %w", err)
	}
	for _, s := range open {
		if s.Status == scan.Queued {
			continue
		}
		if err := m.expire(ctx, verdict{scan: s.ID, generation: s.Generation, worker: s.Worker, reason: Restarted}, ""); err != nil {
			return fmt.Errorf("recover scans: %w", err)
		}
	}
	return nil
}

// EndCalls charges what a scan's calls to the provider had set aside, for every scan that is not over: what they cost is not known, and until they have ended nothing else can be spent of it.
// Only a process that knows that no proxy is alive may call it, before it answers calls itself; for the rest see GiveBackScans.
func EndCalls(ctx context.Context, store *eventstore.Store, model projections.Reader, log *slog.Logger) error {
	open, err := model.Unfinished(ctx)
	if err != nil {
		return fmt.Errorf("recover calls: %w", err)
	}
	for _, s := range open {
		n, err := llmproxy.ChargeLeft(ctx, store, s.ID, time.Now())
		if err != nil {
			return fmt.Errorf("recover calls: %w", err)
		}
		if n > 0 {
			log.Info("calls of the process before charged as reserved", "scan_id", s.ID, "calls", n)
		}
	}
	return nil
}

// EndIngestions ends every ingestion that was going on. Only a process that knows that nobody else takes uploads in may call it, before it does itself; for
// the rest see GiveBackScans.
func EndIngestions(ctx context.Context, store *eventstore.Store, model projections.Reader, log *slog.Logger) error {
	m := New(Parts{Store: store, Log: log}, Options{})
	for repo, err := range repositories(ctx, model) {
		if err != nil {
			return fmt.Errorf("recover ingestions: %w", err)
		}
		if repo.Status != catalog.Ingesting {
			continue
		}
		ended, err := endIngestion(ctx, store, repo.ID, repo.Upload, "the server stopped while the source was coming in; send it again", m.meta("", "restart"))
		if err != nil {
			return fmt.Errorf("recover ingestions: %w", err)
		}
		if ended {
			log.Info("ingestion ended", "repository_id", repo.ID, "upload_id", repo.Upload)
		}
	}
	return nil
}

// repositories walks all projects' repositories.
func repositories(ctx context.Context, model projections.Reader) iter.Seq2[projections.Repository, error] {
	return func(yield func(projections.Repository, error) bool) {
		for p := (projections.Page{Limit: projections.MaxLimit}); ; {
			projects, next, err := model.Projects(ctx, projections.ProjectFilter{}, p)
			if err != nil {
				yield(projections.Repository{}, err)
				return
			}
			for _, project := range projects {
				for q := (projections.Page{Limit: projections.MaxLimit}); ; {
					repos, more, err := model.Repositories(ctx, project.ID, q)
					if err != nil {
						yield(projections.Repository{}, err)
						return
					}
					for _, r := range repos {
						if !yield(r, nil) {
							return
						}
					}
					if q.After = more; more == "" {
						break
					}
				}
			}
			if p.After = next; next == "" {
				return
			}
		}
	}
}

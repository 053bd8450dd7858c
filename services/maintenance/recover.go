package maintenance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/projections"
	"vega/services/catalog"
	"vega/services/scan"
)

// Recoverer finds and gives back what was left behind. Its candidates come from the read model, its decisions from the log.
type Recoverer struct {
	store *eventstore.Store
	model projections.Reader
	stale time.Duration
	log   *slog.Logger
}

// New returns a Recoverer; a scan that runs longer than stale is recovered whatever its worker says.
func New(store *eventstore.Store, model projections.Reader, stale time.Duration, log *slog.Logger) *Recoverer {
	return &Recoverer{store, model, stale, log}
}

// Restarted gives back every scan that has an owner and ends every ingestion that was going on. Only a process that knows all
// earlier owners to be dead may call it, before its own worker starts. The model must have seen the whole log. A crash in the middle leaves the rest
// for the next start.
func (m *Recoverer) Restarted(ctx context.Context) error {
	open, err := m.model.Unfinished(ctx)
	if err != nil {
		return fmt.Errorf("recover scans: %w", err)
	}
	for _, s := range open {
		if s.Status == scan.Queued {
			continue
		}
		if err := m.expire(ctx, s.ID, s.Generation, "restarted"); err != nil {
			return fmt.Errorf("recover scans: %w", err)
		}
	}
	return m.endIngestions(ctx)
}

// endIngestions ends what no process works on any more, so their users see why and may try again.
func (m *Recoverer) endIngestions(ctx context.Context) error {
	for repo, err := range m.repositories(ctx) {
		if err != nil {
			return fmt.Errorf("recover ingestions: %w", err)
		}
		if repo.Status != catalog.Ingesting {
			continue
		}
		agg := events.RepositoryOf(m.store.Region(), repo.ID)
		meta := m.meta(events.CommandIDFor("ingest-lost", string(repo.ID), repo.Upload), "restart")
		_, _, err := eventstore.Do(ctx, m.store, agg, meta, func(r catalog.Repository, _ events.Head) ([]events.Event, error) {
			return r.FailIngest(events.IngestFailed{Upload: repo.Upload, Code: "upload_interrupted", Message: "the server stopped while the source was coming in; send it again"})
		})
		if err != nil {
			return fmt.Errorf("recover ingestion of %s: %w", repo.ID, err)
		}
		m.log.Info("ingestion ended", "repository_id", repo.ID)
	}
	return nil
}

// repositories walks all projects' repositories.
func (m *Recoverer) repositories(ctx context.Context) func(func(projections.Repository, error) bool) {
	return func(yield func(projections.Repository, error) bool) {
		for p := (projections.Page{Limit: projections.MaxLimit}); ; {
			projects, next, err := m.model.Projects(ctx, projections.ProjectFilter{}, p)
			if err != nil {
				yield(projections.Repository{}, err)
				return
			}
			for _, project := range projects {
				for q := (projections.Page{Limit: projections.MaxLimit}); ; {
					repos, more, err := m.model.Repositories(ctx, project.ID, q)
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

// sweepEvery is how often Run looks for stale scans.
const sweepEvery = time.Minute

// Run sweeps until ctx ends. A sweep that fails is logged; the next one tries again.
func (m *Recoverer) Run(ctx context.Context) error {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		if err := m.Sweep(ctx, time.Now()); err != nil && ctx.Err() == nil {
			m.log.Warn("sweep failed", "err", err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Sweep gives back the scans that have been running longer than allowed at a moment.
func (m *Recoverer) Sweep(ctx context.Context, now time.Time) error {
	open, err := m.model.Unfinished(ctx)
	if err != nil {
		return err
	}
	var failed error
	for _, s := range open {
		if s.Status == scan.Queued || now.Sub(s.ClaimedAt) < m.stale {
			continue
		}
		failed = errors.Join(failed, m.expire(ctx, s.ID, s.Generation, "running_stale"))
	}
	return failed
}

func (m *Recoverer) expire(ctx context.Context, id events.ScanID, generation events.Seq, reason string) error {
	meta := m.meta(events.CommandIDFor("expire", string(id), strconv.FormatUint(uint64(generation), 10)), reason)
	s, recorded, err := eventstore.Do(ctx, m.store, events.ScanOf(m.store.Region(), id), meta, func(s scan.Scan, _ events.Head) ([]events.Event, error) {
		return scan.Decide(s, scan.Expire{Generation: generation, Reason: reason})
	})
	if err != nil {
		return fmt.Errorf("expire %s: %w", id, err)
	}
	if len(recorded) > 0 {
		m.log.Info("attempt expired", "scan_id", id, "attempt", s.Attempt, "reason", reason, "status", s.Status)
	}
	return nil
}

func (m *Recoverer) meta(id events.CommandID, cause string) events.Meta {
	return events.Meta{Command: id, Actor: events.BySystem("maintenance"), Cause: cause, At: time.Now().UTC()}
}

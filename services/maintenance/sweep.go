package maintenance

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/catalog"
	"vega/services/llmproxy"
	"vega/services/scan"
)

const (
	sweepEvery   = time.Minute
	cleanEvery   = time.Hour
	cleanFirst   = 5 * time.Minute  // after the start: it reads every scan's history once
	hintPatience = 10 * time.Second // before a ready event that was delivered counts as lost: its claim may be on its way
)

// sweeps sweeps at once and then every minute until ctx ends, and cleans up every hour, for the first time a little after the start. What fails is logged; the next one tries again.
func (m *Maintenance) sweeps(ctx context.Context) {
	failing := false
	cleaned := time.Now().Add(cleanFirst - cleanEvery)
	for ; ctx.Err() == nil; _ = wait(ctx, sweepEvery) {
		now := time.Now()
		err := m.Sweep(ctx, now)
		if now.Sub(cleaned) >= cleanEvery && err == nil {
			if _, err = m.Clean(ctx, now); err == nil {
				cleaned = now
			}
		}
		if err != nil && ctx.Err() == nil && !failing {
			m.Log.Warn("sweep failed", "err", err)
		}
		failing = err != nil
	}
}

// Sweep takes scans from their workers that have been running for too long at a moment, renews lost hints and ends ingestions that nobody works on. An
// error does not keep it from doing the rest.
func (m *Maintenance) Sweep(ctx context.Context, now time.Time) error {
	m.sweeping.Lock()
	defer m.sweeping.Unlock()
	err := errors.Join(m.sweepStale(ctx, now), m.sweepHints(ctx, now), m.sweepIngestions(ctx, now), m.sweepUsage(ctx, now))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status.LastSweep = now
	return err
}

func (m *Maintenance) sweepStale(ctx context.Context, now time.Time) error {
	var failed error
	for _, h := range m.census.claimedBefore(now.Add(-m.opt.RunningStale)) {
		err := m.expire(ctx, verdict{h.scan, h.generation, h.worker, h.launcher, RunningStale}, fmt.Sprintf("it has been running for longer than %s", m.opt.RunningStale))
		failed = errors.Join(failed, err)
	}
	return failed
}

// sweepHints makes scans work again whose ready event was delivered to nobody who acted on it. The queue is asked first: what it had handed over by then,
// and what the log does not know as claimed after that, is lost.
func (m *Maintenance) sweepHints(ctx context.Context, now time.Time) error {
	if m.Delivered == nil {
		return nil
	}
	upTo, err := m.Delivered.Delivered(ctx)
	if err != nil {
		return fmt.Errorf("look for lost hints: %w", err)
	}
	var failed error
	for _, w := range m.census.queuedBefore(now.Add(-hintPatience), upTo) {
		meta := m.meta(events.CommandIDFor("requeue", string(w.scan), strconv.FormatUint(uint64(w.ready), 10)), "hint "+strconv.FormatUint(uint64(w.ready), 10)+" was lost")
		_, recorded, err := eventstore.Do(ctx, m.Store, events.ScanOf(m.Store.Region(), w.scan), meta, func(s scan.Scan, _ events.Head) ([]events.Event, error) {
			if s.ReadySeq != w.ready {
				return nil, nil // it has had another one since
			}
			return scan.Decide(s, scan.Requeue{})
		})
		switch {
		case errors.Is(err, eventstore.ErrNewerEvents):
		case err != nil:
			failed = errors.Join(failed, fmt.Errorf("renew the hint of %s: %w", w.scan, err))
		case len(recorded) > 0 && recorded[0].At.Equal(meta.At):
			m.mu.Lock()
			m.status.Requeued++
			m.mu.Unlock()
			m.Log.Info("lost hint renewed", "scan_id", w.scan, "seq", w.ready)
		}
	}
	return failed
}

// sweepUsage charges the calls to the provider whose proxy is gone.
func (m *Maintenance) sweepUsage(ctx context.Context, now time.Time) error {
	var failed error
	for _, id := range m.census.lost(now) {
		n, err := llmproxy.ChargeLost(ctx, m.Store, id, now)
		failed = errors.Join(failed, err)
		if n > 0 {
			m.Log.Warn("calls whose proxy is gone charged as reserved", "scan_id", id, "calls", n)
		}
	}
	return failed
}

// sweepIngestions ends what has been coming in for too long, unless the process that takes it in still renews its lease.
func (m *Maintenance) sweepIngestions(ctx context.Context, now time.Time) error {
	var failed error
	for id, in := range m.census.ingestingBefore(now.Add(-m.opt.IngestStale)) {
		alive, err := m.leased(ctx, in.upload)
		if err != nil {
			return fmt.Errorf("look at the lease of upload %s: %w: %w", in.upload, eventstore.ErrUnavailable, err)
		}
		if alive {
			continue
		}
		ended, err := endIngestion(ctx, m.Store, id, in.upload, "the source stopped coming in; send it again", m.meta("", "no living process takes it in"))
		failed = errors.Join(failed, err)
		if ended {
			m.mu.Lock()
			m.status.Ingestions++
			m.mu.Unlock()
			m.Log.Info("ingestion ended", "repository_id", id, "upload_id", in.upload)
		}
	}
	return failed
}

// leased says that the process that takes an upload in is alive: the API keeps this entry while it does.
func (m *Maintenance) leased(ctx context.Context, upload string) (bool, error) {
	kv, err := m.Store.Bucket(ctx, eventstore.ExpiringBucket)
	if err != nil {
		return false, err
	}
	_, err = kv.Get(ctx, "upload."+upload)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	return err == nil, err
}

// endIngestion records that an upload came to nothing, so that its users see why (message) and may send it again. False: it had ended.
func endIngestion(ctx context.Context, store *eventstore.Store, id events.RepositoryID, upload, message string, meta events.Meta) (bool, error) {
	meta.Command = events.CommandIDFor("ingest-lost", string(id), upload)
	_, recorded, err := eventstore.Do(ctx, store, events.RepositoryOf(store.Region(), id), meta, func(r catalog.Repository, _ events.Head) ([]events.Event, error) {
		return r.FailIngest(events.IngestFailed{Upload: upload, Code: "upload_interrupted", Message: message})
	})
	if errors.Is(err, eventstore.ErrNewerEvents) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("end the ingestion of %s: %w", id, err)
	}
	return len(recorded) > 0 && recorded[0].At.Equal(meta.At), nil
}

package api

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"vega/events"
	"vega/projections"
)

// surviving is the read model as the API asks it: where the model does not answer, single things are folded from the log instead, which is slower and as
// true. So writes go on while a database is away, and so does looking at one scan, repository or project; lists and sums are refused until it is back.
type surviving struct {
	projections.Reader
	s    *Server
	away atomic.Int64 // when a query was last not answered, Unix nanoseconds
}

// awayTime is for how long after an unanswered query nobody waits for the read model to take a write in.
const awayTime = 2 * time.Second

// missed says whether err is the model's absence, and notes whether it answered.
func (m *surviving) missed(err error) bool {
	if !errors.Is(err, projections.ErrUnavailable) {
		if err == nil {
			m.away.Store(0)
		}
		return false
	}
	m.away.Store(m.s.Now().UnixNano())
	return true
}

// isAway says whether the model did not answer a moment ago.
func (m *surviving) isAway() bool { return m.s.Now().UnixNano()-m.away.Load() < int64(awayTime) }

// Project returns one project, from the log when the model does not answer.
func (m *surviving) Project(ctx context.Context, id events.ProjectID) (projections.Project, error) {
	row, err := m.Reader.Project(ctx, id)
	if !m.missed(err) {
		return row, err
	}
	f, err := m.fold(ctx, events.ProjectOf(m.s.region, id))
	return f.project, err
}

// Repository returns one repository, from the log when the model does not answer.
func (m *surviving) Repository(ctx context.Context, id events.RepositoryID) (projections.Repository, error) {
	row, err := m.Reader.Repository(ctx, id)
	if !m.missed(err) {
		return row, err
	}
	f, err := m.fold(ctx, events.RepositoryOf(m.s.region, id))
	return f.repository, err
}

// Snapshot returns one snapshot of a repository, from the log when the model does not answer.
func (m *surviving) Snapshot(ctx context.Context, repository events.RepositoryID, id events.SnapshotID) (projections.Snapshot, error) {
	row, err := m.Reader.Snapshot(ctx, repository, id)
	if !m.missed(err) {
		return row, err
	}
	f, err := m.fold(ctx, events.RepositoryOf(m.s.region, repository))
	if err != nil {
		return row, err
	}
	row, ok := f.snapshots[id]
	if !ok {
		return row, projections.ErrNotFound
	}
	return row, nil
}

// Scan returns one scan, from the log when the model does not answer.
func (m *surviving) Scan(ctx context.Context, id events.ScanID) (projections.Scan, error) {
	row, err := m.Reader.Scan(ctx, id)
	if !m.missed(err) {
		return row, err
	}
	f, err := m.fold(ctx, events.ScanOf(m.s.region, id))
	return f.scan, err
}

// QueuePositions are 0, unknown, when the model does not answer.
func (m *surviving) QueuePositions(ctx context.Context, ids ...events.ScanID) ([]int, error) {
	n, err := m.Reader.QueuePositions(ctx, ids...)
	if m.missed(err) {
		return make([]int, len(ids)), nil
	}
	return n, err
}

// APIKey returns one API key, from the log when the model does not answer.
func (m *surviving) APIKey(ctx context.Context, id events.APIKeyID) (projections.APIKey, error) {
	row, err := m.Reader.APIKey(ctx, id)
	if !m.missed(err) {
		return row, err
	}
	f, err := m.fold(ctx, events.APIKeyOf(m.s.region, id))
	return f.apiKey, err
}

// fold is the whole aggregate; without a row where there is an error.
func (m *surviving) fold(ctx context.Context, a events.Aggregate) (*fold, error) {
	f, _, err := m.s.foldOf(ctx, a, 0)
	if err != nil {
		return &fold{}, err
	}
	return f, nil
}

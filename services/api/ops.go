package api

import (
	"context"
	"time"

	"vega/events"
	"vega/projections"
	"vega/services/catalog"
	"vega/services/scan"
)

type workerBody struct {
	ID       events.WorkerID `json:"id"`
	Host     string          `json:"host"`
	Version  string          `json:"version"`
	Slots    int             `json:"slots"`
	Scans    []events.ScanID `json:"scans"`
	Beat     *time.Time      `json:"last_heartbeat_at"`
	Stale    bool            `json:"stale"`
	Draining bool            `json:"draining"`
}

func (s *Server) listWorkers(ctx context.Context, _ *nothing) (*many[workerBody], error) {
	rows, err := s.Fleet.Workers(ctx)
	if err != nil {
		return nil, err
	}
	return list(rows, "", func(w Worker) workerBody {
		b := workerBody{w.ID, w.Host, w.Version, w.Slots, w.Scans, when(w.Beat), w.Stale, w.Draining}
		if b.Scans == nil {
			b.Scans = []events.ScanID{}
		}
		return b
	}), nil
}

func (s *Server) listLimits(context.Context, *nothing) (*many[Limit], error) {
	rows := s.Limits
	if rows == nil {
		rows = []Limit{{"VEGA_MAX_ACTIVE_SCANS_PER_USER", s.Admission.Limit()}, {"VEGA_SCAN_MAX_ATTEMPTS", s.MaxAttempts}}
	}
	return list(rows, "", func(l Limit) Limit { return l }), nil
}

type queueBody struct {
	Queued map[events.Priority]int `json:"queued" doc:"Scans that wait, by priority"`
	Active map[scan.Status]int     `json:"active" doc:"Scans that a worker has, by status"`
	Oldest *time.Time              `json:"oldest_queued_at"`
}

func (s *Server) getQueue(ctx context.Context, _ *nothing) (*plain[queueBody], error) {
	queued, err := s.Model.Queue(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := s.Model.Unfinished(ctx)
	if err != nil {
		return nil, err
	}
	out := queueBody{Queued: queued, Active: map[scan.Status]int{scan.Claimed: 0, scan.Running: 0, scan.Cancelling: 0}}
	for _, r := range rows {
		if r.Status != scan.Queued {
			out.Active[r.Status]++
		} else if out.Oldest == nil {
			out.Oldest = when(r.CreatedAt)
		}
	}
	return &plain[queueBody]{Body: out}, nil
}

func (s *Server) listParked(ctx context.Context, _ *nothing) (*many[projections.Parked], error) {
	rows, err := s.Model.ParkedAggregates(ctx)
	if err != nil {
		return nil, err
	}
	return list(rows, "", func(p projections.Parked) projections.Parked { return p }), nil
}

type readModelBody struct {
	Sequence events.Seq `json:"sequence" doc:"The read model is true up to this event"`
	Last     events.Seq `json:"last_sequence" doc:"The log's last event"`
	Lag      uint64     `json:"lag" doc:"Events between them"`
	Skipped  int        `json:"skipped" doc:"Events of newer releases that were left out since the start"`
	Stream   string     `json:"stream"`
	Bytes    uint64     `json:"stream_bytes"`
}

func (s *Server) getReadModel(ctx context.Context, _ *nothing) (*plain[readModelBody], error) {
	info, err := s.Store.Info(ctx)
	if err != nil {
		return nil, err
	}
	at := s.Runner.At()
	last := max(info.Last, at) // the log may have grown between the two questions
	return &plain[readModelBody]{Body: readModelBody{at, last, uint64(last - at), s.Runner.Skipped(), info.Name, info.Bytes}}, nil
}

type rebuildBody struct {
	Seq         events.Seq               `json:"sequence" doc:"Where the live and the rebuilt read model were compared"`
	Different   int                      `json:"different" doc:"Rows that were not the same; the rebuilt ones hold from now on"`
	Differences []projections.Difference `json:"differences" doc:"The first 100 of them"`
}

// rebuildReadModel builds the read model anew from the log while the live one goes on, and puts it in its place. A client that hangs up ends it.
func (s *Server) rebuildReadModel(ctx context.Context, _ *nothing) (*plain[rebuildBody], error) {
	if !s.rebuild.TryLock() {
		return nil, &catalog.ConflictError{Code: "rebuild_in_progress", Message: "the read model is being rebuilt already"}
	}
	defer s.rebuild.Unlock()
	r, err := s.Runner.Rebuild(ctx)
	if err != nil {
		return nil, err
	}
	s.log.Info("read model rebuilt", "seq", r.Seq, "different", r.Different, "elapsed", r.Took)
	out := rebuildBody{r.Seq, r.Different, r.Differences}
	if out.Differences == nil {
		out.Differences = []projections.Difference{}
	}
	return &plain[rebuildBody]{Body: out}, nil
}

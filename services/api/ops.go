package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"vega/events"
	"vega/projections"
	"vega/services/catalog"
	"vega/services/dispatch"
	"vega/services/fleet"
	"vega/services/scan"
)

type workerBody struct {
	ID       events.WorkerID `json:"id"`
	Host     string          `json:"host"`
	Version  string          `json:"version"`
	Slots    int             `json:"slots"`
	Mode     string          `json:"mode,omitempty" doc:"The queue it takes scans from; scans wait for ever when nobody takes them from the one that ops/queue names"`
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
		b := workerBody{w.ID, w.Host, w.Version, w.Slots, w.Mode, w.Scans, when(w.Beat), w.Stale, w.Draining}
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
	return list(slices.Concat(rows, capLimits(s.Caps)), "", func(l Limit) Limit { return l }), nil
}

type drainIn struct {
	Worker string `path:"worker_id"`
}

type drainBody struct {
	ID       events.WorkerID `json:"id"`
	Draining bool            `json:"draining"`
}

// drainWorker asks a worker to take no more scans and answers when it has heard. It stays in the fleet, idle once its scans have ended, until its process is stopped.
func (s *Server) drainWorker(ctx context.Context, in *drainIn) (*plain[drainBody], error) {
	id := events.WorkerID(in.Worker)
	if events.CheckID("worker_id", in.Worker) != nil {
		return nil, errNotFound
	}
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	err := fleet.RequestDrain(ctx, s.Store, id)
	if errors.Is(err, fleet.ErrGone) {
		return nil, errNotFound
	}
	if err != nil {
		return nil, &failure{status: http.StatusServiceUnavailable, code: "worker_silent", message: "the worker did not answer; it may have heard all the same", retryable: true, retryAfter: time.Second, cause: err}
	}
	s.log.Info("worker asked to drain", "worker_id", id)
	return &plain[drainBody]{Body: drainBody{id, true}}, nil
}

type deadLetterBody struct {
	ID         events.ScanID       `json:"id" doc:"Of the scan"`
	Project    events.ProjectID    `json:"project_id"`
	Repository events.RepositoryID `json:"repository_id"`
	User       events.UserID       `json:"user_id"`
	Attempts   int                 `json:"attempts"`
	Code       string              `json:"code"`
	Reason     string              `json:"reason"`
	FailedAt   *time.Time          `json:"failed_at"`
	ReplayedAs *events.ScanID      `json:"replayed_as" doc:"The scan that a replay made; null: it was not replayed"`
}

func (s *Server) listDeadLetters(ctx context.Context, in *PageIn) (*many[deadLetterBody], error) {
	rows, next, err := s.Model.Scans(ctx, projections.ScanFilter{Statuses: []scan.Status{scan.Failed}, FailureCode: scan.AttemptsExhausted}, in.page())
	if err != nil {
		return nil, err
	}
	var broken error
	out := list(rows, next, func(r projections.Scan) deadLetterBody {
		b := deadLetterBody{ID: r.ID, Project: r.Project, Repository: r.Repository, User: r.User, Attempts: r.Attempt, Code: r.Failure.Code, Reason: r.Failure.Message, FailedAt: when(r.FinishedAt)}
		again := s.replayOf(r.ID)
		if _, err := s.Model.Scan(ctx, again); err == nil {
			b.ReplayedAs = &again
		} else if !errors.Is(err, projections.ErrNotFound) {
			broken = errors.Join(broken, err)
		}
		return b
	})
	return out, broken
}

// replayOf is the id of the scan that a dead letter's replay makes: always the same one, so no retry and no second admin makes another.
func (s *Server) replayOf(dead events.ScanID) events.ScanID {
	return events.ScanIDFor(s.region, "replay", string(dead))
}

type deadLetterIn struct {
	ID string `path:"dead_letter_id"`
}

// replayDeadLetter makes a scan that asks for the same, for the same user and within that user's limit. The dead one stays as it ended.
func (s *Server) replayDeadLetter(ctx context.Context, in *deadLetterIn) (*one[scanBody], error) {
	if events.CheckID("dead_letter_id", in.ID) != nil {
		return nil, errNotFound
	}
	dead, err := s.Model.Scan(ctx, events.ScanID(in.ID))
	if err != nil {
		return nil, err
	}
	if dead.Failure == nil || dead.Failure.Code != scan.AttemptsExhausted {
		return nil, &failure{status: http.StatusConflict, code: "not_a_dead_letter", message: "the scan did not fail for want of attempts", details: map[string]any{"status": dead.Status}}
	}
	if repo, err := s.Model.Repository(ctx, dead.Repository); err != nil {
		return nil, err
	} else if repo.Deleted {
		return nil, errNotFound
	}
	want := events.ScanQueued{Project: dead.Project, Repository: dead.Repository, Snapshot: dead.Snapshot, User: dead.User, Paths: dead.Paths,
		Model: dead.Model, Priority: dead.Priority, MaxAttempts: s.MaxAttempts, Rerun: dead.ID, Profile: dead.Profile, Budget: dead.Budget}
	if err := s.compareWith(ctx, dead.Repository, &want); err != nil {
		return nil, err
	}
	id := s.replayOf(dead.ID)
	meta := callOf(ctx).meta(s.Now())
	meta.Command = events.CommandIDFor("replay", string(dead.ID))
	meta.Cause = "replay of dead letter " + string(dead.ID)
	_, made, err := s.Admission.Create(ctx, meta, id, want)
	if err != nil {
		return nil, err
	}
	s.settle(ctx, made)
	row, err := s.scanRow(ctx, id, lastSeq(made))
	if err != nil {
		return nil, err
	}
	return s.showScan(ctx, row, lastSeq(made))
}

type queueBody struct {
	Mode       dispatch.Mode           `json:"mode" enum:"thread,external,sqs" doc:"How scans reach workers"`
	Priorities bool                    `json:"priorities" doc:"Whether better priorities go first; false with sqs, whose queue knows none"`
	Lanes      []laneBody              `json:"lanes" doc:"The durable consumers that bring scans to workers; none in thread mode"`
	Queued     map[events.Priority]int `json:"queued" doc:"Scans that wait, by priority"`
	Active     map[scan.Status]int     `json:"active" doc:"Scans that a worker has, by status"`
	Oldest     *time.Time              `json:"oldest_queued_at"`
}

func (s *Server) getQueue(ctx context.Context, _ *nothing) (*plain[queueBody], error) {
	queued, err := s.Model.Queue(ctx)
	if err != nil {
		return nil, err
	}
	lanes, err := dispatch.Lanes(ctx, s.Store, s.Mode)
	if err != nil {
		return nil, err
	}
	rows, err := s.Model.Unfinished(ctx)
	if err != nil {
		return nil, err
	}
	out := queueBody{Mode: cmp.Or(s.Mode, dispatch.ModeThread), Priorities: s.ranked(), Lanes: make([]laneBody, len(lanes)), Queued: queued, Active: map[scan.Status]int{scan.Claimed: 0, scan.Running: 0, scan.Cancelling: 0}}
	for i, l := range lanes {
		out.Lanes[i] = laneBody{l.Name, l.Waiting, l.InFlight, l.Delivered}
	}
	for _, r := range rows {
		if r.Status != scan.Queued {
			out.Active[r.Status]++
		} else if out.Oldest == nil {
			out.Oldest = when(r.CreatedAt)
		}
	}
	return &plain[queueBody]{Body: out}, nil
}

type laneBody struct {
	Name      string     `json:"name" doc:"high, normal, low; or bridge, which brings all to SQS"`
	Waiting   int        `json:"waiting" doc:"Work items that were not brought yet"`
	InFlight  int        `json:"in_flight" doc:"Brought and not acknowledged"`
	Delivered events.Seq `json:"delivered_sequence" doc:"Everything up to this event was brought and acknowledged"`
}

// ranked says whether better priorities go first here.
func (s *Server) ranked() bool { return s.Mode != dispatch.ModeSQS }

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
	Leads    bool       `json:"leads" doc:"The process that answers is the one that brings events into the read model"`
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
	return &plain[readModelBody]{Body: readModelBody{at, last, uint64(last - at), s.Runner.Skipped(), s.Runner.Leads(), info.Name, info.Bytes}}, nil
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

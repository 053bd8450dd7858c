package scan

import (
	"time"

	"vega/events"
)

// Scan is the state of one scan: the fold of its events. The zero value is a scan that does not exist.
type Scan struct {
	Status      Status
	Request     events.ScanQueued // what was asked for
	ReadySeq    events.Seq        // sequence of the last event that made it work
	Attempt     int               // number of the last claim, from 1
	Spent       int               // attempts that count: those that were not released
	Worker      events.WorkerID   // who has the last attempt: the worker that claimed it, or the runner that joined it
	Launcher    events.WorkerID   // the worker that claimed it, once a runner has joined
	Generation  events.Seq        // sequence of the last claim: the fencing token
	Joined      string            // jti that the one-scan runner spent for this attempt
	RunnerToken events.Digest     // what a runner has to show for this attempt
	Stages      []events.StageCompleted
	Units       []events.UnitCompleted // pieces of stages, those that are over included
	Findings    []events.Finding
	Rejected    int
	Coverage    events.Coverage // set at the end
	Usage       events.Usage
	Failure     *events.ScanFailed
	QueuedAt    time.Time
	ClaimedAt   time.Time // of the last claim
	StartedAt   time.Time // of the first start
	RunningAt   time.Time // of the last start
	FinishedAt  time.Time
	Version     events.Version
	Seq         events.Seq // of its last event
}

// Evolve returns the state after r. Events that the table does not allow in this status leave it as it is, except that version
// and sequence always move.
func (s Scan) Evolve(r events.Recorded) Scan {
	s.Version, s.Seq = r.Version, r.Seq
	to, ok := Next(s.Status, r.Kind)
	if !ok {
		return s
	}
	switch e := r.Event.(type) {
	case events.ScanQueued:
		if s.Status == None {
			s.Request, s.QueuedAt = e, r.At
		}
		s.ReadySeq = r.Seq
	case events.AttemptClaimed:
		s.Attempt, s.Worker, s.Generation, s.ClaimedAt = e.Attempt, e.Worker, r.Seq, r.At
		s.Launcher, s.Joined, s.RunnerToken = "", "", e.RunnerToken
		s.Spent++
	case events.RunnerJoined:
		s.Joined = e.JTI
		if e.Worker != "" {
			s.Launcher, s.Worker = s.Worker, e.Worker
		}
	case events.AttemptStarted:
		s.RunningAt = r.At
		if s.StartedAt.IsZero() {
			s.StartedAt = r.At
		}
	case events.StageCompleted:
		s.Stages = append(s.Stages[:len(s.Stages):len(s.Stages)], e)
		s.Rejected += e.Rejected
	case events.UnitCompleted:
		s.Units = append(s.Units[:len(s.Units):len(s.Units)], e)
	case events.FindingsRecorded:
		s.Findings = append(s.Findings[:len(s.Findings):len(s.Findings)], e.Findings...)
	case events.AttemptReleased:
		s.Spent--
		s.ReadySeq = r.Seq
	case events.AttemptExpired:
		s.ReadySeq = r.Seq
	case events.ScanCompleted:
		s.Coverage, s.Usage, s.FinishedAt = e.Coverage, e.Usage, r.At
	case events.ScanFailed:
		s.Failure, s.FinishedAt = &e, r.At
	case events.ScanCancelled, events.ScanAbandoned:
		s.FinishedAt = r.At
	default: // the rest only moves the status
	}
	s.Status = to
	return s
}

// Owns says that generation is the scan's current attempt and that it may still write.
func (s Scan) Owns(generation events.Seq) bool {
	return s.Generation == generation && (s.Status == Claimed || s.Status == Running || s.Status == Cancelling)
}

// HasUnit says that a unit of a stage is recorded.
func (s Scan) HasUnit(stage, unit string) bool {
	for _, u := range s.Units {
		if u.Stage == stage && u.Unit == unit {
			return true
		}
	}
	return false
}

// HasStage says that a stage's result is recorded.
func (s Scan) HasStage(name string) bool {
	for _, st := range s.Stages {
		if st.Stage == name {
			return true
		}
	}
	return false
}

package events

import "time"

// AttemptClaimed gives a scan to a worker. The sequence of this event is the attempt's generation: its fencing token.
type AttemptClaimed struct {
	Attempt int      `json:"attempt"` // from 1
	Worker  WorkerID `json:"worker_id"`
	Host    string   `json:"host,omitempty"`
	// RunnerToken is the digest of the token that a one-scan runner must show to take the attempt over; empty when the worker runs it itself.
	RunnerToken Digest `json:"runner_token,omitempty"`
}

// RunnerJoined is the one-scan runner taking over from the launcher that claimed the attempt; JTI is the id of the token it spent. From here on the
// attempt is the runner's: Worker, when it is set, is the id that it answers to.
type RunnerJoined struct {
	Attempt int      `json:"attempt"`
	JTI     string   `json:"jti"`
	Worker  WorkerID `json:"worker_id,omitempty"`
	Host    string   `json:"host,omitempty"`
}

// AttemptStarted says that the source is there, was checked against the snapshot's digest, and the stages begin.
type AttemptStarted struct {
	Attempt    int      `json:"attempt"`
	Worker     WorkerID `json:"worker_id"`
	Engine     string   `json:"engine"`                // the engine's version
	PackDigest Digest   `json:"pack_digest,omitempty"` // of the engine pack's prompts, schemas and rules
}

// StageStatus is how a stage ended.
type StageStatus string

const (
	StageDone          StageStatus = "completed"
	StageNotConfigured StageStatus = "not_configured"
	StageSkipped       StageStatus = "skipped"
	StageFailed        StageStatus = "failed"
)

// StageCompleted records the result of one stage. The next attempt starts after the last one of these: what is
// recorded is not done again.
type StageCompleted struct {
	Attempt   int              `json:"attempt"`
	Stage     string           `json:"stage"`
	Status    StageStatus      `json:"status"`
	Detail    string           `json:"detail,omitempty"` // one sentence for people
	StartedAt time.Time        `json:"started_at"`
	Result    *Object          `json:"result,omitempty"`    // what the stages after it read
	Artifacts []Object         `json:"artifacts,omitempty"` // what people download
	Reasons   []CoverageReason `json:"reasons,omitempty"`   // what this stage did not look at
	Rejected  int              `json:"rejected,omitempty"`  // findings it refused to believe
}

// Object is a stored file that an event vouches for. Name is logical (v16-report.json); Key is where it lies; only bytes with
// this digest are ever served.
type Object struct {
	Name      string `json:"name"`
	Key       string `json:"key"`
	Digest    Digest `json:"digest"`
	Bytes     int64  `json:"bytes"`
	MediaType string `json:"media_type,omitempty"`
}

// AttemptReleased gives a scan back without counting the attempt: its worker is shutting down.
type AttemptReleased struct {
	Attempt  int      `json:"attempt"`
	Worker   WorkerID `json:"worker_id"`
	Reason   string   `json:"reason"`
	Priority Priority `json:"priority"`
}

// AttemptExpired takes a scan from a worker that is gone and makes it work again. An attempt that was the last one becomes
// ScanFailed instead.
type AttemptExpired struct {
	Attempt  int      `json:"attempt"`
	Worker   WorkerID `json:"worker_id"`
	Reason   string   `json:"reason"`           // restarted, disconnected, heartbeat_lost, not_held, running_stale, task_stopped, source_missing
	Detail   string   `json:"detail,omitempty"` // why, in words, where somebody knows: a task's stop reason and exit codes
	Priority Priority `json:"priority"`
}

func (AttemptClaimed) event()  {}
func (RunnerJoined) event()    {}
func (AttemptStarted) event()  {}
func (StageCompleted) event()  {}
func (AttemptReleased) event() {}
func (AttemptExpired) event()  {}

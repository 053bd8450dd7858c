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
	Compared  *Compared        `json:"compared,omitempty"`  // how the findings stand to an earlier scan's; of the stage that merges them
}

// UnitCompleted records the result of one piece of a stage that is made of several and is paid for piece by piece: one component's audit, one finding's
// review. The next attempt does not do it again. A unit whose work broke off is recorded too, as failed, with what it has.
type UnitCompleted struct {
	Attempt   int              `json:"attempt"`
	Stage     string           `json:"stage"`
	Unit      string           `json:"unit"` // unique in its stage
	Status    StageStatus      `json:"status"`
	Detail    string           `json:"detail,omitempty"` // one sentence for people
	StartedAt time.Time        `json:"started_at"`
	Result    *Object          `json:"result,omitempty"`
	Artifacts []Object         `json:"artifacts,omitempty"`
	Reasons   []CoverageReason `json:"reasons,omitempty"`
}

// Compared says how a scan's findings stand to what was known of the repository before. The counts are over weaknesses, by fingerprint.
type Compared struct {
	Base       ScanID `json:"base_scan_id,omitempty"` // empty: there was no earlier scan
	New        int    `json:"new"`                    // never seen before
	Persisting int    `json:"persisting"`             // there before, and still
	Reopened   int    `json:"reopened"`               // had been resolved, and is there again
	Resolved   int    `json:"resolved"`               // was there before, and is gone
	Unknown    int    `json:"unknown"`                // was there before; whether it still is, this scan cannot say
	// Ledger names every weakness that was ever seen and where it stands; the next scan begins with it.
	Ledger *Object `json:"ledger,omitempty"`
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
func (UnitCompleted) event()   {}
func (AttemptReleased) event() {}
func (AttemptExpired) event()  {}

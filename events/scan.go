package events

import "time"

// Priority orders queued scans; a worker takes all high before any normal before any low.
type Priority string

const (
	High   Priority = "high"
	Normal Priority = "normal"
	Low    Priority = "low"
)

// Priorities lists them, best first.
func Priorities() []Priority { return []Priority{High, Normal, Low} }

// ScanQueued makes a scan exist and makes it work. It is recorded again, with the same contents, when the hint of a
// queued scan was lost; it then only renews the work item.
type ScanQueued struct {
	Project     ProjectID    `json:"project_id"`
	Repository  RepositoryID `json:"repository_id"`
	Snapshot    SnapshotID   `json:"snapshot_id"`
	User        UserID       `json:"user_id"`
	Paths       []string     `json:"paths,omitempty"` // what to audit, slash-separated; empty means everything
	Model       string       `json:"model,omitempty"`
	Priority    Priority     `json:"priority"`
	MaxAttempts int          `json:"max_attempts"`
	Rerun       ScanID       `json:"rerun_of,omitempty"`
	Profile     int          `json:"threat_profile_version,omitempty"` // 0: none was given
	Base        ScanID       `json:"base_scan_id,omitempty"`           // the repository's last completed scan when this one was asked for
	Overlapped  []ScanID     `json:"overlapped_scan_ids,omitempty"`    // completed scans that Base cannot know of: they ended after it was asked for; newest first
	Budget      *Budget      `json:"budget,omitempty"`                 // what this scan may spend, beside what every scan may
}

// Budget is what one scan may spend at the provider; 0 means no limit.
type Budget struct {
	Requests    int64 `json:"requests,omitempty"`
	Tokens      int64 `json:"tokens,omitempty"` // input and output together
	CostNanoUSD int64 `json:"cost_nano_usd,omitempty"`
}

// ScanAbandoned closes an id that was reserved in a user's slots and never became a scan.
type ScanAbandoned struct {
	User UserID `json:"user_id"`
}

// CancelRequested asks the owner of a scan to stop it. A queued scan is cancelled without it.
type CancelRequested struct {
	Reason string `json:"reason,omitempty"`
}

// ScanCompleted ends a scan that ran through all its stages. What could not be looked at is in Coverage.
type ScanCompleted struct {
	Attempt  int      `json:"attempt"`
	Coverage Coverage `json:"coverage"`
	Counts   Counts   `json:"findings"`
	Usage    Usage    `json:"usage"`
	Rejected int      `json:"rejected,omitempty"` // claims whose file, lines or quote did not exist, or that a review refuted
}

// ScanFailed ends a scan that cannot go on. Code is stable: attempts_exhausted, source_unavailable, engine_failed, timed_out,
// launch_refused (the scan's task cannot be started as things are configured).
type ScanFailed struct {
	Attempt int    `json:"attempt"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

// ScanCancelled ends a scan whose work has really stopped.
type ScanCancelled struct {
	Attempt int    `json:"attempt"` // 0: it never ran
	Reason  string `json:"reason,omitempty"`
}

// Slots is the whole set of a user's active scans after one of them was added. Nothing takes a scan out: whoever finds
// the set full drops the ones that are over. Loading a user's slots is reading the last event.
type Slots struct {
	User   UserID `json:"user_id"`
	Active []Slot `json:"active"` // oldest first, the added one last
}

// Slot is one active scan and since when it counts.
type Slot struct {
	Scan ScanID    `json:"scan_id"`
	At   time.Time `json:"at"`
}

// CoverageState says how much of what was asked for was looked at.
type CoverageState string

const (
	CoverageUnknown  CoverageState = "unknown" // not finished, or failed
	CoveragePartial  CoverageState = "partial"
	CoverageComplete CoverageState = "complete"
)

// Coverage is what was looked at and, by reasons, what was not. A findings list without it means nothing.
type Coverage struct {
	State   CoverageState    `json:"state"`
	Reasons []CoverageReason `json:"reasons"`
}

// CoverageReason names one thing that was not looked at: a stage or a path. Codes: not_configured, failed, timed_out,
// cap_reached, limit_reached, skipped, unreadable, too_large, binary.
type CoverageReason struct {
	Stage   string `json:"stage,omitempty"`
	Path    string `json:"path,omitempty"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Usage is what a scan spent at the provider. Money is in nano-dollars: 1e9 is one US dollar.
type Usage struct {
	Requests          int64 `json:"requests"`
	InputTokens       int64 `json:"input_tokens"`
	CachedInputTokens int64 `json:"cached_input_tokens"`
	OutputTokens      int64 `json:"output_tokens"`
	ReasoningTokens   int64 `json:"reasoning_tokens,omitempty"` // part of the output, as cached is of the input
	CostNanoUSD       int64 `json:"cost_nano_usd"`
}

// Counts is a number of findings by severity.
type Counts struct {
	Critical int `json:"critical"`
	High     int `json:"high"`
	Medium   int `json:"medium"`
	Low      int `json:"low"`
	Info     int `json:"info"`
}

// Add counts one finding of severity s.
func (c *Counts) Add(s Severity) {
	switch s {
	case SeverityCritical:
		c.Critical++
	case SeverityHigh:
		c.High++
	case SeverityMedium:
		c.Medium++
	case SeverityLow:
		c.Low++
	case SeverityInfo:
		c.Info++
	}
}

// Total is the sum over all severities.
func (c Counts) Total() int { return c.Critical + c.High + c.Medium + c.Low + c.Info }

func (ScanQueued) event()      {}
func (ScanAbandoned) event()   {}
func (CancelRequested) event() {}
func (ScanCompleted) event()   {}
func (ScanFailed) event()      {}
func (ScanCancelled) event()   {}
func (Slots) event()           {}

// utc keeps times comparable after a round trip through JSON.
func utc(t time.Time) time.Time { return t.UTC().Round(0) }

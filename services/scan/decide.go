package scan

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"vega/events"
)

// Command is a wish about one scan.
//
//sumtype:decl
type Command interface {
	command()
}

type (
	// Queue makes the scan. Doing it twice with the same request is nothing new.
	Queue struct{ Request events.ScanQueued }
	// Requeue renews the work item of a scan whose hint was lost; nothing when it is not queued any more.
	Requeue struct{}
	// Abandon closes an id that was reserved and has no event.
	Abandon struct{ User events.UserID }
	// Claim takes a queued scan for a worker. With RunnerToken, the digest of a secret, the attempt waits for a one-scan runner that shows the secret.
	Claim struct {
		Worker      events.WorkerID
		Host        string
		RunnerToken events.Digest
	}
	// Join spends the one-scan runner's token and makes the attempt the runner's. At is the moment of joining: a token is good for TokenLife.
	Join struct {
		Generation events.Seq
		Token      string // the secret itself
		Worker     events.WorkerID
		Host       string
		At         time.Time
	}
	// Start says that the source is there and checked.
	Start struct {
		Generation events.Seq
		Engine     string
		PackDigest events.Digest
	}
	// CompleteStage records a stage's result; nothing when that stage is recorded already.
	CompleteStage struct {
		Generation events.Seq
		Result     events.StageCompleted
	}
	// CompleteUnit records the result of a piece of a stage; nothing when that piece, or its whole stage, is recorded already.
	CompleteUnit struct {
		Generation events.Seq
		Result     events.UnitCompleted
	}
	// RecordFindings adds findings, those that are not recorded yet.
	RecordFindings struct {
		Generation events.Seq
		Stage      string
		Findings   []events.Finding
	}
	// Complete ends the scan with its coverage.
	Complete struct {
		Generation events.Seq
		Coverage   events.Coverage
		Usage      events.Usage
	}
	// Fail ends the scan without a result.
	Fail struct {
		Generation    events.Seq
		Code, Message string
	}
	// RequestCancel asks for the end. A scan that no worker has is cancelled at once.
	RequestCancel struct{ Reason string }
	// ConfirmCancel says that the process of a cancelling scan is gone.
	ConfirmCancel struct{ Generation events.Seq }
	// Release gives the scan back without counting the attempt. A cancelling scan ends instead.
	Release struct {
		Generation events.Seq
		Reason     string
	}
	// Expire takes the scan from a worker that is gone: it is queued again, or failed when that was the last attempt, or cancelled when that
	// had been asked for. Nothing when the generation is not the current one any more.
	Expire struct {
		Generation events.Seq
		Reason     string
		Detail     string // in words, or empty
	}
)

func (Queue) command()          {}
func (Requeue) command()        {}
func (Abandon) command()        {}
func (Claim) command()          {}
func (Join) command()           {}
func (Start) command()          {}
func (CompleteStage) command()  {}
func (CompleteUnit) command()   {}
func (RecordFindings) command() {}
func (Complete) command()       {}
func (Fail) command()           {}
func (RequestCancel) command()  {}
func (ConfirmCancel) command()  {}
func (Release) command()        {}
func (Expire) command()         {}

var (
	// ErrSuperseded is returned for a worker's command when the scan has another owner, or none, or is being cancelled: it must stop.
	ErrSuperseded = errors.New("attempt superseded")
	// ErrCancelling is an ErrSuperseded: the attempt is still the current one, but it was asked to stop.
	ErrCancelling = fmt.Errorf("%w: the scan is being cancelled", ErrSuperseded)
	// ErrTokenSpent is returned by Join when another runner has joined this attempt.
	ErrTokenSpent = errors.New("runner token was used before")
	// ErrTokenWrong is returned by Join when the token is not the attempt's, or too old.
	ErrTokenWrong = errors.New("runner token is not valid for this attempt")
)

// AttemptsExhausted is the code of a failure whose last attempt was lost: the scan is a dead letter, which may be replayed.
const AttemptsExhausted = "attempts_exhausted"

// TokenLife is how long after the claim a runner may join.
const TokenLife = 10 * time.Minute

// TokenDigest is what an event may know of a runner's token.
func TokenDigest(token string) events.Digest {
	sum := sha256.Sum256([]byte(token))
	return events.Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// NotAllowedError says that a command cannot be done in the scan's status.
type NotAllowedError struct {
	Command string // "cancel", "claim", …
	Status  Status
}

func (e *NotAllowedError) Error() string {
	if e.Status == None {
		return fmt.Sprintf("cannot %s: no such scan", e.Command)
	}
	return fmt.Sprintf("cannot %s a scan that is %s", e.Command, e.Status)
}

// Decide answers a command with the events to append: none when there is nothing to do. It returns *NotAllowedError, ErrSuperseded (or
// ErrCancelling), ErrTokenSpent, or an error about the command's contents.
func Decide(s Scan, c Command) ([]events.Event, error) {
	switch c := c.(type) {
	case Queue:
		if s.Status != None {
			if s.Status == Abandoned {
				return nil, &NotAllowedError{"queue", s.Status}
			}
			return nil, nil // the same id is the same request: an earlier try of it succeeded
		}
		if err := checkRequest(c.Request); err != nil {
			return nil, err
		}
		return []events.Event{c.Request}, nil
	case Requeue:
		if s.Status != Queued {
			return nil, nil
		}
		return []events.Event{s.Request}, nil
	case Abandon:
		if s.Status != None {
			return nil, &NotAllowedError{"abandon", s.Status}
		}
		return []events.Event{events.ScanAbandoned{User: c.User}}, nil
	case Claim:
		if s.Status != Queued {
			return nil, &NotAllowedError{"claim", s.Status}
		}
		return []events.Event{events.AttemptClaimed{Attempt: s.Attempt + 1, Worker: c.Worker, Host: c.Host, RunnerToken: c.RunnerToken}}, nil
	case RequestCancel:
		return decideCancel(s, c)
	case Expire:
		return decideExpire(s, c)
	case Join:
		if err := owner(s, c.Generation, Claimed); err != nil {
			return nil, err
		}
		digest := TokenDigest(c.Token)
		if s.RunnerToken == "" || subtle.ConstantTimeCompare([]byte(digest), []byte(s.RunnerToken)) != 1 || c.At.Sub(s.ClaimedAt) > TokenLife {
			return nil, ErrTokenWrong
		}
		if s.Joined != "" {
			return nil, ErrTokenSpent
		}
		jti := string(digest[len("sha256:"):][:32]) // an id for the token that does not give it away
		return []events.Event{events.RunnerJoined{Attempt: s.Attempt, JTI: jti, Worker: c.Worker, Host: c.Host}}, nil
	case Start:
		if err := owner(s, c.Generation, Claimed); err != nil {
			return nil, err
		}
		if s.RunnerToken != "" && s.Joined == "" {
			return nil, &NotAllowedError{"start before its runner joined", s.Status}
		}
		return []events.Event{events.AttemptStarted{Attempt: s.Attempt, Worker: s.Worker, Engine: c.Engine, PackDigest: c.PackDigest}}, nil
	case CompleteStage:
		if err := owner(s, c.Generation, Running); err != nil {
			return nil, err
		}
		if s.HasStage(c.Result.Stage) {
			return nil, nil
		}
		c.Result.Attempt = s.Attempt
		return []events.Event{c.Result}, nil
	case CompleteUnit:
		if err := owner(s, c.Generation, Running); err != nil {
			return nil, err
		}
		if s.HasUnit(c.Result.Stage, c.Result.Unit) || s.HasStage(c.Result.Stage) {
			return nil, nil
		}
		c.Result.Attempt = s.Attempt
		return []events.Event{c.Result}, nil
	case RecordFindings:
		if err := owner(s, c.Generation, Running); err != nil {
			return nil, err
		}
		return decideFindings(s, c), nil
	case Complete:
		if err := owner(s, c.Generation, Running); err != nil {
			return nil, err
		}
		var n events.Counts
		for _, f := range s.Findings {
			n.Add(f.Severity)
		}
		return []events.Event{events.ScanCompleted{Attempt: s.Attempt, Coverage: c.Coverage, Counts: n, Usage: c.Usage, Rejected: s.Rejected}}, nil
	case Fail:
		if err := owner(s, c.Generation, Claimed, Running); err != nil {
			return nil, err
		}
		return []events.Event{events.ScanFailed{Attempt: s.Attempt, Code: c.Code, Message: c.Message}}, nil
	case ConfirmCancel:
		if s.Status == Cancelled {
			return nil, nil
		}
		if s.Status != Cancelling || s.Generation != c.Generation {
			return nil, ErrSuperseded
		}
		return []events.Event{events.ScanCancelled{Attempt: s.Attempt}}, nil
	case Release:
		if s.Generation != c.Generation {
			return nil, ErrSuperseded
		}
		switch s.Status {
		case Claimed, Running:
			return []events.Event{events.AttemptReleased{Attempt: s.Attempt, Worker: s.Worker, Reason: c.Reason, Priority: s.Request.Priority}}, nil
		case Cancelling:
			return []events.Event{events.ScanCancelled{Attempt: s.Attempt}}, nil
		default:
			return nil, ErrSuperseded
		}
	}
	return nil, fmt.Errorf("unknown command %T", c)
}

func decideCancel(s Scan, c RequestCancel) ([]events.Event, error) {
	switch s.Status {
	case Queued:
		return []events.Event{events.ScanCancelled{Attempt: s.Attempt, Reason: c.Reason}}, nil
	case Claimed, Running:
		return []events.Event{events.CancelRequested{Reason: c.Reason}}, nil
	case Cancelling, Cancelled:
		return nil, nil
	default:
		return nil, &NotAllowedError{"cancel", s.Status}
	}
}

func decideExpire(s Scan, c Expire) ([]events.Event, error) {
	if !s.Owns(c.Generation) {
		return nil, nil
	}
	switch {
	case s.Status == Cancelling:
		return []events.Event{events.ScanCancelled{Attempt: s.Attempt, Reason: "its worker was gone: " + c.why()}}, nil
	case s.Spent >= s.Request.MaxAttempts:
		return []events.Event{events.ScanFailed{Attempt: s.Attempt, Code: AttemptsExhausted,
			Message: fmt.Sprintf("attempt %d was lost (%s) and was the last of %d", s.Attempt, c.why(), s.Request.MaxAttempts)}}, nil
	default:
		return []events.Event{events.AttemptExpired{Attempt: s.Attempt, Worker: s.Worker, Reason: c.Reason, Detail: c.Detail, Priority: s.Request.Priority}}, nil
	}
}

func (c Expire) why() string {
	if c.Detail == "" {
		return c.Reason
	}
	return c.Reason + ": " + c.Detail
}

// decideFindings splits what is new into events. A crash between findings and their stage's end makes the next attempt bring them
// again: those are not new.
func decideFindings(s Scan, c RecordFindings) []events.Event {
	known := make(map[events.FindingID]bool, len(s.Findings))
	for _, f := range s.Findings {
		known[f.ID] = true
	}
	var fresh []events.Finding
	for _, f := range c.Findings {
		if !known[f.ID] && len(known) < events.MaxFindingsPerScan {
			known[f.ID] = true
			fresh = append(fresh, f)
		}
	}
	var out []events.Event
	for len(fresh) > 0 {
		n := min(len(fresh), events.MaxFindingsPerEvent)
		out = append(out, events.FindingsRecorded{Attempt: s.Attempt, Stage: c.Stage, Findings: fresh[:n]})
		fresh = fresh[n:]
	}
	return out
}

// owner checks that generation is the current attempt and the scan is in one of the statuses.
func owner(s Scan, generation events.Seq, in ...Status) error {
	if s.Generation != generation || !s.Owns(generation) {
		return ErrSuperseded
	}
	if s.Status == Cancelling {
		return ErrCancelling
	}
	for _, st := range in {
		if s.Status == st {
			return nil
		}
	}
	return &NotAllowedError{"continue", s.Status}
}

func checkRequest(r events.ScanQueued) error {
	switch {
	case r.Repository == "" || r.Snapshot == "" || r.User == "" || r.Project == "":
		return errors.New("a scan needs its project, repository, snapshot and user")
	case r.MaxAttempts < 1:
		return fmt.Errorf("max_attempts is %d, want at least 1", r.MaxAttempts)
	case r.Priority != events.High && r.Priority != events.Normal && r.Priority != events.Low:
		return fmt.Errorf("priority is %.20q, want high, normal or low", string(r.Priority))
	}
	return nil
}

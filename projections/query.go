package projections

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"vega/events"
	"vega/services/scan"
)

// ErrNotFound is returned for a row that does not exist.
var ErrNotFound = errors.New("not found")

// ErrUnavailable is returned when the backend does not answer: the same query may be asked again. Nothing is lost by it, the log has everything.
var ErrUnavailable = errors.New("the read models do not answer")

// ErrBadCursor is returned for a cursor that no list of this kind gave out.
var ErrBadCursor = errors.New("the cursor is not one that this list gave out")

// Reader answers the API's queries. It is safe for concurrent use; every answer is of one moment between two transactions. Lists
// are newest first unless said otherwise, and deleted things are not in them; single reads return deleted rows too, marked.
type Reader interface {
	Project(context.Context, events.ProjectID) (Project, error)
	Projects(context.Context, ProjectFilter, Page) ([]Project, Cursor, error)
	Repository(context.Context, events.RepositoryID) (Repository, error)
	Repositories(context.Context, events.ProjectID, Page) ([]Repository, Cursor, error)
	Snapshot(context.Context, events.RepositoryID, events.SnapshotID) (Snapshot, error)
	Snapshots(context.Context, events.RepositoryID, Page) ([]Snapshot, Cursor, error)
	// SnapshotUsers counts the repositories, not deleted, that hold a snapshot.
	SnapshotUsers(context.Context, events.SnapshotID) (int, error)
	Scan(context.Context, events.ScanID) (Scan, error)
	Scans(context.Context, ScanFilter, Page) ([]Scan, Cursor, error)
	// Unfinished lists the scans that are not over, oldest first.
	Unfinished(context.Context) ([]Scan, error)
	// Queue says how many scans wait, by priority.
	Queue(context.Context) (map[events.Priority]int, error)
	// QueuePositions are the scans' places among those that wait, from 1; 0 for one that does not wait.
	QueuePositions(context.Context, ...events.ScanID) ([]int, error)
	// Findings are ordered by severity, file, line and id.
	Findings(context.Context, FindingFilter, Page) ([]FindingView, Cursor, error)
	// Finding is a finding as the latest scan that saw it did.
	Finding(context.Context, events.FindingID) (FindingView, error)
	// Triages are the current decisions about findings; those about which nobody decided anything are not among them.
	Triages(context.Context, ...events.FindingID) (map[events.FindingID]Triage, error)
	// Rollup sums a project up.
	Rollup(context.Context, events.ProjectID) (Rollup, error)
	// Usage sums up by f.By what calls cost when they ended: days newest first, scans newest first, projects and users by id. What those of deleted projects
	// and repositories cost stays in the sums; a member's are those of projects that are not deleted.
	Usage(context.Context, UsageFilter, Page) (UsageSums, Cursor, error)
	// APIKey returns one API key, revoked and expired ones too.
	APIKey(context.Context, events.APIKeyID) (APIKey, error)
	// APIKeys lists a user's API keys, all users' when user is empty; revoked and expired ones too.
	APIKeys(ctx context.Context, user events.UserID, p Page) ([]APIKey, Cursor, error)
	// ParkedAggregates lists what could not be applied.
	ParkedAggregates(context.Context) ([]Parked, error)
}

// FindingView is a finding with what people decided about it.
type FindingView struct {
	Finding
	Triage        events.Triage
	TriageVersion events.Version // 0: nobody decided anything
}

// Rollup of a project: open findings of each repository's last completed scan.
type Rollup struct {
	Open         events.Counts
	Repositories int
	LastScan     events.ScanID // empty: none yet
	Usage        events.Usage
}

type (
	// ProjectFilter selects projects; an empty User means all.
	ProjectFilter struct{ User events.UserID }

	// ScanFilter selects scans; empty fields select all.
	ScanFilter struct {
		Repository events.RepositoryID
		Project    events.ProjectID
		Member     events.UserID // only scans of projects this user is a member of
		Statuses   []scan.Status
		// FailureCode selects failed scans by why they failed.
		FailureCode string
	}

	// FindingFilter selects findings: those of one Scan, or, without it, the current ones of a Repository, which are those of its last
	// completed scan. Empty fields select all.
	FindingFilter struct {
		Scan       events.ScanID
		Repository events.RepositoryID
		Member     events.UserID
		Severities []events.Severity
		States     []events.TriageState
	}

	// Page asks for a part of a list. Limit is 1 to MaxLimit; DefaultLimit when 0.
	Page struct {
		Limit int
		After Cursor
	}

	// Cursor is an opaque place in a list; empty at its beginning and after its end.
	Cursor string
)

// Limits of a page.
const (
	DefaultLimit = 50
	MaxLimit     = 1000
)

// Size is the number of rows the page may hold.
func (p Page) Size() int {
	if p.Limit <= 0 {
		return DefaultLimit
	}
	return min(p.Limit, MaxLimit)
}

// SeqCursor and FindingCursor build cursors; a backend reads them back with ReadSeqCursor and ReadFindingCursor. An empty cursor
// reads as false.
func SeqCursor(s events.Seq) Cursor { return encodeCursor(cursorBody{Seq: s}) }

// FindingCursor is the place of one finding in the order of findings.
func FindingCursor(f Finding) Cursor {
	return encodeCursor(cursorBody{Rank: f.Severity.Rank() + 1, File: f.File, Line: f.StartLine, ID: string(f.ID)})
}

// ReadSeqCursor returns the sequence that a list stopped at. It returns ErrBadCursor.
func ReadSeqCursor(c Cursor) (events.Seq, bool, error) {
	b, ok, err := decodeCursor(c)
	if err != nil || !ok {
		return 0, false, err
	}
	if b.Seq == 0 || b.By != "" {
		return 0, false, ErrBadCursor
	}
	return b.Seq, true, nil
}

// ReadFindingCursor returns a finding that holds the place where a list stopped. It returns ErrBadCursor.
func ReadFindingCursor(c Cursor) (Finding, bool, error) {
	b, ok, err := decodeCursor(c)
	if err != nil || !ok {
		return Finding{}, false, err
	}
	if b.Rank < 1 || b.Rank > len(events.Severities())+1 || b.ID == "" || b.By != "" {
		return Finding{}, false, ErrBadCursor
	}
	f := Finding{Finding: events.Finding{File: b.File, StartLine: b.Line, ID: events.FindingID(b.ID)}}
	if b.Rank <= len(events.Severities()) {
		f.Severity = events.Severities()[b.Rank-1]
	}
	return f, true, nil
}

// CompareFindings is the order of findings: worst first, then by place, then by id and scan.
func CompareFindings(a, b Finding) int {
	return cmp.Or(
		cmp.Compare(a.Severity.Rank(), b.Severity.Rank()),
		strings.Compare(a.File, b.File),
		cmp.Compare(a.StartLine, b.StartLine),
		strings.Compare(string(a.ID), string(b.ID)),
	)
}

type cursorBody struct {
	Seq  events.Seq `json:"s,omitempty"`
	Rank int        `json:"r,omitempty"`
	File string     `json:"f,omitempty"`
	Line int        `json:"l,omitempty"`
	ID   string     `json:"i,omitempty"`
	By   UsageBy    `json:"b,omitempty"`
}

func encodeCursor(b cursorBody) Cursor {
	j, err := json.Marshal(b)
	if err != nil {
		panic(fmt.Sprintf("projections: cursor: %v", err)) // strings and numbers always encode
	}
	return Cursor(base64.RawURLEncoding.EncodeToString(j))
}

// maxCursor bounds what is decoded: a path in a cursor is at most as long as an archive may make it.
const maxCursor = 12 << 10

func decodeCursor(c Cursor) (cursorBody, bool, error) {
	if c == "" {
		return cursorBody{}, false, nil
	}
	var b cursorBody
	if len(c) > maxCursor {
		return b, false, ErrBadCursor
	}
	j, err := base64.RawURLEncoding.DecodeString(string(c))
	if err != nil {
		return b, false, ErrBadCursor
	}
	if err := json.Unmarshal(j, &b); err != nil {
		return b, false, ErrBadCursor
	}
	return b, true, nil
}

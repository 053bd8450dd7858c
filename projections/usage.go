package projections

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"vega/events"
)

// UsageBy says what sums of usage are of.
type UsageBy string

const (
	ByDay     UsageBy = "day"
	ByProject UsageBy = "project"
	ByUser    UsageBy = "user"
	ByScan    UsageBy = "scan"
)

// UsageFilter selects what was spent and says by what it is summed up. Empty fields select all.
type UsageFilter struct {
	By       UsageBy
	From, To Day // both inclusive
	Project  events.ProjectID
	User     events.UserID // who asked for the scan
	Scan     events.ScanID
	Member   events.UserID // only of projects this user is a member of
}

// UsageSums is a page of sums and the sum over everything that the filter selects, on this page or not.
type UsageSums struct {
	Sums  []UsageSum
	Total UsageSum
}

// UsageSum is what calls cost. Of its ids those are set that all the calls have in common by how they were summed up. A sum that is too large for its type
// is the largest that is not.
type UsageSum struct {
	Day        Day                 `json:"day,omitempty"`
	Scan       events.ScanID       `json:"scan_id,omitempty"`
	Queued     events.Seq          `json:"scan_seq,omitempty"` // of the scan: its place in the order of scans
	Project    events.ProjectID    `json:"project_id,omitempty"`
	Name       string              `json:"project_name,omitempty"`
	Deleted    bool                `json:"project_deleted,omitempty"`
	Repository events.RepositoryID `json:"repository_id,omitempty"`
	User       events.UserID       `json:"user_id,omitempty"`
	Usage      events.Usage        `json:"usage"`
	Estimated  int64               `json:"estimated_requests,omitempty"`
}

// Add adds what the calls of a scan cost on a day.
func (s *UsageSum) Add(r *DayUsage) {
	s.Usage, s.Estimated = plus(s.Usage, r.Usage), sum(s.Estimated, r.Estimated)
}

// Group is an empty sum for a row and all that belong together with it.
func (by UsageBy) Group(r *DayUsage) UsageSum {
	switch by {
	case ByProject:
		return UsageSum{Project: r.Project}
	case ByUser:
		return UsageSum{User: r.User}
	case ByScan:
		return UsageSum{Scan: r.Scan, Queued: r.Queued, Project: r.Project, Repository: r.Repository, User: r.User}
	default:
		return UsageSum{Day: r.Day}
	}
}

// Key is the same for rows that belong together.
func (by UsageBy) Key(r *DayUsage) string {
	switch by {
	case ByProject:
		return string(r.Project)
	case ByUser:
		return string(r.User)
	case ByScan:
		return string(r.Scan)
	default:
		return string(r.Day)
	}
}

// Compare is the order of sums.
func (by UsageBy) Compare(a, b UsageSum) int {
	switch by {
	case ByProject:
		return strings.Compare(string(a.Project), string(b.Project))
	case ByUser:
		return strings.Compare(string(a.User), string(b.User))
	case ByScan:
		return cmp.Compare(b.Queued, a.Queued)
	default:
		return strings.Compare(string(b.Day), string(a.Day))
	}
}

// Cursor is the place of one sum in the order of sums. It means nothing to a list that sums up otherwise.
func (by UsageBy) Cursor(s UsageSum) Cursor {
	switch by {
	case ByProject:
		return encodeCursor(cursorBody{By: by, ID: string(s.Project)})
	case ByUser:
		return encodeCursor(cursorBody{By: by, ID: string(s.User)})
	case ByScan:
		return encodeCursor(cursorBody{By: by, Seq: s.Queued})
	default:
		return encodeCursor(cursorBody{By: ByDay, ID: string(s.Day)})
	}
}

// ReadCursor returns a sum that holds the place where a list stopped; an empty cursor reads as false. It returns ErrBadCursor, also for the cursor of a list that is summed up
// otherwise.
func (by UsageBy) ReadCursor(c Cursor) (UsageSum, bool, error) {
	b, ok, err := decodeCursor(c)
	if err != nil || !ok {
		return UsageSum{}, false, err
	}
	if b.By != cmp.Or(by, ByDay) || (b.Seq != 0) != (by == ByScan) {
		return UsageSum{}, false, ErrBadCursor
	}
	return UsageSum{Day: Day(b.ID), Project: events.ProjectID(b.ID), User: events.UserID(b.ID), Queued: b.Seq}, true, nil
}

// Has says whether a row is selected, apart from whose member may see it.
func (f *UsageFilter) Has(r *DayUsage) bool {
	return (f.From == "" || r.Day >= f.From) && (f.To == "" || r.Day <= f.To) &&
		(f.Project == "" || r.Project == f.Project) && (f.User == "" || r.User == f.User) && (f.Scan == "" || r.Scan == f.Scan)
}

// SortUsage puts sums in their order and returns the page that begins after a cursor.
func (by UsageBy) SortUsage(sums []UsageSum, p Page) ([]UsageSum, Cursor, error) {
	after, begun, err := by.ReadCursor(p.After)
	if err != nil {
		return nil, "", err
	}
	slices.SortFunc(sums, by.Compare)
	if begun {
		i, found := slices.BinarySearchFunc(sums, after, by.Compare)
		if found {
			i++
		}
		sums = sums[i:]
	}
	if len(sums) <= p.Size() {
		return sums, "", nil
	}
	sums = sums[:p.Size()]
	return sums, by.Cursor(sums[len(sums)-1]), nil
}

// plus is the sum of two, or as much of it as fits.
func plus(u, v events.Usage) events.Usage {
	return events.Usage{
		Requests: sum(u.Requests, v.Requests), InputTokens: sum(u.InputTokens, v.InputTokens), CachedInputTokens: sum(u.CachedInputTokens, v.CachedInputTokens),
		OutputTokens: sum(u.OutputTokens, v.OutputTokens), ReasoningTokens: sum(u.ReasoningTokens, v.ReasoningTokens), CostNanoUSD: sum(u.CostNanoUSD, v.CostNanoUSD),
	}
}

func sum(a, b int64) int64 {
	if b > 0 && a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

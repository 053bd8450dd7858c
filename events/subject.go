package events

import (
	"fmt"
	"strings"
)

// AggregateKind is a noun whose events share one consistency boundary.
type AggregateKind string

const (
	ScanAggregate       AggregateKind = "scan"
	SlotsAggregate      AggregateKind = "slots"
	UsageAggregate      AggregateKind = "usage" // of a scan's calls to the provider; it has the scan's id
	FindingAggregate    AggregateKind = "finding"
	ProjectAggregate    AggregateKind = "project"
	RepositoryAggregate AggregateKind = "repository"
	APIKeyAggregate     AggregateKind = "api_key"
)

// AggregateKinds lists them. The event stream's subjects are exactly these: never "vega.<region>.>", because a stream
// answers, and stores, any request that is published inside its subjects.
func AggregateKinds() []AggregateKind {
	return []AggregateKind{ScanAggregate, SlotsAggregate, UsageAggregate, FindingAggregate, ProjectAggregate, RepositoryAggregate, APIKeyAggregate}
}

// Aggregate names one consistency boundary: all its events are ordered and versioned together.
type Aggregate struct {
	Region Region
	Kind   AggregateKind
	ID     string
}

// The aggregates by their ids.
func ScanOf(r Region, id ScanID) Aggregate       { return Aggregate{r, ScanAggregate, string(id)} }
func SlotsOf(r Region, id UserID) Aggregate      { return Aggregate{r, SlotsAggregate, string(id)} }
func UsageOf(r Region, id ScanID) Aggregate      { return Aggregate{r, UsageAggregate, string(id)} }
func FindingOf(r Region, id FindingID) Aggregate { return Aggregate{r, FindingAggregate, string(id)} }
func ProjectOf(r Region, id ProjectID) Aggregate { return Aggregate{r, ProjectAggregate, string(id)} }
func RepositoryOf(r Region, id RepositoryID) Aggregate {
	return Aggregate{r, RepositoryAggregate, string(id)}
}
func APIKeyOf(r Region, id APIKeyID) Aggregate { return Aggregate{r, APIKeyAggregate, string(id)} }

// String is "<kind> <id>", for errors and logs.
func (a Aggregate) String() string { return string(a.Kind) + " " + a.ID }

// Filter matches every event of the aggregate. It is the one spelling of the optimistic-concurrency filter: a replicated
// server compares filters as strings, and two spellings let two writers win. Usage is appended under ScanAndUsageFilter instead.
func (a Aggregate) Filter() string { return a.prefix() + ">" }

// ScanAndUsageFilter matches every event of a scan and of its usage, which has the scan's id. It is the one spelling of the expectation of all who append usage.
func ScanAndUsageFilter(r Region, id ScanID) string {
	return Aggregate{r, "*", string(id)}.Filter()
}

// Subject is where e is published: the aggregate's one event subject, or its ready subject when e makes work.
func (a Aggregate) Subject(e Event) string {
	if p, ok := readyPriority(e); ok {
		return a.prefix() + "ready." + string(p)
	}
	return a.prefix() + "e"
}

func (a Aggregate) prefix() string {
	return "vega." + string(a.Region) + "." + string(a.Kind) + "." + a.ID + "."
}

// readyPriority tells the events that are work items, and for which queue.
func readyPriority(e Event) (Priority, bool) {
	switch e := e.(type) {
	case ScanQueued:
		return e.Priority, true
	case AttemptReleased:
		return e.Priority, true
	case AttemptExpired:
		return e.Priority, true
	default:
		return "", false
	}
}

// StreamSubjects are the subjects of a region's event stream.
func StreamSubjects(r Region) []string {
	var s []string
	for _, k := range AggregateKinds() {
		s = append(s, KindFilter(r, k))
	}
	return s
}

// KindFilter matches every event of every aggregate of one kind.
func KindFilter(r Region, k AggregateKind) string {
	return "vega." + string(r) + "." + string(k) + ".>"
}

// AnyReadyFilter matches the work items of all priorities. A server brings those of several filters far slower than those of one.
func AnyReadyFilter(r Region) string { return ReadyFilter(r, "*") }

// ReadyFilter matches the work items of one priority.
func ReadyFilter(r Region, p Priority) string {
	return "vega." + string(r) + "." + string(ScanAggregate) + ".*.ready." + string(p)
}

// FeedSubject is where a scan's progress and log lines go; FeedSubjects matches all of a region's.
func FeedSubject(r Region, id ScanID) string { return "vegafeed." + string(r) + "." + string(id) }
func FeedSubjects(r Region) string           { return "vegafeed." + string(r) + ".*" }

// PingSubject is where a worker answers that it is alive. It lies outside every stream: a request to a dead worker gets
// "no responders" at once instead of a stream's acknowledgement.
func PingSubject(r Region, w WorkerID) string { return "vegactl." + string(r) + ".ping." + string(w) }

// LookSubject is where a worker is told that something happened to a scan of its own, whose id is the message; DrainSubject is where it is asked to take
// no more.
func LookSubject(r Region, w WorkerID) string  { return "vegactl." + string(r) + ".look." + string(w) }
func DrainSubject(r Region, w WorkerID) string { return "vegactl." + string(r) + ".drain." + string(w) }

// LimitsSubject is where processes tell each other what they admitted under a rate limit.
func LimitsSubject(r Region) string { return "vegactl." + string(r) + ".limits" }

// ParseSubject finds the aggregate that an event subject belongs to, and the priority if it is a work item.
func ParseSubject(subject string) (Aggregate, Priority, error) {
	f := strings.Split(subject, ".")
	bad := func() (Aggregate, Priority, error) {
		return Aggregate{}, "", fmt.Errorf("not an event subject: %.120q", subject)
	}
	if len(f) < 5 || f[0] != "vega" || CheckRegion(Region(f[1])) != nil || CheckID("id", f[3]) != nil {
		return bad()
	}
	a := Aggregate{Region(f[1]), AggregateKind(f[2]), f[3]}
	switch {
	case len(f) == 5 && f[4] == "e":
		return a, "", nil
	case len(f) == 6 && f[4] == "ready" && (f[5] == "high" || f[5] == "normal" || f[5] == "low"):
		return a, Priority(f[5]), nil
	}
	return bad()
}

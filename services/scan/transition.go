//go:generate go test . -run Diagram -update

package scan

import (
	"fmt"
	"io"
	"slices"

	"vega/events"
)

// Status is where a scan is in its life.
type Status string

const (
	None       Status = ""           // no event yet
	Queued     Status = "queued"     // waits for a worker
	Claimed    Status = "claimed"    // a worker has it and fetches the source
	Running    Status = "running"    // its stages run
	Cancelling Status = "cancelling" // asked to stop; the process is not gone yet
	Completed  Status = "completed"
	Failed     Status = "failed"
	Cancelled  Status = "cancelled"
	Abandoned  Status = "abandoned" // an id that was reserved and never used
)

// Statuses lists them in the order of a life.
func Statuses() []Status {
	return []Status{None, Queued, Claimed, Running, Cancelling, Completed, Failed, Cancelled, Abandoned}
}

// Terminal says that nothing happens to the scan any more.
func (s Status) Terminal() bool {
	return s == Completed || s == Failed || s == Cancelled || s == Abandoned
}

// Active says that the scan counts against its user's limit.
func (s Status) Active() bool { return s != None && !s.Terminal() }

// transition is one row: in From, an event of Kind leads To.
type transition struct {
	From Status
	Kind events.Kind
	To   Status
}

// transitions is the one table of what may happen. What is not here may not be appended, and changes nothing when it is read.
var transitions = []transition{
	{None, "scan.queued", Queued},
	{None, "scan.abandoned", Abandoned},

	{Queued, "scan.queued", Queued}, // the hint was lost and is given again
	{Queued, "scan.claimed", Claimed},
	{Queued, "scan.cancelled", Cancelled}, // no worker had it
	{Queued, "scan.failed", Failed},       // it waited for something that cannot come

	{Claimed, "scan.runner_joined", Claimed},
	{Claimed, "scan.started", Running},
	{Claimed, "scan.cancel_requested", Cancelling},
	{Claimed, "scan.released", Queued},
	{Claimed, "scan.expired", Queued},
	{Claimed, "scan.failed", Failed},

	{Running, "scan.unit_completed", Running},
	{Running, "scan.stage_completed", Running},
	{Running, "scan.findings_recorded", Running},
	{Running, "scan.cancel_requested", Cancelling},
	{Running, "scan.released", Queued},
	{Running, "scan.expired", Queued},
	{Running, "scan.completed", Completed},
	{Running, "scan.failed", Failed},

	{Cancelling, "scan.cancelled", Cancelled},
}

var next = func() map[Status]map[events.Kind]Status {
	m := map[Status]map[events.Kind]Status{}
	for _, t := range transitions {
		if m[t.From] == nil {
			m[t.From] = map[events.Kind]Status{}
		}
		m[t.From][t.Kind] = t.To
	}
	return m
}()

// Next is the status after an event of kind k, and whether k may happen in s at all.
func Next(s Status, k events.Kind) (Status, bool) {
	to, ok := next[s][k]
	if !ok {
		return s, false
	}
	return to, true
}

// Ends says that a scan is over with an event of kind k.
func Ends(k events.Kind) bool {
	for _, t := range transitions {
		if t.Kind == k && t.To.Terminal() {
			return true
		}
	}
	return false
}

// WriteDiagram draws the table as a Mermaid state diagram.
func WriteDiagram(w io.Writer) error {
	name := func(s Status) string {
		if s == None {
			return "[*]"
		}
		return string(s)
	}
	if _, err := fmt.Fprintln(w, "stateDiagram-v2"); err != nil {
		return err
	}
	for _, t := range transitions {
		if _, err := fmt.Fprintf(w, "    %s --> %s: %s\n", name(t.From), name(t.To), string(t.Kind)[len("scan."):]); err != nil {
			return err
		}
	}
	for _, s := range slices.DeleteFunc(Statuses(), func(s Status) bool { return !s.Terminal() }) {
		if _, err := fmt.Fprintf(w, "    %s --> [*]\n", s); err != nil {
			return err
		}
	}
	return nil
}

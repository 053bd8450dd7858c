package scan

import (
	"fmt"
	"slices"
	"time"

	"vega/events"
)

// Slots are a user's active scans as far as the limit is concerned. Every event carries the whole set, so the last one is the
// state. Nothing gives a slot back: whoever finds the set full passes the ids that are over, so no crash can leak one.
type Slots struct {
	Active []events.Slot // oldest first
}

// Evolve returns the slots after r.
func (s Slots) Evolve(r events.Recorded) Slots {
	if e, ok := r.Event.(events.Slots); ok {
		return Slots{e.Active}
	}
	return s
}

// LimitError says that a user has as many active scans as allowed.
type LimitError struct {
	Limit  int
	Active []events.Slot
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%d scans are active, at most %d are allowed", len(e.Active), e.Limit)
}

// Take decides to put id into the user's slots at a moment, dropping those that are over. Nothing when id is there already; *LimitError when
// the set is full without them.
func (s Slots) Take(user events.UserID, id events.ScanID, at time.Time, limit int, over func(events.Slot) bool) ([]events.Event, error) {
	if slices.ContainsFunc(s.Active, func(x events.Slot) bool { return x.Scan == id }) {
		return nil, nil
	}
	active := slices.Clone(s.Active)
	if len(active) >= limit {
		active = slices.DeleteFunc(active, over)
	}
	if len(active) >= limit {
		return nil, &LimitError{limit, active}
	}
	return []events.Event{events.Slots{User: user, Active: append(active, events.Slot{Scan: id, At: at})}}, nil
}

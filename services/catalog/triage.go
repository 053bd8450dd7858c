package catalog

import (
	"vega/events"
)

// Finding is people's decision about one weakness of a repository: the state of its triage.
type Finding struct {
	Triage  events.Triage
	Version events.Version
}

// Evolve returns the state after r.
func (f Finding) Evolve(r events.Recorded) Finding {
	f.Version = r.Version
	if e, ok := r.Event.(events.FindingTriaged); ok {
		f.Triage = events.Triage{State: e.State, Reason: e.Reason, Note: e.Note, Actor: r.Actor, At: r.At}
	}
	return f
}

// Decide records a decision; nothing when it changes nothing. e.From is filled in here.
func (f Finding) Decide(e events.FindingTriaged) ([]events.Event, error) {
	e.From = f.Triage.State
	if e.From == "" {
		e.From = events.TriageOpen
	}
	if err := checkText("note", e.Note, 0, 4000, true); err != nil {
		return nil, err
	}
	switch e.State {
	case events.TriageOpen, events.TriageConfirmed:
		if e.Reason != "" {
			return nil, &InvalidError{"reason", "none unless state is dismissed"}
		}
	case events.TriageDismissed:
		switch e.Reason {
		case events.FalsePositive, events.AcceptedRisk, events.WillNotFix, events.AlreadyFixed:
		default:
			return nil, &InvalidError{"reason", "false_positive, accepted_risk, will_not_fix or already_fixed"}
		}
	default:
		return nil, &InvalidError{"state", "open, confirmed or dismissed"}
	}
	if e.State == e.From && e.Reason == f.Triage.Reason && e.Note == f.Triage.Note {
		return nil, nil
	}
	return []events.Event{e}, nil
}

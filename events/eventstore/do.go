package eventstore

import (
	"context"
	"errors"
	"fmt"

	"vega/events"
)

// State is what deciders decide on: the fold of an aggregate's events.
type State[S any] interface {
	// Evolve returns the state after r. It is pure and cannot fail; it ignores what it does not know.
	Evolve(r events.Recorded) S
}

// maxConflicts is how often Do loads and decides again before it gives up: one aggregate that busy is a design error.
const maxConflicts = 50

// ErrNewerEvents is returned by Do when the aggregate holds facts of a later release: deciding without them would be guessing.
var ErrNewerEvents = errors.New("aggregate holds events of a newer release")

// Do runs one command: load the aggregate, fold it, decide, append, and on a conflict load the rest and decide again. It returns
// the state after the command and the events it has in the log: those of an earlier try when the command id is known already, none
// when there was nothing to do. decide is pure; its error is returned as it is, and nothing is stored. Other errors are those of Load
// and Append, and ErrNewerEvents.
func Do[S State[S]](ctx context.Context, s *Store, a events.Aggregate, meta events.Meta, decide func(S, events.Head) ([]events.Event, error)) (S, []events.Recorded, error) {
	var (
		state S
		head  events.Head
		mine  []events.Recorded
	)
	for range maxConflicts {
		past, now, err := s.loadPatiently(ctx, a, head)
		if err != nil {
			return state, nil, err
		}
		head = now
		for _, r := range past {
			if u, ok := r.Event.(events.Unknown); ok {
				return state, nil, fmt.Errorf("%w: %s has %s schema %d", ErrNewerEvents, a, u.Kind, u.Schema)
			}
			state = state.Evolve(r)
			if r.Command == meta.Command {
				mine = append(mine, r)
			}
		}
		if len(mine) > 0 {
			return state, mine, nil
		}
		evs, err := decide(state, head)
		if err != nil || len(evs) == 0 {
			if head.Seq == 0 { // "no such thing" has to be true
				if none := s.patiently(ctx, a, func() error { return s.confirmNone(ctx, a) }); none != nil {
					return state, nil, none
				}
			}
			return state, nil, err
		}
		recorded, err := s.Append(ctx, a, head, meta, evs...)
		if errors.Is(err, ErrConflict) {
			continue
		}
		if err != nil {
			return state, nil, err
		}
		for _, r := range recorded {
			state = state.Evolve(r)
		}
		return state, recorded, nil
	}
	return state, nil, fmt.Errorf("%s: %w %d times in a row", a, ErrConflict, maxConflicts)
}

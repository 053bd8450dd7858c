package eventstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"vega/events"
)

// Load returns the events of a after from, in order, and where a stands now. It returns no less than the leader had when it was
// called, checks versions and the hash chain on the way, and returns a *ChainError where they break, ErrUnavailable when the log does not answer.
// An aggregate that does not exist has no events and the zero Head.
func (s *Store) Load(ctx context.Context, a events.Aggregate, from events.Head) ([]events.Recorded, events.Head, error) {
	deadline := time.Now().Add(s.patience)
	pause := newBackoff()
	for {
		out, head, err := s.load(ctx, a, from)
		if err == nil || !errors.Is(err, ErrUnavailable) {
			return out, head, err
		}
		if ctx.Err() != nil {
			return nil, from, ctx.Err()
		}
		if time.Now().After(deadline) {
			return nil, from, fmt.Errorf("load %s: %w", a, err)
		}
		if werr := pause.wait(ctx); werr != nil {
			return nil, from, werr
		}
	}
}

func (s *Store) load(ctx context.Context, a events.Aggregate, from events.Head) ([]events.Recorded, events.Head, error) {
	last, err := s.leaderLast(ctx, a.Filter())
	if err != nil {
		return nil, from, err
	}
	head := from
	var out []events.Recorded
	add := func(m stored) error {
		r, err := link(a, head, m)
		if err != nil {
			return err
		}
		head = r.Head()
		out = append(out, r)
		return nil
	}
	if last.seq <= from.Seq {
		if last.seq < from.Seq { // the log lost what the caller saw
			return nil, from, &ChainError{a, from.Seq, "the log ends before it"}
		}
		return nil, head, nil
	}
	if r, err := events.Decode(last.msg, last.seq); err == nil && r.Version == from.Version+1 {
		err := add(last) // the usual case of a follower or of a new aggregate: one question is enough
		return out, head, err
	}
	for head.Seq < last.seq {
		before := head.Seq
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		batch, err := jetstreamext.GetBatch(ctx, s.js, s.stream, 500, jetstreamext.GetBatchSubject(a.Filter()), jetstreamext.GetBatchSeq(uint64(head.Seq)+1))
		if err != nil {
			cancel()
			return nil, from, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		for m, err := range batch {
			if err != nil {
				if !errors.Is(err, jetstreamext.ErrNoMessages) {
					cancel()
					return nil, from, fmt.Errorf("%w: %w", ErrUnavailable, err)
				}
				break
			}
			if err := add(fromRaw(m)); err != nil {
				cancel()
				return nil, from, err
			}
		}
		cancel()
		if head.Seq == before { // a replica that is behind answered: ask again
			return nil, from, fmt.Errorf("%w: sequence %d of %s is not readable yet", ErrUnavailable, last.seq, a)
		}
	}
	return out, head, nil
}

// LoadLast returns the last event of a and no other: for aggregates whose every event carries the whole state. False when a does not
// exist. The chain before it is not checked.
func (s *Store) LoadLast(ctx context.Context, a events.Aggregate) (events.Recorded, bool, error) {
	deadline := time.Now().Add(s.patience)
	pause := newBackoff()
	for {
		last, err := s.leaderLast(ctx, a.Filter())
		if err == nil {
			if last.seq == 0 {
				return events.Recorded{}, false, nil
			}
			r, err := events.Decode(last.msg, last.seq)
			return r, err == nil, err
		}
		if ctx.Err() != nil {
			return events.Recorded{}, false, ctx.Err()
		}
		if time.Now().After(deadline) {
			return events.Recorded{}, false, fmt.Errorf("load %s: %w", a, err)
		}
		if werr := pause.wait(ctx); werr != nil {
			return events.Recorded{}, false, werr
		}
	}
}

// link decodes m as the successor of head and checks that it is.
func link(a events.Aggregate, head events.Head, m stored) (events.Recorded, error) {
	r, err := events.Decode(m.msg, m.seq)
	if err != nil {
		return r, err
	}
	if r.Version != head.Version+1 {
		return r, &ChainError{a, m.seq, fmt.Sprintf("version %d follows version %d", r.Version, head.Version)}
	}
	if events.Link(head.Hash, m.msg) != r.Hash {
		return r, &ChainError{a, m.seq, "contents and hash differ"}
	}
	return r, nil
}

func fromRaw(m *jetstream.RawStreamMsg) stored {
	return stored{events.Seq(m.Sequence), events.Message{Subject: m.Subject, Header: fromHeader(m.Header), Body: m.Data}}
}

func isNotFound(err error) bool { return errors.Is(err, jetstream.ErrMsgNotFound) }

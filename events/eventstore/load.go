package eventstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"vega/events"
)

// Load returns the events of a after from, in order, and where a stands now: what the leader had at some moment of the call, no less and no more. It
// checks versions and the hash chain on the way, and returns a *ChainError where they break or when the log goes on ending before from for as long as
// patience lasts, ErrUnavailable when it does not answer.
// An aggregate that does not exist has no events and the zero Head.
func (s *Store) Load(ctx context.Context, a events.Aggregate, from events.Head) ([]events.Recorded, events.Head, error) {
	out, head, err := s.loadPatiently(ctx, a, from)
	if err != nil || head.Seq > 0 {
		return out, head, err
	}
	return nil, head, s.patiently(ctx, a, func() error { return s.confirmNone(ctx, a) })
}

// loadPatiently is Load that believes a server which finds no event of a: asking for the count takes twice as long as the load. Who then makes a anew
// beside events that cannot be read breaks its chain, and Verify and followers say so.
func (s *Store) loadPatiently(ctx context.Context, a events.Aggregate, from events.Head) (out []events.Recorded, head events.Head, err error) {
	err = s.patiently(ctx, a, func() (err error) {
		out, head, err = s.load(ctx, a, from)
		return err
	})
	if err != nil {
		return nil, from, err
	}
	return out, head, nil
}

// patiently asks until there is an answer, patience ends or ctx does.
func (s *Store) patiently(ctx context.Context, a events.Aggregate, ask func() error) error {
	deadline := time.Now().Add(s.patience)
	pause := newBackoff()
	for {
		err := ask()
		if err == nil || !errors.Is(err, ErrUnavailable) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("load %s: %w", a, outOfPatience(err))
		}
		if werr := pause.wait(ctx); werr != nil {
			return werr
		}
	}
}

// confirmNone returns a *ChainError when the server counts events of a although it finds none: it skips what it cannot read.
func (s *Store) confirmNone(ctx context.Context, a events.Aggregate) error {
	req, err := json.Marshal(map[string]string{"subjects_filter": a.Filter()})
	if err != nil {
		return err
	}
	once, cancel := s.replies.while(ctx, requestTimeout)
	defer cancel()
	m, err := s.nc.RequestWithContext(once, "$JS.API.STREAM.INFO."+s.stream, req)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, unanswered(ctx, err))
	}
	var v struct {
		Error *jetstream.APIError `json:"error"`
		State struct {
			Subjects map[string]uint64 `json:"subjects"`
		} `json:"state"`
	}
	if err := json.Unmarshal(m.Data, &v); err != nil {
		return fmt.Errorf("%w: unreadable answer: %w", ErrUnavailable, err)
	}
	if v.Error != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, v.Error)
	}
	if len(v.State.Subjects) == 0 {
		return nil
	}
	// One may have been stored since we were told that there are none.
	last, err := s.leaderLast(ctx, a.Filter())
	if err != nil || last.seq > 0 {
		return err
	}
	return &ChainError{a, 0, "it has events, and the last one cannot be read"}
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
		if last.seq < from.Seq {
			return nil, from, behind(a, from.Seq)
		}
		return nil, head, nil
	}
	if r, err := events.Decode(last.msg, last.seq); err == nil && r.Version == from.Version+1 {
		err := add(last) // the usual case of a follower or of a new aggregate: one question is enough
		return out, head, err
	}
	for head.Seq < last.seq {
		before := head.Seq
		once, cancel := s.replies.while(ctx, requestTimeout)
		batch, err := jetstreamext.GetBatch(once, s.js, s.stream, 500, jetstreamext.GetBatchSubject(a.Filter()), jetstreamext.GetBatchSeq(uint64(head.Seq)+1))
		if err != nil {
			cancel()
			return nil, from, fmt.Errorf("%w: %w", ErrUnavailable, unanswered(ctx, err))
		}
		for m, err := range batch {
			if err != nil {
				if !errors.Is(err, jetstreamext.ErrNoMessages) {
					cancel()
					return nil, from, fmt.Errorf("%w: %w", ErrUnavailable, unanswered(ctx, err))
				}
				break
			}
			if m.Sequence > uint64(last.seq) {
				break // a replica that is ahead of the leader answered: the leader would deny it to the caller's next question
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
	var last stored
	err := s.patiently(ctx, a, func() (err error) {
		last, err = s.leaderLast(ctx, a.Filter())
		return err
	})
	if err != nil || last.seq == 0 {
		return events.Recorded{}, false, err
	}
	r, err := events.Decode(last.msg, last.seq)
	return r, err == nil, err
}

// behind says that the leader's last event of a comes before seq, which somebody has seen. Either the leader has not applied it yet, which a replica or
// a consumer may be faster at: that is worth another question, as if there had been no answer. Or the log has lost it: see outOfPatience.
func behind(a events.Aggregate, seq events.Seq) error {
	return fmt.Errorf("%w: %w", ErrUnavailable, &ChainError{a, seq, "the log ends before it"})
}

// outOfPatience is what a caller is told when err is still the answer at the end: a leader that is still behind has lost events, and asking again will not help.
func outOfPatience(err error) error {
	if lost, ok := errors.AsType[*ChainError](err); ok {
		return lost
	}
	return err
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

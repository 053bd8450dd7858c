package eventstore

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
)

// FeedLine is a progress report or a log line of a running scan. It is no fact: a crash may lose the last ones, and a line of a
// superseded attempt may still arrive; readers drop those of older generations.
type FeedLine struct {
	Kind       string         `json:"kind"` // scan_progress or scan_log
	Attempt    int            `json:"attempt"`
	Generation events.Seq     `json:"generation"` // sequence of the attempt's claim
	At         time.Time      `json:"at"`
	Payload    map[string]any `json:"payload"`
	Seq        events.Seq     `json:"-"` // its place in the feed stream, set when read
}

// MaxFeedLine bounds one line, in bytes of JSON.
const MaxFeedLine = 64 << 10

// PublishFeed sends a line without waiting for it to be stored.
func (s *Store) PublishFeed(id events.ScanID, l FeedLine) error {
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("feed of %s: %w", id, err)
	}
	if len(b) > MaxFeedLine {
		return fmt.Errorf("feed of %s: a line of %d bytes, at most %d", id, len(b), MaxFeedLine)
	}
	if err := s.room(); err != nil {
		return fmt.Errorf("feed of %s: %w: %w", id, ErrFull, err)
	}
	if err := s.nc.PublishMsg(&nats.Msg{Subject: events.FeedSubject(s.region, id), Data: b}); err != nil {
		return fmt.Errorf("feed of %s: %w", id, err)
	}
	return nil
}

// FollowFeed yields a scan's lines after a feed sequence: those that are kept, then new ones, until ctx ends.
func (s *Store) FollowFeed(ctx context.Context, id events.ScanID, after events.Seq) iter.Seq2[FeedLine, error] {
	return func(yield func(FeedLine, error) bool) {
		cfg := jetstream.OrderedConsumerConfig{FilterSubjects: []string{events.FeedSubject(s.region, id)}, DeliverPolicy: jetstream.DeliverAllPolicy, InactiveThreshold: 30 * time.Second}
		if after > 0 {
			cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, uint64(after)+1
		}
		in, stop, err := s.consumeFrom(ctx, FeedName(s.region), cfg, 64)
		if err != nil {
			if ctx.Err() == nil {
				yield(FeedLine{}, err)
			}
			return
		}
		defer stop()
		var msgs []jetstream.Msg
		for {
			if msgs, err = in.take(ctx, msgs, 64); err != nil {
				if ctx.Err() == nil {
					yield(FeedLine{}, err)
				}
				return
			}
			for _, m := range msgs {
				l, err := decodeFeed(m)
				if err != nil {
					continue // not one of ours; a feed line is never worth a broken stream
				}
				if !yield(l, nil) {
					return
				}
			}
		}
	}
}

// FeedLast is the sequence of the last line of a scan, 0 when none is kept.
func (s *Store) FeedLast(ctx context.Context, id events.ScanID) (events.Seq, error) {
	m, err := s.feedLast(ctx, id)
	if m == nil {
		return 0, err
	}
	return events.Seq(m.Sequence), nil
}

// FeedLastAt is when the last line of a scan was stored, the zero time when none is kept.
func (s *Store) FeedLastAt(ctx context.Context, id events.ScanID) (time.Time, error) {
	m, err := s.feedLast(ctx, id)
	if m == nil {
		return time.Time{}, err
	}
	return m.Time, nil
}

// feedLast is the last line of a scan as it is stored; nil when none is kept or with an error.
func (s *Store) feedLast(ctx context.Context, id events.ScanID) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	st, err := s.js.Stream(ctx, FeedName(s.region))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	m, err := st.GetLastMsgForSubject(ctx, events.FeedSubject(s.region, id))
	if err != nil {
		if isNotFound(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return m, nil
}

// FlushFeed waits until the server has every line that was published, for a scan that is about to end.
func (s *Store) FlushFeed(ctx context.Context) error { return s.nc.FlushWithContext(ctx) }

func decodeFeed(m jetstream.Msg) (FeedLine, error) {
	var l FeedLine
	md, err := m.Metadata()
	if err != nil {
		return l, err
	}
	if err := json.Unmarshal(m.Data(), &l); err != nil {
		return l, err
	}
	l.Seq = events.Seq(md.Sequence.Stream)
	return l, nil
}

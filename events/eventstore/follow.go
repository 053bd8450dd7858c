package eventstore

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
)

// GapError says that an event between two others is missing from the log: the server skips what it cannot read.
type GapError struct{ After, Next events.Seq }

func (e *GapError) Error() string {
	return fmt.Sprintf("the event log has no readable event between sequences %d and %d", e.After, e.Next)
}

// Follow yields the events after a sequence: first those that are there, then each new one as it is stored. It ends when ctx does
// (without an error) or with an error that is yielded last. With no filter it yields every event of the region and notices a gap;
// filters are those of package events. It survives reconnects by itself. What it yields may be a fact of a newer release (events.Unknown).
func (s *Store) Follow(ctx context.Context, after events.Seq, filters ...string) iter.Seq2[events.Recorded, error] {
	return func(yield func(events.Recorded, error) bool) {
		for batch, err := range s.FollowBatches(ctx, after, 1, filters...) {
			if err != nil {
				yield(events.Recorded{}, err)
				return
			}
			for _, r := range batch {
				if !yield(r, nil) {
					return
				}
			}
		}
	}
}

// FollowBatches is Follow for consumers that commit in groups: each batch is what has arrived, 1 to limit events. The slice is
// only valid until the next one.
func (s *Store) FollowBatches(ctx context.Context, after events.Seq, limit int, filters ...string) iter.Seq2[[]events.Recorded, error] {
	return func(yield func([]events.Recorded, error) bool) {
		msgs, stop, err := s.consume(ctx, after, limit, filters)
		if err != nil {
			if ctx.Err() == nil {
				yield(nil, err)
			}
			return
		}
		defer stop()
		last := after
		batch := make([]events.Recorded, 0, limit)
		for {
			batch = batch[:0]
			select {
			case m := <-msgs:
				for {
					r, err := decodeMsg(m)
					if err == nil && len(filters) == 0 && r.Seq != last+1 {
						err = &GapError{last, r.Seq}
					}
					if err != nil {
						if len(batch) > 0 && !yield(batch, nil) {
							return
						}
						yield(nil, err)
						return
					}
					last = r.Seq
					batch = append(batch, r)
					if len(batch) == limit {
						break
					}
					more := false
					select {
					case m = <-msgs:
						more = true
					default:
					}
					if !more {
						break
					}
				}
				if !yield(batch, nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// consume starts an ordered consumer that fills the returned channel. The channel is never closed: its reader ends with ctx or
// by calling stop.
func (s *Store) consume(ctx context.Context, after events.Seq, limit int, filters []string) (<-chan jetstream.Msg, func(), error) {
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: filters, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: uint64(after) + 1, InactiveThreshold: 30 * time.Second}
	if after == 0 {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverAllPolicy, 0
	}
	return s.consumeFrom(ctx, s.stream, cfg, limit)
}

func (s *Store) consumeFrom(ctx context.Context, stream string, cfg jetstream.OrderedConsumerConfig, limit int) (<-chan jetstream.Msg, func(), error) {
	pause := newBackoff()
	for deadline := time.Now().Add(s.patience); ; {
		cons, err := s.js.OrderedConsumer(ctx, stream, cfg)
		if err == nil {
			msgs := make(chan jetstream.Msg, max(limit, 64))
			done := make(chan struct{})
			cc, err := cons.Consume(func(m jetstream.Msg) {
				select {
				case msgs <- m:
				case <-done:
				case <-ctx.Done():
				}
			}, jetstream.PullMaxMessages(min(max(limit, 64), 4096)))
			if err == nil {
				stop := func() {
					close(done)
					cc.Stop()
					<-cc.Closed()
				}
				return msgs, stop, nil
			}
		}
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		if time.Now().After(deadline) {
			return nil, nil, fmt.Errorf("follow %s: %w: %w", stream, ErrUnavailable, err)
		}
		if err := pause.wait(ctx); err != nil {
			return nil, nil, err
		}
	}
}

func decodeMsg(m jetstream.Msg) (events.Recorded, error) {
	md, err := m.Metadata()
	if err != nil {
		return events.Recorded{}, fmt.Errorf("follow: %w", err)
	}
	return events.Decode(events.Message{Subject: m.Subject(), Header: fromHeader(m.Headers()), Body: m.Data()}, events.Seq(md.Sequence.Stream))
}

// LogInfo tells one stream from another of the same name, and where it stands.
type LogInfo struct {
	Name    string
	Created time.Time // a stream that was recreated has another one
	First   events.Seq
	Last    events.Seq
	Bytes   uint64
}

// Info asks the server where the log stands.
func (s *Store) Info(ctx context.Context) (LogInfo, error) {
	st, err := s.js.Stream(ctx, s.stream)
	if err != nil {
		return LogInfo{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	i := st.CachedInfo()
	return LogInfo{i.Config.Name, i.Created.UTC(), events.Seq(i.State.FirstSeq), events.Seq(i.State.LastSeq), i.State.Bytes}, nil
}

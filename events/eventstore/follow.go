package eventstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
)

// GapError says that an event between two others is missing from the log: the server skips what it cannot read.
type GapError struct{ After, Next events.Seq }

func (e *GapError) Error() string {
	return fmt.Sprintf("the event log has no readable event between sequences %d and %d", e.After, e.Next)
}

// UnreadableError is an event that this build cannot decode: its contents do not have the shape that its type promises. Event holds what could
// be read of its envelope: the aggregate, the sequence and, where there is one, the kind. Followers go on after it.
type UnreadableError struct {
	Event events.Recorded
	Err   error
}

func (e *UnreadableError) Error() string { return e.Err.Error() }
func (e *UnreadableError) Unwrap() error { return e.Err }

// Follow yields the events after a sequence: first those that are there, then each new one as it is stored. It ends when ctx does
// (without an error) or with an error that is yielded last; only an *UnreadableError is not the last. With no filter it yields every event of
// the region and notices a gap; filters are those of package events. It survives reconnects by itself. What it yields may be a fact of a newer release
// (events.Unknown).
func (s *Store) Follow(ctx context.Context, after events.Seq, filters ...string) iter.Seq2[events.Recorded, error] {
	return func(yield func(events.Recorded, error) bool) {
		for batch, err := range s.FollowBatches(ctx, after, 64, filters...) {
			if err != nil {
				if !yield(events.Recorded{}, err) {
					return
				}
				continue
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
// only valid until the next one. The next batch is fetched and decoded while the caller is busy with this one.
func (s *Store) FollowBatches(ctx context.Context, after events.Seq, limit int, filters ...string) iter.Seq2[[]events.Recorded, error] {
	return func(yield func([]events.Recorded, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		in, stop, err := s.consume(ctx, after, limit, filters)
		if err != nil {
			if ctx.Err() == nil {
				yield(nil, err)
			}
			cancel()
			return
		}
		type decoded struct {
			batch []events.Recorded
			err   error
		}
		ready, free := make(chan decoded), make(chan []events.Recorded, 2) // the decoder owns ready, the loop below gives batches back
		free <- nil
		free <- nil
		var decoder sync.WaitGroup
		decoder.Go(func() {
			defer close(ready)
			put := func(d decoded) bool {
				select {
				case ready <- d:
					return true
				case <-ctx.Done():
					return false
				}
			}
			var msgs []jetstream.Msg
			last := after
			for {
				var batch []events.Recorded
				select {
				case batch = <-free:
				case <-ctx.Done():
					return
				}
				if msgs, err = in.take(ctx, msgs, limit); err != nil {
					if ctx.Err() == nil {
						put(decoded{err: err})
					}
					return
				}
				var problems map[int]error
				batch, problems = decodeAll(msgs, batch[:0])
				sent := 0
				for i, r := range batch {
					err := problems[i]
					_, goOn := errors.AsType[*UnreadableError](err)
					if (err == nil || goOn) && len(filters) == 0 && r.Seq != last+1 {
						err, goOn = &GapError{last, r.Seq}, false
					}
					last = r.Seq
					if err == nil {
						continue
					}
					if i > sent && !put(decoded{batch: slices.Clone(batch[sent:i])}) {
						return
					}
					if !put(decoded{err: err}) || !goOn {
						return
					}
					sent = i + 1
				}
				if sent > 0 {
					batch = slices.Clone(batch[sent:])
				}
				if len(batch) == 0 {
					giveBack(free, batch)
				} else if !put(decoded{batch: batch}) {
					return
				}
			}
		})
		defer decoder.Wait()
		defer cancel()
		defer stop()
		for d := range ready {
			if !yield(d.batch, d.err) {
				return
			}
			if d.batch != nil {
				giveBack(free, d.batch)
			}
		}
	}
}

// giveBack drops what does not fit: copies were made of a batch that had an unreadable event.
func giveBack(free chan<- []events.Recorded, batch []events.Recorded) {
	select {
	case free <- batch:
	default:
	}
}

// inbox holds the messages that have arrived and were not taken: at most maxWaiting, and about maxWaitingBytes.
type inbox struct {
	mu    sync.Mutex // guards what follows, never held while waiting
	msgs  []jetstream.Msg
	bytes int

	some   chan struct{}   // buffered 1: messages have arrived
	room   chan struct{}   // buffered 1: messages were taken
	done   chan struct{}   // closed by the reader: nobody takes any more
	closed <-chan struct{} // closed by the client: nothing arrives any more
}

const (
	maxWaiting      = 8192
	maxWaitingBytes = 16 << 20
)

func newInbox() *inbox {
	return &inbox{some: make(chan struct{}, 1), room: make(chan struct{}, 1), done: make(chan struct{})}
}

// put adds a message and waits while there are too many. It is called by one goroutine.
func (in *inbox) put(m jetstream.Msg) {
	in.mu.Lock()
	in.msgs = append(in.msgs, m)
	in.bytes += len(m.Data())
	full := in.full()
	in.mu.Unlock()
	signal(in.some)
	for full {
		select {
		case <-in.room:
		case <-in.done:
			return
		}
		in.mu.Lock()
		full = in.full()
		in.mu.Unlock()
	}
}

func (in *inbox) full() bool { return len(in.msgs) >= maxWaiting || in.bytes >= maxWaitingBytes }

// take waits for messages and moves up to limit of them into buf. It is called by one goroutine.
func (in *inbox) take(ctx context.Context, buf []jetstream.Msg, limit int) ([]jetstream.Msg, error) {
	for {
		in.mu.Lock()
		if n := min(len(in.msgs), limit); n > 0 {
			buf = append(buf[:0], in.msgs[:n]...)
			rest := copy(in.msgs, in.msgs[n:])
			clear(in.msgs[rest:])
			in.msgs = in.msgs[:rest]
			for _, m := range buf {
				in.bytes -= len(m.Data())
			}
			in.mu.Unlock()
			signal(in.room)
			return buf, nil
		}
		in.mu.Unlock()
		select {
		case <-in.some:
		case <-in.closed:
			return nil, fmt.Errorf("%w: the connection was closed", ErrUnavailable)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// consume starts an ordered consumer that fills the returned inbox until stop is called.
func (s *Store) consume(ctx context.Context, after events.Seq, limit int, filters []string) (*inbox, func(), error) {
	cfg := jetstream.OrderedConsumerConfig{FilterSubjects: filters, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: uint64(after) + 1, InactiveThreshold: 30 * time.Second}
	if after == 0 {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverAllPolicy, 0
	}
	return s.consumeFrom(ctx, s.stream, cfg, limit)
}

func (s *Store) consumeFrom(ctx context.Context, stream string, cfg jetstream.OrderedConsumerConfig, limit int) (*inbox, func(), error) {
	pause := newBackoff()
	for deadline := time.Now().Add(s.patience); ; {
		cons, err := s.js.OrderedConsumer(ctx, stream, cfg)
		if err == nil {
			in := newInbox()
			var cc jetstream.ConsumeContext
			if cc, err = cons.Consume(in.put, jetstream.PullMaxMessagesWithBytesLimit(min(max(limit, 64), maxWaiting/2), maxWaitingBytes)); err == nil {
				in.closed = cc.Closed()
				stop := func() {
					close(in.done)
					cc.Stop()
					<-in.closed
				}
				return in, stop, nil
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

// decodeAll decodes msgs into batch, with several goroutines where there are many, and returns what was wrong with which.
func decodeAll(msgs []jetstream.Msg, batch []events.Recorded) ([]events.Recorded, map[int]error) {
	const worth = 64 // messages for one goroutine
	batch = slices.Grow(batch, len(msgs))[:len(msgs)]
	var (
		mu       sync.Mutex // guards problems
		problems map[int]error
		workers  sync.WaitGroup
	)
	each := max(worth, (len(msgs)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	part := func(from, to int) {
		for i := from; i < to; i++ {
			var err error
			if batch[i], err = decodeMsg(msgs[i]); err != nil {
				mu.Lock()
				if problems == nil {
					problems = map[int]error{}
				}
				problems[i] = err
				mu.Unlock()
			}
		}
	}
	for from := each; from < len(msgs); from += each {
		workers.Go(func() { part(from, min(from+each, len(msgs))) })
	}
	part(0, min(each, len(msgs)))
	workers.Wait()
	return batch, problems
}

func decodeMsg(m jetstream.Msg) (events.Recorded, error) {
	md, err := m.Metadata()
	if err != nil {
		return events.Recorded{}, fmt.Errorf("follow: %w", err)
	}
	return decode(m.Subject(), m.Headers(), m.Data(), events.Seq(md.Sequence.Stream))
}

// DecodeMsg reads an event that a consumer of the event stream delivered. It returns an *UnreadableError for one that this build cannot decode; a fact
// of a newer release is events.Unknown.
func DecodeMsg(m *nats.Msg) (events.Recorded, error) {
	md, err := m.Metadata()
	if err != nil {
		return events.Recorded{}, fmt.Errorf("delivery: %w", err)
	}
	return decode(m.Subject, m.Header, m.Data, events.Seq(md.Sequence.Stream))
}

func decode(subject string, h nats.Header, body []byte, seq events.Seq) (events.Recorded, error) {
	r, err := events.DecodeFrom(subject, func(name string) string { return firstOf(h, name) }, body, seq)
	if err == nil {
		return r, nil
	}
	r.Seq, r.Kind = seq, events.Kind(firstOf(h, "ce-type"))
	var bad error
	if r.Aggregate, _, bad = events.ParseSubject(subject); bad != nil {
		r.Aggregate = events.Aggregate{Region: events.Region(""), Kind: "unknown", ID: subject}
	}
	return r, &UnreadableError{r, err}
}

func firstOf(h nats.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// LogInfo tells one stream from another of the same name, and where it stands.
type LogInfo struct {
	Name    string
	Created time.Time // a stream that was recreated has another one
	First   events.Seq
	Last    events.Seq
	Count   uint64 // of events; fewer than up to Last when the server lost some
	Bytes   uint64
}

// Whole says whether the log still has what it has counted, as far as that is cheap to know: the number of events and the last one. It returns a
// *GapError. Verify reads everything.
func (s *Store) Whole(ctx context.Context) error {
	info, err := s.Info(ctx)
	if err != nil || info.Last == 0 {
		return err
	}
	if uint64(info.Last) != info.Count {
		return fmt.Errorf("%d of %d events are left: %w", info.Count, info.Last, &GapError{0, info.Last + 1})
	}
	return s.readable(ctx, info.Last)
}

// Info asks the server where the log stands.
func (s *Store) Info(ctx context.Context) (LogInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	st, err := s.js.Stream(ctx, s.stream)
	if err != nil {
		return LogInfo{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	i := st.CachedInfo()
	return LogInfo{i.Config.Name, i.Created.UTC(), events.Seq(i.State.FirstSeq), events.Seq(i.State.LastSeq), i.State.Msgs, i.State.Bytes}, nil
}

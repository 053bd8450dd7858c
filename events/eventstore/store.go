package eventstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
)

var (
	// ErrConflict is returned when the aggregate has moved on since it was loaded. Load, decide again.
	ErrConflict = errors.New("aggregate changed")
	// ErrUnavailable is returned when the log did not answer in time. Whether something was stored is not known: retry with the
	// same command id.
	ErrUnavailable = errors.New("event log unavailable")
	// ErrFull is returned when the server refused to store more. Nothing was stored. It is also an ErrUnavailable.
	ErrFull = fmt.Errorf("%w: no room left for events", ErrUnavailable)
)

// ChainError says that the log no longer holds what was written: an event was changed, removed or inserted.
type ChainError struct {
	Aggregate events.Aggregate
	Seq       events.Seq // 0: where is not known
	Problem   string
}

func (e *ChainError) Error() string {
	if e.Seq == 0 {
		return fmt.Sprintf("hash chain of %s is broken: %s", e.Aggregate, e.Problem)
	}
	return fmt.Sprintf("hash chain of %s is broken at sequence %d: %s", e.Aggregate, e.Seq, e.Problem)
}

// Options of a Store.
type Options struct {
	Region events.Region
	// SyncAlways says that the server syncs every write to disk, so appends are worth grouping.
	SyncAlways bool
	// Patience bounds how long Append and Load keep trying while the log does not answer; 10 s when zero.
	Patience time.Duration
	// Room is asked before anything is written; its error is returned with ErrFull, and nothing is stored. A server whose disk fills up in the middle of
	// a write leaves a hole in its stream and takes nothing more until it is restarted, so the log stops before that. Nil: nobody is asked.
	Room func() error
}

// Store is one region's event log. It is safe for concurrent use.
type Store struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	region   events.Region
	stream   string
	patience time.Duration
	room     func() error
	replies  *replies
	appender *appender // nil: publish directly
	closed   atomic.Bool
}

// Open finds the region's streams, asserts that they have the settings the log needs, and starts the appender. It does not
// create anything: see Setup. Close the Store before nc.
func Open(ctx context.Context, nc *nats.Conn, o Options) (*Store, error) {
	if err := events.CheckRegion(o.Region); err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(256))
	if err != nil {
		return nil, fmt.Errorf("open event log: %w", err)
	}
	if err := assertStreams(ctx, js, o.Region); err != nil {
		return nil, err
	}
	rep, err := newReplies(nc)
	if err != nil {
		return nil, err
	}
	s := &Store{nc: nc, js: js, region: o.Region, stream: StreamName(o.Region), patience: o.Patience, room: o.Room, replies: rep}
	if s.room == nil {
		s.room = func() error { return nil }
	}
	if s.patience == 0 {
		s.patience = 10 * time.Second
	}
	if o.SyncAlways {
		s.appender = startAppender(rep, s.stream)
	}
	return s, nil
}

// Close stops the appender after the commit in flight. Appends that wait get ErrUnavailable.
func (s *Store) Close() {
	s.closed.Store(true)
	if s.appender != nil {
		s.appender.close()
	}
	s.replies.close()
}

// Region is the region whose log this is.
func (s *Store) Region() events.Region { return s.region }

// Conn is the connection the store was opened with, for what is not in the log: heartbeats, pings, the feed.
func (s *Store) Conn() *nats.Conn { return s.nc }

// JetStream is the client for buckets and consumers that live beside the log.
func (s *Store) JetStream() jetstream.JetStream { return s.js }

// Append stores evs as the next events of a after head, all or none, and returns them as they are in the log. It returns
// ErrConflict when a has moved on, ErrUnavailable or ErrFull when the log does not take them, a *ChainError when it goes on ending before head, and ctx.Err() when the caller gave up; after that and
// after ErrUnavailable the events may be stored all the same, and a retry with the same command id and head finds them.
func (s *Store) Append(ctx context.Context, a events.Aggregate, head events.Head, meta events.Meta, evs ...events.Event) ([]events.Recorded, error) {
	if len(evs) == 0 {
		return nil, nil
	}
	return s.appendExpecting(ctx, a, head, a.Filter(), head.Seq, meta, evs...)
}

// AppendUsage is Append to the usage of a scan, under the condition that nothing has happened to the scan either: scanned is where that stood. It returns ErrConflict
// when either has moved on. All who append usage do it with this, because the log holds one expectation for one filter.
func (s *Store) AppendUsage(ctx context.Context, id events.ScanID, head events.Head, scanned events.Seq, meta events.Meta, e events.UsageRecorded) ([]events.Recorded, error) {
	return s.appendExpecting(ctx, events.UsageOf(s.region, id), head, events.ScanAndUsageFilter(s.region, id), max(head.Seq, scanned), meta, e)
}

// appendExpecting appends after head where the last event of filter is the one at expected.
func (s *Store) appendExpecting(ctx context.Context, a events.Aggregate, head events.Head, filter string, expected events.Seq, meta events.Meta, evs ...events.Event) ([]events.Recorded, error) {
	msgs, _, err := events.Encode(a, head, meta, evs...)
	if err != nil {
		return nil, fmt.Errorf("append to %s: %w", a, err)
	}
	done, err := s.commit(ctx, a, filter, expected, msgs)
	if err != nil {
		return nil, fmt.Errorf("append to %s: %w", a, err)
	}
	if done.found == nil {
		return events.Record(a, meta, msgs, done.last, evs...), nil
	}
	// An earlier try stored them, perhaps decided at another moment: what is in the log is what happened.
	out := make([]events.Recorded, len(done.found))
	for i, m := range done.found {
		if out[i], err = link(a, head, m); err != nil {
			return nil, fmt.Errorf("append to %s: %w", a, err)
		}
		head = out[i].Head()
	}
	return out, nil
}

// done is how a commit ended well: found holds the messages when they were in the log already.
type done struct {
	last  events.Seq
	found []stored
}

// commit tries until the outcome is known or patience ends. Every try after the first begins by asking the log what became of the
// one before.
func (s *Store) commit(ctx context.Context, a events.Aggregate, filter string, expected events.Seq, msgs []events.Message) (done, error) {
	if err := s.room(); err != nil {
		return done{}, fmt.Errorf("%w: %w", ErrFull, err)
	}
	c := &command{filter: filter, expected: expected, msgs: toNATS(msgs, s.stream, filter, expected), done: make(chan outcome, 1)}
	var deadline time.Time // of the patience, which begins with the first trouble
	var pause *backoff
	late := func() bool {
		if pause == nil {
			deadline, pause = time.Now().Add(s.patience), newBackoff()
		}
		return time.Now().After(deadline)
	}
	for try := 0; ; try++ {
		if s.closed.Load() {
			return done{}, fmt.Errorf("%w: %w", ErrUnavailable, errStopped)
		}
		if try > 0 || s.appender.wary() {
			found, err := s.settle(ctx, a, c, try > 1)
			if !errors.Is(err, errUntouched) {
				if err == nil || !errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
					return done{found: found}, err
				}
				if late() {
					return done{}, outOfPatience(err)
				}
				if werr := pause.wait(ctx); werr != nil {
					return done{}, werr
				}
				continue
			}
		}
		c.alone = try > 2 // a batch that keeps being refused is not worth joining
		seq, err := s.send(ctx, c)
		if err == nil {
			return done{last: seq}, nil
		}
		if final := finalError(err); final != nil {
			return done{}, final
		}
		if ctx.Err() != nil {
			return done{}, ctx.Err()
		}
		if late() {
			return done{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if !errors.Is(err, errRefused) || try > 0 {
			if werr := pause.wait(ctx); werr != nil {
				return done{}, werr
			}
		}
	}
}

func (s *Store) send(ctx context.Context, c *command) (events.Seq, error) {
	if s.appender != nil {
		return s.appender.submit(ctx, c)
	}
	wait, err := s.replies.publish(c)
	if err != nil {
		return 0, err
	}
	return wait(ctx)
}

// errUntouched says that the aggregate stands where the command expects it and nothing of the command is stored.
var errUntouched = errors.New("nothing stored yet")

// settle asks the leader what became of c: its messages as they are stored, ErrConflict when something else took its
// place, errUntouched when it may be sent again, ErrUnavailable when there is no answer or the leader is behind what c expects. doubt says that the server has refused c more than once: then
// an aggregate without events is looked at twice, and a *ChainError is returned when it has some that cannot be read.
func (s *Store) settle(ctx context.Context, a events.Aggregate, c *command, doubt bool) ([]stored, error) {
	last, err := s.leaderLast(ctx, c.filter)
	if err != nil {
		return nil, err
	}
	if last.seq == 0 && doubt {
		if err := s.confirmNone(ctx, a); err != nil {
			return nil, err
		}
	}
	if last.seq == c.expected {
		return nil, errUntouched
	}
	if last.seq < c.expected { // nobody was faster: the leader does not know yet what the caller saw
		return nil, behind(a, c.expected)
	}
	next := c.expected + 1
	var found []stored
	for _, m := range c.msgs {
		x, err := s.leaderGet(ctx, map[string]any{"seq": next, "next_by_subj": c.filter})
		if err != nil {
			return nil, err
		}
		if x.seq == 0 || x.msg.Header[events.HeaderMsgID] != m.Header.Get(events.HeaderMsgID) {
			return nil, ErrConflict
		}
		found = append(found, x)
		next = x.seq + 1
	}
	return found, nil
}

// stored is a message as the server returns it; seq 0 means that there is none.
type stored struct {
	seq events.Seq
	msg events.Message
}

// leaderLast is the last event of a filter, read from the stream's leader: a direct get may be answered by a follower that is
// behind.
func (s *Store) leaderLast(ctx context.Context, filter string) (stored, error) {
	return s.leaderGet(ctx, map[string]any{"last_by_subj": filter})
}

func (s *Store) leaderGet(ctx context.Context, query map[string]any) (stored, error) {
	req, err := json.Marshal(query)
	if err != nil {
		return stored{}, err
	}
	once, cancel := s.replies.while(ctx, ackTimeout)
	defer cancel()
	r, err := s.nc.RequestWithContext(once, "$JS.API.STREAM.MSG.GET."+s.stream, req)
	if err != nil {
		return stored{}, fmt.Errorf("%w: %w", ErrUnavailable, unanswered(ctx, err))
	}
	var v struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Subject string     `json:"subject"`
			Seq     events.Seq `json:"seq"`
			Header  []byte     `json:"hdrs"`
			Data    []byte     `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(r.Data, &v); err != nil {
		return stored{}, fmt.Errorf("%w: unreadable answer: %w", ErrUnavailable, err)
	}
	if v.Error != nil {
		if v.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return stored{}, nil
		}
		return stored{}, fmt.Errorf("%w: %w", ErrUnavailable, v.Error)
	}
	h, err := nats.DecodeHeadersMsg(v.Message.Header)
	if err != nil {
		return stored{}, fmt.Errorf("headers at sequence %d: %w", v.Message.Seq, err)
	}
	return stored{v.Message.Seq, events.Message{Subject: v.Message.Subject, Header: fromHeader(h), Body: v.Message.Data}}, nil
}

// finalError turns a server's refusal that no retry can change into ours; nil when the outcome has to be read from the log.
func finalError(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	if errors.Is(err, errStopped) {
		return fmt.Errorf("%w: %w", ErrUnavailable, errStopped)
	}
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok {
		return nil
	}
	switch api.ErrorCode {
	case 10002, 10023, 10028, 10047: // resources of the account, of the server, its memory or storage
		return ErrFull
	case 10077: // the stream did not take it: full, or closing, which is not final
		if strings.Contains(api.Description, "maximum") {
			return fmt.Errorf("%w: %s", ErrFull, api.Description)
		}
	case 10054: // message larger than the server takes
		return api
	}
	return nil
}

func toNATS(msgs []events.Message, stream, filter string, expected events.Seq) []*nats.Msg {
	out := make([]*nats.Msg, len(msgs))
	for i, m := range msgs {
		h := make(nats.Header, len(m.Header)+6)
		values := make([]string, 0, len(m.Header)+3) // one array for all: a slice per header would cost as much as the rest
		set := func(name, value string) {
			values = append(values, value)
			h[name] = values[len(values)-1 : len(values) : len(values)]
		}
		for k, v := range m.Header {
			set(k, v)
		}
		set(jetstream.ExpectedStreamHeader, stream)
		if i == 0 {
			set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(uint64(expected), 10))
			set(jetstream.ExpectedLastSubjSeqSubjHeader, filter)
		}
		out[i] = &nats.Msg{Subject: m.Subject, Header: h, Data: m.Body}
	}
	return out
}

func fromHeader(h nats.Header) map[string]string {
	out := make(map[string]string, len(h))
	for k, v := range h {
		if len(v) > 0 {
			out[k] = v[0]
		}
	}
	return out
}

// ackTimeout bounds one wait for an acknowledgement or for the leader's answer, requestTimeout one read of many events. What was not answered is asked
// again while patience lasts; a publish that had no answer is looked for in the log first, so asking early costs little and waiting long for a leader
// that is gone costs the caller.
const (
	ackTimeout     = 750 * time.Millisecond
	requestTimeout = 2 * time.Second
)

// backoff waits 5 ms, then twice as long each time, up to 250 ms.
type backoff struct{ next time.Duration }

func newBackoff() *backoff { return &backoff{5 * time.Millisecond} }

func (b *backoff) wait(ctx context.Context) error {
	t := time.NewTimer(b.next)
	defer t.Stop()
	b.next = min(2*b.next, 250*time.Millisecond)
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package eventstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"vega/events"
)

// command is one Append on its way: the messages of one aggregate after one expected sequence.
type command struct {
	filter   string
	expected events.Seq
	msgs     []*nats.Msg
	alone    bool         // must not share a batch
	done     chan outcome // buffered: the appender never waits for a caller
}

type outcome struct {
	seq events.Seq
	err error
}

// errRefused says that the server looked at the expectations and stored nothing; whose fault it was is for the log to say.
var errRefused = errors.New("refused by the server")

// replies sends publishes and hands each its acknowledgement. One wildcard subscription serves them all: a subscription per publish
// would cost several times the publish itself.
type replies struct {
	nc     *nats.Conn
	inbox  string
	sub    *nats.Subscription
	token  atomic.Uint64
	wait   sync.Map // token → chan *nats.Msg, buffered 1
	status chan nats.Status
	watch  sync.WaitGroup

	mu   sync.Mutex // guards the connection that there is now, for an instant
	conn context.Context
	lose context.CancelFunc
}

// errLost says that the connection went away before the answer came: it may never come, and the log knows better.
var errLost = errors.New("connection lost")

func newReplies(nc *nats.Conn) (*replies, error) {
	r := &replies{nc: nc, inbox: nc.NewInbox() + "."}
	r.conn, r.lose = context.WithCancel(context.Background())
	sub, err := nc.Subscribe(r.inbox+"*", func(m *nats.Msg) {
		if ch, ok := r.wait.LoadAndDelete(m.Subject[len(r.inbox):]); ok {
			ch.(chan *nats.Msg) <- m
		}
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe for acknowledgements: %w", err)
	}
	r.sub = sub
	r.status = nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	r.watch.Go(func() {
		for range r.status {
			r.mu.Lock()
			r.lose()
			r.conn, r.lose = context.WithCancel(context.Background())
			r.mu.Unlock()
		}
	})
	return r, nil
}

func (r *replies) close() {
	_ = r.sub.Unsubscribe() // fails only on a closed connection, which has no subscriptions
	r.nc.RemoveStatusListener(r.status)
	r.watch.Wait()
	r.lose()
}

// connection returns a context that ends when the connection that there is now goes away.
func (r *replies) connection() context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conn
}

// unanswered is the error of a question that ended with its own context, not with the caller's ctx.
func unanswered(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	switch {
	case errors.Is(err, context.Canceled):
		return errLost
	case errors.Is(err, context.DeadlineExceeded):
		return nats.ErrTimeout
	}
	return err
}

// while returns ctx for one question: it ends with the connection that there is now, because its answer would be lost too, and after timeout.
func (r *replies) while(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	stop := context.AfterFunc(r.connection(), cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// publish writes c to the connection before it returns, so callers keep their order, and returns the wait for its answer. Several
// messages go as one atomic batch.
func (r *replies) publish(c *command) (func(context.Context) (events.Seq, error), error) {
	return r.publishAll(c.msgs)
}

func (r *replies) publishAll(msgs []*nats.Msg) (func(context.Context) (events.Seq, error), error) {
	last := len(msgs) - 1
	batch := ""
	lost := r.connection().Done()
	if last > 0 {
		batch = nuid.Next()
	}
	for i, m := range msgs {
		m.Reply = ""
		delete(m.Header, headerBatchCommit)
		if last == 0 {
			delete(m.Header, headerBatchID)
			delete(m.Header, headerBatchSeq)
			break
		}
		m.Header[headerBatchID] = []string{batch}
		m.Header[headerBatchSeq] = []string{strconv.Itoa(i + 1)}
		if i < last {
			if err := r.nc.PublishMsg(m); err != nil {
				return nil, err // the server drops a batch that is never committed
			}
		}
	}
	if last > 0 {
		msgs[last].Header[headerBatchCommit] = []string{"1"}
	}
	token := strconv.FormatUint(r.token.Add(1), 36)
	ch := make(chan *nats.Msg, 1)
	r.wait.Store(token, ch)
	msgs[last].Reply = r.inbox + token
	if err := r.nc.PublishMsg(msgs[last]); err != nil {
		r.wait.Delete(token)
		return nil, err
	}
	return func(ctx context.Context) (events.Seq, error) {
		t := time.NewTimer(ackTimeout)
		defer t.Stop()
		select {
		case m := <-ch:
			return readAck(m)
		case <-lost:
			r.wait.Delete(token)
			return 0, errLost
		case <-t.C:
			r.wait.Delete(token)
			return 0, nats.ErrTimeout
		case <-ctx.Done():
			r.wait.Delete(token)
			return 0, ctx.Err()
		}
	}, nil
}

const (
	headerBatchID     = "Nats-Batch-Id"
	headerBatchSeq    = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"
)

func readAck(m *nats.Msg) (events.Seq, error) {
	if m.Header.Get("Status") == "503" {
		return 0, nats.ErrNoResponders
	}
	if seq, ok := plainAck(m.Data); ok {
		return seq, nil
	}
	var ack struct {
		Error     *jetstream.APIError `json:"error"`
		Seq       events.Seq          `json:"seq"`
		Duplicate bool                `json:"duplicate"`
	}
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		return 0, fmt.Errorf("unreadable acknowledgement: %w", err)
	}
	if ack.Error != nil {
		if isRefusal(ack.Error) {
			return 0, fmt.Errorf("%w: %w", errRefused, ack.Error)
		}
		return 0, ack.Error
	}
	if ack.Duplicate {
		return 0, errRefused // an earlier try is stored: where, the log says
	}
	return ack.Seq, nil
}

// plainAck reads the usual acknowledgement, {"stream":"…","seq":7}, which is decoded once for every event that is stored.
func plainAck(b []byte) (events.Seq, bool) {
	_, number, ok := bytes.Cut(b, []byte(`","seq":`))
	number, closed := bytes.CutSuffix(bytes.TrimSpace(number), []byte("}"))
	if !ok || !closed || bytes.Contains(b, []byte(`"error"`)) {
		return 0, false
	}
	seq, err := strconv.ParseUint(string(number), 10, 64)
	return events.Seq(seq), err == nil && seq > 0
}

// isRefusal tells the answers that mean "not this time, and not necessarily because of you": a wrong last sequence (10071), a
// proposal in flight (10164), a known message id in a batch (10201), too many batches in flight (10210).
func isRefusal(e *jetstream.APIError) bool {
	switch e.ErrorCode {
	case 10071, 10164, 10201, 10210:
		return true
	}
	return false
}

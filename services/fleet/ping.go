package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"vega/events"
	"vega/events/eventstore"
)

// Pong is what a worker answers to a ping: the scans it holds, with their generations. Held is nil when the worker does not say.
type Pong struct {
	Held map[events.ScanID]events.Seq `json:"held"`
}

// ErrGone is returned when a worker's process has no connection.
var ErrGone = errors.New("the worker is not connected")

// Ping asks a worker what it holds. ErrGone means that its process has no connection, which is known in a fraction of a millisecond; that a worker is
// connected and does not answer is ctx's error.
func Ping(ctx context.Context, store *eventstore.Store, id events.WorkerID) (Pong, error) {
	var p Pong
	msg, err := store.Conn().RequestWithContext(ctx, events.PingSubject(store.Region(), id), nil)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return p, fmt.Errorf("ping %s: %w", id, ErrGone)
	case err != nil:
		return p, fmt.Errorf("ping %s: %w", id, err)
	}
	if err := json.Unmarshal(msg.Data, &p); err != nil {
		return p, fmt.Errorf("ping %s: its answer: %w", id, err)
	}
	return p, nil
}

// Pinger pings many workers and waits for none of them: a ping is one publish, and what comes back, whenever it does, goes to one function. A worker
// that does not answer costs nothing and holds up nobody. It is safe for concurrent use.
type Pinger struct {
	store *eventstore.Store
	inbox string
	sub   *nats.Subscription
	start time.Time
}

// Answer is what came back for one ping.
type Answer struct {
	Worker events.WorkerID
	Pong   Pong
	Gone   bool      // the server said that nobody listens: the worker has no connection
	Sent   time.Time // when the ping was sent
	Link   uint64    // of the connection that the ping went out on; see Pinger.Link
}

// NewPinger returns a Pinger that hands each answer to heard, one after the other. Close it after use.
func NewPinger(store *eventstore.Store, heard func(Answer)) (*Pinger, error) {
	p := &Pinger{store: store, inbox: store.Conn().NewInbox(), start: time.Now()}
	sub, err := store.Conn().Subscribe(p.inbox+".>", func(m *nats.Msg) {
		if a, ok := p.parse(m); ok {
			heard(a)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listen for answers to pings: %w", err)
	}
	p.sub = sub
	return p, nil
}

// Ping sends one and returns at once. An error means that it was not sent.
func (p *Pinger) Ping(id events.WorkerID) error {
	// The answer's subject says everything about the ping, so nothing is kept for those that never come.
	reply := p.inbox + "." + strconv.FormatUint(p.Link(), 10) + "." + strconv.FormatInt(int64(time.Since(p.start)), 10) + "." + string(id)
	if err := p.store.Conn().PublishRequest(events.PingSubject(p.store.Region(), id), reply, nil); err != nil {
		return fmt.Errorf("ping %s: %w", id, err)
	}
	return nil
}

// Link numbers the connections that this process's client has had: another number means that the connection was made anew.
func (p *Pinger) Link() uint64 { return p.store.Conn().Stats().Reconnects }

// Connected says that there is a connection now.
func (p *Pinger) Connected() bool { return p.store.Conn().IsConnected() }

// Close ends it; an answer that is being handed over still is.
func (p *Pinger) Close() {
	_ = p.sub.Unsubscribe() // fails only on a closed connection, which has no subscriptions
}

func (p *Pinger) parse(m *nats.Msg) (Answer, bool) {
	f := strings.Split(strings.TrimPrefix(m.Subject, p.inbox+"."), ".")
	if len(f) != 3 {
		return Answer{}, false
	}
	link, err := strconv.ParseUint(f[0], 10, 64)
	sent, err2 := strconv.ParseInt(f[1], 10, 64)
	if err != nil || err2 != nil {
		return Answer{}, false
	}
	a := Answer{Worker: events.WorkerID(f[2]), Sent: p.start.Add(time.Duration(sent)), Link: link}
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		a.Gone = true
		return a, true
	}
	_ = json.Unmarshal(m.Data, &a.Pong) // whoever answers lives, whatever it says
	return a, true
}

package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
)

// External is the queue of workers anywhere: one durable consumer per priority on the event log, which Ensure makes. It never holds a hint that no
// slot runs: a slot that is free asks for one, best priority first, and nobody asks while nothing is there. A bell wakes it, a consumer of its own on all
// ready events. It is safe for concurrent use by any number of slots.
type External struct {
	store *eventstore.Store
	log   *slog.Logger
	lanes []*lane // best priority first
	bells chan bell

	mu   sync.Mutex    // guards what follows, never held while waiting
	lost chan struct{} // closed when the connection that there is now goes away: answers that have not come never will
	free []*inbox      // not in use by a slot
	subs []*nats.Subscription

	clustered  atomic.Bool // the log is kept by several servers
	unreadable seen        // events of newer releases that were logged
}

// lane is one priority. rung counts what may have brought a hint, emptyAt is the count at which the server last said that it has none: while both are
// equal nobody asks.
type lane struct {
	priority events.Priority
	subject  string // of pulls
	rung     atomic.Uint64
	emptyAt  atomic.Uint64
	rangAt   atomic.Int64 // Unix nanoseconds of the last event
	stalled  atomic.Bool  // the last pull was never answered
	absent   atomic.Bool  // there is no such consumer
}

type bell struct {
	lane int
	at   time.Time
}

const (
	// sweepEvery is how often every lane is asked without a bell: hints that come again ring none.
	sweepEvery = time.Second
	// settles is how long after an event was stored the consumer that brings it may still not count it.
	settles = 10 * time.Millisecond
	// pullTimeout is how long an answer may take. There is none at MaxAckPending, nor while a cluster elects a leader.
	pullTimeout = 2 * time.Second
	// retryDelay is how long a hint rests that could not be acted on; newerDelay one that takes a newer release.
	retryDelay = time.Second
	newerDelay = 10 * time.Second
)

// What a pull says. A held one waits a moment for a hint that the bell has announced; it is never held long, because a better one may come.
const pullNow = `{"batch":1,"no_wait":true}`

func pullHeld(d time.Duration) string {
	return `{"batch":1,"no_wait":true,"expires":` + strconv.FormatInt(d.Nanoseconds(), 10) + `}`
}

var (
	held     = pullHeld(5 * time.Millisecond)
	heldLong = pullHeld(25 * time.Millisecond) // the bell and the consumer of a cluster may be on different servers
)

// bellsAtOnce bounds the bells that no slot has heard yet; more would wake nobody.
const bellsAtOnce = 1024

// NewExternal returns a queue; Run rings its bell.
func NewExternal(store *eventstore.Store, log *slog.Logger) *External {
	x := &External{store: store, log: log, bells: make(chan bell, bellsAtOnce), lost: make(chan struct{})}
	for _, p := range events.Priorities() {
		l := &lane{priority: p, subject: "$JS.API.CONSUMER.MSG.NEXT." + eventstore.StreamName(store.Region()) + "." + readyName(p)}
		l.rung.Store(1) // whatever waits already
		x.lanes = append(x.lanes, l)
	}
	return x
}

// Next waits for the best hint and takes it, or returns ctx's error. A hint that arrives after ctx ended is given back at once.
func (x *External) Next(ctx context.Context) (Hint, error) {
	for {
		for _, l := range x.lanes {
			if h, ok := x.ask(ctx, l); ok {
				return h, nil
			}
		}
		select {
		case b := <-x.bells:
			// The bell may be told of an event before the consumer counts it. So whoever hears it asks for better ones as ever and then, of the server, to
			// hold the request for a moment. A bell of long ago, when every slot was busy, says only that all lanes are to be asked.
			if time.Since(b.at) > settles {
				continue
			}
			for _, l := range x.lanes[:b.lane] {
				if h, ok := x.ask(ctx, l); ok {
					return h, nil
				}
			}
			hold := held
			if x.clustered.Load() {
				hold = heldLong
			}
			if h, ok := x.pull(ctx, x.lanes[b.lane], hold); ok {
				return h, nil
			}
		case <-ctx.Done():
			return Hint{}, ctx.Err()
		}
	}
}

// Done says that a hint has served. It does not wait: a lost acknowledgement brings the hint once more.
func (x *External) Done(h Hint) {
	if reply, ok := h.receipt.(string); ok {
		_ = x.store.Conn().Publish(reply, []byte("+ACK")) // without a connection the hint comes again
	}
}

// Retry gives a hint back to whoever asks after a second.
func (x *External) Retry(h Hint) {
	if reply, ok := h.receipt.(string); ok {
		x.nak(reply, retryDelay)
	}
}

// Run rings the bell until ctx ends. It says so when the durable consumers are not there yet, and waits for them.
func (x *External) Run(ctx context.Context) error {
	defer x.unsubscribe()
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { x.watchConnection(ctx) })
	parts.Go(func() { x.listen(ctx) })
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	absences, said := 0, false
	for {
		select {
		case <-sweep.C:
		case <-ctx.Done():
			return nil
		}
		// Where it finds nothing, the held pull also walks the consumer past all events that are not for it, which would take the next hint's time.
		for i := range x.lanes {
			x.ring(i)
		}
		absent := x.absent()
		if absent == "" {
			absences = 0
		} else {
			absences++ // once may be an election
		}
		switch {
		case absences == 3 && !said:
			x.log.Warn("queue was not set up yet, waiting for it", "consumer", absent)
			said = true
		case absences == 0 && said:
			x.log.Info("queue was set up")
			said = false
		}
	}
}

func (x *External) absent() string {
	for _, l := range x.lanes {
		if l.absent.Load() {
			return readyName(l.priority)
		}
	}
	return ""
}

// watchConnection ends the waits for answers when the connection goes, and asks anew when it is back.
func (x *External) watchConnection(ctx context.Context) {
	status := x.store.Conn().StatusChanged(nats.RECONNECTING, nats.CONNECTED, nats.CLOSED)
	defer x.store.Conn().RemoveStatusListener(status)
	for {
		select {
		case s, ok := <-status:
			if !ok {
				return
			}
			if s == nats.CONNECTED {
				for i := range x.lanes {
					x.ring(i)
				}
				continue
			}
			x.mu.Lock()
			close(x.lost)
			x.lost = make(chan struct{})
			x.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// listen hears every ready event that is stored from now on. The consumer recreates itself; when it gives up it is made again.
func (x *External) listen(ctx context.Context) {
	cfg := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy, HeadersOnly: true, InactiveThreshold: 30 * time.Second}
	cfg.FilterSubjects = []string{events.AnyReadyFilter(x.store.Region())}
	heard := func(m jetstream.Msg) { x.ringFor(m.Subject()) }
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		if st, err := x.store.JetStream().Stream(ctx, eventstore.StreamName(x.store.Region())); err == nil {
			x.clustered.Store(st.CachedInfo().Config.Replicas > 1)
		}
		cons, err := x.store.JetStream().OrderedConsumer(ctx, eventstore.StreamName(x.store.Region()), cfg)
		if err == nil {
			var bell jetstream.ConsumeContext
			if bell, err = cons.Consume(heard, jetstream.PullMaxMessages(1000)); err == nil {
				for i := range x.lanes {
					x.ring(i) // for what was stored while there was no bell
				}
				select {
				case <-bell.Closed():
				case <-ctx.Done():
					bell.Stop()
					<-bell.Closed()
					return
				}
			}
		}
		pause.Reset(time.Second) // until then the sweep finds the hints
	}
}

// ringFor rings for an event that has just become available.
func (x *External) ringFor(subject string) {
	for i, l := range x.lanes {
		if strings.HasSuffix(subject, "."+string(l.priority)) {
			l.rangAt.Store(time.Now().UnixNano())
			x.ring(i)
		}
	}
}

func (x *External) ring(i int) {
	x.lanes[i].rung.Add(1)
	select {
	case x.bells <- bell{i, time.Now()}:
	default: // there are bells enough to wake every slot
	}
}

// ask pulls from a lane that may have something.
func (x *External) ask(ctx context.Context, l *lane) (Hint, bool) {
	seen, rang := l.rung.Load(), l.rangAt.Load()
	if l.emptyAt.Load() == seen {
		return Hint{}, false // asked since the last bell
	}
	body := pullNow
	if l.stalled.Load() {
		body = held // a request that is never answered must not stay with the server for ever
	}
	h, ok := x.pull(ctx, l, body)
	if !ok && time.Now().UnixNano()-rang > int64(settles) {
		l.emptyAt.Store(seen)
	}
	return h, ok
}

// pull takes a hint from a lane; false: the server has none.
func (x *External) pull(ctx context.Context, l *lane, body string) (Hint, bool) {
	for {
		m := x.request(ctx, l, body)
		if m == nil {
			return Hint{}, false
		}
		l.stalled.Store(false)
		l.absent.Store(m.Header.Get("Status") == "503") // nobody answers to the consumer's name
		if !isDelivery(m) {
			return Hint{}, false
		}
		if ctx.Err() != nil {
			x.nak(m.Reply, 0)
			return Hint{}, false
		}
		r, err := eventstore.DecodeMsg(m)
		if _, unknown := r.Event.(events.Unknown); err == nil && !unknown {
			_, priority, _ := events.ParseSubject(m.Subject) // it was decoded, so it parses
			return Hint{Scan: events.ScanID(r.Aggregate.ID), Seq: r.Seq, Priority: priority, Ready: &r, receipt: m.Reply}, true
		}
		x.nak(m.Reply, newerDelay)
		if x.unreadable.add(strconv.FormatUint(uint64(r.Seq), 10)) {
			x.log.Warn("left a scan to a newer release", "scan_id", r.Aggregate.ID, "seq", r.Seq, "kind", r.Kind, "err", err)
		}
		// Behind it there may be one of this build's.
	}
}

// request makes one pull and waits for its answer; nil: it cannot come any more, or not while the caller waits.
func (x *External) request(ctx context.Context, l *lane, body string) *nats.Msg {
	if ctx.Err() != nil {
		return nil
	}
	in, lost, err := x.borrow()
	if err != nil {
		return nil // the connection is closed
	}
	defer x.giveBack(in)
	reply, answer := in.expect()
	if err := x.store.Conn().PublishRequest(l.subject, reply, []byte(body)); err != nil {
		in.giveUp()
		return nil // no connection: its return rings
	}
	timeout := time.NewTimer(pullTimeout)
	defer timeout.Stop()
	select {
	case m := <-answer:
		return m
	case <-lost:
	case <-timeout.C:
		l.stalled.Store(true)
	case <-ctx.Done():
	}
	if in.giveUp() {
		return nil
	}
	return <-answer // it has just arrived
}

// inbox takes the answers to pulls, one pull at a time: a subscription per pull would cost more than the pull. What the log delivers keeps the event's
// subject, so nothing in it says which pull it answers; only the inbox that it came to does, and there any hint will do.
type inbox struct {
	prefix string // of the reply subjects

	mu     sync.Mutex // guards what follows, for an instant
	pulls  uint64
	answer chan *nats.Msg // buffered 1; nil: nobody waits
}

// expect returns where the next pull is to be answered, and where its answer comes out.
func (in *inbox) expect() (string, <-chan *nats.Msg) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.pulls++
	in.answer = make(chan *nats.Msg, 1)
	return in.prefix + strconv.FormatUint(in.pulls, 36), in.answer
}

// giveUp reports false when an answer came before.
func (in *inbox) giveUp() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	waits := in.answer != nil
	in.answer = nil
	return waits
}

// accept hands m to the pull that waits and reports false for what nobody waits for: a hint that came too late. The server's word on an earlier pull is
// dropped.
func (in *inbox) accept(m *nats.Msg) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !isDelivery(m) && m.Subject != in.prefix+strconv.FormatUint(in.pulls, 36) {
		return true
	}
	if in.answer == nil {
		return !isDelivery(m)
	}
	in.answer <- m
	in.answer = nil
	return true
}

// isDelivery tells a message of the log from a status of the server.
func isDelivery(m *nats.Msg) bool { return m.Reply != "" && m.Header.Get("Status") == "" }

// borrow returns an inbox that no other slot uses, and the channel that is closed when the connection goes.
func (x *External) borrow() (*inbox, <-chan struct{}, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if n := len(x.free); n > 0 {
		in := x.free[n-1]
		x.free = x.free[:n-1]
		return in, x.lost, nil
	}
	in := &inbox{prefix: x.store.Conn().NewInbox() + "."}
	sub, err := x.store.Conn().Subscribe(in.prefix+"*", func(m *nats.Msg) {
		if !in.accept(m) {
			x.nak(m.Reply, 0)
			x.ringFor(m.Subject)
		}
	})
	if err != nil {
		return nil, nil, err
	}
	x.subs = append(x.subs, sub)
	return in, x.lost, nil
}

func (x *External) giveBack(in *inbox) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.free = append(x.free, in)
}

func (x *External) unsubscribe() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.subs {
		_ = s.Unsubscribe() // fails only on a closed connection, which has no subscriptions
	}
}

// nak gives a delivery back, to be brought again after d. Without a connection it comes again by itself.
func (x *External) nak(reply string, d time.Duration) {
	body := "-NAK"
	if d > 0 {
		body += ` {"delay":` + strconv.FormatInt(d.Nanoseconds(), 10) + `}`
	}
	err := x.store.Conn().Publish(reply, []byte(body))
	if err != nil && !errors.Is(err, nats.ErrReconnectBufExceeded) && !errors.Is(err, nats.ErrConnectionClosed) {
		x.log.Warn("hint not given back", "err", err)
	}
}

// seen remembers what was logged, roughly: once it is full it forgets everything. It is safe for concurrent use.
type seen struct {
	mu   sync.Mutex // guards keys, for an instant
	keys map[string]bool
}

// maxSeen bounds what is remembered.
const maxSeen = 1000

// add reports whether key is new.
func (s *seen) add(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys[key] {
		return false
	}
	if s.keys == nil || len(s.keys) >= maxSeen {
		s.keys = map[string]bool{}
	}
	s.keys[key] = true
	return true
}

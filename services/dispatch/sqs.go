package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
)

// SQSOptions of a receiver. Zero values are the defaults.
type SQSOptions struct {
	// Visibility is how long the queue hides a message from other receivers, whole seconds; 30 s. It is renewed while a slot holds the hint, so it bounds how
	// late a hint comes again whose worker died with it.
	Visibility time.Duration
	// Wait is how long one request waits for messages, whole seconds, at most and by default 20 s.
	Wait time.Duration
	// Rest is how long a message that this process cannot use stays hidden, whole seconds; 10 s.
	Rest time.Duration
}

// SQS is the queue of workers that poll an SQS queue. It asks for messages only while slots wait, and for no more than they are. It is safe for
// concurrent use by any number of slots.
//
// A message that is not a hint of this region's log is neither acted on nor deleted: it is logged once, with the reason, and rests for a while each time it
// comes, until the queue's redrive policy takes it away.
type SQS struct {
	store   *eventstore.Store
	sqs     *sqs.Client
	url     string
	opt     SQSOptions
	log     *slog.Logger
	state   outage
	foreign seen // messages that were logged

	kick   chan struct{} // buffered 1: a slot waits
	settle chan struct{} // buffered 1: settled has something

	mu      sync.Mutex // guards what follows, never held over I/O
	waiters []chan Hint
	held    map[string]bool // receipts of the hints that slots hold
	settled []settlement
}

// settlement is what becomes of a message that no slot holds any more.
type settlement struct {
	receipt string
	remove  bool
	hide    time.Duration // otherwise
	tries   int
}

const (
	maxTries    = 3               // to settle a message; then it comes again, which does no harm
	settleTime  = 5 * time.Second // for one request
	sqsRetry    = 2 * time.Second // rest of a hint that could not be acted on
	lookupTime  = 2 * time.Second // for reading a hint's event
	maxLongPoll = 20 * time.Second
)

// NewSQS returns a receiver of the queue at url; Run receives.
func NewSQS(store *eventstore.Store, client *sqs.Client, url string, o SQSOptions, log *slog.Logger) *SQS {
	orDefault := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	orDefault(&o.Visibility, 30*time.Second)
	orDefault(&o.Wait, maxLongPoll)
	orDefault(&o.Rest, 10*time.Second)
	return &SQS{store: store, sqs: client, url: url, opt: o, log: log,
		state: outage{log: log, part: "receiver"},
		kick:  make(chan struct{}, 1), settle: make(chan struct{}, 1), held: map[string]bool{}}
}

// Next waits for a hint and takes it, or returns ctx's error. The request that was asking for it goes on, because cutting it could hide a message for
// as long as its visibility lasts: a hint that arrives after ctx ended goes to another slot, or back to the queue at once.
func (q *SQS) Next(ctx context.Context) (Hint, error) {
	if ctx.Err() != nil {
		return Hint{}, ctx.Err()
	}
	mine := make(chan Hint, 1)
	q.mu.Lock()
	q.waiters = append(q.waiters, mine)
	q.mu.Unlock()
	signal(q.kick)
	select {
	case h := <-mine:
		return h, nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	i := slices.Index(q.waiters, mine)
	if i >= 0 {
		q.waiters = slices.Delete(q.waiters, i, i+1)
	}
	q.mu.Unlock()
	if i < 0 {
		q.release(<-mine, 0)
	}
	return Hint{}, ctx.Err()
}

// Done deletes a hint's message, soon.
func (q *SQS) Done(h Hint) {
	if r, ok := h.receipt.(string); ok {
		q.give(settlement{receipt: r, remove: true})
	}
}

// Retry lets a hint's message come again in a few seconds. The queue counts that as a receive.
func (q *SQS) Retry(h Hint) { q.release(h, sqsRetry) }

func (q *SQS) release(h Hint, hide time.Duration) {
	if r, ok := h.receipt.(string); ok {
		q.give(settlement{receipt: r, hide: hide})
	}
}

func (q *SQS) give(s settlement) {
	q.mu.Lock()
	delete(q.held, s.receipt)
	q.settled = append(q.settled, s)
	q.mu.Unlock()
	signal(q.settle)
}

// Err is a sentence that says why no hints come; nil while the queue answers.
func (q *SQS) Err() error {
	if err := q.state.last(); err != nil {
		return fmt.Errorf("SQS does not answer: %w", err)
	}
	return nil
}

// Run receives, renews and deletes until ctx ends. It must outlive the slots that hold hints: when it ends, hints that are still held are given back.
func (q *SQS) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	parts.Go(func() { q.receive(ctx) })
	parts.Go(func() { q.renew(ctx) })
	for ctx.Err() == nil {
		select {
		case <-q.settle:
			q.flush(ctx)
		case <-ctx.Done():
		}
	}
	parts.Wait()
	q.mu.Lock()
	for r := range q.held {
		q.settled = append(q.settled, settlement{receipt: r, tries: maxTries})
	}
	clear(q.held)
	q.mu.Unlock()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	q.flush(last)
	return nil
}

// receive asks for as many messages as slots wait, one request at a time: it returns as soon as there is one.
func (q *SQS) receive(ctx context.Context) {
	for ctx.Err() == nil {
		q.mu.Lock()
		n := min(len(q.waiters), batchSize)
		q.mu.Unlock()
		if n == 0 {
			select {
			case <-q.kick:
			case <-ctx.Done():
			}
			continue
		}
		if !q.store.Conn().IsConnected() { // no hint could be acted on; each would be counted as received
			pause(ctx, 250*time.Millisecond)
			continue
		}
		poll, cancel := context.WithTimeout(ctx, q.opt.Wait+sendTimeout)
		out, err := q.sqs.ReceiveMessage(poll, &sqs.ReceiveMessageInput{
			QueueUrl: aws.String(q.url), MaxNumberOfMessages: int32(n), WaitTimeSeconds: seconds(q.opt.Wait), VisibilityTimeout: seconds(q.opt.Visibility),
		})
		cancel()
		if ctx.Err() != nil && err != nil {
			return // a message that was on its way to us is hidden until its visibility ends, and then comes again
		}
		if err != nil {
			pause(ctx, q.state.failed(explain(q.sqs, q.url, err)))
			continue
		}
		q.state.answered()
		for _, m := range out.Messages {
			q.hand(ctx, m)
		}
	}
}

// hand gives a message to a slot that waits, if it is one of ours.
func (q *SQS) hand(ctx context.Context, m types.Message) {
	receipt := aws.ToString(m.ReceiptHandle)
	h, err := q.hint(ctx, aws.ToString(m.Body))
	if err != nil {
		if _, foreign := errors.AsType[*foreignError](err); foreign && q.foreign.add(aws.ToString(m.MessageId)) {
			q.log.Warn("message left to the queue's redrive policy", "message_id", aws.ToString(m.MessageId), "scan_id", h.Scan, "seq", h.Seq, "err", err)
		}
		q.give(settlement{receipt: receipt, hide: q.opt.Rest})
		return
	}
	h.receipt = receipt
	q.mu.Lock()
	if len(q.waiters) == 0 { // its slot has left
		q.mu.Unlock()
		q.release(h, 0)
		return
	}
	w := q.waiters[0]
	q.waiters = slices.Delete(q.waiters, 0, 1)
	q.held[receipt] = true
	q.mu.Unlock()
	w <- h
}

// foreignError says why a message is not a hint of this log.
type foreignError struct{ err error }

func (e *foreignError) Error() string { return e.err.Error() }
func (e *foreignError) Unwrap() error { return e.err }

// hint reads a message and the event that it names. It returns a *foreignError for what is not ours, another error when the log did not say.
func (q *SQS) hint(ctx context.Context, body string) (Hint, error) {
	m, err := parseMessage(body, q.store.Region())
	h := Hint{Scan: m.Scan, Seq: m.Seq, Priority: m.Priority}
	if err != nil {
		return h, &foreignError{err}
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	stream, err := q.store.JetStream().Stream(ctx, eventstore.StreamName(q.store.Region()))
	if err != nil {
		return h, err
	}
	if last := events.Seq(stream.CachedInfo().State.LastSeq); last < m.Seq {
		return h, &foreignError{fmt.Errorf("it names no known scan: the log ends at %d", last)}
	}
	raw, err := stream.GetMsg(ctx, uint64(m.Seq))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return h, nil // a replica that is behind answered: the worker asks the leader
	}
	if err != nil {
		return h, err
	}
	agg, priority, err := events.ParseSubject(raw.Subject)
	if err != nil || agg != events.ScanOf(q.store.Region(), m.Scan) || priority == "" {
		return h, &foreignError{errors.New("it names no known scan: the event at its sequence does not make this one work")}
	}
	h.Priority = priority
	r, err := events.DecodeFrom(raw.Subject, raw.Header.Get, raw.Data, m.Seq)
	if _, unknown := r.Event.(events.Unknown); err != nil || unknown {
		return h, &foreignError{fmt.Errorf("its event is of a newer release: %s", raw.Header.Get("ce-type"))}
	}
	h.Ready = &r
	return h, nil
}

// renew keeps the messages hidden whose hints are held.
func (q *SQS) renew(ctx context.Context) {
	tick := time.NewTicker(max(q.opt.Visibility/3, 100*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		q.mu.Lock()
		var all []settlement
		for r := range q.held {
			all = append(all, settlement{receipt: r, hide: q.opt.Visibility})
		}
		q.mu.Unlock()
		for batch := range slices.Chunk(all, batchSize) {
			// A renewal that is late brings the hint to another slot as well, and the claim decides.
			if _, err := q.changeVisibility(ctx, batch); err != nil && ctx.Err() == nil {
				q.state.failed(explain(q.sqs, q.url, err))
			}
		}
	}
}

// flush settles what is waiting to be. What fails is tried again with the next, a few times.
func (q *SQS) flush(ctx context.Context) {
	for {
		q.mu.Lock()
		all := q.settled
		q.settled = nil
		q.mu.Unlock()
		if len(all) == 0 {
			return
		}
		var remove, hide []settlement
		for _, s := range all {
			if s.remove {
				remove = append(remove, s)
			} else {
				hide = append(hide, s)
			}
		}
		var (
			mu     sync.Mutex // guards again
			again  []settlement
			wait   time.Duration
			onWay  sync.WaitGroup
			places = make(chan struct{}, senders)
		)
		send := func(batch []settlement, request func(context.Context, []settlement) ([]settlement, error)) {
			places <- struct{}{}
			onWay.Go(func() {
				defer func() { <-places }()
				failed, err := request(ctx, batch)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					wait = q.state.failed(explain(q.sqs, q.url, err))
				}
				for _, s := range failed {
					if s.tries++; s.tries < maxTries {
						again = append(again, s)
					}
				}
			})
		}
		for batch := range slices.Chunk(remove, batchSize) {
			send(batch, q.delete)
		}
		for batch := range slices.Chunk(hide, batchSize) {
			send(batch, q.changeVisibility)
		}
		onWay.Wait()
		if len(again) > 0 && ctx.Err() == nil {
			q.mu.Lock()
			q.settled = append(again, q.settled...)
			q.mu.Unlock()
			pause(ctx, wait)
		}
	}
}

// delete removes messages for good and returns those that it could not, with an error when the queue did not answer. A message whose receipt is no
// longer valid came again meanwhile.
func (q *SQS) delete(ctx context.Context, batch []settlement) ([]settlement, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	in := &sqs.DeleteMessageBatchInput{QueueUrl: aws.String(q.url)}
	for i, s := range batch {
		in.Entries = append(in.Entries, types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: aws.String(s.receipt)})
	}
	out, err := q.sqs.DeleteMessageBatch(ctx, in)
	if err != nil {
		return batch, err
	}
	return failedOf(batch, out.Failed), nil
}

// changeVisibility hides messages for a while, and answers like delete.
func (q *SQS) changeVisibility(ctx context.Context, batch []settlement) ([]settlement, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	in := &sqs.ChangeMessageVisibilityBatchInput{QueueUrl: aws.String(q.url)}
	for i, s := range batch {
		in.Entries = append(in.Entries, types.ChangeMessageVisibilityBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: aws.String(s.receipt), VisibilityTimeout: seconds(s.hide)})
	}
	out, err := q.sqs.ChangeMessageVisibilityBatch(ctx, in)
	if err != nil {
		return batch, err
	}
	return failedOf(batch, out.Failed), nil
}

// failedOf are the settlements that the queue refused and that are worth another try.
func failedOf(batch []settlement, refused []types.BatchResultErrorEntry) []settlement {
	var failed []settlement
	for _, f := range refused {
		if i, err := strconv.Atoi(aws.ToString(f.Id)); err == nil && i >= 0 && i < len(batch) && !f.SenderFault {
			failed = append(failed, batch[i])
		}
	}
	return failed
}

// seconds is d as SQS counts it: whole ones, rounded up.
func seconds(d time.Duration) int32 { return int32((d + time.Second - 1) / time.Second) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is enough
	}
}

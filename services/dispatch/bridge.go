package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
)

// Bridge sends every ready event to an SQS queue. Its place in the log is one durable consumer, which Ensure makes and all replicas share: each event
// is sent by one of them, and by another when that one dies. An event is acknowledged once SQS has it, so the queue may hold it twice and never
// not at all. While SQS does not take messages they wait in the log.
type Bridge struct {
	store *eventstore.Store
	sqs   *sqs.Client
	url   string
	fifo  bool
	log   *slog.Logger
	state outage

	missing atomic.Bool // its durable consumer does not exist
}

const (
	senders     = 4                // batches on their way at a time
	batchSize   = 10               // what SQS takes at once
	sendTimeout = 10 * time.Second // for one batch
	bridgePull  = 5 * time.Second  // how long a pull waits for the first event
)

// NewBridge returns a bridge to the queue at url; a FIFO queue's ends in ".fifo".
func NewBridge(store *eventstore.Store, client *sqs.Client, url string, log *slog.Logger) *Bridge {
	return &Bridge{store: store, sqs: client, url: url, fifo: strings.HasSuffix(url, ".fifo"), log: log,
		state: outage{log: log, part: "bridge"}}
}

// Err is a sentence that says why scans do not reach SQS; nil while they do.
func (b *Bridge) Err() error {
	if b.missing.Load() {
		return fmt.Errorf("queued scans wait in the log because its consumer %s does not exist", bridgeName)
	}
	if err := b.state.last(); err != nil {
		return fmt.Errorf("queued scans wait in the log because SQS does not take them: %w", err)
	}
	return nil
}

// Run sends until ctx ends.
func (b *Bridge) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for range senders {
		all.Go(func() { b.run(ctx) })
	}
	all.Wait()
	return nil
}

func (b *Bridge) run(ctx context.Context) {
	var cons jetstream.Consumer
	for ctx.Err() == nil {
		if cons == nil {
			var err error
			if cons, err = b.store.JetStream().Consumer(ctx, eventstore.StreamName(b.store.Region()), bridgeName); err != nil {
				b.missing.Store(errors.Is(err, jetstream.ErrConsumerNotFound))
				cons = nil
				pause(ctx, time.Second) // Ensure is still to come, or the log is away
				continue
			}
			b.missing.Store(false)
		}
		batch, err := b.take(ctx, cons)
		if err != nil {
			pause(ctx, time.Second)
			cons = nil
		}
		if len(batch) == 0 {
			continue
		}
		if wait := b.send(ctx, batch); wait > 0 {
			pause(ctx, wait)
		}
	}
}

// take waits for an event and takes those that wait with it.
func (b *Bridge) take(ctx context.Context, cons jetstream.Consumer) ([]jetstream.Msg, error) {
	once, cancel := context.WithTimeout(ctx, bridgePull)
	defer cancel()
	first, err := cons.Fetch(1, jetstream.FetchContext(once))
	if err != nil {
		return nil, err
	}
	var batch []jetstream.Msg
	for m := range first.Messages() {
		batch = append(batch, m)
	}
	if err := first.Error(); err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		return batch, err
	}
	if len(batch) == 0 {
		return nil, nil
	}
	rest, err := cons.FetchNoWait(batchSize - 1)
	if err != nil {
		return batch, nil // the next turn sees it too
	}
	for m := range rest.Messages() {
		batch = append(batch, m)
	}
	return batch, nil
}

// send gives one batch to SQS and returns how long to wait after a failure.
func (b *Bridge) send(ctx context.Context, batch []jetstream.Msg) time.Duration {
	in := &sqs.SendMessageBatchInput{QueueUrl: aws.String(b.url)}
	for i, m := range batch {
		e, err := b.entry(m)
		if err != nil { // not a subject of ready events: the consumer would have to be another's
			b.log.Error("ready event not sent", "subject", m.Subject(), "err", err)
			_ = m.NakWithDelay(newerDelay) // it comes again in any case
			continue
		}
		e.Id = aws.String(strconv.Itoa(i))
		in.Entries = append(in.Entries, e)
	}
	if len(in.Entries) == 0 {
		return 0
	}
	once, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	out, err := b.sqs.SendMessageBatch(once, in)
	// A crash here: what SQS has taken is sent once more by whoever gets it next, and the claim makes that harmless.
	sent := map[string]bool{}
	if err == nil {
		for _, ok := range out.Successful {
			sent[aws.ToString(ok.Id)] = true
		}
		for _, no := range out.Failed {
			err = fmt.Errorf("%s: %s", aws.ToString(no.Code), aws.ToString(no.Message))
		}
	}
	for i, m := range batch {
		if sent[strconv.Itoa(i)] {
			_ = m.Ack() // a lost acknowledgement sends it once more
		}
	}
	if err == nil {
		b.state.answered()
		return 0
	}
	var wait time.Duration
	if ctx.Err() == nil {
		wait = b.state.failed(explain(b.sqs, b.url, err))
	}
	for i, m := range batch {
		if !sent[strconv.Itoa(i)] {
			_ = m.NakWithDelay(wait) // for this replica later, or another one now
		}
	}
	return wait
}

func (b *Bridge) entry(m jetstream.Msg) (types.SendMessageBatchRequestEntry, error) {
	var e types.SendMessageBatchRequestEntry
	agg, priority, err := events.ParseSubject(m.Subject())
	if err != nil {
		return e, err
	}
	md, err := m.Metadata()
	if err != nil {
		return e, err
	}
	out := message{Version: messageVersion, Region: agg.Region, Scan: events.ScanID(agg.ID), Seq: events.Seq(md.Sequence.Stream), Priority: priority, Trace: m.Headers().Get("traceparent")}
	// What a newer release wrote is brought to its worker all the same.
	if r, err := events.DecodeFrom(m.Subject(), m.Headers().Get, m.Data(), out.Seq); err == nil {
		out.Attempt, out.Trace = nextAttempt(r), r.Trace
	}
	body, err := json.Marshal(out)
	if err != nil {
		return e, err
	}
	e.MessageBody = aws.String(string(body))
	if out.Trace != "" {
		e.MessageAttributes = map[string]types.MessageAttributeValue{"traceparent": {DataType: aws.String("String"), StringValue: aws.String(out.Trace)}}
	}
	if b.fifo {
		e.MessageGroupId = aws.String(agg.ID)
		e.MessageDeduplicationId = aws.String(agg.ID + "-" + strconv.FormatUint(md.Sequence.Stream, 10)) // at most 100 + 1 + 20 of 128
	}
	return e, nil
}

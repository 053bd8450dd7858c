package dispatch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
)

// bridgeName is the durable consumer that the replicas of the bridge share.
const bridgeName = "vega_bridge"

// readyName is the durable consumer of one priority.
func readyName(p events.Priority) string { return "vega_ready_" + string(p) }

// consumerConfigs are the durable consumers of a mode: none in ModeThread, whose queue is in memory.
func consumerConfigs(r events.Region, mode Mode) []jetstream.ConsumerConfig {
	switch mode {
	case ModeExternal:
		var all []jetstream.ConsumerConfig
		for _, p := range events.Priorities() {
			all = append(all, jetstream.ConsumerConfig{
				Durable:       readyName(p),
				Description:   "Hints of priority " + string(p) + " for workers",
				FilterSubject: events.ReadyFilter(r, p),
				AckPolicy:     jetstream.AckExplicitPolicy,
				AckWait:       2 * time.Second, // a hint is acknowledged once its claim is stored, which takes milliseconds
				MaxDeliver:    -1,
				MaxAckPending: 4096,
			})
		}
		return all
	case ModeSQS:
		c := jetstream.ConsumerConfig{
			Durable:       bridgeName,
			Description:   "Hints on their way to SQS",
			AckPolicy:     jetstream.AckExplicitPolicy,
			AckWait:       3 * sendTimeout,
			MaxDeliver:    -1,
			MaxAckPending: 1024,
		}
		for _, p := range events.Priorities() {
			c.FilterSubjects = append(c.FilterSubjects, events.ReadyFilter(r, p))
		}
		return []jetstream.ConsumerConfig{c}
	default:
		return nil
	}
}

// Ensure makes a mode's durable consumers where they are missing, so that they bring the ready events after a sequence: one before the oldest scan that
// is not over, and a mode that is switched on loses none that waits. What exists keeps its place. It may be called by any number of processes, at
// any time; a crash in the middle leaves some, and the next call makes the rest. It returns an error when one of them cannot serve as a queue, and
// eventstore.ErrUnavailable when the log does not answer.
func Ensure(ctx context.Context, store *eventstore.Store, mode Mode, after events.Seq) error {
	stream := eventstore.StreamName(store.Region())
	for _, want := range consumerConfigs(store.Region(), mode) {
		if after > 0 {
			want.DeliverPolicy, want.OptStartSeq = jetstream.DeliverByStartSequencePolicy, uint64(after)+1
		}
		have, err := store.JetStream().Consumer(ctx, stream, want.Durable)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			have, err = store.JetStream().CreateConsumer(ctx, stream, want)
			if errors.Is(err, jetstream.ErrConsumerExists) { // another process was faster, and began elsewhere
				have, err = store.JetStream().Consumer(ctx, stream, want.Durable)
			}
		}
		if err != nil {
			return fmt.Errorf("consumer %s: %w: %w", want.Durable, eventstore.ErrUnavailable, err)
		}
		if err := assertConsumer(have.CachedInfo().Config, want); err != nil {
			return err
		}
	}
	return nil
}

// assertConsumer checks what a queue cannot do without; the rest may be another release's.
func assertConsumer(have, want jetstream.ConsumerConfig) error {
	var bad []string
	check := func(ok bool, what string) {
		if !ok {
			bad = append(bad, what)
		}
	}
	filters := func(c jetstream.ConsumerConfig) []string {
		all := slices.Clone(c.FilterSubjects)
		if c.FilterSubject != "" {
			all = append(all, c.FilterSubject)
		}
		slices.Sort(all)
		return all
	}
	check(slices.Equal(filters(have), filters(want)), fmt.Sprintf("it brings %v", filters(have)))
	check(have.AckPolicy == jetstream.AckExplicitPolicy, "hints are not acknowledged one by one")
	check(have.MaxDeliver <= 0, "hints are brought a limited number of times")
	check(have.DeliverSubject == "", "it pushes")
	check(len(have.BackOff) == 0, "it has a back-off of its own")
	check(have.InactiveThreshold == 0, "it ends when nobody asks")
	check(!have.HeadersOnly, "it leaves out the contents")
	if len(bad) > 0 {
		return fmt.Errorf("consumer %s is not fit to be a queue: %s", want.Durable, strings.Join(bad, "; "))
	}
	return nil
}

// Lane is one durable consumer of a mode and how far it is.
type Lane struct {
	Name       string            // high, normal, low; or bridge, which brings them all to SQS
	Priorities []events.Priority // what it brings
	Waiting    int               // ready events that were not brought yet, those of scans that are over by now included
	InFlight   int               // brought, and not acknowledged
	// Delivered is the sequence up to which every ready event was brought and acknowledged. A queued scan whose ready event lies at or below it has
	// lost its hint; in ModeSQS only if the queue behind the bridge is empty too (SQSDepth).
	Delivered events.Seq
}

// Lanes says how far the durable consumers of a mode are, best priority first; ModeThread has none. It returns eventstore.ErrUnavailable when the log does
// not answer, and with it jetstream.ErrConsumerNotFound while Ensure was never called.
func Lanes(ctx context.Context, store *eventstore.Store, mode Mode) ([]Lane, error) {
	configs := consumerConfigs(store.Region(), mode)
	if len(configs) == 0 {
		return nil, nil
	}
	// Asked before the consumers: what is in the log by now and still waits is counted by them.
	log, err := store.Info(ctx)
	if err != nil {
		return nil, err
	}
	lanes := make([]Lane, len(configs))
	for i, c := range configs {
		cons, err := store.JetStream().Consumer(ctx, eventstore.StreamName(store.Region()), c.Durable)
		if err != nil {
			return nil, fmt.Errorf("consumer %s: %w: %w", c.Durable, eventstore.ErrUnavailable, err)
		}
		info := cons.CachedInfo()
		l := Lane{Name: "bridge", Priorities: events.Priorities(), Waiting: int(info.NumPending), InFlight: info.NumAckPending, Delivered: events.Seq(info.AckFloor.Stream)}
		if mode == ModeExternal {
			p := events.Priorities()[i]
			l.Name, l.Priorities = string(p), []events.Priority{p}
		}
		if l.Waiting == 0 && l.InFlight == 0 {
			l.Delivered = max(l.Delivered, log.Last)
		}
		lanes[i] = l
	}
	return lanes, nil
}

// Delivered is the Delivered of the lane that brings p; 0 when there is none.
func Delivered(lanes []Lane, p events.Priority) events.Seq {
	for _, l := range lanes {
		if slices.Contains(l.Priorities, p) {
			return l.Delivered
		}
	}
	return 0
}

package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/nats-io/nats.go/jetstream"

	"vega/config"
	"vega/events"
	"vega/events/eventstore"
	"vega/services/api"
	"vega/services/dispatch"
	"vega/services/maintenance"
)

// serveMaintenance recovers what others left behind, until ctx ends. API processes do the same; any number may, the log decides between them.
func serveMaintenance(ctx context.Context, cfg config.Config, log *slog.Logger, ready func()) (err error) {
	n := &node{cfg: cfg, log: log}
	defer func() {
		err = errors.Join(err, n.close())
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			err = nil // asked to stop while it waited for the log
		}
	}()
	if err := n.joinLog(ctx); err != nil {
		return err
	}
	if err := n.openFiles(ctx); err != nil {
		return err
	}
	life := newLifecycle(ctx)
	defer life.stop()
	// This process has no read model that would know where the oldest unfinished scan is.
	if err := n.startMaintenance(life, 0); err != nil {
		return err
	}
	if err := n.answerHealth(life); err != nil {
		return err
	}
	ready()
	<-life.front.Done()
	return life.wait(func(context.Context) error { return nil })
}

// startMaintenance runs recovery, and in sqs mode the bridge to the queue, following the log after a sequence before the oldest scan that is not over.
func (n *node) startMaintenance(life *lifecycle, from events.Seq) error {
	parts := maintenance.Parts{Store: n.store, Files: n.files, Log: n.log}
	mode := n.cfg.Dispatch.Mode
	if mode != dispatch.ModeThread {
		q := delivered{store: n.store, mode: mode}
		if mode == dispatch.ModeSQS {
			q.url = n.cfg.Dispatch.QueueURL
			var err error
			if q.client, err = n.openSQS(life.front); err != nil {
				return err
			}
			bridge := dispatch.NewBridge(n.store, q.client, q.url, n.log)
			life.part("bridge", bridge.Run)
			n.checks = append(n.checks, queueCheck(bridge.Err, q.client, q.url))
		}
		parts.Delivered = q
	}
	life.part("maintenance", maintenance.New(parts, maintenance.Options{
		Config: n.cfg.Maintenance, HeartbeatTTL: n.cfg.Fleet.HeartbeatTTL, DisconnectGrace: n.cfg.Fleet.DisconnectGrace, From: from,
	}).Run)
	return nil
}

// openSQS returns a client of sqs mode's queue. A queue that refuses stops the start, with a sentence; one that does not answer does not: it may be back before
// anybody needs it, and readyz says so meanwhile.
func (n *node) openSQS(ctx context.Context) (*sqs.Client, error) {
	url := n.cfg.Dispatch.QueueURL
	client, err := dispatch.NewSQSClient(ctx, url)
	if err != nil {
		return nil, err
	}
	ask, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	_, err = dispatch.SQSDepth(ask, client, url)
	if e, explained := errors.AsType[*dispatch.QueueError](err); explained && e.Away && ctx.Err() == nil {
		n.log.Warn("SQS queue does not answer yet", "err", err)
		return client, nil
	}
	return client, err
}

// queueCheck says whether a part gets on with sqs mode's queue and, since it may have had nothing to ask yet, whether the queue answers at all.
func queueCheck(part func() error, client *sqs.Client, url string) api.Check {
	return api.Check{Name: "sqs", Run: func(ctx context.Context) error {
		if err := part(); err != nil {
			return err
		}
		_, err := dispatch.SQSDepth(ctx, client, url)
		return err
	}}
}

// delivered asks a mode's queue what it has handed over.
type delivered struct {
	store  *eventstore.Store
	mode   dispatch.Mode
	client *sqs.Client // in sqs mode
	url    string
}

// Delivered implements maintenance.Delivered. A message that lies in SQS is not lost, so nothing is judged until that queue is empty.
func (d delivered) Delivered(ctx context.Context) (map[events.Priority]events.Seq, error) {
	lanes, err := dispatch.Lanes(ctx, d.store, d.mode)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil, nil // no API process has started in this mode yet: nothing was queued, so nothing is lost
	}
	if err != nil {
		return nil, err
	}
	if d.client != nil {
		depth, err := dispatch.SQSDepth(ctx, d.client, d.url)
		if err != nil {
			return nil, err
		}
		if depth.Visible+depth.InFlight+depth.Delayed > 0 {
			return nil, nil
		}
	}
	out := map[events.Priority]events.Seq{}
	for _, p := range events.Priorities() {
		out[p] = dispatch.Delivered(lanes, p)
	}
	return out, nil
}

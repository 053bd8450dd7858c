package maintenance_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/fleet"
	"vega/services/maintenance"
)

// A worker claims a scan and dies; the scan is queued again.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "maintenance")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	srv, err := eventstore.StartEmbedded(eventstore.EmbeddedOptions{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Stop()
	open := func() *eventstore.Store {
		nc, err := srv.Connect()
		if err != nil {
			log.Fatal(err)
		}
		js, err := jetstream.New(nc)
		if err != nil {
			log.Fatal(err)
		}
		if err := eventstore.Setup(ctx, js, "local", 1); err != nil {
			log.Fatal(err)
		}
		store, err := eventstore.Open(ctx, nc, eventstore.Options{Region: "local"})
		if err != nil {
			log.Fatal(err)
		}
		return store
	}
	store, quiet := open(), slog.New(slog.DiscardHandler)
	defer store.Conn().Close()
	m := maintenance.New(maintenance.Parts{Store: store, Log: quiet}, maintenance.Options{
		Config: maintenance.Config{RunningStale: 6 * time.Hour, IngestStale: time.Hour}, HeartbeatTTL: 2 * time.Minute,
	})
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- m.Run(running) }()

	theirs := open()
	worker, err := fleet.Join(ctx, theirs, fleet.Worker{ID: events.NewWorkerID("local"), Slots: 1}, 2*time.Minute, quiet)
	if err != nil {
		log.Fatal(err)
	}
	agg := events.ScanOf("local", events.NewScanID("local"))
	meta := events.Meta{Command: events.NewCommandID(), Actor: events.ByWorker(worker.ID()), At: time.Now()}
	if _, err := theirs.Append(ctx, agg, events.Head{}, meta, queued, events.AttemptClaimed{Attempt: 1, Worker: worker.ID()}); err != nil {
		log.Fatal(err)
	}
	for m.Status().Heard == 0 {
		<-time.After(time.Millisecond)
	}
	theirs.Conn().Close()
	for r, err := range store.Follow(ctx, 0, agg.Filter()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(r.Kind)
		if e, ok := r.Event.(events.AttemptExpired); ok {
			fmt.Println(e.Reason)
			break
		}
	}
	stop()
	if err := <-ended; err != nil {
		log.Fatal(err)
	}
	// Output:
	// scan.queued
	// scan.claimed
	// scan.expired
	// disconnected
}

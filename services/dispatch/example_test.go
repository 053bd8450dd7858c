package dispatch_test

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/dispatch"
)

// The API makes the consumers and records a scan; a worker, here in the same process, is brought its hint and says when it has served.
func Example() {
	dir, err := os.MkdirTemp("", "vega-example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	srv, err := eventstore.StartEmbedded(eventstore.EmbeddedOptions{Dir: dir})
	if err != nil {
		panic(err)
	}
	defer srv.Stop()
	nc, err := srv.Connect()
	if err != nil {
		panic(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	if err := eventstore.Setup(ctx, js, "test", 1); err != nil {
		panic(err)
	}
	store, err := eventstore.Open(ctx, nc, eventstore.Options{Region: "test"})
	if err != nil {
		panic(err)
	}
	defer store.Close()

	if err := dispatch.Ensure(ctx, store, dispatch.ModeExternal, 0); err != nil {
		panic(err)
	}
	if _, _, err := dispatch.NewAdmission(store, 4).Create(ctx, meta("example"), "scan_test_example", request(events.High)); err != nil {
		panic(err)
	}

	queue := dispatch.NewExternal(store, quiet())
	var running sync.WaitGroup
	running.Go(func() { _ = queue.Run(ctx) })
	hint, err := queue.Next(ctx)
	if err != nil {
		panic(err)
	}
	fmt.Println(hint.Scan, hint.Priority)
	queue.Done(hint) // once the claim is stored

	stop()
	running.Wait()
	// Output: scan_test_example high
}

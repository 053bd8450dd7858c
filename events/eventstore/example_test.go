package eventstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
)

// names is the state that the example decides on: what a project was called.
type names struct{ taken []string }

func (n names) Evolve(r events.Recorded) names {
	if e, ok := r.Event.(events.ProjectRenamed); ok {
		n.taken = append(n.taken[:len(n.taken):len(n.taken)], e.Name)
	}
	return n
}

// A process with its own server: set up, one command, its retry, and the history.
func Example() {
	ctx := context.Background()
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
	if err := eventstore.Setup(ctx, js, "local", 1); err != nil {
		panic(err)
	}
	store, err := eventstore.Open(ctx, nc, eventstore.Options{Region: "local"})
	if err != nil {
		panic(err)
	}
	defer store.Close()

	project := events.ProjectOf("local", "proj_local_a")
	rename := func(command events.CommandID, name string) error {
		meta := events.Meta{Command: command, Actor: events.ByUser("user_a"), At: time.Now()}
		_, recorded, err := eventstore.Do(ctx, store, project, meta, func(n names, _ events.Head) ([]events.Event, error) {
			if len(n.taken) > 1 {
				return nil, errors.New("renamed too often")
			}
			return []events.Event{events.ProjectRenamed{Name: name}}, nil
		})
		for _, r := range recorded {
			fmt.Println(r.Seq, r.Version, r.Kind)
		}
		return err
	}
	fmt.Println(rename("cmd_1", "shop"))
	fmt.Println(rename("cmd_1", "shop")) // a retry: stored once
	fmt.Println(rename("cmd_2", "store"))
	fmt.Println(rename("cmd_3", "market"))

	for r, err := range store.Follow(ctx, 0) {
		if err != nil {
			panic(err)
		}
		fmt.Println(r.Event.(events.ProjectRenamed).Name)
		if r.Seq == 2 {
			break
		}
	}
	// Output:
	// 1 1 project.renamed
	// <nil>
	// 1 1 project.renamed
	// <nil>
	// 2 2 project.renamed
	// <nil>
	// renamed too often
	// shop
	// store
}

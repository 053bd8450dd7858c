package projections_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"vega/events"
	"vega/projections"
	"vega/projections/jsonfile"
)

// A model is folded from events, here from one that is made by hand; a Runner does the same with a log.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "vega-example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	model, err := jsonfile.Open(dir)
	if err != nil {
		panic(err)
	}
	defer model.Close()

	project := events.ProjectOf("local", "proj_local_a")
	meta := events.Meta{Command: "cmd_1", Actor: events.ByUser("user_a"), At: time.Unix(1e9, 0)}
	msgs, _, err := events.Encode(project, events.Head{}, meta, events.ProjectCreated{Name: "shop", Owner: "user_a"})
	if err != nil {
		panic(err)
	}
	created, err := events.Decode(msgs[0], 1)
	if err != nil {
		panic(err)
	}
	err = model.Update(ctx, projections.Checkpoint{Seq: 1, Stream: "VEGA_EVENTS_local_1"}, func(tx projections.Tx) error {
		return projections.Apply(tx, created)
	})
	if err != nil {
		panic(err)
	}

	mine, next, err := model.Projects(ctx, projections.ProjectFilter{User: "user_a"}, projections.Page{Limit: 10})
	fmt.Println(len(mine), mine[0].Name, next == "", err)
	// Output: 1 shop true <nil>
}

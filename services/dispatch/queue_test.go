package dispatch_test

import (
	"context"
	"flag"
	"log/slog"
	"sync"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/dispatch"
	"vega/services/dispatch/queuetest"
	"vega/services/dispatch/sqstest"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// These tests mostly wait: for hints to come again, for a queue that counts in seconds.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	natstest.Main(m)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// local is the queue of a process that begins after a sequence.
type local struct {
	*dispatch.Local
	after events.Seq
}

func (l local) Run(ctx context.Context) error { return l.Local.Run(ctx, l.after) }

func localSystem() queuetest.System {
	return queuetest.System{
		Ordered: true,
		Deploy: func(_ testing.TB, store *eventstore.Store, after events.Seq) func() queuetest.Queue {
			return func() queuetest.Queue { return local{dispatch.NewLocal(store), after} }
		},
	}
}

func externalSystem() queuetest.System {
	return queuetest.System{
		Ordered: true,
		Deploy: func(tb testing.TB, store *eventstore.Store, after events.Seq) func() queuetest.Queue {
			if err := dispatch.Ensure(tb.Context(), store, dispatch.ModeExternal, after); err != nil {
				tb.Fatal(err)
			}
			return func() queuetest.Queue { return dispatch.NewExternal(store, quiet()) }
		},
		Idle: func(ctx context.Context, store *eventstore.Store) (bool, error) {
			return idle(ctx, store, dispatch.ModeExternal)
		},
	}
}

func idle(ctx context.Context, store *eventstore.Store, mode dispatch.Mode) (bool, error) {
	lanes, err := dispatch.Lanes(ctx, store, mode)
	for _, l := range lanes {
		if l.Waiting+l.InFlight > 0 {
			return false, err
		}
	}
	return err == nil, err
}

// sqsSystem deploys each test with a queue of its own and two replicas of the bridge.
func sqsSystem(server *sqstest.Server, fifo bool) queuetest.System {
	var urls sync.Map // *eventstore.Store → URL
	return queuetest.System{
		Deploy: func(tb testing.TB, store *eventstore.Store, after events.Seq) func() queuetest.Queue {
			tb.Helper()
			have, again := urls.Load(store)
			if !again {
				have, _ = server.Queue(tb, sqstest.Options{FIFO: fifo})
				urls.Store(store, have)
			}
			url := have.(string)
			if err := dispatch.Ensure(tb.Context(), store, dispatch.ModeSQS, after); err != nil {
				tb.Fatal(err)
			}
			for range 2 {
				queuetest.Start(tb, bridge{dispatch.NewBridge(store, server.Client(), url, quiet())})
			}
			return func() queuetest.Queue {
				return dispatch.NewSQS(store, server.Client(), url, dispatch.SQSOptions{Visibility: time.Second, Rest: time.Second}, quiet())
			}
		},
		Idle: func(ctx context.Context, store *eventstore.Store) (bool, error) {
			if ok, err := idle(ctx, store, dispatch.ModeSQS); !ok {
				return false, err
			}
			url, _ := urls.Load(store)
			depth, err := dispatch.SQSDepth(ctx, server.Client(), url.(string))
			return depth == dispatch.QueueDepth{}, err
		},
	}
}

// bridge is run like a queue, and gives nothing out.
type bridge struct{ *dispatch.Bridge }

func (bridge) Next(context.Context) (dispatch.Hint, error) { return dispatch.Hint{}, nil }
func (bridge) Done(dispatch.Hint)                          {}
func (bridge) Retry(dispatch.Hint)                         {}

func TestQueues(t *testing.T) {
	t.Parallel()
	server := sqstest.Start(t)
	t.Run("thread", func(t *testing.T) {
		t.Parallel()
		queuetest.Run(t, localSystem())
	})
	t.Run("external", func(t *testing.T) {
		t.Parallel()
		queuetest.Run(t, externalSystem())
	})
	t.Run("sqs", func(t *testing.T) {
		t.Parallel()
		queuetest.Run(t, sqsSystem(server, false))
	})
	t.Run("sqs fifo", func(t *testing.T) {
		t.Parallel()
		queuetest.Run(t, sqsSystem(server, true))
	})
}

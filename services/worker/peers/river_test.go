package peers

import (
	"context"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"vega/projections/pgtest"
)

// riverQueue is River, tuned: it fetches as often as it allows itself to, is told of new jobs at once, and completes jobs in batches, as it always does.
type riverQueue struct {
	pool   *pgxpool.Pool
	client *river.Client[pgx.Tx]
	done   <-chan *river.Event
	cancel func()
}

type riverJob struct {
	ID      string `json:"id"`
	Request string `json:"request"`
}

func (riverJob) Kind() string { return "scan" }

type riverWorker struct {
	river.WorkerDefaults[riverJob]
	pool    *pgxpool.Pool
	updates int
	started func(id string)
}

// Work stores that the job has started and how far it is, if that is asked for, in a row of its own: River's job row has indexes that would make each
// update several times as dear.
func (w *riverWorker) Work(ctx context.Context, job *river.Job[riverJob]) error {
	if w.updates == 0 { // River's claim says that the job runs
		w.started(job.Args.ID)
		return nil
	}
	if _, err := w.pool.Exec(ctx, `insert into progress (job, started_at) values ($1, now()) on conflict (job) do update set started_at = excluded.started_at`, job.ID); err != nil {
		return err
	}
	w.started(job.Args.ID)
	for i := range w.updates {
		if _, err := w.pool.Exec(ctx, `update progress set step = $2, detail = $3 where job = $1`, job.ID, i, stageName(i)); err != nil {
			return err
		}
	}
	return nil
}

func openRiver(b *testing.B, s *pgtest.Server, t task) queue {
	b.Helper()
	pool := database(b, s, t.powerSafe)
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		_, err = migrator.Migrate(b.Context(), rivermigrate.DirectionUp, nil)
	}
	if err == nil {
		_, err = pool.Exec(b.Context(), `create table progress (job bigint primary key, started_at timestamptz not null, step int, detail text) with (fillfactor = 50)`)
	}
	if err != nil {
		b.Fatal(err)
	}
	q := &riverQueue{pool: pool}
	workers := river.NewWorkers()
	river.AddWorker(workers, &riverWorker{pool: pool, updates: t.updates, started: t.started})
	q.client, err = river.NewClient(riverpgxv5.New(pool), &river.Config{
		Logger:            slog.New(slog.DiscardHandler),
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: slots}},
		Workers:           workers,
		FetchCooldown:     river.FetchCooldownMin,
		FetchPollInterval: 50 * time.Millisecond,
		JobTimeout:        -1,
	})
	if err != nil {
		b.Fatal(err)
	}
	q.done, q.cancel = q.client.SubscribeConfig(&river.SubscribeConfig{Kinds: []river.EventKind{river.EventKindJobCompleted, river.EventKindJobFailed}, ChanSize: 1 << 16})
	if err := q.client.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	return q
}

func (q *riverQueue) enqueue(ctx context.Context, n int) error {
	_, err := q.client.Insert(ctx, riverJob{ID: strconv.Itoa(n), Request: request}, nil)
	return err
}

func (q *riverQueue) wait(b *testing.B, n int) {
	b.Helper()
	for range n {
		select {
		case e := <-q.done:
			if e.Kind != river.EventKindJobCompleted {
				b.Fatalf("river: %s", e.Kind)
			}
		case <-b.Context().Done():
			b.Fatal(b.Context().Err())
		}
	}
}

func (q *riverQueue) close(b *testing.B) {
	b.Helper()
	q.cancel()
	if err := q.client.StopAndCancel(context.WithoutCancel(b.Context())); err != nil {
		b.Error(err)
	}
	q.pool.Close()
}

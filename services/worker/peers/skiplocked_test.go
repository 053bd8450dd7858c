package peers

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"vega/projections/pgtest"
)

// skipLocked is the queue that people write themselves: one table, SELECT … FOR UPDATE SKIP LOCKED, and an update for each step.
type skipLocked struct {
	pool    *pgxpool.Pool
	task    task
	slots   sync.WaitGroup
	stop    context.CancelFunc
	done    atomic.Int64
	all     chan struct{} // buffered 1: done has reached want
	want    atomic.Int64
	failure atomic.Pointer[error]
}

const skipSchema = `
create table jobs (
	id bigint generated always as identity primary key,
	state smallint not null default 0, -- queued, claimed, running, completed
	name text not null,
	request text not null,
	worker text,
	step int not null default 0,
	detail text,
	created_at timestamptz not null default now(),
	claimed_at timestamptz,
	started_at timestamptz,
	finished_at timestamptz
) with (fillfactor = 50);
create index on jobs (id) where state = 0;`

func openSkipLocked(b *testing.B, s *pgtest.Server, t task) queue {
	b.Helper()
	q := &skipLocked{pool: database(b, s, t.powerSafe), task: t, all: make(chan struct{}, 1)}
	if _, err := q.pool.Exec(b.Context(), skipSchema); err != nil {
		b.Fatal(err)
	}
	var ctx context.Context
	ctx, q.stop = context.WithCancel(b.Context())
	for i := range slots {
		q.slots.Go(func() {
			if err := q.slot(ctx, strconv.Itoa(i)); err != nil && ctx.Err() == nil {
				q.failure.Store(&err)
				q.stop()
			}
		})
	}
	return q
}

func (q *skipLocked) enqueue(ctx context.Context, n int) error {
	_, err := q.pool.Exec(ctx, `insert into jobs (name, request) values ($1, $2)`, strconv.Itoa(n), request)
	return err
}

// slot takes jobs one after the other. With nothing to do it asks again soon, as such queues do.
func (q *skipLocked) slot(ctx context.Context, worker string) error {
	for ctx.Err() == nil {
		var id int64
		var name, req string
		err := q.pool.QueryRow(ctx, `update jobs set state = 1, worker = $1, claimed_at = now()
			where id = (select id from jobs where state = 0 order by id for update skip locked limit 1) returning id, name, request`, worker).Scan(&id, &name, &req)
		if errors.Is(err, pgx.ErrNoRows) {
			pause := time.NewTimer(5 * time.Millisecond)
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
			continue
		}
		if err == nil {
			_, err = q.pool.Exec(ctx, `update jobs set state = 2, started_at = now() where id = $1 and worker = $2`, id, worker)
		}
		if err == nil {
			q.task.started(name)
		}
		for i := range q.task.updates {
			if err == nil {
				_, err = q.pool.Exec(ctx, `update jobs set step = $3, detail = $4 where id = $1 and worker = $2`, id, worker, i, stageName(i))
			}
		}
		if err == nil {
			_, err = q.pool.Exec(ctx, `update jobs set state = 3, finished_at = now() where id = $1 and worker = $2`, id, worker)
		}
		if err != nil {
			return err
		}
		if q.done.Add(1) == q.want.Load() {
			q.all <- struct{}{}
		}
	}
	return nil
}

func (q *skipLocked) wait(b *testing.B, n int) {
	b.Helper()
	if q.want.Add(int64(n)) <= q.done.Load() {
		return
	}
	tick := time.NewTicker(time.Second) // done may have passed want between the two lines above
	defer tick.Stop()
	for q.done.Load() < q.want.Load() {
		if err := q.failure.Load(); err != nil {
			b.Fatal(*err)
		}
		select {
		case <-q.all:
		case <-tick.C:
		case <-b.Context().Done():
			b.Fatal(b.Context().Err())
		}
	}
}

func (q *skipLocked) close(*testing.B) {
	q.stop()
	q.slots.Wait()
	q.pool.Close()
}

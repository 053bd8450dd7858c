// Package peers measures a scan's way through the log beside the same job in queues on Postgres, on one machine and in one run.
//
// The job is: enqueue, claim, start, ten updates of its progress, complete. 64 slots run it, the work itself takes no time, 32 clients enqueue, and each
// waits for its job to be stored. Vega is its own parts in one process with the embedded log, its read model in files current at the end. River and the plain
// queue (SELECT … FOR UPDATE SKIP LOCKED) use a tuned Postgres over a Unix socket; River stores its completions in batches that no worker waits for.
package peers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"vega/projections/pgtest"
)

const (
	slots   = 64
	clients = 32
	steps   = 10
	// request stands for what a job is about.
	request = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

func stageName(i int) string { return "stage-" + strconv.Itoa(i) }

// task is the job and how safe its steps are once they are stored: against the death of any process, or against a power cut too.
type task struct {
	powerSafe bool
	updates   int // progress that is stored and waited for
	lines     int // progress that goes to the feed, of which the end may be lost
	started   func(id string)
}

// queue is one of the systems.
type queue interface {
	enqueue(ctx context.Context, n int) error // of number n; it returns once the job is stored
	wait(b *testing.B, n int)                 // until n more jobs are over
	close(b *testing.B)
}

// contender makes a system for a task.
type contender struct {
	name string
	open func(*testing.B, task) queue
}

func contenders(s *pgtest.Server) []contender {
	return []contender{
		{"vega", func(b *testing.B, t task) queue { return openVega(b, t, parts{}) }},
		{"external", func(b *testing.B, t task) queue { return openVega(b, t, parts{external: true}) }},
		{"limits", func(b *testing.B, t task) queue { return openVega(b, t, parts{limits: true}) }},
		{"river", func(b *testing.B, t task) queue { return openRiver(b, s, t) }},
		{"skip-locked", func(b *testing.B, t task) queue { return openSkipLocked(b, s, t) }},
	}
}

// rounds is how often each is measured, by turns. The best round counts: what else the machine does can only make one slower.
const rounds = 3

// BenchmarkThroughput runs the job through each of them. "every step" stores all progress and waits for it; "product" does what each is used
// for: Vega stores the events of the lifecycle and tells the feed of progress, the others store no progress at all, and River's claim is also its start.
func BenchmarkThroughput(b *testing.B) {
	s := startPostgres(b)
	for _, c := range []struct {
		name string
		task task
		jobs int
	}{
		{"every step/kill-safe", task{updates: steps}, 3000},
		{"every step/power-safe", task{updates: steps, powerSafe: true}, 800},
		{"product/kill-safe", task{lines: steps}, 5000},
		{"product/power-safe", task{lines: steps, powerSafe: true}, 2000},
	} {
		b.Run(c.name, func(b *testing.B) {
			c.task.started = func(string) {}
			all := contenders(s)
			best := make([]time.Duration, len(all))
			for b.Loop() {
				for range rounds {
					for i, x := range all {
						q := x.open(b, c.task)
						spend(b, q, 0, c.jobs/10) // everything is connected and warm
						if took := spend(b, q, c.jobs/10, c.jobs); best[i] == 0 || took < best[i] {
							best[i] = took
						}
						q.close(b)
					}
				}
			}
			for i, x := range all {
				b.ReportMetric(float64(c.jobs)/best[i].Seconds(), x.name+"-jobs/s")
				if i > 0 {
					b.ReportMetric(best[i].Seconds()/best[0].Seconds(), "vega/"+x.name)
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// spend runs n jobs, numbered from first, and returns how long that took.
func spend(b *testing.B, q queue, first, n int) time.Duration {
	b.Helper()
	begin := time.Now()
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := first + c; i < first+n; i += clients {
				if err := q.enqueue(b.Context(), i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if b.Failed() {
		b.FailNow()
	}
	q.wait(b, n)
	return time.Since(begin)
}

// BenchmarkCreateToStart measures from the moment a client begins to enqueue to the first line of the work, one job every few milliseconds.
func BenchmarkCreateToStart(b *testing.B) {
	s := startPostgres(b)
	const jobs = 100
	for _, powerSafe := range []bool{false, true} {
		b.Run(map[bool]string{false: "kill-safe", true: "power-safe"}[powerSafe], func(b *testing.B) {
			all := contenders(s)
			best := make([]time.Duration, len(all))
			for b.Loop() {
				for range rounds {
					for i, x := range all {
						waits := lowLoad(b, x, task{powerSafe: powerSafe}, jobs)
						if p50 := waits[len(waits)/2]; best[i] == 0 || p50 < best[i] {
							best[i] = p50
						}
					}
				}
			}
			for i, x := range all {
				b.ReportMetric(float64(best[i].Microseconds()), x.name+"-p50-us")
				if i > 0 {
					b.ReportMetric(best[0].Seconds()/best[i].Seconds(), "vega/"+x.name)
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// lowLoad enqueues jobs one by one and returns how long each waited, sorted.
func lowLoad(b *testing.B, x contender, t task, jobs int) []time.Duration {
	b.Helper()
	starts := make(chan time.Time, 1)
	t.started = func(string) { starts <- time.Now() }
	q := x.open(b, t)
	defer q.close(b)
	var waits []time.Duration
	random := rand.New(rand.NewPCG(1, 2))
	for i := range jobs {
		begin := time.Now()
		if err := q.enqueue(b.Context(), i); err != nil {
			b.Fatal(err)
		}
		select {
		case at := <-starts:
			waits = append(waits, at.Sub(begin))
		case <-time.After(time.Minute):
			b.Fatal(fmt.Errorf("%s: job %d does not start", x.name, i))
		}
		<-time.After(time.Duration(3+random.IntN(7)) * time.Millisecond) // low load
	}
	q.wait(b, jobs)
	slices.Sort(waits)
	return waits
}

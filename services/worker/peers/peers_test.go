// Package peers measures a scan's way through the log beside the same job in queues on Postgres, on one machine and in one run.
//
// The job is: enqueue, claim, start, ten updates of its progress, complete. 64 slots run it, the work itself takes no time, 32 clients enqueue, and each
// waits for its job to be stored. Vega is its own parts in one process with the embedded log, its read model in files current at the end. River and the plain
// queue (SELECT … FOR UPDATE SKIP LOCKED) use a tuned Postgres over a Unix socket; River's claim is also its start, and its completions are stored in
// batches that no worker waits for.
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

func contenders(s *server, admission bool) []contender {
	return []contender{
		{"vega", func(b *testing.B, t task) queue { return openVega(b, t, false, admission) }},
		{"external", func(b *testing.B, t task) queue { return openVega(b, t, true, admission) }},
		{"river", func(b *testing.B, t task) queue { t.lines = 0; return openRiver(b, s, t) }},
		{"skip-locked", func(b *testing.B, t task) queue { t.lines = 0; return openSkipLocked(b, s, t) }},
	}
}

// BenchmarkThroughput runs the job through each of them, by turns. "every step" stores all progress and waits for it; "product" does what each is used
// for: Vega stores the events of the lifecycle and tells the feed of progress, the others store no progress at all.
func BenchmarkThroughput(b *testing.B) {
	s := startPostgres(b)
	for _, c := range []struct {
		name      string
		task      task
		admission bool
		jobs      int
	}{
		{"every step/kill-safe", task{updates: steps}, false, 4000},
		{"every step/power-safe", task{updates: steps, powerSafe: true}, false, 1000},
		{"product/kill-safe", task{lines: steps}, true, 8000},
		{"product/power-safe", task{lines: steps, powerSafe: true}, true, 4000},
	} {
		b.Run(c.name, func(b *testing.B) {
			c.task.started = func(string) {}
			all := contenders(s, c.admission)
			took := make([]time.Duration, len(all))
			for b.Loop() {
				for i, x := range all {
					q := x.open(b, c.task)
					spend(b, q, 0, c.jobs/10) // everything is connected and warm
					took[i] += spend(b, q, c.jobs/10, c.jobs)
					q.close(b)
				}
			}
			for i, x := range all {
				b.ReportMetric(float64(c.jobs*b.N)/took[i].Seconds(), x.name+"-jobs/s")
				if x.name != "vega" {
					b.ReportMetric(took[i].Seconds()/took[0].Seconds(), "vega/"+x.name)
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
	const jobs = 150
	for _, powerSafe := range []bool{false, true} {
		b.Run(map[bool]string{false: "kill-safe", true: "power-safe"}[powerSafe], func(b *testing.B) {
			all := contenders(s, false)
			p50 := make([]time.Duration, len(all))
			for b.Loop() {
				for i, x := range all {
					waits := lowLoad(b, x, task{powerSafe: powerSafe}, jobs)
					p50[i] += waits[len(waits)/2]
				}
			}
			for i, x := range all {
				b.ReportMetric(float64(p50[i].Microseconds())/float64(b.N), x.name+"-p50-us")
				if x.name != "vega" {
					b.ReportMetric(p50[0].Seconds()/p50[i].Seconds(), "vega/"+x.name)
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

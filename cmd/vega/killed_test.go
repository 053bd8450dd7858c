package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/dispatch/sqstest"
	"vega/services/scan"
	"vega/services/worker/ecstest"
)

const killedLimit = 10 // active scans: three of the four workers have slots for more than these

// killing is a site whose workers, or tasks, are killed again and again while it scans.
type killing struct {
	*site
	kill  func(i int) // one of them, at random or in turn
	kills []time.Time
	ids   []string
}

// Scans of killed workers run elsewhere; how soon is printed. With -tags long it is the full-sized run.
func TestScansOfKilledWorkersRunElsewhere(t *testing.T) {
	t.Parallel()
	k := newKilling(t)
	k.killWorkers(nil)
	k.run(700 * time.Millisecond)
}

// The same when messages come twice and out of order.
func TestScansOfKilledWorkersRunElsewhereThroughSQS(t *testing.T) {
	t.Parallel()
	server := sqstest.Start(t)
	queue, _ := server.Queue(t, sqstest.Options{})
	env := append([]string{"VEGA_SCAN_EXECUTION_MODE=sqs", "VEGA_SCAN_QUEUE_URL=" + queue, "AWS_ENDPOINT_URL_SQS=" + flaky(t, server.URL)}, server.Env()...)
	k := newKilling(t, env...)
	k.killWorkers(env)
	k.run(time.Second)
}

// The same with tasks that vanish.
func TestScansOfVanishedTasksRunElsewhere(t *testing.T) {
	t.Parallel()
	k := newKilling(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tasks := ecstest.Run(t, ecstest.Options{Command: []string{self}, StopTimeout: 2 * time.Second, Step: 10 * time.Millisecond,
		Env: append(k.env, asVega+"=1", "PATH="+os.Getenv("PATH"), "HOME="+k.home, "VEGA_DATA_DIR="+filepath.Join(k.home, "data"))})
	for range 2 {
		k.worker("VEGA_SCAN_WORKER_EXECUTION_MODE=ecs", "VEGA_ECS_CLUSTER=scans", "VEGA_ECS_TASK_DEFINITION=vega-runner", "VEGA_ECS_CONTAINER_NAME=vega", "VEGA_WORKER_SLOTS=6",
			"AWS_ENDPOINT_URL_ECS="+tasks.URL(), "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY=x", "AWS_EC2_METADATA_DISABLED=true")
	}
	k.kill = func(int) {
		var running []string
		for _, task := range tasks.Tasks() {
			if task.Status == "RUNNING" && !task.Vanished {
				running = append(running, task.ARN)
			}
		}
		if len(running) > 0 {
			tasks.Vanish(running[rand.IntN(len(running))])
		}
	}
	k.run(time.Second)
}

func newKilling(t *testing.T, env ...string) *killing {
	t.Helper()
	// Each scan's slot in the log is given up by whoever starts the next, so all are one user's.
	env = append(env, fmt.Sprint("VEGA_MAX_ACTIVE_SCANS_PER_USER=", killedLimit), "VEGA_SCAN_MAX_ATTEMPTS=100", "VEGA_NATS_SYNC=default")
	return &killing{site: newSite(t, timed{Stages: 3, Takes: 300 * time.Millisecond}, env...)}
}

// killWorkers has four workers with four slots each, and kills one after the other with -9.
func (k *killing) killWorkers(env []string) {
	var workers []*process
	for range 4 {
		workers = append(workers, k.worker(append(env, "VEGA_WORKER_SLOTS=4")...))
	}
	k.kill = func(i int) {
		w := workers[i%len(workers)]
		w.kill()
		w.start()
	}
	k.t.Cleanup(func() {
		for _, w := range workers {
			w.kill()
		}
	})
}

// run scans, killing something every so often for as long as there are more to queue, and then asks the log. Once the last is queued nothing more is
// killed: the last scan to run would be the only one left to hit, and on a slow machine no attempt of it would live long enough to end a stage.
func (k *killing) run(every time.Duration) {
	k.t.Helper()
	scans := 40
	if long {
		scans, every = 500, 2*every
	}
	ctx, cancel := context.WithCancel(k.t.Context())
	defer cancel()
	var killer sync.WaitGroup
	killer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-time.After(every): // the pace of the kills
			case <-ctx.Done():
				return
			}
			k.kills = append(k.kills, time.Now())
			k.kill(i)
		}
	})
	for len(k.ids) < scans {
		var v struct{ ID string }
		if err := newClient(k.api.base, k.api.token).call(ctx, http.MethodPost, "/repositories/"+k.repo+"/scans", fmt.Sprint("key-", len(k.ids)), map[string]any{}, &v); err == nil {
			k.ids = append(k.ids, v.ID)
			continue
		}
		<-time.After(20 * time.Millisecond) // the limit is reached
	}
	cancel()
	killer.Wait()
	for _, id := range k.ids {
		k.await(id, "completed")
	}
	k.examine()
	k.api.stop(k.t)
	store := reopened(k.t, filepath.Join(k.home, "data"))
	testimony(k.t, store, filepath.Join(k.home, "data", "readmodels"), k.ids, killedLimit)
}

// examine finds in the log how long lost scans waited to run elsewhere.
func (k *killing) examine() {
	k.t.Helper()
	store := k.store()
	var waits []time.Duration
	reasons := map[string]int{}
	for _, id := range k.ids {
		past, _, err := store.Load(k.t.Context(), events.ScanOf("local", events.ScanID(id)), events.Head{})
		if err != nil {
			k.t.Fatal(err)
		}
		var lost time.Time
		for _, r := range past {
			switch e := r.Event.(type) {
			case events.AttemptExpired:
				reasons[e.Reason]++
				if i, _ := slices.BinarySearchFunc(k.kills, r.At, time.Time.Compare); i > 0 {
					lost = k.kills[i-1]
				}
			case events.AttemptStarted:
				if !lost.IsZero() {
					waits = append(waits, r.At.Sub(lost))
					lost = time.Time{}
				}
			default: // about neither
			}
		}
		if last := past[len(past)-1]; last.Kind != "scan.completed" || !scan.Ends(last.Kind) {
			k.t.Errorf("%s ended with %s", id, last.Kind)
		}
	}
	slices.Sort(waits)
	if len(waits) == 0 {
		k.t.Fatal("no scan lost its worker")
	}
	k.t.Logf("%d kills, %d scans lost their worker %v; from kill to running elsewhere p50 %s, p99 %s, most %s", len(k.kills), len(waits), reasons,
		waits[len(waits)/2].Round(time.Millisecond), waits[len(waits)*99/100].Round(time.Millisecond), waits[len(waits)-1].Round(time.Millisecond))
}

// reopened is the log of a process that has stopped.
func reopened(t *testing.T, data string) *eventstore.Store {
	t.Helper()
	srv, err := eventstore.StartEmbedded(eventstore.EmbeddedOptions{Dir: filepath.Join(data, "nats")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Stop)
	nc, err := srv.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	store, err := eventstore.Open(t.Context(), nc, eventstore.Options{Region: "local"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return store
}

package eventstore_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
)

// What callers did with an aggregate and what they were told. The state of the model is the aggregate's log: its commands, in order, each followed by a
// space.
type (
	operation struct {
		load     bool
		command  string
		expected int // events that the caller thought there were
	}
	result struct {
		outcome string // "stored", "conflict", "unknown"; "" of a load
		version int    // of the stored event
		log     string // what a load returned
	}
)

// aggregateModel allows an append whose outcome nobody knows to take effect or not.
var aggregateModel = porcupine.NondeterministicModel{
	Init: func() []any { return []any{""} },
	Step: func(s, in, out any) []any {
		log, op, res := s.(string), in.(operation), out.(result)
		n := strings.Count(log, " ")
		if op.load {
			if res.log == log {
				return []any{log}
			}
			return nil
		}
		fits := n == op.expected
		switch res.outcome {
		case "stored":
			if fits && res.version == n+1 {
				return []any{log + op.command + " "}
			}
			return nil
		case "conflict":
			if fits {
				return nil // nobody was faster
			}
			return []any{log}
		default:
			if fits {
				return []any{log, log + op.command + " "}
			}
			return []any{log}
		}
	},
	Equal: func(a, b any) bool { return a == b },
}

// A few callers append to one aggregate and load it, through several connections, while leaders step down or connections are cut. Every history must be one
// that a single log could have given.
func TestHistoriesAreLinearizable(t *testing.T) {
	t.Parallel()
	for n := range histories {
		t.Run(fmt.Sprintf("leaders step down %d", n), func(t *testing.T) {
			c := natstest.Cluster(t, 3)
			stores := []*eventstore.Store{c.Open(), c.Open(), c.Open()}
			history(t, stores, 200*time.Millisecond, func(ctx context.Context) {
				if err := c.StepDown(ctx); err != nil && ctx.Err() == nil {
					t.Errorf("step down: %v", err)
				}
			})
		})
		t.Run(fmt.Sprintf("connections are cut %d", n), func(t *testing.T) {
			t.Parallel()
			url := natstest.Listen(t)
			var stores []*eventstore.Store
			var proxies []*natstest.Proxy
			for range 3 {
				p := natstest.NewProxy(t, url)
				proxies = append(proxies, p)
				s, err := eventstore.Open(t.Context(), natstest.Dial(t, p.URL), eventstore.Options{Region: natstest.Region, Patience: time.Millisecond})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(s.Close)
				stores = append(stores, s)
			}
			history(t, stores, 15*time.Millisecond, func(context.Context) {
				p := proxies[rand.IntN(len(proxies))]
				p.Swallow(natstest.Direction(rand.IntN(3)))
				p.Heal()
			})
		})
	}
}

func history(t *testing.T, stores []*eventstore.Store, every time.Duration, disturb func(context.Context)) {
	t.Helper()
	const callers, each = 6, 25
	a := events.ScanOf(natstest.Region, "scan_test_hot")
	begin := time.Now()
	var mu sync.Mutex
	var ops []porcupine.Operation
	outcomes := map[string]int{}
	add := func(caller int, call time.Duration, op operation, res result) {
		end := time.Since(begin)
		if res.outcome == "unknown" {
			end = 24 * time.Hour // it may take effect at any later moment
		}
		mu.Lock()
		defer mu.Unlock()
		outcomes[res.outcome]++
		ops = append(ops, porcupine.Operation{ClientId: caller, Input: op, Call: int64(call), Output: res, Return: int64(end)})
	}
	ctx, cancel := context.WithCancel(t.Context())
	var trouble, work sync.WaitGroup
	trouble.Go(func() {
		for tick := time.NewTicker(every); ; {
			select {
			case <-tick.C:
				disturb(ctx)
			case <-ctx.Done():
				tick.Stop()
				return
			}
		}
	})
	for c := range callers {
		work.Go(func() {
			s := stores[c%len(stores)]
			id := c // an operation of unknown end goes on: the client's next one is that of another client
			for i := range each {
				call := time.Since(begin)
				evs, head, err := s.Load(t.Context(), a, events.Head{})
				if err != nil {
					if !errors.Is(err, eventstore.ErrUnavailable) {
						t.Errorf("load: %v", err)
					}
					continue
				}
				var log strings.Builder
				for _, e := range evs {
					log.WriteString(string(e.Command) + " ")
				}
				add(id, call, operation{load: true}, result{log: log.String()})

				op := operation{command: fmt.Sprintf("c%di%d", c, i), expected: len(evs)}
				call = time.Since(begin)
				got, err := s.Append(t.Context(), a, head, meta(op.command), events.CancelRequested{})
				switch {
				case err == nil:
					add(id, call, op, result{outcome: "stored", version: int(got[0].Version)})
				case errors.Is(err, eventstore.ErrConflict):
					add(id, call, op, result{outcome: "conflict"})
				case errors.Is(err, eventstore.ErrUnavailable):
					add(id, call, op, result{outcome: "unknown"})
					id += callers
				default:
					t.Errorf("append: %v", err)
				}
			}
		})
	}
	work.Wait()
	cancel()
	trouble.Wait()
	model := aggregateModel.ToModel()
	if verdict, info := porcupine.CheckOperationsVerbose(model, ops, 20*time.Second); verdict != porcupine.Ok {
		t.Errorf("the history of %d operations (%v) is %s; the longest part that fits ends with:\n%s", len(ops), outcomes, verdict, around(info, ops))
	}
	t.Logf("%d operations: %v", len(ops), outcomes)
}

// around describes the operations near the end of the longest prefix that a single log could have given, "!" before those that it leaves out.
func around(info porcupine.LinearizationInfo, ops []porcupine.Operation) string {
	var longest []porcupine.Operation
	for _, parts := range info.PartialLinearizationsOperations() {
		for _, part := range parts {
			if len(part) > len(longest) {
				longest = part
			}
		}
	}
	type key struct {
		client int
		call   int64
	}
	fits := map[key]bool{}
	var end int64
	for _, op := range longest {
		fits[key{op.ClientId, op.Call}] = true
		end = max(end, op.Call)
	}
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var b strings.Builder
	for _, op := range ops {
		if ms := time.Duration(end-op.Call) / time.Millisecond; ms > 150 || ms < -50 {
			continue
		}
		mark := " "
		if !fits[key{op.ClientId, op.Call}] {
			mark = "!"
		}
		in, res := op.Input.(operation), op.Output.(result)
		what := fmt.Sprintf("append %s after %d: %s %d", in.command, in.expected, res.outcome, res.version)
		if in.load {
			n := strings.Count(res.log, " ")
			what = fmt.Sprintf("load: %d, ...%s", n, res.log[max(0, len(res.log)-14):])
		}
		fmt.Fprintf(&b, "%s client %d, %v to %v: %s\n", mark, op.ClientId, time.Duration(op.Call).Round(10*time.Microsecond), time.Duration(op.Return).Round(10*time.Microsecond), what)
	}
	return b.String()
}

// The check itself must be able to fail.
func TestTheModelRejectsWhatALogCannotDo(t *testing.T) {
	t.Parallel()
	stored := func(call, end int64, cmd string, expected, version int) porcupine.Operation {
		return porcupine.Operation{ClientId: int(call), Input: operation{command: cmd, expected: expected}, Call: call, Output: result{outcome: "stored", version: version}, Return: end}
	}
	load := func(call, end int64, log string) porcupine.Operation {
		return porcupine.Operation{ClientId: int(call), Input: operation{load: true}, Call: call, Output: result{log: log}, Return: end}
	}
	for name, ops := range map[string][]porcupine.Operation{
		"two winners of one head": {stored(0, 10, "a", 0, 1), stored(1, 11, "b", 0, 1)},
		"a lost event":            {stored(0, 1, "a", 0, 1), load(2, 3, "")},
		"a stale load":            {stored(0, 1, "a", 0, 1), stored(2, 3, "b", 1, 2), load(4, 5, "a ")},
		"an event twice":          {stored(0, 1, "a", 0, 1), load(2, 3, "a a ")},
		"a conflict with nobody":  {{ClientId: 1, Input: operation{command: "a"}, Output: result{outcome: "conflict"}, Return: 1}},
	} {
		if porcupine.CheckOperations(aggregateModel.ToModel(), ops) {
			t.Errorf("%s is allowed", name)
		}
	}
}

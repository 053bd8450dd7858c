package eventstore_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
)

// stageDone is an event of about the size that most events have: 600 bytes of body, 1 KB with its headers.
func stageDone(n int) events.Event {
	result := &events.Object{Name: "result.json", Key: fmt.Sprintf("scans/%d/result.json", n), Digest: events.DigestOf([]byte{byte(n)}), Bytes: 1234, MediaType: "application/json"}
	return events.StageCompleted{Attempt: 1, Stage: "inventory", Status: events.StageDone, Detail: "1,234 files in 12 languages, 17 manifests, 3 entry points", StartedAt: at,
		Result: result, Artifacts: []events.Object{*result}}
}

// bare publishes what Append would, the ready message of each event, one at a time with js.PublishMsg: n by each of the writers, every writer to an
// aggregate of its own.
func bare(b *testing.B, s *eventstore.Store, run string, writers, n int) time.Duration {
	b.Helper()
	msgs := make([][]*nats.Msg, writers)
	for w := range writers {
		a := events.ScanOf(natstest.Region, events.ScanID(fmt.Sprintf("scan_bare_%s_%d", run, w)))
		var head events.Head
		for i := range n {
			encoded, next, err := events.Encode(a, head, meta(fmt.Sprintf("%s-%d-%d", run, w, i)), stageDone(i))
			if err != nil {
				b.Fatal(err)
			}
			h := nats.Header{}
			for k, v := range encoded[0].Header {
				h[k] = []string{v}
			}
			h[jetstream.ExpectedStreamHeader] = []string{eventstore.StreamName(natstest.Region)}
			h[jetstream.ExpectedLastSubjSeqSubjHeader] = []string{a.Filter()}
			head = next
			msgs[w] = append(msgs[w], &nats.Msg{Subject: encoded[0].Subject, Header: h, Data: encoded[0].Body})
		}
	}
	begin := time.Now()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			last := uint64(0)
			for _, m := range msgs[w] {
				m.Header[jetstream.ExpectedLastSubjSeqHeader] = []string{fmt.Sprint(last)}
				ack, err := s.JetStream().PublishMsg(b.Context(), m)
				if err != nil {
					b.Error(err)
					return
				}
				last = ack.Sequence
			}
		})
	}
	wg.Wait()
	return time.Since(begin)
}

func appends(b *testing.B, s *eventstore.Store, run string, writers, n int) time.Duration {
	b.Helper()
	type command struct {
		meta  events.Meta
		event events.Event
	}
	commands := make([][]command, writers) // what callers bring with them
	for w := range writers {
		for i := range n {
			commands[w] = append(commands[w], command{meta(fmt.Sprintf("%s-%d-%d", run, w, i)), stageDone(i)})
		}
	}
	begin := time.Now()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			a := events.ScanOf(natstest.Region, events.ScanID(fmt.Sprintf("scan_append_%s_%d", run, w)))
			var head events.Head
			for _, c := range commands[w] {
				r, err := s.Append(b.Context(), a, head, c.meta, c.event)
				if err != nil {
					b.Error(err)
					return
				}
				head = r[0].Head()
			}
		})
	}
	wg.Wait()
	return time.Since(begin)
}

// BenchmarkAppend compares Append with bare publishes of the same bytes and the same expectations, by turns on one log.
func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct {
		always         bool
		writers, total int
	}{{false, 1, 4000}, {false, 64, 16000}, {true, 1, 600}, {true, 8, 1600}, {true, 64, 6400}, {true, 512, 10240}} {
		sync := "default"
		if c.always {
			sync = "always"
		}
		b.Run(fmt.Sprintf("sync=%s/writers=%d", sync, c.writers), func(b *testing.B) {
			s := natstest.OpenWith(b, b.TempDir(), c.always)
			each := c.total / c.writers
			appends(b, s, "warm", c.writers, max(each/10, 1))
			var plain, ours time.Duration
			for i := 0; b.Loop(); i++ {
				plain += bare(b, s, fmt.Sprint(i), c.writers, each)
				ours += appends(b, s, fmt.Sprint(i), c.writers, each)
			}
			total := float64(each*c.writers) * float64(b.N)
			b.ReportMetric(total/plain.Seconds(), "bare/s")
			b.ReportMetric(total/ours.Seconds(), "append/s")
			b.ReportMetric(plain.Seconds()/ours.Seconds(), "append/bare")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// Package peers measures what a call costs more through the LLM proxy than without it, beside a bare reverse proxy and beside OpenAI's own responses proxy, on
// one machine and in one run.
//
// Every part is a process of its own: the provider, which answers as fast as it can; the proxies; and the NATS server that the metered one writes to. A request
// is as large as the agent's, and is answered with JSON or with a stream of fifty events, each flushed. The contestants run by turns, and the best
// round counts: what else the machine does can only make one slower. OpenAI's proxy gets a connection for each call: on connections that are kept it needs 44 ms a
// call, and stops to answer when sixteen are open. The processor time of a proxy is its process's; what NATS spends on a call is reported apart.
package peers

import (
	"math"
	"strings"
	"testing"
	"time"
)

// rounds is how often each is measured, by turns.
const rounds = 5

// measured is the best of a contestant's rounds.
type measured struct {
	p50      time.Duration
	perCall  time.Duration // of the processors, in the proxy
	natsCall time.Duration // of the processors, in NATS
	rate     float64       // calls a second
}

func (m *measured) better(n measured) {
	if m.rate == 0 {
		*m = n
		return
	}
	m.p50, m.perCall, m.natsCall, m.rate = min(m.p50, n.p50), min(m.perCall, n.perCall), min(m.natsCall, n.natsCall), max(m.rate, n.rate)
}

// BenchmarkCall sends calls through each of them: one at a time with a pause between two, as an agent does that works between its calls; one after the other; 64 at once.
func BenchmarkCall(b *testing.B) {
	f := open(b)
	for _, c := range []struct {
		name string
		load load
	}{
		{"json/now-and-then", load{kind: answerJSON, at: 1, calls: 400, pause: 3 * time.Millisecond}},
		{"json/at-once=1", load{kind: answerJSON, at: 1, calls: 1500}},
		{"json/at-once=64", load{kind: answerJSON, at: 64, calls: 4000}},
		{"sse/now-and-then", load{kind: answerSSE, at: 1, calls: 400, pause: 3 * time.Millisecond}},
		{"sse/at-once=1", load{kind: answerSSE, at: 1, calls: 1000}},
		{"sse/at-once=64", load{kind: answerSSE, at: 64, calls: 3000}},
	} {
		b.Run(c.name, func(b *testing.B) {
			best := make([]measured, len(f.contestants))
			for b.Loop() {
				for range rounds {
					for i, x := range f.contestants {
						l := c.load
						l.calls /= x.slow
						warm := l
						warm.calls /= 10 // everything is connected
						f.spend(b, x, warm)
						best[i].better(f.spend(b, x, l))
					}
				}
			}
			f.report(b, best, c.load.at)
		})
	}
}

// report writes what each adds to a call that goes to the provider directly, which is the first one.
func (f *field) report(b *testing.B, best []measured, at int) {
	b.Helper()
	bare := best[1]
	for i, x := range f.contestants {
		m := best[i]
		b.ReportMetric(m.rate, x.name+"-calls/s")
		if i == 0 {
			b.ReportMetric(micros(m.p50), x.name+"-p50-us")
			continue
		}
		b.ReportMetric(micros(m.p50-best[0].p50), x.name+"-added-p50-us")
		b.ReportMetric(micros(m.perCall), x.name+"-cpu-us")
		if x.nats != nil {
			b.ReportMetric(micros(m.natsCall), x.name+"-nats-cpu-us")
		}
		if at > 1 {
			now, peak := x.process.memory(b)
			b.ReportMetric(float64(now)/1024, x.name+"-rss-MB")
			b.ReportMetric(float64(peak)/1024, x.name+"-peak-MB")
		}
		if i > 1 {
			b.ReportMetric(m.perCall.Seconds()/bare.perCall.Seconds(), x.name+"/bare-cpu")
			b.ReportMetric(micros(m.p50-bare.p50), x.name+"-minus-bare-p50-us")
		}
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkFirstByte measures when the first event of a stream arrives whose provider takes its time between events.
func BenchmarkFirstByte(b *testing.B) {
	f := open(b)
	best := make([]time.Duration, len(f.contestants))
	for b.Loop() {
		for range rounds {
			for i, x := range f.contestants {
				if first := f.firstByte(b, x, 5); best[i] == 0 || first < best[i] {
					best[i] = first
				}
			}
		}
	}
	for i, x := range f.contestants {
		if i == 0 {
			b.ReportMetric(micros(best[i]), x.name+"-us")
			continue
		}
		b.ReportMetric(micros(best[i]-best[0]), x.name+"-minus-"+f.contestants[0].name+"-us")
	}
	b.ReportMetric(0, "ns/op")
}

func micros(d time.Duration) float64 { return math.Round(float64(d.Nanoseconds())/100) / 10 }

// instructions make a request as large as the agent's are.
func instructions(kind string) string {
	return kind + ". " + strings.Repeat("You are an agent that reads \"code\" and says what is wrong with it.\n\tMind <tags>, paths like /usr/bin & everything else. ", 180)
}

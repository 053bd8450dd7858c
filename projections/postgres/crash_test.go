package postgres_test

import (
	"bytes"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/projections"
	"vega/projections/modeltest"
	"vega/projections/pgtest"
)

func TestAServerThatIsKilledUnderWritesLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	server := pgtest.Start(t, pgtest.Options{})
	address := server.Database(t)
	one, two := start(t, s, options(address)), start(t, s, options(address))
	h := modeltest.Typical(t, 20*kills)
	stop := writes(t, s, one, two)
	for n := range kills {
		publishPart(t, s, h, n)
		if n%2 == 0 {
			_, seq := makeProject(t, s)
			one.wait(t, seq)
		}
		server.Kill(t)
		until(t, "both notice", func() bool {
			return errors.Is(one.Err(), projections.ErrUnavailable) && errors.Is(two.Err(), projections.ErrUnavailable)
		})
		if _, err := one.Queue(t.Context()); !errors.Is(err, projections.ErrUnavailable) {
			t.Errorf("a query without a server = %v, want ErrUnavailable", err)
		}
		server.Restart(t)
	}
	seq := stop()
	one.wait(t, seq)
	two.wait(t, seq)
	until(t, "both are well", func() bool { return one.Err() == nil && two.Err() == nil })
	equalsARebuild(t, s, address)
}

// publishPart stores the n-th of as many parts of a history as there are kills, between what others write.
func publishPart(t *testing.T, s *eventstore.Store, h *modeltest.History, n int) {
	t.Helper()
	size := (len(h.Messages) + kills - 1) / kills
	for _, m := range h.Messages[min(n*size, len(h.Messages)):min((n+1)*size, len(h.Messages))] {
		header := nats.Header{}
		for k, v := range m.Header {
			header[k] = []string{v}
		}
		if _, err := s.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject, Header: header, Data: m.Body}); err != nil {
			t.Fatal(err)
		}
	}
}

// breaker stands before a server and breaks the connection at one write of a client, counted over all connections.
type breaker struct {
	addr string
	to   string
	work sync.WaitGroup
	l    net.Listener

	mu     sync.Mutex // guards what follows, never held over reads and writes
	n      int
	at     int  // the write to break at; 0: none
	after  bool // let it take effect, and lose the answer
	broken bool
	links  map[net.Conn]bool
}

func newBreaker(t *testing.T, to string) *breaker {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &breaker{addr: l.Addr().String(), to: to, l: l, links: map[net.Conn]bool{}}
	b.work.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			b.work.Go(func() { b.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		b.mu.Lock()
		for c := range b.links {
			_ = c.Close()
		}
		b.mu.Unlock()
		b.work.Wait()
	})
	return b
}

// arm breaks the n-th write from now on that has mark in it.
func (b *breaker) arm(n int, after bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n, b.at, b.after, b.broken = 0, n, after, false
}

// fired says whether the armed write came.
func (b *breaker) fired() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.broken
}

func (b *breaker) serve(client net.Conn) {
	server, err := net.Dial("tcp", b.to)
	if err != nil {
		_ = client.Close()
		return
	}
	b.mu.Lock()
	b.links[client], b.links[server] = true, true
	b.mu.Unlock()
	var copying sync.WaitGroup
	end := func() { _ = client.Close(); _ = server.Close() }
	swallow := make(chan struct{})  // closed: answers are lost from here on
	answered := make(chan struct{}) // closed by the reader: an answer was lost, or none comes
	copying.Go(func() {
		defer end()
		answer := sync.OnceFunc(func() { close(answered) })
		defer answer()
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if err != nil {
				return
			}
			select {
			case <-swallow:
				answer()
				continue
			default:
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	buf := make([]byte, 64<<10)
	writer := false // this connection has begun a transaction
	for {
		n, err := client.Read(buf)
		if err != nil {
			break
		}
		writer = writer || bytes.Contains(buf[:n], []byte("FOR UPDATE"))
		hit, after := false, false
		if writer {
			b.mu.Lock()
			b.n++
			hit, after = b.n == b.at, b.after
			b.broken = b.broken || hit
			b.mu.Unlock()
		}
		if hit && !after {
			break
		}
		if hit {
			close(swallow)
		}
		if _, err := server.Write(buf[:n]); err != nil {
			break
		}
		if hit {
			select {
			case <-answered: // it took effect
			case <-time.After(200 * time.Millisecond): // a part of a COPY has no answer
			}
			break
		}
	}
	end()
	copying.Wait()
	b.mu.Lock()
	delete(b.links, client)
	delete(b.links, server)
	b.mu.Unlock()
}

func TestEveryWriteMayFailBeforeOrAfterItTookEffect(t *testing.T) {
	t.Parallel()
	server := pgtest.Shared(t)
	for name, after := range map[string]bool{"before": false, "after": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := natstest.Open(t)
			address := server.Database(t)
			b := newBreaker(t, server.Addr())
			p := start(t, s, options(through(t, address, b.addr)))
			until(t, "somebody leads", p.Leads)
			h := modeltest.Typical(t, 400)
			size := 110
			broken := 0
			for n := 1; ; n++ {
				from := (n - 1) * size
				if from+size > len(h.Messages) {
					t.Fatalf("the history ended at write %d and there are more", n)
				}
				b.arm(n, after)
				part := modeltest.NewHistory(t)
				part.Messages = h.Messages[from : from+size]
				var last events.Seq
				for _, m := range part.Messages {
					header := nats.Header{}
					for k, v := range m.Header {
						header[k] = []string{v}
					}
					ack, err := s.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: m.Subject, Header: header, Data: m.Body})
					if err != nil {
						t.Fatal(err)
					}
					last = events.Seq(ack.Sequence)
				}
				p.wait(t, last)
				if b.fired() {
					broken++
				}
				if n > 12 {
					break
				}
			}
			b.arm(0, false)
			if broken < 4 {
				t.Errorf("%d writes were broken, want at least 4", broken)
			}
			equalsARebuild(t, s, address)
		})
	}
}

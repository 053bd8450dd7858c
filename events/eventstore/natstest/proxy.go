package natstest

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// Proxy stands between clients and a server and makes the network as bad as a test wants it.
type Proxy struct {
	URL string // for clients

	to      string
	copiers sync.WaitGroup

	mu       sync.Mutex // guards what follows, never held over reads and writes
	listener net.Listener
	swallow  Direction
	closed   bool
	links    map[net.Conn]net.Conn
}

// Direction of bytes through a proxy.
type Direction int

// What a proxy swallows.
const (
	Nothing  Direction = iota
	Answers            // what the server sends: acknowledgements get lost
	Requests           // what clients send: publishes get lost
)

// NewProxy listens on loopback for clients of the server at url.
func NewProxy(tb testing.TB, url string) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{URL: "nats://" + l.Addr().String(), to: strings.TrimPrefix(url, "nats://"), listener: l, links: map[net.Conn]net.Conn{}}
	p.copiers.Go(func() { p.accept(l) })
	tb.Cleanup(p.Close)
	return p
}

// Close cuts every connection and takes no new ones.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	_ = p.listener.Close()
	p.mu.Unlock()
	p.Cut()
	p.copiers.Wait()
}

// Open takes connections again after Close, at the same address.
func (p *Proxy) Open(tb testing.TB) {
	tb.Helper()
	l, err := net.Listen("tcp", strings.TrimPrefix(p.URL, "nats://"))
	if err != nil {
		tb.Fatal(err)
	}
	p.mu.Lock()
	p.closed, p.listener = false, l
	p.mu.Unlock()
	p.copiers.Go(func() { p.accept(l) })
}

// Swallow reads and throws away one direction, on connections that exist and on new ones, until it is told otherwise. A protocol with a hole in it
// is broken: Cut before going back to Nothing.
func (p *Proxy) Swallow(d Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swallow = d
}

// Cut closes every connection. Clients may come again.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for a, b := range p.links {
		_ = a.Close()
		_ = b.Close()
	}
	clear(p.links)
}

// Heal is a Cut after which everything passes.
func (p *Proxy) Heal() {
	p.Swallow(Nothing)
	p.Cut()
}

func (p *Proxy) accept(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return // closed
		}
		srv, err := net.Dial("tcp", p.to)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			_ = client.Close()
			_ = srv.Close()
			return
		}
		p.links[client] = srv
		p.mu.Unlock()
		p.copiers.Go(func() { p.copy(srv, client, Requests) })
		p.copiers.Go(func() { p.copy(client, srv, Answers) })
	}
}

func (p *Proxy) copy(to io.WriteCloser, from io.ReadCloser, d Direction) {
	defer to.Close()
	defer from.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		p.mu.Lock()
		lost := p.swallow == d
		p.mu.Unlock()
		if lost {
			continue
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

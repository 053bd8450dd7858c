package natstest

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events/eventstore"
)

// ClusterOf are servers in this process that keep every stream on each of them. They talk over loopback.
type ClusterOf struct {
	Servers []*server.Server
	tb      testing.TB
	nc      *nats.Conn // for administration
}

// Cluster starts n servers and makes the streams with as many replicas.
func Cluster(tb testing.TB, n int) *ClusterOf {
	tb.Helper()
	c := &ClusterOf{tb: tb}
	// The ports are chosen first: JetStream does not start in a cluster that has no routes.
	var ports []int
	var routes []string
	var held []net.Listener // so that no port is chosen twice
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		routes = append(routes, "nats://"+l.Addr().String())
		held = append(held, l)
	}
	for _, l := range held {
		_ = l.Close()
	}
	for i := range n {
		s, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
			JetStream: true, StoreDir: tb.TempDir(), JetStreamMaxStore: 1 << 40, JetStreamMaxMemory: 256 << 20, MaxPayload: 8 << 20,
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: ports[i]}, Routes: server.RoutesFromStr(strings.Join(routes, ",")),
		})
		if err != nil {
			tb.Fatal(err)
		}
		c.Servers = append(c.Servers, s)
	}
	for _, s := range c.Servers {
		s.Start()
		tb.Cleanup(func() {
			s.Shutdown()
			s.WaitForShutdown()
		})
	}
	for _, s := range c.Servers {
		if !s.ReadyForConnections(20 * time.Second) {
			tb.Fatal("a server of the cluster is not ready")
		}
	}
	c.nc = c.Connect()
	js, err := jetstream.New(c.nc, jetstream.WithDefaultTimeout(time.Second))
	if err != nil {
		tb.Fatal(err)
	}
	// What is asked before a leader is elected is never answered: ask again.
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	for {
		once, done := context.WithTimeout(ctx, 2*time.Second)
		err := eventstore.Setup(once, js, Region, n)
		done()
		if err == nil {
			return c
		}
		if ctx.Err() != nil {
			tb.Fatalf("set up the cluster: %v", err)
		}
	}
}

// URL names all servers.
func (c *ClusterOf) URL() string {
	var urls []string
	for _, s := range c.Servers {
		urls = append(urls, s.ClientURL())
	}
	return strings.Join(urls, ",")
}

// Connect opens a connection to one of the servers, and to another when that one goes.
func (c *ClusterOf) Connect(o ...nats.Option) *nats.Conn {
	c.tb.Helper()
	nc, err := eventstore.Connect(c.URL(), "", o...)
	if err != nil {
		c.tb.Fatal(err)
	}
	c.tb.Cleanup(nc.Close)
	return nc
}

// Open opens the log over a connection of its own.
func (c *ClusterOf) Open() *eventstore.Store {
	c.tb.Helper()
	return OpenOver(c.tb, c.Connect())
}

// OpenOver opens the log over nc.
func OpenOver(tb testing.TB, nc *nats.Conn) *eventstore.Store {
	tb.Helper()
	s, err := eventstore.Open(tb.Context(), nc, eventstore.Options{Region: Region, Patience: 20 * time.Second})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// StepDown makes the leader of the event stream give up its place and returns once another one has it.
func (c *ClusterOf) StepDown(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	var before *server.Server
	for asked := false; ; {
		switch now := c.leader(); {
		case now == nil: // an election is going on
		case !asked:
			before, asked = now, true
			// The answer may get lost with the leadership; what counts is who leads afterwards.
			once, cancel := context.WithTimeout(ctx, time.Second)
			_, _ = c.nc.RequestWithContext(once, "$JS.API.STREAM.LEADER.STEPDOWN."+eventstore.StreamName(Region), nil)
			cancel()
		case now != before:
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *ClusterOf) leader() *server.Server {
	for _, s := range c.Servers {
		if s.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, eventstore.StreamName(Region)) {
			return s
		}
	}
	return nil
}

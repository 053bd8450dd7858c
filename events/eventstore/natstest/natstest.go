// Package natstest gives tests a real event log: a NATS server in the test's own process, which starts in milliseconds.
//
// [Open] is the log that most tests want. [Cluster] is three servers with replicated streams, [Listen] one that clients reach over TCP, perhaps through
// a [Proxy] that loses what it should carry, and [Virtual] one whose hours pass in milliseconds.
package natstest

import (
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
)

// Region is the region of every log made here.
const Region events.Region = "test"

// Open starts a server in a folder of the test, makes the streams and opens the log with the server's default sync.
func Open(tb testing.TB) *eventstore.Store {
	tb.Helper()
	return OpenWith(tb, tb.TempDir(), false)
}

// OpenWith is Open on a folder of one's own, with or without sync always.
func OpenWith(tb testing.TB, dir string, syncAlways bool) *eventstore.Store {
	tb.Helper()
	s, stop := Start(tb, dir, syncAlways)
	tb.Cleanup(stop)
	return s
}

// Start is OpenWith for tests that stop the server themselves, to start it again on the same folder.
func Start(tb testing.TB, dir string, syncAlways bool) (*eventstore.Store, func()) {
	tb.Helper()
	srv, err := eventstore.StartEmbedded(eventstore.EmbeddedOptions{Dir: dir, SyncAlways: syncAlways})
	if err != nil {
		tb.Fatal(err)
	}
	nc, err := srv.Connect()
	if err != nil {
		tb.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		tb.Fatal(err)
	}
	if err := eventstore.Setup(tb.Context(), js, Region, 1); err != nil {
		tb.Fatal(err)
	}
	s, err := eventstore.Open(tb.Context(), nc, eventstore.Options{Region: Region, SyncAlways: syncAlways})
	if err != nil {
		tb.Fatal(err)
	}
	return s, func() {
		s.Close()
		nc.Close()
		srv.Stop()
	}
}

// Listen starts a server that clients reach over loopback, makes the streams, and returns its URL.
func Listen(tb testing.TB) string {
	tb.Helper()
	url := Serve(tb, func(*server.Options) {})
	js, err := jetstream.New(Dial(tb, url))
	if err != nil {
		tb.Fatal(err)
	}
	if err := eventstore.Setup(tb.Context(), js, Region, 1); err != nil {
		tb.Fatal(err)
	}
	return url
}

// Serve starts a server without any streams that clients reach over loopback, with options of one's own.
func Serve(tb testing.TB, change func(*server.Options)) string {
	tb.Helper()
	o := &server.Options{
		ServerName: "test", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: tb.TempDir(), JetStreamMaxStore: 1 << 40, JetStreamMaxMemory: 256 << 20, MaxPayload: 8 << 20,
	}
	change(o)
	s, err := server.NewServer(o)
	if err != nil {
		tb.Fatal(err)
	}
	s.Start()
	tb.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(20 * time.Second) {
		tb.Fatal("the server is not ready")
	}
	return s.ClientURL()
}

// Dial opens a connection that ends with the test.
func Dial(tb testing.TB, url string, o ...nats.Option) *nats.Conn {
	tb.Helper()
	nc, err := eventstore.Connect(url, "", o...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	return nc
}

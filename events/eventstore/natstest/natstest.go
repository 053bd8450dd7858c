// Package natstest gives tests a real event log: a NATS server in the test's own process, which starts in milliseconds.
package natstest

import (
	"testing"

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

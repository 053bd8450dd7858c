package natstest

import (
	"os"
	"testing"
	"testing/synctest"

	"github.com/nats-io/nats-server/v2/server/ats"

	"vega/events/eventstore"
)

// Virtual runs f with a real log whose time, like that of everything f starts, is that of a synctest bubble: a wait of thirty minutes is over as
// soon as all goroutines wait. The server lives inside the bubble and ends with f, so every goroutine that f starts has to end too, and every pull
// needs a bound. Connections to the outside (a database, HTTP over TCP) do not work in there.
//
// The package's TestMain must be [Main]: one clock of the server belongs to the process and would be caught in the first bubble.
func Virtual(t *testing.T, f func(t *testing.T, s *eventstore.Store)) {
	t.Helper()
	dir := t.TempDir() // removed when the server is gone
	synctest.Test(t, func(t *testing.T) {
		s, stop := Start(t, dir, false)
		defer stop()
		f(t, s)
	})
}

// Main is a TestMain for packages whose tests use [Virtual].
func Main(m *testing.M) {
	ats.Register()
	os.Exit(m.Run())
}

package eventstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Embedded is a NATS server inside this process, its files under one folder.
type Embedded struct {
	server *server.Server
}

// EmbeddedOptions say how to run it.
type EmbeddedOptions struct {
	Dir        string // where its files are; made if missing
	SyncAlways bool   // an acknowledged event survives power loss, at one fsync each
}

// StartEmbedded starts a server that only this process can reach. The folder must not be in use by another one: whoever starts it
// holds the lock on the data folder.
func StartEmbedded(o EmbeddedOptions) (*Embedded, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the event log: %w", err)
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "vega-embedded",
		DontListen: true,
		JetStream:  true,
		StoreDir:   filepath.Clean(o.Dir),
		SyncAlways: o.SyncAlways,
		NoSigs:     true,
		NoLog:      true,
		MaxPayload: 8 << 20,
		// The disk is the limit, not a share of what was free at the start.
		JetStreamMaxStore:  1 << 50,
		JetStreamMaxMemory: 256 << 20,
	})
	if err != nil {
		return nil, fmt.Errorf("start embedded NATS: %w", err)
	}
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		s.Shutdown()
		return nil, errors.New("start embedded NATS: not ready after 30s")
	}
	return &Embedded{s}, nil
}

// Connect opens a connection inside the process. Close it before Stop.
func (e *Embedded) Connect(o ...nats.Option) (*nats.Conn, error) {
	nc, err := nats.Connect("", append(connectOptions(), append(o, nats.InProcessServer(e.server))...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to embedded NATS: %w", err)
	}
	return nc, nil
}

// Stop ends the server and waits until its files are closed.
func (e *Embedded) Stop() {
	e.server.Shutdown()
	e.server.WaitForShutdown()
}

// Connect opens a connection to an external server. creds is the path of a credentials file, or empty.
func Connect(url, creds string, o ...nats.Option) (*nats.Conn, error) {
	opts := connectOptions()
	if creds != "" {
		opts = append(opts, nats.UserCredentials(creds))
	}
	nc, err := nats.Connect(url, append(opts, o...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return nc, nil
}

// connectOptions are the same for every connection of ours. The reconnect buffer is off: a publish that was buffered during an outage
// would arrive after its caller gave up on it. Reconnects come fast at first, because a living worker without a connection looks dead.
func connectOptions() []nats.Option {
	return []nats.Option{
		nats.Name("vega"),
		nats.MaxReconnects(-1),
		nats.ReconnectBufSize(-1),
		nats.CustomReconnectDelay(func(attempts int) time.Duration {
			return min(10*time.Millisecond<<min(attempts, 8), 2*time.Second)
		}),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // callers see their own errors
	}
}

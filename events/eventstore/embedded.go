package eventstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Embedded is a NATS server inside this process, its files under one folder.
type Embedded struct {
	server *server.Server
	login  []nats.Option
}

// EmbeddedOptions say how to run it.
type EmbeddedOptions struct {
	Dir        string // where its files are; made if missing
	SyncAlways bool   // an acknowledged event survives power loss, at one fsync each
	// Listen opens a port on loopback for other processes of this machine; connection.json in Dir tells them where and how.
	Listen bool
}

// StartEmbedded starts a server that only this process can reach, or, with Listen, processes that can read its folder. The folder must not be in
// use by another one: whoever starts it holds the lock on the data folder.
func StartEmbedded(o EmbeddedOptions) (*Embedded, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the event log: %w", err)
	}
	opt := &server.Options{
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
	}
	e := &Embedded{}
	if o.Listen {
		d, err := doorOf(o.Dir)
		if err != nil {
			return nil, fmt.Errorf("start embedded NATS: %w", err)
		}
		opt.DontListen, opt.Host, opt.Port, opt.Username, opt.Password = false, "127.0.0.1", d.Port, d.User, d.Password
		e.login = []nats.Option{nats.UserInfo(d.User, d.Password)}
	}
	s, err := server.NewServer(opt)
	if err != nil {
		return nil, fmt.Errorf("start embedded NATS: %w", err)
	}
	e.server = s
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		s.Shutdown()
		return nil, errors.New("start embedded NATS: not ready after 30s")
	}
	return e, nil
}

// Connect opens a connection inside the process. Close it before Stop.
func (e *Embedded) Connect(o ...nats.Option) (*nats.Conn, error) {
	nc, err := nats.Connect("", slices.Concat(connectOptions(), e.login, o, []nats.Option{nats.InProcessServer(e.server)})...)
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
		if _, err := os.Stat(creds); err != nil { // the client would only say that no server takes it
			return nil, fmt.Errorf("credentials file: %w", err)
		}
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

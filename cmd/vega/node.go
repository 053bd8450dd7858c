package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/config"
	"vega/events"
	"vega/events/eventstore"
	"vega/projections"
	"vega/services/api"
	"vega/services/dispatch"
	"vega/services/engine"
	"vega/services/files"
	"vega/services/intake"
	"vega/services/worker"
)

// assembly is what a role is put together from and a test may exchange.
type assembly struct {
	engine func(engine.Config, engine.Options) (worker.Engine, error)
	launch worker.LaunchOptions
}

// product is the real thing.
func product() assembly {
	return assembly{engine: func(c engine.Config, o engine.Options) (worker.Engine, error) { return engine.New(c, o) }}
}

// node is what the processes of all roles have: the log, the files, and a way to close everything in the reverse order.
type node struct {
	cfg     config.Config
	log     *slog.Logger
	made    assembly
	waits   func(context.Context) // called when a part is waited for; may be nil
	closers []func() error        // undone last to first
	proxy   string                // where the LLM proxy inside this process listens; empty when there is none

	store  *eventstore.Store
	files  files.Store
	checks []api.Check // of parts beside the log, for readyz
}

// undo remembers what close has to do.
func (n *node) undo(f func() error) { n.closers = append(n.closers, f) }

// close undoes what was opened, last part first.
func (n *node) close() error {
	var failed error
	for i := len(n.closers) - 1; i >= 0; i-- {
		failed = errors.Join(failed, n.closers[i]())
	}
	n.closers = nil
	return failed
}

// startLog opens the configured log: the external server's, or an embedded one that this process starts because it holds the data folder's lock.
func (n *node) startLog(ctx context.Context) error {
	if !n.cfg.OneMachine() {
		return n.joinLog(ctx)
	}
	srv, err := eventstore.StartEmbedded(eventstore.EmbeddedOptions{
		Dir:        n.natsDir(),
		SyncAlways: n.cfg.Log.Sync == eventstore.SyncAlways,
		Listen:     n.cfg.Dispatch.Mode != dispatch.ModeThread, // scans are run by other processes
	})
	if err != nil {
		return err
	}
	n.undo(func() error { srv.Stop(); return nil })
	nc, err := srv.Connect()
	if err != nil {
		return err
	}
	n.undo(func() error { nc.Close(); return nil })
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if err := eventstore.Setup(ctx, js, n.cfg.Region, 1); err != nil {
		return err
	}
	return n.openStore(ctx, nc)
}

// joinLog opens a log that another process serves: the external server's, or that of the API process of this machine, which it waits for.
func (n *node) joinLog(ctx context.Context) error {
	var nc *nats.Conn
	var err error
	if n.cfg.OneMachine() {
		nc, err = eventstore.ConnectLocal(ctx, n.natsDir(), func(err error) {
			n.log.Info("waiting for the API process of this machine (VEGA_SCAN_EXECUTION_MODE=external or sqs) and its event log", "folder", n.natsDir(), "err", err)
		})
	} else {
		nc, err = eventstore.ConnectPatiently(ctx, n.cfg.Log.NATSURL.Reveal(), n.cfg.Log.NATSCreds, func(err error) {
			n.log.Info("waiting for the event log", "url", n.cfg.Log.NATSURL, "err", err)
			if n.waits != nil {
				n.waits(ctx)
			}
		})
	}
	if err != nil {
		return n.natsError(err)
	}
	n.undo(func() error { nc.Close(); return nil })
	nc.SetDisconnectErrHandler(func(_ *nats.Conn, err error) {
		if err != nil { // nil: this side closed it
			n.log.Warn("connection to the event log lost", "err", err)
		}
	})
	nc.SetReconnectHandler(func(*nats.Conn) { n.log.Info("connection to the event log is back") })
	return n.whileAway(ctx, func() error {
		err := n.openStore(ctx, nc)
		if n.cfg.OneMachine() && errors.Is(err, eventstore.ErrNoStream) {
			return fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err) // the API process has started its server and is about to make the streams
		}
		return err
	})
}

// natsError names the settings that a connection failed with.
func (n *node) natsError(err error) error {
	if n.cfg.OneMachine() {
		return err
	}
	return fmt.Errorf("VEGA_NATS_URL=%s, VEGA_NATS_CREDS=%s: %w", n.cfg.Log.NATSURL, cmp.Or(n.cfg.Log.NATSCreds, "not set"), err)
}

// whileAway calls f again while the log, or the read models' server, does not answer it: a process may be started in the middle of an outage.
func (n *node) whileAway(ctx context.Context, f func() error) error {
	for told := false; ; {
		err := f()
		model := errors.Is(err, projections.ErrUnavailable)
		if !model && (!errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrFull)) || ctx.Err() != nil {
			return err
		}
		if n.waits != nil {
			n.waits(ctx)
		}
		switch {
		case told:
		case model:
			n.log.Info("waiting for the read models", "err", err)
		default:
			n.log.Info("waiting for the event log", "err", err)
		}
		told = true
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *node) natsDir() string { return filepath.Join(n.cfg.DataDir, "nats") }

func (n *node) openStore(ctx context.Context, nc *nats.Conn) error {
	if err := os.MkdirAll(n.cfg.DataDir, 0o700); err != nil { // its disk is looked at before each write
		return fmt.Errorf("VEGA_DATA_DIR: %w", err)
	}
	store, err := eventstore.Open(ctx, nc, eventstore.Options{
		Region: n.cfg.Region, SyncAlways: n.cfg.Log.Sync == eventstore.SyncAlways, Room: func() error { return n.disk().Run(ctx) },
	})
	if err != nil {
		return err
	}
	n.store = store
	n.undo(func() error { store.Close(); return nil })
	return nil
}

// openFiles opens the configured file storage. Buckets that answer wrongly stop the start, with a sentence each; a server that does not answer does not: it may
// be back before anybody needs it, and readyz says so meanwhile.
func (n *node) openFiles(ctx context.Context) error {
	if n.cfg.Files.Backend != files.BackendS3 {
		local, err := files.Open(filepath.Join(n.cfg.DataDir, "files"))
		if err != nil {
			return err
		}
		n.files = local
		n.undo(local.Close)
		return nil
	}
	store, err := files.OpenS3(ctx, n.cfg.Files.S3, files.S3Options{}, n.log)
	if err != nil {
		return err
	}
	n.files = store
	n.checks = append(n.checks, api.Check{Name: "s3", Run: store.Ready})
	ask, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	err = store.Ready(ask)
	if err != nil && (errors.Is(err, files.ErrUnavailable) || ask.Err() != nil) && ctx.Err() == nil {
		n.log.Warn("file storage does not answer yet", "err", err)
		return nil
	}
	return err
}

// askTime bounds a question at the start to a part that may be away.
const askTime = 10 * time.Second

// disk checks that the data folder's disk has room: before each write to the log, and for readyz.
func (n *node) disk() api.Check { return api.FreeSpace(n.cfg.DataDir, uint64(n.cfg.Log.MinFree)) }

// snapshotSource brings snapshots from the file store to the worker.
type snapshotSource struct{ files files.Store }

func (s snapshotSource) Checkout(ctx context.Context, id events.SnapshotID, dir string) error {
	manifest, _, err := s.files.Open(ctx, intake.ManifestKey(string(id)))
	if err != nil {
		return fmt.Errorf("manifest of %s: %w", id, err)
	}
	defer manifest.Close()
	pack, _, err := s.files.Open(ctx, intake.PackKey(string(id)))
	if err != nil {
		return fmt.Errorf("pack of %s: %w", id, err)
	}
	defer pack.Close()
	_, err = intake.Checkout(ctx, string(id), manifest, pack, dir)
	return err
}

// objects is the file store as the worker needs it.
type objects struct{ files files.Store }

func (o objects) Put(ctx context.Context, key string, r io.Reader) error {
	_, err := o.files.Put(ctx, key, r)
	return err
}

func (o objects) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	r, _, err := o.files.Open(ctx, key)
	return r, err
}

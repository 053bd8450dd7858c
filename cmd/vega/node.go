package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"vega/config"
	"vega/events"
	"vega/events/eventstore"
	"vega/projections"
	"vega/projections/jsonfile"
	"vega/services/api"
	"vega/services/auth"
	"vega/services/dispatch"
	"vega/services/engine"
	"vega/services/files"
	"vega/services/fleet"
	"vega/services/intake"
	"vega/services/maintenance"
	"vega/services/worker"
)

// node is everything that one machine's process runs: the log, the read models, the worker slots and the API. Its parts start from the log
// up and stop in the reverse order.
type node struct {
	cfg     config.Config
	log     *slog.Logger
	lock    *dataLock
	closers []func() error // undone last to first

	store  *eventstore.Store
	model  *jsonfile.Model
	runner *projections.Runner
	queue  *dispatch.Local
	member *fleet.Member
	worker *worker.Worker
	files  *files.Local
	intake *intake.Intake
	api    *api.Server
	from   events.Seq // where the queue begins to follow
}

// openNode takes the data folder and opens every part, oldest first; nothing runs yet. A failure closes what was opened.
func openNode(ctx context.Context, cfg config.Config, log *slog.Logger) (n *node, err error) {
	n = &node{cfg: cfg, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	if n.lock, err = lockData(cfg.DataDir); err != nil {
		return n, err
	}
	n.closers = append(n.closers, n.lock.release)
	if err = n.cfg.KeepSecrets(); err != nil {
		return n, err
	}
	// The read model is read from disk while the log starts: both take a third of a second with 100,000 events.
	var (
		opening  sync.WaitGroup
		modelErr error
	)
	opening.Go(func() { n.model, modelErr = jsonfile.Open(filepath.Join(cfg.DataDir, "readmodels")) })
	err = n.openLog(ctx)
	opening.Wait()
	if modelErr == nil {
		n.closers = append(n.closers, n.model.Close)
	}
	if err = errors.Join(err, modelErr); err != nil {
		return n, err
	}
	if n.files, err = files.Open(filepath.Join(cfg.DataDir, "files")); err != nil {
		return n, err
	}
	n.closers = append(n.closers, n.files.Close)
	if n.intake, err = intake.Open(cfg.Intake, filepath.Join(cfg.DataDir, "spool"), log); err != nil {
		return n, err
	}
	n.runner, err = projections.NewRunner(ctx, n.store, n.model, log)
	return n, err
}

func (n *node) openLog(ctx context.Context) error {
	syncAlways := n.cfg.Log.Sync == eventstore.SyncAlways
	var nc *nats.Conn
	if n.cfg.OneMachine() {
		srv, err := eventstore.StartEmbedded(eventstore.EmbeddedOptions{Dir: filepath.Join(n.cfg.DataDir, "nats"), SyncAlways: syncAlways})
		if err != nil {
			return err
		}
		n.closers = append(n.closers, func() error { srv.Stop(); return nil })
		if nc, err = srv.Connect(); err != nil {
			return err
		}
		js, err := jetstream.New(nc)
		if err != nil {
			return err
		}
		if err := eventstore.Setup(ctx, js, n.cfg.Region, 1); err != nil {
			return err
		}
	} else {
		var err error
		if nc, err = eventstore.Connect(n.cfg.Log.NATSURL.Reveal(), n.cfg.Log.NATSCreds); err != nil {
			return err
		}
	}
	n.closers = append(n.closers, func() error { nc.Close(); return nil })
	store, err := eventstore.Open(ctx, nc, eventstore.Options{Region: n.cfg.Region, SyncAlways: syncAlways, Room: func() error { return n.disk().Run(ctx) }})
	if err != nil {
		return err
	}
	n.store = store
	n.closers = append(n.closers, func() error { store.Close(); return nil })
	return nil
}

// apiGrace is what requests get to finish when the process stops; uploads included.
const apiGrace = 5 * time.Second

// run brings the read models up to date, gives back what the last process left behind, and then serves on l until ctx ends. It returns when
// everything has stopped and closed.
func (n *node) run(ctx context.Context, l net.Listener, ready func()) (err error) {
	defer func() { err = errors.Join(err, n.close()) }()
	defer l.Close() // Serve closes it too; this is for what fails before
	// Each stage of the shutdown has a context of its own, ended in order: the API first, then the worker, then what they both need.
	base, stopBase := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopBase(nil)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stopBase(nil)
	start := func(what string, run func(context.Context) error) {
		parts.Go(func() {
			if err := run(base); err != nil {
				stopBase(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	// What follows ends with ctx, or when one of the parts fails.
	front, stopFront := context.WithCancel(ctx)
	defer stopFront()
	context.AfterFunc(base, stopFront)
	start("read models", n.runner.Run)
	if err := n.recover(front); err != nil {
		if ctx.Err() != nil {
			return nil // asked to stop before it was ready
		}
		return cmp.Or(context.Cause(base), err)
	}
	if err := n.openWorker(front); err != nil {
		return err
	}
	start("queue", func(ctx context.Context) error { return n.queue.Run(ctx, n.from) })
	start("heartbeat", n.member.Run)
	start("maintenance", maintenance.New(maintenance.Parts{Store: n.store, Files: n.files, Log: n.log}, maintenance.Options{
		Config: n.cfg.Maintenance, HeartbeatTTL: n.cfg.Fleet.HeartbeatTTL, DisconnectGrace: n.cfg.Fleet.DisconnectGrace,
		From: n.from, // what was going on before has been given back
	}).Run)

	var fronts sync.WaitGroup
	var workErr, apiErr error
	if err := n.openAPI(base); err != nil {
		return err
	}
	fronts.Go(func() { apiErr = api.Serve(front, l, n.api, apiGrace); stopFront() })
	fronts.Go(func() { workErr = n.worker.Run(front) })
	if err := n.lock.announce(holder{PID: os.Getpid(), URL: "http://" + l.Addr().String()}); err != nil {
		return err
	}
	ready()
	fronts.Wait()
	leave, cancel := context.WithTimeout(base, 2*time.Second)
	defer cancel()
	leaveErr := n.member.Leave(leave)
	if failed := context.Cause(base); failed != nil {
		return errors.Join(failed, apiErr, workErr)
	}
	return errors.Join(apiErr, workErr, leaveErr)
}

// recover waits until the read models know the whole log, then gives back what had an owner: the lock proves that no owner lives.
func (n *node) recover(ctx context.Context) error {
	info, err := n.store.Info(ctx)
	if err != nil {
		return err
	}
	if err := n.runner.WaitFor(ctx, info.Last); err != nil {
		return err
	}
	if err := maintenance.Restart(ctx, n.store, n.model, n.log); err != nil {
		return err
	}
	// Everything up to here is in the model, so the queue need not look before the oldest scan that is not over.
	n.from = n.runner.At()
	open, err := n.model.Unfinished(ctx)
	if err != nil {
		return err
	}
	if len(open) > 0 {
		n.from = min(n.from, open[0].Created-1)
	}
	return nil
}

func (n *node) openWorker(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	eng, err := engine.New(n.cfg.Engine, engine.Options{Version: buildVersion(), Log: n.log})
	if err != nil {
		return err
	}
	me := fleet.Worker{ID: events.NewWorkerID(n.cfg.Region), Host: host, Version: buildVersion(), Slots: n.cfg.Worker.Slots, StartedAt: time.Now().UTC()}
	if n.member, err = fleet.Join(ctx, n.store, me, n.cfg.Fleet.HeartbeatTTL, n.log); err != nil {
		return err
	}
	n.queue = dispatch.NewLocal(n.store)
	root := n.cfg.Engine.RuntimeRoot
	if root == "" {
		root = filepath.Join(n.cfg.DataDir, "v16")
	}
	n.worker, err = worker.New(worker.Parts{
		Store: n.store, Queue: n.queue, Member: n.member, Source: snapshotSource{n.files}, Objects: objects{n.files}, Engine: eng, Log: n.log,
	}, worker.Options{
		Slots: n.cfg.Worker.Slots, Timeout: n.cfg.Worker.ScanTimeout, RuntimeRoot: root, Host: host, Grace: n.cfg.Worker.DrainGrace,
	})
	return err
}

func (n *node) openAPI(ctx context.Context) error {
	signIn, err := auth.NewCustom(ctx, n.store, auth.CustomOptions{Secret: n.cfg.Auth.Secret, Accounts: n.cfg.Auth.Accounts()})
	if err != nil {
		return err
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	n.api, err = api.New(api.Deps{
		Config:      n.cfg.API,
		Store:       n.store,
		Model:       n.model,
		Runner:      n.runner,
		Admission:   dispatch.NewAdmission(n.store, n.cfg.Dispatch.MaxActivePerUser),
		Auth:        signIn,
		Files:       n.files,
		Intake:      n.intake,
		Fleet:       api.FleetFunc(n.workers),
		Stages:      engine.StageNames(),
		MaxAttempts: n.cfg.Worker.MaxAttempts,
		Limits:      limits(n.cfg),
		Checks:      []api.Check{n.disk()},
		Log:         n.log,
		Metrics:     metrics,
		Version:     buildVersion(),
	})
	return err
}

// disk checks that the data folder's disk has room: before each write to the log, and for readyz.
func (n *node) disk() api.Check { return api.FreeSpace(n.cfg.DataDir, uint64(n.cfg.Log.MinFree)) }

// workers lists the fleet as the API shows it.
func (n *node) workers(ctx context.Context) ([]api.Worker, error) {
	alive, err := fleet.List(ctx, n.store)
	if err != nil {
		return nil, err
	}
	out := make([]api.Worker, len(alive))
	for i, w := range alive {
		out[i] = api.Worker{ID: w.ID, Host: w.Host, Version: w.Version, Slots: w.Slots, Scans: w.Scans, Beat: w.Beat,
			Stale: time.Since(w.Beat) > n.cfg.Fleet.HeartbeatTTL, Draining: w.Draining}
	}
	return out, nil
}

// limits are what ops/limits shows, by the names of their variables.
func limits(cfg config.Config) []api.Limit {
	return []api.Limit{
		{Name: "VEGA_MAX_ACTIVE_SCANS_PER_USER", Value: cfg.Dispatch.MaxActivePerUser},
		{Name: "VEGA_MAX_SOURCE_BYTES", Value: cfg.Intake.MaxSourceBytes},
		{Name: "VEGA_MAX_ARCHIVE_ENTRIES", Value: cfg.Intake.MaxEntries},
		{Name: "VEGA_MAX_ARCHIVE_UNCOMPRESSED_BYTES", Value: cfg.Intake.MaxUncompressedBytes},
		{Name: "VEGA_WORKER_HEARTBEAT_TTL_SECONDS", Value: int64(cfg.Fleet.HeartbeatTTL.Seconds())},
		{Name: "VEGA_SCAN_RUNNING_STALE_SECONDS", Value: int64(cfg.Maintenance.RunningStale.Seconds())},
		{Name: "VEGA_SCAN_TIMEOUT_SECONDS", Value: int64(cfg.Worker.ScanTimeout.Seconds())},
		{Name: "VEGA_SCAN_MAX_ATTEMPTS", Value: cfg.Worker.MaxAttempts},
		{Name: "VEGA_WORKER_SLOTS", Value: cfg.Worker.Slots},
	}
}

// close undoes openNode, last part first.
func (n *node) close() error {
	var failed error
	for i := len(n.closers) - 1; i >= 0; i-- {
		failed = errors.Join(failed, n.closers[i]())
	}
	n.closers = nil
	return failed
}

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

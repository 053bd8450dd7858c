package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"vega/config"
	"vega/events"
	"vega/projections"
	"vega/projections/jsonfile"
	"vega/projections/postgres"
	"vega/services/api"
	"vega/services/auth"
	"vega/services/dispatch"
	"vega/services/engine"
	"vega/services/fleet"
	"vega/services/intake"
	"vega/services/maintenance"
)

// apiNode is the process of the api role: the read models, the HTTP API and maintenance; in thread mode also worker slots. Its parts start from the log
// up and stop in the reverse order.
type apiNode struct {
	node
	lock    *dataLock
	model   readModel
	runner  *projections.Runner
	intake  *intake.Intake
	api     *api.Server
	limiter *auth.Limiter
	from    events.Seq // before the oldest scan that is not over
	metrics *prometheus.Registry
}

// openAPINode takes the data folder and opens every part, oldest first; nothing runs yet. A failure closes what was opened. waits, unless nil, is called when a part is away and
// waited for, perhaps more than once.
func openAPINode(ctx context.Context, cfg config.Config, made assembly, log *slog.Logger, waits func(context.Context)) (n *apiNode, err error) {
	n = &apiNode{node: node{cfg: cfg, log: log, made: made, waits: waits}, metrics: newMetrics()}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	hideKey(cfg, log)
	if n.lock, err = lockData(cfg.DataDir); err != nil {
		return n, err
	}
	n.undo(n.lock.release)
	if err = n.cfg.KeepSecrets(); err != nil {
		return n, err
	}
	// The read model is read from disk while the log starts: both take a third of a second with 100,000 events.
	var (
		opening  sync.WaitGroup
		modelErr error
	)
	opening.Go(func() {
		modelErr = n.whileAway(ctx, func() (err error) {
			n.model, err = openModel(ctx, cfg, log)
			return err
		})
	})
	err = n.startLog(ctx)
	opening.Wait()
	if modelErr == nil {
		n.undo(n.model.Close)
	}
	if err = errors.Join(err, modelErr); err != nil {
		return n, err
	}
	if err = n.openFiles(ctx); err != nil {
		return n, err
	}
	if n.intake, err = intake.Open(cfg.Intake, filepath.Join(cfg.DataDir, "spool"), log); err != nil {
		return n, err
	}
	err = n.whileAway(ctx, func() error {
		n.runner, err = projections.NewRunner(ctx, n.store, n.model, log)
		return err
	})
	return n, err
}

// readModel is one of the two backends.
type readModel interface {
	projections.Model
	Close() error
}

// openModel opens the configured read model. It returns projections.ErrUnavailable when its server does not answer.
func openModel(ctx context.Context, cfg config.Config, log *slog.Logger) (readModel, error) {
	if cfg.Projections.Backend == projections.BackendPostgres {
		return postgres.Open(ctx, postgres.Options{Config: cfg.Projections, Log: log})
	}
	return jsonfile.Open(filepath.Join(cfg.DataDir, "readmodels"))
}

// alone says that this process is the only API of its log: the lock on the data folder proves it where the log or the read model lies in there.
func (n *apiNode) alone() bool {
	return n.cfg.OneMachine() || n.cfg.Projections.Backend == projections.BackendJSON
}

// apiGrace is what requests get to finish when the process stops; uploads included.
const apiGrace = 5 * time.Second

// run brings the read models up to date, gives back what the last process left behind, and then serves on l until ctx ends. It returns when
// everything has stopped and closed.
func (n *apiNode) run(ctx context.Context, l net.Listener, ready func()) (err error) {
	defer func() { err = errors.Join(err, n.close()) }()
	defer l.Close() // Serve closes it too; this is for what fails before
	life := newLifecycle(ctx)
	defer life.stop()
	life.part("read models", n.runner.Run)
	if err := n.whileAway(life.front, func() error { return n.recover(life.front) }); err != nil {
		if ctx.Err() != nil {
			return nil // asked to stop before it was ready
		}
		return cmp.Or(context.Cause(life.base), err)
	}
	if err := n.startOwnProxy(ctx, life); err != nil {
		return err
	}
	leave := func(context.Context) error { return nil }
	if n.cfg.Dispatch.Mode == dispatch.ModeThread {
		queue := dispatch.NewLocal(n.store)
		life.part("queue", func(ctx context.Context) error { return queue.Run(ctx, n.from) })
		if _, leave, err = n.startCrew(life, queue); err != nil {
			return err
		}
	} else if err := n.whileAway(life.front, func() error { return dispatch.Ensure(life.front, n.store, n.cfg.Dispatch.Mode, n.from) }); err != nil {
		return err
	}
	if err := n.startMaintenance(life, n.from); err != nil {
		return err
	}
	n.limiter = auth.NewLimiter(auth.LimiterOptions{Limits: n.cfg.Auth.RateLimits, NATS: n.store.Conn(), Region: n.cfg.Region})
	life.part("rate limits", untilEnd(n.limiter.Run))
	signIn, err := n.openSignIn(life)
	if err != nil {
		return err
	}
	if err := n.whileAway(life.front, func() error { return n.openAPI(signIn) }); err != nil {
		return err
	}
	life.serve(func(ctx context.Context) error { return api.Serve(ctx, l, n.api, apiGrace) })
	if err := n.lock.announce(holder{PID: os.Getpid(), URL: "http://" + l.Addr().String(), Proxy: n.proxy}); err != nil {
		return err
	}
	ready()
	return life.wait(leave)
}

// recover waits until the read models know the whole log, then gives back what the last process left behind, where the lock on the data folder proves that
// nobody else takes uploads in or asks the provider, and in thread mode that nobody else runs scans.
func (n *apiNode) recover(ctx context.Context) error {
	info, err := n.store.Info(ctx)
	if err != nil {
		return err
	}
	if err := n.runner.WaitFor(ctx, info.Last); err != nil {
		return err
	}
	if n.cfg.Dispatch.Mode == dispatch.ModeThread && n.cfg.OneMachine() {
		if err := maintenance.GiveBackScans(ctx, n.store, n.model, n.log); err != nil {
			return err
		}
	}
	if n.cfg.OneMachine() && n.cfg.LLM.BaseURL == "" { // the only proxy is in the process that holds the folder
		if err := maintenance.EndCalls(ctx, n.store, n.model, n.log); err != nil {
			return err
		}
	}
	if n.alone() { // otherwise another process may be taking a source in; maintenance ends what no living one does
		if err := maintenance.EndIngestions(ctx, n.store, n.model, n.log); err != nil {
			return err
		}
	}
	// Everything up to here is in the model, so a queue need not look before the oldest scan that is not over.
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

// openSignIn makes what answers for tokens. What keeps it fresh runs as a part.
func (n *apiNode) openSignIn(life *lifecycle) (signIn api.Auth, err error) {
	if n.cfg.Auth.Provider != auth.ProviderCognito {
		err = n.whileAway(life.front, func() error {
			signIn, err = auth.NewCustom(life.base, n.store, auth.CustomOptions{Secret: n.cfg.Auth.Secret, Accounts: n.cfg.Auth.Accounts()})
			return err
		})
		return signIn, err
	}
	pool, err := auth.NewCognito(life.base, auth.CognitoOptions{Config: n.cfg.Auth.Cognito, Log: n.log})
	if err != nil {
		return nil, err
	}
	n.checks = append(n.checks, api.Check{Name: "cognito", Run: pool.Check})
	life.part("sign-in", untilEnd(pool.Run))
	return pool, nil
}

func (n *apiNode) openAPI(signIn api.Auth) (err error) {
	n.api, err = api.New(api.Deps{
		Config:      n.cfg.API,
		Store:       n.store,
		Model:       n.model,
		Runner:      n.runner,
		Admission:   dispatch.NewAdmission(n.store, n.cfg.Dispatch.MaxActivePerUser),
		Auth:        signIn,
		Limiter:     n.limiter,
		Files:       n.files,
		Intake:      n.intake,
		Fleet:       api.FleetFunc(n.workers),
		Mode:        n.cfg.Dispatch.Mode,
		Stages:      engine.StageNames(),
		MaxAttempts: n.cfg.Worker.MaxAttempts,
		Caps:        n.cfg.LLM.Caps(),
		Limits:      limits(n.cfg),
		Checks:      append([]api.Check{n.disk()}, n.checks...),
		Log:         n.log,
		Metrics:     n.metrics,
		Version:     buildVersion(),
	})
	return err
}

// workers lists the fleet as the API shows it.
func (n *apiNode) workers(ctx context.Context) ([]api.Worker, error) {
	alive, err := fleet.List(ctx, n.store)
	if err != nil {
		return nil, err
	}
	// An entry outlives its worker; whether it is still there is asked of the worker itself.
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	out := make([]api.Worker, len(alive))
	var asking sync.WaitGroup
	for i, w := range alive {
		asking.Go(func() {
			pong, err := fleet.Ping(ctx, n.store, w.ID)
			if err == nil {
				w.Scans = slices.Sorted(maps.Keys(pong.Held))
			}
			out[i] = api.Worker{ID: w.ID, Host: w.Host, Version: w.Version, Slots: w.Slots, Mode: w.Mode, Scans: w.Scans, Beat: w.Beat,
				Stale: errors.Is(err, fleet.ErrGone) || time.Since(w.Beat) > n.cfg.Fleet.HeartbeatTTL, Draining: w.Draining}
		})
	}
	asking.Wait()
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
		{Name: "VEGA_RATE_LIMIT_USER_PER_MINUTE", Value: cfg.Auth.RateLimits.UserPerMinute},
		{Name: "VEGA_RATE_LIMIT_API_KEY_PER_MINUTE", Value: cfg.Auth.RateLimits.APIKeyPerMinute},
	}
}

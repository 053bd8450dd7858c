package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/logging"

	"vega/config"
	"vega/events"
	"vega/scripts"
	"vega/services/dispatch"
	"vega/services/engine"
	"vega/services/fleet"
	"vega/services/worker"
	"vega/v16"
)

// serveWorker runs scans that other processes queued, until ctx ends. Any number of these may run, on any machines that reach the log and the files.
func serveWorker(ctx context.Context, cfg config.Config, made assembly, log *slog.Logger) (err error) {
	n := &node{cfg: cfg, log: log, made: made}
	defer func() {
		err = errors.Join(err, n.close())
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			err = nil // asked to stop while it waited for the log
		}
	}()
	if err := n.cfg.KeepSecrets(); err != nil {
		return err
	}
	if err := n.joinLog(ctx); err != nil {
		return err
	}
	if err := n.openFiles(ctx); err != nil {
		return err
	}
	life := newLifecycle(ctx)
	defer life.stop()
	queue, err := n.openQueue(life)
	if err != nil {
		return err
	}
	if err := n.answerHealth(life); err != nil {
		return err
	}
	me, leave, err := n.startCrew(life, queue)
	if err != nil {
		return err
	}
	me.Info("ready", "version", buildVersion(), "slots", cfg.Worker.Slots, "mode", cfg.Dispatch.Mode)
	return life.wait(leave)
}

// startCrew joins the fleet and runs a worker that takes its hints from q; scans run here or as ECS tasks. It returns the worker's
// own log, and what takes the process out of the fleet again.
func (n *node) startCrew(life *lifecycle, q worker.Queue) (log *slog.Logger, leave func(context.Context) error, err error) {
	var member *fleet.Member
	err = n.whileAway(life.front, func() error {
		member, err = n.joinFleet(life.front, n.cfg.Worker.Slots)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	log = n.log.With("worker_id", member.ID())
	life.part("heartbeat", member.Run)
	parts, err := n.workerParts(life.front, member)
	if err != nil {
		return nil, nil, err
	}
	parts.Queue, parts.Log = q, log
	if n.cfg.Worker.RunMode == worker.RunECS {
		aws, err := awsconfig.LoadDefaultConfig(life.front, awsconfig.WithLogger(logging.Nop{}))
		if err != nil {
			return nil, nil, fmt.Errorf("configuration of the AWS SDK: %w", err)
		}
		if aws.Region == "" {
			return nil, nil, errors.New("VEGA_SCAN_WORKER_EXECUTION_MODE=ecs: no AWS region is known; set AWS_REGION")
		}
		launcher := worker.NewLauncher(worker.LaunchParts{Store: n.store, Member: member, AWS: aws, Log: log}, n.cfg.Worker.ECS, n.made.launch)
		life.part("launcher", launcher.Run)
		parts.Tasks = launcher
	}
	w, err := worker.New(parts, n.workerOptions())
	if err != nil {
		return nil, nil, err
	}
	life.serve(w.Run)
	return log, n.leaving(member), nil
}

// leaving takes a process out of the fleet. Should the log be away its entry expires by itself, so that is no failure.
func (n *node) leaving(m *fleet.Member) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, leaveTime)
		defer cancel()
		if err := m.Leave(ctx); err != nil {
			n.log.Warn("heartbeat entry not removed", "err", err)
		}
		return nil
	}
}

// leaveTime bounds how long a stopping process tries to take itself off the fleet's list; what is left expires.
const leaveTime = 2 * time.Second

// joinFleet makes this process known under an id of its own, new at every start.
func (n *node) joinFleet(ctx context.Context, slots int) (*fleet.Member, error) {
	me := fleet.Worker{ID: events.NewWorkerID(n.cfg.Region), Host: hostname(), Version: buildVersion(), Slots: slots, Mode: string(n.cfg.Dispatch.Mode), StartedAt: time.Now().UTC()}
	return fleet.Join(ctx, n.store, me, n.cfg.Fleet.HeartbeatTTL, n.log)
}

// workerParts are what runs scans in this process, without a queue.
func (n *node) workerParts(ctx context.Context, member *fleet.Member) (worker.Parts, error) {
	eng, err := n.made.engine(n.cfg.Engine, engineOptions(n.log))
	if err != nil {
		return worker.Parts{}, err
	}
	model, err := newModelAccess(n.cfg, n.proxy)
	if err != nil {
		return worker.Parts{}, err
	}
	if err := n.checkCodex(ctx, eng, model); err != nil {
		return worker.Parts{}, err
	}
	return worker.Parts{Store: n.store, Member: member, Source: snapshotSource{n.files}, Objects: objects{n.files}, Engine: eng, Model: model, Log: n.log}, nil
}

// checkCodex asks once whether Codex can be run here, where a model is within reach. In production a process that could not do its whole work does not start; elsewhere each scan says
// what is missing, and this process does, once.
func (n *node) checkCodex(ctx context.Context, eng worker.Engine, model *modelAccess) error {
	codex, ok := eng.(interface{ CheckCodex(context.Context) error })
	_, missing := model.proxy()
	if !ok || len(missing) > 0 || n.cfg.Worker.RunMode == worker.RunECS {
		return nil
	}
	// What a model may run here is the user's own: this process's environment is not to be read by it.
	if err := hideMemory(); err != nil {
		n.log.Warn("the memory of this process is not hidden from other processes of this user", "err", err)
	}
	strict := n.cfg.Prod() && !n.cfg.AllowInsecureProd
	if !strict {
		n.undo(inBackground(ctx, func(ctx context.Context) {
			if err := codex.CheckCodex(ctx); err != nil && ctx.Err() == nil {
				n.log.Warn("the stages that need a model will not run", "err", err)
			}
		}))
		return nil
	}
	if err := codex.CheckCodex(ctx); err != nil {
		return fmt.Errorf("VEGA_ENVIRONMENT=%s needs Codex for the stages that use a model: %w (or set VEGA_ALLOW_INSECURE_PROD=true)", n.cfg.Environment, err)
	}
	return nil
}

// inBackground runs f until it is over or the returned function is called, which waits for it.
func inBackground(ctx context.Context, f func(context.Context)) func() error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { f(ctx) })
	return func() error {
		cancel()
		running.Wait()
		return nil
	}
}

// engineOptions are what this build and this machine give to an engine.
func engineOptions(log *slog.Logger) engine.Options {
	return engine.Options{Version: buildVersion(), Log: log, Pack: v16.Files(), Script: scripts.CodexInContainer(), HostEnv: hostEnviron(os.Environ())}
}

func (n *node) workerOptions() worker.Options {
	return worker.Options{
		Slots: n.cfg.Worker.Slots, Timeout: n.cfg.Worker.ScanTimeout, RuntimeRoot: n.cfg.Engine.RuntimeRoot, Host: hostname(), Grace: n.cfg.Worker.DrainGrace,
	}
}

func hostname() string {
	host, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return host
}

// openQueue starts the queue that the mode names.
func (n *node) openQueue(life *lifecycle) (worker.Queue, error) {
	if n.cfg.Dispatch.Mode == dispatch.ModeSQS {
		client, err := n.openSQS(life.front)
		if err != nil {
			return nil, err
		}
		q := dispatch.NewSQS(n.store, client, n.cfg.Dispatch.QueueURL, dispatch.SQSOptions{}, n.log)
		life.part("queue", q.Run)
		n.checks = append(n.checks, queueCheck(q.Err, client, n.cfg.Dispatch.QueueURL))
		return q, nil
	}
	q := dispatch.NewExternal(n.store, n.log)
	life.part("queue", q.Run)
	return q, nil
}

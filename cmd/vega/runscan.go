package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"vega/config"
	"vega/events"
	"vega/services/fleet"
	"vega/services/scan"
	"vega/services/worker"
)

// exitNotMine is the exit code of a runner whose attempt is somebody else's.
const exitNotMine = 4

func newRunScanCommand(made assembly) *cobra.Command {
	return &cobra.Command{
		Use:   "run-scan",
		Short: "Run the one scan that an ECS task was started for",
		Long: fmt.Sprintf(`Runs one attempt of one scan and ends: what a task of VEGA_SCAN_WORKER_EXECUTION_MODE=ecs does. The worker that claimed the
scan names it in the task's environment (%s, %s, %s); everything else is configured like a worker. The token is good
for one join within ten minutes of the claim.

It exits 0 when the log knows how the attempt ended, whatever that was; %d when the attempt is not this process's (its token was used before, is wrong
or too old, or the scan was given to another); %d on any other error. SIGTERM gives the scan back, or ends it if it is being cancelled.`,
			worker.EnvRunScan, worker.EnvRunGeneration, worker.EnvRunToken, exitNotMine, exitError),
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			one, err := readOne(os.Getenv)
			if err != nil {
				return err
			}
			cfg, err := config.Load(runnerEnviron(os.Environ()), dotenv)
			if err != nil {
				return err
			}
			warn(cmd.ErrOrStderr(), cfg)
			err = runOne(cmd.Context(), cfg, made, one, cmd.ErrOrStderr())
			if errors.Is(err, scan.ErrSuperseded) || errors.Is(err, scan.ErrTokenSpent) || errors.Is(err, scan.ErrTokenWrong) {
				fmt.Fprintln(cmd.ErrOrStderr(), "vega:", err)
				return exitCode(exitNotMine)
			}
			return err
		},
	}
}

// readOne reads what the launcher put into the environment.
func readOne(getenv func(string) string) (worker.One, error) {
	var missing []string
	for _, name := range []string{worker.EnvRunScan, worker.EnvRunGeneration, worker.EnvRunToken} {
		if getenv(name) == "" {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return worker.One{}, fmt.Errorf("%s not set: this command is started by a worker with VEGA_SCAN_WORKER_EXECUTION_MODE=ecs", strings.Join(missing, ", "))
	}
	if err := events.CheckID(worker.EnvRunScan, getenv(worker.EnvRunScan)); err != nil {
		return worker.One{}, err
	}
	generation, err := strconv.ParseUint(getenv(worker.EnvRunGeneration), 10, 63)
	if err != nil {
		return worker.One{}, fmt.Errorf("%s is %.40q, want a sequence", worker.EnvRunGeneration, getenv(worker.EnvRunGeneration))
	}
	return worker.One{Scan: events.ScanID(getenv(worker.EnvRunScan)), Generation: events.Seq(generation), Token: getenv(worker.EnvRunToken)}, nil
}

// runnerEnviron is the environment as the configuration sees it: a worker's, without what names the attempt.
func runnerEnviron(environ []string) []string {
	out := []string{"VEGA_SERVICE_ROLE=" + string(config.RoleWorker)} // the first of a repeated name counts
	for _, entry := range environ {
		if !strings.HasPrefix(entry, "VEGA_RUN_") {
			out = append(out, entry)
		}
	}
	return out
}

func runOne(ctx context.Context, cfg config.Config, made assembly, one worker.One, stderr io.Writer) (err error) {
	n := &node{cfg: cfg, log: newLogger(cfg, stderr), made: made}
	defer func() { err = errors.Join(err, n.close()) }()
	if err := n.cfg.KeepSecrets(); err != nil {
		return err
	}
	// Later than this the token is good for nothing.
	soon, cancel := context.WithTimeoutCause(ctx, scan.TokenLife, fmt.Errorf("the event log was not reached within %s (VEGA_NATS_URL names it)", scan.TokenLife))
	defer cancel()
	if err := n.joinLog(soon); err != nil {
		if soon.Err() != nil {
			return cmp.Or(context.Cause(soon), err)
		}
		return err
	}
	if err := n.openFiles(ctx); err != nil {
		return err
	}
	var member *fleet.Member
	err = n.whileAway(ctx, func() error {
		member, err = n.joinFleet(ctx, 1)
		return err
	})
	if err != nil {
		return err
	}
	parts, err := n.workerParts(ctx, member)
	if err != nil {
		return err
	}
	parts.Log = n.log.With("worker_id", member.ID())
	life := newLifecycle(ctx)
	defer life.stop()
	life.part("heartbeat", member.Run) // until the attempt is over, which may be after ctx
	life.serve(func(ctx context.Context) error { return worker.RunOne(ctx, parts, n.workerOptions(), one) })
	return life.wait(n.leaving(member))
}

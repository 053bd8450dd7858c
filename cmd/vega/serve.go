package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"vega/config"
	"vega/events/eventstore"
	"vega/projections"
	"vega/services/auth"
	"vega/services/dispatch"
	"vega/services/files"
)

// serve runs the configured role until ctx ends.
func serve(ctx context.Context, cfg config.Config, made assembly, stdout, stderr io.Writer) error {
	log := newLogger(cfg, stderr)
	stop := context.AfterFunc(ctx, func() { log.Info("asked to stop; a second signal ends the process at once") })
	defer stop()
	defer log.Info("stopped")
	switch cfg.ServiceRole {
	case config.RoleWorker:
		return serveWorker(ctx, cfg, made, log)
	case config.RoleMaintenance:
		return serveMaintenance(ctx, cfg, log, func() { log.Info("ready", "version", buildVersion(), "mode", cfg.Dispatch.Mode) })
	case config.RoleLLMProxy:
		return serveLLMProxy(ctx, cfg, log)
	default:
		return serveAPI(ctx, cfg, made, log, stdout)
	}
}

func serveAPI(ctx context.Context, cfg config.Config, made assembly, log *slog.Logger, stdout io.Writer) error {
	room := &waitingRoom{cfg: cfg}
	n, err := openAPINode(ctx, cfg, made, log, room.open)
	if err != nil {
		return errors.Join(err, room.close())
	}
	l, err := room.leave(ctx)
	if err != nil {
		return fmt.Errorf("listen on VEGA_LISTEN_ADDR: %w", joinClose(err, n))
	}
	return n.run(ctx, l, func() { greet(stdout, log, n.cfg, l.Addr().String(), n.proxy) })
}

func joinClose(err error, n *apiNode) error {
	if cerr := n.close(); cerr != nil {
		return fmt.Errorf("%w; %w", err, cerr)
	}
	return err
}

// greet tells a person where things are and what is off.
func greet(w io.Writer, log *slog.Logger, cfg config.Config, addr, proxy string) {
	log.Info("ready", "addr", addr, "version", buildVersion())
	fmt.Fprintf(w, "\n%s is ready\n\n  API       http://%s%s\n  API docs  http://%s/docs\n", cfg.API.AppName, addr, cfg.API.Prefix, addr)
	if cfg.Auth.Provider == auth.ProviderCognito {
		fmt.Fprintf(w, "  Login     at %s, for tokens of the app client %s\n", cmp.Or(cfg.Auth.Cognito.SignInURL, cfg.Auth.Cognito.Issuer), cfg.Auth.Cognito.AppClientID)
	} else {
		fmt.Fprintf(w, "  Login     %s, password %s\n", cfg.Auth.DebugEmail, passwordHint(cfg))
	}
	if proxy != "" {
		fmt.Fprintf(w, "  LLM proxy http://%s/v1\n", proxy)
	}
	fmt.Fprintf(w, "  Data      %s\n", whereData(cfg))
	if cfg.Dispatch.Mode != dispatch.ModeThread {
		fmt.Fprintf(w, "  Workers   scans wait for them; %s\n", howToWork(cfg))
	}
	if missing := cfg.Engine.ModelAccess.Missing; len(missing) > 0 && cfg.Dispatch.Mode == dispatch.ModeThread { // elsewhere it is the workers that need it
		fmt.Fprintf(w, "  Off       AI stages; set %s to turn them on\n", strings.Join(missing, " and "))
	}
	if cfg.OneMachine() && cfg.Log.Sync != eventstore.SyncAlways {
		fmt.Fprintln(w, "  Note      VEGA_NATS_SYNC=default: the last two minutes of events may be lost in a power cut")
	}
	fmt.Fprintln(w)
}

// whereData says where everything is kept.
func whereData(cfg config.Config) string {
	where := cfg.DataDir
	if cfg.Projections.Backend == projections.BackendPostgres {
		where += ", read models in Postgres"
	}
	if cfg.Files.Backend == files.BackendS3 {
		where += fmt.Sprintf(", files in the S3 buckets %s and %s", cfg.Files.S3.Source, cfg.Files.S3.Artifacts)
	}
	return where
}

// howToWork says how to start a worker for this process's log.
func howToWork(cfg config.Config) string {
	how := "start one with VEGA_SERVICE_ROLE=worker vega"
	if cfg.Dispatch.Mode == dispatch.ModeSQS {
		how = "start one with VEGA_SERVICE_ROLE=worker, the same VEGA_SCAN_EXECUTION_MODE and VEGA_SCAN_QUEUE_URL"
	}
	if cfg.OneMachine() {
		return how + " in this folder"
	}
	return how + " and the same VEGA_NATS_URL"
}

func passwordHint(cfg config.Config) string {
	if cfg.Auth.DebugPassword.Reveal() == auth.DefaultDebugPassword {
		return auth.DefaultDebugPassword
	}
	return "as set in VEGA_DEBUG_PASSWORD"
}

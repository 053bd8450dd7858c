package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"vega/config"
	"vega/events/eventstore"
	"vega/services/api"
	"vega/services/llmproxy"
)

// serveLLMProxy forwards the agent's calls to the provider, until ctx ends. Any number of these may run.
func serveLLMProxy(ctx context.Context, cfg config.Config, log *slog.Logger) (err error) {
	n := &node{cfg: cfg, log: log}
	defer func() {
		err = errors.Join(err, n.close())
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			err = nil // asked to stop while it waited for the log
		}
	}()
	if err := n.joinLog(ctx); err != nil {
		return err
	}
	proxy, err := llmproxy.New(cfg.LLM, n.store, log)
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.LLM.ListenAddr)
	if err != nil {
		return fmt.Errorf("listen on VEGA_LLM_PROXY_LISTEN_ADDR: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/", proxy)
	mux.Handle("/", api.Health{Version: buildVersion(), Region: string(cfg.Region), Checks: []api.Check{logCheck(n.store)}, Metrics: newMetrics()})
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, // an answer may take as long as it takes
		ErrorLog: stdlog.New(io.Discard, "", 0), // broken handshakes and the like are the clients'
	}
	life := newLifecycle(ctx)
	defer life.stop()
	life.serve(func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() {
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), apiGrace)
			defer cancel()
			if srv.Shutdown(end) != nil {
				_ = srv.Close() // what still runs is cut off; the agent calls again
			}
		})
		defer stop()
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve the LLM proxy: %w", err)
		}
		return nil
	})
	log.Info("ready", "addr", l.Addr().String(), "version", buildVersion())
	return life.wait(func(context.Context) error { return nil })
}

// logCheck says whether the event log answers.
func logCheck(store *eventstore.Store) api.Check {
	return api.Check{Name: "nats", Run: func(ctx context.Context) error {
		_, err := store.Info(ctx)
		return err
	}}
}

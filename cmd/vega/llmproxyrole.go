package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"vega/config"
	"vega/events/eventstore"
	"vega/services/api"
	"vega/services/llmproxy"
)

// gcPercent is what the heap of a process that is nothing but a proxy may grow by between two collections.
const gcPercent = 200

// serveLLMProxy forwards the agent's calls to the provider, until ctx ends. Any number of these may run.
func serveLLMProxy(ctx context.Context, cfg config.Config, log *slog.Logger) (err error) {
	hideKey(cfg, log)
	// Requests and answers pass through a small heap: collecting it half as often costs some megabytes and saves a tenth of the processor time of a call.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
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
	metrics := newMetrics()
	proxy, err := llmproxy.New(cfg.LLM, llmproxy.Parts{Store: n.store, Log: log, Metrics: metrics})
	if err != nil {
		return err
	}
	health := api.Health{Version: buildVersion(), Region: string(cfg.Region), Checks: []api.Check{logCheck(n.store)}, Metrics: metrics}
	life := newLifecycle(ctx)
	defer life.stop()
	addr, err := startProxy(ctx, life, cfg.LLM.ListenAddr, proxy, health, cfg.LLM.DrainTimeout)
	if err != nil {
		return err
	}
	log.Info("ready", "addr", addr, "version", buildVersion())
	return life.wait(func(context.Context) error { return nil })
}

// startProxy serves a proxy on a port of its own, with root for what is not below /v1/. Calls get grace to finish when the process stops. It returns the address.
func startProxy(ctx context.Context, life *lifecycle, listen string, proxy *llmproxy.Proxy, root http.Handler, grace time.Duration) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return "", fmt.Errorf("listen on VEGA_LLM_PROXY_LISTEN_ADDR: %w", err)
	}
	split := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // a mux would redirect paths that it finds untidy
		if strings.HasPrefix(r.URL.Path, "/v1/") {
			proxy.ServeHTTP(w, r)
			return
		}
		root.ServeHTTP(w, r)
	})
	life.part("watch of the LLM proxy", proxy.Run)
	life.serve(func(ctx context.Context) error { return proxy.Serve(ctx, l, split, grace) })
	return l.Addr().String(), nil
}

// startOwnProxy serves the proxy inside this process on one machine, where no other is named and a provider is configured.
func (n *apiNode) startOwnProxy(ctx context.Context, life *lifecycle) error {
	if !n.cfg.OneMachine() || n.cfg.LLM.BaseURL != "" || len(n.cfg.Engine.ModelAccess.Missing) > 0 {
		return nil
	}
	proxy, err := llmproxy.New(n.cfg.LLM, llmproxy.Parts{Store: n.store, Log: n.log, Metrics: n.metrics})
	if err != nil {
		return err
	}
	n.proxy, err = startProxy(ctx, life, n.cfg.LLM.ListenAddr, proxy, proxy, apiGrace)
	return err
}

// hideKey keeps the provider's key, if this process has it, from others of its user.
func hideKey(cfg config.Config, log *slog.Logger) {
	if cfg.LLM.ProviderAPIKey.IsZero() {
		return
	}
	if err := hideMemory(); err != nil {
		log.Warn("the memory that holds the provider's key is not hidden from other processes of this user", "err", err)
	}
}

// logCheck says whether the event log answers.
func logCheck(store *eventstore.Store) api.Check {
	return api.Check{Name: "nats", Run: func(ctx context.Context) error {
		_, err := store.Info(ctx)
		return err
	}}
}

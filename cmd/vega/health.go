package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"vega/config"
	"vega/services/api"
)

// newMetrics is a registry with what every process has.
func newMetrics() *prometheus.Registry {
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return metrics
}

// answerHealth serves healthz, readyz and metrics of a process that is not the API, where one address is configured for it.
func (n *node) answerHealth(life *lifecycle) error {
	if n.cfg.HealthAddr == "" {
		return nil
	}
	l, err := new(net.ListenConfig).Listen(life.front, "tcp", n.cfg.HealthAddr)
	if err != nil {
		return fmt.Errorf("listen on VEGA_HEALTH_LISTEN_ADDR: %w", err)
	}
	checks := append([]api.Check{
		logCheck(n.store), n.disk(),
	}, n.checks...)
	srv := &http.Server{
		Handler:           api.Health{Version: buildVersion(), Region: string(n.cfg.Region), Checks: checks, Metrics: newMetrics()},
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
	}
	life.part("health", func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // nobody waits for an answer about a process that ends
		defer stop()
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return nil
}

// exitUnhealthy is the exit code of healthcheck and doctor when something does not work: what a container engine knows.
const exitUnhealthy = 1

// healthTime bounds one question of the healthcheck command.
const healthTime = 3 * time.Second

func newHealthcheckCommand() *cobra.Command {
	var ready bool
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask the process of this role, on this machine, whether it is healthy",
		Long: `Asks healthz of the process that runs with this configuration: on VEGA_LISTEN_ADDR for the API, on VEGA_LLM_PROXY_LISTEN_ADDR for the LLM proxy, on
VEGA_HEALTH_LISTEN_ADDR for a worker or maintenance. It exits 0 when it is, and 1 otherwise: for containers without a shell. With --ready it asks readyz, which also
fails while a part that the process stands on is away; a container that is restarted for that reason helps nobody.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(io.Discard)
			if err != nil {
				return err
			}
			path := "/healthz"
			if ready {
				path = "/readyz"
			}
			if err := askHealth(cmd.Context(), cfg, path); err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), "vega:", err)
				return exitCode(exitUnhealthy)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&ready, "ready", false, "ask whether all parts that the process stands on work too")
	return cmd
}

func askHealth(ctx context.Context, cfg config.Config, path string) error {
	setting, addr := "VEGA_HEALTH_LISTEN_ADDR", cfg.HealthAddr
	switch cfg.ServiceRole {
	case config.RoleAPI:
		setting, addr = "VEGA_LISTEN_ADDR", cfg.API.ListenAddr
	case config.RoleLLMProxy:
		setting, addr = "VEGA_LLM_PROXY_LISTEN_ADDR", cfg.LLM.ListenAddr
	default:
	}
	if addr == "" {
		return fmt.Errorf("%s is not set, so a process of VEGA_SERVICE_ROLE=%s answers nobody", setting, cfg.ServiceRole)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%s: %w", setting, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1" // it listens everywhere: here, too
	}
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+path, nil)
	if err != nil {
		return err
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r) // no proxy of the environment
	if err != nil {
		return fmt.Errorf("%s (%s): %w", path, setting, err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK {
		return nil
	}
	var said struct {
		Error struct{ Message string }
	}
	_ = json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&said) // the status says enough
	return fmt.Errorf("%s: %s: %s", path, res.Status, said.Error.Message)
}

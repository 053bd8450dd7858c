package llmproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"time"
)

// lastTime is for the log to take what the last calls cost.
const lastTime = 5 * time.Second

// Serve answers on l with h, which forwards /v1/ to the proxy, until ctx ends. Calls that run then get grace to finish; the rest is cut, which the agent repeats
// elsewhere. It returns when what they spent is recorded, or the log has not taken it for a few seconds.
func (p *Proxy) Serve(ctx context.Context, l net.Listener, h http.Handler, grace time.Duration) error {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, // no WriteTimeout: an answer may take as long as it takes
		ErrorLog: stdlog.New(io.Discard, "", 0), // broken handshakes and the like are the agents'
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if srv.Shutdown(end) != nil {
			_ = srv.Close() // what still runs is cut off below
		}
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTime)
		defer cancel()
		stopped <- p.Close(last)
	})
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		if stop() {
			return fmt.Errorf("serve the LLM proxy: %w", err)
		}
	}
	if err := <-stopped; err != nil {
		p.log.Warn("usage of the last calls not recorded: it is charged as reserved", "err", err)
	}
	return nil
}

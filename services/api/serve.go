package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

// Serve answers requests on l until ctx ends, then takes no more, ends the live streams, and gives running requests grace to finish. What runs
// after that is cut off; Serve returns when its handlers have too. It closes l. It returns nil after ctx, or what broke the listener.
func Serve(ctx context.Context, l net.Listener, s *Server, grace time.Duration) error {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.New(io.Discard, "", 0), // broken handshakes and the like are the clients'
		// No ReadTimeout and no WriteTimeout: requests set their own deadlines, streams move theirs along.
	}
	served := make(chan error, 1)
	var serving sync.WaitGroup
	serving.Go(func() { served <- srv.Serve(l) })
	defer serving.Wait()
	select {
	case err := <-served:
		s.EndStreams()
		return fmt.Errorf("serve the API: %w", err)
	case <-ctx.Done():
	}
	s.busy.drain()
	s.EndStreams()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err := srv.Shutdown(end)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	// An upload that was cut off still records why; it has a bound of its own.
	last, stop := context.WithTimeout(context.WithoutCancel(ctx), recordTime+time.Second)
	defer stop()
	s.busy.wait(last)
	if err != nil {
		return fmt.Errorf("stop the API: %w", err)
	}
	return nil
}

// busy counts the requests that are being answered. The zero value is ready.
type busy struct {
	mu       sync.Mutex // guards what follows
	n        int
	draining bool
	idle     chan struct{} // made by wait; closed when n reaches 0
}

// enter counts a request; false when the server is about to stop.
func (b *busy) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n++
	return !b.draining
}

func (b *busy) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n--
	if b.n == 0 && b.idle != nil {
		close(b.idle)
		b.idle = nil
	}
}

func (b *busy) drain() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.draining = true
}

// wait returns when no request is being answered, or when ctx ends.
func (b *busy) wait(ctx context.Context) {
	b.mu.Lock()
	if b.n == 0 {
		b.mu.Unlock()
		return
	}
	idle := make(chan struct{})
	b.idle = idle
	b.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

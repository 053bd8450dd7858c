package main

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"vega/config"
	"vega/services/api"
)

// waitingRoom answers on the API's address while the API cannot: a process that is started in the middle of an outage is alive, and says so to whoever would
// end it for silence. It opens when there is something to wait for, and gives its listener to the API.
type waitingRoom struct {
	cfg config.Config

	mu      sync.Mutex // guards what follows
	l       net.Listener
	srv     *http.Server
	serving sync.WaitGroup
}

// open begins to answer; nothing when it does already. An address that cannot be had is told when the API wants it.
func (w *waitingRoom) open(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.l != nil {
		return
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", w.cfg.API.ListenAddr)
	if err != nil {
		return
	}
	w.l = l
	w.srv = &http.Server{Handler: api.Starting{Version: buildVersion(), Region: string(w.cfg.Region), Prefix: w.cfg.API.Prefix}, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10}
	w.serving.Go(func() { _ = w.srv.Serve(lent{l}) }) // it ends with leave
}

// leave stops answering and returns the listener, which nobody accepts from then; a new one when the room was never opened.
func (w *waitingRoom) leave(ctx context.Context) (net.Listener, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.l == nil {
		return new(net.ListenConfig).Listen(ctx, "tcp", w.cfg.API.ListenAddr)
	}
	_ = w.srv.Close() // of connections that were told to come again
	w.serving.Wait()
	l := w.l
	w.l = nil
	return l, l.(*net.TCPListener).SetDeadline(time.Time{})
}

// close ends it for good.
func (w *waitingRoom) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.l == nil {
		return nil
	}
	_ = w.srv.Close() // its listener is only lent
	w.serving.Wait()
	return w.l.Close()
}

// lent is a listener whose Close only wakes up who waits in it.
type lent struct{ net.Listener }

func (l lent) Close() error { return l.Listener.(*net.TCPListener).SetDeadline(time.Now()) }

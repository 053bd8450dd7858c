package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// openTime is how long the relay has for answering the lifeline.
const openTime = 15 * time.Second

// forwarder leads connections to a port of 127.0.0.1 on to a unix socket, byte by byte.
type forwarder struct {
	listener net.Listener
	socket   string
	ctx      context.Context // ends when the forwarder is closed
	cancel   context.CancelFunc
	wg       sync.WaitGroup // the accepting loop, and what it has started
}

// listen starts a forwarder; port 0 is any. It is to be closed.
func listen(port int, socket string) (*forwarder, error) {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("listen for codex: %w", err)
	}
	f := &forwarder{listener: l, socket: socket}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.wg.Go(f.accept)
	return f, nil
}

// close ends every connection, and returns when nothing of the forwarder runs any more.
func (f *forwarder) close() {
	f.cancel()
	_ = f.listener.Close()
	f.wg.Wait()
}

// accept takes connections until the listener is closed.
func (f *forwarder) accept() {
	for {
		c, err := f.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors: those that are in use become free
			select {
			case <-time.After(50 * time.Millisecond):
				continue
			case <-f.ctx.Done():
				return
			}
		}
		f.wg.Go(func() { f.forward(c.(*net.TCPConn)) })
	}
}

// forward leads one connection on until both directions have ended. Where one side has said all it has to say, the other is told so and may go on; where one is
// gone, so is the other. A client that cannot be led on is hung up on.
func (f *forwarder) forward(client *net.TCPConn) {
	defer client.Close()
	var d net.Dialer
	c, err := d.DialContext(f.ctx, "unix", f.socket)
	if err != nil {
		return
	}
	server := c.(*net.UnixConn)
	defer server.Close()
	hangUp := func() { _, _ = client.Close(), server.Close() }
	defer context.AfterFunc(f.ctx, hangUp)()
	copyTo := func(to interface {
		io.Writer
		CloseWrite() error
	}, from io.Reader) {
		if _, err := io.Copy(to, from); err != nil || to.CloseWrite() != nil {
			hangUp()
		}
	}
	var both sync.WaitGroup
	both.Go(func() { copyTo(server, client) })
	both.Go(func() { copyTo(client, server) })
	both.Wait()
}

// lifeline is the request that the relay answers for as long as this run is wanted.
type lifeline struct {
	ended  <-chan struct{} // closed when the answer has ended, for whatever reason
	cancel context.CancelFunc
}

// openLifeline asks the relay for one: GET /vega/lifeline with the run's key. The answer's status is 200, and its body goes on; what it holds does not matter.
// An error says that the relay is not there or does not know the run.
func openLifeline(ctx context.Context, socket, key string) (*lifeline, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	late := time.AfterFunc(openTime, func() { cancel(fmt.Errorf("no answer within %v", openTime)) })
	transport := &http.Transport{
		DisableCompression: true,
		DisableKeepAlives:  true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}
	refuse := func(err error) (*lifeline, error) {
		cancel(nil)
		return nil, fmt.Errorf("the worker's relay does not answer, or has given up the run: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://relay/vega/lifeline", nil)
	if err != nil {
		return refuse(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	resp, err := transport.RoundTrip(r) // follows no redirect
	if err == nil && resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		err = fmt.Errorf("HTTP %d", resp.StatusCode)
	}
	if err == nil && !late.Stop() {
		_ = resp.Body.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		return refuse(err)
	}
	ended := make(chan struct{})
	go func() { // ends with the answer, which cancel ends; close waits for it
		defer close(ended)
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}()
	return &lifeline{ended: ended, cancel: func() { cancel(nil) }}, nil
}

// close gives the lifeline up.
func (l *lifeline) close() {
	l.cancel()
	<-l.ended
}

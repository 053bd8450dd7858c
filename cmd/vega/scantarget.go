package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"vega/config"
)

// server is where a scan runs: in this process, in the process that holds the data folder, or elsewhere.
type server struct {
	*client
	exclude  []string // folders that are never packed
	borrowed bool     // another process's, which may end before we do
	close    func() error
}

func connectServer(ctx context.Context, made assembly, f scanFlags, dir string, stderr io.Writer) (*server, error) {
	if f.server != "" {
		u, err := url.Parse(f.server)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return nil, fmt.Errorf("--server is not an http or https URL")
		}
		token := os.Getenv("VEGA_TOKEN")
		if token == "" {
			return nil, errors.New("--server needs an access token or an API key in VEGA_TOKEN")
		}
		c := newClient(f.server, token)
		return &server{client: c, close: func() error { return nil }}, mayScan(ctx, c)
	}
	own, err := ownDotenv(dir)
	if err != nil {
		return nil, err
	}
	if own == "" {
		fmt.Fprintf(stderr, "vega: warning: %s in this folder is not read, because it may have come with what is scanned; export the settings that are yours\n", dotenv)
	}
	cfg, err := loadConfigWith(stderr, own)
	if err != nil {
		return nil, err
	}
	if err := useStateFolder(&cfg); err != nil {
		return nil, err
	}
	data, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	// Scans run right here, whatever a deployment that shares the settings does.
	cfg.ForOneProcess()
	// What goes wrong in a scan is in its coverage; the process's own log would say it once more, in the middle of the progress.
	cfg.LogLevel = max(cfg.LogLevel, slog.LevelError)
	if f.verbose {
		cfg.LogLevel = slog.LevelWarn
	}
	n, err := openAPINode(ctx, cfg, made, newLogger(cfg, stderr), nil)
	waiting := false
	for held, ok := errors.AsType[*lockedError](err); ok; held, ok = errors.AsType[*lockedError](err) {
		c := newClient(held.holder.URL+cfg.API.Prefix, "")
		lerr := c.login(ctx, cfg.Auth.DebugEmail, cfg.Auth.DebugPassword.Reveal())
		if lerr == nil {
			return &server{client: c, exclude: []string{data}, borrowed: true, close: func() error { return nil }}, nil
		}
		if refused, is := errors.AsType[*apiError](lerr); is && refused.Status < 500 {
			return nil, fmt.Errorf("process %d holds %s: %w", held.holder.PID, cfg.DataDir, lerr)
		}
		if !waiting {
			waiting = true
			fmt.Fprintf(stderr, "waiting for process %d, which holds %s\n", held.holder.PID, cfg.DataDir)
		}
		pause := time.NewTimer(100 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, ctx.Err()
		}
		n, err = openAPINode(ctx, cfg, made, newLogger(cfg, stderr), nil)
	}
	if err != nil {
		return nil, err
	}
	return startInside(ctx, n, data)
}

// ownDotenv is the .env of the current folder, or "" when the folder that is scanned holds the current one, lies in it, or is of the same checkout: whoever wrote the source could then name
// the program that is run for Codex, or the address that the provider's key is sent to.
func ownDotenv(dir string) (string, error) {
	if _, err := os.Lstat(dotenv); errors.Is(err, fs.ErrNotExist) {
		return dotenv, nil
	}
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	if here, err = filepath.EvalSymlinks(here); err != nil {
		return "", err
	}
	scanned, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	for _, pair := range [][2]string{{here, scanned}, {checkout(scanned), here}} {
		if rel, err := filepath.Rel(pair[0], pair[1]); err == nil && filepath.IsLocal(rel) {
			return "", nil
		}
	}
	return dotenv, nil
}

// checkout is the outermost folder around dir that git keeps something in, or dir.
func checkout(dir string) string {
	root := dir
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Lstat(filepath.Join(at, ".git")); err == nil {
			root = at
		}
		if at == filepath.Dir(at) {
			return root
		}
	}
}

// mayScan says before anything is sent whether the token is good for a scan: an API key may lack a scope that only its end would need.
func mayScan(ctx context.Context, c *client) error {
	var me struct {
		Key    string   `json:"api_key_id"`
		Scopes []string `json:"scopes"`
	}
	if err := c.call(ctx, http.MethodGet, "/auth/me", "", nil, &me); err != nil {
		return fmt.Errorf("VEGA_TOKEN: %w", err)
	}
	for _, need := range []string{"read", "scan"} {
		if me.Key != "" && !slices.Contains(me.Scopes, need) && !slices.Contains(me.Scopes, "admin") {
			return fmt.Errorf("VEGA_TOKEN: the API key %s was not made for %q; a scan needs the scopes read and scan", me.Key, need)
		}
	}
	return nil
}

// startInside runs the node in this process on a port of its own.
func startInside(ctx context.Context, n *apiNode, data string) (*server, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, joinClose(err, n)
	}
	// The node outlives ctx: a cancelled scan still has to be recorded as such.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ready := make(chan struct{})
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { ended <- n.run(running, l, func() { close(ready) }) })
	closeNode := func() error { stop(); wg.Wait(); return <-ended }
	select {
	case <-ready:
	case err := <-ended:
		stop()
		return nil, err
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), closeNode())
	}
	c := newClient("http://"+l.Addr().String()+n.cfg.API.Prefix, "")
	if err := c.login(ctx, n.cfg.Auth.DebugEmail, n.cfg.Auth.DebugPassword.Reveal()); err != nil {
		return nil, errors.Join(err, closeNode())
	}
	return &server{client: c, exclude: []string{data}, close: closeNode}, nil
}

// useStateFolder keeps the command line's state in the user's state folder, unless the configuration names a folder.
func useStateFolder(cfg *config.Config) error {
	derived := false
	for v := range cfg.Values() {
		switch {
		case v.Name == "VEGA_DATA_DIR" && v.Origin != config.OriginDefault:
			return nil
		case v.Name == "VEGA_V16_RUNTIME_ROOT":
			derived = v.Origin == config.OriginDerived
		}
	}
	state := os.Getenv("XDG_STATE_HOME")
	if state == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return fmt.Errorf("no folder to keep state in: %w; set VEGA_DATA_DIR", err)
		}
		state = filepath.Join(home, ".local", "state")
	}
	cfg.DataDir = filepath.Join(state, "vega")
	if derived {
		cfg.Engine.RuntimeRoot = filepath.Join(cfg.DataDir, "v16")
	}
	return nil
}

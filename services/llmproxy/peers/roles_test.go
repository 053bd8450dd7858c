package peers

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"vega/config/secret"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/llmproxy"
)

// This binary is every process of the benchmark but one. A role prints its address and ends with its standard input.
var (
	role       = flag.String("peers.role", "", "what this process is: provider, bare, vega, nats")
	upstream   = flag.String("peers.upstream", "", "the provider's base URL")
	natsURL    = flag.String("peers.nats", "", "the NATS server's URL")
	folder     = flag.String("peers.folder", "", "where NATS keeps its files")
	syncAlways = flag.Bool("peers.sync", false, "NATS syncs every write")
)

const (
	providerKey = "sk-of-the-provider"
	tokenSecret = "the secret of the benchmark's tokens"
)

func TestMain(m *testing.M) {
	flag.Parse()
	roles := map[string]func(context.Context) error{"provider": provide, "bare": bare, "vega": vega, "nats": nats}
	play, ok := roles[*role]
	if !ok {
		os.Exit(m.Run())
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until the benchmark ends
		stop()
	}()
	if err := play(ctx); err != nil {
		fmt.Fprintln(os.Stderr, *role+":", err)
		os.Exit(1)
	}
}

// ready tells the benchmark the address.
func ready(url string) { fmt.Fprintln(os.Stdout, url) }

func listen() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }

// serve answers with h until ctx ends.
func serve(ctx context.Context, h http.Handler) error {
	l, err := listen()
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	ready("http://" + l.Addr().String())
	if err := srv.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// provide is the provider: it answers at once, or as slowly as it is told.
func provide(ctx context.Context) error {
	const usage = `"usage":{"input_tokens":9000,"input_tokens_details":{"cached_tokens":8000},"output_tokens":500,"output_tokens_details":{"reasoning_tokens":100},"total_tokens":9500}`
	whole := `{"id":"resp_1","object":"response","status":"completed","model":"gpt-5.4","output":[{"type":"message","role":"assistant","content":[{"type":"output_text","text":"` +
		strings.Repeat("words ", 300) + `"}]}],` + usage + `}`
	var stream [][]byte
	event := func(kind, rest string) {
		stream = append(stream, fmt.Appendf(nil, "event: %s\ndata: {\"type\":%q,%s}\n\n", kind, kind, rest))
	}
	event("response.created", `"response":{"id":"resp_1","object":"response","status":"in_progress","model":"gpt-5.4","output":[]}`)
	for range streamed - 3 {
		event("response.output_text.delta", `"item_id":"msg_1","output_index":0,"content_index":0,"delta":"a few words of the answer, "`)
	}
	event("response.output_item.done", `"output_index":0,"item":{"type":"message","role":"assistant","content":[{"type":"output_text","text":"`+strings.Repeat("words ", 200)+`"}]}`)
	event("response.completed", `"response":{"id":"resp_1","object":"response","status":"completed","model":"gpt-5.4","output":[],`+usage+`}`)
	return serve(ctx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the agent is gone
		}
		asked, _, _ := bytes.Cut(body, []byte(". You are")) // the way is named just before
		_, kind, _ := bytes.Cut(asked, []byte(`"instructions":"`))
		if string(kind) == answerJSON {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, whole)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		flush := http.NewResponseController(w).Flush
		var pace <-chan time.Time
		events := stream
		if string(kind) == answerPaced {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			pace, events = tick.C, append(stream[:5:5], stream[streamed-2:]...)
		}
		for _, e := range events {
			if _, err := w.Write(e); err != nil || flush() != nil {
				return
			}
			if pace != nil {
				<-pace
			}
		}
	}))
}

// bare is the least that a proxy in Go does.
func bare(ctx context.Context) error {
	to, err := url.Parse(*upstream)
	if err != nil {
		return err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Header.Set("Authorization", "Bearer "+providerKey)
		},
		FlushInterval: -1,
		Transport:     &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
	}
	return serve(ctx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Otherwise the server closes the request's body when the answer begins, and the transport, if it has not seen the body's end yet, breaks the answer off:
		// some streams, with a provider this fast.
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			panic(err) // of a server that cannot
		}
		proxy.ServeHTTP(w, r)
	}))
}

// vega is our proxy, as its role runs it: with the log, all caps, and its own server. The caps are too high to be reached.
func vega(ctx context.Context) error {
	debug.SetGCPercent(200)
	nc, err := eventstore.Connect(*natsURL, "")
	if err != nil {
		return err
	}
	defer nc.Close()
	store, err := eventstore.Open(ctx, nc, eventstore.Options{Region: natstest.Region, SyncAlways: *syncAlways})
	if err != nil {
		return err
	}
	defer store.Close()
	proxy, err := llmproxy.New(llmproxy.Config{
		AuthSecret: secret.New(tokenSecret), ProviderBaseURL: *upstream + "/v1", ProviderAPIKey: secret.New(providerKey),
		MaxRequestsPerScan: 1 << 40, MaxTokensPerScan: 1 << 50, MaxCostPerScan: 1 << 60, MaxInFlightPerScan: 64,
	}, llmproxy.Parts{Store: store, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	l, err := listen()
	if err != nil {
		return err
	}
	watching := make(chan error, 1)
	go func() { watching <- proxy.Run(ctx) }()
	ready("http://" + l.Addr().String())
	if err := proxy.Serve(ctx, l, proxy, time.Second); err != nil {
		return err
	}
	return <-watching
}

// nats is the server of the log, which others reach over TCP.
func nats(ctx context.Context) error {
	s, err := server.NewServer(&server.Options{
		ServerName: "bench", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: *folder, SyncAlways: *syncAlways,
		JetStreamMaxStore: 1 << 40, JetStreamMaxMemory: 256 << 20, MaxPayload: 8 << 20,
	})
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		return fmt.Errorf("NATS is not ready")
	}
	ready(s.ClientURL())
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

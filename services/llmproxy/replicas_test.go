package llmproxy

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vega/config/secret"
	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/llmproxy/price"
	"vega/services/llmproxy/providertest"
)

// The test binary is also a proxy process: it is one when this variable is set.
const envReplica = "TEST_LLM_PROXY"

// replicaConfig is what such a process is told.
type replicaConfig struct {
	NATS, Provider, Key string
	Requests, Tokens    int64
	Cost                price.NanoUSD
	InFlight            int
	CallTimeout         time.Duration
}

func TestMain(m *testing.M) {
	text := os.Getenv(envReplica)
	if text == "" {
		os.Exit(m.Run())
	}
	if err := beReplica(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func beReplica(text string) error {
	var c replicaConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	nc, err := eventstore.Connect(c.NATS, "")
	if err != nil {
		return err
	}
	defer nc.Close()
	store, err := eventstore.Open(context.Background(), nc, eventstore.Options{Region: natstest.Region})
	if err != nil {
		return err
	}
	defer store.Close()
	p, err := New(Config{AuthSecret: secret.New(tokenSecret), ProviderBaseURL: c.Provider, ProviderAPIKey: secret.New(c.Key), MaxRequestsPerScan: c.Requests, MaxTokensPerScan: c.Tokens,
		MaxCostPerScan: c.Cost, MaxInFlightPerScan: c.InFlight, TotalTimeout: c.CallTimeout}, Parts{Store: store, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("http://" + l.Addr().String())
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // the test's end
		stop()
	}()
	var watching sync.WaitGroup
	watching.Go(func() { _ = p.Run(ctx) })
	defer watching.Wait()
	return p.Serve(ctx, l, p, time.Second)
}

// process is a proxy in a process of its own.
type process struct {
	url string
	cmd *exec.Cmd
}

// kill ends it without a chance to say anything.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func startReplica(t *testing.T, c replicaConfig) *process {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = []string{envReplica + "=" + string(text)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait() // a killed one ends with an error
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the replica did not start: %v", err)
	}
	return &process{strings.TrimSpace(line), cmd}
}

// A thousand calls at once over three processes, under each cap. What the provider counted is what the log counted, and no cap is exceeded.
func TestCapsHoldOverReplicas(t *testing.T) {
	t.Parallel()
	const each, replicas = 334, 3
	for name, c := range map[string]struct {
		replicaConfig
		own     *events.Budget // of the scan; what is smaller holds
		exactly int            // calls; 0: as many as fit
	}{
		"requests":               {replicaConfig{Requests: 100}, &events.Budget{Requests: 101, Tokens: 1 << 40}, 100},
		"tokens":                 {replicaConfig{Tokens: 30_000}, nil, 0},
		"cost":                   {replicaConfig{Cost: 200_000_000}, nil, 0},
		"the scan's own request": {replicaConfig{Requests: 150, Tokens: 1 << 40}, &events.Budget{Requests: 70}, 70},
		"the scan's own cost":    {replicaConfig{Cost: 400_000_000}, &events.Budget{CostNanoUSD: 100_000_000}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex // guards told
			var told events.Usage
			provider := providertest.Start(t, func(n int, r providertest.Recorded) providertest.Answer {
				// From almost nothing to the most that a tokeniser and the limit allow.
				var limits struct {
					Most int64 `json:"max_output_tokens"`
				}
				if err := json.Unmarshal(r.Body, &limits); err != nil || limits.Most <= 0 {
					t.Errorf("request %d has the output limit %d, %v", n, limits.Most, err)
				}
				u := providertest.Usage{Input: int64(1 + (n*7919)%len(callBody)), Output: 1 + int64(n*104729)%min(limits.Most, 600)}
				mu.Lock()
				defer mu.Unlock()
				told = told.Plus(events.Usage{Requests: 1, InputTokens: u.Input, OutputTokens: u.Output})
				return providertest.Text("hello", u)
			})
			url := natstest.Listen(t)
			b := &bench{t: t, store: natstest.OpenOver(t, natstest.Dial(t, url)), tokens: tokensOf(t)}
			token := b.token(b.attemptWithin(theScan, c.own))
			c.NATS, c.Provider, c.Key, c.InFlight, c.CallTimeout = url, provider.URL, provider.Key, 1000, time.Hour
			var calling sync.WaitGroup
			var denied, passed int
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: each}}
			defer client.CloseIdleConnections()
			for range replicas {
				p := startReplica(t, c.replicaConfig)
				for range each {
					calling.Go(func() {
						status, body := post(t, client, p.url+"/v1/responses", token, callBody)
						mu.Lock()
						defer mu.Unlock()
						switch {
						case status == http.StatusOK:
							passed++
						case status == http.StatusBadRequest && strings.Contains(body, "vega_scan_cap_exceeded"):
							denied++
						default:
							t.Errorf("answered %d %s", status, body)
						}
					})
				}
			}
			calling.Wait()
			u, _ := b.usage()
			got := u.Settled
			got.CostNanoUSD = 0
			if got != told || int64(passed) != told.Requests || passed+denied != each*replicas {
				t.Errorf("%d passed, %d denied; the log has %+v, the provider counted %+v", passed, denied, u.Settled, told)
			}
			if c.exactly > 0 && len(provider.Requests()) != c.exactly {
				t.Errorf("%d calls reached the provider, want %d", len(provider.Requests()), c.exactly)
			}
			caps := Caps{Tokens: c.Tokens, Cost: c.Cost}
			if own := c.own; own != nil {
				caps = Caps{Tokens: cmp.Or(own.Tokens, c.Tokens), Cost: cmp.Or(price.NanoUSD(own.CostNanoUSD), c.Cost)}
			}
			if over := u.Settled.Tokens() - caps.Tokens; caps.Tokens > 0 && over > 0 {
				t.Errorf("%d tokens over the cap", over)
			}
			if over := u.Settled.CostNanoUSD - int64(caps.Cost); caps.Cost > 0 && over > 0 {
				t.Errorf("%s US dollars over the cap", price.NanoUSD(over))
			}
			t.Logf("%d calls, %d tokens of %d, %s US dollars of %s", passed, u.Settled.Tokens(), caps.Tokens, price.NanoUSD(u.Settled.CostNanoUSD), caps.Cost)
		})
	}
}

// On three servers whose leader changes in the middle, calls may be turned away, but none is made beyond the cap, and each that was made is in the log.
func TestCapsHoldOnAClusterThatElects(t *testing.T) {
	t.Parallel()
	const capped = 40
	provider := providertest.Start(t, providertest.Always(providertest.Text("hello", cost)))
	cluster := natstest.Cluster(t, 3)
	b := &bench{t: t, store: cluster.Open(), tokens: tokensOf(t)}
	token := b.token(b.attempt(theScan))
	c := replicaConfig{NATS: cluster.URL(), Provider: provider.URL, Key: provider.Key, Requests: capped, InFlight: 32, CallTimeout: time.Hour}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	defer client.CloseIdleConnections()
	var calling sync.WaitGroup
	for range 3 {
		p := startReplica(t, c)
		for range 8 {
			calling.Go(func() {
				for range 200 { // far more than it takes to be denied
					if status, body := post(t, client, p.url+"/v1/responses", token, callBody); status == http.StatusBadRequest {
						if !strings.Contains(body, "vega_scan_cap_exceeded") {
							t.Errorf("refused with %s", body)
						}
						return
					}
				}
				t.Error("never denied")
			})
		}
	}
	provider.Wait(capped / 4)
	if err := cluster.StepDown(t.Context()); err != nil {
		t.Error(err)
	}
	calling.Wait()
	if u, _ := b.usage(); u.Settled.Requests != int64(len(provider.Requests())) || len(provider.Requests()) != capped {
		t.Errorf("%d calls reached the provider, the log has %+v, want %d", len(provider.Requests()), u.Settled, capped)
	}
}

const callBody = `{"model":"gpt-5.4","input":"a question that is as long as it is","stream":true}`

func TestAKilledReplicasCallsAreCharged(t *testing.T) {
	t.Parallel()
	never := make(chan struct{})
	provider := providertest.Start(t, providertest.InTurn(
		providertest.Stream(providertest.Created(), providertest.Pause(never)),
		providertest.Text("hello", cost)))
	url := natstest.Listen(t)
	b := &bench{t: t, store: natstest.OpenOver(t, natstest.Dial(t, url)), tokens: tokensOf(t)}
	token := b.token(b.attempt(theScan))
	c := replicaConfig{NATS: url, Provider: provider.URL, Key: provider.Key, Requests: 2, InFlight: 4, CallTimeout: time.Hour}
	first, second := startReplica(t, c), startReplica(t, c)
	b.url = first.url
	_, br := b.open(t.Context(), token)
	first.kill()
	if _, err := io.ReadAll(br); err == nil {
		t.Error("the stream of a killed proxy ended well")
	}
	spent, err := Spent(t.Context(), b.store, theScan)
	if err != nil || spent.Requests != 1 || spent.OutputTokens != 32768 {
		t.Errorf("spent %+v, %v, with a call open", spent, err)
	}
	b.url = second.url
	if res, body := b.call("POST", "/v1/responses", token, asked); res.StatusCode != 200 {
		t.Errorf("the second call is answered %d %s", res.StatusCode, body)
	}
	res, body := b.call("POST", "/v1/responses", token, asked)
	b.refused(res, body, 400, "vega_scan_cap_exceeded")
	now := time.Now().UTC()
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{30 * time.Minute, 0}, {2 * time.Hour, 1}, {2 * time.Hour, 0}} {
		if n, err := ChargeLost(t.Context(), b.store, theScan, now.Add(c.after)); err != nil || n != c.want {
			t.Errorf("after %s %d calls are charged, %v; want %d", c.after, n, err, c.want)
		}
	}
	u, _ := b.usage()
	if want := said.Plus(spent); u.Settled != want {
		t.Errorf("in the end %+v, want %+v", u.Settled, want)
	}
}

const tokenSecret = "a secret of tokens"

func tokensOf(t *testing.T) Tokens {
	t.Helper()
	tokens, err := NewTokens(secret.New(tokenSecret), secret.String{})
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func post(t *testing.T, client *http.Client, url, token, body string) (int, string) {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	r.Header.Set("Authorization", "Bearer "+token)
	res, err := client.Do(r)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return res.StatusCode, string(got)
}

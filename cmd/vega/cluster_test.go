package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"vega/events/eventstore"
)

// natsCluster is three NATS servers, each a process of its own.
type natsCluster struct {
	t     testing.TB
	nodes []*natsNode
}

type natsNode struct {
	dir  string
	port int // for clients
	env  []string
	cmd  *exec.Cmd
}

// startCluster starts three servers and waits until they agree on a leader.
func startCluster(t testing.TB) *natsCluster {
	t.Helper()
	c := &natsCluster{t: t}
	ports := freePorts(t, 6)
	var routes []string
	for _, p := range ports[3:] {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", p))
	}
	for i := range 3 {
		n := &natsNode{dir: t.TempDir(), port: ports[i]}
		// Clients come through proxies, so the servers do not tell them of each other.
		text := fmt.Sprintf(`server_name: n%d
listen: "127.0.0.1:%d"
max_payload: 8MB
jetstream { store_dir: %q, max_mem: 256MB, max_file: 20GB }
cluster { name: vega, listen: "127.0.0.1:%d", no_advertise: true, routes: [%s] }
`, i, n.port, n.dir, ports[3+i], strings.Join(routes, ", "))
		if err := os.WriteFile(filepath.Join(n.dir, "nats.conf"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c.nodes = append(c.nodes, n)
	}
	t.Cleanup(func() {
		for i := range c.nodes {
			c.kill(i)
		}
	})
	for i := range c.nodes {
		c.start(i)
	}
	untilLed(t, c.url())
	return c
}

// untilLed waits until the servers of a cluster agree on who leads it, and let the one who asks in.
func untilLed(t testing.TB, url string) {
	t.Helper()
	until(t, time.Minute, "the cluster has a leader", func() bool {
		nc, err := nats.Connect(url)
		if err != nil {
			return false
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			return false
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = js.AccountInfo(ctx)
		return err == nil
	})
}

func (c *natsCluster) start(i int) {
	n := c.nodes[i]
	if n.cmd != nil {
		return
	}
	n.cmd = exec.Command(filepath.Join("..", "..", ".tools", "nats-server"), "-c", filepath.Join(n.dir, "nats.conf"), "-l", filepath.Join(n.dir, "log"))
	n.cmd.Env = n.env
	if err := n.cmd.Start(); err != nil {
		c.t.Fatalf("start NATS (scripts/test-deps.sh test installs it): %v", err)
	}
}

func (c *natsCluster) kill(i int) {
	if n := c.nodes[i]; n.cmd != nil {
		_ = n.cmd.Process.Kill()
		_ = n.cmd.Wait()
		n.cmd = nil
	}
}

func (c *natsCluster) url() string {
	var all []string
	for _, n := range c.nodes {
		all = append(all, fmt.Sprintf("nats://127.0.0.1:%d", n.port))
	}
	return strings.Join(all, ",")
}

// leader is the server that leads the event stream, or 0 when that cannot be told.
func (c *natsCluster) leader() int {
	nc, err := nats.Connect(c.url())
	if err != nil {
		return 0
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Second)
	defer cancel()
	st, err := js.Stream(ctx, eventstore.StreamName("local"))
	if err != nil || st.CachedInfo().Cluster == nil {
		return 0
	}
	for i := range c.nodes {
		if st.CachedInfo().Cluster.Leader == fmt.Sprintf("n%d", i) {
			return i
		}
	}
	return 0
}

// current says that every server has all of the event stream.
func (c *natsCluster) current() bool {
	nc, err := nats.Connect(c.url())
	if err != nil {
		return false
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Second)
	defer cancel()
	st, err := js.Stream(ctx, eventstore.StreamName("local"))
	if err != nil || st.CachedInfo().Cluster == nil || len(st.CachedInfo().Cluster.Replicas) != 2 {
		return false
	}
	for _, r := range st.CachedInfo().Cluster.Replicas {
		if r.Offline || !r.Current {
			return false
		}
	}
	return true
}

// wire is one process's way to the cluster: a proxy for each server, which can be cut and slowed down.
type wire struct{ proxies []*toxiproxy.Proxy }

func newWire(t testing.TB, c *natsCluster) *wire {
	t.Helper()
	api := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	w := &wire{}
	for i, n := range c.nodes {
		p := toxiproxy.NewProxy(api, fmt.Sprint("n", i), "127.0.0.1:0", fmt.Sprintf("127.0.0.1:%d", n.port))
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Stop)
		w.proxies = append(w.proxies, p)
	}
	return w
}

func (w *wire) url() string {
	var all []string
	for _, p := range w.proxies {
		all = append(all, "nats://"+p.Listen)
	}
	return strings.Join(all, ",")
}

// cut closes every connection and takes no new ones.
func (w *wire) cut() {
	for _, p := range w.proxies {
		p.Stop()
	}
}

// slow delays every byte in both directions; black holds them back without closing anything.
func (w *wire) slow(d time.Duration) {
	w.add("latency", fmt.Sprintf(`"latency":%d,"jitter":%d`, d.Milliseconds(), d.Milliseconds()/4))
}
func (w *wire) black() { w.add("timeout", `"timeout":0`) }

func (w *wire) add(kind, attributes string) {
	for _, p := range w.proxies {
		for _, stream := range []string{"upstream", "downstream"} {
			// It fails only for a toxic that is there already.
			_, _ = p.Toxics.AddToxicJson(bytes.NewReader([]byte(fmt.Sprintf(`{"name":"%s-%s","type":%q,"stream":%q,"attributes":{%s}}`, kind, stream, kind, stream, attributes))))
		}
	}
}

// mend undoes all of that.
func (w *wire) mend() {
	for _, p := range w.proxies {
		p.Toxics.ResetToxics(context.Background())
		if !p.Enabled {
			_ = p.Start() // it fails only when it runs
		}
	}
}

// freePorts are ports of loopback that nobody listens on now.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// until asks again and again until cond holds; limit bounds what never happens.
func until(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for !cond() {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// process is one vega process that a test kills, stops and starts again.
type process struct {
	t    testing.TB
	name string
	dir  string
	env  []string
	args []string
	cmd  *exec.Cmd
	log  *os.File
	from int64 // where the log of this start begins
}

func newProcess(t testing.TB, name, dir string, env []string, args ...string) *process {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, name: name, dir: dir, env: env, args: args, log: log}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			if b, err := os.ReadFile(log.Name()); err == nil {
				t.Logf("the last of %s's log:\n%s", name, b[max(0, len(b)-6000):])
			}
		}
		_ = log.Close()
	})
	return p
}

func (p *process) start() {
	if p.cmd != nil {
		return
	}
	if st, err := p.log.Stat(); err == nil {
		p.from = st.Size()
	}
	p.cmd = command(p.t, p.dir, p.env, p.args...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", p.name, err)
	}
}

// up waits until it has said that it is ready.
func (p *process) up() {
	p.t.Helper()
	until(p.t, time.Minute, p.name+" is ready", func() bool {
		b, err := os.ReadFile(p.log.Name())
		return err == nil && bytes.Contains(b[p.from:], []byte(`"ready"`))
	})
}

// kill ends it at once.
func (p *process) kill() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		p.cmd = nil
	}
}

// stop asks it to end and waits; it returns what it ended with.
func (p *process) stop() error {
	if p.cmd == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	err := p.cmd.Wait()
	p.cmd = nil
	return err
}

func (p *process) signal(s syscall.Signal) {
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(s) // it may have ended
	}
}

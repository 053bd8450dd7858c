// Package pgtest gives tests a real Postgres: a throwaway server on this machine, reached by a socket and on 127.0.0.1, that is killed and started
// again when a test says so and dies with the test process.
//
// [Shared] is one server for all tests of a package, a database of its own for each; [Start] is one that a test may kill. Both need Debian's package
// postgresql, which scripts/test-deps.sh test installs; a test that cannot find it fails.
package pgtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Role is who the tests are to the server: an ordinary role that owns its databases. Password is what it signs in with over TCP.
const (
	Role     = "vega"
	Password = "pgtest-pa55/word"
)

// Options of a server.
type Options struct {
	// Settings are added to those that make a server quick, such as "max_connections=5". With "fsync=on" it is as safe as one in production.
	Settings []string
	// TLS makes it take TLS connections with a certificate that it signed itself; Certificate names the file.
	TLS bool
}

// Server is a running Postgres, or one that Kill has ended.
type Server struct {
	dir       string
	settings  []string
	as        *syscall.Credential
	port      int
	databases atomic.Int64

	mu    sync.Mutex // guards what follows; held while the server starts or ends
	pid   int        // 0: it does not run
	ended chan struct{}

	waiter sync.WaitGroup
}

// Start makes and starts a server, and stops and removes it when the test ends.
func Start(tb testing.TB, o Options) *Server {
	tb.Helper()
	s, err := start(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.remove(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// shared is the server of Shared. It is started once, by the first test that asks.
var shared = sync.OnceValues(func() (*Server, error) { return start(Options{}) })

// asked says that shared was started.
var asked atomic.Bool

// Shared returns the server that all tests of a package use. The package's TestMain calls Main.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	asked.Store(true)
	s, err := shared()
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// Main runs the tests, stops the shared server and returns the exit code: os.Exit(pgtest.Main(m.Run)).
func Main(run func() int) int {
	code := run()
	if !asked.Load() {
		return code
	}
	if s, err := shared(); err == nil && s.remove() != nil && code == 0 {
		return 1
	}
	return code
}

// quick settings lose nothing when processes are killed, and everything when the machine is.
var quick = []string{
	"fsync=off", "full_page_writes=off", "shared_buffers=64MB", "max_wal_size=2GB", "max_connections=200", "jit=off", "autovacuum_naptime=10s",
	"log_min_messages=panic", "log_min_error_statement=panic", "wal_sender_timeout=5s", "max_locks_per_transaction=128",
}

func start(o Options) (s *Server, err error) {
	dir, err := os.MkdirTemp("", "vega-pg-") // not tb.TempDir: the server's own user must get there
	if err != nil {
		return nil, err
	}
	s = &Server{dir: dir, settings: append(append([]string{}, quick...), o.Settings...)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.remove())
		}
	}()
	if s.as, err = serverUser(dir); err != nil {
		return s, err
	}
	if err := s.command("initdb", "-D", s.data(), "--auth-local=trust", "--auth-host=trust", "-U", "postgres", "--no-sync", "--no-locale", "-E", "UTF8"); err != nil {
		return s, err
	}
	hba := "local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
	if err := s.write("pg_hba.conf", []byte(hba)); err != nil {
		return s, err
	}
	if o.TLS {
		if err := s.makeCertificate(); err != nil {
			return s, err
		}
		s.settings = append(s.settings, "ssl=on")
	}
	if err := s.run(); err != nil {
		return s, err
	}
	return s, s.Exec(context.Background(), "postgres", "create role "+Role+" login password '"+Password+"'")
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// write puts a file that the server's user owns into the data folder.
func (s *Server) write(name string, content []byte) error {
	path := filepath.Join(s.data(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return err
	}
	if s.as == nil {
		return nil
	}
	return os.Chown(path, int(s.as.Uid), int(s.as.Gid))
}

// command runs one of the server's programs to its end.
func (s *Server) command(name string, args ...string) error {
	cmd, err := s.prepare(name, args...)
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

func (s *Server) prepare(name string, args ...string) (*exec.Cmd, error) {
	path, err := binary(name)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.SysProcAttr = s.dir, &syscall.SysProcAttr{Credential: s.as, Pdeathsig: syscall.SIGQUIT}
	return cmd, nil
}

// run starts the server's process and waits until it answers. The port is chosen at the first start and kept.
func (s *Server) run() error {
	for try := 0; ; try++ {
		if s.port == 0 || try > 0 { // another process may have taken it
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			s.port = l.Addr().(*net.TCPAddr).Port
			if err := l.Close(); err != nil {
				return err
			}
		}
		err := s.runOn()
		if err == nil || try == 3 {
			return err
		}
	}
}

func (s *Server) runOn() error {
	args := []string{"-D", s.data(), "-k", s.dir, "-p", strconv.Itoa(s.port), "-c", "listen_addresses=127.0.0.1"}
	for _, o := range s.settings {
		args = append(args, "-c", o)
	}
	cmd, err := s.prepare("postgres", args...)
	if err != nil {
		return err
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return err
	}
	s.pid, s.ended = cmd.Process.Pid, make(chan struct{})
	s.waiter.Go(func() { // it ends with the server
		defer close(s.ended)
		_ = cmd.Wait() // how it ended is the business of who ended it
	})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		err := s.Exec(ctx, "postgres", "select 1")
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			s.pid = 0
			return fmt.Errorf("postgres ended: %s", said.String())
		case <-ctx.Done():
			return fmt.Errorf("postgres is not ready: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Kill ends the server and all its processes with SIGKILL: what was not written to its files by then is lost as in a crash.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pid == 0 {
		return
	}
	// The server's own processes outlive it for a moment, and while one does it cannot start again.
	out, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.pid, s.pid))
	if err != nil {
		tb.Fatal(err)
	}
	s.end(syscall.SIGKILL)
	for child := range strings.FieldsSeq(string(out)) {
		if pid, err := strconv.Atoi(child); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
}

// Restart starts a server that was killed or stopped; on the same port and files.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for begun := time.Now(); ; {
		err := s.runOn()
		if err == nil {
			return
		}
		if time.Since(begun) > 20*time.Second { // a process of the killed server may still hold its memory
			tb.Fatal(err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// Stop ends the server in order: its clients' connections are cut, what it has is written.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(syscall.SIGINT)
}

// end sends a signal and waits for the server's end.
func (s *Server) end(sig syscall.Signal) {
	if s.pid == 0 {
		return
	}
	_ = syscall.Kill(s.pid, sig) // it may have ended by itself
	<-s.ended
	s.pid = 0
}

func (s *Server) remove() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(syscall.SIGQUIT)
	return os.RemoveAll(s.dir)
}

// Database makes an empty database that belongs to Role, drops it when the test ends, and returns its address on 127.0.0.1.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	name := "test_" + strconv.FormatInt(s.databases.Add(1), 10)
	if err := s.Exec(tb.Context(), "postgres", "create database "+name+" owner "+Role); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		// A test that killed the server need not start it for this.
		_ = s.Exec(context.Background(), "postgres", "drop database "+name+" with (force)")
	})
	return s.URL(name)
}

// URL is a database's address on 127.0.0.1 for Role.
func (s *Server) URL(database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(Role, Password), Host: s.Addr(), Path: "/" + database}
	return u.String()
}

// Addr is where the server listens, host:port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// SocketURL is the address over the server's socket of the database that a URL names, for Role, whose password it does not ask for.
func (s *Server) SocketURL(tb testing.TB, address string) string {
	tb.Helper()
	return fmt.Sprintf("postgres:///%s?host=%s&port=%d&user=%s", DatabaseOf(tb, address), url.QueryEscape(s.dir), s.port, Role)
}

// DatabaseOf is the database's name in an address.
func DatabaseOf(tb testing.TB, address string) string {
	tb.Helper()
	u, err := url.Parse(address)
	if err != nil {
		tb.Fatal(err)
	}
	return strings.TrimPrefix(u.Path, "/")
}

// Exec runs SQL in a database as the server's administrator.
func (s *Server) Exec(ctx context.Context, database, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=postgres dbname=%s sslmode=disable", s.dir, s.port, database))
	if err != nil {
		return err
	}
	_, err = c.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	return errors.Join(err, c.Close(ctx))
}

// Replica starts a copy that follows the server and only reads, and stops and removes it when the test ends.
func (s *Server) Replica(tb testing.TB) *Server {
	tb.Helper()
	dir, err := os.MkdirTemp("", "vega-pg-")
	if err != nil {
		tb.Fatal(err)
	}
	r := &Server{dir: dir, settings: append([]string{"hot_standby=on", "max_standby_streaming_delay=1s", "wal_retrieve_retry_interval=50ms"}, s.settings...)}
	tb.Cleanup(func() {
		if err := r.remove(); err != nil {
			tb.Error(err)
		}
	})
	if r.as, err = serverUser(dir); err == nil {
		err = r.command("pg_basebackup", "-D", r.data(), "-h", s.dir, "-p", strconv.Itoa(s.port), "-U", "postgres", "-R", "-X", "stream", "-c", "fast", "--no-sync")
	}
	if err == nil {
		err = r.run()
	}
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// Certificate is the file with the certificate that a server with TLS shows, for the name localhost and 127.0.0.1.
func (s *Server) Certificate() string { return filepath.Join(s.dir, "server.crt") }

// makeCertificate makes a key and a certificate that it signs itself.
func (s *Server) makeCertificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})
	return errors.Join(
		s.write("server.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
		s.write("server.crt", public),
		os.WriteFile(s.Certificate(), public, 0o644), // readable by the tests, which may be another user
	)
}

// serverUser is the user that owns dir and runs the server, which refuses root; nil means this process's own.
func serverUser(dir string) (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uerr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gerr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uerr, gerr); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, os.Chown(dir, int(uid), int(gid))
	}
	return nil, errors.New("postgres does not run as root, and there is neither a user postgres nor nobody")
}

// binary finds one of the server's programs, which Debian keeps off the PATH.
func binary(name string) (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name) // the pattern is well formed
	if len(found) > 0 {
		return found[len(found)-1], nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w; scripts/test-deps.sh test installs it", err)
	}
	return path, nil
}

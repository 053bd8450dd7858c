package peers

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// server is a throwaway Postgres on a socket of its own. It syncs as a production server does; whether a commit waits for that is each connection's choice.
type server struct {
	dir       string
	databases int
}

// settings make it fast on a small machine without making it less safe: enough memory, no checkpoint in the middle of a measurement.
var settings = []string{
	"listen_addresses=", "fsync=on", "full_page_writes=on", "max_connections=300", "shared_buffers=1GB", "wal_buffers=64MB", "max_wal_size=8GB", "min_wal_size=1GB",
	"checkpoint_timeout=1h", "jit=off", "autovacuum_naptime=5s", "autovacuum_vacuum_cost_delay=0", "log_min_messages=panic", "log_checkpoints=off",
}

// startPostgres makes and starts a server, and stops and removes it when the benchmark ends.
func startPostgres(b *testing.B) *server {
	b.Helper()
	dir, err := os.MkdirTemp("", "vega-peers-") // not b.TempDir: the server's own user must get there
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	as := serverUser(b, dir)
	data := filepath.Join(dir, "data")
	run := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(postgresBinary(b, name), args...)
		cmd.Dir, cmd.SysProcAttr = dir, &syscall.SysProcAttr{Credential: as, Pdeathsig: syscall.SIGQUIT}
		return cmd
	}
	if out, err := run("initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync", "--no-locale", "-E", "UTF8").CombinedOutput(); err != nil {
		b.Fatalf("initdb: %v\n%s", err, out)
	}
	args := []string{"-D", data, "-k", dir}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	cmd := run("postgres", args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT) // a fast shutdown; it fails only when the server has ended
		if err := cmd.Wait(); err != nil {
			b.Errorf("postgres: %v", err)
		}
	})
	s := &server{dir: dir}
	for begun := time.Now(); ; {
		err := s.ping(b.Context())
		if err == nil {
			return s
		}
		if time.Since(begun) > 30*time.Second {
			b.Fatalf("postgres is not ready: %v", err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// serverUser is the user that owns dir and runs the server, which refuses root; nil means this process's own.
func serverUser(b *testing.B, dir string) *syscall.Credential {
	b.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uerr := strconv.Atoi(u.Uid)
		gid, gerr := strconv.Atoi(u.Gid)
		if err := errors.Join(uerr, gerr, os.Chown(dir, uid, gid)); err != nil {
			b.Fatal(err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	b.Fatal("postgres does not run as root, and there is neither a user postgres nor nobody")
	return nil
}

// postgresBinary finds one of the server's programs, which Debian keeps off the PATH.
func postgresBinary(b *testing.B, name string) string {
	b.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name) // the pattern is well formed
	if len(found) > 0 {
		return found[len(found)-1]
	}
	path, err := exec.LookPath(name)
	if err != nil {
		b.Fatalf("%v; scripts/test-deps.sh bench installs it", err)
	}
	return path
}

func (s *server) ping(ctx context.Context) error {
	pool, err := s.connect(ctx, "postgres", 1, true)
	if err != nil {
		return err
	}
	defer pool.Close()
	return pool.Ping(ctx)
}

// connect opens a pool whose commits wait for the disk, or do not: then they survive the server's death, not the machine's.
func (s *server) connect(ctx context.Context, database string, connections int32, powerSafe bool) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig("host=" + s.dir + " user=postgres dbname=" + database)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns, cfg.MinConns = connections, connections
	if !powerSafe {
		cfg.ConnConfig.RuntimeParams["synchronous_commit"] = "off"
	}
	return pgxpool.NewWithConfig(ctx, cfg)
}

// database makes an empty one and returns a pool on it, as large as was fastest for River and the plain queue: commits that wait for the disk share a
// sync, so many connections help; otherwise they only take the processors from each other.
func (s *server) database(b *testing.B, powerSafe bool) *pgxpool.Pool {
	b.Helper()
	connections := int32(16)
	if powerSafe {
		connections = slots
	}
	s.databases++
	name := "bench" + strconv.Itoa(s.databases)
	admin, err := s.connect(b.Context(), "postgres", 1, true)
	if err == nil {
		_, err = admin.Exec(b.Context(), "create database "+name)
		admin.Close()
	}
	if err != nil {
		b.Fatal(err)
	}
	pool, err := s.connect(b.Context(), name, connections, powerSafe)
	if err != nil {
		b.Fatal(err)
	}
	return pool
}

package api

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"vega/config/secret"
	"vega/projections"
	"vega/projections/jsonfile"
	"vega/projections/pgtest"
	"vega/projections/postgres"
	"vega/services/files"
	"vega/services/files/s3test"
	"vega/services/intake"
)

// over is what the worlds of this run stand on: "laptop", JSON files and a folder, or "servers", Postgres and S3. Without it the whole suite runs on both,
// one after the other.
var over = flag.String("over", "", "run the tests over laptop or servers; both when empty")

const (
	overLaptop  = "laptop"
	overServers = "servers"
)

func TestMain(m *testing.M) {
	intake.ChildMain()
	flag.Parse()
	both := *over == "" && !*update && flag.Lookup("test.list").Value.String() == "" && flag.Lookup("test.bench").Value.String() == "" && flag.Lookup("test.fuzz").Value.String() == ""
	if *over == "" {
		*over = overLaptop
	}
	code := pgtest.Main(func() int { return s3test.Main(m.Run) })
	if both && again(overServers) != nil && code == 0 {
		code = 1
	}
	os.Exit(code)
}

// again runs this binary's tests with another -over, with the same flags but for those that name files.
func again(backends string) error {
	var args []string
	for _, a := range os.Args[1:] {
		name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
		switch name {
		case "test.testlogfile", "test.coverprofile", "test.gocoverdir", "test.outputdir", "test.cpuprofile", "test.memprofile", "test.trace":
		default:
			args = append(args, a)
		}
	}
	cmd := exec.Command(os.Args[0], append(args, "-over="+backends)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if flag.Lookup("test.v").Value.String() == "false" {
		cmd.Stdout = &out // its PASS would end the package's output too early
	}
	err := cmd.Run()
	if err != nil {
		fmt.Print("over ", backends, ":\n", out.String())
	}
	return err
}

// model is the read model of a world.
type model interface {
	projections.Model
	io.Closer
}

// openModel opens an empty read model for a test.
func openModel(t testing.TB) model {
	t.Helper()
	if *over == overLaptop {
		m, err := jsonfile.Open(t.TempDir())
		must(t, err)
		return m
	}
	cfg := projections.Config{Backend: projections.BackendPostgres, DatabaseURL: secret.NewURL(pgtest.Shared(t).Database(t))}
	cfg.Postgres = projections.Postgres{MaxConnections: 4, StatementTimeout: 10 * time.Second, AutoMigrate: true}
	m, err := postgres.Open(context.WithoutCancel(t.Context()), postgres.Options{Config: cfg, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	return m
}

// openFiles opens an empty file storage for a test.
func openFiles(t testing.TB) files.Store {
	t.Helper()
	if *over == overLaptop {
		return localFiles(t)
	}
	return s3Files(t)
}

func localFiles(t testing.TB) files.Store {
	t.Helper()
	store, err := files.Open(t.TempDir())
	must(t, err)
	return store
}

// s3Files are buckets of their own on the one server of this run.
func s3Files(t testing.TB) files.Store {
	t.Helper()
	server := s3test.Shared(t)
	cfg := files.S3{PathStyle: true, PresignLife: time.Minute}
	cfg.Source, cfg.Artifacts, cfg.Exports = server.Buckets(t)
	store, err := files.OpenS3(context.WithoutCancel(t.Context()), cfg, files.S3Options{AWS: server.Config()}, slog.New(slog.DiscardHandler))
	must(t, err)
	return store
}

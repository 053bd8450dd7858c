// Package s3test gives tests a real S3-compatible server on this machine's loopback: versitygw over a folder, which scripts/test-deps.sh installs. It checks
// signatures, keeps checksums, and answers conditional and ranged reads. What goes wrong between it and its clients is made by [Faults].
//
// It differs from S3 in one thing that tests meet: its keys are paths. Deleting the last object of a folder removes the folder, and a put into that folder
// at the same moment may fail, or be lost. It also takes a request for server-side encryption and stores in the clear.
package s3test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"vega/scripts/installed"
)

// What the server takes as signature, and what Env says. The second account may enter no bucket.
const (
	Region    = "us-east-1"
	accessKey = "test-access-key"
	secretKey = "test-secret-key"
	strangerA = "stranger-access-key"
	strangerS = "stranger-secret-key"
)

// Server is one S3-compatible server. It is safe for concurrent use.
type Server struct {
	URL string // http://127.0.0.1:port

	dir     string // a folder for each bucket, a file for each object
	program string
	port    string
	process *process // nil while stopped
	made    atomic.Int64
}

// process is the running server.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed after it has ended
}

// Start starts a server that ends with the test, and with the test's process if that is killed.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s, err := startIn(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.kill() })
	return s
}

// shared is the server of Shared. It is started once, by the first test that asks, and dies with the process.
var shared = sync.OnceValues(func() (*Server, error) {
	dir, err := os.MkdirTemp("", "s3test-")
	if err != nil {
		return nil, err
	}
	return startIn(dir)
})

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

// Main runs the tests, removes the shared server and returns the exit code: os.Exit(s3test.Main(m.Run)).
func Main(run func() int) int {
	code := run()
	if !asked.Load() {
		return code
	}
	if s, err := shared(); err == nil {
		s.kill()
		if os.RemoveAll(s.dir) != nil && code == 0 {
			return 1
		}
	}
	return code
}

// startIn starts a server that keeps everything in dir.
func startIn(dir string) (*Server, error) {
	program, err := installed.Tool("versitygw")
	if err != nil {
		return nil, err
	}
	s := &Server{program: program, dir: dir}
	for _, sub := range []string{"buckets", "accounts", "versions"} {
		if err := os.Mkdir(filepath.Join(s.dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	accounts := fmt.Sprintf(`{"accessAccounts":{%q:{"access":%q,"secret":%q,"role":"user"}}}`, strangerA, strangerA, strangerS)
	if err := os.WriteFile(filepath.Join(s.dir, "accounts", "users.json"), []byte(accounts), 0o600); err != nil {
		return nil, err
	}
	for range 5 { // another process may take the port that was free
		if s.port, err = freePort(); err == nil {
			err = s.start()
		}
		if err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("start the S3-compatible server: %w", err)
	}
	s.URL = "http://127.0.0.1:" + s.port
	return s, nil
}

// Stop kills the server; the buckets keep what they have.
func (s *Server) Stop() { s.kill() }

// Restart starts it again on the same port.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	if err := s.start(); err != nil {
		tb.Fatalf("start the S3-compatible server again: %v", err)
	}
}

// start starts the server's process and waits until it answers.
func (s *Server) start() error {
	cmd := exec.Command(s.program, "--quiet", "--keep-alive", "--port", "127.0.0.1:"+s.port, "--region", Region, "--health", "/health",
		"--iam-dir", filepath.Join(s.dir, "accounts"), "posix", "--versioning-dir", filepath.Join(s.dir, "versions"), filepath.Join(s.dir, "buckets"))
	cmd.Env = []string{"ROOT_ACCESS_KEY=" + accessKey, "ROOT_SECRET_KEY=" + secretKey, "HOME=" + s.dir, "TMPDIR=" + s.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer // read after it has ended
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &process{cmd, make(chan struct{})}
	go func() {
		_ = cmd.Wait() // it is killed
		close(p.ended)
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for {
		if r, err := http.Get("http://127.0.0.1:" + s.port + "/health"); err == nil {
			_ = r.Body.Close()
			if r.StatusCode == http.StatusOK {
				s.process = p
				return nil
			}
		}
		select {
		case <-p.ended:
			return fmt.Errorf("it ended: %s", out.Bytes())
		case <-late:
			_ = cmd.Process.Kill()
			<-p.ended
			return fmt.Errorf("it does not answer: %s", out.Bytes())
		case <-tick.C:
		}
	}
}

func (s *Server) kill() {
	if s.process != nil {
		_ = s.process.cmd.Process.Kill() // it may have ended
		<-s.process.ended
		s.process = nil
	}
}

// Env is the environment, NAME=value, in which a process's SDK talks to the server.
func (s *Server) Env() []string {
	return []string{"AWS_ENDPOINT_URL_S3=" + s.URL, "AWS_REGION=" + Region, "AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey, "AWS_EC2_METADATA_DISABLED=true"}
}

// Config is a configuration of the SDK that talks to the server. Each call returns one of its own, to be changed freely.
func (s *Server) Config() *aws.Config {
	return &aws.Config{Region: Region, BaseEndpoint: aws.String(s.URL), Credentials: credentials.NewStaticCredentialsProvider(accessKey, secretKey, "")}
}

// Stranger is a configuration with the credentials of an account that may enter no bucket.
func (s *Server) Stranger() *aws.Config {
	c := s.Config()
	c.Credentials = credentials.NewStaticCredentialsProvider(strangerA, strangerS, "")
	return c
}

// Client is a client of the server. It tries each request once.
func (s *Server) Client() *s3.Client {
	return s3.NewFromConfig(*s.Config(), func(o *s3.Options) { o.UsePathStyle, o.Retryer = true, aws.NopRetryer{} })
}

// Buckets makes buckets of their own for the test.
func (s *Server) Buckets(tb testing.TB) (source, artifacts, exports string) {
	tb.Helper()
	n := s.made.Add(1)
	for _, b := range []struct {
		name *string
		kind string
	}{{&source, "source"}, {&artifacts, "artifacts"}, {&exports, "exports"}} {
		*b.name = fmt.Sprintf("vega-%s-%d", b.kind, n)
		if _, err := s.Client().CreateBucket(tb.Context(), &s3.CreateBucketInput{Bucket: b.name}); err != nil {
			tb.Fatalf("make bucket %s: %v", *b.name, err)
		}
	}
	return source, artifacts, exports
}

// File is the path of an object's bytes on the disk, for tests that damage them.
func (s *Server) File(bucket, key string) string {
	return filepath.Join(s.dir, "buckets", bucket, filepath.FromSlash(key))
}

// Objects are the keys that a bucket holds, and how many multipart uploads have no end.
func (s *Server) Objects(tb testing.TB, bucket string) (keys []string, unfinished int) {
	tb.Helper()
	client := s.Client()
	pages := s3.NewListObjectsV2Paginator(client, &s3.ListObjectsV2Input{Bucket: &bucket})
	for pages.HasMorePages() {
		page, err := pages.NextPage(tb.Context())
		if err != nil {
			tb.Fatalf("list %s: %v", bucket, err)
		}
		for _, o := range page.Contents {
			keys = append(keys, *o.Key)
		}
	}
	out, err := client.ListMultipartUploads(tb.Context(), &s3.ListMultipartUploadsInput{Bucket: &bucket})
	if err != nil {
		tb.Fatalf("list uploads of %s: %v", bucket, err)
	}
	return keys, len(out.Uploads)
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// Package sqstest gives tests a real SQS-compatible server on this machine's loopback: fauxqs, which scripts/test-deps.sh installs. It speaks the SDK's own
// protocol: long polls, visibility, redrive to a dead-letter queue, FIFO.
package sqstest

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// What the server takes as signature, and what Env says.
const (
	awsRegion = "us-east-1"
	accessKey = "test-access-key"
	secretKey = "test-secret-key"
)

// Server is one SQS-compatible server. It is safe for concurrent use.
type Server struct {
	URL string // http://127.0.0.1:port

	queues atomic.Int64
	mu     sync.Mutex // held over a command and its answer
	in     io.WriteCloser
	out    *bufio.Scanner
}

// Start starts a server that ends with the test, and with the test's process if that is killed.
func Start(tb testing.TB) *Server {
	tb.Helper()
	root, err := projectRoot()
	if err != nil {
		tb.Fatal(err)
	}
	pkg := filepath.Join(root, ".tools", "npm", "node_modules", "fauxqs")
	if _, err := os.Stat(pkg); err != nil {
		tb.Fatalf("the SQS-compatible server is not installed, run scripts/test-deps.sh test: %v", err)
	}
	cmd := exec.Command("node", filepath.Join(root, "services", "dispatch", "testdata", "sqs.mjs"), pkg)
	cmd.Stderr = os.Stderr
	s := &Server{}
	if s.in, err = cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start the SQS-compatible server: %v", err)
	}
	tb.Cleanup(func() {
		_ = s.in.Close() // ends it
		_ = cmd.Wait()
	})
	s.out = bufio.NewScanner(out)
	if !s.out.Scan() {
		tb.Fatalf("the SQS-compatible server did not start: %v", s.out.Err())
	}
	port, err := strconv.Atoi(s.out.Text())
	if err != nil {
		tb.Fatalf("the SQS-compatible server said %q instead of its port", s.out.Text())
	}
	s.URL = fmt.Sprintf("http://127.0.0.1:%d", port)
	return s
}

// Stop closes the port and every connection; the queues keep what they have.
func (s *Server) Stop(tb testing.TB) { s.tell(tb, "down") }

// Restart opens the same port again.
func (s *Server) Restart(tb testing.TB) { s.tell(tb, "up") }

func (s *Server) tell(tb testing.TB, command string) {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := io.WriteString(s.in, command+"\n"); err != nil {
		tb.Fatalf("tell the SQS-compatible server %q: %v", command, err)
	}
	if !s.out.Scan() || s.out.Text() != command {
		tb.Fatalf("the SQS-compatible server answered %q to %q", s.out.Text(), command)
	}
}

// Env is the environment, NAME=value, in which a process's SDK talks to the server.
func (s *Server) Env() []string {
	return []string{"AWS_ENDPOINT_URL_SQS=" + s.URL, "AWS_REGION=" + awsRegion, "AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey, "AWS_EC2_METADATA_DISABLED=true"}
}

// Client is a client of the server. It tries each request once.
func (s *Server) Client() *sqs.Client {
	return sqs.New(sqs.Options{
		Region: awsRegion, BaseEndpoint: aws.String(s.URL), Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(accessKey, secretKey, ""),
	})
}

// Options of a queue.
type Options struct {
	FIFO       bool
	MaxReceive int               // above 0: what was received so often goes to a dead-letter queue
	Attributes map[string]string // SQS's own, beyond those
}

// Queue makes a queue of its own for the test and returns its URL, and its dead-letter queue's when it has one.
func (s *Server) Queue(tb testing.TB, o Options) (url, dead string) {
	tb.Helper()
	client := s.Client()
	name := fmt.Sprintf("scans-%d", s.queues.Add(1))
	make := func(name string, attributes map[string]string) string {
		tb.Helper()
		if o.FIFO {
			name += ".fifo"
			attributes["FifoQueue"] = "true"
		}
		out, err := client.CreateQueue(tb.Context(), &sqs.CreateQueueInput{QueueName: aws.String(name), Attributes: attributes})
		if err != nil {
			tb.Fatalf("make queue %s: %v", name, err)
		}
		return aws.ToString(out.QueueUrl)
	}
	attributes := map[string]string{}
	maps.Copy(attributes, o.Attributes)
	if o.MaxReceive > 0 {
		dead = make(name+"-dead", map[string]string{})
		arn, err := client.GetQueueAttributes(tb.Context(), &sqs.GetQueueAttributesInput{QueueUrl: aws.String(dead), AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameQueueArn}})
		if err != nil {
			tb.Fatalf("name of queue %s: %v", dead, err)
		}
		attributes["RedrivePolicy"] = fmt.Sprintf(`{"deadLetterTargetArn":%q,"maxReceiveCount":"%d"}`, arn.Attributes["QueueArn"], o.MaxReceive)
	}
	return make(name, attributes), dead
}

// projectRoot is the folder of go.mod, above the one that the test runs in.
func projectRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if b, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && strings.HasPrefix(string(b), "module vega\n") {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("no go.mod above the test's folder")
		}
		dir = up
	}
}

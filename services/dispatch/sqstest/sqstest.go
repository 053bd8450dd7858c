// Package sqstest gives tests a real SQS-compatible server on this machine's loopback: fauxqs, which scripts/test-deps.sh installs. It speaks the SDK's own
// protocol: long polls, visibility, redrive to a dead-letter queue, FIFO.
package sqstest

import (
	"fmt"
	"maps"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"vega/scripts/installed"
)

// What the server takes as signature, and what Env says.
const (
	awsRegion = "us-east-1"
	accessKey = "test-access-key"
	secretKey = "test-secret-key"
)

// Server is one SQS-compatible server. It is safe for concurrent use. Stopped and started again it has the queues as they were.
type Server struct {
	*installed.Node
	queues atomic.Int64
}

// Start starts a server that ends with the test, and with the test's process if that is killed.
func Start(tb testing.TB) *Server {
	tb.Helper()
	return &Server{Node: installed.StartNode(tb, "fauxqs", "services/dispatch/testdata/sqs.mjs")}
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

package dispatch

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go/logging"
)

// NewSQSClient returns a client for the queue at queueURL. Region, endpoint and credentials come from where the SDK looks for them: its own variables,
// its files, the machine's role. Where they name no region it is read from the URL; a queue that is not at AWS is asked at the URL's own host unless an
// endpoint is set. It returns an error when no region is known or the SDK's configuration cannot be read.
func NewSQSClient(ctx context.Context, queueURL string) (*sqs.Client, error) {
	u, err := url.Parse(queueURL)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("SQS queue URL %.100q is not a URL", queueURL)
	}
	// The loops here have a back-off of their own, so a request is tried twice and no more.
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRetryMaxAttempts(2), config.WithLogger(logging.Nop{})) // its own lines are not ours
	if err != nil {
		return nil, fmt.Errorf("configuration of the AWS SDK: %w", err)
	}
	atAWS := strings.HasSuffix(u.Hostname(), ".amazonaws.com") || strings.HasSuffix(u.Hostname(), ".amazonaws.com.cn")
	if cfg.Region == "" {
		cfg.Region = regionOf(u.Hostname())
	}
	if cfg.Region == "" && !atAWS {
		cfg.Region = "us-east-1" // a compatible server needs one to be signed for and means nothing by it
	}
	if cfg.Region == "" {
		return nil, errors.New("no AWS region: the queue URL names none, set AWS_REGION")
	}
	return sqs.NewFromConfig(cfg, func(o *sqs.Options) {
		if o.BaseEndpoint == nil && !atAWS {
			o.BaseEndpoint = aws.String(u.Scheme + "://" + u.Host)
		}
	}), nil
}

// regionOf reads the region from sqs.<region>.amazonaws.com or <region>.queue.amazonaws.com; "" when there is none.
func regionOf(host string) string {
	f := strings.Split(host, ".")
	switch {
	case len(f) >= 4 && f[0] == "sqs" && f[2] == "amazonaws":
		return f[1]
	case len(f) >= 4 && f[1] == "queue" && f[2] == "amazonaws":
		return f[0]
	}
	return ""
}

// QueueDepth is how many messages an SQS queue has, about: its counters lag.
type QueueDepth struct {
	Visible  int // wait for a worker
	InFlight int // were received and not deleted
	Delayed  int // were sent and are not visible yet
}

// SQSDepth asks a queue how much it has. What SQS refuses or does not answer is a *QueueError.
func SQSDepth(ctx context.Context, client *sqs.Client, queueURL string) (QueueDepth, error) {
	names := []types.QueueAttributeName{
		types.QueueAttributeNameApproximateNumberOfMessages,
		types.QueueAttributeNameApproximateNumberOfMessagesNotVisible,
		types.QueueAttributeNameApproximateNumberOfMessagesDelayed,
	}
	out, err := client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: aws.String(queueURL), AttributeNames: names})
	if err != nil {
		return QueueDepth{}, explain(client, queueURL, err)
	}
	var n [3]int
	for i, name := range names {
		if n[i], err = strconv.Atoi(out.Attributes[string(name)]); err != nil {
			return QueueDepth{}, fmt.Errorf("depth of the SQS queue: %s is %.40q", name, out.Attributes[string(name)])
		}
	}
	return QueueDepth{n[0], n[1], n[2]}, nil
}

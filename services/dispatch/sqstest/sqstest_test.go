package sqstest_test

import (
	"context"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"vega/services/dispatch/sqstest"
)

func TestAStoppedServerKeepsWhatItHas(t *testing.T) {
	t.Parallel()
	s := sqstest.Start(t)
	url, _ := s.Queue(t, sqstest.Options{})
	if _, err := s.Client().SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: aws.String(url), MessageBody: aws.String("hello")}); err != nil {
		t.Fatal(err)
	}
	s.Stop(t)
	if _, err := s.Client().ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: aws.String(url)}); err == nil {
		t.Error("a stopped server answered")
	}
	s.Restart(t)
	out, err := s.Client().ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: aws.String(url)})
	if err != nil || len(out.Messages) != 1 || aws.ToString(out.Messages[0].Body) != "hello" {
		t.Errorf("after the restart: %v, %v", out, err)
	}
}

func TestAPollWhoseClientHasGoneTakesNothing(t *testing.T) {
	t.Parallel()
	s := sqstest.Start(t)
	url, _ := s.Queue(t, sqstest.Options{})
	receive := func(ctx context.Context) (*sqs.ReceiveMessageOutput, error) {
		return s.Client().ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: aws.String(url), WaitTimeSeconds: 10})
	}
	gone, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := receive(gone); err == nil {
		t.Fatal("an empty queue answered at once")
	}
	if _, err := s.Client().SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: aws.String(url), MessageBody: aws.String("hello")}); err != nil {
		t.Fatal(err)
	}
	if out, err := receive(t.Context()); err != nil || len(out.Messages) != 1 {
		t.Errorf("the next poll got %v, %v", out, err)
	}
}

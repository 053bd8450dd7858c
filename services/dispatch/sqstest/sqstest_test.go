package sqstest_test

import (
	"testing"

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

package dispatch_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"vega/services/dispatch"
	"vega/services/dispatch/sqstest"
)

// roundTrip is a client's transport.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) Do(r *http.Request) (*http.Response, error) { return f(r) }

func TestEveryFaultOfSQSIsOneSentenceThatNamesASetting(t *testing.T) {
	t.Parallel()
	const atAWS = "https://sqs.us-east-1.amazonaws.com/123456789012/scans"
	server := sqstest.Start(t)
	there, _ := server.Queue(t, sqstest.Options{})
	answering := func(status int, code, message string) roundTrip {
		return func(*http.Request) (*http.Response, error) {
			rec := httptest.NewRecorder()
			rec.Header().Set("Content-Type", "application/x-amz-json-1.0")
			rec.WriteHeader(status)
			if code != "" {
				fmt.Fprintf(rec, `{"__type":"com.amazonaws.sqs#%s","message":%q}`, code, message)
			}
			return rec.Result(), nil
		}
	}
	for _, tc := range []struct {
		name      string
		queue     string
		endpoint  string // "" for AWS
		transport roundTrip
		region    string
		nobody    bool // no credentials
		setting   string
		says      []string
		away      bool
	}{
		{name: "no such queue", queue: there + "-gone", endpoint: server.URL, setting: "VEGA_SCAN_QUEUE_URL", says: []string{`-gone" of VEGA_SCAN_QUEUE_URL does not exist at http://127.0.0.1`}},
		{name: "nobody listens at the queue's host", queue: "http://127.0.0.1:1/0/scans", endpoint: "http://127.0.0.1:1", setting: "VEGA_SCAN_QUEUE_URL", says: []string{"SQS at http://127.0.0.1:1", "connection refused"}, away: true},
		{name: "nobody listens at the endpoint", queue: atAWS, endpoint: "http://127.0.0.1:1", setting: "AWS_ENDPOINT_URL_SQS", says: []string{"127.0.0.1:1", "AWS_ENDPOINT_URL_SQS"}, away: true},
		{name: "an endpoint without TLS", queue: there, endpoint: strings.Replace(server.URL, "http:", "https:", 1), setting: "AWS_ENDPOINT_URL_SQS", says: []string{"http://"}, away: true},
		{name: "no credentials", queue: there, endpoint: server.URL, nobody: true, setting: "AWS_ACCESS_KEY_ID", says: []string{"finds no credentials", "AWS_SECRET_ACCESS_KEY"}, away: true},
		{name: "an unknown key", queue: atAWS, transport: answering(403, "InvalidClientTokenId", "The security token included in the request is invalid."), setting: "AWS_ACCESS_KEY_ID", says: []string{"access key"}},
		{name: "a bad signature", queue: atAWS, transport: answering(403, "SignatureDoesNotMatch", "x-amz-security-token:a-session-token"), setting: "AWS_SECRET_ACCESS_KEY", says: []string{"signature"}},
		{name: "a clock that is behind", queue: atAWS, transport: answering(403, "InvalidSignatureException", "Signature expired: x is now earlier than y"), says: []string{"clock"}},
		{name: "an old session", queue: atAWS, transport: answering(403, "ExpiredToken", "expired"), setting: "AWS_SESSION_TOKEN", says: []string{"renew"}},
		{name: "not allowed", queue: atAWS, transport: answering(400, "AccessDeniedException", "User: arn:aws:iam::1:user/x is not authorized"), setting: "VEGA_SCAN_QUEUE_URL", says: []string{"denied", "sqs:GetQueueAttributes"}},
		{name: "another region", queue: atAWS, region: "eu-west-1", transport: answering(404, "InvalidAddress", "The address is not valid for this endpoint."), setting: "AWS_REGION", says: []string{"us-east-1", "eu-west-1", "set AWS_REGION=us-east-1"}},
		{name: "a key that is not ours", queue: atAWS, transport: answering(400, "KmsAccessDenied", "no"), setting: "VEGA_SCAN_QUEUE_URL", says: []string{"KMS", "kms:Decrypt"}},
		{name: "too many requests", queue: atAWS, transport: answering(400, "RequestThrottled", "slow down"), says: []string{"fewer requests"}, away: true},
		{name: "an outage", queue: atAWS, transport: answering(503, "ServiceUnavailable", "try later"), setting: "AWS_REGION", says: []string{"AWS in us-east-1", "try later"}, away: true},
		{name: "no SQS at all", queue: "http://web.example/0/scans", endpoint: "http://web.example", transport: answering(404, "", ""), setting: "VEGA_SCAN_QUEUE_URL", says: []string{"http://web.example", "404"}},
		{name: "something else", queue: atAWS, transport: answering(400, "UnsupportedOperation", "not this"), setting: "VEGA_SCAN_QUEUE_URL", says: []string{"GetQueueAttributes", "not this"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			o := sqs.Options{Region: "us-east-1", Retryer: aws.NopRetryer{}, Credentials: credentials.NewStaticCredentialsProvider("a-key", "a-secret", "a-session-token")}
			if tc.region != "" {
				o.Region = tc.region
			}
			if tc.endpoint != "" {
				o.BaseEndpoint = aws.String(tc.endpoint)
			}
			if tc.transport != nil {
				o.HTTPClient = tc.transport
			}
			if tc.nobody {
				o.Credentials = credentials.NewStaticCredentialsProvider("", "", "")
			}
			_, err := dispatch.SQSDepth(t.Context(), sqs.New(o), tc.queue)
			e, ok := errors.AsType[*dispatch.QueueError](err)
			if !ok {
				t.Fatalf("SQSDepth says %v, want a *QueueError", err)
			}
			if e.Setting != tc.setting || e.Away != tc.away {
				t.Errorf("setting %q, away %v; want %q, %v: %v", e.Setting, e.Away, tc.setting, tc.away, e)
			}
			for _, want := range tc.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("it says %q, want %q in it", err, want)
				}
			}
			for _, no := range []string{"operation error", "RequestID", "a-session-token", "a-secret", "\n"} {
				if strings.Contains(err.Error(), no) {
					t.Errorf("it says %q, with %q", err, no)
				}
			}
		})
	}
}

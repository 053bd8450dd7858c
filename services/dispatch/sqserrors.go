package dispatch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// QueueError is a request that SQS refused or did not answer, as one sentence that says what to do. No part of it is secret: SQS explains a refused signature
// with the request's own headers, session token included, and those words are left out.
type QueueError struct {
	Code    string // SQS's own error code; "" when it did not answer
	Setting string // the variable to look at first; "" when it is none
	Message string
	Away    bool // asking again may help: SQS did not answer, or could not
}

func (e *QueueError) Error() string { return e.Message }

// explain turns an error of the SDK into a *QueueError. It is nil for nil, and what no request of the SDK's made stays as it is.
func explain(client *sqs.Client, queueURL string, err error) error {
	op, ours := errors.AsType[*smithy.OperationError](err)
	if !ours {
		return err
	}
	o := client.Options()
	f := &refusal{err: err, op: op.OperationName, queue: queueURL, region: o.Region, endpoint: aws.ToString(o.BaseEndpoint)}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		f.code, f.says = api.ErrorCode(), api.ErrorMessage()
	}
	if resp, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && resp.Response != nil {
		f.status = resp.HTTPStatusCode()
	}
	e := f.explain()
	e.Code = f.code
	return e
}

// refusal is one request that did not work.
type refusal struct {
	err      error
	op       string // SendMessageBatch
	code     string // SQS's own; "" without an answer
	says     string // SQS's own message
	status   int    // of HTTP; 0 without an answer
	queue    string // its URL
	region   string // that requests are signed for
	endpoint string // "" for AWS
}

// queueActions are the permissions that the operations need.
var queueActions = map[string]string{
	"SendMessageBatch":             "sqs:SendMessage",
	"ReceiveMessage":               "sqs:ReceiveMessage",
	"DeleteMessageBatch":           "sqs:DeleteMessage",
	"ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
	"GetQueueAttributes":           "sqs:GetQueueAttributes",
}

func (f *refusal) explain() *QueueError {
	// SQS appends to some codes whose fault it was, and puts its name before others.
	code := strings.TrimPrefix(f.code, "AWS.SimpleQueueService.")
	is := func(codes ...string) bool { return slices.Contains(codes, code) }
	signature := strings.Contains(strings.ToLower(code), "signature")
	switch {
	case code == "" && f.status == 0:
		return f.noAnswer()
	case f.elsewhere() && (signature || is("NonExistentQueue", "QueueDoesNotExist", "InvalidAddress", "AccessDenied", "AccessDeniedException")):
		return &QueueError{Setting: "AWS_REGION", Message: fmt.Sprintf("the queue of VEGA_SCAN_QUEUE_URL is in the region %s, and AWS_REGION is %s; set AWS_REGION=%s",
			f.regionOfQueue(), f.region, f.regionOfQueue())}
	case is("NonExistentQueue", "QueueDoesNotExist", "InvalidAddress"):
		return &QueueError{Setting: "VEGA_SCAN_QUEUE_URL", Message: fmt.Sprintf("%s does not exist at %s; create it or name another", f.named(), f.where())}
	case is("RequestTimeTooSkewed", "RequestExpired"), signature && (strings.Contains(f.says, "xpired") || strings.Contains(f.says, "not yet current")):
		return &QueueError{Message: "SQS refuses the signature's time; set this machine's clock, for example with NTP"}
	case is("InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException", "InvalidSecurity", "MissingAuthenticationToken"):
		return &QueueError{Setting: "AWS_ACCESS_KEY_ID", Message: "SQS does not know the access key; check AWS_ACCESS_KEY_ID, or the AWS profile or role that is used"}
	case signature:
		return &QueueError{Setting: "AWS_SECRET_ACCESS_KEY", Message: "SQS does not accept the signature; AWS_SECRET_ACCESS_KEY does not belong to the access key, or a proxy changes requests"}
	case is("ExpiredToken", "ExpiredTokenException", "InvalidToken"):
		return &QueueError{Setting: "AWS_SESSION_TOKEN", Message: "the session token has expired or is wrong; renew AWS_SESSION_TOKEN, or use a role, which renews itself"}
	case is("KmsAccessDenied", "KmsDisabled", "KmsInvalidKeyUsage", "KmsInvalidState", "KmsNotFound", "KmsOptInRequired"), strings.HasPrefix(code, "KMS."):
		return &QueueError{Setting: "VEGA_SCAN_QUEUE_URL", Message: fmt.Sprintf("the KMS key of %s cannot be used (%s); allow the credentials kms:GenerateDataKey and kms:Decrypt with it", f.named(), f.code)}
	case is("RequestThrottled", "ThrottlingException", "Throttling", "KmsThrottled", "OverLimit"):
		return &QueueError{Message: fmt.Sprintf("SQS asks for fewer requests (%s)", f.code), Away: true}
	case is("AccessDenied", "AccessDeniedException", "AuthorizationError"), f.status == http.StatusForbidden, f.status == http.StatusUnauthorized:
		action, known := queueActions[f.op]
		if !known {
			action = "sqs:" + f.op
		}
		return &QueueError{Setting: "VEGA_SCAN_QUEUE_URL", Message: fmt.Sprintf("access to %s is denied; allow the credentials %s, in their policy and the queue's", f.named(), action)}
	case f.status >= 500 || f.status < 300: // an answer of 200 that was none of SQS's
		return &QueueError{Setting: f.endpointSetting(), Message: fmt.Sprintf("SQS at %s cannot answer %s: %s", f.where(), f.op, f.said()), Away: true}
	case code == "UnknownError", code == "":
		return &QueueError{Setting: f.endpointSetting(), Message: fmt.Sprintf("%s does not answer as SQS does (%d %s); correct %s", f.where(), f.status, http.StatusText(f.status), f.endpointSetting())}
	}
	return &QueueError{Setting: "VEGA_SCAN_QUEUE_URL", Message: fmt.Sprintf("SQS refuses %s for %s: %s", f.op, f.named(), f.said())}
}

// noAnswer explains what kept a request from SQS, or the answer from us.
func (f *refusal) noAnswer() *QueueError {
	if strings.Contains(f.err.Error(), "get identity") { // the SDK has no type for it
		return &QueueError{Setting: "AWS_ACCESS_KEY_ID", Message: "the AWS SDK finds no credentials for SQS; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the machine a role", Away: true}
	}
	setting := f.endpointSetting()
	why := "it does not answer"
	_, unknownCA := errors.AsType[x509.UnknownAuthorityError](f.err)
	_, unproven := errors.AsType[*tls.CertificateVerificationError](f.err)
	_, noTLS := errors.AsType[tls.RecordHeaderError](f.err)
	dns, noName := errors.AsType[*net.DNSError](f.err)
	network, refused := errors.AsType[*net.OpError](f.err)
	switch {
	case unknownCA:
		setting, why = "AWS_CA_BUNDLE", "its certificate is signed by nobody this machine trusts; set AWS_CA_BUNDLE to the signer's certificate"
	case unproven:
		why = "its certificate is not valid for that name"
	case noTLS, strings.Contains(f.err.Error(), "server gave HTTP response to HTTPS client"): // no type here either
		why = "it does not speak TLS; write its address with http:// in " + setting
	case noName && dns.IsNotFound:
		why = "there is no such host; correct " + setting
	case errors.Is(f.err, context.DeadlineExceeded), refused && network.Timeout():
		why = "it does not answer in time; check the network, and " + setting
	case refused && network.Op == "dial":
		why = fmt.Sprintf("no connection (%v); check that it runs, and %s", network.Err, setting)
	case refused:
		why = "the connection broke off: " + network.Err.Error()
	}
	return &QueueError{Setting: setting, Message: fmt.Sprintf("SQS at %s: %s", f.where(), why), Away: true}
}

// endpointSetting is the variable that requests find their server by.
func (f *refusal) endpointSetting() string {
	queue, err := url.Parse(f.queue)
	switch {
	case f.endpoint == "":
		return "AWS_REGION"
	case err == nil && strings.TrimSuffix(f.endpoint, "/") == queue.Scheme+"://"+queue.Host:
		return "VEGA_SCAN_QUEUE_URL"
	}
	return "AWS_ENDPOINT_URL_SQS"
}

// elsewhere says that AWS was asked in another region than the queue is in.
func (f *refusal) elsewhere() bool {
	is := f.regionOfQueue()
	return f.endpoint == "" && is != "" && is != f.region
}

func (f *refusal) regionOfQueue() string {
	u, err := url.Parse(f.queue)
	if err != nil {
		return ""
	}
	return regionOf(u.Hostname())
}

func (f *refusal) named() string {
	return fmt.Sprintf("the queue %q of VEGA_SCAN_QUEUE_URL", path.Base(f.queue))
}

func (f *refusal) where() string {
	if f.endpoint == "" {
		return "AWS in " + f.region
	}
	if u, err := url.Parse(f.endpoint); err == nil {
		return u.Redacted()
	}
	return "its endpoint"
}

// said is SQS's own code and words.
func (f *refusal) said() string {
	words := strings.TrimSuffix(strings.TrimSpace(f.says), ".")
	switch {
	case f.code == "":
		return fmt.Sprintf("%d %s", f.status, http.StatusText(f.status))
	case words == "" || words == f.code:
		return f.code
	}
	return fmt.Sprintf("%s (%.200s)", f.code, words)
}

package files

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// S3Error is a request that S3 refused or did not answer, as one sentence that says what to do. It wraps the sentinel that it means, if it means one.
// No part of it is secret.
type S3Error struct {
	Key     string // the object, a prefix, or "" when the bucket is meant
	Code    string // S3's own error code; "" when it did not answer
	Setting string // the variable to look at first; "" when it is none
	Message string // the sentence; "" when the sentinel says all
	means   error  // one of the package's sentinels, or nil
}

func (e *S3Error) Error() string {
	var parts []string
	if e.Key != "" {
		parts = append(parts, e.Key)
	}
	if e.means != nil {
		parts = append(parts, e.means.Error())
	}
	if e.Message != "" {
		parts = append(parts, e.Message)
	}
	return strings.Join(parts, ": ")
}

func (e *S3Error) Unwrap() error { return e.means }

// explain turns an error of the SDK into an *S3Error, or into ctx's error once ctx is done. It is nil for nil.
func (s *S3Store) explain(ctx context.Context, b *bucket, key string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("S3 bucket %s: %s: %w", b.name, key, context.Cause(ctx))
	}
	if _, already := errors.AsType[*S3Error](err); already || errors.Is(err, ErrUnavailable) {
		return err
	}
	return s.fault(b, key, err)
}

// fault says what an error of the SDK means.
func (s *S3Store) fault(b *bucket, key string, err error) *S3Error {
	f := &failed{s: s, b: b, err: err}
	if op, ok := errors.AsType[*smithy.OperationError](err); ok {
		f.op = op.OperationName
	}
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		f.code, f.says = api.ErrorCode(), api.ErrorMessage()
	}
	if resp, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && resp.Response != nil {
		f.status, f.header = resp.HTTPStatusCode(), resp.Response.Header
	}
	e := f.explain()
	e.Key, e.Code = key, f.code
	return e
}

// failed is one request that did not work.
type failed struct {
	s      *S3Store
	b      *bucket
	err    error
	op     string // PutObject
	code   string // S3's own; "" without an answer, an invention of the SDK when the answer had no body
	says   string // S3's own message
	status int    // of HTTP; 0 without an answer
	header http.Header
}

// meanings is what S3's codes mean, those of compatible servers included. The first row with the code, else the first with the HTTP status, counts.
var meanings = []struct {
	codes    []string
	statuses []int
	explain  func(*failed) *S3Error
}{
	{[]string{"NoSuchKey", "NotFound", "NoSuchVersion"}, nil, func(*failed) *S3Error {
		return &S3Error{means: ErrNotFound}
	}},
	{[]string{"NoSuchUpload"}, nil, func(*failed) *S3Error {
		return &S3Error{Message: "S3 has no such multipart upload: it was completed, aborted or removed", means: ErrNotFound}
	}},
	{[]string{"NoSuchBucket"}, nil, func(f *failed) *S3Error {
		return &S3Error{Setting: f.b.setting, Message: fmt.Sprintf("the bucket %q of %s does not exist; create it or name another", f.b.name, f.b.setting)}
	}},
	{[]string{"InvalidBucketName"}, nil, func(f *failed) *S3Error {
		return &S3Error{Setting: f.b.setting, Message: fmt.Sprintf("%q is not the name of a bucket; correct %s", f.b.name, f.b.setting)}
	}},
	{[]string{"InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException"}, nil, func(*failed) *S3Error {
		return &S3Error{Setting: "AWS_ACCESS_KEY_ID", Message: "S3 does not know the access key; check AWS_ACCESS_KEY_ID, or the AWS profile or role that is used"}
	}},
	{[]string{"SignatureDoesNotMatch"}, nil, func(*failed) *S3Error {
		return &S3Error{Setting: "AWS_SECRET_ACCESS_KEY", Message: "S3 does not accept the signature; AWS_SECRET_ACCESS_KEY does not belong to the access key, or a proxy changes requests"}
	}},
	{[]string{"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"}, nil, func(*failed) *S3Error {
		return &S3Error{Setting: "AWS_SESSION_TOKEN", Message: "the session token has expired or is wrong; renew AWS_SESSION_TOKEN, or use a role, which renews itself"}
	}},
	{[]string{"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"}, nil, func(f *failed) *S3Error {
		return &S3Error{Message: "this machine's clock is " + f.skew() + "; set it, for example with NTP"}
	}},
	{
		[]string{"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "IncorrectEndpoint", "MovedPermanently"},
		[]int{http.StatusMovedPermanently, http.StatusTemporaryRedirect},
		(*failed).wrongRegion,
	},
	{[]string{"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "StorageFull"}, []int{http.StatusInsufficientStorage}, func(f *failed) *S3Error {
		return &S3Error{Setting: f.b.setting, Message: fmt.Sprintf("bucket %q (%s) takes no more: %s", f.b.name, f.b.setting, f.said()), means: ErrFull}
	}},
	{[]string{"EntityTooSmall", "InvalidPart", "InvalidPartOrder", "MalformedXML"}, nil, func(f *failed) *S3Error {
		return &S3Error{Message: "the parts do not make an object: " + f.said(), means: ErrBadPart}
	}},
	{[]string{"BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}, nil, func(*failed) *S3Error {
		return &S3Error{Message: "the bytes that reached S3 are not those that were sent", means: ErrCorrupt}
	}},
	{[]string{"PreconditionFailed"}, []int{http.StatusPreconditionFailed}, func(*failed) *S3Error {
		return &S3Error{Message: "it is not the same object any more", means: ErrChanged}
	}},
	{[]string{"InvalidEncryptionAlgorithmError", "InvalidEncryptionRequest", "KMS.NotFoundException", "KMS.DisabledException", "KMS.KMSInvalidStateException", "KMSInvalidStateException"}, nil, (*failed).encryption},
	{[]string{"SlowDown", "TooManyRequests", "RequestLimitExceeded", "Throttling", "ThrottlingException", "BandwidthLimitExceeded"}, []int{http.StatusTooManyRequests}, func(*failed) *S3Error {
		return &S3Error{Message: "S3 asks for fewer requests", means: ErrUnavailable}
	}},
	{[]string{"AccessDenied", "Forbidden", "AllAccessDisabled", "AccountProblem", "NotSignedUp"}, []int{http.StatusForbidden, http.StatusUnauthorized}, (*failed).denied},
	{[]string{"RequestTimeout", "OperationAborted"}, nil, (*failed).unavailable},
}

func (f *failed) explain() *S3Error {
	switch {
	case f.op == "": // not a request that failed: the transfer manager's refusal of an object that is too large
		return &S3Error{Message: f.err.Error()}
	case f.status == 0 && f.code == "":
		return f.noAnswer()
	}
	for _, m := range meanings {
		if slices.Contains(m.codes, f.code) {
			return m.explain(f)
		}
	}
	for _, m := range meanings {
		if slices.Contains(m.statuses, f.status) {
			return m.explain(f)
		}
	}
	switch {
	case f.status == http.StatusNotImplemented:
		return &S3Error{Code: f.code, Message: fmt.Sprintf("the server at %s cannot do %s: %s", f.where(), f.op, f.said())}
	case f.status >= 500 || f.status < 300: // an answer of 200 whose body broke off, or that was none of S3's
		return f.unavailable()
	}
	return &S3Error{Message: fmt.Sprintf("S3 refuses %s in bucket %q (%s): %s", f.op, f.b.name, f.b.setting, f.said())}
}

// noAnswer explains what kept a request from S3, or the answer from us.
func (f *failed) noAnswer() *S3Error {
	why := "it does not answer"
	var setting string
	_, unknownCA := errors.AsType[x509.UnknownAuthorityError](f.err)
	_, wrongHost := errors.AsType[x509.HostnameError](f.err)
	_, unproven := errors.AsType[*tls.CertificateVerificationError](f.err)
	_, noTLS := errors.AsType[tls.RecordHeaderError](f.err)
	dns, noName := errors.AsType[*net.DNSError](f.err)
	network, refused := errors.AsType[*net.OpError](f.err)
	switch {
	case strings.Contains(f.err.Error(), "get identity"): // the SDK has no type for it
		return &S3Error{Setting: "AWS_ACCESS_KEY_ID", Message: "the AWS SDK finds no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the machine a role", means: ErrUnavailable}
	case unknownCA:
		setting, why = "AWS_CA_BUNDLE", "its certificate is signed by nobody this machine trusts; set AWS_CA_BUNDLE to the signer's certificate"
	case wrongHost:
		setting, why = "VEGA_S3_PATH_STYLE", "its certificate is for another host name; for a compatible server set VEGA_S3_PATH_STYLE=true"
	case unproven:
		setting, why = "AWS_CA_BUNDLE", "its certificate is not valid"
	case noTLS, strings.Contains(f.err.Error(), "server gave HTTP response to HTTPS client"): // no type here either
		setting, why = "AWS_ENDPOINT_URL_S3", "it does not speak TLS; write its address with http://"
	case noName && dns.IsNotFound:
		setting, why = "AWS_ENDPOINT_URL_S3", "there is no such host; check the endpoint, and for a compatible server set VEGA_S3_PATH_STYLE=true"
	case refused && network.Op == "dial":
		setting, why = "AWS_ENDPOINT_URL_S3", "no connection: "+cmp.Or(network.Err, f.err).Error()
	case refused && network.Timeout(), errors.Is(f.err, context.DeadlineExceeded):
		why = "it does not answer in time"
	case refused:
		why = "the connection broke off: " + network.Err.Error()
	}
	return &S3Error{Setting: setting, Message: fmt.Sprintf("S3 at %s: %s", f.where(), why), means: ErrUnavailable}
}

func (f *failed) unavailable() *S3Error {
	return &S3Error{Message: fmt.Sprintf("S3 at %s: %s", f.where(), f.said()), means: ErrUnavailable}
}

// regionIn finds the region that a bucket is in where S3 says it in words.
var regionIn = regexp.MustCompile(`expecting ['"]([a-z0-9-]+)['"]`)

func (f *failed) wrongRegion() *S3Error {
	is := f.header.Get("X-Amz-Bucket-Region")
	if m := regionIn.FindStringSubmatch(f.says); is == "" && m != nil {
		is = m[1]
	}
	switch {
	case is != "" && is != f.s.region:
		return &S3Error{Setting: "AWS_REGION", Message: fmt.Sprintf("bucket %q (%s) is in the region %s, and AWS_REGION is %s; set AWS_REGION=%s", f.b.name, f.b.setting, is, f.s.region, is)}
	case f.s.endpoint != "":
		return &S3Error{Setting: "AWS_ENDPOINT_URL_S3", Message: fmt.Sprintf("bucket %q (%s) is not served at %s: %s", f.b.name, f.b.setting, f.where(), f.said())}
	}
	return &S3Error{Setting: "AWS_REGION", Message: fmt.Sprintf("bucket %q (%s) is in another region than AWS_REGION=%s", f.b.name, f.b.setting, f.s.region)}
}

// actions are the permissions that the operations need.
var actions = map[string]string{
	"PutObject":               "s3:PutObject",
	"CreateMultipartUpload":   "s3:PutObject",
	"UploadPart":              "s3:PutObject",
	"CompleteMultipartUpload": "s3:PutObject",
	"AbortMultipartUpload":    "s3:AbortMultipartUpload",
	"ListParts":               "s3:ListMultipartUploadParts",
	"ListMultipartUploads":    "s3:ListBucketMultipartUploads",
	"GetObject":               "s3:GetObject (and s3:ListBucket, to be told what is missing)",
	"HeadObject":              "s3:GetObject (and s3:ListBucket, to be told what is missing)",
	"DeleteObject":            "s3:DeleteObject",
	"ListObjectsV2":           "s3:ListBucket",
	"HeadBucket":              "s3:ListBucket",
}

func (f *failed) denied() *S3Error {
	m := fmt.Sprintf("access to bucket %q (%s) is denied; allow the credentials %s", f.b.name, f.b.setting, cmp.Or(actions[f.op], f.op))
	if f.s.cfg.SSE == SSEKMS {
		m += ", and kms:GenerateDataKey and kms:Decrypt with the key"
	}
	return &S3Error{Setting: f.b.setting, Message: m}
}

func (f *failed) encryption() *S3Error {
	if f.s.cfg.SSE == SSEKMS {
		return &S3Error{Setting: "VEGA_S3_SSE_KMS_KEY_ID", Message: "the KMS key of VEGA_S3_SSE_KMS_KEY_ID cannot be used: " + f.said()}
	}
	return &S3Error{Setting: "VEGA_S3_SSE", Message: fmt.Sprintf("the server refuses VEGA_S3_SSE=%s: %s", f.s.cfg.SSE, f.said())}
}

// skew compares S3's clock with ours.
func (f *failed) skew() string {
	theirs, err := http.ParseTime(f.header.Get("Date"))
	if err != nil {
		return "too far from S3's"
	}
	return skewed(time.Since(theirs))
}

// skewed is "14m0s ahead of S3's".
func skewed(ahead time.Duration) string {
	if ahead < 0 {
		return (-ahead).Round(time.Second).String() + " behind S3's"
	}
	return ahead.Round(time.Second).String() + " ahead of S3's"
}

// said is S3's own code and words.
func (f *failed) said() string {
	m := cmp.Or(f.code, http.StatusText(f.status), "no reason given")
	if words := strings.TrimSuffix(strings.TrimSpace(f.says), "."); words != "" && words != f.code {
		m += fmt.Sprintf(" (%.200s)", words)
	}
	return m
}

func (f *failed) where() string { return cmp.Or(f.s.endpoint, "AWS in "+f.s.region) }

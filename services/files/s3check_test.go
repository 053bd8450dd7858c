package files_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"vega/services/files"
	"vega/services/files/s3test"
)

func TestCheckFindsNothingWrongWithGoodBucketsAndLeavesNothing(t *testing.T) {
	t.Parallel()
	srv := s3test.Shared(t)
	s, c := s3Store(t, srv, nil)
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("Ready = %v", err)
	}
	findings := s.Check(t.Context())
	for _, f := range findings {
		if f.Problem != "" {
			t.Errorf("%s, %s: %s", f.Part, f.Check, f.Problem)
		}
	}
	if len(findings) < 3*8 {
		t.Errorf("%d findings, want several for each of three buckets: %v", len(findings), findings)
	}
	for _, b := range []string{c.Source, c.Artifacts, c.Exports} {
		if keys, unfinished := srv.Objects(t, b); len(keys)+unfinished > 0 {
			t.Errorf("%s holds %q and %d uploads after a check", b, keys, unfinished)
		}
	}
}

func TestCheckFindsAServerThatOnlyPretendsToEncrypt(t *testing.T) {
	t.Parallel()
	s, _ := s3Store(t, s3test.Shared(t), func(c *files.S3, _ *files.S3Options) { c.SSE = files.SSES3 })
	var found []files.Finding
	for _, f := range s.Check(t.Context()) {
		if f.Problem != "" {
			found = append(found, f)
		}
	}
	if len(found) == 0 || found[0].Setting != "VEGA_S3_SSE" || !strings.Contains(found[0].Problem, "without encrypting") {
		t.Errorf("Check found %+v, want that nothing is encrypted", found)
	}
}

// answer is what S3 says with an error.
func answer(status int, code, message string, header map[string]string) func(*http.Request) *http.Response {
	return func(r *http.Request) *http.Response {
		h := http.Header{"Content-Type": {"application/xml"}, "Date": {time.Now().UTC().Format(http.TimeFormat)}}
		for k, v := range header {
			h.Set(k, v)
		}
		body := fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>%s</Message><RequestId>R1</RequestId></Error>`, code, message)
		if r.Method == http.MethodHead {
			body = ""
		}
		return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), ProtoMajor: 1, ProtoMinor: 1}
	}
}

func TestWhatIsWrongWithS3IsOneSentence(t *testing.T) {
	t.Parallel()
	srv := s3test.Shared(t)
	static := func(access, secret string) aws.CredentialsProvider {
		return credentials.NewStaticCredentialsProvider(access, secret, "")
	}
	answers := func(status int, code, message string, header map[string]string) func(*files.S3, *files.S3Options) {
		return func(_ *files.S3, o *files.S3Options) {
			f := s3test.NewFaults()
			f.Add(s3test.Rule{Answer: answer(status, code, message, header)})
			o.AWS.HTTPClient, o.AWS.RetryMaxAttempts = f, 1
		}
	}
	for name, test := range map[string]struct {
		change  func(*files.S3, *files.S3Options)
		want    []string
		setting string
		means   error
	}{
		"missing bucket": {
			change:  func(c *files.S3, _ *files.S3Options) { c.Artifacts = "not-there" },
			want:    []string{`"not-there"`, "VEGA_S3_ARTIFACTS_BUCKET", "does not exist"},
			setting: "VEGA_S3_ARTIFACTS_BUCKET",
		},
		"denied": {
			change:  func(_ *files.S3, o *files.S3Options) { o.AWS = srv.Stranger() },
			want:    []string{"denied", "s3:PutObject", "VEGA_S3_ARTIFACTS_BUCKET"},
			setting: "VEGA_S3_ARTIFACTS_BUCKET",
		},
		"unknown access key": {
			change:  func(_ *files.S3, o *files.S3Options) { o.AWS.Credentials = static("nobody", "x") },
			want:    []string{"does not know the access key", "AWS_ACCESS_KEY_ID"},
			setting: "AWS_ACCESS_KEY_ID",
		},
		"wrong secret": {
			change:  func(_ *files.S3, o *files.S3Options) { o.AWS.Credentials = static("test-access-key", "not the secret") },
			want:    []string{"does not accept the signature", "AWS_SECRET_ACCESS_KEY"},
			setting: "AWS_SECRET_ACCESS_KEY",
		},
		"wrong region": {
			change:  func(_ *files.S3, o *files.S3Options) { o.AWS.Region = "eu-west-1" },
			want:    []string{"us-east-1", "AWS_REGION is eu-west-1"},
			setting: "AWS_REGION",
		},
		"no credentials": {
			change: func(_ *files.S3, o *files.S3Options) {
				o.AWS.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
					return aws.Credentials{}, errors.New("no role found, my-secret")
				})
			},
			want:    []string{"finds no credentials", "AWS_ACCESS_KEY_ID"},
			setting: "AWS_ACCESS_KEY_ID",
			means:   files.ErrUnavailable,
		},
		"no such host": {
			change: func(_ *files.S3, o *files.S3Options) {
				o.AWS.BaseEndpoint, o.AWS.RetryMaxAttempts = aws.String("http://s3.invalid"), 1
			},
			want:    []string{"http://s3.invalid"},
			setting: "AWS_ENDPOINT_URL_S3",
			means:   files.ErrUnavailable,
		},
		"a server that is none of S3's": {
			change: func(_ *files.S3, o *files.S3Options) {
				f := s3test.NewFaults()
				f.Add(s3test.Rule{Answer: func(*http.Request) *http.Response {
					return &http.Response{StatusCode: http.StatusBadGateway, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("<html>"))}
				}})
				o.AWS.HTTPClient, o.AWS.RetryMaxAttempts = f, 1
			},
			want:  []string{"127.0.0.1"},
			means: files.ErrUnavailable,
		},
		"nobody listens": {
			change: func(_ *files.S3, o *files.S3Options) {
				o.AWS.BaseEndpoint, o.AWS.RetryMaxAttempts = aws.String("http://127.0.0.1:1"), 1
			},
			want:    []string{"http://127.0.0.1:1", "connection refused"},
			setting: "AWS_ENDPOINT_URL_S3",
			means:   files.ErrUnavailable,
		},
		"no TLS": {
			change: func(_ *files.S3, o *files.S3Options) {
				o.AWS.BaseEndpoint, o.AWS.RetryMaxAttempts = aws.String(strings.Replace(srv.URL, "http:", "https:", 1)), 1
			},
			want:    []string{"does not speak TLS"},
			setting: "AWS_ENDPOINT_URL_S3",
			means:   files.ErrUnavailable,
		},
		"wrong region at AWS": {
			change:  answers(http.StatusMovedPermanently, "PermanentRedirect", "The bucket must be addressed elsewhere.", map[string]string{"X-Amz-Bucket-Region": "eu-north-1"}),
			want:    []string{"in the region eu-north-1", "AWS_REGION=eu-north-1"},
			setting: "AWS_REGION",
		},
		"clock": {
			change: answers(http.StatusForbidden, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.",
				map[string]string{"Date": time.Now().Add(-20 * time.Minute).UTC().Format(http.TimeFormat)}),
			want: []string{"clock is 20m", "ahead of S3's"},
		},
		"expired token": {
			change:  answers(http.StatusBadRequest, "ExpiredToken", "The provided token has expired.", nil),
			want:    []string{"session token has expired"},
			setting: "AWS_SESSION_TOKEN",
		},
		"quota": {
			change: answers(http.StatusForbidden, "QuotaExceeded", "Bucket quota exceeded.", nil),
			want:   []string{"takes no more"},
			means:  files.ErrFull,
		},
		"disk of the server full": {
			change: answers(http.StatusInsufficientStorage, "XMinioStorageFull", "Storage backend has reached its minimum free drive threshold.", nil),
			want:   []string{"takes no more"},
			means:  files.ErrFull,
		},
		"throttled": {
			change: answers(http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.", nil),
			want:   []string{"fewer requests"},
			means:  files.ErrUnavailable,
		},
		"broken server": {
			change: answers(http.StatusInternalServerError, "InternalError", "We encountered an internal error.", nil),
			want:   []string{"InternalError"},
			means:  files.ErrUnavailable,
		},
		"KMS key": {
			change: func(c *files.S3, o *files.S3Options) {
				c.SSE, c.SSEKMSKeyID = files.SSEKMS, "no-such-key"
				answers(http.StatusBadRequest, "KMS.NotFoundException", "Key is not there", nil)(c, o)
			},
			want:    []string{"VEGA_S3_SSE_KMS_KEY_ID"},
			setting: "VEGA_S3_SSE_KMS_KEY_ID",
		},
		"no encryption": {
			change: func(c *files.S3, o *files.S3Options) {
				c.SSE = files.SSES3
				answers(http.StatusBadRequest, "InvalidEncryptionAlgorithmError", "not here", nil)(c, o)
			},
			want:    []string{"VEGA_S3_SSE=AES256"},
			setting: "VEGA_S3_SSE",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := s3Store(t, srv, test.change)
			_, err := s.Put(t.Context(), "scans/x/y", strings.NewReader("secret content"))
			failed, ok := errors.AsType[*files.S3Error](err)
			if !ok {
				t.Fatalf("Put = %v, want an *S3Error", err)
			}
			for _, w := range test.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("Put = %q, want a sentence with %q", err, w)
				}
			}
			if failed.Setting != test.setting && test.setting != "" {
				t.Errorf("setting %q, want %q", failed.Setting, test.setting)
			}
			if test.means != nil && !errors.Is(err, test.means) {
				t.Errorf("Put = %v, want %v", err, test.means)
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "not the secret") || strings.Contains(err.Error(), "my-secret") || len(err.Error()) > 400 {
				t.Errorf("not one sentence: %q", err)
			}
			ready := s.Ready(t.Context())
			if name != "quota" && name != "KMS key" && name != "no encryption" && name != "disk of the server full" && ready == nil {
				t.Error("Ready found nothing wrong")
			}
			wrong := 0
			for _, f := range s.Check(t.Context()) {
				if f.Problem != "" {
					wrong++
				}
			}
			if wrong == 0 {
				t.Error("Check found nothing wrong")
			}
			t.Log(err)
		})
	}
}

func TestRefusedBeforeS3IsAsked(t *testing.T) {
	t.Parallel()
	good := func() (files.S3, *aws.Config) {
		return files.S3{Source: "a", Artifacts: "b"}, &aws.Config{Region: "us-east-1"}
	}
	for want, change := range map[string]func(*files.S3, *aws.Config){
		"AWS_REGION":               func(_ *files.S3, a *aws.Config) { a.Region = "" },
		"AWS_ENDPOINT_URL_S3":      func(_ *files.S3, a *aws.Config) { a.BaseEndpoint = aws.String("localhost:9000") },
		"VEGA_S3_SOURCE_BUCKET":    func(c *files.S3, _ *aws.Config) { c.Source = "" },
		"VEGA_S3_ARTIFACTS_BUCKET": func(c *files.S3, _ *aws.Config) { c.Artifacts = "" },
		"VEGA_S3_SSE_KMS_KEY_ID":   func(c *files.S3, _ *aws.Config) { c.SSEKMSKeyID = "x" },
	} {
		c, a := good()
		change(&c, a)
		if _, err := files.OpenS3(t.Context(), c, files.S3Options{AWS: a}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("OpenS3 = %v, want an error that names %s", err, want)
		}
	}
	c, a := good()
	s, err := files.OpenS3(t.Context(), c, files.S3Options{AWS: a}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), "exports/x", strings.NewReader("x")); !errors.Is(err, files.ErrNoBucket) {
		t.Errorf("Put without an exports bucket = %v, want ErrNoBucket", err)
	}
	if _, err := s.Put(t.Context(), "other/x", strings.NewReader("x")); !errors.Is(err, files.ErrBadKey) {
		t.Errorf("Put of a key that has no bucket = %v, want ErrBadKey", err)
	}
}

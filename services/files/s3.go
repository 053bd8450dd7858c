package files

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/logging"
)

// answerTime is how long one small request (a Stat, a Delete, one page of a List) and the beginning of a read may take, the SDK's retries included.
const answerTime = 30 * time.Second

// S3Store is a [Store] in S3 buckets, or in those of a compatible server. The first component of a key says which bucket holds it: the table is
// [S3Store.families]. Only objects that Vega could have put are listed. All methods may be called concurrently; nothing runs in the background.
type S3Store struct {
	cfg      S3
	log      *slog.Logger
	client   *s3.Client
	sign     *s3.PresignClient // links for clients
	families []family          // in the byte order of their prefixes
	endpoint string            // "" at AWS
	region   string
	sums     bool // objects are stored with a checksum
}

var (
	_ Store  = (*S3Store)(nil)
	_ Direct = (*S3Store)(nil)
)

// family is a kind of keys and where it is kept.
type family struct {
	prefix string
	bucket *bucket // its name is "" where none is configured
}

// bucket is one configured bucket.
type bucket struct {
	name    string
	setting string      // the variable that names it
	seen    atomic.Bool // it has answered: it exists
}

// S3Options of a store. The zero value is right outside of tests.
type S3Options struct {
	AWS *aws.Config // instead of what the SDK finds in the environment, its files and the machine's role
}

// OpenS3 returns the store of the configured buckets. It asks S3 nothing, so it succeeds while S3 is away: [S3Store.Ready] and [S3Store.Check] ask. It
// fails when the SDK's configuration cannot be read, names no region for AWS, or names an endpoint that is no URL.
func OpenS3(ctx context.Context, c S3, o S3Options, log *slog.Logger) (*S3Store, error) {
	for setting, value := range map[string]string{"VEGA_S3_SOURCE_BUCKET": c.Source, "VEGA_S3_ARTIFACTS_BUCKET": c.Artifacts} {
		if value == "" {
			return nil, fmt.Errorf("open S3: %s is not set", setting)
		}
	}
	if c.SSEKMSKeyID != "" && c.SSE != SSEKMS {
		return nil, fmt.Errorf("open S3: VEGA_S3_SSE_KMS_KEY_ID needs VEGA_S3_SSE=aws:kms")
	}
	cfg, err := sdkConfig(ctx, o)
	if err != nil {
		return nil, err
	}
	s := &S3Store{cfg: c, log: log}
	s.client = s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.UsePathStyle = c.PathStyle
		o.DisableLogOutputChecksumValidationSkipped = true
		if o.Region == "" && o.BaseEndpoint != nil {
			o.Region = "us-east-1" // a compatible server needs one to be signed for and means nothing by it
		}
	})
	set := s.client.Options()
	if s.region = set.Region; s.region == "" {
		return nil, errors.New("open S3: no AWS region is known; set AWS_REGION to the region of the buckets")
	}
	if s.endpoint, err = endpointOf(set.BaseEndpoint); err != nil {
		return nil, err
	}
	s.sums = set.RequestChecksumCalculation != aws.RequestChecksumCalculationWhenRequired
	s.sign = s3.NewPresignClient(s.client, func(o *s3.PresignOptions) {
		o.ClientOptions = append(o.ClientOptions, func(o *s3.Options) {
			// The SDK's own checksums would be those of the empty body that is signed.
			o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
			o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
			if c.PublicEndpoint != "" {
				o.BaseEndpoint = aws.String(c.PublicEndpoint)
			}
		})
	})
	source := &bucket{name: c.Source, setting: "VEGA_S3_SOURCE_BUCKET"}
	artifacts := &bucket{name: c.Artifacts, setting: "VEGA_S3_ARTIFACTS_BUCKET"}
	exports := &bucket{name: c.Exports, setting: "VEGA_S3_EXPORTS_BUCKET"}
	s.families = []family{{"exports/", exports}, {"scans/", artifacts}, {"snapshots/", source}, {"uploads/", source}}
	return s, nil
}

// sdkConfig is the SDK's configuration, with connections that end when nothing moves on them.
func sdkConfig(ctx context.Context, o S3Options) (aws.Config, error) {
	if o.AWS != nil {
		return o.AWS.Copy(), nil
	}
	cfg, err := config.LoadDefaultConfig(ctx, config.WithHTTPClient(newHTTPClient()), config.WithLogger(logging.Nop{})) // its own lines are not ours
	if err != nil {
		return cfg, fmt.Errorf("open S3: configuration of the AWS SDK: %w", err)
	}
	return cfg, nil
}

// endpointOf checks a configured endpoint; "" when none is.
func endpointOf(configured *string) (string, error) {
	if configured == nil {
		return "", nil
	}
	u, err := url.Parse(*configured)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return "", errors.New("open S3: the endpoint (AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, or endpoint_url of the AWS profile) is not http://host[:port] or https://host[:port]")
	}
	return u.Scheme + "://" + u.Host, nil
}

// bucketOf finds the bucket of a key. It fails with ErrBadKey or ErrNoBucket.
func (s *S3Store) bucketOf(key string) (*bucket, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	for _, f := range s.families {
		if !strings.HasPrefix(key, f.prefix) {
			continue
		}
		if f.bucket.name == "" {
			return nil, fmt.Errorf("%w for %s: set %s", ErrNoBucket, f.prefix, f.bucket.setting)
		}
		return f.bucket, nil
	}
	return nil, fmt.Errorf("%w %q: S3 keeps exports/, scans/, snapshots/ and uploads/ alone", ErrBadKey, key)
}

// buckets are the configured ones, each once.
func (s *S3Store) buckets() []*bucket {
	var all []*bucket
	for _, f := range s.families {
		if f.bucket.name != "" && !slices.ContainsFunc(all, func(b *bucket) bool { return b.name == f.bucket.name }) {
			all = append(all, f.bucket)
		}
	}
	return all
}

// Stat implements [Store].
func (s *S3Store) Stat(ctx context.Context, key string) (Object, error) {
	out, err := s.head(ctx, key)
	if err != nil {
		return Object{}, err
	}
	return Object{Key: key, Bytes: aws.ToInt64(out.ContentLength), Modified: aws.ToTime(out.LastModified)}, nil
}

func (s *S3Store) head(ctx context.Context, key string) (*s3.HeadObjectOutput, error) {
	b, err := s.bucketOf(key)
	if err != nil {
		return nil, err
	}
	short, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	out, err := s.client.HeadObject(short, &s3.HeadObjectInput{Bucket: &b.name, Key: &key})
	if err != nil {
		return nil, s.explainHead(ctx, b, key, err)
	}
	b.seen.Store(true)
	return out, nil
}

// explainHead explains the error of a request whose answer has no body. S3 says "404" for a missing object and for a missing bucket alike, so as long as
// the bucket has never answered it is asked for.
func (s *S3Store) explainHead(ctx context.Context, b *bucket, key string, err error) error {
	explained := s.explain(ctx, b, key, err)
	if errors.Is(explained, ErrUnavailable) || ctx.Err() != nil || errors.Is(explained, ErrNotFound) && b.seen.Load() {
		return explained
	}
	if berr := s.askWhy(ctx, b); berr != nil {
		return berr
	}
	return explained
}

// askWhy sends a request whose refusal has a body with the reason, and returns that. It is nil when the bucket answers, or refuses this request for
// a reason of its own.
func (s *S3Store) askWhy(ctx context.Context, b *bucket) error {
	short, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	_, err := s.client.ListObjectsV2(short, &s3.ListObjectsV2Input{Bucket: &b.name, MaxKeys: aws.Int32(1)})
	if err == nil {
		b.seen.Store(true)
		return nil
	}
	if f := s.fault(b, "", err); f.Code == "AccessDenied" {
		return nil
	}
	return s.explain(ctx, b, "", err)
}

// Delete implements [Store].
func (s *S3Store) Delete(ctx context.Context, key string) error {
	b, err := s.bucketOf(key)
	if err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	_, err = s.client.DeleteObject(short, &s3.DeleteObjectInput{Bucket: &b.name, Key: &key})
	if err = s.explain(ctx, b, key, err); errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// List implements [Store]. The buckets are listed one after the other, in the order of what they hold.
func (s *S3Store) List(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		if err := checkPrefix(prefix); err != nil {
			yield(Object{}, err)
			return
		}
		for f, within := range s.familiesOf(prefix) {
			if !s.list(ctx, f.bucket, within, yield) {
				return
			}
		}
	}
}

// familiesOf yields the families that have a bucket and keys with the prefix, each with the longer of both prefixes.
func (s *S3Store) familiesOf(prefix string) iter.Seq2[family, string] {
	return func(yield func(family, string) bool) {
		for _, f := range s.families {
			within := f.prefix
			if strings.HasPrefix(prefix, f.prefix) {
				within = prefix
			} else if !strings.HasPrefix(f.prefix, prefix) {
				continue
			}
			if f.bucket.name != "" && !yield(f, within) {
				return
			}
		}
	}
}

// list yields the objects of one bucket and reports whether to go on.
func (s *S3Store) list(ctx context.Context, b *bucket, prefix string, yield func(Object, error) bool) bool {
	pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: &b.name, Prefix: &prefix})
	for pages.HasMorePages() {
		short, cancel := context.WithTimeout(ctx, answerTime)
		page, err := pages.NextPage(short)
		cancel()
		if err = cmp.Or(ctx.Err(), err); err != nil {
			yield(Object{}, s.explain(ctx, b, prefix, err))
			return false
		}
		for _, o := range page.Contents {
			if CheckKey(aws.ToString(o.Key)) != nil {
				continue // a folder of some console, or a probe of Check: not an object of ours
			}
			if !yield(Object{Key: *o.Key, Bytes: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified)}, nil) {
				return false
			}
		}
	}
	return true
}

// encryption is what each put asks for.
func (s *S3Store) encryption() (types.ServerSideEncryption, *string) {
	if s.cfg.SSEKMSKeyID == "" {
		return types.ServerSideEncryption(s.cfg.SSE), nil
	}
	return types.ServerSideEncryption(s.cfg.SSE), &s.cfg.SSEKMSKeyID
}

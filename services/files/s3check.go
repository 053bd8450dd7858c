package files

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// Finding is the outcome of one check: a line of a table.
type Finding struct {
	Part    string // what was looked at: "S3 bucket vega-source"
	Check   string // what about it: "put an object"
	Setting string // the variable to look at first; "" when it is none
	Problem string // one sentence that says what to do; "" when all is well
}

// Ready asks for each bucket with one small request, all at the same time, and returns the first problem: a missing bucket, wrong credentials, a server that
// does not answer. It is for health checks and for the start; ctx bounds it.
func (s *S3Store) Ready(ctx context.Context) error {
	all := s.buckets()
	failed := make([]error, len(all))
	var asked sync.WaitGroup
	for i, b := range all {
		asked.Go(func() { _, failed[i] = s.headBucket(ctx, b) })
	}
	asked.Wait()
	for _, err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *S3Store) headBucket(ctx context.Context, b *bucket) (*s3.HeadBucketOutput, error) {
	out, err := s.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &b.name})
	if err != nil {
		if err = s.explainHead(ctx, b, "", err); errors.Is(err, ErrNotFound) { // the answer of HEAD has no code
			err = (&failed{s: s, b: b, code: "NoSuchBucket", op: "HeadBucket"}).explain()
		}
		return nil, err
	}
	b.seen.Store(true)
	return out, nil
}

// probePrefix begins the last component of the keys that Check uses. No object of Vega's has it: their components do not begin with a dot.
const probePrefix = ".vega-check-"

// allowedSkew is the difference between two clocks that is worth a word. S3 refuses at 15 minutes, and signed links are wrong by it.
const allowedSkew = time.Minute

// Check tries everything that Vega does with each bucket: it puts, reads, lists and deletes a small object of a name that no other object has, begins and aborts a
// multipart upload, and compares clocks and encryption. It returns a finding for each thing tried, good or bad; what depends on something that failed is not
// tried. A crash in the middle leaves a probe, a few bytes that nothing reads.
func (s *S3Store) Check(ctx context.Context) []Finding {
	var all []Finding
	for _, b := range s.buckets() {
		all = append(all, s.checkBucket(ctx, b)...)
	}
	return all
}

func (s *S3Store) checkBucket(ctx context.Context, b *bucket) []Finding {
	var found []Finding
	add := func(check, setting string, err error) bool {
		f := Finding{Part: "S3 bucket " + b.name, Check: check, Setting: setting}
		if err != nil {
			f.Problem = err.Error()
		}
		if e, ok := errors.AsType[*S3Error](err); ok && e.Setting != "" {
			f.Setting = e.Setting
		}
		found = append(found, f)
		return err == nil
	}
	head, err := s.headBucket(ctx, b)
	if !add("answers", b.setting, err) {
		return found
	}
	if at, ok := awsmiddleware.GetServerTime(head.ResultMetadata); ok {
		here, _ := awsmiddleware.GetResponseAt(head.ResultMetadata)
		var skew error
		if ahead := here.Sub(at); ahead.Abs() > allowedSkew {
			skew = fmt.Errorf("this machine's clock is %s; set it, for example with NTP", skewed(ahead))
		}
		add("clock", "", skew)
	}
	if is := aws.ToString(head.BucketRegion); is != "" {
		var region error
		if is != s.region {
			region = fmt.Errorf("the bucket is in the region %s, and AWS_REGION is %s; set AWS_REGION=%s", is, s.region, is)
		}
		add("region", "AWS_REGION", region)
	}
	for _, f := range s.families {
		if f.bucket.name == b.name {
			s.checkKeys(ctx, b, f.prefix, add)
		}
	}
	return found
}

// checkKeys tries the keys of one family: permissions may be given by prefix.
func (s *S3Store) checkKeys(ctx context.Context, b *bucket, prefix string, add func(check, setting string, err error) bool) {
	key, content := prefix+probePrefix+strings.ToLower(rand.Text()), []byte("vega")
	put := &s3.PutObjectInput{Bucket: &b.name, Key: &key, Body: bytes.NewReader(content)}
	put.ServerSideEncryption, put.SSEKMSKeyId = s.encryption()
	out, err := s.client.PutObject(ctx, put)
	if err == nil && s.cfg.SSE != SSENone && out.ServerSideEncryption != types.ServerSideEncryption(s.cfg.SSE) {
		add("encryption", "VEGA_S3_SSE", fmt.Errorf("the server took an object without encrypting it with VEGA_S3_SSE=%s; unset it, or use a server that can", s.cfg.SSE))
	}
	if add("put below "+prefix, b.setting, s.explain(ctx, b, "", err)) {
		add("read below "+prefix, b.setting, s.explain(ctx, b, "", s.readBack(ctx, b, key, content)))
		_, err = s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &b.name, Prefix: &prefix, MaxKeys: aws.Int32(1)})
		add("list below "+prefix, b.setting, s.explain(ctx, b, "", err))
		_, err = s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.name, Key: &key})
		add("delete below "+prefix, b.setting, s.explain(ctx, b, "", err))
	}
	create := &s3.CreateMultipartUploadInput{Bucket: &b.name, Key: &key}
	create.ServerSideEncryption, create.SSEKMSKeyId = s.encryption()
	begun, err := s.client.CreateMultipartUpload(ctx, create)
	if add("multipart upload below "+prefix, b.setting, s.explain(ctx, b, "", err)) {
		_, err = s.client.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: &b.name, Prefix: &prefix, MaxUploads: aws.Int32(1)})
		add("list uploads below "+prefix, b.setting, s.explain(ctx, b, "", err))
		_, err = s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b.name, Key: &key, UploadId: begun.UploadId})
		add("abort upload below "+prefix, b.setting, s.explain(ctx, b, "", err))
	}
}

func (s *S3Store) readBack(ctx context.Context, b *bucket, key string, want []byte) error {
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.name, Key: &key})
	if err != nil {
		return err
	}
	defer out.Body.Close()
	got, err := io.ReadAll(io.LimitReader(out.Body, 1<<10))
	if err == nil && !bytes.Equal(got, want) {
		err = &S3Error{Message: "what was put is not what is read", means: ErrCorrupt}
	}
	return err
}

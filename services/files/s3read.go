package files

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// maxResumes is how often in a row a read that broke off is tried to be gone on with, without a byte in between. Each of them has the SDK's own retries.
const maxResumes = 4

// errSlow ends a request whose answer did not begin in time.
var errSlow = fmt.Errorf("%w: S3 does not begin to answer in %s", ErrUnavailable, answerTime)

// Open implements [Store]. A read that breaks off goes on where it was with another request, which names the version by its ETag: should the object have been
// replaced in between the read fails with ErrChanged, unless the bucket keeps versions. While the connection holds, S3 itself goes on with the object as
// it was. The whole is compared with the checksum that S3 keeps, where that is one of the whole.
func (s *S3Store) Open(ctx context.Context, key string) (io.ReadCloser, int64, error) {
	b, err := s.bucketOf(key)
	if err != nil {
		return nil, 0, err
	}
	r := &s3Reader{s: s, ctx: ctx, bucket: b, key: key}
	out, err := r.get(&s3.GetObjectInput{ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		return nil, 0, err
	}
	b.seen.Store(true)
	r.size, r.etag, r.version = aws.ToInt64(out.ContentLength), out.ETag, out.VersionId
	if aws.ToString(r.version) == "null" {
		r.version = nil // the bucket keeps none
	}
	if out.ChecksumType != types.ChecksumTypeComposite {
		r.sum, r.want = checksumOf(out)
	}
	return r, r.size, nil
}

// s3Reader reads one object. It is for one goroutine.
type s3Reader struct {
	s       *S3Store
	ctx     context.Context
	bucket  *bucket
	key     string
	etag    *string
	version *string // nil where the bucket keeps no versions

	size, at int64
	body     io.ReadCloser // nil after it broke
	stop     func()        // ends the request of body
	resumed  int           // in a row
	err      error         // sticky

	sum  hash.Hash // of what was read; nil: S3 keeps none of the whole
	want string    // base64
}

// get sends a request for the object, or a part of it, and keeps its body.
func (r *s3Reader) get(in *s3.GetObjectInput) (*s3.GetObjectOutput, error) {
	ctx, cancel := context.WithCancelCause(r.ctx) // lives as long as the body
	slow := time.AfterFunc(answerTime, func() { cancel(errSlow) })
	in.Bucket, in.Key = &r.bucket.name, &r.key
	out, err := r.s.client.GetObject(ctx, in, func(o *s3.Options) {
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired // ours goes on when a read is resumed
	})
	slow.Stop()
	if err != nil {
		if r.ctx.Err() == nil && errors.Is(context.Cause(ctx), errSlow) {
			err = errSlow
		} else {
			err = r.s.explain(r.ctx, r.bucket, r.key, err)
		}
		cancel(nil)
		return nil, err
	}
	r.body, r.stop = out.Body, func() { cancel(nil) }
	return out, nil
}

func (r *s3Reader) Read(p []byte) (int, error) {
	if len(p) == 0 || r.err != nil {
		return 0, r.err
	}
	for {
		if r.body == nil {
			if r.err = r.resume(); r.err != nil {
				return 0, r.err
			}
		}
		n, err := r.body.Read(p)
		n = int(min(int64(n), r.size-r.at)) // no server of ours sends more
		r.at += int64(n)
		if r.sum != nil {
			r.sum.Write(p[:n])
		}
		if n > 0 {
			r.resumed = 0
		}
		switch {
		case r.at == r.size && (err != nil || n == 0):
			r.err = r.proven()
		case err != nil:
			r.drop() // before the end, or the connection is broken: the next turn goes on where this ended
		}
		if n > 0 || r.err != nil {
			return n, r.err
		}
	}
}

// resume asks for the rest of the same object.
func (r *s3Reader) resume() error {
	if r.ctx.Err() != nil {
		return fmt.Errorf("read %s: %w", r.key, context.Cause(r.ctx))
	}
	if r.resumed++; r.resumed > maxResumes {
		return fmt.Errorf("read %s: %w: S3 broke the read off at byte %d of %d, %d times", r.key, ErrUnavailable, r.at, r.size, r.resumed)
	}
	if r.at == r.size {
		r.body, r.stop = io.NopCloser(strings.NewReader("")), func() {}
		return nil
	}
	out, err := r.get(&s3.GetObjectInput{Range: aws.String(fmt.Sprintf("bytes=%d-", r.at)), IfMatch: r.etag, VersionId: r.version})
	switch {
	case errors.Is(err, ErrNotFound):
		return fmt.Errorf("read %s: %w", r.key, ErrChanged)
	case err != nil:
		return fmt.Errorf("read %s: %w", r.key, err)
	case aws.ToString(out.ETag) != aws.ToString(r.etag), aws.ToInt64(out.ContentLength) != r.size-r.at:
		r.drop() // a server that ignores If-Match or Range
		return fmt.Errorf("read %s: %w", r.key, ErrChanged)
	}
	return nil
}

// proven is io.EOF once all bytes are there and are the ones that were put.
func (r *s3Reader) proven() error {
	if r.sum == nil {
		return io.EOF
	}
	if got := base64.StdEncoding.EncodeToString(r.sum.Sum(nil)); got != r.want {
		return fmt.Errorf("read %s: %w: S3 keeps the checksum %s, its bytes have %s", r.key, ErrCorrupt, r.want, got)
	}
	return io.EOF
}

func (r *s3Reader) drop() {
	if r.body != nil {
		_ = r.body.Close() // nothing was written to it
		r.stop()
		r.body = nil
	}
}

// Close ends the read; the rest of the object is not fetched.
func (r *s3Reader) Close() error {
	r.drop()
	if r.err == nil {
		r.err = fmt.Errorf("read %s: %w", r.key, errClosed)
	}
	return nil
}

var errClosed = errors.New("the reader was closed")

// nvme is the polynomial of CRC-64/NVME, which AWS gives objects that were put without a checksum.
var nvme = crc64.MakeTable(0x9a6c9329ac4bc9b5)

// checksumOf is the checksum of the whole that S3 keeps of an object, and the hash to compare it with; nil when it keeps none that is known here.
func checksumOf(out *s3.GetObjectOutput) (hash.Hash, string) {
	for _, c := range []struct {
		kept *string
		hash func() hash.Hash
	}{
		{out.ChecksumSHA256, sha256.New},
		{out.ChecksumCRC32, func() hash.Hash { return crc32.NewIEEE() }},
		{out.ChecksumCRC32C, func() hash.Hash { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) }},
		{out.ChecksumCRC64NVME, func() hash.Hash { return crc64.New(nvme) }},
	} {
		if kept := aws.ToString(c.kept); kept != "" && !strings.Contains(kept, "-") { // "…-7" is one of seven parts' checksums
			return c.hash(), kept
		}
	}
	return nil, ""
}

package files

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	tmtypes "github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

const (
	onePut      = 8 << 20          // an object below this is put with one request
	minPart     = 8 << 20          // of a multipart upload
	unknownPart = 16 << 20         // where the size is not known: S3 takes 10,000 parts, so 156 GiB
	maxParts    = 10_000           // S3's
	inFlight    = 64 << 20         // bytes of parts on their way per put, at least one part
	abortTime   = 10 * time.Second // to give an upload up, after its context has ended
	writeMark   = "vega-write"     // metadata: which put made the object
	digestMark  = "vega-sha256"    // metadata: the content's, in hex, where it was known in advance
	markLength  = 26               // of rand.Text
)

// Put implements [Store]. What has fewer than 8 MiB goes in one request, with its SHA-256 for S3 to check; the rest in parts, by the SDK's transfer manager,
// with checksums that S3 joins to one of the whole. Memory is that of the parts on their way, about 80 MiB however large the object is; only what could not
// be put in 10,000 such parts takes larger ones. A crash leaves a multipart upload that no key reaches; maintenance aborts it.
func (s *S3Store) Put(ctx context.Context, key string, r io.Reader) (Object, error) {
	b, err := s.bucketOf(key)
	if err != nil {
		return Object{}, err
	}
	size := sizeOf(r)
	in := &source{ctx: ctx, from: r, hash: sha256.New()}
	w := &write{s: s, Client: s.client, bucket: b, key: key, mark: rand.Text()}
	head, err := io.ReadAll(io.LimitReader(in, onePut))
	switch {
	case err != nil:
	case len(head) < onePut:
		err = w.small(ctx, head, in.hash)
	default:
		err = w.large(ctx, io.MultiReader(bytes.NewReader(head), in), size)
	}
	switch {
	case in.err != nil: // what became of the upload is a consequence
		return Object{}, fmt.Errorf("put %s: %w", key, in.err)
	case err != nil:
		return Object{}, fmt.Errorf("put %s: %w", key, s.explain(ctx, b, "", err))
	}
	b.seen.Store(true)
	return Object{Key: key, Digest: digestOf(in.hash), Bytes: in.n}, nil
}

// write is one put on its way to S3. It is the client that the transfer manager works with.
type write struct {
	*s3.Client
	s      *S3Store
	bucket *bucket
	key    string
	mark   string // in the object's metadata: this put made it
	failed error  // what the completion ended with
}

func (w *write) small(ctx context.Context, body []byte, sum hash.Hash) error {
	digest := sum.Sum(nil)
	in := &s3.PutObjectInput{
		Bucket: &w.bucket.name, Key: &w.key, Body: bytes.NewReader(body),
		Metadata: map[string]string{writeMark: w.mark, digestMark: hex.EncodeToString(digest)},
	}
	if w.s.sums {
		in.ChecksumSHA256 = aws.String(base64.StdEncoding.EncodeToString(digest))
	}
	in.ServerSideEncryption, in.SSEKMSKeyId = w.s.encryption()
	_, err := w.PutObject(ctx, in)
	if err != nil && w.s.landed(ctx, w.bucket, w.key, w.mark, err) {
		return nil
	}
	return err
}

// large uploads in parts. The transfer manager's errors keep their cause only sometimes, and it writes to the process's standard log when a completion
// fails: so both are kept from it, by CompleteMultipartUpload and AbortMultipartUpload below.
func (w *write) large(ctx context.Context, body io.Reader, size int64) error {
	part := partSize(size)
	manager := transfermanager.New(w, func(o *transfermanager.Options) {
		o.PartSizeBytes, o.MultipartUploadThreshold = part, min(part, onePut)
		o.Concurrency = int(max(1, min(4, inFlight/part)))
		o.FailTimeout = abortTime
		o.RequestChecksumCalculation = w.s.client.Options().RequestChecksumCalculation
	})
	in := &transfermanager.UploadObjectInput{Bucket: &w.bucket.name, Key: &w.key, Body: body, Metadata: map[string]string{writeMark: w.mark}}
	if w.s.sums {
		in.ChecksumAlgorithm, in.ChecksumType = tmtypes.ChecksumAlgorithmCrc32, tmtypes.ChecksumTypeFullObject
	}
	sse, key := w.s.encryption()
	in.ServerSideEncryption, in.SSEKMSKeyID = tmtypes.ServerSideEncryption(sse), key
	_, err := manager.UploadObject(ctx, in)
	if w.failed != nil {
		return w.failed
	}
	return err
}

// CompleteMultipartUpload makes the object appear. A completion whose answer was lost is looked up; what failed is kept in w.failed, and the upload aborted.
func (w *write) CompleteMultipartUpload(ctx context.Context, in *s3.CompleteMultipartUploadInput, opts ...func(*s3.Options)) (*s3.CompleteMultipartUploadOutput, error) {
	out, err := w.Client.CompleteMultipartUpload(ctx, in, opts...)
	if err == nil {
		return out, nil
	}
	if !w.s.landed(ctx, w.bucket, w.key, w.mark, err) {
		w.failed = err
		w.abort(ctx, in.UploadId)
	}
	return &s3.CompleteMultipartUploadOutput{}, nil
}

// AbortMultipartUpload gives the upload up, and never fails: the put has failed already, and what is left of it is removed by maintenance.
func (w *write) AbortMultipartUpload(ctx context.Context, in *s3.AbortMultipartUploadInput, _ ...func(*s3.Options)) (*s3.AbortMultipartUploadOutput, error) {
	w.abort(ctx, in.UploadId)
	return &s3.AbortMultipartUploadOutput{}, nil
}

func (w *write) abort(ctx context.Context, id *string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	_, err := w.Client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &w.bucket.name, Key: &w.key, UploadId: id})
	if err = w.s.explain(ctx, w.bucket, w.key, err); err != nil && !errors.Is(err, ErrNotFound) {
		w.s.log.Warn("multipart upload left for maintenance to abort", "key", w.key, "err", err)
	}
}

// landed reports whether a write that ended with err took effect all the same: its answer may have been lost, or an earlier try of the SDK's may have done
// it. The object's metadata says which write made it.
func (s *S3Store) landed(ctx context.Context, b *bucket, key, mark string, err error) bool {
	f := s.fault(b, key, err)
	if mark == "" || ctx.Err() != nil || f.Code != "NoSuchUpload" && !errors.Is(f, ErrUnavailable) {
		return false
	}
	out, err := s.head(ctx, key)
	return err == nil && out.Metadata[writeMark] == mark
}

// partSize is the size of the parts of an upload of size bytes, -1 when that is not known.
func partSize(size int64) int64 {
	if size < 0 {
		return unknownPart
	}
	const step = 1 << 20
	return max(minPart, (size/maxParts/step+1)*step)
}

// sizeOf is how much r yields, where it is a file or a buffer, else -1.
func sizeOf(r io.Reader) int64 {
	switch r := r.(type) {
	case interface{ Len() int }:
		return int64(r.Len())
	case io.Seeker:
		at, err := r.Seek(0, io.SeekCurrent)
		if err != nil {
			return -1
		}
		end, err := r.Seek(0, io.SeekEnd)
		if err != nil {
			return -1
		}
		if _, err := r.Seek(at, io.SeekStart); err != nil {
			return -1
		}
		return end - at
	}
	return -1
}

// source is what a put reads from: hashed, counted, ended by the context, its error kept.
type source struct {
	ctx  context.Context
	from io.Reader
	hash hash.Hash
	n    int64
	err  error // what from or ctx ended it with; nil while it may go on, and at its end
}

func (in *source) Read(p []byte) (int, error) {
	if in.ctx.Err() != nil {
		in.err = context.Cause(in.ctx)
	}
	if in.err != nil {
		return 0, in.err
	}
	n, err := in.from.Read(p)
	in.hash.Write(p[:n])
	in.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		in.err = err
	}
	return n, err
}

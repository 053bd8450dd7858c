package files

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// ErrBadPart means that a part has no valid number, size or digest, or that the parts of an upload do not make an object.
var ErrBadPart = errors.New("bad part of an upload")

// Direct is a store that clients may read from and write to themselves, by links that the store signs. Nothing about an upload is kept in the process: its id
// says all, so any process of the same store can go on with it. The id is no secret, but whoever has it can get parts signed: keep it to those who
// began the upload. All methods may be called concurrently.
type Direct interface {
	// SignGet returns a link that serves the object with this media type and name. It does not ask whether the object is there.
	SignGet(ctx context.Context, key string, as Download) (Link, error)

	// BeginUpload returns the id of a new upload to key. With sums every part must be signed with its SHA-256, which the store then insists on.
	// Maintenance aborts what nothing was sent to for VEGA_UPLOAD_RETENTION_HOURS.
	BeginUpload(ctx context.Context, key string, sums bool) (id string, err error)

	// SignPart returns the link that one part is put to. It fails with ErrBadPart.
	SignPart(ctx context.Context, key, id string, p Part) (Link, error)

	// Parts lists what has arrived, by number. It fails with ErrNotFound once the upload was completed or aborted.
	Parts(ctx context.Context, key, id string) ([]Part, error)

	// CompleteUpload makes the object of these parts, as Parts listed them; it has no digest yet. It may be repeated: an upload that was completed before
	// succeeds again while its object is there. It fails with ErrBadPart or ErrNotFound.
	CompleteUpload(ctx context.Context, key, id string, parts []Part) (Object, error)

	// AbortUpload removes an upload and its parts. One that is not there succeeds, a completed one included. A part that is on its way may still
	// arrive and be kept; maintenance removes it.
	AbortUpload(ctx context.Context, key, id string) error
}

// Part is one part of an upload. All but the last have at least 5 MiB.
type Part struct {
	Number   int32     // 1 to 10,000; the order of the parts
	Bytes    int64     // size; to sign: 0 leaves it open, otherwise the client must send so many
	SHA256   string    // "sha256:<hex>", of uploads with sums
	ETag     string    // the store's, set by Parts
	Received time.Time // set by Parts
}

// Download is how a link serves an object.
type Download struct {
	MediaType string // empty: as the store has it
	Name      string // empty, or the whole Content-Disposition
}

// Link is a request that the store has signed. Whoever has it can make the request until it expires, so it is a secret: it does not log itself.
type Link struct {
	Method  string
	URL     string
	Header  http.Header // that the client must send, and no others of S3's; Host is not among them
	Expires time.Time
}

// LogValue keeps the signature out of the log.
func (l Link) LogValue() slog.Value { return slog.StringValue(l.Method + " (signed link)") }

// String keeps the signature out of what is printed.
func (l Link) String() string { return l.Method + " (signed link)" }

// Upload is a multipart upload that was begun and neither completed nor aborted, a Put's or a client's.
type Upload struct {
	Key   string
	ID    string
	Begun time.Time
}

// SignGet implements [Direct].
func (s *S3Store) SignGet(ctx context.Context, key string, as Download) (Link, error) {
	b, err := s.bucketOf(key)
	if err != nil {
		return Link{}, err
	}
	in := &s3.GetObjectInput{Bucket: &b.name, Key: &key}
	if as.MediaType != "" {
		in.ResponseContentType = &as.MediaType
	}
	if as.Name != "" {
		in.ResponseContentDisposition = &as.Name
	}
	now := time.Now()
	signed, err := s.sign.PresignGetObject(ctx, in, s3.WithPresignExpires(s.cfg.PresignLife))
	if err != nil {
		return Link{}, s.explain(ctx, b, key, err)
	}
	return s.link(signed.Method, signed.URL, signed.SignedHeader, now), nil
}

func (s *S3Store) link(method, url string, signed http.Header, now time.Time) Link {
	signed = signed.Clone()
	signed.Del("Host")
	return Link{Method: method, URL: url, Header: signed, Expires: now.Add(s.cfg.PresignLife)}
}

// BeginUpload implements [Direct]. The id is a mark, which becomes the object's, and S3's own id.
func (s *S3Store) BeginUpload(ctx context.Context, key string, sums bool) (string, error) {
	b, err := s.bucketOf(key)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	mark := rand.Text()
	in := &s3.CreateMultipartUploadInput{Bucket: &b.name, Key: &key, Metadata: map[string]string{writeMark: mark}}
	if sums {
		in.ChecksumAlgorithm, in.ChecksumType = types.ChecksumAlgorithmSha256, types.ChecksumTypeComposite
	}
	in.ServerSideEncryption, in.SSEKMSKeyId = s.encryption()
	out, err := s.client.CreateMultipartUpload(ctx, in)
	if err != nil {
		return "", s.explain(ctx, b, key, err) // its answer may be lost: then an upload without parts is left, which maintenance aborts
	}
	return mark + "~" + aws.ToString(out.UploadId), nil
}

// idParts takes an upload's id apart. An id of S3's own, as Uploads yields it, has no mark.
func idParts(id string) (mark, s3ID string) {
	if len(id) > markLength && id[markLength] == '~' {
		return id[:markLength], id[markLength+1:]
	}
	return "", id
}

// SignPart implements [Direct].
func (s *S3Store) SignPart(ctx context.Context, key, id string, p Part) (Link, error) {
	b, err := s.bucketOf(key)
	if err != nil {
		return Link{}, err
	}
	if p.Number < 1 || p.Number > maxParts || p.Bytes < 0 {
		return Link{}, fmt.Errorf("%w: number %d with %d bytes; numbers are 1 to %d", ErrBadPart, p.Number, p.Bytes, maxParts)
	}
	_, s3ID := idParts(id)
	in := &s3.UploadPartInput{Bucket: &b.name, Key: &key, UploadId: &s3ID, PartNumber: &p.Number}
	if p.Bytes > 0 {
		in.ContentLength = &p.Bytes
	}
	if p.SHA256 != "" {
		sum, err := hex.DecodeString(strings.TrimPrefix(p.SHA256, "sha256:"))
		if err != nil || len(sum) != 32 {
			return Link{}, fmt.Errorf("%w: number %d: %.80q is not sha256:<hex>", ErrBadPart, p.Number, p.SHA256)
		}
		in.ChecksumSHA256 = aws.String(base64.StdEncoding.EncodeToString(sum))
	}
	now := time.Now()
	signed, err := s.sign.PresignUploadPart(ctx, in, s3.WithPresignExpires(s.cfg.PresignLife))
	if err != nil {
		return Link{}, s.explain(ctx, b, key, err)
	}
	return s.link(signed.Method, signed.URL, signed.SignedHeader, now), nil
}

// Parts implements [Direct].
func (s *S3Store) Parts(ctx context.Context, key, id string) ([]Part, error) {
	b, err := s.bucketOf(key)
	if err != nil {
		return nil, err
	}
	_, s3ID := idParts(id)
	var parts []Part
	pages := s3.NewListPartsPaginator(s.client, &s3.ListPartsInput{Bucket: &b.name, Key: &key, UploadId: &s3ID})
	for pages.HasMorePages() {
		short, cancel := context.WithTimeout(ctx, answerTime)
		page, err := pages.NextPage(short)
		cancel()
		if err != nil {
			return nil, s.explain(ctx, b, key, err)
		}
		for _, p := range page.Parts {
			part := Part{Number: aws.ToInt32(p.PartNumber), Bytes: aws.ToInt64(p.Size), ETag: aws.ToString(p.ETag), Received: aws.ToTime(p.LastModified)}
			if sum, err := base64.StdEncoding.DecodeString(aws.ToString(p.ChecksumSHA256)); err == nil && len(sum) == 32 {
				part.SHA256 = "sha256:" + hex.EncodeToString(sum)
			}
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// CompleteUpload implements [Direct].
func (s *S3Store) CompleteUpload(ctx context.Context, key, id string, parts []Part) (Object, error) {
	b, err := s.bucketOf(key)
	if err != nil {
		return Object{}, err
	}
	done := make([]types.CompletedPart, 0, len(parts))
	for _, p := range parts {
		c := types.CompletedPart{PartNumber: &p.Number, ETag: &p.ETag}
		if sum, err := hex.DecodeString(strings.TrimPrefix(p.SHA256, "sha256:")); err == nil && len(sum) == 32 {
			c.ChecksumSHA256 = aws.String(base64.StdEncoding.EncodeToString(sum))
		}
		done = append(done, c)
	}
	mark, s3ID := idParts(id)
	_, err = s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &b.name, Key: &key, UploadId: &s3ID, MultipartUpload: &types.CompletedMultipartUpload{Parts: done},
	})
	// A crash here leaves the whole object; the same call finds it by its mark.
	if err != nil && !s.landed(ctx, b, key, mark, err) {
		return Object{}, s.explain(ctx, b, key, err)
	}
	return s.Stat(ctx, key)
}

// AbortUpload implements [Direct].
func (s *S3Store) AbortUpload(ctx context.Context, key, id string) error {
	b, err := s.bucketOf(key)
	if err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	_, s3ID := idParts(id)
	_, err = s.client.AbortMultipartUpload(short, &s3.AbortMultipartUploadInput{Bucket: &b.name, Key: &key, UploadId: &s3ID})
	if err = s.explain(ctx, b, key, err); errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// Uploads yields the uploads that were begun and have no end yet, of Puts and of clients, among the keys of this store. It stops after the first error.
func (s *S3Store) Uploads(ctx context.Context) iter.Seq2[Upload, error] {
	return func(yield func(Upload, error) bool) {
		for f, prefix := range s.familiesOf("") {
			if !s.uploads(ctx, f.bucket, prefix, yield) {
				return
			}
		}
	}
}

func (s *S3Store) uploads(ctx context.Context, b *bucket, prefix string, yield func(Upload, error) bool) bool {
	pages := s3.NewListMultipartUploadsPaginator(s.client, &s3.ListMultipartUploadsInput{Bucket: &b.name, Prefix: &prefix})
	for pages.HasMorePages() {
		short, cancel := context.WithTimeout(ctx, answerTime)
		page, err := pages.NextPage(short)
		cancel()
		if err = cmp.Or(ctx.Err(), err); err != nil {
			yield(Upload{}, s.explain(ctx, b, prefix, err))
			return false
		}
		for _, u := range page.Uploads {
			if CheckKey(aws.ToString(u.Key)) != nil {
				continue // not one of ours
			}
			if !yield(Upload{Key: *u.Key, ID: aws.ToString(u.UploadId), Begun: aws.ToTime(u.Initiated)}, nil) {
				return false
			}
		}
	}
	return true
}

package files_test

import (
	"context"
	"io"
	"iter"
	"log/slog"
	"strings"
	"testing"
	"time"

	"vega/services/files"
	"vega/services/files/filestest"
	"vega/services/files/s3test"
)

// s3Store opens a store of new buckets.
func s3Store(t testing.TB, srv *s3test.Server, change func(*files.S3, *files.S3Options)) (*files.S3Store, files.S3) {
	t.Helper()
	c := files.S3{PathStyle: true, PresignLife: 15 * time.Minute}
	c.Source, c.Artifacts, c.Exports = srv.Buckets(t)
	o := files.S3Options{AWS: srv.Config()}
	if change != nil {
		change(&c, &o)
	}
	s, err := files.OpenS3(t.Context(), c, o, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

func TestS3KeepsTheContract(t *testing.T) {
	t.Parallel()
	srv := s3test.Shared(t)
	filestest.Run(t, func(t *testing.T) files.Store {
		s, _ := s3Store(t, srv, nil)
		b := below{s, "scans/x/"}
		if _, err := b.Put(t.Context(), kept, strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
		return b
	})
}

// kept is an object beside those of the test of concurrent puts and deletes. The test server, unlike S3, makes folders and removes the empty ones, and
// loses a put that meets such a removal; this keeps the folder from becoming empty. The suite does not see it.
const kept = "shared/folder/kept"

// below is a store's part under a prefix: S3 has a bucket for certain prefixes alone, and the contract's tests use keys of all kinds.
type below struct {
	files.Store
	prefix string
}

func (b below) own(o files.Object) files.Object {
	o.Key = strings.TrimPrefix(o.Key, b.prefix)
	return o
}

func (b below) Put(ctx context.Context, key string, r io.Reader) (files.Object, error) {
	o, err := b.Store.Put(ctx, b.prefix+key, r)
	return b.own(o), err
}

func (b below) Open(ctx context.Context, key string) (io.ReadCloser, int64, error) {
	return b.Store.Open(ctx, b.prefix+key)
}

func (b below) Stat(ctx context.Context, key string) (files.Object, error) {
	o, err := b.Store.Stat(ctx, b.prefix+key)
	return b.own(o), err
}

func (b below) Delete(ctx context.Context, key string) error {
	return b.Store.Delete(ctx, b.prefix+key)
}

func (b below) List(ctx context.Context, prefix string) iter.Seq2[files.Object, error] {
	return func(yield func(files.Object, error) bool) {
		for o, err := range b.Store.List(ctx, b.prefix+prefix) {
			if o = b.own(o); o.Key != kept && !yield(o, err) {
				return
			}
		}
	}
}

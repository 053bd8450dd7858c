package files_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"vega/services/files"
	"vega/services/files/s3test"
)

// faulty opens a store with faults on its way to the server.
func faulty(t testing.TB, srv *s3test.Server) (*files.S3Store, files.S3, *s3test.Faults) {
	t.Helper()
	f := s3test.NewFaults()
	t.Cleanup(f.Close)
	s, c := s3Store(t, srv, func(_ *files.S3, o *files.S3Options) {
		o.AWS.HTTPClient = f
		o.AWS.Retryer = func() aws.Retryer { return retry.AddWithMaxBackoffDelay(retry.NewStandard(), time.Millisecond) }
	})
	return s, c, f
}

// random returns n bytes that do not repeat.
func random(n int) []byte {
	b := make([]byte, n)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(b)
	return b
}

// request matches requests by operation.
func request(operation string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		q := r.URL.Query()
		switch operation {
		case "put":
			return r.Method == http.MethodPut && !q.Has("uploadId")
		case "create":
			return r.Method == http.MethodPost && q.Has("uploads")
		case "part":
			return r.Method == http.MethodPut && q.Has("uploadId")
		case "complete":
			return r.Method == http.MethodPost && q.Has("uploadId")
		case "abort":
			return r.Method == http.MethodDelete && q.Has("uploadId")
		case "get":
			return r.Method == http.MethodGet
		case "head":
			return r.Method == http.MethodHead
		}
		return false
	}
}

func TestEveryWriteMayFailBeforeOrAfterItTookEffect(t *testing.T) {
	t.Parallel()
	srv := s3test.Shared(t)
	small, large := random(100), random(20<<20)
	for _, test := range []struct {
		name    string
		rules   []s3test.Rule
		content []byte
		want    error // of the first put
		landed  bool  // a first put that failed may have taken effect
		left    int   // multipart uploads left for maintenance
	}{
		{name: "put before, once", content: small, rules: []s3test.Rule{{Match: request("put"), Times: 1, Before: s3test.ErrCut}}},
		{name: "put after, once", content: small, rules: []s3test.Rule{{Match: request("put"), Times: 1, Lost: s3test.ErrCut}}},
		{name: "put before, always", content: small, rules: []s3test.Rule{{Match: request("put"), Before: s3test.ErrCut}}, want: files.ErrUnavailable},
		{name: "put after, always", content: small, rules: []s3test.Rule{{Match: request("put"), Lost: s3test.ErrCut}}}, // found by its mark
		{name: "put after, and nothing answers any more", content: small, landed: true, want: files.ErrUnavailable,
			rules: []s3test.Rule{{Match: request("put"), Lost: s3test.ErrCut}, {Match: request("head"), Before: s3test.ErrCut}}},

		{name: "create before, once", content: large, rules: []s3test.Rule{{Match: request("create"), Times: 1, Before: s3test.ErrCut}}},
		{name: "create after, once", content: large, left: 1, rules: []s3test.Rule{{Match: request("create"), Times: 1, Lost: s3test.ErrCut}}},
		{name: "create before, always", content: large, rules: []s3test.Rule{{Match: request("create"), Before: s3test.ErrCut}}, want: files.ErrUnavailable},
		{name: "create after, always", content: large, left: 3, rules: []s3test.Rule{{Match: request("create"), Lost: s3test.ErrCut}}, want: files.ErrUnavailable},

		{name: "part before, once", content: large, rules: []s3test.Rule{{Match: request("part"), Times: 1, Before: s3test.ErrCut}}},
		{name: "part after, once", content: large, rules: []s3test.Rule{{Match: request("part"), Times: 1, Lost: s3test.ErrCut}}},
		{name: "part before, always", content: large, rules: []s3test.Rule{{Match: request("part"), Before: s3test.ErrCut}}, want: files.ErrUnavailable},
		{name: "part after, always", content: large, rules: []s3test.Rule{{Match: request("part"), Lost: s3test.ErrCut}}, want: files.ErrUnavailable},
		{name: "part and abort, always", content: large, left: 1, want: files.ErrUnavailable,
			rules: []s3test.Rule{{Match: request("part"), Before: s3test.ErrCut}, {Match: request("abort"), Before: s3test.ErrCut}}},

		{name: "complete before, once", content: large, rules: []s3test.Rule{{Match: request("complete"), Times: 1, Before: s3test.ErrCut}}},
		{name: "complete after, once", content: large, rules: []s3test.Rule{{Match: request("complete"), Times: 1, Lost: s3test.ErrCut}}},
		{name: "complete before, always", content: large, rules: []s3test.Rule{{Match: request("complete"), Before: s3test.ErrCut}}, want: files.ErrUnavailable},
		{name: "complete after, always", content: large, rules: []s3test.Rule{{Match: request("complete"), Lost: s3test.ErrCut}}}, // found by its mark
		{name: "complete after, and nothing answers any more", content: large, landed: true, want: files.ErrUnavailable,
			rules: []s3test.Rule{{Match: request("complete"), Lost: s3test.ErrCut}, {Match: request("head"), Before: s3test.ErrCut}}},
		{name: "throttled once", content: small, rules: []s3test.Rule{{Match: request("put"), Times: 1, Answer: answer(http.StatusServiceUnavailable, "SlowDown", "Slow down.", nil)}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s, c, faults := faulty(t, srv)
			const key = "snapshots/x/pack"
			if _, err := s.Put(t.Context(), key, strings.NewReader("old")); err != nil {
				t.Fatal(err)
			}
			for _, r := range test.rules {
				faults.Add(r)
			}
			o, err := s.Put(t.Context(), key, bytes.NewReader(test.content))
			if !errors.Is(err, test.want) {
				t.Fatalf("Put = %v, want %v", err, test.want)
			}
			faults.Clear()
			want := string(test.content)
			if err != nil && !test.landed {
				want = "old"
			}
			if got := string(readAll(t, s, key)); got != want {
				t.Errorf("the object has %d bytes after the put, want %d", len(got), len(want))
			}
			if _, unfinished := srv.Objects(t, c.Source); unfinished != test.left {
				t.Errorf("%d unfinished uploads, want %d", unfinished, test.left)
			}
			if err != nil {
				if o, err = s.Put(t.Context(), key, bytes.NewReader(test.content)); err != nil {
					t.Fatalf("Put again = %v", err)
				}
			}
			if got := readAll(t, s, key); !bytes.Equal(got, test.content) || o.Digest != digest(test.content) {
				t.Errorf("after the put that worked the object has %d bytes, and %+v was returned", len(got), o)
			}
		})
	}
}

func TestAReadThatIsCutGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	s, _, faults := faulty(t, s3test.Shared(t))
	for _, content := range [][]byte{random(300_000), random(9 << 20)} {
		if _, err := s.Put(t.Context(), "scans/x/y", bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		for _, at := range []int64{1, 100_000, int64(len(content)) - 1, int64(len(content))} {
			faults.Clear()
			faults.Add(s3test.Rule{Match: request("get"), Times: 3, CutAt: at})
			if got := readAll(t, s, "scans/x/y"); !bytes.Equal(got, content) {
				t.Errorf("cut at %d of %d: read %d other bytes", at, len(content), len(got))
			}
		}
	}
}

func TestAReadThatCannotGoOnAsItWasFails(t *testing.T) {
	t.Parallel()
	srv := s3test.Shared(t)
	content := random(2 << 20)
	for name, test := range map[string]struct {
		meanwhile func(context.Context, *files.S3Store, *s3test.Faults) error
		want      error
	}{
		"replaced": {func(ctx context.Context, s *files.S3Store, _ *s3test.Faults) error {
			_, err := s.Put(ctx, "scans/x/y", bytes.NewReader(random(2<<20+1)))
			return err
		}, files.ErrChanged},
		"deleted": {func(ctx context.Context, s *files.S3Store, _ *s3test.Faults) error {
			return s.Delete(ctx, "scans/x/y")
		}, files.ErrChanged},
		"away": {func(_ context.Context, _ *files.S3Store, f *s3test.Faults) error {
			f.Add(s3test.Rule{Before: s3test.ErrCut})
			return nil
		}, files.ErrUnavailable},
		"a server that knows no ranges": {func(_ context.Context, _ *files.S3Store, f *s3test.Faults) error {
			f.Add(s3test.Rule{Match: request("get"), Hook: func(r *http.Request) { r.Header.Del("Range") }, Answer: func(r *http.Request) *http.Response {
				return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, ContentLength: 2 << 20, Body: io.NopCloser(bytes.NewReader(content))}
			}})
			return nil
		}, files.ErrChanged},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _, faults := faulty(t, srv)
			if _, err := s.Put(t.Context(), "scans/x/y", bytes.NewReader(content)); err != nil {
				t.Fatal(err)
			}
			faults.Add(s3test.Rule{Match: request("get"), Times: 1, CutAt: 1 << 20})
			r, _, err := s.Open(t.Context(), "scans/x/y")
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if err := test.meanwhile(t.Context(), s, faults); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if !errors.Is(err, test.want) || !bytes.Equal(got, content[:len(got)]) {
				t.Errorf("read %d bytes, %v; want %v", len(got), err, test.want)
			}
			if _, again := r.Read(make([]byte, 1)); again == nil || again.Error() != err.Error() {
				t.Errorf("the next read = %v, want %v again", again, err)
			}
		})
	}
}

func TestABucketThatKeepsVersionsIsReadAsItWas(t *testing.T) {
	t.Parallel()
	srv := s3test.Shared(t)
	s, c, faults := faulty(t, srv)
	if _, err := srv.Client().PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{
		Bucket: &c.Artifacts, VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
	}); err != nil {
		t.Fatal(err)
	}
	old := random(2 << 20)
	if _, err := s.Put(t.Context(), "scans/x/y", bytes.NewReader(old)); err != nil {
		t.Fatal(err)
	}
	faults.Add(s3test.Rule{Match: request("get"), Times: 1, CutAt: 1 << 20})
	r, _, err := s.Open(t.Context(), "scans/x/y")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := s.Put(t.Context(), "scans/x/y", strings.NewReader("new")); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "scans/x/y"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, old) {
		t.Errorf("read %d bytes, %v; want the %d old ones", len(got), err, len(old))
	}
	if _, err := s.Stat(t.Context(), "scans/x/y"); !errors.Is(err, files.ErrNotFound) {
		t.Errorf("Stat = %v, want ErrNotFound", err)
	}
}

func TestAServerThatTakesNoChecksumsIsUsedWithoutThem(t *testing.T) {
	t.Parallel()
	faults := s3test.NewFaults()
	t.Cleanup(faults.Close)
	s, _ := s3Store(t, s3test.Shared(t), func(_ *files.S3, o *files.S3Options) {
		o.AWS.HTTPClient, o.AWS.RequestChecksumCalculation = faults, aws.RequestChecksumCalculationWhenRequired
	})
	for _, size := range []int{10, 9 << 20} {
		content := random(size)
		if _, err := s.Put(t.Context(), "scans/x/y", bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		if got := readAll(t, s, "scans/x/y"); !bytes.Equal(got, content) {
			t.Errorf("read %d other bytes", len(got))
		}
	}
	for _, r := range faults.Seen() {
		for name := range r.Header {
			if strings.Contains(strings.ToLower(name), "checksum") && r.Method != http.MethodGet {
				t.Errorf("%s %s carries %s", r.Method, r.URL.Path, name)
			}
		}
	}
}

func TestAReadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s, _, faults := faulty(t, s3test.Shared(t))
	if _, err := s.Put(t.Context(), "scans/x/y", bytes.NewReader(random(2<<20))); err != nil {
		t.Fatal(err)
	}
	faults.Add(s3test.Rule{Match: request("get"), CutAt: 1 << 20})
	ctx, cancel := context.WithCancel(t.Context())
	r, _, err := s.Open(ctx, "scans/x/y")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cancel()
	if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
		t.Errorf("read = %v, want context.Canceled", err)
	}
	if _, err := s.Stat(ctx, "scans/x/y"); !errors.Is(err, context.Canceled) {
		t.Errorf("Stat = %v, want context.Canceled", err)
	}
}

func TestBytesThatChangedInS3AreFound(t *testing.T) {
	t.Parallel()
	srv := s3test.Shared(t)
	s, c, faults := faulty(t, srv)
	for _, size := range []int{1000, 20 << 20} {
		content := random(size)
		if _, err := s.Put(t.Context(), "scans/x/y", bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(srv.File(c.Artifacts, "scans/x/y"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{^content[size/2]}, int64(size/2)); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		for _, cut := range []bool{false, true} {
			faults.Clear()
			if cut {
				faults.Add(s3test.Rule{Match: request("get"), Times: 1, CutAt: int64(size / 3)})
			}
			r, _, err := s.Open(t.Context(), "scans/x/y")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, r); !errors.Is(err, files.ErrCorrupt) {
				t.Errorf("reading %d bytes, one of them changed (cut: %t) = %v, want ErrCorrupt", size, cut, err)
			}
			r.Close()
		}
	}
}

func TestS3AwayIsErrUnavailable(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t) // stopped
	s, _, _ := faulty(t, srv)
	if _, err := s.Put(t.Context(), "scans/x/y", strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	srv.Stop()
	_, perr := s.Put(t.Context(), "scans/x/z", strings.NewReader("x"))
	_, _, oerr := s.Open(t.Context(), "scans/x/y")
	_, serr := s.Stat(t.Context(), "scans/x/y")
	var lerr error
	for _, lerr = range s.List(t.Context(), "scans/") {
	}
	for what, err := range map[string]error{"Put": perr, "Open": oerr, "Stat": serr, "List": lerr, "Delete": s.Delete(t.Context(), "scans/x/y"), "Ready": s.Ready(t.Context())} {
		if !errors.Is(err, files.ErrUnavailable) {
			t.Errorf("%s = %v, want ErrUnavailable", what, err)
		}
	}
	srv.Restart(t)
	if got := string(readAll(t, s, "scans/x/y")); got != "x" {
		t.Errorf("after the restart the object is %q", got)
	}
}

func TestEncryptionIsAskedForWithEveryPut(t *testing.T) {
	t.Parallel()
	srv := s3test.Shared(t)
	faults := s3test.NewFaults()
	t.Cleanup(faults.Close)
	strip := func(r *http.Request) { // what was asked for stays in a header of no meaning
		r.Header.Set("X-Asked", r.Header.Get("X-Amz-Server-Side-Encryption")+" "+r.Header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"))
	}
	s, _ := s3Store(t, srv, func(c *files.S3, o *files.S3Options) {
		c.SSE, c.SSEKMSKeyID = files.SSEKMS, "alias/vega"
		o.AWS.HTTPClient = faults
	})
	ok := func(r *http.Request) *http.Response {
		body := `<InitiateMultipartUploadResult><UploadId>U</UploadId></InitiateMultipartUploadResult>`
		if request("complete")(r) {
			body = `<CompleteMultipartUploadResult/>`
		}
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Etag": {`"e"`}}, Body: io.NopCloser(strings.NewReader(body))}
	}
	faults.Add(s3test.Rule{Hook: strip, Answer: func(r *http.Request) *http.Response {
		if r.Body != nil {
			_, _ = io.Copy(io.Discard, r.Body)
		}
		return ok(r)
	}})
	for _, size := range []int{10, 9 << 20} {
		if _, err := s.Put(t.Context(), "scans/x/y", bytes.NewReader(random(size))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.BeginUpload(t.Context(), "uploads/x", false); err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, r := range faults.Seen() {
		if request("put")(r) || request("create")(r) {
			asked++
			if got := r.Header.Get("X-Asked"); got != "aws:kms alias/vega" {
				t.Errorf("%s %s asks for %q", r.Method, r.URL, got)
			}
		}
	}
	if asked != 3 {
		t.Errorf("%d requests that make an object, want 3", asked)
	}
}

func readAll(t testing.TB, s files.Store, key string) []byte {
	t.Helper()
	r, size, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil || int64(len(b)) != size {
		t.Fatalf("read %s: %d of %d bytes, %v", key, len(b), size, err)
	}
	return b
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

package files_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"vega/services/files"
	"vega/services/files/s3test"
)

// follow makes a signed request with nothing but net/http.
func follow(t *testing.T, l files.Link, body []byte) (int, http.Header, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), l.Method, l.URL, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range l.Header {
		req.Header[k] = v
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, got
}

func TestAClientUploadsPartByPartAndAnotherGoesOn(t *testing.T) {
	t.Parallel()
	srv := s3test.Shared(t)
	for _, sums := range []bool{false, true} {
		t.Run(fmt.Sprintf("sums=%t", sums), func(t *testing.T) {
			t.Parallel()
			first, c := s3Store(t, srv, nil)
			content := random(12 << 20)
			const key, part = "uploads/u1/source", 5 << 20
			pieces := slices.Collect(slices.Chunk(content, part))
			id, err := first.BeginUpload(t.Context(), key, sums)
			if err != nil {
				t.Fatal(err)
			}
			send := func(s *files.S3Store, n int) {
				t.Helper()
				p := files.Part{Number: int32(n), Bytes: int64(len(pieces[n-1]))}
				if sums {
					p.SHA256 = digest(pieces[n-1])
				}
				l, err := s.SignPart(t.Context(), key, id, p)
				if err != nil {
					t.Fatal(err)
				}
				if status, _, body := follow(t, l, pieces[n-1]); status != http.StatusOK {
					t.Fatalf("part %d: %d %s", n, status, body)
				}
			}
			send(first, 3)
			send(first, 1)
			send(first, 1) // a part may be sent again

			// The client is killed here, and the API process with it. Another one sees what has arrived.
			second, err := files.OpenS3(t.Context(), c, files.S3Options{AWS: srv.Config()}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			parts, err := second.Parts(t.Context(), key, id)
			if err != nil || len(parts) != 2 || parts[0].Number != 1 || parts[1].Number != 3 || parts[0].Bytes != part || parts[1].Bytes != 2<<20 || parts[0].Received.IsZero() {
				t.Fatalf("Parts = %+v, %v; want 1 and 3", parts, err)
			}
			if sums && parts[0].SHA256 != digest(pieces[0]) {
				t.Errorf("part 1 has the sum %q, want %q", parts[0].SHA256, digest(pieces[0]))
			}
			if _, err := second.Stat(t.Context(), key); !errors.Is(err, files.ErrNotFound) {
				t.Errorf("Stat before the completion = %v, want ErrNotFound", err)
			}
			send(second, 2)
			if parts, err = second.Parts(t.Context(), key, id); err != nil {
				t.Fatal(err)
			}
			for range 2 { // its answer may be lost
				o, err := second.CompleteUpload(t.Context(), key, id, parts)
				if err != nil || o.Bytes != int64(len(content)) {
					t.Fatalf("CompleteUpload = %+v, %v", o, err)
				}
			}
			if got := readAll(t, first, key); !bytes.Equal(got, content) {
				t.Errorf("the object has %d other bytes", len(got))
			}
			if _, err := second.Parts(t.Context(), key, id); !errors.Is(err, files.ErrNotFound) {
				t.Errorf("Parts after the completion = %v, want ErrNotFound", err)
			}
			if err := second.AbortUpload(t.Context(), key, id); err != nil {
				t.Errorf("AbortUpload after the completion = %v", err)
			}
			if got := readAll(t, first, key); len(got) != len(content) {
				t.Error("the abort removed the object")
			}
		})
	}
}

func TestWhatAClientMayNotDoWithALink(t *testing.T) {
	t.Parallel()
	s, _ := s3Store(t, s3test.Shared(t), nil)
	id, err := s.BeginUpload(t.Context(), "uploads/u", true)
	if err != nil {
		t.Fatal(err)
	}
	content := random(1000)
	sign := func(p files.Part) files.Link {
		t.Helper()
		l, err := s.SignPart(t.Context(), "uploads/u", id, p)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for name, test := range map[string]struct {
		part   files.Part
		change func(*files.Link)
		body   []byte
	}{
		"other bytes than the sum says": {files.Part{Number: 1, SHA256: digest(content)}, nil, random(999)},
		"more bytes than signed":        {files.Part{Number: 1, Bytes: 1000, SHA256: digest(random(1001))}, nil, random(1001)},
		"another part":                  {files.Part{Number: 1, SHA256: digest(content)}, func(l *files.Link) { l.URL = strings.Replace(l.URL, "partNumber=1", "partNumber=2", 1) }, content},
		"another object":                {files.Part{Number: 1, SHA256: digest(content)}, func(l *files.Link) { l.URL = strings.Replace(l.URL, "uploads/u", "uploads/v", 1) }, content},
		"reading":                       {files.Part{Number: 1, SHA256: digest(content)}, func(l *files.Link) { l.Method = http.MethodGet }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := sign(test.part)
			if test.change != nil {
				test.change(&l)
			}
			if status, _, body := follow(t, l, test.body); status < 400 || status > 499 {
				t.Errorf("the server answers %d %s", status, body)
			}
		})
	}
	for _, p := range []files.Part{{}, {Number: 10_001}, {Number: -1}, {Number: 1, Bytes: -1}, {Number: 1, SHA256: "sha256:12"}, {Number: 1, SHA256: "md5"}} {
		if _, err := s.SignPart(t.Context(), "uploads/u", id, p); !errors.Is(err, files.ErrBadPart) {
			t.Errorf("SignPart(%+v) = %v, want ErrBadPart", p, err)
		}
	}
}

func TestPartsThatMakeNoObject(t *testing.T) {
	t.Parallel()
	s, c := s3Store(t, s3test.Shared(t), nil)
	id, err := s.BeginUpload(t.Context(), "uploads/u", false)
	if err != nil {
		t.Fatal(err)
	}
	for n := range int32(2) {
		l, err := s.SignPart(t.Context(), "uploads/u", id, files.Part{Number: n + 1})
		if err != nil {
			t.Fatal(err)
		}
		if status, _, body := follow(t, l, random(1000)); status != http.StatusOK {
			t.Fatalf("part: %d %s", status, body)
		}
	}
	parts, err := s.Parts(t.Context(), "uploads/u", id)
	if err != nil {
		t.Fatal(err)
	}
	for name, given := range map[string][]files.Part{
		"too small":     parts,
		"wrong order":   {parts[1], parts[0]},
		"never arrived": {parts[0], {Number: 7, ETag: `"0123456789abcdef0123456789abcdef"`}},
		"none":          {},
	} {
		if _, err := s.CompleteUpload(t.Context(), "uploads/u", id, given); !errors.Is(err, files.ErrBadPart) {
			t.Errorf("%s: CompleteUpload = %v, want ErrBadPart", name, err)
		}
	}
	var unfinished []files.Upload
	for u, err := range s.Uploads(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		unfinished = append(unfinished, u)
	}
	if len(unfinished) != 1 || unfinished[0].Key != "uploads/u" || !strings.HasSuffix(id, "~"+unfinished[0].ID) || time.Since(unfinished[0].Begun).Abs() > time.Minute {
		t.Fatalf("Uploads = %+v, want the one with the id %s", unfinished, id)
	}
	for range 2 {
		if err := s.AbortUpload(t.Context(), "uploads/u", unfinished[0].ID); err != nil {
			t.Errorf("AbortUpload = %v", err)
		}
	}
	if _, err := s.CompleteUpload(t.Context(), "uploads/u", id, parts[:1]); !errors.Is(err, files.ErrNotFound) {
		t.Errorf("CompleteUpload after the abort = %v, want ErrNotFound", err)
	}
	if keys, n := s3test.Shared(t).Objects(t, c.Source); len(keys)+n > 0 {
		t.Errorf("%q and %d uploads are left", keys, n)
	}
}

func TestACompletionWhoseAnswerIsLostSucceeds(t *testing.T) {
	t.Parallel()
	s, _, faults := faulty(t, s3test.Shared(t))
	id, err := s.BeginUpload(t.Context(), "uploads/u", false)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.SignPart(t.Context(), "uploads/u", id, files.Part{Number: 1})
	if err != nil {
		t.Fatal(err)
	}
	follow(t, l, []byte("content"))
	parts, err := s.Parts(t.Context(), "uploads/u", id)
	if err != nil {
		t.Fatal(err)
	}
	faults.Add(s3test.Rule{Match: request("complete"), Lost: s3test.ErrCut})
	if o, err := s.CompleteUpload(t.Context(), "uploads/u", id, parts); err != nil || o.Bytes != 7 {
		t.Errorf("CompleteUpload = %+v, %v", o, err)
	}
}

func TestALinkServesTheObjectAsItSays(t *testing.T) {
	t.Parallel()
	srv := s3test.Shared(t)
	s, _ := s3Store(t, srv, nil)
	if _, err := s.Put(t.Context(), "exports/e/report.sarif", strings.NewReader("{}")); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	l, err := s.SignGet(t.Context(), "exports/e/report.sarif", files.Download{MediaType: "application/sarif+json", Name: `attachment; filename="x.sarif"`})
	if err != nil {
		t.Fatal(err)
	}
	if life := l.Expires.Sub(before); life < 15*time.Minute || life > 16*time.Minute {
		t.Errorf("the link lives %v, want 15m", life)
	}
	status, h, body := follow(t, l, nil)
	if status != http.StatusOK || string(body) != "{}" || h.Get("Content-Type") != "application/sarif+json" || h.Get("Content-Disposition") != `attachment; filename="x.sarif"` {
		t.Errorf("the link gives %d %q with %v", status, body, h)
	}
	l.URL = strings.Replace(l.URL, "report.sarif", "other", 1)
	if status, _, _ := follow(t, l, nil); status != http.StatusForbidden {
		t.Errorf("a changed link gives %d, want 403", status)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("link made", "link", l)
	if printed := fmt.Sprintf("%v %s %+v", l, l, l) + log.String(); strings.Contains(printed, "Signature") {
		t.Errorf("a link is printed with its signature: %s", printed)
	}
}

func TestLinksNameTheAddressThatClientsUse(t *testing.T) {
	t.Parallel()
	srv := s3test.Shared(t)
	here := srv.URL
	s, _ := s3Store(t, srv, func(c *files.S3, o *files.S3Options) {
		c.PublicEndpoint = here
		o.AWS.BaseEndpoint = aws.String(strings.Replace(here, "127.0.0.1", "localhost", 1))
	})
	if _, err := s.Put(t.Context(), "exports/x", strings.NewReader("content")); err != nil {
		t.Fatal(err)
	}
	l, err := s.SignGet(t.Context(), "exports/x", files.Download{})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(l.URL)
	if err != nil || "http://"+u.Host != here || u.Query().Get("X-Amz-Expires") != "900" {
		t.Errorf("the link is %s, want one to %s for 900 s", l.URL, here)
	}
	if status, _, body := follow(t, l, nil); status != http.StatusOK || string(body) != "content" {
		t.Errorf("the link gives %d %s", status, body)
	}
}

func TestKeysLieInTheirBucketsAndAreListedAsOneSpace(t *testing.T) {
	t.Parallel()
	srv := s3test.Shared(t)
	s, c := s3Store(t, srv, nil)
	keys := []string{"exports/e", "scans/a/1", "scans/a/2", "snapshots/d/manifest", "uploads/u"}
	for _, key := range keys {
		if _, err := s.Put(t.Context(), key, strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
	}
	for bucket, want := range map[string][]string{c.Exports: keys[:1], c.Artifacts: keys[1:3], c.Source: keys[3:]} {
		if got, _ := srv.Objects(t, bucket); !slices.Equal(got, want) {
			t.Errorf("%s holds %q, want %q", bucket, got, want)
		}
	}
	for prefix, want := range map[string][]string{"": keys, "s": keys[1:4], "sc": keys[1:3], "scans/a/2": keys[2:3], "u": keys[4:], "uploads/": keys[4:], "x": nil, "scans.": nil} {
		var got []string
		for o, err := range s.List(t.Context(), prefix) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, o.Key)
		}
		if !slices.Equal(got, want) {
			t.Errorf("List(%q) = %q, want %q", prefix, got, want)
		}
	}
}

func TestAMissingBucketIsNotAMissingObject(t *testing.T) {
	t.Parallel()
	s, _ := s3Store(t, s3test.Shared(t), func(c *files.S3, _ *files.S3Options) { c.Source = "not-there-either" })
	_, serr := s.Stat(t.Context(), "snapshots/x")
	_, _, oerr := s.Open(t.Context(), "snapshots/x")
	for what, err := range map[string]error{"Stat": serr, "Open": oerr, "Delete": s.Delete(t.Context(), "snapshots/x"), "Ready": s.Ready(t.Context())} {
		if err == nil || errors.Is(err, files.ErrNotFound) || !strings.Contains(err.Error(), "VEGA_S3_SOURCE_BUCKET does not exist") {
			t.Errorf("%s = %v, want an error that names the bucket's variable", what, err)
		}
	}
}

package maintenance_test

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"vega/events/eventstore/natstest"
	"vega/services/files"
	"vega/services/files/s3test"
	"vega/services/maintenance"
)

var retention = maintenance.Config{ExportRetentionDays: 7, UploadRetentionHours: 24}

func TestExportsAndUploadsAreRemovedByAge(t *testing.T) {
	t.Parallel()
	local, err := files.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { local.Close() })
	for name, store := range map[string]files.Store{"local": local, "s3": bucketStore(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, key := range []string{"exports/scan_test_a/x.sarif", "uploads/repo_test_a/mark", "scans/scan_test_a/1-2/aa/x"} {
				if _, err := store.Put(t.Context(), key, strings.NewReader("x")); err != nil {
					t.Fatal(err)
				}
			}
			admin := natstest.Open(t)
			m := maintenance.New(maintenance.Parts{Store: admin, Files: store, Log: slog.New(slog.DiscardHandler)}, maintenance.Options{Config: retention})
			forever := maintenance.New(maintenance.Parts{Store: admin, Files: store, Log: slog.New(slog.DiscardHandler)}, maintenance.Options{})
			for _, step := range []struct {
				m    *maintenance.Maintenance
				in   time.Duration
				gone []string
				kept []string
			}{
				{forever, 1000 * 24 * time.Hour, nil, []string{"exports/scan_test_a/x.sarif", "uploads/repo_test_a/mark"}},
				{m, 23 * time.Hour, nil, []string{"exports/scan_test_a/x.sarif", "uploads/repo_test_a/mark"}},
				{m, 25 * time.Hour, []string{"uploads/repo_test_a/mark"}, []string{"exports/scan_test_a/x.sarif"}},
				{m, 8 * 24 * time.Hour, []string{"exports/scan_test_a/x.sarif"}, []string{"scans/scan_test_a/1-2/aa/x"}},
			} {
				r, err := step.m.Clean(t.Context(), time.Now().Add(step.in))
				if err != nil || r.Objects != len(step.gone) {
					t.Errorf("after %v: Clean = %+v, %v; want %d objects", step.in, r, err, len(step.gone))
				}
				for _, key := range step.gone {
					if _, err := store.Stat(t.Context(), key); !errors.Is(err, files.ErrNotFound) {
						t.Errorf("after %v: %s: %v, want ErrNotFound", step.in, key, err)
					}
				}
				for _, key := range step.kept {
					if _, err := store.Stat(t.Context(), key); err != nil {
						t.Errorf("after %v: %v", step.in, err)
					}
				}
			}
		})
	}
}

func TestAbandonedUploadsAreAborted(t *testing.T) {
	t.Parallel()
	store := bucketStore(t)
	const key = "uploads/repo_test_a/mark"
	empty, err := store.BeginUpload(t.Context(), "uploads/repo_test_a/empty", false)
	if err != nil {
		t.Fatal(err)
	}
	id, err := store.BeginUpload(t.Context(), key, false)
	if err != nil {
		t.Fatal(err)
	}
	link, err := store.SignPart(t.Context(), key, id, files.Part{Number: 1})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), link.Method, link.URL, bytes.NewReader(make([]byte, 1000)))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("part: %v %v", resp, err)
	}
	resp.Body.Close()
	m := maintenance.New(maintenance.Parts{Store: natstest.Open(t), Files: store, Log: slog.New(slog.DiscardHandler)}, maintenance.Options{Config: retention})
	if r, err := m.Clean(t.Context(), time.Now().Add(23*time.Hour)); err != nil || r.Uploads != 0 {
		t.Errorf("Clean = %+v, %v; want nothing aborted", r, err)
	}
	if parts, err := store.Parts(t.Context(), key, id); err != nil || len(parts) != 1 {
		t.Errorf("Parts = %v, %v; want the one that was sent", parts, err)
	}
	if r, err := m.Clean(t.Context(), time.Now().Add(25*time.Hour)); err != nil || r.Uploads != 2 || r.Bytes != 1000 {
		t.Errorf("Clean = %+v, %v; want both aborted", r, err)
	}
	for key, id := range map[string]string{key: id, "uploads/repo_test_a/empty": empty} {
		if _, err := store.Parts(t.Context(), key, id); !errors.Is(err, files.ErrNotFound) {
			t.Errorf("Parts of %s = %v, want ErrNotFound", key, err)
		}
	}
	if got := m.Status().Removed.Uploads; got != 2 {
		t.Errorf("status counts %d uploads, want 2", got)
	}
}

func TestAnUploadThatStillReceivesPartsIsLeft(t *testing.T) {
	t.Parallel()
	now := time.Now()
	local, err := files.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { local.Close() })
	store := &slowUploads{Local: local, parts: map[string][]files.Part{
		"moves":  {{Number: 1, Received: now.Add(-47 * time.Hour)}, {Number: 2, Received: now.Add(-time.Hour)}},
		"stands": {{Number: 1, Received: now.Add(-47 * time.Hour)}},
		"empty":  {},
	}}
	m := maintenance.New(maintenance.Parts{Store: natstest.Open(t), Files: store, Log: slog.New(slog.DiscardHandler)}, maintenance.Options{Config: retention})
	if _, err := m.Clean(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	slices.Sort(store.aborted)
	if want := []string{"empty", "stands"}; !slices.Equal(store.aborted, want) {
		t.Errorf("aborted %q, want %q", store.aborted, want)
	}
}

// slowUploads has uploads that began two days ago, and one that has ended meanwhile.
type slowUploads struct {
	*files.Local
	parts   map[string][]files.Part
	aborted []string
}

func (s *slowUploads) Uploads(context.Context) iter.Seq2[files.Upload, error] {
	return func(yield func(files.Upload, error) bool) {
		for _, id := range []string{"ended", "moves", "stands", "empty"} {
			if !yield(files.Upload{Key: "uploads/r/" + id, ID: id, Begun: time.Now().Add(-48 * time.Hour)}, nil) {
				return
			}
		}
	}
}

func (s *slowUploads) Parts(_ context.Context, _, id string) ([]files.Part, error) {
	if p, ok := s.parts[id]; ok {
		return p, nil
	}
	return nil, files.ErrNotFound
}

func (s *slowUploads) AbortUpload(_ context.Context, _, id string) error {
	s.aborted = append(s.aborted, id)
	return nil
}

// bucketStore is a store of new buckets.
func bucketStore(t *testing.T) *files.S3Store {
	t.Helper()
	srv := s3test.Start(t)
	c := files.S3{PathStyle: true, PresignLife: time.Minute}
	c.Source, c.Artifacts, c.Exports = srv.Buckets(t)
	s, err := files.OpenS3(t.Context(), c, files.S3Options{AWS: srv.Config()}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

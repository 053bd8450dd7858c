package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"path"
	"slices"
	"strconv"
	"time"

	"vega/events"
	"vega/projections"
	"vega/services/files"
	"vega/services/scan"
)

type artifactBody struct {
	Name      string        `json:"name"`
	Stage     string        `json:"stage"`
	Digest    events.Digest `json:"digest"`
	Bytes     int64         `json:"bytes"`
	MediaType string        `json:"media_type"`
}

// artifacts are what the recorded stages of a scan left for people, by name; a later stage's file replaces an earlier one's.
func artifacts(r projections.Scan) []artifactRow {
	var rows []artifactRow
	for _, st := range r.Stages {
		for _, o := range st.Artifacts {
			rows = slices.DeleteFunc(rows, func(x artifactRow) bool { return x.object.Name == o.Name })
			rows = append(rows, artifactRow{st.Stage, o})
		}
	}
	return rows
}

// allArtifacts are also those of the pieces of a stage that has not ended: a scan that was cancelled, failed or goes on has them in its log alone.
func (s *Server) allArtifacts(ctx context.Context, r projections.Scan) ([]artifactRow, error) {
	rows := artifacts(r)
	if r.Status == scan.Completed || len(r.Units) == 0 {
		return rows, nil
	}
	past, _, err := s.Store.Load(ctx, events.ScanOf(s.region, r.ID), events.Head{})
	if err != nil {
		return nil, err
	}
	for _, recorded := range past {
		u, ok := recorded.Event.(events.UnitCompleted)
		if !ok {
			continue
		}
		for _, o := range u.Artifacts {
			if !slices.ContainsFunc(rows, func(x artifactRow) bool { return x.object.Name == o.Name }) {
				rows = append(rows, artifactRow{u.Stage, o})
			}
		}
	}
	return rows, nil
}

type artifactRow struct {
	stage  string
	object events.Object
}

func (s *Server) listArtifacts(ctx context.Context, _ *nothing) (*many[artifactBody], error) {
	rows, err := s.allArtifacts(ctx, callOf(ctx).scan)
	if err != nil {
		return nil, err
	}
	return list(rows, "", func(r artifactRow) artifactBody {
		return artifactBody{r.object.Name, r.stage, r.object.Digest, r.object.Bytes, r.object.MediaType}
	}), nil
}

// getArtifact serves a file that an event of the scan vouches for, and only the bytes that the event recorded: what has another digest breaks off
// before its end.
func (s *Server) getArtifact(w http.ResponseWriter, r *http.Request) error {
	return s.artifact(w, r, r.PathValue("*"))
}

func (s *Server) artifact(w http.ResponseWriter, r *http.Request, name string) error {
	rows, err := s.allArtifacts(r.Context(), callOf(r.Context()).scan)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(rows, func(x artifactRow) bool { return x.object.Name == name })
	if i < 0 {
		return errNotFound
	}
	o := rows[i].object
	in, size, err := s.Files.Open(r.Context(), o.Key)
	if err != nil {
		return fmt.Errorf("artifact: %w", err)
	}
	defer in.Close()
	if size != o.Bytes {
		return fmt.Errorf("artifact: %w", files.ErrCorrupt)
	}
	h := w.Header()
	h.Set("Content-Type", mediaType(o.MediaType))
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	h.Set("Content-Disposition", attachment(o.Name))
	h.Set("Content-Security-Policy", "sandbox")
	h.Set("ETag", strconv.Quote(string(o.Digest)))
	if err := copyProven(w, files.Verify(in, string(o.Digest))); err != nil {
		if errors.Is(err, files.ErrCorrupt) {
			s.log.Error("stored object does not match its digest", "scan_id", callOf(r.Context()).scan.ID, "err", err)
		}
		panic(http.ErrAbortHandler) // the answer has begun: cut it off, so that nobody takes it for whole
	}
	return nil
}

// attachment is the Content-Disposition of a file to be saved.
func attachment(name string) string {
	return mime.FormatMediaType("attachment", map[string]string{"filename": path.Base(name)})
}

// mediaType lets a recorded type through when it is one.
func mediaType(s string) string {
	if _, _, err := mime.ParseMediaType(s); err != nil {
		return "application/octet-stream"
	}
	return s
}

// copyProven copies in, one piece behind what it has read: the last piece goes out only when the reader has proven the whole.
func copyProven(w http.ResponseWriter, in io.Reader) error {
	rc := http.NewResponseController(w)
	var held []byte
	buf, spare := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(in, buf)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return err
		}
		// The read deadline would end the request's context in the middle of a long download.
		_ = errors.Join(rc.SetWriteDeadline(time.Now().Add(streamIdle)), rc.SetReadDeadline(time.Time{})) // a connection without deadlines is a test's
		if _, err := w.Write(held); err != nil {
			return err
		}
		held = buf[:n]
		if last {
			_, err := w.Write(held)
			return err
		}
		buf, spare = spare, buf
	}
}

// readObject reads a recorded object whole and proves it: for those that are small.
func (s *Server) readObject(ctx context.Context, o events.Object) ([]byte, error) {
	in, _, err := s.Files.Open(ctx, o.Key)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return io.ReadAll(files.Verify(io.LimitReader(in, o.Bytes), string(o.Digest)))
}

package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/catalog"
	"vega/services/files"
	"vega/services/intake"
)

const (
	uploadIdle = 60 * time.Second // how long an upload may bring nothing
	leaseLife  = 30 * time.Second // how long an upload counts as alive after its process last said so
	recordTime = 10 * time.Second // how long the end of an upload is tried to be recorded
)

type uploadBody struct {
	Repository   events.RepositoryID  `json:"repository_id"`
	IngestStatus catalog.IngestStatus `json:"ingest_status"`
	Snapshot     events.SnapshotID    `json:"snapshot_id"`
	Files        int                  `json:"files"`
	Bytes        int64                `json:"bytes"`
	Warned       int                  `json:"warnings_total"`
	Sequence     events.Seq           `json:"sequence"`
}

// uploadSource takes an archive in: the body is streamed to disk, unpacked by a process of its own, and becomes a snapshot. The answer comes
// when that is done. Its life is in the log: ingest_started, then snapshot_taken or ingest_failed. A crash in between leaves it started;
// the next start of a single-machine installation ends it, and anywhere the next upload does once the lease has run out.
func (s *Server) uploadSource(w http.ResponseWriter, r *http.Request) error {
	ctx, c := r.Context(), callOf(r.Context())
	if err := takesUploads(c); err != nil {
		return err
	}
	rc := http.NewResponseController(w)
	return s.ingest(ctx, w, arrival{body: &movingReader{r.Body, rc}, declared: r.ContentLength})
}

// takesUploads refuses a repository whose source comes from elsewhere.
func takesUploads(c *call) error {
	if c.repository.SourceType == events.SourceUpload {
		return nil
	}
	return &failure{status: http.StatusConflict, code: "not_an_upload_repository", message: "this repository's source does not come from uploads",
		details: map[string]any{"source_type": c.repository.SourceType}}
}

// arrival is an archive that is coming in.
type arrival struct {
	body     io.Reader
	declared int64  // bytes; -1: not known
	sha256   string // what the whole has to hash to, "sha256:<hex>"; empty: whatever it does
	id       string // what the ingestion's id begins with; "up_" when empty
}

// ingest makes a snapshot of an archive and answers with it.
func (s *Server) ingest(ctx context.Context, w http.ResponseWriter, from arrival) error {
	c := callOf(ctx)
	s.metrics.uploads.Inc()
	defer s.metrics.uploads.Dec()
	u := &ingestion{s: s, repository: c.repository.ID, id: cmp.Or(from.id, "up_") + strings.ToLower(rand.Text())}
	if err := u.begin(ctx, c); err != nil {
		return err
	}
	defer u.release()

	// From here on the repository is ingesting: every way out records an end, also when the client is gone or the server stops.
	made, snapshot, err := u.run(ctx, w, from)
	if err != nil {
		why := u.reason(ctx, err)
		if rerr := u.fail(context.WithoutCancel(ctx), c, why); rerr != nil {
			s.log.Warn("failed upload not recorded", "repository_id", u.repository, "err", rerr)
		}
		if f, isOurs := errors.AsType[*failure](why); isOurs {
			return f
		}
		return err
	}
	s.settle(ctx, made)
	return answerUpload(w, uploadBody{u.repository, catalog.Ready, snapshot.Snapshot, snapshot.Files, snapshot.Bytes, snapshot.Warned, lastSeq(made)}, made)
}

// codeDigestMismatch says that what arrived is not what was announced.
const codeDigestMismatch = "source_digest_mismatch"

// answerUpload answers with a snapshot that was taken.
func answerUpload(w http.ResponseWriter, body uploadBody, made []events.Recorded) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Vega-Sequence", seqHeader(made))
	w.WriteHeader(http.StatusAccepted)
	return json.NewEncoder(w).Encode(body)
}

// ingestion is one upload on its way to a snapshot.
type ingestion struct {
	s          *Server
	repository events.RepositoryID
	id         string
	stop       context.CancelFunc
	renewing   sync.WaitGroup
}

func (u *ingestion) aggregate() events.Aggregate {
	return events.RepositoryOf(u.s.region, u.repository)
}

// begin takes the lease and records the start. Another ingestion of the repository is in the way only while its lease lives.
func (u *ingestion) begin(ctx context.Context, c *call) error {
	rev, err := u.s.expiring.Create(ctx, leaseKey(u.id), nil, jetstream.KeyTTL(leaseLife))
	if err != nil {
		return fmt.Errorf("%w: take upload lease: %w", eventstore.ErrUnavailable, err)
	}
	meta := c.meta(u.s.Now())
	meta.Command = events.CommandIDFor("ingest", u.id, "start")
	var asked error
	_, _, err = eventstore.Do(ctx, u.s.Store, u.aggregate(), meta, func(r catalog.Repository, h events.Head) ([]events.Event, error) {
		if err := c.matches(h.Version); err != nil {
			return nil, err
		}
		dead := false
		if r.Status == catalog.Ingesting {
			_, gerr := u.s.expiring.Get(ctx, leaseKey(r.Upload))
			dead = errors.Is(gerr, jetstream.ErrKeyNotFound)
			if gerr != nil && !dead {
				asked = fmt.Errorf("%w: look at upload lease: %w", eventstore.ErrUnavailable, gerr)
				return nil, asked
			}
		}
		return r.StartIngest(u.id, dead)
	})
	if err != nil {
		u.drop()
		return err
	}
	alive, stop := context.WithCancel(context.WithoutCancel(ctx))
	u.stop = stop
	u.renewing.Go(func() { u.renew(alive, rev) })
	return nil
}

func leaseKey(id string) string { return "upload." + id }

// renew keeps the lease until ctx ends. A plain KV update would carry no TTL and never expire.
func (u *ingestion) renew(ctx context.Context, rev uint64) {
	t := time.NewTicker(leaseLife / 3)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			ack, err := u.s.Store.JetStream().Publish(ctx, "$KV."+eventstore.ExpiringBucket+"."+leaseKey(u.id), nil,
				jetstream.WithMsgTTL(leaseLife), jetstream.WithExpectLastSequencePerSubject(rev))
			if err == nil {
				rev = ack.Sequence
			}
		case <-ctx.Done():
			return
		}
	}
}

func (u *ingestion) release() {
	u.stop()
	u.renewing.Wait()
	u.drop()
}

// drop gives the lease back; it would expire by itself.
func (u *ingestion) drop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = u.s.expiring.Purge(ctx, leaseKey(u.id), jetstream.PurgeTTL(time.Minute))
}

func (u *ingestion) run(ctx context.Context, w http.ResponseWriter, from arrival) ([]events.Recorded, events.SnapshotTaken, error) {
	none := events.SnapshotTaken{}
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Time{}) // unpacking takes as long as it takes; the answer is small
	upload, err := u.s.Intake.Receive(ctx, from.body, from.declared)
	if err != nil {
		return nil, none, err
	}
	defer upload.Close()
	if from.sha256 != "" && upload.Digest != from.sha256 {
		return nil, none, &failure{status: http.StatusUnprocessableEntity, code: codeDigestMismatch, message: "sha256: the source that arrived has another digest",
			details: map[string]any{"value": upload.Digest}}
	}
	_ = rc.SetReadDeadline(time.Time{})
	// The bytes are here. A client that goes away now still gets its snapshot; only a stop of the server ends the work.
	call := callOf(ctx)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(u.s.closing, cancel)()
	snapshot, err := u.s.Intake.Inspect(ctx, upload)
	if err != nil {
		return nil, none, err
	}
	defer snapshot.Close()
	return u.keep(ctx, call, snapshot)
}

// keep stores a snapshot's objects and records it.
func (u *ingestion) keep(ctx context.Context, c *call, snapshot *intake.Snapshot) ([]events.Recorded, events.SnapshotTaken, error) {
	u.s.objects.RLock() // no deletion removes what is about to become known
	defer u.s.objects.RUnlock()
	taken := events.SnapshotTaken{Upload: u.id, Snapshot: events.SnapshotID(snapshot.ID), Files: snapshot.Files, Bytes: snapshot.Bytes, Warned: len(snapshot.Warnings)}
	for _, x := range snapshot.Warnings {
		taken.Warnings = append(taken.Warnings, events.IngestWarning{Path: x.Path, Code: x.Code})
	}
	taken.Manifest = events.Object{Name: "manifest.jsonl", Key: intake.ManifestKey(snapshot.ID), Digest: events.Digest(snapshot.ID), Bytes: snapshot.ManifestBytes, MediaType: "application/x-ndjson"}
	taken.Pack = events.Object{Name: "pack.tar.zst", Key: intake.PackKey(snapshot.ID), Bytes: snapshot.PackBytes, MediaType: "application/zstd"}
	has := func(ctx context.Context, key string) (bool, error) {
		_, err := u.s.Files.Stat(ctx, key)
		if errors.Is(err, files.ErrNotFound) {
			return false, nil
		}
		return err == nil, err
	}
	err := snapshot.Save(ctx, has, func(ctx context.Context, key string, in io.Reader) error {
		o, err := u.s.Files.Put(ctx, key, in)
		if key == taken.Pack.Key {
			taken.Pack.Digest, taken.Pack.Bytes = events.Digest(o.Digest), o.Bytes
		}
		return err
	})
	if err != nil {
		return nil, taken, err
	}
	// A crash here leaves objects that no event names; the next upload of the same tree uses them.
	if taken.Pack.Digest == "" { // the tree was there already; its pack may come from another archive
		if taken.Pack.Digest, taken.Pack.Bytes, err = u.s.digestOf(ctx, taken.Pack.Key); err != nil {
			return nil, taken, err
		}
	}
	meta := c.meta(u.s.Now())
	meta.Command = events.CommandIDFor("ingest", u.id, "end")
	_, made, err := eventstore.Do(ctx, u.s.Store, u.aggregate(), meta, func(r catalog.Repository, _ events.Head) ([]events.Event, error) {
		return r.FinishIngest(taken)
	})
	if err == nil {
		// Another process may have removed the objects, as nobody's, after this one found them and before the event.
		serr := snapshot.Save(ctx, has, func(ctx context.Context, key string, in io.Reader) error {
			_, err := u.s.Files.Put(ctx, key, in)
			return err
		})
		if serr != nil {
			u.s.log.Warn("snapshot not looked at again", "repository_id", u.repository, "err", serr)
		}
		u.s.settle(ctx, made)
	}
	return made, taken, err
}

// digestOf reads a stored object to its end.
func (s *Server) digestOf(ctx context.Context, key string) (events.Digest, int64, error) {
	in, _, err := s.Files.Open(ctx, key)
	if err != nil {
		return "", 0, err
	}
	defer in.Close()
	h := sha256.New()
	n, err := io.Copy(h, in)
	return events.Digest("sha256:" + hex.EncodeToString(h.Sum(nil))), n, err
}

// reason says why an ingestion ended, in the terms of its event.
func (u *ingestion) reason(ctx context.Context, err error) error {
	if _, refused := errors.AsType[*intake.Refusal](err); refused {
		return err
	}
	f := explain(err)
	_, client := errors.AsType[*bodyError](err)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &failure{status: http.StatusRequestTimeout, code: "upload_interrupted", message: fmt.Sprintf("the upload stood still for %s", uploadIdle), retryable: true, cause: err}
	case u.s.closing.Err() != nil:
		return &failure{status: http.StatusServiceUnavailable, code: "upload_interrupted", message: "the server was stopped during the upload", retryable: true, retryAfter: time.Second, cause: err}
	case client, ctx.Err() != nil:
		return &failure{status: statusClientGone, code: "upload_interrupted", message: "the upload ended before all of it was here", retryable: true, cause: err}
	}
	return f
}

// fail records the end of an ingestion that did not work.
func (u *ingestion) fail(ctx context.Context, c *call, why error) error {
	ctx, cancel := context.WithTimeout(ctx, recordTime)
	defer cancel()
	f := explain(why)
	meta := c.meta(u.s.Now())
	meta.Command = events.CommandIDFor("ingest", u.id, "end")
	_, made, err := eventstore.Do(ctx, u.s.Store, u.aggregate(), meta, func(r catalog.Repository, _ events.Head) ([]events.Event, error) {
		return r.FailIngest(events.IngestFailed{Upload: u.id, Code: f.code, Message: f.message, Details: f.details})
	})
	if err != nil {
		return err
	}
	u.s.settle(ctx, made)
	return nil
}

// movingReader gives the client more time with every piece that arrives.
type movingReader struct {
	from io.Reader
	rc   *http.ResponseController
}

func (m *movingReader) Read(p []byte) (int, error) {
	_ = m.rc.SetReadDeadline(time.Now().Add(uploadIdle)) // a connection without deadlines is a test's
	n, err := m.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &bodyError{err}
	}
	return n, err
}

// bodyError marks an error of the client's end of an upload.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "read body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// refusalDetails are a refused archive's facts by name.
func refusalDetails(r *intake.Refusal) map[string]any {
	d := map[string]any{}
	if r.Entry != "" {
		d["entry"] = r.Entry
	}
	if r.Limit != "" {
		d["limit_name"], d["limit"], d["value"] = r.Limit, r.LimitValue, r.Value
	}
	return d
}

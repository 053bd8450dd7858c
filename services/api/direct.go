package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"vega/events"
	"vega/services/catalog"
	"vega/services/files"
)

// A direct upload goes from the client to the file storage in parts, over links that this API signs, and comes back as a whole to be checked and taken in like
// any other. Nothing about it is kept here: its id names the object and the storage's own upload, so it can be resumed through any process, after any
// crash. One that is never completed is removed by maintenance.

// partBytes is the size of a part that is proposed; the storage takes at most maxParts.
const (
	partBytes = 16 << 20
	minPart   = 5 << 20
	maxParts  = 10_000
)

// directUpload is what an upload's id says.
type directUpload struct {
	key   string // of the object
	store string // the storage's id
}

func (s *Server) direct() (files.Direct, error) {
	d, ok := s.Files.(files.Direct)
	if !ok {
		return nil, fail(http.StatusConflict, "direct_uploads_off", "the file storage of this installation takes no direct uploads (VEGA_FILE_STORAGE_BACKEND=s3 does); send the archive to POST …/source")
	}
	return d, nil
}

// sumsMark ends the mark of an upload whose parts have to be signed with their sums.
const sumsMark = "-sums"

// readUpload takes the id of the path apart. It names only uploads to the repository of the path.
func readUpload(c *call, id string) (directUpload, error) {
	mark, rest, ok := strings.Cut(id, ".")
	store, err := base64.RawURLEncoding.DecodeString(rest)
	key := directKey(c.repository.ID, mark)
	if !ok || err != nil || len(id) > 3000 || len(store) == 0 || files.CheckKey(key) != nil || strings.ContainsAny(mark, "/.") {
		return directUpload{}, errNotFound
	}
	return directUpload{key, string(store)}, nil
}

func directKey(r events.RepositoryID, mark string) string {
	return "uploads/" + string(r) + "/" + mark
}

type uploadBegin struct {
	Bytes int64 `json:"bytes,omitempty" minimum:"0" doc:"Size of the archive, when it is known: one that is too large is refused at once"`
	Sums  bool  `json:"part_sha256,omitempty" doc:"Every part will be signed with its SHA-256, which the storage then insists on"`
}

type uploadBegun struct {
	ID    string `json:"upload_id"`
	Part  int64  `json:"part_bytes" doc:"Send parts of this size; all but the last need at least 5 MiB"`
	Parts int    `json:"max_parts"`
}

type uploadBeginIn struct {
	Body *uploadBegin
}

// beginUpload starts a direct upload. A crash, or a lost answer, leaves an upload without parts.
func (s *Server) beginUpload(ctx context.Context, in *uploadBeginIn) (*plain[uploadBegun], error) {
	c := callOf(ctx)
	store, err := s.direct()
	if err != nil {
		return nil, err
	}
	if err := takesUploads(c); err != nil {
		return nil, err
	}
	var ask uploadBegin
	if in.Body != nil {
		ask = *in.Body
	}
	if err := s.Intake.CheckSize(ask.Bytes); err != nil {
		return nil, err
	}
	mark := strings.ToLower(rand.Text())
	if ask.Sums {
		mark += sumsMark
	}
	id, err := store.BeginUpload(ctx, directKey(c.repository.ID, mark), ask.Sums)
	if err != nil {
		return nil, err
	}
	const mib = 1 << 20
	part := max(partBytes, (ask.Bytes/maxParts+mib)/mib*mib)
	return &plain[uploadBegun]{Body: uploadBegun{mark + "." + base64.RawURLEncoding.EncodeToString([]byte(id)), part, maxParts}}, nil
}

type uploadPath struct {
	ID string `path:"upload_id" maxLength:"4000"`
}

type partRequest struct {
	Number int32  `json:"number" minimum:"1" maximum:"10000"`
	Bytes  int64  `json:"bytes,omitempty" minimum:"0" doc:"The part's size, which the storage then insists on"`
	SHA256 string `json:"sha256,omitempty" maxLength:"71" doc:"sha256:<hex> of the part; required when the upload was begun with part_sha256"`
}

type partsIn struct {
	ID   string `path:"upload_id" maxLength:"4000"`
	Body struct {
		Parts []partRequest `json:"parts" minItems:"1" maxItems:"1000"`
	}
}

// linkBody is what a client needs of a link.
type linkBody struct {
	Method  string
	URL     string
	Headers map[string]string
	Expires time.Time
}

func shapeLink(l files.Link) linkBody {
	b := linkBody{l.Method, l.URL, map[string]string{}, l.Expires.UTC()}
	for name := range l.Header {
		b.Headers[name] = l.Header.Get(name)
	}
	return b
}

type partLink struct {
	Number  int32             `json:"number"`
	Method  string            `json:"method"`
	URL     string            `json:"url" doc:"Whoever has it can make this request until it expires"`
	Headers map[string]string `json:"headers" doc:"To be sent with it"`
	Expires time.Time         `json:"expires_at"`
}

// signParts gives the links that parts are put to. Asking again for the same part is fine; the part that arrives last counts.
func (s *Server) signParts(ctx context.Context, in *partsIn) (*many[partLink], error) {
	c := callOf(ctx)
	store, err := s.direct()
	if err != nil {
		return nil, err
	}
	u, err := readUpload(c, in.ID)
	if err != nil {
		return nil, err
	}
	if len(in.Body.Parts) == 0 {
		return nil, invalid("parts", "want at least one")
	}
	var whole int64
	seen := map[int32]bool{}
	for i, p := range in.Body.Parts {
		if seen[p.Number] {
			return nil, invalid(fmt.Sprintf("parts[%d].number", i), "want each part once")
		}
		seen[p.Number] = true
		if p.SHA256 == "" && strings.HasSuffix(u.key, sumsMark) {
			return nil, invalid(fmt.Sprintf("parts[%d].sha256", i), "want it: the upload was begun with part_sha256")
		}
		if p.SHA256 != "" && !digestForm.MatchString(p.SHA256) {
			return nil, invalid(fmt.Sprintf("parts[%d].sha256", i), "want sha256: and 64 hex digits")
		}
		whole += p.Bytes
		if err := errors.Join(s.Intake.CheckSize(p.Bytes), s.Intake.CheckSize(whole)); err != nil {
			return nil, err
		}
	}
	links := make([]partLink, len(in.Body.Parts))
	for i, p := range in.Body.Parts {
		l, err := store.SignPart(ctx, u.key, u.store, files.Part{Number: p.Number, Bytes: p.Bytes, SHA256: p.SHA256})
		if err != nil {
			return nil, err
		}
		b := shapeLink(l)
		links[i] = partLink{p.Number, b.Method, b.URL, b.Headers, b.Expires}
	}
	return list(links, "", func(l partLink) partLink { return l }), nil
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

type partBody struct {
	Number int32     `json:"number"`
	Bytes  int64     `json:"bytes"`
	SHA256 string    `json:"sha256,omitempty"`
	At     time.Time `json:"received_at"`
}

type uploadStateBody struct {
	ID    string     `json:"upload_id"`
	State string     `json:"status" enum:"receiving,whole,taken_in" doc:"whole: completed, and not taken in yet, which POST …/complete does"`
	Bytes int64      `json:"bytes" doc:"Of what has arrived; 0 once it was taken in"`
	Parts []partBody `json:"parts" doc:"What has arrived, by number: send the others"`
}

// getUpload says what has arrived: for a client that goes on after a crash.
func (s *Server) getUpload(ctx context.Context, in *uploadPath) (*plain[uploadStateBody], error) {
	out := &plain[uploadStateBody]{Body: uploadStateBody{ID: in.ID, State: "receiving", Parts: []partBody{}}}
	parts, u, _, err := s.uploadParts(ctx, in.ID)
	if errors.Is(err, errNotFound) && u.key != "" {
		return out, s.uploadEnd(ctx, u, &out.Body)
	}
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		out.Body.Bytes += p.Bytes
		out.Body.Parts = append(out.Body.Parts, partBody{p.Number, p.Bytes, p.SHA256, p.Received.UTC()})
	}
	return out, nil
}

// uploadEnd fills in what became of an upload that has no parts any more, or returns errNotFound.
func (s *Server) uploadEnd(ctx context.Context, u directUpload, b *uploadStateBody) error {
	if made, _, err := s.takenIn(ctx, u); err != nil || made != nil {
		b.State = "taken_in"
		return err
	}
	o, err := s.Files.Stat(ctx, u.key)
	b.State, b.Bytes = "whole", o.Bytes
	return noUpload(err)
}

// takenIn is what an upload became, nil when it became nothing yet.
func (s *Server) takenIn(ctx context.Context, u directUpload) (*uploadBody, []events.Recorded, error) {
	past, _, err := s.Store.Load(ctx, events.RepositoryOf(s.region, callOf(ctx).repository.ID), events.Head{})
	if err != nil {
		return nil, nil, err
	}
	for i, r := range past {
		if e, ok := r.Event.(events.SnapshotTaken); ok && strings.HasPrefix(e.Upload, u.ingestion()) {
			return &uploadBody{callOf(ctx).repository.ID, catalog.Ready, e.Snapshot, e.Files, e.Bytes, e.Warned, r.Seq}, past[i : i+1], nil
		}
	}
	return nil, nil, nil
}

// ingestion begins the ids of all ingestions of an upload: of each try one.
func (u directUpload) ingestion() string { return "up_" + hash(u.key, u.store)[:26] + "_" }

func (s *Server) uploadParts(ctx context.Context, id string) ([]files.Part, directUpload, files.Direct, error) {
	store, err := s.direct()
	if err != nil {
		return nil, directUpload{}, nil, err
	}
	u, err := readUpload(callOf(ctx), id)
	if err != nil {
		return nil, u, nil, err
	}
	parts, err := store.Parts(ctx, u.key, u.store)
	return parts, u, store, noUpload(err)
}

// noUpload makes an upload that the storage does not know the 404 that any unknown thing is.
func noUpload(err error) error {
	if errors.Is(err, files.ErrNotFound) {
		return errNotFound
	}
	return err
}

// abortUpload gives an upload up; nothing when there is none.
func (s *Server) abortUpload(ctx context.Context, in *uploadPath) (*gone, error) {
	store, err := s.direct()
	if err != nil {
		return nil, err
	}
	u, err := readUpload(callOf(ctx), in.ID)
	if err != nil {
		return nil, err
	}
	return &gone{}, store.AbortUpload(ctx, u.key, u.store)
}

type uploadCompletion struct {
	SHA256 string `json:"sha256,omitempty" doc:"sha256:<hex> of the whole archive, to be compared with what arrived"`
	Bytes  int64  `json:"bytes,omitempty" doc:"Size of the whole archive, to be compared with what arrived"`
}

// completeUpload makes one object of the parts, takes it in as uploadSource does a body, and removes it. What is wrong with the parts is said before
// anything is recorded. A crash after the object is made leaves it: the same request finds it and goes on.
func (s *Server) completeUpload(w http.ResponseWriter, r *http.Request) error {
	ctx, c := r.Context(), callOf(r.Context())
	var ask uploadCompletion
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(&ask); err != nil && !errors.Is(err, io.EOF) {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			return err
		}
		return invalid("sha256", "want a body with sha256 and bytes, or none")
	}
	switch {
	case ask.SHA256 != "" && !digestForm.MatchString(ask.SHA256):
		return invalid("sha256", "want sha256: and 64 hex digits")
	case ask.Bytes < 0:
		return invalid("bytes", "want the size of the archive")
	}
	if err := takesUploads(c); err != nil {
		return err
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // the request is read; the rest takes as long as it takes
	parts, u, store, err := s.uploadParts(ctx, r.PathValue("upload_id"))
	if err != nil && !errors.Is(err, errNotFound) {
		return err
	}
	if err == nil { // otherwise an earlier request may have completed it
		if err := s.completeParts(ctx, store, u, parts, ask.Bytes); err != nil {
			return err
		}
	}
	in, size, err := s.Files.Open(context.WithoutCancel(ctx), u.key)
	if errors.Is(err, files.ErrNotFound) {
		// Taken in before: the answer may have been lost.
		made, recorded, err := s.takenIn(ctx, u)
		if err != nil {
			return err
		}
		if made == nil {
			return errNotFound
		}
		return answerUpload(w, *made, recorded)
	}
	if err != nil {
		return err
	}
	defer in.Close()
	if ask.Bytes > 0 && ask.Bytes != size {
		return sizeMismatch(ask.Bytes, size)
	}
	err = s.ingest(ctx, w, arrival{body: in, declared: size, sha256: ask.SHA256, id: u.ingestion()})
	if f := failureOf(err); f == nil || !f.retryable && f.code != codeDigestMismatch {
		// Taken in, or refused for good; with the right sum the same bytes may be fine. A crash before this leaves the object for maintenance.
		if derr := s.Files.Delete(context.WithoutCancel(ctx), u.key); derr != nil {
			s.log.Warn("uploaded archive not removed", "repository_id", c.repository.ID, "err", derr)
		}
	}
	return err
}

// failureOf is what a client is told of err, nil when there is none.
func failureOf(err error) *failure {
	if err == nil {
		return nil
	}
	return explain(err)
}

func sizeMismatch(want, got int64) error {
	return &failure{status: http.StatusUnprocessableEntity, code: "source_size_mismatch", message: "bytes: the source that arrived has another size",
		details: map[string]any{"value": got, "bytes": want}}
}

// completeParts checks the parts and makes one object of them.
func (s *Server) completeParts(ctx context.Context, store files.Direct, u directUpload, parts []files.Part, want int64) error {
	if len(parts) == 0 {
		return fail(http.StatusConflict, "upload_incomplete", "no part has arrived")
	}
	var whole int64
	for i, p := range parts {
		whole += p.Bytes
		if p.Number != int32(i+1) {
			return &failure{status: http.StatusConflict, code: "upload_incomplete", message: fmt.Sprintf("part %d has not arrived", i+1), details: map[string]any{"part": i + 1}}
		}
		if p.Bytes < minPart && i < len(parts)-1 {
			return &failure{status: http.StatusConflict, code: "part_too_small", message: fmt.Sprintf("part %d is smaller than 5 MiB, which only the last may be; send it again", i+1),
				details: map[string]any{"part": i + 1, "limit": minPart, "value": p.Bytes}}
		}
	}
	if want > 0 && want != whole {
		return &failure{status: http.StatusConflict, code: "upload_incomplete", message: "bytes: the parts that have arrived have another size together", details: map[string]any{"value": whole, "bytes": want}}
	}
	if err := s.Intake.CheckSize(whole); err != nil {
		return errors.Join(err, store.AbortUpload(ctx, u.key, u.store))
	}
	_, err := store.CompleteUpload(ctx, u.key, u.store, parts)
	return noUpload(err)
}

// downloadIn names one file of a scan.
type downloadIn struct {
	Body struct {
		Artifact string `json:"artifact,omitempty" maxLength:"1000" doc:"The name of an artifact"`
		Export   string `json:"export,omitempty" maxLength:"20" doc:"Or the form of an export: sarif, json, csv or markdown"`
	}
}

type downloadBody struct {
	Method    string            `json:"method" enum:"GET"`
	URL       string            `json:"url" doc:"Serves the file without a token until it expires"`
	Headers   map[string]string `json:"headers" doc:"To be sent with it"`
	Expires   time.Time         `json:"expires_at"`
	Name      string            `json:"name"`
	MediaType string            `json:"media_type"`
	Digest    events.Digest     `json:"digest,omitempty" doc:"Of the content, where it is known beforehand"`
}

// createDownload makes a link to an artifact or an export that works without a token: the file storage's own where it signs links and has the file,
// else one of this API.
func (s *Server) createDownload(ctx context.Context, in *downloadIn) (*plain[downloadBody], error) {
	c := callOf(ctx)
	if (in.Body.Artifact == "") == (in.Body.Export == "") {
		return nil, invalid("artifact", "want either artifact or export")
	}
	if in.Body.Artifact != "" {
		rows, err := s.allArtifacts(ctx, c.scan)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(rows, func(x artifactRow) bool { return x.object.Name == in.Body.Artifact })
		if i < 0 {
			return nil, errNotFound
		}
		o := rows[i].object
		out := downloadBody{Name: o.Name, MediaType: mediaType(o.MediaType), Digest: o.Digest}
		if d, ok := s.Files.(files.Direct); ok {
			return s.signed(ctx, d, o.Key, attachment(o.Name), out)
		}
		return s.ownLink(ctx, download{Scan: c.scan.ID, Artifact: o.Name}, out)
	}
	form, err := formOf(in.Body.Export)
	if err != nil {
		return nil, err
	}
	out := downloadBody{Name: string(c.scan.ID) + form.suffix, MediaType: form.mediaType}
	d, ok := s.Files.(files.Direct)
	if !ok {
		return s.ownLink(ctx, download{Scan: c.scan.ID, Export: form.name}, out)
	}
	body, _, err := s.exported(ctx, form)
	if err != nil {
		return nil, err
	}
	out.Digest = events.DigestOf(body)
	key := "exports/" + string(c.scan.ID) + "/" + strings.TrimPrefix(string(out.Digest), "sha256:") + form.suffix
	_, err = s.Files.Put(ctx, key, strings.NewReader(string(body)))
	if errors.Is(err, files.ErrNoBucket) {
		out.Digest = ""
		return s.ownLink(ctx, download{Scan: c.scan.ID, Export: form.name}, out)
	}
	if err != nil {
		return nil, err
	}
	// A crash here leaves an export that nobody has the link of; maintenance removes it with the others.
	return s.signed(ctx, d, key, attachment(out.Name), out)
}

func (s *Server) signed(ctx context.Context, d files.Direct, key, disposition string, out downloadBody) (*plain[downloadBody], error) {
	l, err := d.SignGet(ctx, key, files.Download{MediaType: out.MediaType, Name: disposition})
	if err != nil {
		return nil, err
	}
	b := shapeLink(l)
	out.Method, out.URL, out.Headers, out.Expires = b.Method, b.URL, b.Headers, b.Expires
	return &plain[downloadBody]{Body: out}, nil
}

// download is what a link of this API serves.
type download struct {
	Scan     events.ScanID `json:"scan_id"`
	Artifact string        `json:"artifact,omitempty"`
	Export   string        `json:"export,omitempty"`
}

// linkLife is how long a link of this API works.
const linkLife = 15 * time.Minute

// ownLink keeps what a link serves under the hash of its token, for as long as it works. Any process of the log serves it.
func (s *Server) ownLink(ctx context.Context, what download, out downloadBody) (*plain[downloadBody], error) {
	token := strings.ToLower(rand.Text())
	v, err := json.Marshal(what)
	if err != nil {
		return nil, fmt.Errorf("write download: %w", err)
	}
	if err := s.keepFor(ctx, linkKey(token), v, linkLife); err != nil {
		return nil, err
	}
	out.Method, out.URL, out.Headers = http.MethodGet, callOf(ctx).base+s.Config.Prefix+"/downloads/"+token, map[string]string{}
	out.Expires = s.Now().UTC().Add(linkLife)
	return &plain[downloadBody]{Body: out}, nil
}

func linkKey(token string) string { return "download." + hash(token) }

// getDownload serves what a link of this API is for.
func (s *Server) getDownload(w http.ResponseWriter, r *http.Request) error {
	ctx, c := r.Context(), callOf(r.Context())
	v, err := s.kept(ctx, linkKey(r.PathValue("token")))
	if err != nil {
		return err
	}
	var what download
	if err := json.Unmarshal(v, &what); err != nil {
		return fmt.Errorf("read download: %w", err)
	}
	if c.scan, err = s.Model.Scan(ctx, what.Scan); err != nil {
		return err
	}
	if c.repository, err = s.Model.Repository(ctx, c.scan.Repository); err != nil {
		return err
	}
	if c.repository.Deleted {
		return errNotFound
	}
	if what.Export != "" {
		return s.export(w, r, what.Export)
	}
	return s.artifact(w, r, cmp.Or(what.Artifact, "-"))
}

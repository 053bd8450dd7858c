package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"vega/events/eventstore"
	"vega/projections"
	"vega/services/auth"
	"vega/services/catalog"
	"vega/services/files"
	"vega/services/intake"
	"vega/services/scan"
)

// failure is an answer that is not what was asked for. Code is stable; Message is one sentence for people and holds no value that the
// client sent, except names of fields and entries.
type failure struct {
	status     int
	code       string
	message    string
	retryable  bool          // the same request may succeed later
	retryAfter time.Duration // sent as Retry-After when it is not 0
	details    map[string]any
	challenge  string // sent as WWW-Authenticate when it is not empty
	cause      error  // for the log alone
}

func (f *failure) Error() string  { return f.code + ": " + f.message }
func (f *failure) Unwrap() error  { return f.cause }
func (f *failure) GetStatus() int { return f.status } // huma asks for it

func fail(status int, code, message string) *failure {
	return &failure{status: status, code: code, message: message}
}

// errStopping answers a stream that this side ended before it began.
var errStopping = &failure{status: http.StatusServiceUnavailable, code: "stopping", message: "the server is stopping; ask again", retryable: true, retryAfter: time.Second}

var errNotFound = fail(http.StatusNotFound, "not_found", "there is no such thing, or it is not yours")

// invalid refuses one field.
func invalid(field, problem string) *failure {
	return &failure{status: http.StatusUnprocessableEntity, code: "invalid_request", message: field + ": " + problem,
		details: map[string]any{"fields": []fieldProblem{{field, problem}}}}
}

type fieldProblem struct {
	Field   string `json:"field"`
	Problem string `json:"problem"`
}

// explain is the one table of errors: what each error of the packages below is for a client.
func explain(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	known := func(status int, code, message string) *failure {
		return &failure{status: status, code: code, message: message, cause: err}
	}
	later := func(code, message string, after time.Duration) *failure {
		return &failure{status: http.StatusServiceUnavailable, code: code, message: message, retryable: true, retryAfter: after, cause: err}
	}
	if e, ok := errors.AsType[*catalog.InvalidError](err); ok {
		return invalid(e.Field, "want "+e.Want)
	}
	if e, ok := errors.AsType[*catalog.ConflictError](err); ok {
		f := known(http.StatusConflict, e.Code, e.Message)
		f.retryable = strings.HasSuffix(e.Code, "_in_progress") // it ends by itself
		return f
	}
	if e, ok := errors.AsType[*scan.NotAllowedError](err); ok {
		f := known(http.StatusConflict, "not_allowed", e.Error())
		f.details = map[string]any{"command": e.Command, "status": e.Status}
		return f
	}
	if e, ok := errors.AsType[*scan.LimitError](err); ok {
		active := make([]string, len(e.Active))
		for i, s := range e.Active {
			active[i] = string(s.Scan)
		}
		return &failure{status: http.StatusTooManyRequests, code: "active_scan_limit", message: e.Error(), retryable: true, retryAfter: 5 * time.Second,
			details: map[string]any{"limit_name": "VEGA_MAX_ACTIVE_SCANS_PER_USER", "limit": e.Limit, "value": len(e.Active) + 1, "active": active}}
	}
	if e, ok := errors.AsType[*intake.Refusal](err); ok {
		return &failure{status: e.Status(), code: e.Code, message: e.Message, details: refusalDetails(e)}
	}
	if e, ok := errors.AsType[*http.MaxBytesError](err); ok {
		f := known(http.StatusRequestEntityTooLarge, "body_too_large", fmt.Sprintf("the body is larger than %d bytes", e.Limit))
		f.details = map[string]any{"limit": e.Limit}
		return f
	}
	if e, ok := errors.AsType[auth.ElsewhereError](err); ok {
		f := known(http.StatusConflict, "sign_in_elsewhere", e.Error())
		f.details = map[string]any{"sign_in_url": e.SignInURL, "issuer": e.Issuer}
		return f
	}
	_, gone := errors.AsType[*catalog.GoneError](err)
	_, chain := errors.AsType[*eventstore.ChainError](err)
	switch {
	case gone, errors.Is(err, projections.ErrNotFound):
		return errNotFound
	case errors.Is(err, projections.ErrBadCursor):
		return invalid("cursor", "want the next_cursor of this list")
	// Full before unavailable: being full is one way of being unavailable.
	case errors.Is(err, eventstore.ErrFull), errors.Is(err, files.ErrFull), errors.Is(err, intake.ErrFull):
		return later("storage_full", "there is no room left to store this; nothing was lost", 30*time.Second)
	case errors.Is(err, files.ErrUnavailable):
		return later("files_unavailable", "the file storage does not answer; nothing was lost", 5*time.Second)
	case errors.Is(err, files.ErrBadPart):
		return known(http.StatusUnprocessableEntity, "bad_part", "the parts do not make an upload: check their numbers and sizes")
	case errors.Is(err, auth.ErrUnavailable) && !errors.Is(err, eventstore.ErrUnavailable):
		return later("sign_in_unavailable", "who is calling cannot be found out at the moment", 2*time.Second)
	case errors.Is(err, eventstore.ErrUnavailable):
		return later("unavailable", "the event log does not answer; nothing was lost", 2*time.Second)
	case errors.Is(err, projections.ErrUnavailable):
		return later("read_model_unavailable", "the read model does not answer; nothing was lost, and changes are still taken", 2*time.Second)
	case errors.Is(err, projections.ErrRebuilding):
		f := known(http.StatusConflict, "rebuild_in_progress", "another process rebuilds the read model")
		f.retryable = true
		return f
	case errors.Is(err, eventstore.ErrConflict):
		return later("busy", "too many changes at once", time.Second)
	case errors.Is(err, auth.ErrBadCredentials):
		f := known(http.StatusUnauthorized, "invalid_credentials", "wrong e-mail address or password")
		f.challenge = `Bearer realm="vega"`
		return f
	case errors.Is(err, auth.ErrBadToken):
		f := known(http.StatusUnauthorized, "unauthenticated", "the token is not valid, or not any more")
		f.challenge = `Bearer realm="vega", error="invalid_token"`
		return f
	case errors.Is(err, eventstore.ErrNewerEvents):
		return known(http.StatusConflict, "newer_release", "a newer release has changed this; it cannot be changed from here")
	case chain:
		return known(http.StatusInternalServerError, "log_corrupt", "the event log does not hold what was written")
	case errors.Is(err, files.ErrCorrupt):
		return known(http.StatusInternalServerError, "object_corrupt", "the stored object does not match its digest")
	case errors.Is(err, files.ErrNotFound):
		return known(http.StatusGone, "object_gone", "the stored object is not there any more")
	case errors.Is(err, context.Canceled):
		return known(statusClientGone, "client_gone", "the client went away")
	case errors.Is(err, context.DeadlineExceeded):
		return later("unavailable", "this took too long", 2*time.Second)
	}
	return known(http.StatusInternalServerError, "internal", "something went wrong here; the log has more under this request's id")
}

// statusClientGone stands in logs and metrics for requests whose client did not wait.
const statusClientGone = 499

// fromHuma turns what huma says about a request that it could not read into a failure. Its messages are templates, but beside them it
// carries the offending values, which go no further.
func fromHuma(m *huma.ErrorModel) *failure {
	switch m.Status {
	case http.StatusBadRequest:
		if len(m.Errors) == 0 {
			return fail(m.Status, "body_required", "this needs a body")
		}
		return fail(m.Status, "invalid_json", "the body is not one JSON value")
	case http.StatusRequestTimeout:
		return &failure{status: m.Status, code: "body_timeout", message: "the body did not arrive in time", retryable: true}
	case http.StatusRequestEntityTooLarge:
		return &failure{status: m.Status, code: "body_too_large", message: fmt.Sprintf("the body is larger than %d bytes", maxBody), details: map[string]any{"limit": maxBody}}
	case http.StatusUnsupportedMediaType:
		return fail(m.Status, "unsupported_media_type", "want a body of type application/json")
	case http.StatusUnprocessableEntity:
		f := fail(m.Status, "invalid_request", "the request is not valid")
		var problems []fieldProblem
		for _, e := range m.Errors {
			if e != nil && len(problems) < 20 {
				problems = append(problems, fieldProblem{fieldName(e.Location), fieldMessage(e.Message)})
			}
		}
		if len(problems) > 0 {
			f.message = problems[0].Field + ": " + problems[0].Problem
			f.details = map[string]any{"fields": problems}
		}
		return f
	}
	return fail(http.StatusInternalServerError, "internal", "something went wrong here; the log has more under this request's id")
}

// fieldName is a location without its first part ("body.paths[2]" is paths[2]). The name of an unknown field is the client's own text.
func fieldName(location string) string {
	_, name, ok := strings.Cut(location, ".")
	if !ok {
		name = location
	}
	name = strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f {
			return '?'
		}
		return r
	}, name)
	if len(name) > 64 {
		name = name[:64] + "..."
	}
	return name
}

// fieldMessage lets only huma's templates through: text of a decoder may quote the value.
func fieldMessage(s string) string {
	for _, known := range []string{"expected ", "unexpected property", "required "} {
		if strings.HasPrefix(s, known) {
			return s
		}
	}
	return "is not valid"
}

// errorBody is the shape of every failure.
type errorBody struct {
	Schema int        `json:"schema_version" doc:"1"`
	Error  errorFacts `json:"error"`
}

type errorFacts struct {
	Code      string         `json:"code" doc:"Stable; for programs"`
	Message   string         `json:"message" doc:"One sentence; for people"`
	Retryable bool           `json:"retryable" doc:"The same request may succeed later"`
	Details   map[string]any `json:"details" doc:"Limits, fields and states by name"`
}

// problemBody says the same as RFC 9457, for clients that accept application/problem+json.
type problemBody struct {
	Type      string         `json:"type"`
	Title     string         `json:"title"`
	Status    int            `json:"status"`
	Detail    string         `json:"detail"`
	Code      string         `json:"code"`
	Retryable bool           `json:"retryable"`
	Details   map[string]any `json:"details"`
}

const problemJSON = "application/problem+json"

// wantsProblem says whether the client asked for RFC 9457: it names the type, not just a wildcard.
func wantsProblem(accept string) bool { return strings.Contains(strings.ToLower(accept), problemJSON) }

// body is the failure in the form that the client asked for, and its media type.
func (f *failure) body(accept string) (any, string) {
	details := f.details
	if details == nil {
		details = map[string]any{}
	}
	if wantsProblem(accept) {
		return problemBody{"urn:vega:error:" + f.code, http.StatusText(f.status), f.status, f.message, f.code, f.retryable, details}, problemJSON
	}
	return errorBody{1, errorFacts{f.code, f.message, f.retryable, details}}, "application/json"
}

// GetHeaders are the failure's own headers; huma asks for them too.
func (f *failure) GetHeaders() http.Header {
	h := http.Header{}
	if f.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(f.retryAfter.Seconds()))))
	}
	if f.challenge != "" {
		h.Set("WWW-Authenticate", f.challenge)
	}
	return h
}

// refuse answers r with err.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	f := explain(err)
	if f.status == statusClientGone && s.closing.Err() != nil && r.Context().Err() == nil {
		f = errStopping // it was this side that went
	}
	s.note(r.Context(), f)
	maps.Copy(w.Header(), f.GetHeaders())
	body, mediaType := f.body(r.Header.Get("Accept"))
	w.Header().Set("Content-Type", mediaType)
	w.Header().Del("ETag")
	w.WriteHeader(f.status)
	if r.Method == http.MethodHead {
		return
	}
	_ = json.NewEncoder(w).Encode(body) // a client that is gone reads no error
}

// note logs what an operator has to know of.
func (s *Server) note(ctx context.Context, f *failure) {
	switch {
	case f.status == http.StatusInternalServerError:
		s.log.Error("request failed", "request_id", callOf(ctx).id, "code", f.code, "err", f.cause)
	case f.status >= 500:
		s.log.Warn("request refused", "request_id", callOf(ctx).id, "code", f.code, "err", f.cause)
	}
}

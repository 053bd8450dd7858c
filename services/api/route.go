package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"

	"vega/events"
)

// maxBody bounds a JSON body, in bytes.
const maxBody = 1 << 20

// route is one registered route, for metrics and for the test that walks over all of them.
type route struct {
	method string
	path   string // with the prefix
	access access
	scope  events.Scope // what an API key needs; empty: nothing
}

// build makes router, OpenAPI and middleware, then registers what routes.go lists.
func (s *Server) build() (err error) {
	defer func() {
		// huma and the checks below panic on a wrong registration; it is a mistake in this package, found by any test.
		if p := recover(); p != nil {
			err = fmt.Errorf("build routes: %v", p)
		}
	}()
	s.router = chi.NewMux()
	s.router.NotFound(func(w http.ResponseWriter, r *http.Request) { s.refuse(w, r, errNotFound) })
	s.router.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", strings.Join(s.allowed(r.URL.Path), ", "))
		s.refuse(w, r, fail(http.StatusMethodNotAllowed, "method_not_allowed", "this path does not take that method"))
	})
	s.api = humachi.New(s.router, s.humaConfig())
	s.register()
	s.finishOpenAPI()
	s.handler = s.outermost(s.router)
	return nil
}

// jsonFormat reads one JSON value and writes without escaping HTML.
var jsonFormat = huma.Format{
	Marshal: func(w io.Writer, v any) error {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		return e.Encode(v)
	},
	Unmarshal: json.Unmarshal,
}

// humaConfig is huma without what reaches outside or echoes input: no documentation page of its own, no links to schemas, and every
// error in our shape. The error constructor is a global of huma's; a transformer of this API does without changing it.
func (s *Server) humaConfig() huma.Config {
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info:    &huma.Info{Title: s.Config.AppName, Version: apiVersion, Description: apiDescription},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", schemaName),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					bearerScheme: {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "An access token; an API key does too"},
					keyScheme:    {Type: "apiKey", In: "header", Name: keyHeader, Description: "An API key. The scopes are what it has to be made for"},
				},
			},
		},
		Formats:       map[string]huma.Format{"application/json": jsonFormat, "json": jsonFormat},
		DefaultFormat: "application/json",
		Transformers: []huma.Transformer{func(ctx huma.Context, _ string, v any) (any, error) {
			f, ok := v.(*failure)
			if m, is := v.(*huma.ErrorModel); is {
				f, ok = fromHuma(m), true
			}
			if !ok {
				return v, nil
			}
			body, mediaType := f.body(ctx.Header("Accept"))
			ctx.SetHeader("Content-Type", mediaType)
			return body, nil
		}},
	}
}

// doc is what a route adds to the OpenAPI beside what its types say.
type doc func(*huma.Operation)

// on registers a JSON route. pattern is a method and a path below the prefix. The operation's id is the handler's name.
func on[I, O any](s *Server, a access, pattern string, status int, h func(context.Context, *I) (*O, error), summary string, docs ...doc) {
	rt, op := s.operation(a, pattern, nameOf(h), summary, docs)
	op.DefaultStatus = status
	op.MaxBodyBytes = maxBody
	op.BodyReadTimeout = 30 * time.Second
	op.Middlewares = huma.Middlewares{func(ctx huma.Context, next func(huma.Context)) {
		r, w := humachi.Unwrap(ctx)
		if err := s.enter(w, r, rt); err != nil {
			s.refuse(w, r, err)
			return
		}
		release, err := s.remember(r)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		next(ctx)
		release()
	}}
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := h(ctx, in)
		if err != nil {
			f := explain(err)
			s.note(ctx, f)
			return nil, f
		}
		return out, nil
	})
}

// raw registers a route that reads or writes something else than JSON.
func raw(s *Server, a access, pattern string, h func(http.ResponseWriter, *http.Request) error, summary string, docs ...doc) {
	rt, op := s.operation(a, pattern, nameOf(h), summary, docs)
	if !op.Hidden {
		s.api.OpenAPI().AddOperation(&op)
	}
	s.router.MethodFunc(op.Method, strings.Replace(op.Path, "{path}", "*", 1), func(w http.ResponseWriter, r *http.Request) {
		err := s.enter(w, r, rt)
		if err == nil {
			err = h(w, r)
		}
		if err != nil {
			s.refuse(w, r, err)
		}
	})
}

func (s *Server) operation(a access, pattern, id, summary string, docs []doc) (route, huma.Operation) {
	method, path, ok := strings.Cut(pattern, " ")
	if !ok {
		panic(pattern + ": want a method and a path")
	}
	thing := slices.ContainsFunc(thingParams, func(p string) bool { return strings.Contains(path, "{"+p+"}") })
	if thing != (a.role() != "") {
		panic(pattern + ": a path that names a thing asks for a role in its project, and only such a path can")
	}
	op := huma.Operation{OperationID: id, Method: method, Path: s.Config.Prefix + path, Summary: summary, Responses: map[string]*huma.Response{}}
	op.Tags = []string{tagOf(path)}
	for _, p := range pathParams(path) {
		if !slices.Contains(thingParams, p) {
			continue // its handler's input, or its doc, describes it
		}
		op.Parameters = append(op.Parameters, &huma.Param{Name: p, In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}})
	}
	if a != public {
		op.Security = []map[string][]string{{bearerScheme: {}}, {keyScheme: {string(scopeFor(a, method))}}}
		if method == http.MethodGet {
			op.Parameters = append(op.Parameters, &huma.Param{Name: "at_least", In: "query", Schema: &huma.Schema{Type: huma.TypeInteger, Format: "int64"},
				Description: "Answer only when the read model has this event (Vega-Sequence of a write); waits up to 5 seconds"})
		}
	}
	for _, d := range docs {
		d(&op)
	}
	rt := route{method: method, path: op.Path, access: a}
	if a != public {
		if scopes := op.Security[1][keyScheme]; len(scopes) > 0 {
			rt.scope = events.Scope(scopes[0])
		}
	}
	s.routes = append(s.routes, rt)
	return rt, op
}

// The ways to say who is calling, as the OpenAPI names them.
const (
	bearerScheme = "bearer"
	keyScheme    = "api_key"
)

// scopeFor is what an API key needs for a route that says nothing else.
func scopeFor(a access, method string) events.Scope {
	switch {
	case a == admin, a == owner:
		return events.ScopeAdmin
	case a == viewer, method == http.MethodGet:
		return events.ScopeRead
	default:
		return events.ScopeScan
	}
}

// needs says which scope a route asks of an API key: one, or none.
func needs(scopes ...events.Scope) doc {
	return func(op *huma.Operation) {
		names := []string{}
		for _, s := range scopes {
			names = append(names, string(s))
		}
		op.Security[1][keyScheme] = names
	}
}

func nameOf(f any) string {
	name := strings.TrimSuffix(runtime.FuncForPC(reflect.ValueOf(f).Pointer()).Name(), "-fm")
	return name[strings.LastIndex(name, ".")+1:]
}

func pathParams(path string) []string {
	var out []string
	for part := range strings.SplitSeq(path, "/") {
		if strings.HasPrefix(part, "{") {
			out = append(out, strings.Trim(part, "{}"))
		}
	}
	return out
}

// tagOf groups routes by the first word of their path.
func tagOf(path string) string {
	word, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if word == "healthz" || word == "readyz" || word == "metrics" {
		return "health"
	}
	return word
}

// keyed, conditional and the like describe the headers that a route honours.
func keyed(op *huma.Operation) {
	op.Parameters = append(op.Parameters, &huma.Param{Name: "Idempotency-Key", In: "header", Schema: &huma.Schema{Type: huma.TypeString, MinLength: new(1), MaxLength: new(255)},
		Description: "The same key with the same body is the same request, however often it is sent"})
}

func conditional(op *huma.Operation) {
	op.Parameters = append(op.Parameters, &huma.Param{Name: "If-Match", In: "header", Schema: &huma.Schema{Type: huma.TypeString},
		Description: "The ETag that was read; 412 when the thing has changed since"})
}

// described adds what the summary cannot say.
func described(text string) doc { return func(op *huma.Operation) { op.Description = text } }

// atRoot takes the prefix off and keeps the route out of the OpenAPI.
func atRoot(op *huma.Operation) {
	op.Path, op.Hidden = op.Path[strings.LastIndex(op.Path, "/"):], true
}

// answers documents an answer of another type than JSON.
func answers(status, description string, mediaTypes ...string) doc {
	return func(op *huma.Operation) {
		r := &huma.Response{Description: description, Content: map[string]*huma.MediaType{}}
		for _, m := range mediaTypes {
			r.Content[m] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}
		}
		op.Responses[status] = r
	}
}

// outermost is what every request goes through: a call, recovery, the log, metrics, deadlines and the browser's same-origin rule.
func (s *Server) outermost(next http.Handler) http.Handler {
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, r, fail(http.StatusForbidden, "cross_origin", "pages of other origins cannot send this"))
	}))
	next = origin.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.busy.enter() {
			w.Header().Set("Connection", "close")
		}
		defer s.busy.leave()
		c := newCall(r)
		r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
		rec := &recorder{ResponseWriter: w}
		c.answer = rec
		rec.Header().Set("X-Request-Id", c.id)
		rec.Header().Set("X-Content-Type-Options", "nosniff")
		rec.Header().Set("Cache-Control", "no-store")
		rc := http.NewResponseController(w)
		// Streams, uploads and downloads move these along as long as something moves. A writer without deadlines is a test's.
		_ = errors.Join(rc.SetWriteDeadline(time.Now().Add(requestTime)), rc.SetReadDeadline(time.Now().Add(requestTime)))
		start := s.Now()
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler { //nolint:errorlint // it is compared as net/http does
					panic(p) // a download that turned out to be wrong: net/http cuts the connection
				}
				s.log.Error("request panicked", "request_id", c.id, "route", c.route, "problem", fmt.Sprintf("%.200v", p), "stack", stack())
				if rec.status == 0 {
					s.refuse(rec, r, fail(http.StatusInternalServerError, "internal", "something went wrong here; the log has more under this request's id"))
				}
			}
			s.metrics.observe(c, rec.status, s.Now().Sub(start))
			s.log.Debug("request answered", "request_id", c.id, "method", c.method, "route", c.route, "status", rec.status, "elapsed", s.Now().Sub(start))
		}()
		next.ServeHTTP(rec, r)
	})
}

// requestTime bounds the reading and the answering of an ordinary request.
const requestTime = 60 * time.Second

// recorder remembers the status. It unwraps for http.ResponseController.
type recorder struct {
	http.ResponseWriter
	status int
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func stack() string {
	b := make([]byte, 4<<10)
	return string(bytes.ToValidUTF8(b[:runtime.Stack(b, false)], nil))
}

// allowed are the methods that a path takes.
func (s *Server) allowed(path string) []string {
	var out []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if s.router.Match(chi.NewRouteContext(), method, path) {
			out = append(out, method)
		}
	}
	return out
}

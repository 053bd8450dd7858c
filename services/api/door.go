package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"vega/events"
	"vega/projections"
	"vega/services/auth"
)

// access is what a route asks of its caller.
type access int

const (
	public   access = iota // anybody
	signedIn               // anybody with a token
	viewer                 // a member of the project that the path leads to
	editor                 // a member who may change and scan
	owner                  // a member who may manage members and delete
	admin                  // an admin of the installation
)

func (a access) role() events.Role {
	switch a {
	case viewer:
		return events.RoleViewer
	case editor:
		return events.RoleEditor
	case owner:
		return events.RoleOwner
	default:
		return ""
	}
}

// The parameters that name things. A route that has one of them asks for a role; anything else is refused when the API is built.
const (
	projectParam    = "project_id"
	repositoryParam = "repository_id"
	scanParam       = "scan_id"
	findingParam    = "finding_id"
)

var thingParams = []string{projectParam, repositoryParam, scanParam, findingParam}

// behindPatience is how long a read with at_least waits for its read model.
const behindPatience = 5 * time.Second

// awayPatience is how long it waits while the read model does not answer.
const awayPatience = 500 * time.Millisecond

// enter lets a request in or says why not, and fills in its call: who is calling, and what the path names. What the caller may not see does not
// exist: wrong ids, other people's things and deleted ones are all the same 404.
func (s *Server) enter(w http.ResponseWriter, r *http.Request, rt route) error {
	ctx, a := r.Context(), rt.access
	c := callOf(ctx)
	c.route = chi.RouteContext(ctx).RoutePattern()
	if err := c.readHeaders(r); err != nil {
		return err
	}
	if a == public {
		return nil
	}
	if err := s.identify(ctx, c, r.Header); err != nil {
		return err
	}
	if err := s.withinLimits(w.Header(), c.who); err != nil {
		return err
	}
	if rt.scope != "" && !c.who.May(rt.scope) {
		return &failure{status: http.StatusForbidden, code: "scope_missing", message: "this API key was not made for that",
			details: map[string]any{"needs": rt.scope, "scopes": c.who.Scopes}}
	}
	if a == admin && !c.who.Admin {
		return fail(http.StatusForbidden, "forbidden", "this is for admins")
	}
	if err := s.catchUp(ctx, r.URL.Query().Get("at_least")); err != nil {
		return err
	}
	if a == admin || a == signedIn {
		return nil
	}
	return s.find(ctx, c, r.PathValue, a)
}

// keyHeader may carry an API key instead of Authorization.
const keyHeader = "X-Api-Key"

// identify finds out who is calling, by an access token or an API key.
func (s *Server) identify(ctx context.Context, c *call, h http.Header) (err error) {
	token, ok := bearer(h.Get("Authorization"))
	if !ok {
		if token = h.Get(keyHeader); !auth.IsKey(token) {
			return &failure{status: http.StatusUnauthorized, code: "unauthenticated", message: "this needs a bearer token or an API key", challenge: `Bearer realm="vega"`}
		}
	}
	if auth.IsKey(token) {
		c.who, err = s.keys.Verify(ctx, token)
	} else {
		c.who, err = s.Auth.Verify(ctx, token)
	}
	if reason := auth.ReasonOf(err); reason != "" { // for operators; the client is told no more than that it is not let in
		s.metrics.refused.WithLabelValues(string(reason)).Inc()
		s.log.Debug("token refused", "request_id", c.id, "reason", reason)
	}
	return err
}

// withinLimits counts a request against its user and its API key, and says in the answer's headers what is left.
func (s *Server) withinLimits(answer http.Header, who auth.Identity) error {
	if s.Limiter == nil || !s.Limiter.On() {
		return nil
	}
	callers := []auth.Limited{{Kind: auth.LimitUser, ID: string(who.User)}}
	if who.Key != "" {
		callers = append(callers, auth.Limited{Kind: auth.LimitAPIKey, ID: string(who.Key)})
	}
	left := s.Limiter.AllowAll(s.Now(), callers...)
	left.Write(answer)
	if left.Allowed() {
		return nil
	}
	f := &failure{status: http.StatusTooManyRequests, code: "rate_limited", retryable: true, message: "too many requests in a minute; Retry-After says when the next one is taken"}
	for _, d := range left {
		if !d.Allowed {
			f.retryAfter = max(f.retryAfter, d.RetryAfter)
			f.details = map[string]any{"limit_name": limitNames[d.Policy], "limit": d.Limit}
		}
	}
	return f
}

// limitNames are the settings of the limits.
var limitNames = map[auth.LimitKind]string{auth.LimitUser: "VEGA_RATE_LIMIT_USER_PER_MINUTE", auth.LimitAPIKey: "VEGA_RATE_LIMIT_API_KEY_PER_MINUTE"}

// readHeaders takes what concerns every changing request.
func (c *call) readHeaders(r *http.Request) error {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	c.key, c.match = r.Header.Get("Idempotency-Key"), r.Header.Get("If-Match")
	if _, sent := r.Header["Idempotency-Key"]; sent {
		if len(c.key) < 1 || len(c.key) > 255 || strings.ContainsFunc(c.key, func(x rune) bool { return x < 0x20 || x >= 0x7f }) {
			return invalid("Idempotency-Key", "want 1 to 255 printable ASCII characters")
		}
	}
	if len(c.match) > 1000 {
		return invalid("If-Match", "want an ETag of this API")
	}
	return nil
}

func bearer(header string) (string, bool) {
	scheme, token, ok := strings.Cut(header, " ")
	token = strings.TrimSpace(token)
	return token, ok && strings.EqualFold(scheme, "bearer") && token != "" && len(token) <= 8<<10
}

// catchUp waits until the read model has what the client knows of.
func (s *Server) catchUp(ctx context.Context, atLeast string) error {
	if atLeast == "" {
		return nil
	}
	seq, err := strconv.ParseUint(atLeast, 10, 63)
	if err != nil {
		return invalid("at_least", "want a sequence as Vega-Sequence gives it")
	}
	patience, away := s.patience, s.model.isAway()
	if away {
		patience = min(patience, awayPatience) // it is not likely to come
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if s.Runner.WaitFor(wait, events.Seq(seq)) == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if away {
		return projections.ErrUnavailable
	}
	return &failure{status: http.StatusServiceUnavailable, code: "read_model_behind", message: "the read model has not got that far yet", retryable: true,
		retryAfter: time.Second, details: map[string]any{"at_least": seq, "at": s.Runner.At()}}
}

// find loads what the path names, from the inside out, and checks the caller's role in its project.
func (s *Server) find(ctx context.Context, c *call, param func(string) string, a access) error {
	for _, p := range thingParams {
		if id := param(p); id != "" && events.CheckID(p, id) != nil {
			return errNotFound
		}
	}
	var err error
	project, repository := events.ProjectID(param(projectParam)), events.RepositoryID(param(repositoryParam))
	if id := param(scanParam); id != "" {
		if c.scan, err = s.Model.Scan(ctx, events.ScanID(id)); err != nil {
			return err
		}
		repository = c.scan.Repository
	}
	if id := param(findingParam); id != "" {
		if c.finding, err = s.Model.Finding(ctx, events.FindingID(id)); err != nil {
			return err
		}
		repository = c.finding.Repository
	}
	if repository != "" {
		if c.repository, err = s.Model.Repository(ctx, repository); err != nil {
			return err
		}
		if c.repository.Deleted {
			return errNotFound
		}
		project = c.repository.Project
	}
	if c.project, err = s.Model.Project(ctx, project); err != nil {
		return err
	}
	c.role = c.project.Members[c.who.User]
	if c.who.Admin {
		c.role = events.RoleOwner
	}
	if c.project.Deleted || c.role == "" {
		return errNotFound
	}
	if c.role.Rank() < a.role().Rank() {
		return &failure{status: http.StatusForbidden, code: "forbidden", message: "your role in this project does not allow it",
			details: map[string]any{"role": c.role, "needs": a.role()}}
	}
	return nil
}

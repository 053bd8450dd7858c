package api

import (
	"context"
	"crypto/rand"
	"net/http"
	"strconv"
	"strings"
	"time"

	"vega/events"
	"vega/projections"
	"vega/services/auth"
)

// call is what is known about one request beside its body. The door fills it in; handlers find in it the things that the path names,
// which exist and may be seen.
type call struct {
	id     string // the request's id
	trace  string // W3C traceparent, or empty
	method string
	path   string
	base   string    // scheme and host that the client used
	route  string    // the pattern that matched; for metrics
	key    string    // Idempotency-Key, or empty
	match  string    // If-Match, or empty
	answer *recorder // what was answered so far

	who        auth.Identity
	role       events.Role // in project
	project    projections.Project
	repository projections.Repository
	scan       projections.Scan
	finding    projections.FindingView
}

type callKey struct{}

// callOf returns the request's call. Outside a request it is an empty one.
func callOf(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c
	}
	return &call{}
}

func newCall(r *http.Request) *call {
	c := &call{id: r.Header.Get("X-Request-Id"), method: r.Method, path: r.URL.Path, route: "unmatched", base: "http://" + r.Host}
	if r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") {
		c.base = "https://" + r.Host
	}
	if len(c.id) == 0 || len(c.id) > 64 || strings.Trim(c.id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
		c.id = "req_" + strings.ToLower(rand.Text()[:20])
	}
	if t := r.Header.Get("traceparent"); len(t) == 55 && strings.Trim(t, "0123456789abcdef-") == "" {
		c.trace = t
	}
	return c
}

// command is the id of what this request wants done: the same for every retry with the same Idempotency-Key.
func (c *call) command() events.CommandID {
	if c.key == "" {
		return events.NewCommandID()
	}
	return events.CommandIDFor(string(c.who.User), c.method+" "+c.path, c.key)
}

// meta goes with the events of this request.
func (c *call) meta(now time.Time) events.Meta {
	cause := c.id
	if c.who.Key != "" {
		cause = string(c.who.Key) + "/" + c.id // the audit tells what a person did from what their key did
	}
	return events.Meta{Command: c.command(), Actor: events.ByUser(c.who.User), Cause: cause, Trace: c.trace, At: now.UTC()}
}

// member is whose memberships narrow lists: nobody's for an admin.
func (c *call) member() events.UserID {
	if c.who.Admin {
		return ""
	}
	return c.who.User
}

// matches checks If-Match against the version that an aggregate has. The log decides with it, so two clients that saw the same version
// cannot both win.
func (c *call) matches(v events.Version) error {
	if c.match == "" || c.match == "*" {
		return nil
	}
	for tag := range strings.SplitSeq(c.match, ",") {
		if strings.TrimPrefix(strings.TrimSpace(tag), "W/") == etag(v) {
			return nil
		}
	}
	return &failure{status: http.StatusPreconditionFailed, code: "version_mismatch", message: "this has changed since it was read",
		details: map[string]any{"current_version": v}}
}

func etag(v events.Version) string { return `"` + strconv.FormatUint(uint64(v), 10) + `"` }

func seqText(s events.Seq) string { return strconv.FormatUint(uint64(s), 10) }

package config

import (
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"vega/events"
)

// form is the shape of a text setting.
type form struct {
	allowed string // completes "want …"
	ok      func(string) bool
}

// forms are what the tag form:"…" names.
var forms = map[string]form{
	"address":      {"host:port, such as 127.0.0.1:8000", isAddress},
	"http-url":     {"an http:// or https:// URL without user name and password", isHTTPURL},
	"postgres-url": {"postgresql://user:pass@host:5432/database", isPostgresURL},
	"nats-url":     {"nats://host:4222 (or tls://, ws://, wss://), several by comma", isNATSURL},
	"region":       {"1 to 32 characters of a-z, 0-9 and '-'", func(s string) bool { return events.CheckRegion(events.Region(s)) == nil }},
	"email":        {"an e-mail address", isEmail},
	"path":         {"a path such as /v1, starting with a slash and not ending with one", isPath},
	"name":         {"1 to 128 letters, digits, '.', '_' and '-', starting with a letter or digit", namePattern.MatchString},
	"memory":       {"a size as Docker writes it, such as 512m or 2g", memoryPattern.MatchString},
	"cpus":         {"a number of processors such as 2 or 0.5", func(s string) bool { n, err := strconv.ParseFloat(s, 64); return err == nil && n > 0 && n <= 1024 }},
	"image":        {"the name of an image, such as vega-codex-runner:latest", imagePattern.MatchString},
	"text":         {"at most 4096 bytes of UTF-8 without control characters", isText},
}

var (
	namePattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	memoryPattern = regexp.MustCompile(`^[1-9][0-9]{0,9}[bkmgBKMG]?$`)
	imagePattern  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}$`)
	pathPattern   = regexp.MustCompile(`^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$`)
	hostPattern   = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$`)
)

func isText(s string) bool {
	return len(s) <= 4096 && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

func isAddress(s string) bool {
	host, port, err := net.SplitHostPort(s)
	return err == nil && (host == "" || isHost(host)) && isPort(port)
}

func isHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	return len(s) <= 253 && hostPattern.MatchString(s)
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

// isServerURL accepts an absolute URL of one of the schemes with a host and, if any, a port that exists.
func isServerURL(s string, schemes ...string) (*url.URL, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Opaque != "" || !isText(s) || u.Fragment != "" {
		return nil, false
	}
	known := false
	for _, scheme := range schemes {
		known = known || u.Scheme == scheme
	}
	if !known || !isHost(u.Hostname()) || u.Port() != "" && !isPort(u.Port()) {
		return nil, false
	}
	return u, true
}

func isHTTPURL(s string) bool {
	u, ok := isServerURL(s, "http", "https")
	return ok && u.User == nil
}

func isPostgresURL(s string) bool {
	if u, err := url.Parse(s); err == nil && u.Host == "" && u.Query().Has("host") { // a socket's folder as a parameter
		return (u.Scheme == "postgres" || u.Scheme == "postgresql") && isText(s)
	}
	_, ok := isServerURL(s, "postgres", "postgresql")
	return ok
}

func isNATSURL(s string) bool {
	for one := range strings.SplitSeq(s, ",") {
		if _, ok := isServerURL(strings.TrimSpace(one), "nats", "tls", "ws", "wss"); !ok {
			return false
		}
	}
	return true
}

func isEmail(s string) bool {
	a, err := mail.ParseAddress(s)
	return err == nil && a.Address == s && isText(s)
}

// isPath accepts a route prefix; a segment may not start with a dot.
func isPath(s string) bool { return len(s) <= 128 && pathPattern.MatchString(s) }

// isLoopback reports whether a listen address or the host of a URL is this machine alone. A name other than localhost is not.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

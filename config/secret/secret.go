package secret

import (
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"regexp"
	"strings"
	"unique"
)

// Redacted stands for a secret wherever one is printed.
const Redacted = "[redacted]"

// String is a secret text. It prints as [Redacted], or as nothing when it is empty.
type String struct {
	h unique.Handle[string] // a handle, because fmt prints an unexported string field but only the address of a pointer
}

// New makes a secret of s.
func New(s string) String {
	if s == "" {
		return String{}
	}
	return String{unique.Make(s)}
}

// Reveal returns the secret itself.
func (s String) Reveal() string {
	if s.IsZero() {
		return ""
	}
	return s.h.Value()
}

// IsZero reports whether there is no secret.
func (s String) IsZero() bool { return s == String{} }

// String returns [Redacted], or "" when there is no secret.
func (s String) String() string {
	if s.IsZero() {
		return ""
	}
	return Redacted
}

// Format prints what String returns, for every verb.
func (s String) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue is what slog writes.
func (s String) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is what encoding/json writes. A secret does not survive being marshalled and read back.
func (s String) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes b as the secret; it never fails.
func (s *String) UnmarshalText(b []byte) error {
	*s = New(string(b))
	return nil
}

// URL is an address, or several by comma, that may carry a password. It prints with what is secret in it replaced.
type URL struct {
	secret String
}

// NewURL makes a URL of s, which is not checked.
func NewURL(s string) URL { return URL{New(s)} }

// Reveal returns the address as it was given.
func (u URL) Reveal() string { return u.secret.Reveal() }

// IsZero reports whether there is no address.
func (u URL) IsZero() bool { return u.secret.IsZero() }

// String returns the address as [RedactURL] leaves it.
func (u URL) String() string { return RedactURL(u.Reveal()) }

// Format prints what String returns, for every verb.
func (u URL) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, u.String()) }

// LogValue is what slog writes.
func (u URL) LogValue() slog.Value { return slog.StringValue(u.String()) }

// MarshalText is what encoding/json writes. A password does not survive being marshalled and read back.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText takes b as the address; it never fails.
func (u *URL) UnmarshalText(b []byte) error { return u.secret.UnmarshalText(b) }

// hidden replaces a part of an address; unlike Redacted it needs no escaping there.
const hidden = "xxxxx"

// secretParameter matches the query parameters whose values are hidden.
var secretParameter = regexp.MustCompile(`(?i)pass|pwd|secret|token|key|sig|cred|auth`)

// RedactURL returns an address, or several by comma, without what is secret in it: the password, a user name that stands
// alone (NATS takes it as a token), and query parameters that are named like secrets. What it does not understand and what
// could hide a secret comes back as [Redacted] whole.
func RedactURL(s string) string {
	if one, ok := redactOne(s); ok {
		return one
	}
	parts := strings.Split(s, ",")
	for i, p := range parts {
		one, ok := redactOne(p)
		if !ok || !strings.Contains(p, "://") {
			return Redacted
		}
		parts[i] = one
	}
	return strings.Join(parts, ",")
}

// redactOne redacts a single address; false when it is none.
func redactOne(s string) (string, bool) {
	if !strings.Contains(s, "://") {
		return s, !strings.ContainsAny(s, "@=")
	}
	u, err := url.Parse(s)
	// An "@" behind the host or a second "://" means that a password held a character that ended it too early.
	if err != nil || u.Opaque != "" || strings.Contains(u.Host, ",") || strings.Contains(u.Path+u.RawQuery+u.Fragment, "@") || strings.Contains(u.Path, "://") {
		return "", false
	}
	if u.User != nil {
		if _, withPassword := u.User.Password(); withPassword {
			u.User = url.UserPassword(u.User.Username(), hidden)
		} else {
			u.User = url.User(hidden)
		}
	}
	if u.RawQuery == "" {
		return u.String(), true
	}
	pairs := strings.Split(u.RawQuery, "&")
	for i, pair := range pairs {
		name, _, ok := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(name); err != nil || secretParameter.MatchString(plain) || !ok {
			pairs[i] = name + "=" + hidden
		}
	}
	u.RawQuery = strings.Join(pairs, "&")
	return u.String(), true
}

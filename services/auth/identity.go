package auth

import (
	"errors"

	"vega/events"
)

// Identity is who is calling.
type Identity struct {
	User    events.UserID
	Email   string // empty when the provider does not tell; never logged, never recorded
	Admin   bool   // sees everything
	Session string // names the session that can be ended; empty when there is none. It is no secret

	// Key is the API key that the caller showed, and Scopes what it may be used for; both are empty for somebody who signed in.
	Key    events.APIKeyID
	Scopes []events.Scope
}

var (
	// ErrBadCredentials is returned when an address and a password do not belong together.
	ErrBadCredentials = errors.New("wrong e-mail address or password")
	// ErrBadToken is returned for a token that is not ours, has expired, was changed, or whose session is over.
	ErrBadToken = errors.New("the token is not valid, or not any more")
	// ErrUnavailable is returned when sessions cannot be read or written now; the same call may be repeated.
	ErrUnavailable = errors.New("sign-in is not available")
)

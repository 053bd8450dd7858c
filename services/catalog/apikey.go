package catalog

import (
	"slices"
	"time"

	"vega/events"
)

// APIKey is the state of one API key.
type APIKey struct {
	events.APIKeyCreated
	Exists  bool
	Revoked bool
}

// MaxKeyLife is how long an API key is good at most.
const MaxKeyLife = 366 * 24 * time.Hour

// Evolve returns the state after r.
func (k APIKey) Evolve(r events.Recorded) APIKey {
	switch e := r.Event.(type) {
	case events.APIKeyCreated:
		k.APIKeyCreated, k.Exists = e, true
	case events.APIKeyRevoked:
		k.Revoked = true
	default:
	}
	return k
}

// Good says whether the key may be used at a moment.
func (k APIKey) Good(now time.Time) bool { return k.Exists && !k.Revoked && now.Before(k.ExpiresAt) }

// Create makes the key; nothing when it exists already. Scopes are put in their order, each once.
func (k APIKey) Create(e events.APIKeyCreated, now time.Time) ([]events.Event, error) {
	if k.Exists {
		return nil, nil
	}
	if err := checkText("name", e.Name, 1, 200, false); err != nil {
		return nil, err
	}
	for _, s := range e.Scopes {
		if !slices.Contains(events.Scopes(), s) {
			return nil, &InvalidError{"scopes", "read, scan, triage and admin, at least one"}
		}
	}
	given := e.Scopes
	e.Scopes = slices.DeleteFunc(events.Scopes(), func(s events.Scope) bool { return !slices.Contains(given, s) })
	if len(e.Scopes) == 0 {
		return nil, &InvalidError{"scopes", "read, scan, triage and admin, at least one"}
	}
	if !e.ExpiresAt.After(now) || e.ExpiresAt.Sub(now) > MaxKeyLife {
		return nil, &InvalidError{"expires_in_days", "1 to 366"}
	}
	return []events.Event{e}, nil
}

// Revoke ends the key; nothing when it was revoked before.
func (k APIKey) Revoke() ([]events.Event, error) {
	if !k.Exists {
		return nil, &GoneError{"API key"}
	}
	if k.Revoked {
		return nil, nil
	}
	return []events.Event{events.APIKeyRevoked{}}, nil
}

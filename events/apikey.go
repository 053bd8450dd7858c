package events

import "time"

// Scope is what an API key may be used for. It narrows what its user may do and never widens it.
type Scope string

const (
	ScopeRead   Scope = "read"   // look at everything that its user may see
	ScopeScan   Scope = "scan"   // make projects and repositories, bring source in, start and stop scans
	ScopeTriage Scope = "triage" // decide about findings
	ScopeAdmin  Scope = "admin"  // everything that its user may do, managing members and operating the installation included
)

// Scopes lists them, the narrowest first.
func Scopes() []Scope { return []Scope{ScopeRead, ScopeScan, ScopeTriage, ScopeAdmin} }

// APIKeyCreated makes an API key. The secret itself is nowhere: who has it shows it, and its digest is compared.
type APIKeyCreated struct {
	User      UserID    `json:"user_id"` // as whom it acts
	Name      string    `json:"name"`
	Secret    Digest    `json:"secret_digest"` // of at least 128 random bits, so it cannot be tried out
	Scopes    []Scope   `json:"scopes"`
	Admin     bool      `json:"admin,omitempty"` // its user was an admin of the installation
	ExpiresAt time.Time `json:"expires_at"`
}

// APIKeyRevoked ends an API key before its time.
type APIKeyRevoked struct{}

func (APIKeyCreated) event() {}
func (APIKeyRevoked) event() {}

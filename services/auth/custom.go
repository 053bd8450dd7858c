package auth

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"vega/config/secret"
	"vega/events"
	"vega/events/eventstore"
)

// How long tokens are good.
const (
	AccessLife  = 15 * time.Minute
	SessionLife = 30 * 24 * time.Hour // since the session was last used
)

const (
	issuer    = "vega"
	audience  = "vega-api"
	roleAdmin = "admin"
	// minSecret is what a signing secret needs at least, in bytes.
	minSecret = 8
)

// Account is somebody who may sign in.
type Account struct {
	Email    string // compared without regard to case
	Password secret.String
	Admin    bool
}

// Accounts are those of the configuration: the one debug user, who is an admin.
func (c Config) Accounts() []Account {
	return []Account{{Email: c.DebugEmail, Password: c.DebugPassword, Admin: true}}
}

// CustomOptions are what Custom needs.
type CustomOptions struct {
	Secret   secret.String // signs access tokens
	Accounts []Account
	Now      func() time.Time // nil: time.Now
}

// Custom signs in the accounts it was given. It is safe for concurrent use, and any number of processes with the same secret, accounts and
// log honour each other's tokens.
type Custom struct {
	accounts []account
	byID     map[events.UserID]account
	key      []byte // of the access tokens
	pepper   []byte // random: makes what is compared of equal length
	sessions *sessions
	now      func() time.Time
}

type account struct {
	id                events.UserID
	email             string
	admin             bool
	emailMAC, passMAC []byte
}

// Tokens are what signing in gives.
type Tokens struct {
	Access    string
	Refresh   string
	ExpiresIn time.Duration // of Access
}

// NewCustom returns the provider. It fails when the secret is missing or too short, an account has no address or password, or the
// expiring bucket is not there.
func NewCustom(ctx context.Context, store *eventstore.Store, o CustomOptions) (*Custom, error) {
	if len(o.Secret.Reveal()) < minSecret {
		return nil, fmt.Errorf("custom sign-in: the secret has fewer than %d bytes", minSecret)
	}
	key, err := hkdf.Key(sha256.New, []byte(o.Secret.Reveal()), nil, "vega access token v1", 32)
	if err != nil {
		return nil, fmt.Errorf("custom sign-in: derive the key: %w", err)
	}
	s, err := openSessions(ctx, store)
	if err != nil {
		return nil, err
	}
	c := &Custom{key: key, pepper: make([]byte, 32), byID: map[events.UserID]account{}, sessions: s, now: o.Now}
	if c.now == nil {
		c.now = time.Now
	}
	_, _ = rand.Read(c.pepper) // never fails
	for i, a := range o.Accounts {
		email := normal(a.Email)
		if email == "" || a.Password.IsZero() {
			return nil, fmt.Errorf("custom sign-in: account %d has no address or no password", i+1)
		}
		one := account{id: UserID(email), email: a.Email, admin: a.Admin, emailMAC: c.mac(email), passMAC: c.mac(a.Password.Reveal())}
		c.accounts = append(c.accounts, one)
		c.byID[one.id] = one
	}
	return c, nil
}

// UserID is the id of the account with that address.
func UserID(email string) events.UserID { return events.UserIDFor("custom", normal(email)) }

func normal(email string) string { return strings.ToLower(strings.TrimSpace(email)) }

// Login gives tokens for an address and its password. It returns ErrBadCredentials or ErrUnavailable.
func (c *Custom) Login(ctx context.Context, email, password string) (Tokens, error) {
	emailMAC, passMAC := c.mac(normal(email)), c.mac(password)
	found := -1
	for i, a := range c.accounts { // all of them, whatever the first ones said
		match := subtle.ConstantTimeCompare(emailMAC, a.emailMAC) & subtle.ConstantTimeCompare(passMAC, a.passMAC)
		found = subtle.ConstantTimeSelect(match, i, found)
	}
	if found < 0 {
		return Tokens{}, ErrBadCredentials
	}
	a := c.accounts[found]
	refresh, err := c.sessions.begin(ctx, a.id)
	if err != nil {
		return Tokens{}, err
	}
	return c.tokens(a, refresh)
}

// Refresh gives new tokens for a refresh token, which is spent by it. It returns ErrBadToken or ErrUnavailable. A token that was spent before
// ends its whole session.
func (c *Custom) Refresh(ctx context.Context, token string) (Tokens, error) {
	user, refresh, err := c.sessions.rotate(ctx, token)
	if err != nil {
		return Tokens{}, err
	}
	a, ok := c.byID[user]
	if !ok {
		return Tokens{}, ErrBadToken
	}
	return c.tokens(a, refresh)
}

// Logout ends the session of a refresh token, spent or not. A token without a session is no error. It may return ErrUnavailable.
func (c *Custom) Logout(ctx context.Context, refresh string) error {
	return c.sessions.end(ctx, sessionOf(refresh))
}

// LogoutSession ends the session that an access token was given for (Identity.Session).
func (c *Custom) LogoutSession(ctx context.Context, session string) error {
	return c.sessions.end(ctx, session)
}

// claims are what an access token says.
type claims struct {
	jwt.RegisteredClaims
	Session string   `json:"sid"` // names the session's entry; it is no token
	Roles   []string `json:"roles,omitempty"`
}

// Verify says who holds an access token, or returns a Refusal, which is an ErrBadToken. Whether the token's session still lives is asked at most every recheck; while
// that cannot be asked, the signature is enough.
func (c *Custom) Verify(ctx context.Context, bearer string) (Identity, error) {
	if !plausible(bearer) {
		return Identity{}, Refusal{ReasonMalformed}
	}
	var cl claims
	token, err := jwt.ParseWithClaims(bearer, &cl, func(*jwt.Token) (any, error) { return c.key, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithIssuer(issuer), jwt.WithAudience(audience),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithTimeFunc(c.now), jwt.WithLeeway(5*time.Second))
	if err != nil {
		return Identity{}, Refusal{reasonOf(err, token, jwt.SigningMethodHS256)}
	}
	a, ok := c.byID[events.UserID(cl.Subject)]
	switch {
	case critical(token.Header):
		return Identity{}, Refusal{ReasonMalformed}
	case !ok:
		return Identity{}, Refusal{ReasonUnknownUser}
	case !c.sessions.lives(ctx, cl.Session, c.now()):
		return Identity{}, Refusal{ReasonRevoked}
	}
	return Identity{User: a.id, Email: a.email, Admin: a.admin && slices.Contains(cl.Roles, roleAdmin), Session: cl.Session}, nil
}

func (c *Custom) tokens(a account, refresh string) (Tokens, error) {
	now := c.now()
	cl := claims{RegisteredClaims: jwt.RegisteredClaims{
		Issuer: issuer, Audience: jwt.ClaimStrings{audience}, Subject: string(a.id), ID: rand.Text(),
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(AccessLife)),
	}, Session: sessionOf(refresh)}
	if a.admin {
		cl.Roles = []string{roleAdmin}
	}
	access, err := jwt.NewWithClaims(jwt.SigningMethodHS256, cl).SignedString(c.key)
	if err != nil {
		return Tokens{}, errors.New("sign access token")
	}
	return Tokens{Access: access, Refresh: refresh, ExpiresIn: AccessLife}, nil
}

func (c *Custom) mac(s string) []byte {
	h := hmac.New(sha256.New, c.pepper)
	h.Write([]byte(s))
	return h.Sum(nil)
}

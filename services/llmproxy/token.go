package llmproxy

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"vega/config/secret"
	"vega/events"
)

// ErrBadToken is returned for a token that this proxy did not sign, that was changed, or that has expired.
var ErrBadToken = errors.New("the token is not one of this proxy's, or has expired")

const (
	issuer   = "vega"
	audience = "vega-llm-proxy"
	leeway   = 5 * time.Second
)

// Grant is what a token is for: the calls of one attempt of one scan.
type Grant struct {
	Scan       events.ScanID
	Attempt    int
	Generation events.Seq
}

// Tokens signs and verifies tokens with a key that is derived from the secret. It is a value; copies may be used concurrently.
type Tokens struct{ key []byte }

// NewTokens derives the key. It fails for a secret of fewer than 8 bytes.
func NewTokens(s secret.String) (Tokens, error) {
	if len(s.Reveal()) < 8 {
		return Tokens{}, errors.New("the LLM proxy's secret (VEGA_LLM_PROXY_AUTH_SECRET) has fewer than 8 bytes")
	}
	key, err := hkdf.Key(sha256.New, []byte(s.Reveal()), nil, "vega llm proxy token v1", 32)
	if err != nil {
		return Tokens{}, fmt.Errorf("derive the LLM proxy's key: %w", err)
	}
	return Tokens{key}, nil
}

type claims struct {
	jwt.RegisteredClaims
	Attempt    int        `json:"attempt"`
	Generation events.Seq `json:"generation"`
}

// Issue returns a token that is good until expires. Whether the attempt still may call is looked up with each request.
func (t Tokens) Issue(g Grant, now, expires time.Time) (secret.String, error) {
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{RegisteredClaims: jwt.RegisteredClaims{
		Issuer: issuer, Audience: jwt.ClaimStrings{audience}, Subject: string(g.Scan), ID: rand.Text(),
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(expires),
	}, Attempt: g.Attempt, Generation: g.Generation}).SignedString(t.key)
	if err != nil {
		return secret.String{}, errors.New("sign the LLM proxy's token")
	}
	return secret.New(text), nil
}

// Verify says what a token is for, or ErrBadToken.
func (t Tokens) Verify(token string, now time.Time) (Grant, error) {
	var c claims
	_, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return t.key, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithIssuer(issuer), jwt.WithAudience(audience),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithTimeFunc(func() time.Time { return now }), jwt.WithLeeway(leeway))
	if err != nil || events.CheckID("scan_id", c.Subject) != nil || c.Generation == 0 {
		return Grant{}, ErrBadToken
	}
	return Grant{events.ScanID(c.Subject), c.Attempt, c.Generation}, nil
}

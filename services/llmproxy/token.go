package llmproxy

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
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
	maxToken = 4 << 10 // bytes
)

// Grant is what a token is for: the calls of one attempt of one scan.
type Grant struct {
	Scan       events.ScanID
	Attempt    int
	Generation events.Seq
	Models     []string // that may be called, as in Config.AllowedModels; empty: what the proxy allows
}

// Tokens signs and verifies tokens with keys that are derived from the secrets. It is a value; copies may be used concurrently.
type Tokens struct{ keys [][]byte } // the first one signs

// NewTokens derives the keys: current signs and verifies, those in previous, separated by commas, verify. It fails for a secret of fewer than 8 bytes.
func NewTokens(current, previous secret.String) (Tokens, error) {
	secrets := []string{current.Reveal()}
	for s := range strings.SplitSeq(previous.Reveal(), ",") {
		if s = strings.TrimSpace(s); s != "" {
			secrets = append(secrets, s)
		}
	}
	var t Tokens
	for i, s := range secrets {
		if len(s) < 8 {
			name := "VEGA_LLM_PROXY_AUTH_SECRET"
			if i > 0 {
				name = "VEGA_LLM_PROXY_PREVIOUS_AUTH_SECRETS"
			}
			return Tokens{}, fmt.Errorf("%s has a secret of fewer than 8 bytes", name)
		}
		key, err := hkdf.Key(sha256.New, []byte(s), nil, "vega llm proxy token v1", 32)
		if err != nil {
			return Tokens{}, fmt.Errorf("derive the LLM proxy's key: %w", err)
		}
		t.keys = append(t.keys, key)
	}
	return t, nil
}

type claims struct {
	jwt.RegisteredClaims
	Attempt    int        `json:"attempt"`
	Generation events.Seq `json:"generation"`
	Models     []string   `json:"models,omitempty"`
}

// Issue returns a token that is good until expires. Whether the attempt still may call is looked up with each request.
func (t Tokens) Issue(g Grant, now, expires time.Time) (secret.String, error) {
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{RegisteredClaims: jwt.RegisteredClaims{
		Issuer: issuer, Audience: jwt.ClaimStrings{audience}, Subject: string(g.Scan), ID: rand.Text(),
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(expires),
	}, Attempt: g.Attempt, Generation: g.Generation, Models: g.Models}).SignedString(t.keys[0])
	if err != nil {
		return secret.String{}, errors.New("sign the LLM proxy's token")
	}
	if len(text) > maxToken {
		return secret.String{}, fmt.Errorf("the LLM proxy's token would be longer than %d bytes: it names too many models", maxToken)
	}
	return secret.New(text), nil
}

// Verify says what a token is for, or ErrBadToken.
func (t Tokens) Verify(token string, now time.Time) (Grant, error) {
	if len(token) > maxToken {
		return Grant{}, ErrBadToken
	}
	keys := jwt.VerificationKeySet{}
	for _, k := range t.keys {
		keys.Keys = append(keys.Keys, k)
	}
	var c claims
	_, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return keys, nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithIssuer(issuer), jwt.WithAudience(audience),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithTimeFunc(func() time.Time { return now }), jwt.WithLeeway(leeway))
	if err != nil || events.CheckID("scan_id", c.Subject) != nil || c.Generation == 0 {
		return Grant{}, ErrBadToken
	}
	return Grant{events.ScanID(c.Subject), c.Attempt, c.Generation, c.Models}, nil
}

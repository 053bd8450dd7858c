package cognitotest

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"vega/services/auth"
)

// Client is the client of every Issuer.
const Client = "the-client"

// Key is an RSA key with the id it is published under.
type Key struct {
	ID      string
	Private *rsa.PrivateKey
}

// NewKey makes a key.
func NewKey(tb testing.TB, id string) Key {
	tb.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		tb.Fatal(err)
	}
	return Key{id, k}
}

// JWK is the key as a key set has it.
func (k Key) JWK() map[string]any {
	return map[string]any{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": k.ID,
		"n": base64.RawURLEncoding.EncodeToString(k.Private.N.Bytes()), "e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(k.Private.E)).Bytes())}
}

// KeySet is the document that publishes keys.
func KeySet(keys ...Key) []byte {
	doc := map[string]any{}
	list := make([]any, 0, len(keys))
	for _, k := range keys {
		list = append(list, k.JWK())
	}
	doc["keys"] = list
	b, err := json.Marshal(doc)
	if err != nil {
		panic(err) // strings only
	}
	return b
}

// Issuer is a user pool in this process. It is safe for concurrent use.
type Issuer struct {
	URL string // of its tokens; its key set is below

	fetches atomic.Int64
	mu      sync.Mutex // guards what follows
	keys    []Key
	answer  http.HandlerFunc // instead of the key set; nil: the key set
}

// NewIssuer starts an issuer that publishes keys and ends with the test.
func NewIssuer(tb testing.TB, keys ...Key) *Issuer {
	tb.Helper()
	i := &Issuer{keys: keys}
	srv := httptest.NewServer(http.HandlerFunc(i.serve))
	tb.Cleanup(srv.Close)
	i.URL = srv.URL + "/pool"
	return i
}

func (i *Issuer) serve(w http.ResponseWriter, r *http.Request) {
	i.fetches.Add(1)
	i.mu.Lock()
	answer, keys := i.answer, i.keys
	i.mu.Unlock()
	if answer != nil {
		answer(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(KeySet(keys...))
}

// Fetches is how often the key set was asked for.
func (i *Issuer) Fetches() int64 { return i.fetches.Load() }

// Publish replaces the keys that the set has.
func (i *Issuer) Publish(keys ...Key) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

// Answer makes the key set's address answer with f; nil: with the keys again.
func (i *Issuer) Answer(f http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.answer = f
}

// Settings are those of a process that takes the issuer's tokens; members of the group admin are admins.
func (i *Issuer) Settings() auth.UserPool {
	return auth.UserPool{Issuer: i.URL, JWKSURL: i.URL + "/.well-known/jwks.json", AppClientID: Client, AdminGroups: []string{"admin"}, ClockSkew: time.Minute}
}

// Claims are those of a token of the given use ("id", "access") that is good for an hour.
func (i *Issuer) Claims(use string, now time.Time) jwt.MapClaims {
	c := jwt.MapClaims{"iss": i.URL, "sub": "6f1c0b0e-9a2b-4c58-8d55-3b0f3f5f0c11", "token_use": use, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "jti": rand.Text()}
	if use == "id" {
		c["aud"], c["email"], c["email_verified"] = Client, "user@example.com", true
	} else {
		c["client_id"], c["scope"], c["username"] = Client, "openid", "user"
	}
	return c
}

// Sign makes a token as Cognito does.
func (k Key) Sign(tb testing.TB, claims jwt.MapClaims) string {
	tb.Helper()
	return Sign(tb, jwt.SigningMethodRS256, k.Private, map[string]any{"kid": k.ID}, claims)
}

// Sign makes a token by any method with any key and any header.
func Sign(tb testing.TB, method jwt.SigningMethod, key any, header map[string]any, claims jwt.Claims) string {
	tb.Helper()
	t := jwt.NewWithClaims(method, claims)
	delete(t.Header, "typ")
	for name, value := range header {
		t.Header[name] = value
	}
	s, err := t.SignedString(key)
	if err != nil {
		tb.Fatal(fmt.Errorf("sign the test's token: %w", err))
	}
	return s
}

package llmproxy

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"vega/config/secret"
)

var grant = Grant{Scan: "scan_test_a", Attempt: 2, Generation: 7, Models: []string{"gpt-5.4"}}

func signer(t testing.TB, current, previous string) Tokens {
	t.Helper()
	tokens, err := NewTokens(secret.New(current), secret.New(previous))
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func TestSecretsAreReplacedWithoutRefusingTokens(t *testing.T) {
	t.Parallel()
	old, both, after := signer(t, "the first secret", ""), signer(t, "the second secret", "the first secret, an even older one"), signer(t, "the second secret", "")
	issue := func(s Tokens) string {
		token, err := s.Issue(grant, noon, noon.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return token.Reveal()
	}
	for _, c := range []struct {
		name       string
		from, with Tokens
		ok         bool
	}{{"before", old, old, true}, {"signed before, verified during", old, both, true}, {"signed during, verified before", both, old, false}, {"signed during, verified after", both, after, true}, {"signed before, verified after", old, after, false}} {
		got, err := c.with.Verify(issue(c.from), noon)
		if ok := err == nil; ok != c.ok || !ok && !errors.Is(err, ErrBadToken) {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.ok && (got.Scan != grant.Scan || got.Attempt != grant.Attempt || got.Generation != grant.Generation || len(got.Models) != 1) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

func TestATokenEndsAndBeginsOnTime(t *testing.T) {
	t.Parallel()
	s := signer(t, "the first secret", "")
	token, err := s.Issue(grant, noon, noon.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[time.Duration]bool{-time.Minute: false, 0: true, time.Hour: true, time.Hour + leeway + time.Second: false} {
		if _, err := s.Verify(token.Reveal(), noon.Add(at)); (err == nil) != want {
			t.Errorf("after %s: %v", at, err)
		}
	}
}

func TestATokenThatWasChangedIsRefused(t *testing.T) {
	t.Parallel()
	s := signer(t, "the first secret", "")
	token, err := s.Issue(grant, noon, noon.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	text := token.Reveal()
	for i := range text {
		c := byte('A')
		if text[i] == c {
			c = 'B'
		}
		changed := text[:i] + string(c) + text[i+1:]
		g, err := s.Verify(changed, noon)
		if err == nil && !sameSignature(text, changed) {
			t.Errorf("with byte %d changed it is good for %+v", i, g)
		}
	}
	for name, bad := range map[string]string{"unsigned": `{"alg":"none"}`, "public key": `{"alg":"RS256"}`, "longer hash": `{"alg":"HS512"}`} {
		_, rest, _ := strings.Cut(text, ".")
		if _, err := s.Verify(base64.RawURLEncoding.EncodeToString([]byte(bad))+"."+rest, noon); !errors.Is(err, ErrBadToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Verify(strings.Repeat("a", maxToken+1), noon); !errors.Is(err, ErrBadToken) {
		t.Errorf("too long: %v", err)
	}
}

// sameSignature says whether two texts are one token: the last letter of a signature has bits that mean nothing.
func sameSignature(a, b string) bool {
	i, j := strings.LastIndex(a, "."), strings.LastIndex(b, ".")
	x, errX := base64.RawURLEncoding.DecodeString(a[i+1:])
	y, errY := base64.RawURLEncoding.DecodeString(b[j+1:])
	return a[:i] == b[:j] && errX == nil && errY == nil && string(x) == string(y)
}

// signedBy computes a token's signature once more.
func signedBy(s Tokens, text string) bool {
	i := strings.LastIndex(text, ".")
	if i < 0 {
		return false
	}
	got, err := base64.RawURLEncoding.DecodeString(text[i+1:])
	if err != nil {
		return false
	}
	return slices.ContainsFunc(s.keys, func(key []byte) bool {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text[:i]))
		return hmac.Equal(h.Sum(nil), got)
	})
}

// What verifies was signed here, whatever it looks like, and nothing that is not a token ends the process.
func FuzzVerify(f *testing.F) {
	s := signer(f, "the first secret", "the secret before")
	token, err := s.Issue(grant, noon, noon.Add(time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token.Reveal())
	f.Add("")
	f.Add("a.b.c")
	f.Add(strings.Repeat(".", 5000))
	f.Add("eyJhbGciOiJub25lIn0.eyJzdWIiOiJzY2FuX3Rlc3RfYSJ9.")
	f.Fuzz(func(t *testing.T, text string) {
		g, err := s.Verify(text, noon)
		if err == nil && !signedBy(s, text) {
			t.Errorf("%q is good for %+v", text, g)
		}
		if err != nil && !errors.Is(err, ErrBadToken) {
			t.Errorf("%q: %v", text, err)
		}
	})
}

package auth

import (
	"context"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"sync"
	"time"
)

// What bounds the fetching of a key set.
const (
	keysTimeout = 5 * time.Second  // one fetch, from dialling to the last byte
	maxKeysBody = 256 << 10        // bytes of the document; Cognito's has about a thousand
	maxKeys     = 64               // keys taken from it
	minModulus  = 2048             // bits of an RSA key
	maxModulus  = 8192             // bits: beyond, one verification would cost milliseconds
	keysFresh   = 15 * time.Minute // how often the set is fetched while nobody asks for a key that is not there
	keysKept    = 24 * time.Hour   // how long keys are honoured while the address is away
	keysMissing = 10 * time.Second // between fetches that unknown keys cause, all callers together
	keysAbsent  = time.Second      // the same while there are no keys at all
)

// keySet is what an issuer publishes, kept here. It is safe for concurrent use.
type keySet struct {
	url    string
	client *http.Client
	log    *slog.Logger
	now    func() time.Time

	mu      sync.Mutex // guards what follows; never held over I/O
	keys    map[string]*rsa.PublicKey
	fetched time.Time     // when keys came; zero: never
	tried   time.Time     // when the last fetch began
	failed  error         // of the last fetch
	flight  chan struct{} // closed when the fetch that is on its way has ended; nil when there is none
}

// key finds a key by its id. An id that is not there is looked for at the address, but never more often than every keysMissing for
// all callers together: those who come while a fetch is on its way wait for that one. It returns a Refusal for a key that the issuer does not
// publish, ErrUnavailable when that cannot be known, and ctx's error.
func (s *keySet) key(ctx context.Context, id string) (*rsa.PublicKey, error) {
	for asked := false; ; {
		s.mu.Lock()
		now, usable := s.now(), s.usable()
		if k := s.keys[id]; k != nil && usable {
			s.mu.Unlock()
			return k, nil
		}
		wait := keysAbsent
		if usable {
			wait = keysMissing
		}
		flight := s.flight
		switch {
		case asked && usable, flight == nil && usable && now.Sub(s.tried).Abs() < wait:
			s.mu.Unlock()
			return nil, Refusal{ReasonUnknownKey}
		case asked, flight == nil && now.Sub(s.tried).Abs() < wait:
			err := s.failed
			s.mu.Unlock()
			return nil, fmt.Errorf("%w: no keys of the user pool: %w", ErrUnavailable, err)
		}
		s.mu.Unlock()
		if flight == nil {
			_ = s.refresh(ctx) // what it found is looked at above
			asked = true
			continue
		}
		select {
		case <-flight:
			asked = true
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		}
	}
}

// usable reports, under mu, whether there are keys and they are not too old.
func (s *keySet) usable() bool { return !s.fetched.IsZero() && s.now().Sub(s.fetched) < keysKept }

// refresh fetches the set and replaces the keys by it; a set that cannot be had or used changes nothing. One fetch is on its way at a time: who
// comes meanwhile returns at once. The caller's end does not end the fetch, which others wait for; keysTimeout does.
func (s *keySet) refresh(ctx context.Context) error {
	s.mu.Lock()
	if s.flight != nil {
		s.mu.Unlock()
		return nil
	}
	flight := make(chan struct{})
	s.flight, s.tried = flight, s.now()
	s.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keysTimeout)
	keys, err := s.fetch(ctx)
	cancel()

	s.mu.Lock()
	before := s.failed
	s.failed, s.flight = err, nil
	if err == nil {
		s.keys, s.fetched = keys, s.now()
	}
	held := len(s.keys)
	s.mu.Unlock()
	close(flight)
	switch {
	case err != nil && before == nil:
		s.log.Warn("keys of the user pool not fetched", "url", s.url, "keys_kept", held, "err", err)
	case err == nil && before != nil:
		s.log.Info("keys of the user pool fetched again", "url", s.url, "keys", held)
	}
	return err
}

// run fetches the set before it is old, and again and again, slower and slower, while that fails. It returns when ctx ends.
func (s *keySet) run(ctx context.Context) error {
	for pause := keysAbsent; ; {
		s.mu.Lock()
		next := s.fetched.Add(keysFresh)
		if s.failed != nil || s.fetched.IsZero() {
			next, pause = s.tried.Add(pause), min(2*pause, time.Minute)
		} else {
			pause = keysAbsent
		}
		s.mu.Unlock()
		timer := time.NewTimer(max(0, next.Sub(s.now())))
		select {
		case <-timer.C:
			_ = s.refresh(ctx) // logged there
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// check returns nil when there are keys to verify with, and tries to get them when there are none.
func (s *keySet) check(ctx context.Context) error {
	s.mu.Lock()
	usable := s.usable()
	s.mu.Unlock()
	if usable {
		return nil
	}
	if _, err := s.key(ctx, ""); ReasonOf(err) != ReasonUnknownKey { // no key is called that
		return err
	}
	return nil
}

// jwk is one key of the document, as far as it is used.
type jwk struct {
	Kty string `json:"kty"`
	Kid string `json:"kid"`
	Use string `json:"use"`
	Alg string `json:"alg"`
	N   string `json:"n"`
	E   string `json:"e"`
}

func (s *keySet) fetch(ctx context.Context) (map[string]*rsa.PublicKey, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	res, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetch key set: the answer is %s", res.Status)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxKeysBody+1))
	if err != nil {
		return nil, fmt.Errorf("fetch key set: %w", err)
	}
	if len(body) > maxKeysBody {
		return nil, fmt.Errorf("fetch key set: it has more than %d bytes", maxKeysBody)
	}
	return parseKeys(body)
}

// parseKeys takes the usable keys from a document: RSA keys that have an id and may sign by RS256. What it cannot use it leaves out, so that a
// pool may publish keys of other kinds. It returns an error when nothing is left.
func parseKeys(body []byte) (map[string]*rsa.PublicKey, error) {
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, errors.New("parse key set: it is not a JSON document with keys")
	}
	keys := map[string]*rsa.PublicKey{}
	for _, raw := range doc.Keys {
		var k jwk
		if json.Unmarshal(raw, &k) != nil || k.Kty != "RSA" || k.Kid == "" || len(k.Kid) > maxKid ||
			(k.Use != "" && k.Use != "sig") || (k.Alg != "" && k.Alg != "RS256") || keys[k.Kid] != nil {
			continue
		}
		if pub := k.public(); pub != nil && len(keys) < maxKeys {
			keys[k.Kid] = pub
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("parse key set: none of its %d keys is an RSA key for RS256 of %d to %d bits with an id", len(doc.Keys), minModulus, maxModulus)
	}
	return keys, nil
}

// public is the key, or nil when its numbers are not those of a usable one.
func (k jwk) public() *rsa.PublicKey {
	n, err1 := base64.RawURLEncoding.DecodeString(k.N)
	e, err2 := base64.RawURLEncoding.DecodeString(k.E)
	if err1 != nil || err2 != nil || len(e) == 0 || len(e) > 4 {
		return nil
	}
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e).Int64()
	if bits := modulus.BitLen(); bits < minModulus || bits > maxModulus || modulus.Bit(0) == 0 || exponent < 3 || exponent > 1<<31-1 || exponent%2 == 0 {
		return nil
	}
	return &rsa.PublicKey{N: modulus, E: int(exponent)}
}

package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"vega/events/eventstore"
)

// keyLife is how long the same Idempotency-Key with another body is noticed.
const keyLife = 24 * time.Hour

// remember keeps the hash of a keyed request's body, and refuses the key with another one. What the key does is not kept here: ids and
// command ids derive from it, so the log itself knows a request that it has seen. The returned function is called after the answer; it
// forgets the hash of a request that was refused, so that a corrected one may use the key.
func (s *Server) remember(r *http.Request) (func(), error) {
	c := callOf(r.Context())
	if c.key == "" || r.Body == nil {
		return func() {}, nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), r.Body), r.Body}
	sum := sha256.Sum256(body)
	key := "idempotency." + hash(string(c.who.User), c.method+" "+c.path, c.key)
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	_, err = s.expiring.Create(ctx, key, sum[:], jetstream.KeyTTL(keyLife))
	if errors.Is(err, jetstream.ErrKeyExists) {
		e, gerr := s.expiring.Get(ctx, key)
		switch {
		case errors.Is(gerr, jetstream.ErrKeyNotFound): // it has just been forgotten
			return func() {}, nil
		case gerr != nil:
			return nil, fmt.Errorf("%w: %w", eventstore.ErrUnavailable, gerr)
		case !bytes.Equal(e.Value(), sum[:]):
			return nil, errKeyReused
		}
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
	}
	// A crash from here on leaves the hash of a request that may not have been done: its retry has the same body and goes through.
	return func() {
		if c.answer.status < 400 {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), time.Second)
		defer cancel()
		_ = s.expiring.Purge(ctx, key, jetstream.PurgeTTL(time.Hour)) // it expires anyway
	}, nil
}

// keepFor stores something that ends by itself.
func (s *Server) keepFor(ctx context.Context, key string, v []byte, life time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := s.expiring.Create(ctx, key, v, jetstream.KeyTTL(life)); err != nil {
		return fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
	}
	return nil
}

// kept returns what keepFor stored, or errNotFound.
func (s *Server) kept(ctx context.Context, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	e, err := s.expiring.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, errNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
	}
	return e.Value(), nil
}

var errKeyReused = fail(http.StatusUnprocessableEntity, "idempotency_key_reused", "this Idempotency-Key was used for another request")

// hash is of the parts and their borders.
func hash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
)

// sessions keeps who is signed in, in the expiring bucket. A leaked copy of the bucket holds no usable token.
type sessions struct {
	js jetstream.JetStream
	kv jetstream.KeyValue

	mu   sync.Mutex // guards seen, never held over I/O
	seen map[string]sighting
}

// sighting is what was last known of a session.
type sighting struct {
	at    time.Time
	alive bool
}

const (
	recheck = 5 * time.Second // how old a sighting of a living session may be
	maxSeen = 10_000          // sightings kept; beyond, all are forgotten and asked again
)

// session is one entry.
type session struct {
	User  events.UserID `json:"user_id"`
	Proof string        `json:"proof"` // hex SHA-256 of the proof that is good now
}

// sessionTimeout bounds one question to the bucket.
const sessionTimeout = 5 * time.Second

func openSessions(ctx context.Context, store *eventstore.Store) (*sessions, error) {
	kv, err := store.Bucket(ctx, eventstore.ExpiringBucket)
	if err != nil {
		return nil, fmt.Errorf("open sessions: %w", err)
	}
	return &sessions{js: store.JetStream(), kv: kv, seen: map[string]sighting{}}, nil
}

// begin makes a session and returns its first refresh token.
func (s *sessions) begin(ctx context.Context, user events.UserID) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	id, proof := rand.Text(), rand.Text()
	v, err := json.Marshal(session{User: user, Proof: digest(proof)})
	if err != nil {
		return "", err
	}
	if _, err := s.kv.Create(ctx, keyPrefix+digest(id), v, jetstream.KeyTTL(SessionLife)); err != nil {
		return "", fmt.Errorf("%w: begin session: %w", ErrUnavailable, err)
	}
	// A crash here leaves a session that nobody has the token of; it expires.
	return id + "." + proof, nil
}

// rotate spends a refresh token for the next one of its session.
func (s *sessions) rotate(ctx context.Context, token string) (events.UserID, string, error) {
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	id, proof, ok := strings.Cut(token, ".")
	if !ok || len(token) > 200 {
		return "", "", ErrBadToken
	}
	key := keyPrefix + digest(id)
	e, err := s.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return "", "", ErrBadToken
	}
	if err != nil {
		return "", "", fmt.Errorf("%w: read session: %w", ErrUnavailable, err)
	}
	var now session
	if err := json.Unmarshal(e.Value(), &now); err != nil {
		return "", "", fmt.Errorf("read session: %w", err)
	}
	if subtle.ConstantTimeCompare([]byte(digest(proof)), []byte(now.Proof)) != 1 {
		return "", "", errors.Join(ErrBadToken, s.end(ctx, sessionOf(token)))
	}
	next := rand.Text()
	v, err := json.Marshal(session{User: now.User, Proof: digest(next)})
	if err != nil {
		return "", "", err
	}
	// The expectation makes a token that is presented twice at once count as presented twice. The TTL has to be given again: an
	// update without one would never expire.
	_, err = s.js.Publish(ctx, "$KV."+eventstore.ExpiringBucket+"."+key, v,
		jetstream.WithMsgTTL(SessionLife), jetstream.WithExpectLastSequencePerSubject(e.Revision()))
	// A crash here: the token is spent and its successor is lost. Its owner signs in again.
	if api, refused := errors.AsType[*jetstream.APIError](err); refused && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == errInFlight) {
		return "", "", errors.Join(ErrBadToken, s.end(ctx, sessionOf(token)))
	}
	if err != nil {
		return "", "", fmt.Errorf("%w: renew session: %w", ErrUnavailable, err)
	}
	return now.User, id + "." + next, nil
}

// errInFlight is how a replicated server says that another write of the same key is on its way.
const errInFlight = 10164

// end deletes a session; nothing when there is none.
func (s *sessions) end(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	_, err := s.kv.Get(ctx, keyPrefix+name)
	if err == nil {
		err = s.kv.Purge(ctx, keyPrefix+name, jetstream.PurgeTTL(AccessLife))
	}
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return fmt.Errorf("%w: end session: %w", ErrUnavailable, err)
	}
	s.note(name, sighting{alive: false})
	return nil
}

// lives says whether a session was there within the last recheck.
func (s *sessions) lives(ctx context.Context, name string, now time.Time) bool {
	s.mu.Lock()
	last, known := s.seen[name]
	s.mu.Unlock()
	if known && (!last.alive || now.Sub(last.at).Abs() < recheck) {
		return last.alive
	}
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	_, err := s.kv.Get(ctx, keyPrefix+name)
	alive := !errors.Is(err, jetstream.ErrKeyNotFound) && !errors.Is(err, jetstream.ErrInvalidKey)
	s.note(name, sighting{now, alive})
	return alive
}

func (s *sessions) note(name string, what sighting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) >= maxSeen {
		clear(s.seen)
	}
	s.seen[name] = what
}

const keyPrefix = "session."

// sessionOf is the name of a refresh token's session.
func sessionOf(token string) string {
	id, _, _ := strings.Cut(token, ".")
	return digest(id)
}

func digest(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

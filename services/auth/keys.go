package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/catalog"
)

// An API key is shown as "vega_<id>_<secret><checksum>": the prefix lets secret scanners find a leaked one, the id finds its aggregate, and the checksum
// tells a mistyped one without asking the log.
const (
	keyTokenPrefix = "vega_"
	keyChecksum    = 6 // characters
)

// IsKey says whether a bearer token has the form of an API key. Nothing else has.
func IsKey(token string) bool { return strings.HasPrefix(token, keyTokenPrefix) }

// MintKey makes the secret of a key. The token is to be shown once; the digest is what is kept.
func MintKey(id events.APIKeyID) (token string, kept events.Digest) {
	secret := strings.ToLower(rand.Text())
	body := keyTokenPrefix + string(id) + "_" + secret
	return body + checksum(body), events.DigestOf([]byte(secret))
}

// readKey takes a token apart; false when nobody can have minted it.
func readKey(token string) (events.APIKeyID, string, bool) {
	if len(token) > 200 || !IsKey(token) || len(token) < len(keyTokenPrefix)+keyChecksum {
		return "", "", false
	}
	body, sum := token[:len(token)-keyChecksum], token[len(token)-keyChecksum:]
	i := strings.LastIndexByte(body, '_')
	id := strings.TrimPrefix(body[:i+1], keyTokenPrefix)
	id = strings.TrimSuffix(id, "_")
	if checksum(body) != sum || events.CheckID("api_key_id", id) != nil {
		return "", "", false
	}
	return events.APIKeyID(id), body[i+1:], true
}

// checksum is six characters of [a-v0-9] over s.
func checksum(s string) string {
	const digits = "0123456789abcdefghijklmnopqrstuv"
	sum := crc32.ChecksumIEEE([]byte(s))
	var out [keyChecksum]byte
	for i := range out {
		out[i] = digits[sum>>(5*i)&31]
	}
	return string(out[:])
}

// Keys answers for API keys, whoever signs their users in. What is true of a key stands in the log; it is read there at most every five seconds, so a
// revoked key is refused at once by the process that revoked it and within five seconds by the others. While the log is away, what was last known of a key
// counts for a minute. It is safe for concurrent use.
type Keys struct {
	store *eventstore.Store
	now   func() time.Time

	mu   sync.Mutex // guards what follows, never held over I/O
	seen map[events.APIKeyID]*keySighting
}

// keySighting is what was last known of a key.
type keySighting struct {
	key  catalog.APIKey
	at   time.Time // when the log was asked
	told time.Time // when the use of it was last noted
}

const (
	keyOutage  = time.Minute            // for how long an old sighting counts when the log does not answer
	useNote    = time.Minute            // how often the use of a key is noted at most, by each process
	useKept    = 400 * 24 * time.Hour   // how long the note is kept: longer than a key lives
	usePrefix  = "api_key_used."        // in the expiring bucket
	useReading = 250 * time.Millisecond // how long a list waits for one note
)

// NewKeys returns what answers for the API keys of a log. A nil now is time.Now.
func NewKeys(store *eventstore.Store, now func() time.Time) *Keys {
	if now == nil {
		now = time.Now
	}
	return &Keys{store: store, now: now, seen: map[events.APIKeyID]*keySighting{}}
}

// Verify says as whom an API key acts, and how far. It returns ErrBadToken for one that is unknown, changed, expired or revoked, and ErrUnavailable when
// the log cannot be asked about it.
func (k *Keys) Verify(ctx context.Context, token string) (Identity, error) {
	id, secret, ok := readKey(token)
	if home, known := events.HomeOf(string(id)); !ok || !known || home != k.store.Region() {
		return Identity{}, ErrBadToken
	}
	key, err := k.look(ctx, id)
	if err != nil {
		return Identity{}, err
	}
	now := k.now()
	if subtle.ConstantTimeCompare([]byte(events.DigestOf([]byte(secret))), []byte(key.Secret)) != 1 || !key.Good(now) {
		return Identity{}, ErrBadToken
	}
	k.noteUse(id, now)
	return Identity{User: key.User, Admin: key.Admin && slices.Contains(key.Scopes, events.ScopeAdmin), Key: id, Scopes: key.Scopes}, nil
}

// look is the key as the log had it within the last recheck.
func (k *Keys) look(ctx context.Context, id events.APIKeyID) (catalog.APIKey, error) {
	now := k.now()
	k.mu.Lock()
	last := k.seen[id]
	k.mu.Unlock()
	if last != nil && now.Sub(last.at).Abs() < recheck {
		return last.key, nil
	}
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	past, _, err := k.store.Load(ctx, events.APIKeyOf(k.store.Region(), id), events.Head{})
	if err != nil {
		if last != nil && now.Sub(last.at).Abs() < keyOutage {
			return last.key, nil
		}
		return catalog.APIKey{}, fmt.Errorf("%w: read API key: %w", ErrUnavailable, err)
	}
	var key catalog.APIKey
	for _, r := range past {
		key = key.Evolve(r)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !key.Exists {
		return key, nil // nothing to remember: anybody can ask for ids that are none
	}
	if len(k.seen) >= maxSeen {
		clear(k.seen)
	}
	next := &keySighting{key: key, at: now}
	if last != nil {
		next.told = last.told
	}
	k.seen[id] = next
	return key, nil
}

// Forget makes the next use of a key ask the log: for who has just changed it.
func (k *Keys) Forget(id events.APIKeyID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.seen, id)
}

// noteUse notes that a key is in use, now and then, without waiting: a lost note makes "last used" a minute older.
func (k *Keys) noteUse(id events.APIKeyID, now time.Time) {
	k.mu.Lock()
	s := k.seen[id]
	due := s != nil && now.Sub(s.told) >= useNote
	if due {
		s.told = now
	}
	k.mu.Unlock()
	if !due {
		return
	}
	_, _ = k.store.JetStream().PublishAsync("$KV."+eventstore.ExpiringBucket+"."+usePrefix+string(id),
		[]byte(now.UTC().Format(time.RFC3339)), jetstream.WithMsgTTL(useKept))
}

// LastUsed says when each of some keys was last used, to the minute; the zero time when it never was, or nobody knows.
func (k *Keys) LastUsed(ctx context.Context, ids []events.APIKeyID) ([]time.Time, error) {
	kv, err := k.store.Bucket(ctx, eventstore.ExpiringBucket)
	if err != nil {
		return nil, err
	}
	out := make([]time.Time, len(ids))
	var asking sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i, id := range ids {
		slots <- struct{}{}
		asking.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, useReading)
			defer cancel()
			if e, err := kv.Get(ctx, usePrefix+string(id)); err == nil {
				out[i], _ = time.Parse(time.RFC3339, string(e.Value()))
			}
		})
	}
	asking.Wait()
	return out, nil
}

// May says whether an identity's token reaches a scope: an API key only what it was made for, everybody else everything.
func (i Identity) May(s events.Scope) bool {
	return i.Key == "" || slices.Contains(i.Scopes, s) || slices.Contains(i.Scopes, events.ScopeAdmin)
}

package auth

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/catalog"
)

// madeKey records a key and returns its token.
func madeKey(t *testing.T, store *eventstore.Store, clk *clock, change func(*events.APIKeyCreated)) (events.APIKeyID, string) {
	t.Helper()
	id := events.NewAPIKeyID(natstest.Region)
	token, digest := MintKey(id)
	e := events.APIKeyCreated{User: "user_a", Name: "CI", Secret: digest, Scopes: []events.Scope{events.ScopeRead}, ExpiresAt: clk.Now().Add(time.Hour)}
	if change != nil {
		change(&e)
	}
	meta := events.Meta{Command: events.NewCommandID(), Actor: events.ByUser("user_a"), At: clk.Now()}
	if _, _, err := eventstore.Do(t.Context(), store, events.APIKeyOf(natstest.Region, id), meta, func(k catalog.APIKey, _ events.Head) ([]events.Event, error) {
		return k.Create(e, clk.Now())
	}); err != nil {
		t.Fatal(err)
	}
	return id, token
}

func revoke(t *testing.T, store *eventstore.Store, clk *clock, id events.APIKeyID) {
	t.Helper()
	meta := events.Meta{Command: events.NewCommandID(), Actor: events.ByUser("user_b"), At: clk.Now()}
	if _, _, err := eventstore.Do(t.Context(), store, events.APIKeyOf(natstest.Region, id), meta, func(k catalog.APIKey, _ events.Head) ([]events.Event, error) {
		return k.Revoke()
	}); err != nil {
		t.Fatal(err)
	}
}

func TestAPIKeyActsAsItsUserWithinItsScopes(t *testing.T) {
	t.Parallel()
	store, clk := natstest.Open(t), newClock()
	keys := NewKeys(store, clk.Now)
	id, token := madeKey(t, store, clk, func(e *events.APIKeyCreated) { e.Admin = true })
	who, err := keys.Verify(t.Context(), token)
	if err != nil || who.User != "user_a" || who.Key != id || who.Admin {
		t.Fatalf("Verify = %+v, %v; want user_a without admin's rights", who, err)
	}
	if !who.May(events.ScopeRead) || who.May(events.ScopeScan) || who.May(events.ScopeAdmin) {
		t.Errorf("a key to read may %v", who.Scopes)
	}
	_, all := madeKey(t, store, clk, func(e *events.APIKeyCreated) { e.Admin, e.Scopes = true, []events.Scope{events.ScopeAdmin} })
	if who, err = keys.Verify(t.Context(), all); err != nil || !who.Admin || !who.May(events.ScopeTriage) {
		t.Errorf("Verify of an admin's key = %+v, %v", who, err)
	}
	if !(Identity{}).May(events.ScopeAdmin) {
		t.Error("who signed in is held to scopes")
	}
}

func TestWhatIsNoGoodAPIKeyIsRefused(t *testing.T) {
	t.Parallel()
	store, clk := natstest.Open(t), newClock()
	keys := NewKeys(store, clk.Now)
	id, token := madeKey(t, store, clk, nil)
	other, _ := MintKey(id)
	unknown, _ := MintKey(events.NewAPIKeyID(natstest.Region))
	elsewhere, _ := MintKey(events.NewAPIKeyID("eu-9"))
	changed := []byte(token)
	changed[len(changed)-10] ^= 1
	for name, bad := range map[string]string{
		"empty": "", "no key": "a.b.c", "prefix alone": "vega_", "short": "vega_x", "cut": token[:len(token)-1], "longer": token + "x", "changed": string(changed),
		"another secret of the same id": other, "unknown id": unknown, "another region": elsewhere, "huge": "vega_" + strings.Repeat("a", 5000),
	} {
		if who, err := keys.Verify(t.Context(), bad); !errors.Is(err, ErrBadToken) {
			t.Errorf("%s: Verify = %+v, %v, want ErrBadToken", name, who, err)
		}
	}
	if _, err := keys.Verify(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	clk.pass(time.Hour)
	if _, err := keys.Verify(t.Context(), token); !errors.Is(err, ErrBadToken) {
		t.Errorf("an expired key: %v, want ErrBadToken", err)
	}
}

func TestARevokedAPIKeyIsRefusedEverywhereWithinSeconds(t *testing.T) {
	t.Parallel()
	store, clk := natstest.Open(t), newClock()
	here, there := NewKeys(store, clk.Now), NewKeys(store, clk.Now)
	id, token := madeKey(t, store, clk, nil)
	for _, k := range []*Keys{here, there} {
		if _, err := k.Verify(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}
	revoke(t, store, clk, id)
	here.Forget(id)
	if _, err := here.Verify(t.Context(), token); !errors.Is(err, ErrBadToken) {
		t.Errorf("here: %v, want ErrBadToken", err)
	}
	clk.pass(recheck)
	if _, err := there.Verify(t.Context(), token); !errors.Is(err, ErrBadToken) {
		t.Errorf("in another process: %v, want ErrBadToken", err)
	}
}

func TestAPIKeysWhileTheLogIsAway(t *testing.T) {
	t.Parallel()
	store, clk := natstest.Open(t), newClock()
	keys := NewKeys(store, clk.Now)
	_, known := madeKey(t, store, clk, nil)
	_, unseen := madeKey(t, store, clk, nil)
	if _, err := keys.Verify(t.Context(), known); err != nil {
		t.Fatal(err)
	}
	store.Conn().Close()
	gone, cancel := context.WithCancel(t.Context()) // nobody waits for what does not come
	cancel()
	clk.pass(recheck)
	if _, err := keys.Verify(gone, known); err != nil {
		t.Errorf("a key seen seconds ago: %v", err)
	}
	if _, err := keys.Verify(gone, unseen); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrBadToken) {
		t.Errorf("a key never seen: %v, want ErrUnavailable", err)
	}
	clk.pass(keyOutage)
	if _, err := keys.Verify(gone, known); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a key seen long ago: %v, want ErrUnavailable", err)
	}
}

func TestUseOfAnAPIKeyIsNoted(t *testing.T) {
	t.Parallel()
	store, clk := natstest.Open(t), newClock()
	keys := NewKeys(store, clk.Now)
	used, token := madeKey(t, store, clk, nil)
	unused, _ := madeKey(t, store, clk, nil)
	at := clk.Now()
	lastUsed := func() time.Time {
		t.Helper()
		select {
		case <-store.JetStream().PublishAsyncComplete():
		case <-t.Context().Done():
			t.Fatal("the note was not stored")
		}
		got, err := keys.LastUsed(t.Context(), []events.APIKeyID{used, unused})
		if err != nil || !got[1].IsZero() {
			t.Fatalf("LastUsed = %v, %v; want nothing of the unused one", got, err)
		}
		return got[0]
	}
	for _, c := range []struct{ after, want time.Duration }{{0, 0}, {useNote / 2, 0}, {useNote / 2, useNote}} {
		clk.pass(c.after)
		if _, err := keys.Verify(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		if got := lastUsed(); !got.Equal(at.Add(c.want).Truncate(time.Second)) {
			t.Errorf("LastUsed = %s, want %s", got, at.Add(c.want))
		}
	}
}

func FuzzReadKey(f *testing.F) {
	token, _ := MintKey(events.NewAPIKeyID("eu-1"))
	f.Add(token)
	f.Add("vega_")
	f.Add("vega_key_eu-1_x_y000000")
	f.Fuzz(func(t *testing.T, s string) {
		id, secret, ok := readKey(s)
		if ok && keyTokenPrefix+string(id)+"_"+secret+checksum(keyTokenPrefix+string(id)+"_"+secret) != s {
			t.Errorf("readKey(%q) = %q, %q", s, id, secret)
		}
	})
}

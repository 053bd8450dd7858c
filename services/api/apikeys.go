package api

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/projections"
	"vega/services/auth"
	"vega/services/catalog"
)

type apiKeyBody struct {
	ID        events.APIKeyID `json:"id"`
	User      events.UserID   `json:"user_id" doc:"As whom it acts"`
	Name      string          `json:"name"`
	Scopes    []events.Scope  `json:"scopes" doc:"What it may be used for, within what its user may do; admin is all of it"`
	Status    string          `json:"status" enum:"active,expired,revoked"`
	ExpiresAt time.Time       `json:"expires_at"`
	LastUsed  *time.Time      `json:"last_used_at" doc:"To the minute; null: not yet"`
	RevokedAt *time.Time      `json:"revoked_at"`
	CreatedAt time.Time       `json:"created_at"`
	Version   events.Version  `json:"version"`
	Sequence  events.Seq      `json:"sequence"`
	Secret    string          `json:"key,omitempty" doc:"The key itself, in the answer that creates it and never again"`
}

func (s *Server) shapeAPIKey(r projections.APIKey, used time.Time) apiKeyBody {
	b := apiKeyBody{ID: r.ID, User: r.User, Name: r.Name, Scopes: r.Scopes, Status: "active", ExpiresAt: r.ExpiresAt, LastUsed: when(used), RevokedAt: when(r.RevokedAt),
		CreatedAt: r.CreatedAt, Version: r.Version, Sequence: r.Seq}
	switch {
	case !r.RevokedAt.IsZero():
		b.Status = "revoked"
	case !s.Now().Before(r.ExpiresAt):
		b.Status = "expired"
	}
	return b
}

type apiKeyIn struct {
	Body struct {
		Name   string         `json:"name" maxLength:"1000" doc:"1 to 200 characters"`
		Scopes []events.Scope `json:"scopes" minItems:"1" maxItems:"10" enum:"read,scan,triage,admin" doc:"What it may be used for"`
		Days   int            `json:"expires_in_days,omitempty" minimum:"1" maximum:"366" default:"90" doc:"After how many days it ends by itself"`
	}
}

// createAPIKey makes a key of the caller. Only people make keys: one that leaked must not be able to outlive its revocation.
func (s *Server) createAPIKey(ctx context.Context, in *apiKeyIn) (*one[apiKeyBody], error) {
	c := callOf(ctx)
	if c.who.Key != "" {
		return nil, fail(http.StatusForbidden, "api_key_used", "an API key cannot make others; sign in")
	}
	id := events.NewAPIKeyID(s.region)
	if c.key != "" {
		id = events.APIKeyIDFor(s.region, c.who.User, c.key)
	}
	token, digest := auth.MintKey(id)
	now := s.Now().UTC()
	want := events.APIKeyCreated{User: c.who.User, Name: in.Body.Name, Secret: digest, Scopes: in.Body.Scopes, Admin: c.who.Admin,
		ExpiresAt: now.Add(time.Duration(cmp.Or(in.Body.Days, 90)) * 24 * time.Hour)}
	state, made, err := eventstore.Do(ctx, s.Store, events.APIKeyOf(s.region, id), c.meta(now), func(k catalog.APIKey, _ events.Head) ([]events.Event, error) {
		return k.Create(want, now)
	})
	if err != nil {
		return nil, err
	}
	// The key of an earlier request with the same Idempotency-Key is shown without its secret, which nobody has any more: a crash, or a lost answer, right
	// after it was stored leaves a key that nobody can use. Its owner sees it in the list and revokes it.
	e := state.APIKeyCreated
	if e.Name != want.Name || !slices.Equal(e.Scopes, sorted(want.Scopes)) {
		return nil, errKeyReused
	}
	s.settle(ctx, made)
	row, err := s.apiKeyRow(ctx, id, lastSeq(made))
	if err != nil {
		return nil, err
	}
	out := &one[apiKeyBody]{ETag: etag(row.Version), Sequence: seqHeader(made), Body: s.shapeAPIKey(row, time.Time{})}
	if e.Secret == digest {
		out.Body.Secret = token
	}
	return out, nil
}

// sorted are scopes as an event holds them.
func sorted(scopes []events.Scope) []events.Scope {
	return slices.DeleteFunc(events.Scopes(), func(x events.Scope) bool { return !slices.Contains(scopes, x) })
}

// apiKeyRow is a key at least as of seq: the read model's row, or the log's.
func (s *Server) apiKeyRow(ctx context.Context, id events.APIKeyID, seq events.Seq) (projections.APIKey, error) {
	row, err := s.Model.APIKey(ctx, id)
	if err == nil && row.Seq >= seq {
		return row, nil
	}
	f, _, err := s.foldOf(ctx, events.APIKeyOf(s.region, id), 0)
	if err != nil {
		return row, err
	}
	return f.apiKey, nil
}

type apiKeyListIn struct {
	PageIn
	All bool `query:"all" doc:"Those of all users; for admins"`
}

func (s *Server) listAPIKeys(ctx context.Context, in *apiKeyListIn) (*many[apiKeyBody], error) {
	c := callOf(ctx)
	user := c.who.User
	if in.All {
		if !c.who.Admin {
			return nil, fail(http.StatusForbidden, "forbidden", "all: this is for admins")
		}
		user = ""
	}
	rows, next, err := s.Model.APIKeys(ctx, user, in.page())
	if err != nil {
		return nil, err
	}
	ids := make([]events.APIKeyID, len(rows))
	for i, r := range rows {
		ids[i] = r.ID
	}
	used, err := s.keys.LastUsed(ctx, ids)
	if err != nil {
		return nil, err
	}
	i := -1
	return list(rows, next, func(r projections.APIKey) apiKeyBody {
		i++
		return s.shapeAPIKey(r, used[i])
	}), nil
}

type apiKeyPath struct {
	ID string `path:"api_key_id"`
}

func (s *Server) getAPIKey(ctx context.Context, in *apiKeyPath) (*one[apiKeyBody], error) {
	row, err := s.ownAPIKey(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	used, err := s.keys.LastUsed(ctx, []events.APIKeyID{row.ID})
	if err != nil {
		return nil, err
	}
	return &one[apiKeyBody]{ETag: etag(row.Version), Body: s.shapeAPIKey(row, used[0])}, nil
}

// ownAPIKey is a key that the caller may see: their own, or any for an admin. It comes from the log, so that a key can be revoked whatever state the
// read model is in.
func (s *Server) ownAPIKey(ctx context.Context, id string) (projections.APIKey, error) {
	if events.CheckID("api_key_id", id) != nil {
		return projections.APIKey{}, errNotFound
	}
	f, _, err := s.foldOf(ctx, events.APIKeyOf(s.region, events.APIKeyID(id)), 0)
	if err != nil {
		return projections.APIKey{}, err
	}
	if who := callOf(ctx).who; !who.Admin && f.apiKey.User != who.User {
		return projections.APIKey{}, errNotFound
	}
	return f.apiKey, nil
}

// revokeAPIKey ends a key: here at once, in other processes within five seconds.
func (s *Server) revokeAPIKey(ctx context.Context, in *apiKeyPath) (*gone, error) {
	c := callOf(ctx)
	row, err := s.ownAPIKey(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	_, made, err := eventstore.Do(ctx, s.Store, events.APIKeyOf(s.region, row.ID), c.meta(s.Now()), func(k catalog.APIKey, h events.Head) ([]events.Event, error) {
		if err := c.matches(h.Version); err != nil {
			return nil, err
		}
		return k.Revoke()
	})
	if err != nil {
		return nil, err
	}
	s.keys.Forget(row.ID)
	s.settle(ctx, made)
	return &gone{Sequence: seqHeader(made)}, nil
}

type apiKeyHistoryIn struct {
	ID string `path:"api_key_id"`
	PageIn
}

func (s *Server) getAPIKeyHistory(ctx context.Context, in *apiKeyHistoryIn) (*many[historyBody], error) {
	row, err := s.ownAPIKey(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	out, err := s.history(ctx, events.APIKeyOf(s.region, row.ID), &in.PageIn)
	if err != nil {
		return nil, err
	}
	for i, h := range out.Body.Items {
		if e, ok := h.Data.(events.APIKeyCreated); ok {
			e.Secret = "" // a digest proves nothing to anybody, and nobody needs it
			out.Body.Items[i].Data = e
		}
	}
	return out, nil
}

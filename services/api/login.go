package api

import (
	"context"

	"vega/events"
	"vega/services/auth"
)

type loginIn struct {
	Body struct {
		Email    string `json:"email" maxLength:"320"`
		Password string `json:"password" maxLength:"1000"`
	}
}

type tokensBody struct {
	Access    string `json:"access_token"`
	Refresh   string `json:"refresh_token"`
	Type      string `json:"token_type" enum:"bearer"`
	ExpiresIn int    `json:"expires_in" doc:"Seconds until the access token expires"`
}

func shapeTokens(t auth.Tokens) *plain[tokensBody] {
	return &plain[tokensBody]{Body: tokensBody{t.Access, t.Refresh, "bearer", int(t.ExpiresIn.Seconds())}}
}

func (s *Server) login(ctx context.Context, in *loginIn) (*plain[tokensBody], error) {
	t, err := s.Auth.Login(ctx, in.Body.Email, in.Body.Password)
	if err != nil {
		return nil, err
	}
	return shapeTokens(t), nil
}

type refreshIn struct {
	Body struct {
		Refresh string `json:"refresh_token" maxLength:"1000"`
	}
}

func (s *Server) refresh(ctx context.Context, in *refreshIn) (*plain[tokensBody], error) {
	t, err := s.Auth.Refresh(ctx, in.Body.Refresh)
	if err != nil {
		return nil, err
	}
	return shapeTokens(t), nil
}

type logoutIn struct {
	Authorization string `header:"Authorization"`
	Body          *struct {
		Refresh string `json:"refresh_token,omitempty" maxLength:"1000"`
	}
}

// logout ends the session of a refresh token in the body, or else that of the bearer token. A token whose session is over is fine: so it is.
func (s *Server) logout(ctx context.Context, in *logoutIn) (*gone, error) {
	if in.Body != nil && in.Body.Refresh != "" {
		return &gone{}, s.Auth.Logout(ctx, in.Body.Refresh)
	}
	token, ok := bearer(in.Authorization)
	if !ok {
		return nil, invalid("refresh_token", "want the refresh token, or an access token as the bearer")
	}
	who, err := s.Auth.Verify(ctx, token)
	if err != nil {
		return nil, err
	}
	return &gone{}, s.Auth.LogoutSession(ctx, who.Session)
}

type meBody struct {
	ID    events.UserID `json:"id"`
	Email string        `json:"email,omitempty"`
	Admin bool          `json:"admin"`

	APIKey events.APIKeyID `json:"api_key_id,omitempty" doc:"The API key that asks; absent for somebody who signed in"`
	Scopes []events.Scope  `json:"scopes,omitempty" doc:"What that key may be used for"`
}

func (s *Server) me(ctx context.Context, _ *nothing) (*plain[meBody], error) {
	who := callOf(ctx).who
	return &plain[meBody]{Body: meBody{who.User, who.Email, who.Admin, who.Key, who.Scopes}}, nil
}

// Package cognitotest gives tests somebody who vouches for users. [Start] starts a real Cognito-compatible server on this machine's loopback: cognito-local,
// which scripts/test-deps.sh installs; users sign in there through Cognito's own API and get its tokens. [NewIssuer] is a pool in this process whose
// keys a test holds: it signs whatever an attacker would like to show, and its key set misbehaves on request.
package cognitotest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"vega/scripts/installed"
	"vega/services/auth"
)

// Server is one Cognito-compatible server. It is safe for concurrent use. Stopped and started again it has the pools as they were.
type Server struct{ *installed.Node }

// Start starts a server that ends with the test, and with the test's process if that is killed.
func Start(tb testing.TB) *Server {
	tb.Helper()
	return &Server{installed.StartNode(tb, "cognito-local", "services/auth/cognitotest/testdata/cognito.mjs")}
}

// Pool is a user pool with one client.
type Pool struct {
	ID     string
	Client string

	server *Server
}

// Pool makes a user pool and a client.
func (s *Server) Pool(tb testing.TB) *Pool {
	tb.Helper()
	var pool struct{ UserPool struct{ Id string } }
	s.call(tb, "CreateUserPool", map[string]any{"PoolName": "vega", "UsernameAttributes": []string{"email"}}, &pool)
	p := &Pool{ID: pool.UserPool.Id, server: s}
	p.Client = p.NewClient(tb)
	return p
}

// NewClient makes one more client of the pool and returns its id.
func (p *Pool) NewClient(tb testing.TB) string {
	tb.Helper()
	var client struct{ UserPoolClient struct{ ClientId string } }
	p.server.call(tb, "CreateUserPoolClient", map[string]any{
		"UserPoolId": p.ID, "ClientName": "vega", "ExplicitAuthFlows": []string{"ALLOW_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"},
	}, &client)
	return client.UserPoolClient.ClientId
}

// Issuer is what the pool's tokens name.
func (p *Pool) Issuer() string { return p.server.URL + "/" + p.ID }

// Settings are those of a process that takes the pool's tokens; members of the group admin are admins.
func (p *Pool) Settings() auth.UserPool {
	return auth.UserPool{Region: "local", UserPoolID: p.ID, AppClientID: p.Client, Issuer: p.Issuer(), JWKSURL: p.Issuer() + "/.well-known/jwks.json",
		AdminGroups: []string{"admin"}, ClockSkew: time.Minute}
}

// Env is the same as an environment, NAME=value.
func (p *Pool) Env() []string {
	return []string{"VEGA_AUTH_PROVIDER=cognito", "VEGA_COGNITO_REGION=local", "VEGA_COGNITO_USER_POOL_ID=" + p.ID, "VEGA_COGNITO_APP_CLIENT_ID=" + p.Client,
		"VEGA_COGNITO_ISSUER=" + p.Issuer()}
}

// User makes a user who may sign in, a member of groups, which are made when they are not there. It returns the user's sub.
func (p *Pool) User(tb testing.TB, email, password string, groups ...string) (sub string) {
	tb.Helper()
	var made struct {
		User struct {
			Username   string
			Attributes []struct{ Name, Value string }
		}
	}
	p.server.call(tb, "AdminCreateUser", map[string]any{"UserPoolId": p.ID, "Username": email, "MessageAction": "SUPPRESS",
		"UserAttributes": []map[string]string{{"Name": "email", "Value": email}, {"Name": "email_verified", "Value": "true"}}}, &made)
	p.server.call(tb, "AdminSetUserPassword", map[string]any{"UserPoolId": p.ID, "Username": email, "Password": password, "Permanent": true}, nil)
	for _, g := range groups {
		_ = p.server.try(tb.Context(), "CreateGroup", map[string]any{"UserPoolId": p.ID, "GroupName": g}, nil) // it may be there
		p.server.call(tb, "AdminAddUserToGroup", map[string]any{"UserPoolId": p.ID, "Username": email, "GroupName": g}, nil)
	}
	for _, a := range made.User.Attributes {
		if a.Name == "sub" {
			return a.Value
		}
	}
	tb.Fatal("the new user has no sub")
	return ""
}

// Tokens are what a user gets for signing in.
type Tokens struct{ IDToken, AccessToken, RefreshToken string }

// SignIn signs a user in at the pool's client.
func (p *Pool) SignIn(tb testing.TB, email, password string) Tokens {
	tb.Helper()
	return p.SignInAt(tb, p.Client, email, password)
}

// SignInAt signs a user in at one of the pool's clients.
func (p *Pool) SignInAt(tb testing.TB, client, email, password string) Tokens {
	tb.Helper()
	var out struct {
		AuthenticationResult struct{ IdToken, AccessToken, RefreshToken string }
	}
	p.server.call(tb, "InitiateAuth", map[string]any{"AuthFlow": "USER_PASSWORD_AUTH", "ClientId": client,
		"AuthParameters": map[string]string{"USERNAME": email, "PASSWORD": password}}, &out)
	got := Tokens{out.AuthenticationResult.IdToken, out.AuthenticationResult.AccessToken, out.AuthenticationResult.RefreshToken}
	if got.IDToken == "" || got.AccessToken == "" {
		tb.Fatalf("signing in gave no tokens")
	}
	return got
}

func (s *Server) call(tb testing.TB, action string, in, out any) {
	tb.Helper()
	if err := s.try(tb.Context(), action, in, out); err != nil {
		tb.Fatal(err)
	}
}

// try calls Cognito's API: JSON 1.1, the action in a header.
func (s *Server) try(ctx context.Context, action string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", "AWSCognitoIdentityProviderService."+action)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("%s: %w", action, err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", action, res.Status, answer)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

package auth_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"vega/services/auth"
	"vega/services/auth/cognitotest"
)

// keys are made once: each costs a fifth of a second.
var keys = sync.OnceValue(func() []cognitotest.Key {
	var made []cognitotest.Key
	var t testing.T // NewKey fails only when the machine has no randomness
	for _, id := range []string{"first", "second", "third"} {
		made = append(made, cognitotest.NewKey(&t, id))
	}
	return made
})

// watch is a time that tests move.
type watch struct{ now atomic.Pointer[time.Time] }

func newWatch() *watch {
	w := &watch{}
	w.now.Store(new(time.Now().Truncate(time.Second)))
	return w
}
func (w *watch) Now() time.Time       { return *w.now.Load() }
func (w *watch) pass(d time.Duration) { w.now.Store(new(w.Now().Add(d))) }

// cognito is a provider for a pool, and what it logs.
func cognito(t *testing.T, pool auth.UserPool, now func() time.Time) (*auth.Cognito, *logs) {
	t.Helper()
	out := &logs{}
	c, err := auth.NewCognito(t.Context(), auth.CognitoOptions{Config: pool, Log: slog.New(slog.NewTextHandler(out, nil)), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return c, out
}

// logs keeps what is written.
type logs struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

func TestCognitoTakesTheTokensThatItsUsersSignInFor(t *testing.T) {
	t.Parallel()
	server := cognitotest.Start(t)
	pool, otherPool := server.Pool(t), server.Pool(t)
	admin := pool.User(t, "admin@example.com", "Admin-passw0rd", "staff", "admin")
	user := pool.User(t, "user@example.com", "User-passw0rd", "staff")
	otherPool.User(t, "admin@example.com", "Admin-passw0rd", "admin")
	c, out := cognito(t, pool.Settings(), nil)
	if err := c.Check(t.Context()); err != nil {
		t.Errorf("Check = %v", err)
	}
	adminTokens, userTokens := pool.SignIn(t, "admin@example.com", "Admin-passw0rd"), pool.SignIn(t, "user@example.com", "User-passw0rd")
	for _, tc := range []struct {
		name, token string
		want        auth.Identity
	}{
		{"ID token of an admin", adminTokens.IDToken, auth.Identity{User: auth.CognitoUserID(admin), Email: "admin@example.com", Admin: true}},
		{"access token of an admin", adminTokens.AccessToken, auth.Identity{User: auth.CognitoUserID(admin), Admin: true}},
		{"ID token of a user", userTokens.IDToken, auth.Identity{User: auth.CognitoUserID(user), Email: "user@example.com"}},
		{"access token of a user", userTokens.AccessToken, auth.Identity{User: auth.CognitoUserID(user)}},
	} {
		got, err := c.Verify(t.Context(), tc.token)
		if err != nil || got.User != tc.want.User || got.Email != tc.want.Email || got.Admin != tc.want.Admin || got.Session != "" || got.Key != "" {
			t.Errorf("%s: Verify = %+v, %v, want %+v", tc.name, got, err, tc.want)
		}
	}
	if string(auth.CognitoUserID(admin)) != admin {
		t.Errorf("user id %s does not show the sub %s", auth.CognitoUserID(admin), admin)
	}
	elsewhere := otherPool.SignIn(t, "admin@example.com", "Admin-passw0rd")
	otherClient := pool.SignInAt(t, pool.NewClient(t), "admin@example.com", "Admin-passw0rd")
	for _, tc := range []struct {
		name, token string
		want        auth.Reason
	}{
		{"ID token of another pool", elsewhere.IDToken, auth.ReasonIssuer},
		{"access token of another pool", elsewhere.AccessToken, auth.ReasonIssuer},
		{"ID token of another client", otherClient.IDToken, auth.ReasonAudience},
		{"access token of another client", otherClient.AccessToken, auth.ReasonAudience},
		{"tampered", tampered(t, userTokens.IDToken, func(c map[string]any) { c["cognito:groups"] = []string{"admin"} }), auth.ReasonSignature},
	} {
		if id, err := c.Verify(t.Context(), tc.token); auth.ReasonOf(err) != tc.want || !errors.Is(err, auth.ErrBadToken) {
			t.Errorf("%s: Verify = %+v, %v (%s), want %s", tc.name, id, err, auth.ReasonOf(err), tc.want)
		}
	}
	later, _ := cognito(t, pool.Settings(), func() time.Time { return time.Now().Add(48 * time.Hour) })
	if _, err := later.Verify(t.Context(), userTokens.IDToken); auth.ReasonOf(err) != auth.ReasonExpired {
		t.Errorf("two days later: %v (%s), want %s", err, auth.ReasonOf(err), auth.ReasonExpired)
	}
	server.Stop(t)
	if _, err := c.Verify(t.Context(), userTokens.IDToken); err != nil {
		t.Errorf("while the pool is away, with a key that is known: %v", err)
	}
	late, _ := cognito(t, pool.Settings(), nil)
	if _, err := late.Verify(t.Context(), userTokens.IDToken); !errors.Is(err, auth.ErrUnavailable) || errors.Is(err, auth.ErrBadToken) {
		t.Errorf("started while the pool is away: %v, want ErrUnavailable", err)
	}
	if err := late.Check(t.Context()); !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("Check while the pool is away: %v, want ErrUnavailable", err)
	}
	if out.String() != "" {
		t.Errorf("logged: %s", out)
	}
}

// tampered changes a token's claims and leaves its signature.
func tampered(t *testing.T, token string, change func(map[string]any)) string {
	t.Helper()
	parts := strings.Split(token, ".")
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{}
	if err := json.Unmarshal(body, &claims); err != nil {
		t.Fatal(err)
	}
	change(claims)
	if body, err = json.Marshal(claims); err != nil {
		t.Fatal(err)
	}
	parts[1] = base64.RawURLEncoding.EncodeToString(body)
	return strings.Join(parts, ".")
}

func TestCognitoRefusesWithAReasonThatTheClientDoesNotSee(t *testing.T) {
	t.Parallel()
	key, thief := keys()[0], keys()[1]
	pool := cognitotest.NewIssuer(t, key)
	otherPool := cognitotest.NewIssuer(t, thief)
	clk := newWatch()
	c, _ := cognito(t, pool.Settings(), clk.Now)
	now := clk.Now()

	// The forms in which an attacker may hand over the published key as the secret of an HMAC.
	der, err := x509.MarshalPKIXPublicKey(&key.Private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	pemPKIX := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	pemPKCS1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&key.Private.PublicKey)})

	claims := func(use string, changes ...any) jwt.MapClaims {
		cl := pool.Claims(use, now)
		for i := 0; i < len(changes); i += 2 {
			if cl[changes[i].(string)] = changes[i+1]; changes[i+1] == nil {
				delete(cl, changes[i].(string))
			}
		}
		return cl
	}
	header := func(more map[string]any) map[string]any {
		h := map[string]any{"kid": key.ID}
		maps.Copy(h, more)
		return h
	}
	id, access := claims("id"), claims("access")
	rs256 := jwt.SigningMethodRS256
	for _, tc := range []struct {
		name, token string
		want        auth.Reason // empty: accepted
	}{
		{"a good ID token", key.Sign(t, id), ""},
		{"a good access token", key.Sign(t, access), ""},
		{"within the skew: expired", key.Sign(t, claims("id", "exp", now.Add(-30*time.Second).Unix())), ""},
		{"within the skew: issued in the future", key.Sign(t, claims("id", "iat", now.Add(30*time.Second).Unix())), ""},
		{"a header that names its type", cognitotest.Sign(t, rs256, key.Private, header(map[string]any{"typ": "JWT"}), id), ""},
		{"the audience as a list of one", key.Sign(t, claims("id", "aud", []string{cognitotest.Client})), ""},

		{"alg none", cognitotest.Sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, header(nil), id), auth.ReasonAlgorithm},
		{"alg None", strings.Replace(cognitotest.Sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, header(nil), id), enc(`{"alg":"none"`), enc(`{"alg":"None"`), 1), auth.ReasonAlgorithm},
		{"HS256 with the public key as PEM", cognitotest.Sign(t, jwt.SigningMethodHS256, pemPKIX, header(nil), id), auth.ReasonAlgorithm},
		{"HS256 with the public key as PKCS 1", cognitotest.Sign(t, jwt.SigningMethodHS256, pemPKCS1, header(nil), id), auth.ReasonAlgorithm},
		{"HS256 with the public key's bytes", cognitotest.Sign(t, jwt.SigningMethodHS256, der, header(nil), id), auth.ReasonAlgorithm},
		{"HS256 with the modulus", cognitotest.Sign(t, jwt.SigningMethodHS256, key.Private.N.Bytes(), header(nil), id), auth.ReasonAlgorithm},
		{"RS512 with the right key", cognitotest.Sign(t, jwt.SigningMethodRS512, key.Private, header(nil), id), auth.ReasonAlgorithm},
		{"PS256 with the right key", cognitotest.Sign(t, jwt.SigningMethodPS256, key.Private, header(nil), id), auth.ReasonAlgorithm},
		{"an algorithm that does not exist", reheader(key.Sign(t, id), `{"alg":"RS257","kid":"first"}`), auth.ReasonAlgorithm},
		{"no algorithm", reheader(key.Sign(t, id), `{"kid":"first"}`), auth.ReasonAlgorithm},
		{"an algorithm that is a number", reheader(key.Sign(t, id), `{"alg":256,"kid":"first"}`), auth.ReasonAlgorithm},

		{"no kid", cognitotest.Sign(t, rs256, key.Private, nil, id), auth.ReasonMalformed},
		{"empty kid", cognitotest.Sign(t, rs256, key.Private, map[string]any{"kid": ""}, id), auth.ReasonMalformed},
		{"kid that is no text", cognitotest.Sign(t, rs256, key.Private, map[string]any{"kid": 7}, id), auth.ReasonMalformed},
		{"long kid", cognitotest.Sign(t, rs256, key.Private, map[string]any{"kid": strings.Repeat("k", 300)}, id), auth.ReasonMalformed},
		{"kid that is a path", cognitotest.Sign(t, rs256, key.Private, map[string]any{"kid": "../../../../dev/null"}, id), auth.ReasonUnknownKey},
		{"unknown kid", cognitotest.Sign(t, rs256, thief.Private, map[string]any{"kid": "else"}, id), auth.ReasonUnknownKey},
		{"somebody else's key under our kid", cognitotest.Sign(t, rs256, thief.Private, header(nil), id), auth.ReasonSignature},
		{"somebody else's key in the header", cognitotest.Sign(t, rs256, thief.Private, header(map[string]any{"jwk": thief.JWK()}), id), auth.ReasonSignature},
		{"somebody else's key in the header alone", cognitotest.Sign(t, rs256, thief.Private, map[string]any{"jwk": thief.JWK()}, id), auth.ReasonMalformed},
		{"somebody else's key set by jku", cognitotest.Sign(t, rs256, thief.Private, map[string]any{"kid": thief.ID, "jku": otherPool.URL}, id), auth.ReasonUnknownKey},
		{"somebody else's certificate by x5u", cognitotest.Sign(t, rs256, thief.Private, map[string]any{"kid": thief.ID, "x5u": otherPool.URL}, id), auth.ReasonUnknownKey},
		{"a critical extension", cognitotest.Sign(t, rs256, key.Private, header(map[string]any{"crit": []string{"b64"}, "b64": false}), id), auth.ReasonMalformed},

		{"changed claims", tampered(t, key.Sign(t, id), func(c map[string]any) { c["cognito:groups"] = []string{"admin"} }), auth.ReasonSignature},
		{"no signature", key.Sign(t, id)[:strings.LastIndex(key.Sign(t, id), ".")+1], auth.ReasonSignature},
		{"expired", key.Sign(t, claims("id", "exp", now.Add(-2*time.Minute).Unix())), auth.ReasonExpired},
		{"no expiry", key.Sign(t, claims("id", "exp", nil)), auth.ReasonMalformed},
		{"expiry that is a text", key.Sign(t, claims("id", "exp", "tomorrow")), auth.ReasonMalformed},
		{"issued in the future", key.Sign(t, claims("id", "iat", now.Add(2*time.Minute).Unix())), auth.ReasonNotYetValid},
		{"not yet valid", key.Sign(t, claims("id", "nbf", now.Add(2*time.Minute).Unix())), auth.ReasonNotYetValid},
		{"another pool's issuer", key.Sign(t, claims("id", "iss", otherPool.URL)), auth.ReasonIssuer},
		{"another region's issuer", key.Sign(t, claims("id", "iss", strings.Replace(pool.URL, "127.0.0.1", "localhost", 1))), auth.ReasonIssuer},
		{"our issuer with a slash", key.Sign(t, claims("id", "iss", pool.URL+"/")), auth.ReasonIssuer},
		{"no issuer", key.Sign(t, claims("id", "iss", nil)), auth.ReasonMalformed},
		{"an issuer whose name differs in case", key.Sign(t, claims("id", "iss", nil, "ISS", pool.URL)), auth.ReasonMalformed},
		{"another pool and expired", key.Sign(t, claims("id", "iss", otherPool.URL, "exp", now.Add(-time.Hour).Unix())), auth.ReasonIssuer},
		{"ID token of another client", key.Sign(t, claims("id", "aud", "another")), auth.ReasonAudience},
		{"ID token for two clients", key.Sign(t, claims("id", "aud", []string{"another", cognitotest.Client})), auth.ReasonAudience},
		{"ID token without audience", key.Sign(t, claims("id", "aud", nil, "client_id", cognitotest.Client)), auth.ReasonAudience},
		{"access token of another client", key.Sign(t, claims("access", "client_id", "another")), auth.ReasonAudience},
		{"access token with an audience only", key.Sign(t, claims("access", "client_id", nil, "aud", cognitotest.Client)), auth.ReasonAudience},
		{"a refresh token", key.Sign(t, claims("id", "token_use", "refresh")), auth.ReasonTokenUse},
		{"no token use", key.Sign(t, claims("id", "token_use", nil)), auth.ReasonTokenUse},
		{"no sub", key.Sign(t, claims("id", "sub", nil)), auth.ReasonMalformed},
		{"a sub that is a list", key.Sign(t, claims("id", "sub", []string{"a"})), auth.ReasonMalformed},
		{"a long sub", key.Sign(t, claims("id", "sub", strings.Repeat("s", 300))), auth.ReasonMalformed},

		{"empty", "", auth.ReasonMalformed},
		{"text", "not a token", auth.ReasonMalformed},
		{"two dots", "..", auth.ReasonMalformed},
		{"four parts", key.Sign(t, id) + ".x", auth.ReasonMalformed},
		{"bearer twice", "Bearer " + key.Sign(t, id), auth.ReasonMalformed},
		{"a header that is no JSON", "bm90IGpzb24.e30.e30", auth.ReasonMalformed},
		{"very long", key.Sign(t, claims("id", "pad", strings.Repeat("x", 20_000))), auth.ReasonMalformed},
	} {
		who, err := c.Verify(t.Context(), tc.token)
		if auth.ReasonOf(err) != tc.want {
			t.Errorf("%s: Verify = %+v, %v (%q), want %q", tc.name, who, err, auth.ReasonOf(err), tc.want)
		}
		if tc.want != "" && (!errors.Is(err, auth.ErrBadToken) || err.Error() != auth.ErrBadToken.Error() || who.User != "") {
			t.Errorf("%s: Verify = %+v, %q, want nothing but %q", tc.name, who, err, auth.ErrBadToken)
		}
	}
	if n := otherPool.Fetches(); n != 0 {
		t.Errorf("the address in a header was asked %d times", n)
	}
}

func enc(prefix string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(prefix))[:len(prefix)/3*4]
}

// reheader exchanges a token's header.
func reheader(token, header string) string {
	_, rest, _ := strings.Cut(token, ".")
	return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + rest
}

func TestGroupsDecideWhoIsAnAdmin(t *testing.T) {
	t.Parallel()
	pool := cognitotest.NewIssuer(t, keys()[0])
	settings := pool.Settings()
	settings.AdminGroups = []string{"vega-admins", "security"}
	c, _ := cognito(t, settings, nil)
	for _, tc := range []struct {
		groups any
		want   bool
	}{
		{nil, false},
		{[]string{}, false},
		{[]string{"admin"}, false}, // the default, which is not configured here
		{[]string{"Security"}, false},
		{[]string{"staff", "security"}, true},
		{[]string{"vega-admins"}, true},
		{"security", false}, // a list, never a text
		{[]any{7, "security"}, true},
		{map[string]any{"security": true}, false},
	} {
		claims := pool.Claims("access", time.Now())
		claims["cognito:groups"] = tc.groups
		claims["groups"], claims["roles"] = []string{"security"}, []string{"admin"} // not Cognito's
		got, err := c.Verify(t.Context(), keys()[0].Sign(t, claims))
		if err != nil || got.Admin != tc.want {
			t.Errorf("groups %v: Verify = %+v, %v, want admin = %v", tc.groups, got, err, tc.want)
		}
	}
}

func TestOnlyASubOfCognitosFormIsAUserIDAsItIs(t *testing.T) {
	t.Parallel()
	const sub = "6f1c0b0e-9a2b-4c58-8d55-3b0f3f5f0c11"
	if got := auth.CognitoUserID(sub); string(got) != sub {
		t.Errorf("CognitoUserID(%s) = %s", sub, got)
	}
	seen := map[string]string{}
	for _, sub := range []string{"someone@example.com", "6F1C0B0E-9A2B-4C58-8D55-3B0F3F5F0C11", string(auth.UserID("debug@example.com")), "a.b", "a>b", "*", "system"} {
		got := string(auth.CognitoUserID(sub))
		if got == sub || !strings.HasPrefix(got, "user_") || seen[got] != "" {
			t.Errorf("CognitoUserID(%s) = %s, want an opaque id of its own", sub, got)
		}
		seen[got] = sub
	}
}

func TestCognitoSaysWhereToSignIn(t *testing.T) {
	t.Parallel()
	pool := cognitotest.NewIssuer(t, keys()[0])
	settings := pool.Settings()
	for _, url := range []string{"", "https://sign-in.example.com/login"} {
		settings.SignInURL = url
		c, _ := cognito(t, settings, nil)
		_, err1 := c.Login(t.Context(), "a@example.com", "password")
		_, err2 := c.Refresh(t.Context(), "token")
		for _, err := range []error{err1, err2, c.Logout(t.Context(), "token"), c.LogoutSession(t.Context(), "session")} {
			got, ok := errors.AsType[auth.ElsewhereError](err)
			want := pool.URL
			if url != "" {
				want = url
			}
			if !ok || got.SignInURL != want || got.Issuer != pool.URL {
				t.Errorf("with %q: %v, want %s and %s", url, err, want, pool.URL)
			}
		}
	}
}

func TestNewCognitoNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	pool := cognitotest.NewIssuer(t, keys()[0])
	for want, change := range map[string]func(*auth.CognitoOptions){
		"issuer":          func(o *auth.CognitoOptions) { o.Config.Issuer = "" },
		"key-set address": func(o *auth.CognitoOptions) { o.Config.JWKSURL = "" },
		"app client id":   func(o *auth.CognitoOptions) { o.Config.AppClientID = "" },
		"log":             func(o *auth.CognitoOptions) { o.Log = nil },
	} {
		o := auth.CognitoOptions{Config: pool.Settings(), Log: slog.New(slog.DiscardHandler)}
		change(&o)
		if _, err := auth.NewCognito(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without %s: %v", want, err)
		}
	}
}

// verify checks what a token meets, and returns the error.
func verify(t *testing.T, c *auth.Cognito, token string, want auth.Reason, when string) {
	t.Helper()
	if _, err := c.Verify(t.Context(), token); auth.ReasonOf(err) != want || (want == "" && err != nil) {
		t.Errorf("%s: Verify = %v (%q), want %q", when, err, auth.ReasonOf(err), want)
	}
}

func TestARotatedKeyIsFoundAndAWithdrawnOneForgotten(t *testing.T) {
	t.Parallel()
	old, next := keys()[0], keys()[1]
	pool, clk := cognitotest.NewIssuer(t, old), newWatch()
	c, _ := cognito(t, pool.Settings(), clk.Now)
	byOld, byNext := old.Sign(t, pool.Claims("id", clk.Now())), next.Sign(t, pool.Claims("id", clk.Now()))
	verify(t, c, byOld, "", "at first")
	clk.pass(time.Minute)
	pool.Publish(old, next)
	verify(t, c, byNext, "", "with the new key, at once")
	verify(t, c, byOld, "", "with the old key while both are published")
	pool.Publish(next)
	verify(t, c, byOld, "", "with the old key before the set is fetched again")
	clk.pass(time.Minute)
	verify(t, c, keys()[2].Sign(t, pool.Claims("id", clk.Now())), auth.ReasonUnknownKey, "with a key nobody published")
	verify(t, c, byOld, auth.ReasonUnknownKey, "with the withdrawn key")
	verify(t, c, byNext, "", "with the new key")
}

func TestAFloodOfUnknownKeysAsksTheAddressOnce(t *testing.T) {
	t.Parallel()
	key := keys()[0]
	pool, clk := cognitotest.NewIssuer(t, key), newWatch()
	c, _ := cognito(t, pool.Settings(), clk.Now)
	clk.pass(time.Minute)
	before := pool.Fetches()
	const callers = 1000
	tokens := make([]string, callers)
	for i := range tokens {
		// The signature is never looked at, so one does for all.
		tokens[i] = reheader(key.Sign(t, pool.Claims("id", clk.Now())), `{"alg":"RS256","kid":"unknown-`+strings.Repeat("x", i%100)+`"}`)
	}
	good := key.Sign(t, pool.Claims("id", clk.Now()))
	var together sync.WaitGroup
	start := make(chan struct{})
	for _, token := range tokens {
		together.Go(func() {
			<-start
			if _, err := c.Verify(t.Context(), token); auth.ReasonOf(err) != auth.ReasonUnknownKey {
				t.Errorf("Verify = %v (%s), want %s", err, auth.ReasonOf(err), auth.ReasonUnknownKey)
			}
			if _, err := c.Verify(t.Context(), good); err != nil {
				t.Errorf("an honest caller meanwhile: %v", err)
			}
		})
	}
	close(start)
	together.Wait()
	if n := pool.Fetches() - before; n != 1 {
		t.Errorf("%d callers with unknown keys caused %d fetches, want 1", callers, n)
	}
	clk.pass(11 * time.Second)
	verify(t, c, tokens[0], auth.ReasonUnknownKey, "later")
	if n := pool.Fetches() - before; n != 2 {
		t.Errorf("%d fetches after eleven seconds, want 2", n)
	}
}

func TestWhileTheAddressIsAwayTheOldKeysAreHonoured(t *testing.T) {
	t.Parallel()
	key := keys()[0]
	pool, clk := cognitotest.NewIssuer(t, key), newWatch()
	c, out := cognito(t, pool.Settings(), clk.Now)
	for name, answer := range map[string]http.HandlerFunc{
		"an error":       func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "out of order", http.StatusBadGateway) },
		"no answer":      func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"text":           func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>sign in</html>") },
		"an empty set":   func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"keys":[]}`) },
		"an empty thing": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) },
		"a huge set": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"keys":[`)
			junk := strings.Repeat(`{"kty":"oct"},`, 10_000)
			for range 100 {
				if _, err := io.WriteString(w, junk); err != nil {
					return // the client has seen enough
				}
			}
		},
		"keys of other kinds": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"keys":[{"kty":"EC","kid":"first","crv":"P-256"},{"kty":"oct","kid":"first","k":"AAAA"},7,{"kty":"RSA","kid":"first","n":"AQAB","e":"AQAB"},{"kty":"RSA"}]}`)
		},
		"another address": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		},
	} {
		pool.Answer(answer)
		clk.pass(time.Minute)
		verify(t, c, reheader(key.Sign(t, pool.Claims("id", clk.Now())), `{"alg":"RS256","kid":"else"}`), auth.ReasonUnknownKey, name+", an unknown key")
		verify(t, c, key.Sign(t, pool.Claims("id", clk.Now())), "", name+", a known key")
	}
	if n := strings.Count(out.String(), "not fetched"); n != 1 {
		t.Errorf("one outage was logged %d times: %s", n, out)
	}
	clk.pass(25 * time.Hour)
	_, err := c.Verify(t.Context(), key.Sign(t, pool.Claims("id", clk.Now())))
	if !errors.Is(err, auth.ErrUnavailable) || errors.Is(err, auth.ErrBadToken) {
		t.Errorf("a day later: %v, want ErrUnavailable", err)
	}
	pool.Answer(nil)
	clk.pass(2 * time.Second)
	verify(t, c, key.Sign(t, pool.Claims("id", clk.Now())), "", "when it is back")
	if !strings.Contains(out.String(), "fetched again") {
		t.Errorf("the end of the outage was not logged: %s", out)
	}
}

func TestASlowKeySetDelaysNobodyWhoseKeyIsKnown(t *testing.T) {
	t.Parallel()
	key := keys()[0]
	pool, clk := cognitotest.NewIssuer(t, key), newWatch()
	c, _ := cognito(t, pool.Settings(), clk.Now)
	arrived, release := make(chan struct{}, 10), make(chan struct{})
	pool.Answer(func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-release
		_, _ = w.Write(cognitotest.KeySet(keys()...))
	})
	clk.pass(time.Minute)
	unknown := keys()[1].Sign(t, pool.Claims("id", clk.Now()))
	var waiting sync.WaitGroup
	for range 3 {
		waiting.Go(func() { verify(t, c, unknown, "", "the key that the slow set has") })
	}
	<-arrived
	verify(t, c, key.Sign(t, pool.Claims("id", clk.Now())), "", "a known key meanwhile")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Verify(gone, unknown); !errors.Is(err, auth.ErrUnavailable) {
		t.Errorf("a caller who has gone: %v, want ErrUnavailable", err)
	}
	close(release)
	waiting.Wait()
	if n := len(arrived); n != 0 {
		t.Errorf("%d more fetches while one was on its way", n)
	}
}

func TestAStartWithoutThePoolRecoversByItself(t *testing.T) {
	t.Parallel()
	key := keys()[0]
	pool := cognitotest.NewIssuer(t, key)
	asked := make(chan struct{}, 100)
	pool.Answer(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	c, _ := cognito(t, pool.Settings(), nil)
	<-asked
	if err := c.Check(t.Context()); !errors.Is(err, auth.ErrUnavailable) || !strings.Contains(err.Error(), "503") {
		t.Errorf("Check = %v, want ErrUnavailable and why", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
	})
	defer running.Wait()
	defer stop()
	<-asked // by Run
	pool.Answer(nil)
	for before := pool.Fetches(); pool.Fetches() == before; {
		select {
		case <-t.Context().Done():
			t.Fatal("the keys were not fetched again")
		case <-time.After(5 * time.Millisecond):
		}
	}
	token := key.Sign(t, pool.Claims("id", time.Now()))
	for {
		_, err := c.Verify(t.Context(), token)
		if err == nil {
			return
		}
		if !errors.Is(err, auth.ErrUnavailable) {
			t.Fatalf("Verify = %v", err)
		}
	}
}

func TestCognitoLogsNoTokenAndNoAddress(t *testing.T) {
	t.Parallel()
	pool, clk := cognitotest.NewIssuer(t, keys()[0]), newWatch()
	c, out := cognito(t, pool.Settings(), clk.Now)
	good := keys()[0].Sign(t, pool.Claims("id", clk.Now()))
	pool.Answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	clk.pass(time.Minute)
	for _, token := range []string{good, good + "x", reheader(good, `{"alg":"RS256","kid":"a-telling-kid"}`)} {
		_, err := c.Verify(t.Context(), token)
		for _, told := range []string{"example.com", "telling", token} {
			if strings.Contains(out.String(), told) || (err != nil && strings.Contains(err.Error(), told)) {
				t.Errorf("%.20s: told %q: %v, %s", token, told, err, out)
			}
		}
	}
}

func FuzzCognitoVerify(f *testing.F) {
	var t testing.T
	key := cognitotest.NewKey(&t, "fuzz")
	pool := cognitotest.NewIssuer(f, key)
	c, err := auth.NewCognito(context.Background(), auth.CognitoOptions{Config: pool.Settings(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	good := key.Sign(&t, pool.Claims("id", time.Now()))
	parts := strings.Split(good, ".")
	f.Add(parts[0], parts[1], parts[2])
	f.Add(enc(`{"alg":"none"}`), parts[1], "")
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","kid":"fuzz","crit":[]}`)), parts[1], parts[2])
	f.Add("e30", "e30", "e30")
	f.Fuzz(func(t *testing.T, header, body, signature string) {
		token := header + "." + body + "." + signature
		who, err := c.Verify(t.Context(), token)
		if err == nil && (body != parts[1] || header != parts[0]) {
			t.Errorf("accepted what the key did not sign: %s as %+v", token, who)
		}
		if err != nil && auth.ReasonOf(err) == "" {
			t.Errorf("Verify(%s) = %v, want a refusal with a reason", token, err)
		}
	})
}

func FuzzKeySet(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"RSA","kid":"a","n":"AQAB","e":"AQAB"}]}`))
	f.Add(cognitotest.KeySet(cognitotest.NewKey(new(testing.T), "a")))
	f.Fuzz(func(t *testing.T, document []byte) {
		keys, err := auth.ParseKeys(document)
		if (err == nil) != (len(keys) > 0) {
			t.Errorf("ParseKeys(%q) = %v, %v", document, keys, err)
		}
		for id, k := range keys {
			if id == "" || k.N.BitLen() < 2048 || k.E < 3 {
				t.Errorf("ParseKeys(%q) took a bad key %q", document, id)
			}
		}
	})
}

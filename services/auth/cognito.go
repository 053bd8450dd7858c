package auth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"vega/events"
)

// CognitoOptions are what Cognito needs.
type CognitoOptions struct {
	Config UserPool         // with Issuer, JWKSURL and AppClientID
	HTTP   *http.Client     // fetches the keys; nil: one of its own. Redirects are not followed
	Log    *slog.Logger     // required
	Now    func() time.Time // nil: time.Now
}

// Cognito answers for the ID and access tokens of one user pool's one client. Nobody signs in here: Login, Refresh and Logout return
// an ElsewhereError. It is safe for concurrent use.
type Cognito struct {
	issuer string
	client string
	admins []string
	where  ElsewhereError
	keys   *keySet
	parser *jwt.Parser
}

// ElsewhereError is returned by a provider whose users sign in somewhere else.
type ElsewhereError struct {
	SignInURL string // a page for people when one is configured, else the issuer
	Issuer    string // where an OpenID Connect client finds everything else
}

func (e ElsewhereError) Error() string { return "users sign in at " + e.SignInURL }

// firstFetch bounds how long a start waits for keys.
const firstFetch = 2 * time.Second

// NewCognito returns the provider. It fails when the configuration lacks an issuer, a key-set address or a client; that the keys cannot be
// fetched now is no failure: until they can, Verify returns ErrUnavailable, and Check says so. Run keeps them fresh.
func NewCognito(ctx context.Context, o CognitoOptions) (*Cognito, error) {
	for name, value := range map[string]string{"issuer": o.Config.Issuer, "key-set address": o.Config.JWKSURL, "app client id": o.Config.AppClientID} {
		if value == "" {
			return nil, fmt.Errorf("cognito sign-in: no %s", name)
		}
	}
	if o.Log == nil {
		return nil, errors.New("cognito sign-in: no log")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	client := &http.Client{Transport: http.DefaultTransport}
	if o.HTTP != nil {
		client = new(*o.HTTP)
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c := &Cognito{
		issuer: o.Config.Issuer, client: o.Config.AppClientID, admins: o.Config.AdminGroups,
		where: ElsewhereError{SignInURL: cmp.Or(o.Config.SignInURL, o.Config.Issuer), Issuer: o.Config.Issuer},
		keys:  &keySet{url: o.Config.JWKSURL, client: client, log: o.Log, now: o.Now},
		parser: jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodRS256.Alg()}), jwt.WithIssuer(o.Config.Issuer),
			jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(o.Config.ClockSkew), jwt.WithTimeFunc(o.Now)),
	}
	ctx, cancel := context.WithTimeout(ctx, firstFetch)
	defer cancel()
	_ = c.keys.check(ctx) // logged there; Run and Verify try again
	return c, nil
}

// Run keeps the keys fresh until ctx ends, and returns its error.
func (c *Cognito) Run(ctx context.Context) error { return c.keys.run(ctx) }

// Check returns nil when there are keys to verify tokens with. It fetches them when there are none, and says what failed.
func (c *Cognito) Check(ctx context.Context) error { return c.keys.check(ctx) }

// maxKid bounds the length of a key's id in bytes.
const maxKid = 256

// Verify says who holds an ID or access token. It returns a Refusal, which is an ErrBadToken, or ErrUnavailable while the token's key cannot be
// known. A token that was revoked at the pool is good until it expires: it does not say so, and the pool is not asked.
func (c *Cognito) Verify(ctx context.Context, bearer string) (Identity, error) {
	if !plausible(bearer) {
		return Identity{}, Refusal{ReasonMalformed}
	}
	claims := jwt.MapClaims{} // keeps names apart that differ in case only
	token, err := c.parser.ParseWithClaims(bearer, claims, func(t *jwt.Token) (any, error) {
		// The key is found by its id among those that the issuer publishes. Whatever else the header offers (jwk, jku, x5c, x5u) is not looked at.
		kid, ok := t.Header["kid"].(string)
		if !ok || kid == "" || len(kid) > maxKid || critical(t.Header) {
			return nil, Refusal{ReasonMalformed}
		}
		return c.keys.key(ctx, kid)
	})
	if errors.Is(err, ErrUnavailable) {
		return Identity{}, fmt.Errorf("verify token: %w", err)
	}
	if err != nil {
		return Identity{}, Refusal{reasonOf(err, token, jwt.SigningMethodRS256)}
	}
	return c.identity(claims)
}

// identity reads who the token is about, once its signature, issuer and times are known to be right.
func (c *Cognito) identity(claims jwt.MapClaims) (Identity, error) {
	var who Identity
	switch use, _ := claims["token_use"].(string); use {
	case "id":
		// One audience, as Cognito writes it: a token for several parties could be shown here by any of them.
		if aud, err := claims.GetAudience(); err != nil || len(aud) != 1 || aud[0] != c.client {
			return Identity{}, Refusal{ReasonAudience}
		}
		who.Email, _ = claims["email"].(string)
	case "access":
		if client, _ := claims["client_id"].(string); client != c.client {
			return Identity{}, Refusal{ReasonAudience}
		}
	default:
		return Identity{}, Refusal{ReasonTokenUse}
	}
	sub, _ := claims["sub"].(string)
	if sub == "" || len(sub) > 255 { // OpenID Connect's bound
		return Identity{}, Refusal{ReasonMalformed}
	}
	who.User = CognitoUserID(sub)
	groups, _ := claims["cognito:groups"].([]any)
	who.Admin = slices.ContainsFunc(groups, func(g any) bool {
		name, ok := g.(string)
		return ok && slices.Contains(c.admins, name)
	})
	return who, nil
}

// uuid is the only form of the subjects that Cognito makes.
var uuid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// CognitoUserID is the id of the user whom a pool calls sub: the sub itself when it is a UUID, as Cognito's are, so that people find it again in the
// pool. A server that is only compatible may call its users anything, an address or another provider's id too: any other sub is hashed.
func CognitoUserID(sub string) events.UserID {
	if uuid.MatchString(sub) {
		return events.UserID(sub)
	}
	return events.UserIDFor("cognito", sub)
}

// Login returns an ElsewhereError.
func (c *Cognito) Login(context.Context, string, string) (Tokens, error) {
	return Tokens{}, c.where
}

// Refresh returns an ElsewhereError: the pool gives new tokens for its refresh tokens.
func (c *Cognito) Refresh(context.Context, string) (Tokens, error) { return Tokens{}, c.where }

// Logout returns an ElsewhereError.
func (c *Cognito) Logout(context.Context, string) error { return c.where }

// LogoutSession returns an ElsewhereError.
func (c *Cognito) LogoutSession(context.Context, string) error { return c.where }

package auth

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"vega/config/secret"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
)

var accounts = []Account{
	{Email: "Admin@example.com", Password: secret.New("the admin's password"), Admin: true},
	{Email: "user@example.com", Password: secret.New("the user's password")},
}

// clock is a time that tests move.
type clock struct{ now atomic.Pointer[time.Time] }

func newClock() *clock {
	c := &clock{}
	c.now.Store(new(time.Now()))
	return c
}
func (c *clock) Now() time.Time       { return *c.now.Load() }
func (c *clock) pass(d time.Duration) { c.now.Store(new(c.Now().Add(d))) }

func open(t *testing.T, store *eventstore.Store, now func() time.Time) *Custom {
	t.Helper()
	c, err := NewCustom(t.Context(), store, CustomOptions{Secret: secret.New("a signing secret"), Accounts: accounts, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func login(t *testing.T, c *Custom) Tokens {
	t.Helper()
	tokens, err := c.Login(t.Context(), "admin@EXAMPLE.com", "the admin's password")
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func TestLoginTakesOnlyAPairThatBelongsTogether(t *testing.T) {
	t.Parallel()
	c := open(t, natstest.Open(t), nil)
	for _, tc := range []struct {
		email, password string
		fine            bool
	}{
		{"admin@example.com", "the admin's password", true},
		{" ADMIN@example.com ", "the admin's password", true},
		{"user@example.com", "the user's password", true},
		{"user@example.com", "the admin's password", false},
		{"admin@example.com", "the user's password", false},
		{"admin@example.com", "THE ADMIN'S PASSWORD", false},
		{"admin@example.com", "", false},
		{"", "", false},
		{"nobody@example.com", "the user's password", false},
	} {
		_, err := c.Login(t.Context(), tc.email, tc.password)
		if tc.fine != (err == nil) || (!tc.fine && !errors.Is(err, ErrBadCredentials)) {
			t.Errorf("Login(%q, %q) = %v, want success = %v", tc.email, tc.password, err, tc.fine)
		}
	}
}

func TestAccessTokenNamesItsHolder(t *testing.T) {
	t.Parallel()
	c := open(t, natstest.Open(t), nil)
	for i, a := range accounts {
		tokens, err := c.Login(t.Context(), a.Email, a.Password.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Verify(t.Context(), tokens.Access)
		if err != nil || got.User != UserID(a.Email) || got.Email != a.Email || got.Admin != (i == 0) {
			t.Errorf("Verify = %+v, %v, want the user of %s", got, err, a.Email)
		}
		if strings.Contains(string(got.User), "example") {
			t.Errorf("user id %s tells the address", got.User)
		}
	}
}

func TestVerifyRefusesWhatItDidNotSign(t *testing.T) {
	t.Parallel()
	store := natstest.Open(t)
	clk := newClock()
	c := open(t, store, clk.Now)
	good := login(t, c).Access
	other, err := NewCustom(t.Context(), store, CustomOptions{Secret: secret.New("another secret"), Accounts: accounts})
	if err != nil {
		t.Fatal(err)
	}
	sign := func(method jwt.SigningMethod, key any, change func(*claims)) string {
		cl := claims{RegisteredClaims: jwt.RegisteredClaims{Issuer: issuer, Audience: jwt.ClaimStrings{audience}, Subject: string(UserID("admin@example.com")),
			IssuedAt: jwt.NewNumericDate(clk.Now()), ExpiresAt: jwt.NewNumericDate(clk.Now().Add(time.Minute))}, Roles: []string{roleAdmin}}
		parsed, _, err := jwt.NewParser().ParseUnverified(good, &claims{})
		if err != nil {
			t.Fatal(err)
		}
		cl.Session = parsed.Claims.(*claims).Session
		change(&cl)
		s, err := jwt.NewWithClaims(method, cl).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if _, err := c.Verify(t.Context(), sign(jwt.SigningMethodHS256, c.key, func(*claims) {})); err != nil {
		t.Fatalf("the table's own token: %v", err)
	}
	h, p, _ := strings.Cut(good, ".")
	p, sig, _ := strings.Cut(p, ".")
	for _, tc := range []struct {
		name, token string
		want        Reason
	}{
		{"empty", "", ReasonMalformed},
		{"text", "not a token", ReasonMalformed},
		{"no signature", h + "." + p + ".", ReasonSignature},
		{"changed signature", h + "." + p + "." + sig[:len(sig)-4] + "AAAA", ReasonSignature},
		{"other secret", login(t, other).Access, ReasonSignature},
		{"alg none", sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, func(*claims) {}), ReasonAlgorithm},
		{"alg HS512", sign(jwt.SigningMethodHS512, c.key, func(*claims) {}), ReasonAlgorithm},
		{"other issuer", sign(jwt.SigningMethodHS256, c.key, func(cl *claims) { cl.Issuer = "else" }), ReasonIssuer},
		{"other audience", sign(jwt.SigningMethodHS256, c.key, func(cl *claims) { cl.Audience = jwt.ClaimStrings{"vega-llm"} }), ReasonAudience},
		{"no expiry", sign(jwt.SigningMethodHS256, c.key, func(cl *claims) { cl.ExpiresAt = nil }), ReasonMalformed},
		{"expired", sign(jwt.SigningMethodHS256, c.key, func(cl *claims) { cl.ExpiresAt = jwt.NewNumericDate(clk.Now().Add(-time.Minute)) }), ReasonExpired},
		{"from the future", sign(jwt.SigningMethodHS256, c.key, func(cl *claims) { cl.IssuedAt = jwt.NewNumericDate(clk.Now().Add(time.Hour)) }), ReasonNotYetValid},
		{"unknown user", sign(jwt.SigningMethodHS256, c.key, func(cl *claims) { cl.Subject = "user_else" }), ReasonUnknownUser},
		{"no session", sign(jwt.SigningMethodHS256, c.key, func(cl *claims) { cl.Session = "" }), ReasonRevoked},
		{"unknown session", sign(jwt.SigningMethodHS256, c.key, func(cl *claims) { cl.Session = digest("else") }), ReasonRevoked},
	} {
		if id, err := c.Verify(t.Context(), tc.token); !errors.Is(err, ErrBadToken) || ReasonOf(err) != tc.want {
			t.Errorf("%s: Verify = %+v, %v (%s), want ErrBadToken (%s)", tc.name, id, err, ReasonOf(err), tc.want)
		}
	}
	clk.pass(AccessLife + time.Minute)
	if _, err := c.Verify(t.Context(), good); !errors.Is(err, ErrBadToken) {
		t.Errorf("after %s: %v, want ErrBadToken", AccessLife, err)
	}
}

func TestSpentRefreshTokenEndsItsSession(t *testing.T) {
	t.Parallel()
	c := open(t, natstest.Open(t), nil)
	first, untouched := login(t, c), login(t, c)
	second, err := c.Refresh(t.Context(), first.Refresh)
	if err != nil {
		t.Fatal(err)
	}
	third, err := c.Refresh(t.Context(), second.Refresh)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Refresh(t.Context(), first.Refresh); !errors.Is(err, ErrBadToken) {
		t.Errorf("a spent token: %v, want ErrBadToken", err)
	}
	if _, err := c.Refresh(t.Context(), third.Refresh); !errors.Is(err, ErrBadToken) {
		t.Errorf("the newest token after a spent one was presented: %v, want ErrBadToken", err)
	}
	if _, err := c.Verify(t.Context(), third.Access); !errors.Is(err, ErrBadToken) {
		t.Errorf("the access token of the ended session: %v, want ErrBadToken", err)
	}
	if _, err := c.Refresh(t.Context(), untouched.Refresh); err != nil {
		t.Errorf("another session of the same user: %v", err)
	}
}

func TestRefreshTokenPresentedTwiceAtOnceWorksAtMostOnce(t *testing.T) {
	t.Parallel()
	c := open(t, natstest.Open(t), nil)
	for range 10 {
		token := login(t, c).Refresh
		var worked atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := c.Refresh(t.Context(), token); err == nil {
					worked.Add(1)
				} else if !errors.Is(err, ErrBadToken) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if worked.Load() > 1 {
			t.Fatalf("one token was refreshed %d times", worked.Load())
		}
	}
}

func TestLogoutEndsTheSessionEverywhere(t *testing.T) {
	t.Parallel()
	store, clk := natstest.Open(t), newClock()
	here, there := open(t, store, clk.Now), open(t, store, clk.Now)
	tokens := login(t, here)
	for _, c := range []*Custom{here, there} {
		if _, err := c.Verify(t.Context(), tokens.Access); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time there is nothing to do
		if err := here.Logout(t.Context(), tokens.Refresh); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := here.Verify(t.Context(), tokens.Access); !errors.Is(err, ErrBadToken) {
		t.Errorf("access token here: %v, want ErrBadToken", err)
	}
	clk.pass(recheck)
	if _, err := there.Verify(t.Context(), tokens.Access); !errors.Is(err, ErrBadToken) {
		t.Errorf("access token in another process: %v, want ErrBadToken", err)
	}
	if _, err := there.Refresh(t.Context(), tokens.Refresh); !errors.Is(err, ErrBadToken) {
		t.Errorf("refresh token in another process: %v, want ErrBadToken", err)
	}
	for _, nonsense := range []string{"", "x", "x.y", strings.Repeat("*", 5000)} {
		if err := here.Logout(t.Context(), nonsense); err != nil {
			t.Errorf("Logout(%.10q) = %v", nonsense, err)
		}
		if _, err := here.Refresh(t.Context(), nonsense); !errors.Is(err, ErrBadToken) {
			t.Errorf("Refresh(%.10q) = %v, want ErrBadToken", nonsense, err)
		}
	}
}

func TestSessionSurvivesAnotherProcess(t *testing.T) {
	t.Parallel()
	store := natstest.Open(t)
	tokens := login(t, open(t, store, nil))
	after := open(t, store, nil)
	if _, err := after.Verify(t.Context(), tokens.Access); err != nil {
		t.Error(err)
	}
	if _, err := after.Refresh(t.Context(), tokens.Refresh); err != nil {
		t.Error(err)
	}
}

// Every write of a session carries a TTL: without one it would never expire.
func TestSessionsExpire(t *testing.T) {
	t.Parallel()
	store := natstest.Open(t)
	c := open(t, store, nil)
	tokens := login(t, c)
	check := func(when string) {
		t.Helper()
		st, err := store.JetStream().Stream(t.Context(), "KV_"+eventstore.ExpiringBucket)
		if err != nil {
			t.Fatal(err)
		}
		m, err := st.GetLastMsgForSubject(t.Context(), "$KV."+eventstore.ExpiringBucket+"."+keyPrefix+sessionOf(tokens.Refresh))
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Header.Get("Nats-TTL"); got != SessionLife.String() {
			t.Errorf("TTL %s is %q, want %s", when, got, SessionLife)
		}
		if strings.Contains(string(m.Data), tokens.Refresh) {
			t.Errorf("the bucket holds the token: %s", m.Data)
		}
	}
	check("at the beginning")
	var err error
	if tokens, err = c.Refresh(t.Context(), tokens.Refresh); err != nil {
		t.Fatal(err)
	}
	check("after a rotation")
}

func TestNewCustomNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	store := natstest.Open(t)
	for _, o := range []CustomOptions{
		{Accounts: accounts},
		{Secret: secret.New("short"), Accounts: accounts},
		{Secret: secret.New("a signing secret"), Accounts: []Account{{Email: "a@example.com"}}},
		{Secret: secret.New("a signing secret"), Accounts: []Account{{Password: secret.New("p")}}},
	} {
		if _, err := NewCustom(t.Context(), store, o); err == nil {
			t.Errorf("NewCustom(%+v) succeeded", o)
		}
	}
}

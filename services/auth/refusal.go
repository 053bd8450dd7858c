package auth

import (
	"errors"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// Reason is the class of what was wrong with a token: one of the few values below, for logs and metrics. A client never sees it.
type Reason string

const (
	ReasonMalformed   Reason = "malformed"     // not a JWT, too long, a claim is missing or of the wrong type, a critical header that is not understood
	ReasonAlgorithm   Reason = "algorithm"     // signed by another algorithm than the one that is accepted, or not at all
	ReasonUnknownKey  Reason = "unknown_key"   // names a key that the issuer does not publish
	ReasonSignature   Reason = "signature"     // changed, or signed by somebody else
	ReasonExpired     Reason = "expired"       // its time is over
	ReasonNotYetValid Reason = "not_yet_valid" // issued in the future, or its time has not begun
	ReasonIssuer      Reason = "issuer"        // of another pool or region
	ReasonAudience    Reason = "audience"      // of another client
	ReasonTokenUse    Reason = "token_use"     // neither an ID nor an access token
	ReasonUnknownUser Reason = "unknown_user"  // its user is not known, or not any more
	ReasonRevoked     Reason = "revoked"       // its session is over
	ReasonOther       Reason = "other"         // what ReasonOf says of an ErrBadToken that is no Refusal
)

// Refusal is the error for a token that is not accepted. It is an ErrBadToken and reads like one, so that an answer that is made of its text gives
// no hint; Reason is for logs and metrics.
type Refusal struct{ Reason Reason }

// Error is ErrBadToken's text.
func (Refusal) Error() string { return ErrBadToken.Error() }

// Unwrap is ErrBadToken.
func (Refusal) Unwrap() error { return ErrBadToken }

// ReasonOf is the reason of an ErrBadToken, and empty for every other error.
func ReasonOf(err error) Reason {
	if r, ok := errors.AsType[Refusal](err); ok {
		return r.Reason
	}
	if errors.Is(err, ErrBadToken) {
		return ReasonOther
	}
	return ""
}

// maxToken bounds a token in bytes; Cognito's are at most a few thousand.
const maxToken = 16 << 10

// reasonOf finds the class of an error of the JWT parser; method is the only algorithm that was accepted.
func reasonOf(err error, token *jwt.Token, method jwt.SigningMethod) Reason {
	if r, ok := errors.AsType[Refusal](err); ok { // the key function's own
		return r.Reason
	}
	if token != nil && token.Header != nil && !errors.Is(err, jwt.ErrTokenMalformed) && token.Header["alg"] != method.Alg() {
		return ReasonAlgorithm
	}
	// Several claims may be wrong at once; whose token it is says more than when.
	for _, c := range []struct {
		err    error
		reason Reason
	}{
		{jwt.ErrTokenMalformed, ReasonMalformed},
		{jwt.ErrTokenSignatureInvalid, ReasonSignature},
		{jwt.ErrTokenRequiredClaimMissing, ReasonMalformed},
		{jwt.ErrInvalidType, ReasonMalformed},
		{jwt.ErrTokenInvalidIssuer, ReasonIssuer},
		{jwt.ErrTokenInvalidAudience, ReasonAudience},
		{jwt.ErrTokenExpired, ReasonExpired},
		{jwt.ErrTokenNotValidYet, ReasonNotYetValid},
		{jwt.ErrTokenUsedBeforeIssued, ReasonNotYetValid},
	} {
		if errors.Is(err, c.err) {
			return c.reason
		}
	}
	return ReasonMalformed
}

// plausible tells a JWT's outline, before anything is decoded.
func plausible(token string) bool {
	return len(token) <= maxToken && strings.Count(token, ".") == 2
}

// critical reports whether a header lists extensions that a verifier must understand; this one understands none (RFC 7515, 4.1.11).
func critical(header map[string]any) bool {
	_, ok := header["crit"]
	return ok
}

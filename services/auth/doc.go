// Package auth says who is calling.
//
// A request carries a bearer token. Whoever can answer for tokens has one method, Verify, which turns one into an [Identity]; the API
// knows nothing more. [Custom] is the provider of one machine: it signs in the accounts of the configuration and answers for the
// tokens it gave out. [Cognito] answers for the tokens of a user pool, where its users sign in. [Keys] answers for API keys beside either.
// [Limiter] counts what each caller does.
//
// A token that is not accepted is an [ErrBadToken], one for everything that may be wrong with it, because a client that learns more is helped in nothing
// but trying. What it was is the [Reason] of a [Refusal], for logs and metrics.
//
// # Tokens of Custom
//
// The access token is a JWT (HS256, key derived from the secret by HKDF), good for [AccessLife]. The
// refresh token is opaque, "<session>.<proof>", and works once: each use gives a new one. What is kept of a session is one entry
// of the expiring bucket under the hash of <session>, holding the user and the hash of the proof that is good now. So a rotation is one
// conditional write, and a session's end is one deletion:
//
//   - a proof that is not the current one was used before, by its owner or by a thief, and nobody can tell which: the session ends for both;
//   - signing out deletes the entry;
//   - an entry that is not used for [SessionLife] deletes itself.
//
// An access token names its session's entry. The process that ends a session refuses its access tokens at once, the others within five
// seconds, because they look whether the entry is still there no more often than that.
//
// # Tokens of Cognito
//
// Accepted are the ID tokens (by "aud") and access tokens (by "client_id") of one client of one pool, signed with RS256 by a key that the pool
// publishes now. The key is found by the "kid" alone; keys and addresses that a token brings along are not looked at. Cognito says nothing in a
// token about its revocation, so a token is good until it expires: a pool that needs less gives shorter tokens.
//
// The user is the token's "sub". Cognito's are UUIDs, and such a sub is the user id as it stands; see [CognitoUserID] for others. Members of the configured
// groups are admins; what everybody else may do is decided by their membership in projects. The address is in ID tokens only.
//
// The keys are fetched at the start (which does not fail, nor wait for long, when they cannot be had), every quarter of an hour, and when a token names one
// that is not there, at most once in ten seconds for all callers together. What a fetch may cost is bounded in time, bytes and keys. While the address is
// away the keys of the last good answer are used, for a day; without any, the answer is [ErrUnavailable] and not a refusal.
//
// golang-jwt parses and verifies. For the keys there is keyfunc with jwkset, which is not used: its reader has no bound on the document, it follows
// addresses inside keys (x5u), it takes an empty document for the news that all keys were withdrawn, and callers with an unknown key queue up in its
// rate limiter for a fetch each, in front of callers whose key was just published.
//
// # Secrets
//
// Passwords, tokens and addresses are in no error and no log. A user is known to the rest of the system by an opaque id that is derived
// from the lower-case address. Passwords are compared in constant time, against every account, whether or not the address is known.
package auth

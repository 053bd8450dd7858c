// Package auth says who is calling.
//
// A request carries a bearer token. Whoever can answer for tokens has one method, Verify, which turns one into an [Identity]; the API
// knows nothing more. [Custom] is the provider of one machine: it signs in the accounts of the configuration and answers for the
// tokens it gave out. Another provider is another type with the same Verify.
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
// # Secrets
//
// Passwords, tokens and addresses are in no error and no log. A user is known to the rest of the system by an opaque id that is derived
// from the lower-case address. Passwords are compared in constant time, against every account, whether or not the address is known.
package auth

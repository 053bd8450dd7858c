// Package events is Vega's vocabulary: every fact that can be recorded, the identifiers it speaks of, and the form in
// which it lies in the log.
//
// A fact is a value of the sealed interface [Event], one struct per fact, grouped by noun: scan.go, attempt.go,
// finding.go, project.go, repository.go. What surrounds a fact (who, when, why, which version of what) is an [Envelope]; an
// event that has been stored is a [Recorded]. [Encode] and [Decode] translate between a fact and a [Message], which is
// CloudEvents 1.0 in binary mode: attributes in headers, the payload alone in the body.
//
// Three rules keep the log readable for ever:
//
//   - The wire name of a fact and the schema number of its shape stand in one table (kinds.go), never derived from a Go name.
//     An added optional field keeps the schema; a rename or retype is schema + 1 and one pure upcaster; a new meaning is a
//     new fact. testdata/golden holds one file per (name, schema) and none is ever deleted.
//   - subject.go is the only file of the project that builds or parses a subject.
//   - Nothing personal and nothing secret is in a fact: actors are opaque ids, a found credential is masked before it gets here.
//
// Every aggregate's events form a hash chain (chain.go), so a changed, removed or inserted event is noticed on load.
//
// The package depends on the standard library alone, does no I/O and keeps no state; all of it is safe for concurrent use.
package events

// Package migrations holds the SQL that makes the tables of the Postgres read models, in order and embedded.
//
// A file is <number>_<what>.sql with goose's annotation "-- +goose Up" and no way down: a release that must go back is given the newer
// release's fix, or its tables are dropped and filled again from the log. A file that was released is never changed; what changes the
// tables is the next number. Names are not qualified: a migration runs with the schema it belongs in as the search path, because a rebuild makes
// the same tables in a second schema.
//
// The rules that the tables follow are written at the head of the first file.
package migrations

import "embed"

// FS holds the files.
//
//go:embed *.sql
var FS embed.FS

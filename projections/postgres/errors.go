package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"vega/projections"
)

// SQLSTATE codes and classes that decide what becomes of an error.
const (
	codeSerialization   = "40001"
	codeDeadlock        = "40P01"
	codeFeature         = "0A000" // among others: a cached plan whose table has changed
	codeUndefinedTable  = "42P01"
	codeUndefinedSchema = "3F000"
	codePrivilege       = "42501"
	codeLockTimeout     = "55P03"
	codeCanceled        = "57014"
	codeInternal        = "XX000" // among others: a table that was dropped while a statement was planned
	codeNoPassword      = "28P01"
	codeNoRole          = "28000"
	codeNoDatabase      = "3D000"
)

// classOf is the first two characters of an SQLSTATE.
func classOf(code string) string {
	if len(code) < 2 {
		return ""
	}
	return code[:2]
}

// refuses says that the database will not take a row, whenever it is tried: its data, its size, its key.
func refuses(code string) bool {
	switch classOf(code) {
	case "22", "23", "54":
		return true
	}
	return false
}

// away says that the database does not do its work at the moment: it is going down or starting, has no connection, memory or disk left, is a copy that only reads,
// or ended a statement that took too long.
func away(code string) bool {
	switch classOf(code) {
	case "08", "53", "57", "58":
		return true
	}
	switch code {
	case codeSerialization, codeDeadlock, codeLockTimeout, "25006", "25P03":
		return true
	}
	return false
}

// again says that the same statement may do better at once: a connection of a server that has restarted, tables that a rebuild exchanged.
func again(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return lost(err)
	}
	switch e.Code {
	case codeSerialization, codeDeadlock, codeFeature, codeUndefinedTable, codeUndefinedSchema, codeInternal, "57P01", "57P02", "57P05", "25P03":
		return true
	}
	return false
}

// lost says that a connection broke, or that none could be made.
func lost(err error) bool {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, pgx.ErrTxClosed) || strings.Contains(err.Error(), "conn closed") {
		return true
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	return pgconn.Timeout(err) || pgconn.SafeToRetry(err)
}

// tell makes an error fit for those above: ErrUnavailable, ErrRefused, one of ours or what it is, never with a password or a user's name out of the address. ctx is the caller's.
func (m *Model) tell(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx) // the caller gave up
	}
	for _, ours := range []error{projections.ErrNotFound, projections.ErrBadCursor, projections.ErrMoved, projections.ErrOutdated, projections.ErrRefused, projections.ErrRebuilding, projections.ErrUnavailable} {
		if errors.Is(err, ours) {
			return err
		}
	}
	said := m.address.clean(err)
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case refuses(e.Code):
			return fmt.Errorf("%w: %s", projections.ErrRefused, said)
		case away(e.Code):
			return fmt.Errorf("%s: %w: %s", doing, projections.ErrUnavailable, said)
		}
		return fmt.Errorf("%s: %s", doing, said)
	}
	if lost(err) || errors.Is(err, context.DeadlineExceeded) { // of our own bounds: the caller's were looked at
		return fmt.Errorf("%s: %w: %s", doing, projections.ErrUnavailable, said)
	}
	return fmt.Errorf("%s: %s", doing, said)
}

// address is what of a connection string may be told, and what may not.
type address struct {
	host     string // host:port or a socket's folder
	database string
	readOnly bool     // it is a replica's
	secrets  []string // in every spelling
}

func addressOf(c *pgx.ConnConfig) address {
	host := c.Host
	if !strings.HasPrefix(host, "/") {
		host = net.JoinHostPort(c.Host, fmt.Sprint(c.Port))
	}
	a := address{host: host, database: c.Database}
	if p := c.Password; p != "" {
		a.secrets = []string{p, url.QueryEscape(p), url.PathEscape(p), strings.TrimPrefix(url.UserPassword("", p).String(), ":")}
	}
	return a
}

// clean is what an error says, without what is secret.
func (a address) clean(err error) string {
	said := err.Error()
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		said = a.sentence(e)
	} else if c, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		said = c.Unwrap().Error() // its own text begins with the user's name
	}
	var lines []string // pgx tries with and without TLS, and each address of a name, and tells of each
	for line := range strings.Lines(said) {
		if line = strings.Join(strings.Fields(line), " "); line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	said = strings.Join(lines, "; ")
	if strings.Contains(said, "server refused TLS connection") {
		said = fmt.Sprintf("Postgres at %s does not offer TLS, and sslmode asks for it: turn it on in the server (ssl = on), or use sslmode=disable where nobody can listen", a.host)
	}
	for _, s := range a.secrets {
		said = strings.ReplaceAll(said, s, "xxxxx")
	}
	return said
}

// sentence says what the server refused, in a way that does not repeat who asked.
func (a address) sentence(e *pgconn.PgError) string {
	switch e.Code {
	case codeNoPassword:
		return fmt.Sprintf("Postgres at %s refuses the role's password, or there is no such role (SQLSTATE %s)", a.host, e.Code)
	case codeNoRole:
		return fmt.Sprintf("Postgres at %s does not let the role in from here, or not without TLS (pg_hba.conf; SQLSTATE %s)", a.host, e.Code)
	case codeNoDatabase:
		return fmt.Sprintf("Postgres at %s has no database %q (SQLSTATE %s)", a.host, a.database, e.Code)
	}
	said := e.Message
	if e.Code == codePrivilege {
		said += " (" + a.remedy(e.Message) + ")"
	}
	if e.Detail != "" && !refuses(e.Code) { // the details of refused rows repeat their contents
		said += " (" + e.Detail + ")"
	}
	return fmt.Sprintf("%s (SQLSTATE %s)", said, e.Code)
}

// remedy says which right is missing when the server denies something.
func (a address) remedy(denied string) string {
	const owner = "or run 'vega migrate up' as the owner"
	switch {
	case a.readOnly:
		return fmt.Sprintf("the role needs GRANT USAGE ON SCHEMA %s and GRANT SELECT ON ALL TABLES IN SCHEMA %s, given on the primary", liveSchema, liveSchema)
	case strings.Contains(denied, "for database"):
		return fmt.Sprintf("the role needs GRANT CREATE ON DATABASE %s, %s", pgx.Identifier{a.database}.Sanitize(), owner)
	case strings.Contains(denied, "for schema"):
		return fmt.Sprintf("the role needs GRANT USAGE, CREATE ON SCHEMA %s, %s", liveSchema, owner)
	case strings.Contains(denied, "must be owner"):
		return "run 'vega migrate up' as the owner"
	}
	return fmt.Sprintf("the role needs GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA %s", liveSchema)
}

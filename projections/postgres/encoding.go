package postgres

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgtype"
)

// escape makes a text that Postgres takes of any string and keeps the order of bytes: a NUL becomes \x01\x01 and \x01 becomes \x01\x02. What
// is not UTF-8 becomes U+FFFD, byte by byte, as JSON has it.
func escape(s string) string {
	if !utf8.ValidString(s) {
		s = string([]rune(s))
	}
	if !strings.ContainsAny(s, "\x00\x01") {
		return s
	}
	return strings.NewReplacer("\x00", "\x01\x01", "\x01", "\x01\x02").Replace(s)
}

func unescape(s string) string {
	if strings.IndexByte(s, 1) < 0 {
		return s
	}
	return strings.NewReplacer("\x01\x01", "\x00", "\x01\x02", "\x01").Replace(s)
}

// The first and last moment whose nanoseconds fit.
var (
	minMoment = time.Unix(0, -1<<63)
	maxMoment = time.Unix(0, 1<<63-1)
)

// nanoseconds is how a moment is stored; nil for none.
func nanoseconds(t time.Time) (any, error) {
	if t.IsZero() {
		return nil, nil
	}
	if t.Before(minMoment) || t.After(maxMoment) {
		return nil, fmt.Errorf("the moment %s is not between the years 1678 and 2261", t.Format(time.RFC3339))
	}
	return t.UnixNano(), nil
}

// The scanners put a column's value where it belongs; NULL leaves the zero value.
type (
	textInto[T ~string]                   struct{ p *T }
	numberInto[T ~int | ~int64 | ~uint64] struct{ p *T }
	flagInto                              struct{ p *bool }
	momentInto                            struct{ p *time.Time }
	documentInto                          struct{ p any }
	listInto[T ~string]                   struct{ p *[]T }
	textFunc                              func(pgtype.Text)
	numberFunc                            func(pgtype.Int8)
)

func (d textInto[T]) ScanText(v pgtype.Text) error    { *d.p = T(unescape(v.String)); return nil }
func (d numberInto[T]) ScanInt64(v pgtype.Int8) error { *d.p = T(v.Int64); return nil }
func (d flagInto) ScanBool(v pgtype.Bool) error       { *d.p = v.Bool; return nil }
func (f textFunc) ScanText(v pgtype.Text) error       { f(v); return nil }
func (f numberFunc) ScanInt64(v pgtype.Int8) error    { f(v); return nil }

func (d momentInto) ScanInt64(v pgtype.Int8) error {
	*d.p = time.Time{}
	if v.Valid {
		*d.p = time.Unix(0, v.Int64).UTC()
	}
	return nil
}

func (d documentInto) ScanBytes(v []byte) error {
	if v == nil {
		return nil
	}
	return json.Unmarshal(v, d.p)
}

// SetDimensions, ScanIndex and ScanIndexType make listInto a pgtype.ArraySetter.
func (d listInto[T]) SetDimensions(dimensions []pgtype.ArrayDimension) error {
	*d.p = nil
	switch {
	case dimensions == nil:
	case len(dimensions) == 0:
		*d.p = []T{}
	case len(dimensions) == 1:
		*d.p = make([]T, dimensions[0].Length)
	default:
		return errors.New("a list of lists")
	}
	return nil
}
func (d listInto[T]) ScanIndex(i int) any { return textInto[T]{&(*d.p)[i]} }
func (d listInto[T]) ScanIndexType() any  { return textInto[T]{new(T)} }

// literal is a list as the text of a Postgres array.
func literal(list []string) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, s := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('"')
		for j := range len(s) {
			if s[j] == '"' || s[j] == '\\' {
				b.WriteByte('\\')
			}
			b.WriteByte(s[j])
		}
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}

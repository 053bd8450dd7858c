package postgres

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// form is how a column's value travels.
type form int

const (
	asText form = iota
	asNumber
	asFlag
	asDocument
	asList
)

// column is one column of a table of R.
type column[R any] struct {
	name  string
	form  form
	value func(*R) (any, error) // string, int64, bool, []byte or []string; nil is NULL
	into  func(*R) any          // where a value goes; nil: the column is only for finding rows
	first bool                  // keeps what the row was made with
}

// table is how rows of R are kept: under a key, in columns.
type table[R any] struct {
	name    string // in the database
	kind    string // as a Difference calls it
	key     func(*R) string
	keys    []string // the columns of the primary key
	columns []column[R]
}

func text[R any, T ~string](name string, at func(*R) *T) column[R] {
	return column[R]{name: name, form: asText, value: func(r *R) (any, error) { return escape(string(*at(r))), nil }, into: func(r *R) any { return textInto[T]{at(r)} }}
}

func number[R any, T ~int | ~int64 | ~uint64](name string, at func(*R) *T) column[R] {
	// A number beyond the largest bigint, which only a version that somebody made up can be, wraps around and back.
	return column[R]{name: name, form: asNumber, value: func(r *R) (any, error) { return int64(*at(r)), nil }, into: func(r *R) any { return numberInto[T]{at(r)} }}
}

func flag[R any](name string, at func(*R) *bool) column[R] {
	return column[R]{name: name, form: asFlag, value: func(r *R) (any, error) { return *at(r), nil }, into: func(r *R) any { return flagInto{at(r)} }}
}

func moment[R any](name string, at func(*R) *time.Time) column[R] {
	return column[R]{name: name, form: asNumber, value: func(r *R) (any, error) { return nanoseconds(*at(r)) }, into: func(r *R) any { return momentInto{at(r)} }}
}

// document is a value that is read whole; what is nil is NULL.
func document[R, V any](name string, at func(*R) *V) column[R] {
	return column[R]{name: name, form: asDocument, into: func(r *R) any { return documentInto{at(r)} }, value: func(r *R) (any, error) {
		b, err := json.Marshal(at(r))
		if err != nil || string(b) == "null" {
			return nil, err
		}
		return b, nil
	}}
}

func list[R any, T ~string](name string, at func(*R) *[]T) column[R] {
	return column[R]{name: name, form: asList, into: func(r *R) any { return listInto[T]{at(r)} }, value: func(r *R) (any, error) {
		l := *at(r)
		if l == nil {
			return nil, nil
		}
		out := make([]string, len(l))
		for i, s := range l {
			out[i] = escape(string(s))
		}
		return out, nil
	}}
}

// rank is a derived number that rows are found and ordered by.
func rank[R any](name string, of func(*R) int) column[R] {
	return column[R]{name: name, form: asNumber, value: func(r *R) (any, error) { return int64(of(r)), nil }}
}

// selected is the list of the columns that make a row, of the table named as.
func (t *table[R]) selected(as string) string {
	var b strings.Builder
	for _, c := range t.columns {
		if c.into == nil {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(as + "." + c.name)
	}
	return b.String()
}

// into is where the selected columns of a row go.
func (t *table[R]) into(r *R) []any {
	out := make([]any, 0, len(t.columns))
	for _, c := range t.columns {
		if c.into != nil {
			out = append(out, c.into(r))
		}
	}
	return out
}

// byKeys selects the rows whose keys are given, one array for each column of the key.
func (t *table[R]) byKeys() string {
	arrays := make([]string, len(t.keys))
	for i := range t.keys {
		arrays[i] = "$" + strconv.Itoa(i+1) + "::text[]"
	}
	if len(t.keys) == 1 {
		return fmt.Sprintf("SELECT %s FROM %s t WHERE t.%s = ANY(%s)", t.selected("t"), t.name, t.keys[0], arrays[0])
	}
	return fmt.Sprintf("SELECT %s FROM %s t WHERE (%s) IN (SELECT * FROM unnest(%s))", t.selected("t"), t.name, "t."+strings.Join(t.keys, ", t."), strings.Join(arrays, ", "))
}

// upsert writes rows, given as one array for each column, over those of the same key.
func (t *table[R]) upsert() string {
	var names, values, arrays, sets []string
	for i, c := range t.columns {
		value, array := "u."+c.name, "text[]"
		switch c.form {
		case asText:
		case asNumber:
			array = "bigint[]"
		case asFlag:
			array = "boolean[]"
		case asDocument:
			value += "::json"
		case asList:
			value += "::text[]"
		}
		names, values, arrays = append(names, c.name), append(values, value), append(arrays, fmt.Sprintf("$%d::%s", i+1, array))
		if !c.first {
			sets = append(sets, c.name+" = excluded."+c.name)
		}
	}
	all := strings.Join(names, ", ")
	return fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM unnest(%s) AS u(%s) ON CONFLICT (%s) DO UPDATE SET %s",
		t.name, all, strings.Join(values, ", "), strings.Join(arrays, ", "), all, strings.Join(t.keys, ", "), strings.Join(sets, ", "))
}

// arrays are rows as upsert takes them.
func (t *table[R]) arrays(rows []*R) ([]any, error) {
	out := make([]any, len(t.columns))
	for i, c := range t.columns {
		var texts []*string
		var numbers []*int64
		var flags []bool
		for _, r := range rows {
			v, err := c.value(r)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", t.kind, t.key(r), err)
			}
			switch c.form {
			case asNumber:
				n, ok := v.(int64)
				numbers = append(numbers, pointer(n, ok))
			case asFlag:
				flags = append(flags, v == true)
			case asText:
				s, ok := v.(string)
				texts = append(texts, pointer(s, ok))
			case asDocument:
				b, ok := v.([]byte)
				texts = append(texts, pointer(string(b), ok))
			case asList:
				l, ok := v.([]string)
				texts = append(texts, pointer(literal(l), ok))
			}
		}
		switch c.form {
		case asNumber:
			out[i] = numbers
		case asFlag:
			out[i] = flags
		case asText, asDocument, asList:
			out[i] = texts
		}
	}
	return out, nil
}

func pointer[V any](v V, is bool) *V {
	if !is {
		return nil
	}
	return &v
}

// names are the columns in the order of values.
func (t *table[R]) names() []string {
	out := make([]string, len(t.columns))
	for i, c := range t.columns {
		out[i] = c.name
	}
	return out
}

// values are a row's as COPY takes them.
func (t *table[R]) values(r *R) ([]any, error) {
	out := make([]any, len(t.columns))
	for i, c := range t.columns {
		v, err := c.value(r)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", t.kind, t.key(r), err)
		}
		out[i] = v
	}
	return out, nil
}

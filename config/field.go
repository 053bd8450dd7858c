package config

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sethvargo/go-envconfig"

	"vega/config/secret"
)

// field is one setting: a struct field with an env tag, and what its tags say.
type field struct {
	name    string // the variable
	section string
	doc     string
	value   reflect.Value // of the Config's field, settable

	initial string // the default, "" when there is none
	shown   string // the default as the documentation shows it
	secret  bool

	alias, aliasVariable, aliasEquals string

	oneof    []string
	min, max *int64 // in the variable's unit
	form     form
	allowed  string
	seconds  bool
}

// fieldsOf lists the settings of a Config in the order of its fields.
func fieldsOf(c *Config) []field {
	var fields []field
	var walk func(reflect.Value, string)
	walk = func(v reflect.Value, section string) {
		for i := range v.NumField() {
			sf, fv := v.Type().Field(i), v.Field(i)
			if s, ok := sf.Tag.Lookup("section"); ok {
				section = s
			}
			switch {
			case !sf.IsExported():
			case sf.Tag.Get("env") != "":
				fields = append(fields, newField(sf, fv, section))
			case sf.Type.Kind() == reflect.Struct:
				walk(fv, section)
			}
		}
	}
	walk(reflect.ValueOf(c).Elem(), "")
	return fields
}

func newField(sf reflect.StructField, v reflect.Value, section string) field {
	name, option, _ := strings.Cut(sf.Tag.Get("env"), ",")
	f := field{
		name:    strings.TrimSpace(name),
		section: section,
		doc:     sf.Tag.Get("doc"),
		value:   v,
		initial: strings.TrimPrefix(strings.TrimSpace(option), "default="),
		shown:   sf.Tag.Get("shown"),
		secret:  sf.Tag.Get("secret") == "true",
		alias:   sf.Tag.Get("alias"),
		oneof:   strings.Fields(sf.Tag.Get("oneof")),
		form:    forms["text"],
		allowed: sf.Tag.Get("allowed"),
		seconds: sf.Tag.Get("unit") == "seconds",
		min:     limit(sf.Tag.Get("min")),
		max:     limit(sf.Tag.Get("max")),
	}
	f.aliasVariable, f.aliasEquals, _ = strings.Cut(sf.Tag.Get("aliasif"), "=")
	if tag := sf.Tag.Get("form"); tag != "" {
		f.form = forms[tag]
	}
	if f.min == nil {
		f.min = new(int64(0)) // no setting is negative
	}
	return f
}

func limit(tag string) *int64 {
	n, err := strconv.ParseInt(tag, 10, 64)
	if err != nil {
		return nil
	}
	return &n
}

// def is the default as the documentation shows it.
func (f field) def() string {
	if f.shown != "" {
		return f.shown
	}
	if f.initial == "" {
		return "(none)"
	}
	return f.initial
}

// want says what is allowed, to complete "want …".
func (f field) want() string {
	switch {
	case f.allowed != "":
		return f.allowed
	case len(f.oneof) > 1:
		last := len(f.oneof) - 1
		return strings.Join(f.oneof[:last], ", ") + " or " + f.oneof[last]
	case f.value.Kind() == reflect.Bool:
		return "true or false"
	case f.seconds:
		return "a whole number of seconds " + f.bounds()
	case f.value.CanInt() && !f.readsItself():
		return "a whole number " + f.bounds()
	default:
		return f.form.allowed
	}
}

func (f field) bounds() string {
	if f.max == nil {
		return fmt.Sprintf("of at least %d", *f.min)
	}
	return fmt.Sprintf("from %d to %d", *f.min, *f.max)
}

// readsItself reports whether the type has its own notation.
func (f field) readsItself() bool {
	_, ok := f.value.Addr().Interface().(encoding.TextUnmarshaler)
	return ok
}

// wholeNumber is the only notation of numbers: strconv's other bases would read 010 as 8.
var wholeNumber = regexp.MustCompile(`^(0|-?[1-9][0-9]{0,18})$`)

// errNotAllowed is all that decode says: the reason is want, and the parsers' own errors repeat the value.
var errNotAllowed = errors.New("value not allowed")

// decode sets the Config's field from a text that is not empty. It returns errNotAllowed when want does not describe it.
func (f field) decode(text string) error {
	if !f.secret {
		text = strings.TrimSpace(text)
	}
	if len(f.oneof) > 0 && !slices.Contains(f.oneof, text) {
		return errNotAllowed
	}
	number := (f.value.CanInt() || f.seconds) && !f.readsItself()
	if number {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || !wholeNumber.MatchString(text) || n < *f.min || f.max != nil && n > *f.max {
			return errNotAllowed
		}
	}
	if !number && !f.formed(text) {
		return errNotAllowed
	}
	if f.seconds {
		text += "s"
	}
	if err := f.process(text); err != nil {
		return errNotAllowed
	}
	return nil
}

// formed reports whether a text, or each item of a list, has the field's form.
func (f field) formed(text string) bool {
	if f.value.Kind() != reflect.Slice {
		return f.form.ok(text)
	}
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item == "" || !f.form.ok(item) {
			return false
		}
	}
	return true
}

// process lets go-envconfig decode one value into the Config's field. It stops at the first bad value of a struct, so it is
// given a struct with this one field.
func (f field) process(text string) error {
	one := reflect.New(reflect.StructOf([]reflect.StructField{{
		Name: "Value",
		Type: f.value.Type(),
		Tag:  reflect.StructTag(fmt.Sprintf("env:%q", f.name)),
	}}))
	err := envconfig.ProcessWith(context.Background(), &envconfig.Config{
		Target:   one.Interface(),
		Lookuper: envconfig.MapLookuper(map[string]string{f.name: text}),
	})
	if err != nil {
		return err
	}
	f.value.Set(one.Elem().Field(0))
	return nil
}

// text writes the field's present value as the variable would hold it, with secrets redacted.
func (f field) text() string {
	switch v := f.value.Interface().(type) {
	case secret.String:
		return v.String()
	case secret.URL:
		return v.String()
	case time.Duration:
		if f.seconds {
			return strconv.FormatInt(int64(v/time.Second), 10)
		}
		return v.String()
	case []string:
		return strings.Join(v, ",")
	case slog.Level:
		return strings.ToLower(v.String())
	default:
		return fmt.Sprint(v)
	}
}

// printable is a wrong value as a message may show it: quoted, short and without a secret.
func (f field) printable(text string) string {
	if f.secret {
		return secret.Redacted
	}
	if strings.Contains(text, "@") || strings.Contains(text, "://") {
		text = secret.RedactURL(text)
	}
	if r := []rune(text); len(r) > 80 {
		text = string(r[:80]) + "…"
	}
	return strconv.Quote(text)
}

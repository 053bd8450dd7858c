// Package catalog decides what may happen to the things scans are about: projects and their members, repositories with their
// snapshots and threat profiles, and people's triage of findings. Like package scan it is pure: a state is the fold of events, a method
// named after the wish answers with the events to append.
//
// Every input from people is checked here, once, and refused with an *InvalidError that names the field.
package catalog

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// InvalidError says which field of a wish is wrong, and what is wanted.
type InvalidError struct {
	Field string
	Want  string
}

func (e *InvalidError) Error() string { return e.Field + ": want " + e.Want }

// ConflictError says that a wish does not fit the state: Code is stable, Message is for people.
type ConflictError struct {
	Code    string
	Message string
}

func (e *ConflictError) Error() string { return e.Message }

// GoneError says that the thing does not exist, or no longer.
type GoneError struct{ What string }

func (e *GoneError) Error() string { return "no such " + e.What }

// checkText refuses text that is empty (unless min is 0), longer than max characters, not UTF-8, or that holds control characters other
// than, where lines is true, line breaks and tabs.
func checkText(field, s string, minimum, maximum int, lines bool) error {
	n := utf8.RuneCountInString(s)
	if !utf8.ValidString(s) || n < minimum || n > maximum || (minimum > 0 && strings.TrimSpace(s) == "") {
		return &InvalidError{field, fmt.Sprintf("%d to %d characters of UTF-8", minimum, maximum)}
	}
	for _, r := range s {
		if unicode.IsControl(r) && (!lines || (r != '\n' && r != '\t' && r != '\r')) {
			return &InvalidError{field, "no control characters"}
		}
	}
	return nil
}

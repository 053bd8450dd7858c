package config

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	Variable string // the variable, or the .env file that could not be read
	Value    string // what it was set to, redacted; "" when it was not set
	Origin   Origin // where Value came from; "" when the problem is not a variable's
	Message  string // what is wrong or allowed, without a secret
}

// String is the problem in one line.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.Variable)
	if p.Value != "" {
		fmt.Fprintf(&b, "=%s", p.Value)
	}
	if p.Origin == OriginFile {
		fmt.Fprintf(&b, " (from %s)", p.Origin)
	}
	return b.String() + ": " + p.Message
}

// Error is all that is wrong with a configuration.
type Error struct {
	Problems []Problem // never empty, in the order of the documentation
}

// Error lists every problem, one a line.
func (e *Error) Error() string {
	var b strings.Builder
	noun := "problems"
	if len(e.Problems) == 1 {
		noun = "problem"
	}
	fmt.Fprintf(&b, "the configuration has %d %s:", len(e.Problems), noun)
	for _, p := range e.Problems {
		b.WriteString("\n  " + p.String())
	}
	return b.String()
}

// Warning is something about the configuration that is likely not meant but does not stop a start.
type Warning struct {
	Variable string `json:"variable"`
	Message  string `json:"message"`
}

// String is the warning in one line.
func (w Warning) String() string { return w.Variable + ": " + w.Message }

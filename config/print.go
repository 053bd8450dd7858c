package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"slices"
	"text/tabwriter"
)

// Value is one effective setting, as it may be shown to anybody.
type Value struct {
	Name   string `json:"name"`
	Text   string `json:"value"` // redacted; "" when the setting has none
	Origin Origin `json:"origin"`
	Via    string `json:"via,omitempty"` // the other variable that it was set by
	Secret bool   `json:"secret,omitempty"`
}

// Values lists the effective settings in the order of the documentation.
func (c *Config) Values() iter.Seq[Value] { return slices.Values(c.values) }

// Print writes the effective settings as a table, secrets redacted, and what was noticed about them.
func (c *Config) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "NAME\tVALUE\tORIGIN") // an error is kept and returned by Flush
	for v := range c.Values() {
		origin := string(v.Origin)
		if v.Via != "" {
			origin += " (" + v.Via + ")"
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\n", v.Name, cmp.Or(v.Text, "-"), origin)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print the configuration: %w", err)
	}
	for _, warning := range c.Warnings {
		if _, err := fmt.Fprintf(w, "warning: %s\n", warning); err != nil {
			return fmt.Errorf("print the configuration: %w", err)
		}
	}
	return nil
}

// PrintJSON writes the same as one JSON document.
func (c *Config) PrintJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	err := e.Encode(struct {
		SchemaVersion int       `json:"schema_version"`
		Values        []Value   `json:"values"`
		Warnings      []Warning `json:"warnings"`
	}{1, c.values, append([]Warning{}, c.Warnings...)})
	if err != nil {
		return fmt.Errorf("print the configuration: %w", err)
	}
	return nil
}

package config

import (
	"fmt"
	"strings"
)

// Reference is the documentation of every setting and rule, as Markdown: the text of docs/configuration.md.
func Reference() string {
	var b strings.Builder
	b.WriteString(`# Configuration

<!-- Written by "make gen" from the tags in every package's config.go. Change those, not this file. -->

Vega is configured by environment variables, which can also stand in a file ` + "`.env`" + ` in the folder it is started from. None is
needed on one machine.

- The environment wins over ` + "`.env`" + `. An empty value means the default.
- ` + "`vega scan`" + ` does not read a ` + "`.env`" + ` that lies in, or above, the folder that it scans, or in the same git checkout: whoever wrote the source may have written it. Start the other commands only in folders that you trust.
- A wrong value, or a combination that cannot work, stops the start with one message that lists every problem.
- A variable that starts with ` + "`VEGA_`" + ` and is not listed here is a warning, with the nearest name that is.
- In ` + "`.env`" + `, put a value that holds a ` + "`$`, a `#` or a quote" + ` in single quotes: elsewhere ` + "`$NAME`" + ` stands for an earlier line.
- ` + "`vega config`" + ` prints what is in force and where each value came from; secrets are never printed.
`)
	section := ""
	for _, f := range fieldsOf(new(Config)) {
		if f.section != section {
			section = f.section
			fmt.Fprintf(&b, "\n## %s\n\n| variable | default | allowed | description |\n| --- | --- | --- | --- |\n", section)
		}
		doc := f.doc
		if f.secret {
			doc += " Secret."
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.name, code(f.def()), cell(shortWant(f)), cell(doc))
	}

	b.WriteString("\n## What is required together\n\n| when | required |\n| --- | --- |\n")
	for _, r := range requirements {
		condition := "`" + r.when.String() + "`"
		if r.when.value == "" {
			condition += " is set"
		}
		if r.unless != "" {
			condition += ", `" + r.unless + "` is not set"
		}
		fmt.Fprintf(&b, "| %s | `%s` |\n", condition, strings.Join(r.needs, "`, `"))
	}

	b.WriteString("\nRefused as well:\n\n")
	for _, r := range rules {
		fmt.Fprintf(&b, "- `%s`: %s.\n", r.variable, r.says)
	}

	b.WriteString("\n## Production\n\n" +
		"With `VEGA_ENVIRONMENT=prod` (or `production`) a process refuses to start with what suits one laptop only.\n" +
		"`VEGA_ALLOW_INSECURE_PROD=true` turns these refusals into warnings.\n\n" +
		"| refused | in the roles | why, and what instead |\n| --- | --- | --- |\n")
	for _, r := range refusals {
		what := "`" + r.what.String() + "`"
		if r.what.value == "" {
			what += " not set"
		}
		names := make([]string, len(r.roles))
		for i, role := range r.roles {
			names[i] = string(role)
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", what, strings.Join(names, ", "), r.instead)
	}
	return b.String()
}

// shortWant is what is allowed, with nothing but "text" where any text is.
func shortWant(f field) string {
	if f.want() == forms["text"].allowed {
		return "text"
	}
	return f.want()
}

// code shows a default: literal in code, words like "(none)" as they are.
func code(s string) string {
	if strings.HasPrefix(s, "(") {
		return s
	}
	return "`" + s + "`"
}

// cell keeps a text inside its table cell.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

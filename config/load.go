package config

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"vega/config/secret"
)

// loader fills one Config.
type loader struct {
	c        *Config
	sources  sources
	fields   []field
	position map[string]int // of a variable in fields
	origin   map[string]Origin
	raw      map[string]string // what a variable was set to; absent when the default holds
	via      map[string]string // the alias that a variable was set by
	broken   map[string]bool   // variables that could not be read; the rules say nothing about them
	problems []Problem
}

// newLoader reads the sources.
func newLoader(environ []string, dotenvPath string) *loader {
	l := &loader{
		c:        new(Config),
		position: make(map[string]int),
		origin:   make(map[string]Origin),
		raw:      make(map[string]string),
		via:      make(map[string]string),
		broken:   make(map[string]bool),
	}
	l.fields = fieldsOf(l.c)
	for i, f := range l.fields {
		l.position[f.name] = i
	}
	file, err := readDotenv(dotenvPath)
	if err != nil {
		l.problems = append(l.problems, Problem{Variable: dotenvPath, Message: "cannot be read: " + err.Error()})
	}
	l.sources = sources{environment: parseEnviron(environ), file: file}
	return l
}

// decode sets every field from its variable or its default, each on its own, and goes on after a wrong one.
func (l *loader) decode() {
	for _, f := range l.fields {
		name, text, origin := l.find(f)
		l.origin[f.name] = origin
		if text == "" {
			l.origin[f.name], text = OriginDefault, f.initial
		} else {
			l.raw[f.name] = text
		}
		if name != f.name {
			l.via[f.name] = name
		}
		if text == "" {
			continue
		}
		if err := f.decode(text); err != nil {
			l.broken[f.name] = true
			l.problems = append(l.problems, Problem{Variable: name, Value: f.printable(text), Origin: origin, Message: "want " + f.want()})
		}
	}
}

// find returns the variable that speaks for a field and its text: the field's own, else its alias where that one counts.
func (l *loader) find(f field) (name, text string, origin Origin) {
	text, origin, ok := l.sources.lookup(f.name)
	if text != "" || ok || f.alias == "" {
		return f.name, text, origin
	}
	condition := l.fields[l.position[f.aliasVariable]]
	if _, chosen, _ := l.find(condition); cmp.Or(strings.TrimSpace(chosen), condition.initial) != f.aliasEquals {
		return f.name, "", origin
	}
	if text, origin, _ = l.sources.lookup(f.alias); text == "" {
		return f.name, "", origin
	}
	return f.alias, text, origin
}

// given reports whether a variable was set to something.
func (l *loader) given(name string) bool {
	_, ok := l.raw[name]
	return ok
}

// warn notes what does not stop a start.
func (l *loader) warn(variable, message string) {
	l.c.Warnings = append(l.c.Warnings, Warning{variable, message})
}

// warnUnknown names the variables that look like Vega's and are not, with the nearest one that is.
func (l *loader) warnUnknown() {
	names := make(map[string]bool)
	for _, m := range []map[string]string{l.sources.environment, l.sources.file} {
		for name := range m {
			if _, known := l.position[name]; !known && strings.HasPrefix(strings.ToUpper(name), "VEGA_") {
				names[name] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		message := "no such setting"
		if near := l.nearest(name); near != "" {
			message += "; did you mean " + near + "?"
		}
		l.warn(printableName(name), message)
	}
}

// nearest returns the known variable that a misspelt name most likely means, or "".
func (l *loader) nearest(name string) string {
	best, least := "", max(2, len(name)/6)+1
	for _, f := range l.fields {
		if d := distance(strings.ToUpper(name), f.name, least); d < least {
			best, least = f.name, d
		}
	}
	return best
}

// distance is the Levenshtein distance of two names; anything from bound up may be returned as bound.
func distance(a, b string, bound int) int {
	if len(a)-len(b) >= bound || len(b)-len(a) >= bound {
		return bound
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// printableName cuts a name that somebody else chose.
func printableName(name string) string {
	name = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' {
			return '?'
		}
		return r
	}, name), "?")
	if r := []rune(name); len(r) > 80 {
		return string(r[:80]) + "…"
	}
	return name
}

// finish puts the values beside the Config and the problems in the order of the documentation.
func (l *loader) finish() (Config, error) {
	for _, f := range l.fields {
		v := Value{Name: f.name, Text: f.text(), Origin: l.origin[f.name], Via: l.via[f.name], Secret: f.secret}
		switch {
		case l.broken[f.name]:
			v.Text = f.printable(l.raw[f.name])
		case v.Origin == OriginGenerated:
			v.Text = secret.Redacted
		case strings.Contains(v.Text, "://") && strings.Contains(v.Text, "?"): // a query may hold a key where none belongs
			v.Text = secret.RedactURL(v.Text)
		}
		l.c.values = append(l.c.values, v)
	}
	if len(l.problems) == 0 {
		return *l.c, nil
	}
	slices.SortStableFunc(l.problems, func(a, b Problem) int { return cmp.Compare(l.place(a), l.place(b)) })
	return *l.c, &Error{Problems: l.problems}
}

// place is where a problem's variable stands in the documentation; -1 for the .env file itself.
func (l *loader) place(p Problem) int {
	for _, f := range l.fields {
		if p.Variable == f.name || p.Variable == f.alias {
			return l.position[f.name]
		}
	}
	return -1
}

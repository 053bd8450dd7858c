package price

import (
	"maps"
	"strings"
	"time"
)

// Table holds prices by model. It never changes and may be used concurrently.
type Table struct {
	asOf   time.Time
	models map[string]Model
}

// AsOf is the day on which the prices were read.
func (t *Table) AsOf() time.Time { return t.asOf }

// Of returns the prices of a model. A snapshot's name with its date ("gpt-5.4-2026-03-05") has those of its family, unless it has its own.
func (t *Table) Of(model string) (Model, bool) {
	if m, ok := t.models[model]; ok {
		return m, true
	}
	const date = "-2006-01-02"
	family := len(model) - len(date)
	if family <= 0 {
		return Model{}, false
	}
	if _, err := time.Parse(date, model[family:]); err != nil {
		return Model{}, false
	}
	m, ok := t.models[model[:family]]
	return m, ok
}

// with is the table with other entries in place of or beside its own.
func (t *Table) with(asOf time.Time, models map[string]Model) *Table {
	all := maps.Clone(t.models)
	maps.Copy(all, models)
	return &Table{asOf: asOf, models: all}
}

// listed is a model as the provider's price page lists it: dollars per million tokens, in the page's order of columns: input, cached input, cache writes and
// output, then the same four for long contexts. A dash means that the page has none, and the token is fresh input.
type listed struct {
	name                 string
	maxOutput            int64
	standard, flex, fast string
}

// longContext is where long contexts begin, for every model that has rates for them: "(<272K context length)" on the page.
const longContext = 272_000

// The prices are those of https://developers.openai.com/api/docs/pricing, tables "Standard", "Flex", "Fast mode" and "Specialized models", as it was on this day.
// Output limits are those of the models' own pages, https://developers.openai.com/api/docs/models/NAME; 0 where none was found.
// The page's batch prices are not here, because a batch is another API. Not here either are models for which the page was not seen with all tiers
// (gpt-6-luna, gpt-6.1-sol), or whose price was announced to end before this table was made (gpt-5.6-sol), and the ten percent that regional
// endpoints cost more.
var (
	pageRead = time.Date(2026, time.September, 27, 0, 0, 0, 0, time.UTC)
	page     = []listed{
		{"gpt-6-astra", 0, "10 1 12.50 50 20 2 25 75", "5 0.50 6.25 25 10 1 12.50 37.50", "20 2 25 100 40 4 50 150"},
		{"gpt-6-sol", 0, "2 0.20 2.50 10 4 0.40 5 15", "", "4 0.40 5 20 8 0.80 10 30"},
		{"gpt-5.6-terra", 128_000, "2 0.20 2.50 12 4 0.40 5 18", "1 0.10 1.25 6 2 0.20 2.50 9", "4 0.40 5 24 8 0.80 10 36"},
		{"gpt-5.6-luna", 128_000, "0.20 0.02 0.25 1.20 0.40 0.04 0.50 1.80", "0.10 0.01 0.125 0.60 0.20 0.02 0.25 0.90", "0.40 0.04 0.50 2.40 0.80 0.08 1 3.60"},
		{"gpt-5.5", 128_000, "5 0.50 - 30 10 1 - 45", "2.50 0.25 - 15 5 0.50 - 22.50", "12.50 1.25 - 75"},
		{"gpt-5.5-pro", 0, "30 - - 180 60 - - 270", "15 - - 90", ""},
		{"gpt-5.4", 128_000, "2.50 0.25 - 15 5 0.50 - 22.50", "1.25 0.13 - 7.50 2.50 0.25 - 11.25", "5 0.50 - 30"},
		{"gpt-5.4-mini", 128_000, "0.75 0.075 - 4.50", "0.375 0.0375 - 2.25", "1.50 0.15 - 9"},
		{"gpt-5.4-nano", 128_000, "0.20 0.02 - 1.25", "0.10 0.01 - 0.625", ""},
		{"gpt-5.4-pro", 0, "30 - - 180 60 - - 270", "15 - - 90 30 - - 135", ""},
		{"gpt-5.3-codex", 128_000, "1.75 0.175 - 14", "", "3.50 0.35 - 28"},
		{"gpt-5.2", 128_000, "1.75 0.175 - 14", "0.875 0.0875 - 7", "3.50 0.35 - 28"},
		{"gpt-5.2-pro", 0, "21 - - 168", "", ""},
		{"gpt-5.1", 128_000, "1.25 0.125 - 10", "0.625 0.0625 - 5", "2.50 0.25 - 20"},
		{"gpt-5", 128_000, "1.25 0.125 - 10", "0.625 0.0625 - 5", "2.50 0.25 - 20"},
		{"gpt-5-mini", 128_000, "0.25 0.025 - 2", "0.125 0.0125 - 1", "0.45 0.045 - 3.60"},
		{"gpt-5-nano", 128_000, "0.05 0.005 - 0.40", "0.025 0.0025 - 0.20", ""},
		{"gpt-5-pro", 0, "15 - - 120", "", ""},
		{"gpt-4.1", 32_768, "2 0.50 - 8", "", "3.50 0.875 - 14"},
		{"gpt-4.1-mini", 32_768, "0.40 0.10 - 1.60", "", "0.70 0.175 - 2.80"},
		{"gpt-4.1-nano", 32_768, "0.10 0.025 - 0.40", "", "0.20 0.05 - 0.80"},
		{"gpt-4o", 16_384, "2.50 1.25 - 10", "", "4.25 2.125 - 17"},
		{"gpt-4o-2024-05-13", 0, "5 - - 15", "", "8.75 - - 26.25"},
		{"gpt-4o-mini", 16_384, "0.15 0.075 - 0.60", "", "0.25 0.125 - 1"},
		{"o1", 0, "15 7.50 - 60", "", ""},
		{"o1-pro", 0, "150 - - 600", "", ""},
		{"o3-pro", 0, "20 - - 80", "", ""},
		{"o3", 100_000, "2 0.50 - 8", "1 0.25 - 4", "3.50 0.875 - 14"},
		{"o4-mini", 100_000, "1.10 0.275 - 4.40", "0.55 0.138 - 2.20", "2 0.50 - 8"},
		{"o3-mini", 0, "1.10 0.55 - 4.40", "", ""},
		{"text-embedding-3-small", 0, "0.02 - - 0", "", ""},
		{"text-embedding-3-large", 0, "0.13 - - 0", "", ""},
		{"text-embedding-ada-002", 0, "0.10 - - 0", "", ""},
	}
)

// Default is the table that the binary carries.
func Default() *Table {
	t := &Table{asOf: pageRead, models: make(map[string]Model, len(page))}
	for _, l := range page {
		m := Model{maxOutput: l.maxOutput, tiers: []tier{columns(defaultTier, l.standard)}}
		if l.flex != "" {
			m.tiers = append(m.tiers, columns("flex", l.flex))
		}
		if l.fast != "" {
			m.tiers = append(m.tiers, columns(priorityTier, l.fast))
		}
		t.models[l.name] = m.settle()
	}
	return t
}

// columns reads a row of the page.
func columns(name, row string) tier {
	var n [8]NanoUSD
	for i, cell := range strings.Fields(row) {
		if cell == "-" {
			n[i] = n[i&^3]
			continue
		}
		_ = n[i].UnmarshalText([]byte(cell)) // a test reads every cell
	}
	t := tier{name: name, short: rates{n[0], n[1], n[2], n[3]}}
	if n[4] > 0 {
		t.above, t.long = longContext, rates{n[4], n[5], n[6], n[7]}
	}
	return t
}

package price_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vega/services/llmproxy/price"
)

func of(t rapid.TB, table *price.Table, name string) price.Model {
	t.Helper()
	m, ok := table.Of(name)
	if !ok {
		t.Fatalf("no price for %s", name)
	}
	return m
}

func TestCallsCostWhatTheProvidersPageSays(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		model string
		used  price.Tokens
		tier  string
		want  string
	}{
		{"gpt-5.4", price.Tokens{}, "", "0"},
		{"gpt-5.4", price.Tokens{Input: 1_000, Output: 1_000}, "default", "0.0175"},
		{"gpt-5.4", price.Tokens{Input: 1_000, Output: 1_000}, "standard", "0.0175"},
		{"gpt-5.4", price.Tokens{Input: 1_000, Output: 1_000, Reasoning: 900}, "", "0.0175"},
		{"gpt-5.4", price.Tokens{Input: 100_000, Cached: 90_000}, "", "0.0475"},
		{"gpt-5.4", price.Tokens{Input: 272_000, Output: 1_000}, "", "0.695"},
		{"gpt-5.4", price.Tokens{Input: 272_001, Output: 1_000}, "", "1.382505"},
		{"gpt-5.4", price.Tokens{Input: 300_000, Cached: 200_000, Output: 10_000}, "", "0.825"},
		{"gpt-5.4", price.Tokens{Input: 1_000, Output: 1_000}, "priority", "0.035"},
		{"gpt-5.4", price.Tokens{Input: 1_000, Output: 1_000}, "fast", "0.035"},
		{"gpt-5.4", price.Tokens{Input: 1_000, Output: 1_000}, "flex", "0.00875"},
		{"gpt-5.4", price.Tokens{Input: 1_000, Cached: 1_000}, "flex", "0.00013"},
		{"gpt-5.4", price.Tokens{Input: 1_000, Output: 1_000}, "a new tier", "0.035"},
		{"gpt-5.4", price.Tokens{Input: 300_000, Output: 1_000}, "priority", "1.53"},
		{"gpt-5.4-2026-03-05", price.Tokens{Input: 1}, "", "0.0000025"},
		{"gpt-5.6-luna", price.Tokens{Input: 1_000, CacheWrite: 600, Cached: 300, Output: 10}, "", "0.000188"},
		{"gpt-6-astra", price.Tokens{Input: 300_000, CacheWrite: 300_000, Output: 1_000}, "priority", "15.15"},
		{"gpt-5-nano", price.Tokens{Input: 1, Cached: 1}, "", "0.000000005"},
		{"gpt-5-nano", price.Tokens{Input: 1, Cached: 1}, "flex", "0.000000003"}, // 2.5, rounded up
		{"gpt-4o", price.Tokens{Input: 1_000_000, Cached: 500_000, Output: 1_000_000}, "", "11.875"},
		{"gpt-4o-2024-08-06", price.Tokens{Input: 1_000_000}, "", "2.5"},
		{"gpt-4o-2024-05-13", price.Tokens{Input: 1_000_000}, "", "5"},
		{"text-embedding-3-large", price.Tokens{Input: 1_000_000, Output: 7}, "", "0.13"},
		{"gpt-5.4", price.Tokens{Input: 10, Cached: 50, CacheWrite: 9, Output: -5}, "", "0.0000025"},
		{"gpt-5.4", price.Tokens{Input: -10, Cached: -1}, "", "0"},
	} {
		if got := of(t, price.Default(), tc.model).Cost(tc.used, tc.tier); got.String() != tc.want {
			t.Errorf("%s %+v %q costs %s, want %s", tc.model, tc.used, tc.tier, got, tc.want)
		}
	}
}

func TestNamesThatAreNoModelsHaveNoPrice(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "gpt", "gpt-5.4-2026-13-05", "gpt-5.4-2026-03", "-2026-03-05", "gpt-5.4-mini-latest", "GPT-5.4", "gpt-5.6-sol", "gpt-5-search-api", "ft:gpt-4o:me"} {
		if _, ok := price.Default().Of(name); ok {
			t.Errorf("%q has a price", name)
		}
	}
	if got := (price.Model{}).Cost(price.Tokens{Input: 5}, "flex") + (price.Model{}).Most(5, 5, "flex"); got != 0 {
		t.Errorf("the zero Model costs %s, want nothing", got)
	}
}

// models are all that the binary has prices for.
var models = []string{
	"gpt-6-astra", "gpt-6-sol", "gpt-5.6-terra", "gpt-5.6-luna", "gpt-5.5", "gpt-5.5-pro", "gpt-5.4", "gpt-5.4-mini", "gpt-5.4-nano", "gpt-5.4-pro", "gpt-5.3-codex", "gpt-5.2", "gpt-5.2-pro", "gpt-5.1", "gpt-5",
	"gpt-5-mini", "gpt-5-nano", "gpt-5-pro", "gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-4o", "gpt-4o-2024-05-13", "gpt-4o-mini", "o1", "o1-pro", "o3-pro", "o3", "o4-mini", "o3-mini",
	"text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002",
}

func TestEveryPriceOfThePageIsThere(t *testing.T) {
	t.Parallel()
	table := price.Default()
	for _, name := range models {
		m := of(t, table, name)
		million := func(u price.Tokens, tier string) price.NanoUSD { return m.Cost(u, tier) }
		for _, tier := range []string{"default", "flex", "priority"} {
			fresh, cached, write, output := million(price.Tokens{Input: 1e5}, tier), million(price.Tokens{Input: 1e5, Cached: 1e5}, tier),
				million(price.Tokens{Input: 1e5, CacheWrite: 1e5}, tier), million(price.Tokens{Output: 1e5}, tier)
			embeds := strings.HasPrefix(name, "text-embedding")
			if fresh <= 0 || cached <= 0 || cached > fresh || write < fresh || embeds != (output == 0) || !embeds && output < 3*fresh {
				t.Errorf("%s %s: input %s, cached %s, written %s, output %s", name, tier, fresh, cached, write, output)
			}
		}
		if long, short := m.Cost(price.Tokens{Input: 272_001}, ""), m.Cost(price.Tokens{Input: 272_000}, ""); long < short {
			t.Errorf("%s: 272,001 tokens cost %s, 272,000 cost %s", name, long, short)
		}
	}
	if got, want := table.AsOf(), time.Date(2026, 9, 27, 0, 0, 0, 0, time.UTC); !got.Equal(want) {
		t.Errorf("AsOf = %v, want %v", got, want)
	}
	if got := of(t, table, "gpt-5.4").MaxOutput(); got != 128_000 {
		t.Errorf("MaxOutput of gpt-5.4 = %d, want 128000", got)
	}
}

func TestNothingCostsMoreThanTheMost(t *testing.T) {
	t.Parallel()
	table := price.Default()
	file := filepath.Join(t.TempDir(), "prices.json")
	if err := os.WriteFile(file, []byte(odd), 0o600); err != nil {
		t.Fatal(err)
	}
	odds, err := price.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		from, name := table, rapid.SampledFrom(append([]string{"odd"}, models...)).Draw(t, "model")
		if name == "odd" {
			from = odds
		}
		m := of(t, from, name)
		input := rapid.OneOf(rapid.Int64Range(0, 1_000_000), rapid.Int64Range(271_990, 272_010), rapid.Int64()).Draw(t, "input")
		output := rapid.OneOf(rapid.Int64Range(0, 200_000), rapid.Int64()).Draw(t, "output")
		u := price.Tokens{
			Input: rapid.Int64Range(0, max(input, 0)).Draw(t, "used"), Cached: rapid.Int64Range(-1, max(input, 0)).Draw(t, "cached"),
			CacheWrite: rapid.Int64Range(-1, max(input, 0)).Draw(t, "written"), Output: rapid.Int64Range(0, max(output, 0)).Draw(t, "written out"),
		}
		tiers := []string{"default", "flex", "priority", "fast", "scale", "standard", "", "auto"}
		asked, served := rapid.SampledFrom(tiers).Draw(t, "asked"), rapid.SampledFrom(tiers).Draw(t, "served")
		cost, most := m.Cost(u, served), m.Most(input, output, asked)
		covered := asked == "" || asked == "auto" || served == asked || served == "default" || served == "" || served == "auto" || served == "standard"
		if covered && cost > most {
			t.Errorf("%s: %+v cost %s as %q, more than Most(%d, %d, %q) = %s", name, u, cost, served, input, output, asked, most)
		}
		if more := m.Most(max(input, 0)+min(1, math.MaxInt64-max(input, 0)), output, asked); more < most {
			t.Errorf("%s: one token more costs at most %s, less than %s", name, more, most)
		}
		if cost < 0 || most < 0 {
			t.Errorf("%s: an amount is negative: %s, %s", name, cost, most)
		}
		u.Output = max(u.Output, 0)
		if more := u; more.Output < math.MaxInt64 {
			more.Output++
			if m.Cost(more, served) < cost {
				t.Errorf("%s: one token of output more costs less", name)
			}
		}
	})
}

// odd has prices as no provider has them: long contexts are cheaper, the cache is dearer, flex is dearest.
const odd = `{"models":{"odd":{"input":"3","cached_input":"4","cache_write":"0.5","output":"0","long_context":{"above":1000,"input":"1","output":"2"},
	"tiers":{"flex":{"input":"9","output":"9"},"priority":{"input":"1","output":"7","long_context":{"above":10,"input":"0","output":"0"}}}}}}`

func TestAmountsThatAreTooLargeBecomeTheLargest(t *testing.T) {
	t.Parallel()
	m := of(t, price.Default(), "o1-pro")
	for _, u := range []price.Tokens{{Input: math.MaxInt64}, {Output: math.MaxInt64}, {Input: math.MaxInt64, Cached: math.MaxInt64, Output: math.MaxInt64}, {Output: 100_000_000_000_000_000}} {
		if got := m.Cost(u, ""); got != math.MaxInt64 {
			t.Errorf("Cost(%+v) = %d, want the largest amount", u, got)
		}
	}
	if got := m.Most(math.MaxInt64, math.MaxInt64, ""); got != math.MaxInt64 {
		t.Errorf("Most = %d, want the largest amount", got)
	}
}

func load(t *testing.T, text string) (*price.Table, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "prices.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return price.Load(file)
}

func TestAFileReplacesAndAdds(t *testing.T) {
	t.Parallel()
	table, err := load(t, `{
	  "as_of": "2026-11-24",
	  "models": {
	    "my-model": {"input": "2.50", "cached_input": 0.25, "output": 15},
	    "gpt-5.4": {"input": "4", "cached_input": "0.40", "cache_write": "5", "output": "20", "max_output": 1000,
	      "long_context": {"above": 100, "input": "8", "output": "30"},
	      "tiers": {"flex": {"input": "2", "output": "40"}, "fast": {"input": "8", "output": "40", "long_context": {"above": 200, "input": "16", "output": "60"}}}}
	  }
	}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		model string
		used  price.Tokens
		tier  string
		want  string
	}{
		{"my-model", price.Tokens{Input: 1e6, Cached: 5e5}, "", "1.375"},
		{"my-model", price.Tokens{Input: 1e6, CacheWrite: 1e6}, "", "2.5"},
		{"my-model-2026-01-01", price.Tokens{Output: 1e6}, "priority", "15"},
		{"gpt-5.4-2026-03-05", price.Tokens{Input: 100, CacheWrite: 100}, "", "0.0005"},
		{"gpt-5.4", price.Tokens{Input: 101}, "", "0.000808"},
		{"gpt-5.4", price.Tokens{Input: 101, Output: 1}, "flex", "0.000848"}, // its own output, the model's long input
		{"gpt-5.4", price.Tokens{Input: 150}, "priority", "0.0012"},
		{"gpt-5.4", price.Tokens{Input: 201}, "priority", "0.003216"},
		{"gpt-4o", price.Tokens{Input: 1e6}, "", "2.5"},
	} {
		if got := of(t, table, tc.model).Cost(tc.used, tc.tier); got.String() != tc.want {
			t.Errorf("%s %+v %q costs %s, want %s", tc.model, tc.used, tc.tier, got, tc.want)
		}
	}
	if got := of(t, table, "gpt-5.4").MaxOutput(); got != 1000 {
		t.Errorf("MaxOutput = %d, want 1000", got)
	}
	if got := table.AsOf().Format(time.DateOnly); got != "2026-11-24" {
		t.Errorf("AsOf = %s, want the file's day", got)
	}
	if got := of(t, price.Default(), "gpt-5.4").Cost(price.Tokens{Input: 1e5}, "").String(); got != "0.25" {
		t.Errorf("the default table was changed: %s", got)
	}
}

func TestWrongFilesAreRefusedByName(t *testing.T) {
	t.Parallel()
	model := func(fields string) string { return `{"models":{"my-model":{` + fields + `}}}` }
	for _, tc := range []struct{ text, want string }{
		{``, "JSON object"},
		{`[]`, "JSON object"},
		{`{}`, "models: must have"},
		{`{"models":{}}`, "models: must have"},
		{`{"models":[]}`, "models: must be a JSON object"},
		{`{"models":{"":{}}}`, "must have a name"},
		{`{"model":{}}`, "model: is no field"},
		{model(`"input":"1","output":"2"`) + `x`, "goes on"},
		{`{"models":{"my-model":{"input":"1"`, "JSON"},
		{`{"as_of":"yesterday",` + model(`"input":"1","output":"2"`)[1:], "as_of: must be a day"},
		{`{"as_of":null,` + model(`"input":"1","output":"2"`)[1:], "as_of: must be a day"},
		{model(`"output":"2"`), "my-model: input: is missing"},
		{model(`"input":"1"`), "my-model: output: is missing"},
		{model(`"input":"-1","output":"2"`), "my-model: input: must be US dollars"},
		{model(`"input":1e-6,"output":"2"`), "my-model: input: must be US dollars"},
		{model(`"input":"1","output":"0.1234567891"`), "my-model: output: must be US dollars"},
		{model(`"input":"1","output":null`), "my-model: output: must be US dollars"},
		{model(`"input":"1","output":"2","reasoning":"3"`), "my-model: reasoning: is no field"},
		{model(`"input":"1","output":"2","input":"3"`), "my-model: input: is there twice"},
		{model(`"input":"1","output":"2","max_output":0`), "my-model: max_output: must be a positive"},
		{model(`"input":"1","output":"2","max_output":1.5`), "my-model: max_output: must be a positive"},
		{model(`"input":"1","output":"2","long_context":{"input":"1","output":"2"}`), "my-model: long_context: above: is missing"},
		{model(`"input":"1","output":"2","long_context":{"above":5,"output":"2"}`), "my-model: long_context: input: is missing"},
		{model(`"input":"1","output":"2","long_context":{"above":5,"input":"1","output":"2","tiers":{}}`), "long_context: tiers: is no field"},
		{model(`"input":"1","output":"2","tiers":{"flex":{"input":"1"}}`), "my-model: tiers: flex: output: is missing"},
		{model(`"input":"1","output":"2","tiers":{"flex":{"input":"1","output":"1","max_output":5}}`), "flex: max_output: is no field"},
		{model(`"input":"1","output":"2","tiers":{"fast":{"input":"1","output":"2"},"priority":{"input":"1","output":"2"}}`), "twice"},
		{model(`"input":"1","output":"2","tiers":{"default":{"input":"1","output":"2"}}`), "twice"},
		{strings.Repeat(" ", 1<<20) + "{}", "larger than"},
	} {
		table, err := load(t, tc.text)
		if err == nil || table != nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "prices.json") {
			t.Errorf("Load(%.100s) = %v, want an error with the file's name and %q", tc.text, err, tc.want)
		}
	}
	if _, err := price.Load(filepath.Join(t.TempDir(), "none.json")); err == nil || !strings.Contains(err.Error(), "none.json") {
		t.Errorf("Load of no file = %v, want an error with its name", err)
	}
}

func BenchmarkMost(b *testing.B) {
	m := of(b, price.Default(), "gpt-5.4")
	b.ReportAllocs()
	for b.Loop() {
		m.Most(300_000, 32_768, "")
	}
}

func ExampleModel_Cost() {
	m, _ := price.Default().Of("gpt-5.4-2026-03-05")
	fmt.Println(m.Cost(price.Tokens{Input: 40_000, Cached: 36_000, Output: 1_200, Reasoning: 900}, "default"))
	fmt.Println(m.Most(40_000, 32_768, "default"))
	// Output:
	// 0.037
	// 0.59152
}

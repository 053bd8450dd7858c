package price

import (
	"math"
	"math/bits"
	"time"
)

// Tokens are what a call has used. Cached is part of Input, Reasoning of Output.
type Tokens struct{ Input, Cached, Output, Reasoning int64 }

// rates are prices in nano-dollars per million tokens.
type rates struct{ input, cached, output NanoUSD }

// Model is what one model costs. The zero Model costs nothing.
type Model struct {
	name      string
	maxOutput int64  // tokens; 0: unknown
	tiers     []tier // the first one is the default tier
}

// tier is what a model costs when it is called with a service_tier.
type tier struct {
	name  string
	short rates
	above int64 // a request of more input tokens costs the long rates, as a whole; 0: there is no such limit
	long  rates
}

// Table holds prices by model. It never changes and may be used concurrently.
type Table struct {
	asOf   time.Time
	models map[string]Model
}

// AsOf is the day on which the prices were read.
func (t *Table) AsOf() time.Time { return t.asOf }

// Of returns the prices of a model. A snapshot's name with its date ("gpt-5.4-2026-03-05") has the prices of its family.
func (t *Table) Of(model string) (Model, bool) {
	if m, ok := t.models[model]; ok {
		return m, true
	}
	const dated = len("-2006-01-02")
	if len(model) <= dated {
		return Model{}, false
	}
	if _, err := time.Parse("-2006-01-02", model[len(model)-dated:]); err != nil {
		return Model{}, false
	}
	m, ok := t.models[model[:len(model)-dated]]
	return m, ok
}

// MaxOutput is how many tokens the model can write at most, reasoning included; 0: that is not known.
func (m Model) MaxOutput() int64 { return m.maxOutput }

// Cost is what a call costs, rounded up once. An amount that NanoUSD cannot hold becomes the largest that it can. The tier is the one that the provider
// said; none, "auto" and "default" are the default tier, and one that the table does not have is priced like the dearest that it has.
func (m Model) Cost(u Tokens, tier string) NanoUSD {
	var most NanoUSD
	for _, t := range m.named(tier) {
		most = max(most, t.cost(u))
	}
	return most
}

// Most is the most that a call of at most so many tokens can cost, whatever part of it is cached. Tier "" and "auto" mean any tier that the table knows,
// because the provider's own settings then decide; with any other, the default tier is covered as well, to which the provider may fall back.
func (m Model) Most(input, output int64, tier string) NanoUSD {
	tiers := m.tiers
	if tier != "" && tier != "auto" && len(tiers) > 0 {
		tiers = append(m.named(tier), tiers[0])
	}
	var most NanoUSD
	for _, t := range tiers {
		most = max(most, t.most(input, output))
	}
	return most
}

// named returns the tier of that name, or all when there is none.
func (m Model) named(name string) []tier {
	if name == "" || name == "auto" || name == "default" {
		return m.tiers[:min(1, len(m.tiers)):min(1, len(m.tiers))]
	}
	for i, t := range m.tiers {
		if t.name == name {
			return m.tiers[i : i+1 : i+1]
		}
	}
	return m.tiers[:len(m.tiers):len(m.tiers)]
}

func (t tier) cost(u Tokens) NanoUSD {
	input := max(u.Input, 0)
	r := t.short
	if t.above > 0 && input > t.above {
		r = t.long
	}
	return r.of(input, min(max(u.Cached, 0), input), max(u.Output, 0))
}

func (t tier) most(input, output int64) NanoUSD {
	input, output = max(input, 0), max(output, 0)
	if t.above <= 0 || input <= t.above {
		return max(t.short.of(input, 0, output), t.short.of(input, input, output))
	}
	return max(
		t.short.of(t.above, 0, output), t.short.of(t.above, t.above, output),
		t.long.of(input, 0, output), t.long.of(input, input, output),
	)
}

// of multiplies in 128 bits and divides once.
func (r rates) of(input, cached, output int64) NanoUSD {
	const perRate = 1_000_000
	var hi, lo uint64
	for _, p := range [...]struct {
		tokens int64
		rate   NanoUSD
	}{{input - cached, r.input}, {cached, r.cached}, {output, r.output}} {
		h, l := bits.Mul64(uint64(p.tokens), uint64(p.rate))
		var carry uint64
		lo, carry = bits.Add64(lo, l, 0)
		hi, _ = bits.Add64(hi, h, carry) // three products of 63-bit factors stay far below 128 bits
	}
	lo, carry := bits.Add64(lo, perRate-1, 0)
	hi += carry
	if hi >= perRate {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, perRate)
	return NanoUSD(min(q, math.MaxInt64))
}

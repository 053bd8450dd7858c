package price

import (
	"math"
	"math/bits"
)

// Tokens are what a call has used. Cached and CacheWrite are parts of Input, Reasoning is part of Output and costs the same.
type Tokens struct{ Input, Cached, CacheWrite, Output, Reasoning int64 }

// Model is what one model costs. The zero Model costs nothing. It never changes and may be used concurrently.
type Model struct {
	maxOutput int64  // tokens; 0: unknown
	tiers     []tier // the first one is the default tier
}

// tier is what a model costs when it is called with a service_tier.
type tier struct {
	name  string
	short rates
	above int64 // input tokens; a call with more costs the long rates, as a whole; 0: there is no such limit
	long  rates
}

// rates are prices in nano-dollars per million tokens.
type rates struct{ input, cached, write, output NanoUSD }

// The two tiers that go by several names.
const (
	defaultTier  = "default"
	priorityTier = "priority"
)

// MaxOutput is how many tokens the model can write at most, reasoning included; 0: that is not known.
func (m Model) MaxOutput() int64 { return m.maxOutput }

// Cost is what a call costs, rounded up once. An amount that NanoUSD cannot hold becomes the largest that it can. tier is the one that the provider said;
// "", "auto" and "standard" are the default tier, "fast" is "priority", and one that the model does not have costs what the dearest that it has does. Parts that
// are larger than their whole count as the whole, negative numbers as zero.
func (m Model) Cost(u Tokens, tier string) NanoUSD {
	var most NanoUSD
	for _, t := range m.named(tier) {
		most = max(most, t.cost(u))
	}
	return most
}

// Most is the most that a call of at most so many tokens can cost, whatever of it is cached and on whichever side of the long-context limit it ends. tier is the
// one that is asked for: with "" and "auto" the provider's own settings decide, so every tier of the model is covered; with any other the default tier is
// covered as well, to which the provider may fall back.
func (m Model) Most(input, output int64, tier string) NanoUSD {
	tiers := m.tiers
	if tier != "" && tier != "auto" && len(tiers) > 0 {
		tiers = m.named(tier)
	}
	var most NanoUSD
	for _, t := range tiers {
		most = max(most, t.most(input, output))
	}
	if len(m.tiers) > 0 {
		most = max(most, m.tiers[0].most(input, output))
	}
	return most
}

// named returns the tier of that name, or all when there is none.
func (m Model) named(name string) []tier {
	name = tierName(name)
	for i, t := range m.tiers {
		if t.name == name {
			return m.tiers[i : i+1]
		}
	}
	return m.tiers
}

// tierName is the one name of a tier.
func tierName(name string) string {
	switch name {
	case "", "auto", "standard":
		return defaultTier
	case "fast":
		return priorityTier
	}
	return name
}

func (t tier) cost(u Tokens) NanoUSD {
	input := max(u.Input, 0)
	r := t.short
	if t.above > 0 && input > t.above {
		r = t.long
	}
	cached := min(max(u.Cached, 0), input)
	write := min(max(u.CacheWrite, 0), input-cached)
	return r.of(input-cached-write, cached, write, max(u.Output, 0))
}

func (t tier) most(input, output int64) NanoUSD {
	input, output = max(input, 0), max(output, 0)
	if t.above <= 0 || input <= t.above {
		return t.short.most(input, output)
	}
	return max(t.short.most(t.above, output), t.long.most(input, output))
}

// most takes all input for the dearest kind.
func (r rates) most(input, output int64) NanoUSD {
	dearest := max(r.input, r.cached, r.write)
	return rates{input: dearest, output: r.output}.of(input, 0, 0, output)
}

// of multiplies in 128 bits and divides once.
func (r rates) of(fresh, cached, write, output int64) NanoUSD {
	const million = 1_000_000
	var hi, lo, carry uint64
	for _, part := range [...]struct {
		tokens int64
		rate   NanoUSD
	}{{fresh, r.input}, {cached, r.cached}, {write, r.write}, {output, r.output}} {
		h, l := bits.Mul64(uint64(part.tokens), uint64(part.rate))
		lo, carry = bits.Add64(lo, l, 0)
		hi += h + carry // four products of 63-bit factors and a carry each stay below 128 bits
	}
	lo, carry = bits.Add64(lo, million-1, 0)
	if hi += carry; hi >= million {
		return math.MaxInt64
	}
	nanos, _ := bits.Div64(hi, lo, million)
	return NanoUSD(min(nanos, math.MaxInt64))
}

// dearer takes the higher of each rate.
func (r rates) dearer(o rates) rates {
	return rates{max(r.input, o.input), max(r.cached, o.cached), max(r.write, o.write), max(r.output, o.output)}
}

// settle gives each tier without long rates of its own the dearer of its short ones and the default tier's long ones.
func (m Model) settle() Model {
	for i := range m.tiers {
		if t := &m.tiers[i]; t.above == 0 && m.tiers[0].above > 0 {
			t.above, t.long = m.tiers[0].above, t.short.dearer(m.tiers[0].long)
		}
	}
	return m
}

package price

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// NanoUSD is an amount of money in billionths of a US dollar. Sums of it are exact.
type NanoUSD int64

const nanosPerUSD = 1_000_000_000

// ErrAmount is what UnmarshalText returns for a text that is no amount.
var ErrAmount = errors.New("not an amount of US dollars")

// UnmarshalText reads a decimal amount of dollars such as "2.50", never negative, with at most nine decimals.
// It returns ErrAmount for anything else.
func (n *NanoUSD) UnmarshalText(b []byte) error {
	whole, fraction, dotted := strings.Cut(string(b), ".")
	if len(fraction) > 9 || dotted && fraction == "" || !digits(whole) || !digits(fraction) || whole == "" {
		return ErrAmount
	}
	dollars, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || dollars > math.MaxInt64/nanosPerUSD-1 {
		return ErrAmount
	}
	nanos, err := strconv.ParseInt((fraction + "000000000")[:9], 10, 64)
	if err != nil {
		return ErrAmount
	}
	*n = NanoUSD(dollars*nanosPerUSD + nanos)
	return nil
}

// String writes the amount in dollars, without trailing zeros: "2.5".
func (n NanoUSD) String() string {
	sign, v := "", uint64(n)
	if n < 0 {
		sign, v = "-", -v
	}
	s := strconv.FormatUint(v/nanosPerUSD, 10)
	if rest := v % nanosPerUSD; rest != 0 {
		s += "." + strings.TrimRight(strconv.FormatUint(nanosPerUSD+rest, 10)[1:], "0")
	}
	return sign + s
}

// MarshalText is what encoding/json writes: the same as String.
func (n NanoUSD) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

func digits(s string) bool { return strings.Trim(s, "0123456789") == "" }

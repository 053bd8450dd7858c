package price

import (
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func TestAmountsOfMoneyAreExact(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		text string
		want NanoUSD
	}{
		{"0", 0},
		{"2.50", 2_500_000_000},
		{"0.000000001", 1},
		{"007", 7_000_000_000},
		{"9223372035.999999999", 9_223_372_035_999_999_999},
	} {
		var got NanoUSD
		if err := got.UnmarshalText([]byte(tc.text)); err != nil || got != tc.want {
			t.Errorf("UnmarshalText(%q) = %d, %v, want %d", tc.text, got, err, tc.want)
		}
	}
	for _, text := range []string{"", ".", "1.", ".5", "-1", "+1", "1e3", "1,5", "1.0000000001", "9223372036", "99999999999999999999", " 1", "NaN"} {
		got := NanoUSD(7)
		if err := got.UnmarshalText([]byte(text)); !errors.Is(err, ErrAmount) || got != 7 {
			t.Errorf("UnmarshalText(%q) = %d, %v, want ErrAmount and no change", text, got, err)
		}
	}
	if got := NanoUSD(-1_500_000_000).String(); got != "-1.5" {
		t.Errorf("String = %q, want -1.5", got)
	}
}

func TestAnAmountSurvivesBeingWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := NanoUSD(rapid.Int64Range(0, 9_000_000_000_000_000_000).Draw(t, "amount"))
		var got NanoUSD
		if err := got.UnmarshalText([]byte(want.String())); err != nil || got != want {
			t.Errorf("%d is written %q and read %d, %v", want, want, got, err)
		}
	})
}

package events

import (
	"slices"
	"testing"
	"time"
)

// Encode hashes a fixed list of names where Link sorts those that are there: both must be the same hash.
func TestTheHeadersOfOursAreSortedAndCovered(t *testing.T) {
	t.Parallel()
	if !slices.IsSorted(ours) {
		t.Errorf("names are %v, want them sorted", ours)
	}
	meta := Meta{Command: "c", Actor: "a", Cause: "because", Trace: "t", At: time.Unix(1, 2)}
	msgs, _, err := Encode(ScanOf("test", "scan_test_one"), Head{Hash: "x"}, meta, CancelRequested{Reason: "r"})
	if err != nil {
		t.Fatal(err)
	}
	for name := range msgs[0].Header {
		if covered(name) != slices.Contains(ours, name) {
			t.Errorf("%s is covered: %v, in the list: %v", name, covered(name), slices.Contains(ours, name))
		}
	}
	if got, want := Hash(msgs[0].Header[headerHash]), Link("x", msgs[0]); got != want {
		t.Errorf("Encode's hash = %s, want %s", got, want)
	}
}

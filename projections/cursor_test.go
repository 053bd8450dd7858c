package projections

import (
	"errors"
	"testing"
	"testing/quick"

	"vega/events"
)

func FuzzCursor(f *testing.F) {
	f.Add("")
	f.Add(string(SeqCursor(1)))
	f.Add(string(SeqCursor(1<<64 - 1)))
	f.Add(string(FindingCursor(Finding{Finding: events.Finding{ID: "find_a_b", Severity: events.SeverityLow, File: "a/b.go", StartLine: 3}})))
	f.Add(string(ByDay.Cursor(UsageSum{Day: "2026-11-01"})))
	f.Add(string(ByScan.Cursor(UsageSum{Queued: 7})))
	f.Add("eyJzIjotMX0")
	f.Add("bnVsbA")
	f.Add("e30")
	f.Fuzz(func(t *testing.T, s string) {
		seq, some, err := ReadSeqCursor(Cursor(s))
		switch {
		case err != nil && !errors.Is(err, ErrBadCursor):
			t.Errorf("ReadSeqCursor(%q) = %v, want ErrBadCursor", s, err)
		case err == nil && some != (s != ""):
			t.Errorf("ReadSeqCursor(%q) = %v without an error", s, some)
		case some:
			if again, _, err := ReadSeqCursor(SeqCursor(seq)); err != nil || again != seq {
				t.Errorf("cursor of %d reads as %d, %v", seq, again, err)
			}
		}
		for _, by := range []UsageBy{ByDay, ByProject, ByUser, ByScan} {
			sum, some, err := by.ReadCursor(Cursor(s))
			switch {
			case err != nil && !errors.Is(err, ErrBadCursor):
				t.Errorf("ReadCursor(%q) by %s = %v, want ErrBadCursor", s, by, err)
			case some:
				if again, _, err := by.ReadCursor(by.Cursor(sum)); err != nil || by.Compare(again, sum) != 0 {
					t.Errorf("cursor by %s of %+v reads as %+v, %v", by, sum, again, err)
				}
			}
		}
		place, some, err := ReadFindingCursor(Cursor(s))
		switch {
		case err != nil && !errors.Is(err, ErrBadCursor):
			t.Errorf("ReadFindingCursor(%q) = %v, want ErrBadCursor", s, err)
		case err == nil && some != (s != ""):
			t.Errorf("ReadFindingCursor(%q) = %v without an error", s, some)
		case some:
			if again, _, err := ReadFindingCursor(FindingCursor(place)); err != nil || CompareFindings(again, place) != 0 {
				t.Errorf("cursor of %+v reads as %+v, %v", place, again, err)
			}
		}
	})
}

func TestACursorReadsBackAsThePlaceItWasMadeFor(t *testing.T) {
	t.Parallel()
	severities := append(events.Severities(), "unheard_of")
	back := func(rank uint8, file string, line int, id string) bool {
		f := Finding{Finding: events.Finding{ID: events.FindingID("x" + id), Severity: severities[int(rank)%len(severities)], File: file, StartLine: line}}
		got, ok, err := ReadFindingCursor(FindingCursor(f))
		return len(file)+len(id) > 4000 || (err == nil && ok && CompareFindings(got, f) == 0)
	}
	if err := quick.Check(back, nil); err != nil {
		t.Error(err)
	}
}

func TestPagesAreNeverEmptyOrEndless(t *testing.T) {
	t.Parallel()
	for limit, want := range map[int]int{-5: DefaultLimit, 0: DefaultLimit, 1: 1, MaxLimit: MaxLimit, MaxLimit + 1: MaxLimit} {
		if got := (Page{Limit: limit}).Size(); got != want {
			t.Errorf("Size of limit %d = %d, want %d", limit, got, want)
		}
	}
}

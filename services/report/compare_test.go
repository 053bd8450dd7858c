package report_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"vega/events"
	"vega/services/report"
)

// weak is a finding whose name is its fingerprint and, with .go, its file.
func weak(name string) events.Finding {
	return events.Finding{ID: events.FindingID("find_" + name), Fingerprint: events.Fingerprint("fp1:" + name), Rule: "rule", Severity: events.SeverityHigh, Title: "A weakness",
		File: name + ".go", StartLine: 3}
}

// seen is a scan that found what is named. A word that ends in a slash is a path to look at, "partial" is its coverage.
func seen(scan events.ScanID, words string) report.Seen {
	s := report.Seen{Scan: scan, Coverage: events.CoverageComplete}
	for w := range strings.FieldsSeq(words) {
		switch {
		case w == "partial":
			s.Coverage = events.CoveragePartial
		case strings.HasSuffix(w, "/"):
			s.Paths = append(s.Paths, strings.TrimSuffix(w, "/"))
		default:
			s.Findings = append(s.Findings, weak(w))
		}
	}
	return s
}

func classes(l report.Ledger) string {
	var out []string
	for _, w := range l.Weaknesses {
		out = append(out, strings.TrimPrefix(string(w.Fingerprint), "fp1:")+"="+string(w.Class))
	}
	return strings.Join(out, " ")
}

// Each line is a repository's scans one after another, each compared with the one before, and the state that the last one leaves.
func TestWhereWeaknessesStandAfterScans(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		scans []string
		want  string
		count events.Compared // Base aside
	}{
		{"the first scan", []string{"a b"}, "a=new b=new", events.Compared{New: 2}},
		{"nothing at all", []string{"", ""}, "", events.Compared{}},
		{"still there", []string{"a", "a"}, "a=persisting", events.Compared{Persisting: 1}},
		{"another one", []string{"a", "a b"}, "a=persisting b=new", events.Compared{Persisting: 1, New: 1}},
		{"gone", []string{"a b", "b"}, "a=resolved b=persisting", events.Compared{Persisting: 1, Resolved: 1}},
		{"gone for longer is not news", []string{"a b", "b", "b"}, "a=resolved b=persisting", events.Compared{Persisting: 1}},
		{"back", []string{"a", "", "a"}, "a=reopened", events.Compared{Reopened: 1}},
		{"back later", []string{"a", "", "", "", "a"}, "a=reopened", events.Compared{Reopened: 1}},
		{"back and still there", []string{"a", "", "a", "a"}, "a=persisting", events.Compared{Persisting: 1}},
		{"missing where not all was looked at", []string{"a", "partial"}, "a=unknown", events.Compared{Unknown: 1}},
		{"missing again where not all was looked at", []string{"a", "partial", "partial"}, "a=unknown", events.Compared{Unknown: 1}},
		{"missing, then gone", []string{"a", "partial", ""}, "a=resolved", events.Compared{Resolved: 1}},
		{"missing, then there", []string{"a", "partial", "a"}, "a=persisting", events.Compared{Persisting: 1}},
		{"resolved stays resolved where not all was looked at", []string{"a", "", "partial"}, "a=resolved", events.Compared{}},
		{"found where not all was looked at", []string{"a", "", "partial a b"}, "a=reopened b=new", events.Compared{Reopened: 1, New: 1}},
		{"found, gone, back, missing, there", []string{"a", "", "a", "partial", "a"}, "a=persisting", events.Compared{Persisting: 1}},
		{"found, gone, back, missing, gone, back", []string{"a", "", "a", "partial", "", "a"}, "a=reopened", events.Compared{Reopened: 1}},
		{"outside of what was looked at", []string{"a/x b/x bb", "b/"}, "a/x=unknown b/x=resolved bb=unknown", events.Compared{Unknown: 2, Resolved: 1}},
		{"one file was looked at", []string{"a b", "a.go/"}, "a=resolved b=unknown", events.Compared{Unknown: 1, Resolved: 1}},
		{"a path, and not all of it", []string{"a/x", "a/ partial"}, "a/x=unknown", events.Compared{Unknown: 1}},
		{"everything after a part", []string{"a/x a/", "a/x b/x"}, "a/x=persisting b/x=new", events.Compared{Persisting: 1, New: 1}},
	} {
		var base *report.Seen
		var before *report.Ledger
		var count events.Compared
		for i, words := range c.scans {
			now := seen(events.ScanID(fmt.Sprint("s", i)), words)
			var l report.Ledger
			l, count = report.Compare(base, before, now)
			base, before = &now, &l
		}
		want := c.count
		if n := len(c.scans); n > 1 {
			want.Base = events.ScanID(fmt.Sprint("s", n-2))
		}
		if got := classes(*before); got != c.want || count != want {
			t.Errorf("%s: %s, %+v; want %s, %+v", c.name, got, count, c.want, want)
		}
		if again := before.Count(count.Base); again != count {
			t.Errorf("%s: the ledger counts %+v, Compare %+v", c.name, again, count)
		}
	}
}

func TestALedgerRemembersWhenWeaknessesWereSeen(t *testing.T) {
	t.Parallel()
	first := seen("s1", "a")
	l1, _ := report.Compare(nil, nil, first)
	second := seen("s2", "partial")
	l2, _ := report.Compare(&first, &l1, second)
	moved := seen("s3", "a")
	moved.Findings[0].StartLine, moved.Findings[0].Title, moved.Findings[0].Severity = 90, "Reworded", events.SeverityLow
	l3, _ := report.Compare(&second, &l2, moved)
	gone := seen("s4", "")
	l4, _ := report.Compare(&moved, &l3, gone)
	l5, _ := report.Compare(&gone, &l4, seen("s5", ""))
	want := report.Weakness{Fingerprint: "fp1:a", ID: "find_a", Rule: "rule", Title: "Reworded", Severity: events.SeverityLow, File: "a.go", StartLine: 90,
		Class: report.ClassResolved, FirstSeen: "s1", LastSeen: "s3", Since: "s4", Age: 1}
	if diff := cmp.Diff([]report.Weakness{want}, l5.Weaknesses); diff != "" {
		t.Error(diff)
	}
	if n := len(l4.Changes()); n != 1 {
		t.Errorf("%d changes in the scan that resolved it, want 1", n)
	}
	if n := len(l5.Changes()); n != 0 {
		t.Errorf("%d changes in the scan after it, want none", n)
	}
}

// A scan of an older release recorded no ledger: what it found counts as known.
func TestABaseWithoutALedgerIsItsFindings(t *testing.T) {
	t.Parallel()
	base := seen("old", "a b")
	l, n := report.Compare(&base, nil, seen("now", "b c"))
	if got := classes(l); got != "a=resolved b=persisting c=new" || n != (events.Compared{Base: "old", New: 1, Persisting: 1, Resolved: 1}) {
		t.Errorf("%s, %+v", got, n)
	}
	if w := l.Weaknesses[1]; w.FirstSeen != "old" || w.LastSeen != "now" {
		t.Errorf("b was seen first in %s and last in %s", w.FirstSeen, w.LastSeen)
	}
	// The base's own findings count whatever its ledger says.
	stale := report.Ledger{Schema: 1, Scan: "old", Weaknesses: []report.Weakness{{Fingerprint: "fp1:a", File: "a.go", Class: report.ClassResolved, FirstSeen: "older"}}}
	l, _ = report.Compare(&base, &stale, seen("now", "a b"))
	if got := classes(l); got != "a=persisting b=persisting" || l.Weaknesses[0].FirstSeen != "older" {
		t.Errorf("%s, %+v", got, l.Weaknesses[0])
	}
	// A ledger alone is a base as well.
	if _, n := report.Compare(nil, &stale, seen("now", "a")); n != (events.Compared{Base: "old", Reopened: 1}) {
		t.Errorf("with a ledger alone: %+v", n)
	}
}

func TestChangesAreWorstFirstWithinTheirClasses(t *testing.T) {
	t.Parallel()
	base := seen("s1", "gone1 gone2 kept")
	base.Findings[1].Severity = events.SeverityCritical
	now := seen("s2", "kept low high")
	now.Findings[1].Severity = events.SeverityLow
	l, _ := report.Compare(&base, nil, now)
	var got []string
	for _, w := range l.Changes() {
		got = append(got, string(w.Fingerprint[4:]))
	}
	if want := "high low kept gone2 gone1"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
}

func TestALedgerForgetsTheOldestThatWereResolved(t *testing.T) {
	t.Parallel()
	full := report.Ledger{Schema: 1, Scan: "s1"}
	for i := range report.MaxWeaknesses {
		w := report.Weakness{Fingerprint: events.Fingerprint(fmt.Sprintf("fp1:%05d", i)), File: "f.go", Class: report.ClassUnknown, Age: i % 100}
		if i%2 == 0 {
			w.Class = report.ClassResolved
		}
		full.Weaknesses = append(full.Weaknesses, w)
	}
	now := seen("s2", "partial")
	for i := range 150 {
		now.Findings = append(now.Findings, weak(fmt.Sprint("new", i)))
	}
	l, n := report.Compare(nil, &full, now)
	if len(l.Weaknesses) != report.MaxWeaknesses || n.New != 150 || n.Unknown != report.MaxWeaknesses/2 {
		t.Errorf("%d lines, %+v", len(l.Weaknesses), n)
	}
	left := map[report.Class]int{}
	for _, w := range l.Weaknesses {
		left[w.Class]++
		if w.Class == report.ClassResolved && w.Age > 99-2 { // the even ages are the resolved ones', one more by now: 99 are 200, of which 150 go
			left["oldest"]++
		}
	}
	if left[report.ClassNew] != 150 || left[report.ClassUnknown] != report.MaxWeaknesses/2 || left[report.ClassResolved] != report.MaxWeaknesses/2-150 || left["oldest"] != 50 {
		t.Errorf("left: %v", left)
	}
	if !slices.IsSortedFunc(l.Weaknesses, func(a, b report.Weakness) int { return strings.Compare(string(a.Fingerprint), string(b.Fingerprint)) }) {
		t.Error("not sorted by fingerprint")
	}
}

func TestLedgersAreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	base := seen("s1", "a b")
	l, _ := report.Compare(&base, nil, seen("s2", "b c partial"))
	b, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := report.ParseLedger(b)
	if diff := cmp.Diff(l, back); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	empty, _ := report.Compare(nil, nil, report.Seen{Scan: "s"})
	if b, err := empty.Encode(); err != nil || string(b) != `{"schema_version":1,"scan_id":"s","weaknesses":[]}`+"\n" {
		t.Errorf("an empty ledger: %s, %v", b, err)
	}
	for _, bad := range []string{"", "{}", `{"schema_version":2,"weaknesses":[]}`, "[]", `{"schema_version":1`} {
		if _, err := report.ParseLedger([]byte(bad)); err == nil {
			t.Errorf("ParseLedger(%q) = nil, want an error", bad)
		}
	}
}

// Whatever scans follow each other: what the last one found is in exactly one class, nothing is resolved by a scan that did not see everything,
// and the order of findings changes nothing.
func TestAnyScansKeepTheRulesOfComparison(t *testing.T) {
	t.Parallel()
	names := []string{"a/x", "a/y", "b/x", "b/y", "c", "d"}
	rapid.Check(t, func(t *rapid.T) {
		var base *report.Seen
		var before *report.Ledger
		for i := range rapid.IntRange(1, 8).Draw(t, "scans") {
			now := report.Seen{Scan: events.ScanID(fmt.Sprint("s", i)),
				Coverage: rapid.SampledFrom([]events.CoverageState{events.CoverageComplete, events.CoverageComplete, events.CoveragePartial, events.CoverageUnknown}).Draw(t, "coverage"),
				Paths:    rapid.SampledFrom([][]string{nil, nil, {"a"}, {"b/x.go", "c.go"}}).Draw(t, "paths")}
			for _, n := range rapid.SliceOfDistinct(rapid.SampledFrom(names), rapid.ID).Draw(t, "found") {
				now.Findings = append(now.Findings, weak(n))
			}
			forget := rapid.Bool().Draw(t, "no ledger")
			if forget {
				before = nil
			}
			l, n := report.Compare(base, before, now)

			mixed := now
			mixed.Findings = slices.Clone(now.Findings)
			seed := rapid.Uint64().Draw(t, "seed")
			rand.New(rand.NewPCG(seed, 1)).Shuffle(len(mixed.Findings), func(i, j int) { //nolint:gosec // any order will do
				mixed.Findings[i], mixed.Findings[j] = mixed.Findings[j], mixed.Findings[i]
			})
			if again, m := report.Compare(base, before, mixed); !cmp.Equal(l, again) || n != m {
				t.Fatalf("another order of findings: %s", cmp.Diff(l, again))
			}

			found := map[events.Fingerprint]bool{}
			for _, f := range now.Findings {
				found[f.Fingerprint] = true
			}
			lines := map[events.Fingerprint]report.Weakness{}
			for _, w := range l.Weaknesses {
				if _, twice := lines[w.Fingerprint]; twice {
					t.Fatalf("%s stands in the ledger twice", w.Fingerprint)
				}
				lines[w.Fingerprint] = w
				if w.Class.Found() != found[w.Fingerprint] {
					t.Fatalf("%s is %s, found: %v", w.Fingerprint, w.Class, found[w.Fingerprint])
				}
				if w.Class == report.ClassResolved && w.Since == now.Scan && now.Coverage != events.CoverageComplete {
					t.Fatalf("%s was resolved by a scan whose coverage is %s", w.Fingerprint, now.Coverage)
				}
				if (w.LastSeen == now.Scan) != found[w.Fingerprint] {
					t.Fatalf("%s was last seen in %s", w.Fingerprint, w.LastSeen)
				}
			}
			for f := range found {
				if _, ok := lines[f]; !ok {
					t.Fatalf("%s is not in the ledger", f)
				}
			}
			if before != nil {
				for _, w := range before.Weaknesses {
					if _, ok := lines[w.Fingerprint]; !ok {
						t.Fatalf("%s was forgotten", w.Fingerprint)
					}
				}
			}
			if n.New+n.Persisting+n.Reopened != len(now.Findings) || len(l.Changes()) != len(now.Findings)+n.Resolved+n.Unknown {
				t.Fatalf("%+v of %d findings, %d changes", n, len(now.Findings), len(l.Changes()))
			}
			base, before = &now, &l
		}
	})
}

// A claim that a review does not believe this time is not resolved by that: the code is what it was.
func TestWhatIsRefutedIsNotResolved(t *testing.T) {
	t.Parallel()
	f := events.Finding{Fingerprint: "fp1:a", ID: "find_a", File: "a.go"}
	first := report.Seen{Scan: "s1", Findings: []events.Finding{f}, Coverage: events.CoverageComplete}
	ledger, _ := report.Compare(nil, nil, first)
	for _, c := range []struct {
		refuted []events.Fingerprint
		want    events.Compared
	}{{nil, events.Compared{Base: "s1", Resolved: 1}}, {[]events.Fingerprint{"fp1:a"}, events.Compared{Base: "s1", Unknown: 1}}} {
		if _, got := report.Compare(&first, &ledger, report.Seen{Scan: "s2", Coverage: events.CoverageComplete, Refuted: c.refuted}); got != c.want {
			t.Errorf("refuted %v: %+v, want %+v", c.refuted, got, c.want)
		}
	}
}

func TestLedgersOfScansThatOverlappedAreJoined(t *testing.T) {
	t.Parallel()
	first, _ := report.Compare(nil, nil, seen("scan_1", "a"))
	base := seen("scan_1", "a")
	slow, _ := report.Compare(&base, &first, seen("scan_2", "a b c"))
	quick, _ := report.Compare(&base, &first, seen("scan_3", "d partial"))
	third := seen("scan_3", "d partial")
	joined := report.Join(&quick, slow)
	now, counts := report.Compare(&third, joined, seen("scan_4", "a b d e"))
	if got, want := classes(now), "a=persisting b=persisting c=resolved d=persisting e=new"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if want := (events.Compared{Base: "scan_3", New: 1, Persisting: 3, Resolved: 1}); counts != want {
		t.Errorf("%+v, want %+v", counts, want)
	}
	for _, w := range now.Weaknesses {
		if want := map[string]events.ScanID{"a.go": "scan_1", "b.go": "scan_2", "c.go": "scan_2", "d.go": "scan_3", "e.go": "scan_4"}[w.File]; w.FirstSeen != want {
			t.Errorf("%s was first seen by %s, want %s", w.File, w.FirstSeen, want)
		}
	}
	if got, want := classes(*report.Join(nil, slow, quick)), "a=persisting b=new c=new d=new"; got != want {
		t.Errorf("without a ledger of its own: %s, want %s", got, want)
	}
	if got := classes(quick); got != "a=unknown d=new" {
		t.Errorf("joining has changed the ledger: %s", got)
	}
}

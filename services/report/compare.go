package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"vega/events"
)

// Class is where a weakness stands between two scans.
type Class string

// The classes, in the order in which people read them. What a scan found is new, reopened or persisting; what it did not find is unknown or resolved.
const (
	ClassNew        Class = "new"        // never seen before
	ClassReopened   Class = "reopened"   // had been resolved, and is there again
	ClassPersisting Class = "persisting" // was there before, and still is
	ClassUnknown    Class = "unknown"    // was there before; whether it still is, the scan cannot say
	ClassResolved   Class = "resolved"   // was there before, and is gone
)

// Classes lists them in their order.
func Classes() []Class {
	return []Class{ClassNew, ClassReopened, ClassPersisting, ClassUnknown, ClassResolved}
}

// Found says that the scan found what is of this class.
func (c Class) Found() bool { return c == ClassNew || c == ClassReopened || c == ClassPersisting }

// Rank is 0 for new to 4 for resolved, and 5 for anything else.
func (c Class) Rank() int {
	for i, x := range Classes() {
		if c == x {
			return i
		}
	}
	return len(Classes())
}

const (
	// LedgerSchema is the number of a ledger's shape.
	LedgerSchema = 1
	// MaxWeaknesses bounds a ledger. Beyond it those that have been resolved for the longest are forgotten first, then those that have been unknown for the longest.
	MaxWeaknesses = 20_000
	// LedgerName is what a ledger is called as a stored object.
	LedgerName = "ledger.json"
)

// Ledger is every weakness that was ever seen in a repository, and where the last scan left it. It is sorted by fingerprint.
type Ledger struct {
	Schema     int           `json:"schema_version"`
	Scan       events.ScanID `json:"scan_id"` // the scan that left them so
	Weaknesses []Weakness    `json:"weaknesses"`
}

// Weakness is one line of a ledger: what a finding said when it was last seen, and what became of it.
type Weakness struct {
	Fingerprint events.Fingerprint `json:"fingerprint"`
	ID          events.FindingID   `json:"id"`
	Rule        string             `json:"rule"`
	Title       string             `json:"title"`
	Severity    events.Severity    `json:"severity"`
	File        string             `json:"file_path"`
	StartLine   int                `json:"start_line"`
	Class       Class              `json:"class"`
	FirstSeen   events.ScanID      `json:"first_seen_scan_id"`
	LastSeen    events.ScanID      `json:"last_seen_scan_id"` // the last scan that found it
	Since       events.ScanID      `json:"since_scan_id"`     // the scan in which it came to its class
	Age         int                `json:"age,omitempty"`     // scans after that one
}

// Join is a ledger with what others know and it does not: those of scans that overlapped with the one that left it. nil is a ledger without a line. Of two that know a weakness the one counts that has
// it found.
func Join(l *Ledger, others ...Ledger) *Ledger {
	out := Ledger{Schema: LedgerSchema}
	at := make(map[events.Fingerprint]int)
	if l != nil {
		out.Scan, out.Weaknesses = l.Scan, slices.Clone(l.Weaknesses)
	}
	for i, w := range out.Weaknesses {
		at[w.Fingerprint] = i
	}
	for _, o := range others {
		for _, w := range o.Weaknesses {
			i, known := at[w.Fingerprint]
			switch {
			case !known:
				at[w.Fingerprint] = len(out.Weaknesses)
				out.Weaknesses = append(out.Weaknesses, w)
			case w.Class.Found() && !out.Weaknesses[i].Class.Found():
				w.FirstSeen = out.Weaknesses[i].FirstSeen
				out.Weaknesses[i] = w
			}
		}
	}
	return &out
}

// Seen is one scan as a comparison needs it.
type Seen struct {
	Scan     events.ScanID
	Findings []events.Finding
	Coverage events.CoverageState
	Paths    []string // what was to be looked at, files and folders; empty means everything
	// Refuted are weaknesses that were claimed and that a review did not believe. The code is what it was, and somebody has changed his mind: that resolves nothing.
	Refuted []events.Fingerprint
}

// Compare says how now stands to what was known before. before is the ledger of the base scan, nil when none was recorded; base is the base scan itself, nil when
// there was none. A base without a ledger counts as one that found everything for the first time. A weakness is its fingerprint: order, lines and titles do not matter.
//
// What now did not find is resolved only if now could have found it, which takes complete coverage and a place among now's paths, and if nobody claimed it all the same and was refuted. The ledger keeps what was
// resolved earlier, and the counts, which are over all that the comparison saw, leave it out.
func Compare(base *Seen, before *Ledger, now Seen) (Ledger, events.Compared) {
	was := make(map[events.Fingerprint]Weakness)
	if before != nil {
		for _, w := range before.Weaknesses {
			was[w.Fingerprint] = w
		}
	}
	var from events.ScanID
	switch {
	case base != nil:
		from = base.Scan
		for f, found := range base.found() {
			if w, known := was[f]; !known || !w.Class.Found() { // its ledger does not say so, but the scan does
				w.Class, w.LastSeen, w.Since, w.Age = ClassPersisting, base.Scan, base.Scan, 0
				if !known {
					w.Class, w.FirstSeen = ClassNew, base.Scan
				}
				was[f] = w.as(found)
			}
		}
	case before != nil:
		from = before.Scan
	}

	l := Ledger{Schema: LedgerSchema, Scan: now.Scan, Weaknesses: make([]Weakness, 0, len(was)+len(now.Findings))}
	is := now.found()
	for f, found := range is {
		w, known := was[f]
		class := ClassPersisting
		switch {
		case !known:
			class, w.FirstSeen = ClassNew, now.Scan
		case w.Class == ClassResolved:
			class = ClassReopened
		}
		w.LastSeen = now.Scan
		l.Weaknesses = append(l.Weaknesses, w.as(found).move(class, now.Scan))
	}
	for f, w := range was {
		if _, found := is[f]; found {
			continue
		}
		class := ClassUnknown
		if w.Class == ClassResolved || now.Coverage == events.CoverageComplete && within(w.File, now.Paths) && !slices.Contains(now.Refuted, f) {
			class = ClassResolved
		}
		l.Weaknesses = append(l.Weaknesses, w.move(class, now.Scan))
	}
	slices.SortFunc(l.Weaknesses, func(a, b Weakness) int { return cmp.Compare(a.Fingerprint, b.Fingerprint) })
	counts := l.Count(from)
	l.bound(MaxWeaknesses)
	return l, counts
}

// Count sums up what the ledger's scan changed since base, the scan that it was compared with; empty when there was none.
func (l Ledger) Count(base events.ScanID) events.Compared {
	c := events.Compared{Base: base}
	for _, w := range l.Weaknesses {
		switch w.Class {
		case ClassNew:
			c.New++
		case ClassReopened:
			c.Reopened++
		case ClassPersisting:
			c.Persisting++
		case ClassUnknown:
			c.Unknown++
		case ClassResolved:
			if w.Since == l.Scan {
				c.Resolved++
			}
		}
	}
	return c
}

// Changes are the weaknesses that Count counts: all but those that an earlier scan had resolved. They are in the order of their classes, then worst first, then by place.
func (l Ledger) Changes() []Weakness {
	out := slices.DeleteFunc(slices.Clone(l.Weaknesses), func(w Weakness) bool { return w.Class == ClassResolved && w.Since != l.Scan })
	slices.SortFunc(out, CompareWeaknesses)
	return out
}

// CompareWeaknesses is the order of a comparison's list.
func CompareWeaknesses(a, b Weakness) int {
	return cmp.Or(
		cmp.Compare(a.Class.Rank(), b.Class.Rank()),
		cmp.Compare(a.Severity.Rank(), b.Severity.Rank()),
		cmp.Compare(a.File, b.File),
		cmp.Compare(a.StartLine, b.StartLine),
		cmp.Compare(a.Fingerprint, b.Fingerprint),
	)
}

// Encode writes the ledger as JSON: the same ledger is always the same bytes.
func (l Ledger) Encode() ([]byte, error) {
	b, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("write ledger: %w", err)
	}
	return append(b, '\n'), nil
}

// ParseLedger reads what Encode wrote. It returns an error for a ledger of another schema: a newer release has written it.
func ParseLedger(b []byte) (Ledger, error) {
	var l Ledger
	if err := json.Unmarshal(b, &l); err != nil {
		return Ledger{}, fmt.Errorf("read ledger: %w", err)
	}
	if l.Schema != LedgerSchema {
		return Ledger{}, fmt.Errorf("read ledger: schema %d, want %d", l.Schema, LedgerSchema)
	}
	return l, nil
}

// bound forgets what is beyond n lines.
func (l *Ledger) bound(n int) {
	over := len(l.Weaknesses) - n
	if over <= 0 {
		return
	}
	rank := func(w Weakness) int { // who goes first
		switch {
		case w.Class == ClassResolved:
			return 0
		case !w.Class.Found():
			return 1
		}
		return 2
	}
	order := slices.Clone(l.Weaknesses)
	slices.SortFunc(order, func(a, b Weakness) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(b.Age, a.Age), cmp.Compare(b.Severity.Rank(), a.Severity.Rank()), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	gone := make(map[events.Fingerprint]bool, over)
	for _, w := range order[:over] {
		gone[w.Fingerprint] = true
	}
	l.Weaknesses = slices.DeleteFunc(l.Weaknesses, func(w Weakness) bool { return gone[w.Fingerprint] })
}

// found are a scan's findings by fingerprint. Of several with the same one the first in the order of readers speaks.
func (s Seen) found() map[events.Fingerprint]events.Finding {
	out := make(map[events.Fingerprint]events.Finding, len(s.Findings))
	for _, f := range s.Findings {
		if have, twice := out[f.Fingerprint]; !twice || cmp.Or(Order(f, have), cmp.Compare(f.Title, have.Title)) < 0 {
			out[f.Fingerprint] = f
		}
	}
	return out
}

// as is w with what a finding says about it now.
func (w Weakness) as(f events.Finding) Weakness {
	w.Fingerprint, w.ID, w.Rule, w.Title, w.Severity, w.File, w.StartLine = f.Fingerprint, f.ID, f.Rule, f.Title, f.Severity, f.File, f.StartLine
	return w
}

// move is w as scan leaves it.
func (w Weakness) move(to Class, scan events.ScanID) Weakness {
	if w.Class == to {
		w.Age++
		return w
	}
	w.Class, w.Since, w.Age = to, scan, 0
	return w
}

// within says whether a file is one of the paths, or lies in one of them.
func within(file string, paths []string) bool {
	return len(paths) == 0 || slices.ContainsFunc(paths, func(p string) bool {
		p = path.Clean(p)
		return p == "." || file == p || strings.HasPrefix(file, p+"/")
	})
}

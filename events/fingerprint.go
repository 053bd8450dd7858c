package events

import (
	"crypto/sha256"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
)

// Fingerprint is a weakness's identity over scans: "fp1:" and 32 hex digits. It knows the rule or CWE, the file and the
// enclosing symbol or, without one, the normalised snippet; it knows no line number, no title and no temporary path, so a
// finding keeps it when code above it moves or a model words it differently.
type Fingerprint string

// NewFingerprint computes it. rule is the detector's stable name; where there is none the sorted cwe stands in. file is
// slash-separated and relative. Without a symbol the snippet decides, with all white space removed.
func NewFingerprint(rule string, cwe []string, file, symbol, snippet string) Fingerprint {
	if rule == "" {
		c := slices.Clone(cwe)
		slices.Sort(c)
		rule = strings.Join(slices.Compact(c), ",")
	}
	place := "symbol:" + symbol
	if symbol == "" {
		place = "snippet:" + strings.Map(func(r rune) rune {
			if unicode.IsSpace(r) {
				return -1
			}
			return r
		}, snippet)
	}
	h := sha256.New()
	field(h, rule)
	field(h, path.Clean(strings.TrimPrefix(file, "/")))
	field(h, place)
	return Fingerprint(fmt.Sprintf("fp1:%x", h.Sum(nil)[:16]))
}

package engine

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/viper"
	"github.com/zricethezav/gitleaks/v8/config"
	"github.com/zricethezav/gitleaks/v8/detect"
)

// gitleaks looks at a text as a whole and is quadratic in its matches and lines, so a file is shown to it in windows. A window
// owns the secrets that begin in its core and reads on so that none of them is cut; what begins in the lead only gives context.
// A secret longer than the overlap that begins at the end of a core is missed: no key is that long.
const (
	windowCore    = 96 << 10
	windowOverlap = 16 << 10
	windowLead    = 512

	maxMatchesPerFile = 200
)

// The rule for values of no known form is four fifths of the cost: its keywords are in every program, its pattern is slow. It is
// shown only pieces around words that could be such a value: at least genericLeast characters with a digit, and one of
// its keywords at most genericReach bytes before the end of the word. What it finds is the same, at a sixth of the time.
const (
	genericLeast = 10
	genericMost  = 4 << 10 // no credential is that long
	genericReach = 120
	genericPiece = 512 // pieces that touch are joined up to this: the library looks at a whole line again for every match in it
)

// detector finds credentials with gitleaks and its default rules. It is safe for concurrent use.
type detector struct {
	rules   config.Config    // all of them
	named   *detect.Detector // the rules that know a form
	generic *detect.Detector // ruleGeneric alone
}

// match is a credential in a file.
type match struct {
	rule        string
	description string
	entropy     float32
	span             // the credential itself, not what names it: what is masked
	shown       span // what a reader is pointed at: the credential, or the block around it
	wholeFile   bool // the file as such is the finding; no spans
}

// theDetector is the one detector of a process, compiled at the first scan: it never changes, takes 30 ms and some megabytes.
var theDetector = sync.OnceValues(newDetector)

// newDetector compiles the default rules. In-source comments that switch gitleaks off are not obeyed: the source does not
// decide what is said about it.
func newDetector() (*detector, error) {
	v := viper.New() // the library's own constructor goes through viper's global
	v.SetConfigType("toml")
	if err := v.ReadConfig(strings.NewReader(config.DefaultConfig)); err != nil {
		return nil, fmt.Errorf("read secret rules: %w", err)
	}
	var vc config.ViperConfig
	if err := v.Unmarshal(&vc); err != nil {
		return nil, fmt.Errorf("read secret rules: %w", err)
	}
	rules, err := vc.Translate()
	if err != nil {
		return nil, fmt.Errorf("compile secret rules: %w", err)
	}
	only := func(keep func(rule string) bool) *detect.Detector {
		some := rules
		some.Rules = make(map[string]config.Rule)
		some.Keywords = make(map[string]struct{})
		for id, r := range rules.Rules {
			if keep(id) {
				some.Rules[id] = r
				for _, k := range r.Keywords {
					some.Keywords[k] = struct{}{}
				}
			}
		}
		d := detect.NewDetector(some)
		d.IgnoreGitleaksAllow = true
		return d
	}
	return &detector{
		rules:   rules,
		named:   only(func(rule string) bool { return rule != ruleGeneric }),
		generic: only(func(rule string) bool { return rule == ruleGeneric }),
	}, nil
}

// leftOut says whether the rules do not look into a file of this name: lock files, media, vendored libraries.
func (d *detector) leftOut(path string) bool {
	return slices.ContainsFunc(d.rules.Allowlists, func(a *config.Allowlist) bool { return a.PathAllowed(path) })
}

// byName finds what is a finding by its name alone, such as a PKCS #12 file.
func (d *detector) byName(path string) (found []match) {
	for _, r := range d.rules.Rules {
		if r.Path != nil && r.Regex == nil && r.Path.MatchString(path) {
			found = append(found, match{rule: r.RuleID, description: r.Description, wholeFile: true})
		}
	}
	return found
}

// find returns the credentials in content in the order of their places, at most maxMatchesPerFile; more says that there are
// more. It returns early when ctx ends, with what it has.
func (d *detector) find(ctx context.Context, path string, content []byte) (found []match, more bool) {
	for core := 0; core < len(content) && ctx.Err() == nil && len(found) <= maxMatchesPerFile; {
		end := coreEnd(content, core)
		from, to := max(0, core-windowLead), min(len(content), end+windowOverlap)
		for _, m := range detectIn(ctx, d.named, path, content, from, to) {
			if m.Off >= core && m.Off < end {
				found = append(found, m)
			}
		}
		core = end
	}
	for from, to := range d.genericPieces(content) {
		if ctx.Err() != nil || len(found) > 2*maxMatchesPerFile {
			break
		}
		found = append(found, detectIn(ctx, d.generic, "", content, from, to)...) // its paths were asked already: leftOut
	}
	slices.SortFunc(found, func(a, b match) int {
		return cmp.Or(cmp.Compare(a.Off, b.Off), cmp.Compare(a.rule, b.rule))
	})
	found = oneRulePerPlace(found)
	return found[:min(len(found), maxMatchesPerFile)], len(found) > maxMatchesPerFile
}

// detectIn runs one set of rules over content[from:to] and says where in content the credentials are.
func detectIn(ctx context.Context, rules *detect.Detector, path string, content []byte, from, to int) (found []match) {
	window := string(content[from:to])
	lines := lineStarts(window)
	seen := make(map[match]bool)
	//nolint:staticcheck // deprecated for a release of the library that does not exist yet; nothing else is taken
	text := detect.Fragment{Raw: window, FilePath: path}
	for _, f := range rules.DetectContext(ctx, text) {
		if f.Secret == "" || strings.HasPrefix(f.Match, "file detected: ") {
			continue
		}
		off, ok := locate(window, lines, f.StartLine, f.Match, f.Secret)
		if !ok {
			continue
		}
		m := match{rule: f.RuleID, description: f.Description, entropy: f.Entropy, span: span{from + off, len(f.Secret)}}
		m.shown = m.span
		if m.rule == rulePrivateKey {
			m.span = keyBody(content, m.span)
		}
		if !seen[m] {
			seen[m] = true
			found = append(found, m)
		}
	}
	return found
}

// genericPieces yields the parts of content that the generic rule has to see, in order. Each begins early enough to hold what names
// its first word, so two may overlap.
func (d *detector) genericPieces(content []byte) iter.Seq2[int, int] {
	return func(yield func(from, to int) bool) {
		from, to := 0, 0 // the piece that is growing
		for i := 0; i < len(content); {
			if !valueByte[content[i]] {
				i++
				continue
			}
			start, digit := i, false
			for ; i < len(content) && valueByte[content[i]]; i++ {
				digit = digit || content[i] >= '0' && content[i] <= '9'
			}
			if !digit || i-start < genericLeast || i-start > genericMost || !d.nearKeyword(content[max(0, start-genericReach):min(i, start+genericReach)]) {
				continue
			}
			begin, end := max(0, start-genericReach), min(len(content), i+3) // the pattern wants to see what ends the value
			if begin <= to && end-from <= genericPiece {
				to = end
				continue
			}
			if to > from && !yield(from, to) {
				return
			}
			from, to = begin, end
		}
		if to > from {
			yield(from, to)
		}
	}
}

// nearKeyword says whether one of the generic rule's keywords is in context.
func (d *detector) nearKeyword(context []byte) bool {
	lower := strings.ToLower(string(context))
	return slices.ContainsFunc(d.rules.Rules[ruleGeneric].Keywords, func(k string) bool { return strings.Contains(lower, k) })
}

// valueByte are the bytes that the generic rule takes a value to consist of.
var valueByte = func() (in [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.=+/-") {
		in[c] = true
	}
	return in
}()

// coreEnd is where the core that begins at core ends: after a line feed where there is one in its second half.
func coreEnd(content []byte, core int) int {
	if len(content)-core <= windowCore {
		return len(content)
	}
	end := core + windowCore
	if n := bytes.LastIndexByte(content[core+windowCore/2:end], '\n'); n >= 0 {
		return core + windowCore/2 + n + 1
	}
	return end
}

// lineStarts is the offset of every line of s.
func lineStarts(s string) []int {
	starts := []int{0}
	for i := range len(s) {
		if s[i] == '\n' {
			starts = append(starts, i+1)
		}
	}
	return starts
}

// oneRulePerPlace keeps one of the matches that overlap: the rule that knows the form of the credential before one that knows
// only what stands around it. found is sorted.
func oneRulePerPlace(found []match) (kept []match) {
	for _, m := range found {
		last := len(kept) - 1
		switch {
		case last < 0 || kept[last].end() <= m.Off:
			kept = append(kept, m)
		case knowsOnlyPlace(kept[last].rule) && !knowsOnlyPlace(m.rule):
			kept[last] = m
		}
	}
	return kept
}

func knowsOnlyPlace(rule string) bool {
	return rule == ruleGeneric || strings.HasPrefix(rule, "curl-auth-") || rule == "kubernetes-secret-yaml"
}

// locate is where secret lies in window. gitleaks counts lines from 0, puts a match that begins with a line feed on the line
// before, and gives columns that mean different things, so only its line is believed, and that as the place to begin
// looking.
func locate(window string, starts []int, line int, matched, secret string) (off int, ok bool) {
	at := starts[min(max(line, 0), len(starts)-1)]
	m := max(strings.Index(window[at:], matched), 0)
	s := strings.Index(window[at+m:], secret)
	return at + m + s, s >= 0
}

const rulePrivateKey = "private-key"

// keyBody is the span of what is secret in a PEM or PGP block: what stands between its first and last line.
func keyBody(content []byte, s span) span {
	block := content[s.Off:s.end()]
	dashes := []byte("-----")
	open := bytes.Index(block[min(len(dashes), len(block)):], dashes)
	stop := bytes.LastIndex(block, []byte("-----END"))
	if open < 0 || stop < 0 {
		return s
	}
	begin := len(dashes) + open + len(dashes)
	for begin < stop && isSpace(block[begin]) {
		begin++
	}
	for stop > begin && isSpace(block[stop-1]) {
		stop--
	}
	if begin >= stop {
		return s
	}
	return span{s.Off + begin, stop - begin}
}

func isSpace(b byte) bool { return b == ' ' || b == '\n' || b == '\r' || b == '\t' }

package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"vega/events"
	"vega/services/report"
)

// verified is the stored result of verify: what is really there, and what was refused and why.
type verified struct {
	candidates
	Refused []refusal `json:"refused"` // at most maxRefusals
	// Refuted are the claims that a review did not believe.
	Refuted []events.Fingerprint `json:"refuted,omitempty"`
}

// refusal is a candidate that is not shown as a finding.
type refusal struct {
	Rule string `json:"rule"`
	Path string `json:"path"`
	Line int    `json:"line"`
	Why  string `json:"why"`
}

const (
	resultVerified = "verified.json"
	maxRefusals    = 200
)

// verify holds every candidate against the source: the file is in it, the lines are in the file, the quote is in the lines.
// What does not hold is counted as rejected. What cannot be known, because it lies beyond the analysed part of a large file, is named in the coverage.
func (r *run) verify(ctx context.Context) (result, error) {
	var out verified
	rejected, unknown := 0, 0
	missed := gaps{stage: stageVerify}
	for _, stage := range []string{stageSecrets, stageAudit} {
		var in candidates
		if err := r.result(ctx, stage, &in); err != nil {
			return result{}, err
		}
		for _, f := range in.Files {
			if ctx.Err() != nil {
				return result{}, ctx.Err()
			}
			kept := f
			kept.Candidates = nil
			content, whole, err := r.contentOf(f.Path)
			lines := indexLines(content)
			for _, c := range f.Candidates {
				why := err
				if why == nil {
					why = r.check(f.Path, content, lines, f.Masked, c)
				}
				if why == nil {
					if c.Stage == stageAudit {
						c.Validation = events.StaticReviewed
					}
					kept.Candidates = append(kept.Candidates, c)
					continue
				}
				if err == nil && !whole && c.EndLine >= len(lines) {
					unknown++
					missed.add(f.Path, codeTooLarge, "a claim about line %d (%s: %s) could not be checked: at most %d bytes of a file are analysed", c.StartLine, c.Rule, c.Title, r.opt.MaxFileBytes)
					continue
				}
				rejected++
				if len(out.Refused) < maxRefusals {
					out.Refused = append(out.Refused, refusal{c.Rule, cleanText(c.File), c.StartLine, cleanText(why.Error())})
				}
				r.log(ctx, fmt.Sprintf("rejected %s at %s:%d: %v", c.Rule, c.File, c.StartLine, why))
			}
			if len(kept.Candidates) > 0 {
				out.Files = append(out.Files, kept)
			}
		}
	}
	detail := fmt.Sprintf("%d places confirmed, %d rejected", out.count(), rejected)
	if unknown > 0 {
		detail += fmt.Sprintf(", %d could not be checked", unknown)
	}
	object, err := r.put(ctx, resultVerified, out)
	return result{
		status:   events.StageDone,
		detail:   detail,
		object:   object,
		rejected: rejected,
		reasons:  missed.list(),
	}, err
}

// contentOf is the analysed part of a file; whole says that this is all of it. A file that is not in the source is errNotInTree.
func (r *run) contentOf(path string) (content []byte, whole bool, err error) {
	content, whole, err = r.tree.head(path, r.opt.MaxFileBytes)
	if err != nil && !errors.Is(err, errNotInTree) {
		err = errors.New("the file could not be read")
	}
	return content, whole, err
}

// check says why a candidate is not true, or nil.
func (r *run) check(path string, content []byte, lines lineIndex, masked []span, c candidate) error {
	if c.File != path {
		return errors.New("it names another file")
	}
	if c.WholeFile {
		return nil
	}
	if c.StartLine < 1 || c.EndLine < c.StartLine || c.EndLine > len(lines) {
		return fmt.Errorf("the file has no lines %d to %d", c.StartLine, c.EndLine)
	}
	if strings.TrimSpace(c.Snippet) == "" {
		return errors.New("it quotes nothing")
	}
	if len(masked) == 0 && c.Stage != stageAudit {
		from, _ := lines.bounds(content, c.StartLine)
		_, to := lines.bounds(content, c.EndLine)
		if !strings.Contains(normalised(string(content[from:to])), normalised(c.Snippet)) {
			return errors.New("the quote is not in those lines")
		}
		return nil
	}
	if c.Shown.Len == 0 {
		return errors.New("the quote is not in those lines")
	}
	for _, s := range append([]span{c.Shown}, masked...) {
		if s.Off < 0 || s.Len <= 0 || s.Off > len(content) || s.Len > len(content)-s.Off {
			return errors.New("the masked place is not in the file")
		}
	}
	if lines.at(c.Shown.Off) != c.StartLine || lines.at(c.Shown.end()-1) != c.EndLine ||
		r.showAgain(content, lines, c, masked) != c.Snippet {
		return errors.New("the masked quote is not in those lines")
	}
	return nil
}

// showAgain makes the snippet of a candidate from the file.
func (r *run) showAgain(content []byte, lines lineIndex, c candidate, masked []span) string {
	if c.Stage == stageAudit {
		return r.masker.excerpt(content, lines, c.Shown, masked)
	}
	return r.masker.snippet(content, lines, c.Shown, masked)
}

// normalised is a quote without the differences that do not matter: indentation, blanks at line ends, kinds of line ends.
func normalised(s string) string {
	return strings.Join(strings.Fields(report.Printable(s)), " ")
}

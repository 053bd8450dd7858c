package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"vega/events"
	"vega/services/engine/pack"
	"vega/services/report"
)

const resultReviewed = "reviewed.json"

// review is what one claim's independent look stores.
type review struct {
	Verdict        string          `json:"verdict"`
	Reason         string          `json:"reason"`
	Checked        []string        `json:"checked"`
	Severity       events.Severity `json:"severity"`
	SeverityReason string          `json:"severity_reason"`
}

// refute has every claim of the audit that verify confirmed looked at once more, by an agent that knows the claim alone and is to prove it wrong. What it proves wrong is rejected;
// what stands is validated by that. Places with the same fingerprint are one claim. Claims that nobody looked at stay as they are, and the coverage says so.
func (r *run) refute(ctx context.Context, b brief) (result, error) {
	a := b.agent
	var in verified
	if err := r.result(ctx, stageVerify, &in); err != nil {
		return result{}, err
	}
	groups := claimGroups(in.candidates)
	if len(groups) == 0 {
		return result{status: events.StageDone, detail: "there are no claims to review"}, nil
	}
	var pieces []piece
	for _, g := range groups {
		c := g.claim
		unit := strings.TrimPrefix(string(g.fingerprint), "fp1:")[:16]
		pieces = append(pieces, piece{unit: unit, title: fmt.Sprintf("%s at %s:%d", c.Rule, c.File, c.StartLine), ask: func(ctx context.Context, pace pacer) (unitResult, error) {
			prompt, err := r.pack.RefutePrompt(pack.RefuteInput{Profile: b.profile, Claim: claimOf(c), Guides: r.pack.Guides(factsOf(b.inv, b.code, []string{c.File}))})
			if err != nil {
				return unitResult{}, err
			}
			return r.refuteOne(ctx, a, question{stage: stageRefute, unit: unit, name: pack.Refute, prompt: prompt, pace: pace})
		}})
		groups[len(pieces)-1].unit = unit
	}
	left, why, err := r.eachPiece(ctx, a, &purse{a: a, useful: 2}, stageRefute, pieces)
	if err != nil {
		return result{}, err
	}
	return r.refuteResult(ctx, in, groups, len(left), why)
}

// claimGroup is the places of one weakness.
type claimGroup struct {
	fingerprint events.Fingerprint
	claim       candidate // the worst of them
	unit        string
}

// claimGroups are the audit's candidates by fingerprint, the worst first.
func claimGroups(in candidates) []claimGroup {
	by := map[events.Fingerprint]candidate{}
	for _, f := range in.Files {
		for _, c := range f.Candidates {
			if c.Stage != stageAudit {
				continue
			}
			fp := c.fingerprint()
			if was, ok := by[fp]; !ok || report.Order(c.Finding, was.Finding) < 0 {
				by[fp] = c
			}
		}
	}
	var out []claimGroup
	for fp, c := range by {
		out = append(out, claimGroup{fingerprint: fp, claim: c})
	}
	slices.SortFunc(out, func(a, b claimGroup) int {
		return cmp.Or(report.Order(a.claim.Finding, b.claim.Finding), cmp.Compare(a.fingerprint, b.fingerprint))
	})
	return out
}

func claimOf(c candidate) pack.Claim {
	p := pack.Claim{Rule: c.Rule, Title: c.Title, Severity: string(c.Severity), Description: c.Description, File: c.File, StartLine: c.StartLine, EndLine: c.EndLine, Quote: c.Snippet, Evidence: c.Evidence}
	if c.Argument != nil {
		p.AttackPath = c.Argument.AttackPath
		p.Description, _, _ = strings.Cut(c.Description, "\n\nAttack path: ")
	}
	return p
}

func (r *run) refuteOne(ctx context.Context, a *agent, q question) (unitResult, error) {
	rep, err := a.ask(ctx, q)
	var out unitResult
	if rep.transcript != nil {
		out.artifacts = []events.Object{*rep.transcript}
	}
	if err != nil {
		return out, err
	}
	var answer pack.RefuteAnswer
	if err := json.Unmarshal(rep.answer, &answer); err != nil {
		return out, fmt.Errorf("read the review: %w", err)
	}
	text := func(s string) string { return clipText(a.redact.text(ctx, strings.TrimSpace(s)), maxShort) }
	if rep.looked == 0 {
		answer.Verdict, answer.Reason = pack.Uncertain, "the reviewer answered without having read anything: "+answer.Reason
	}
	v := review{Verdict: answer.Verdict, Reason: text(answer.Reason), Checked: []string{}, Severity: events.Severity(answer.Severity), SeverityReason: text(answer.SeverityReason)}
	for _, place := range answer.Checked {
		if r.isThere(place) {
			v.Checked = append(v.Checked, text(r.inTree(place)))
		}
	}
	if n := len(answer.Checked) - len(v.Checked); n > 0 {
		r.log(ctx, fmt.Sprintf("refute %s: %d of %d places that the reviewer names are not in the source", q.unit, n, len(answer.Checked)))
		if len(v.Checked) == 0 {
			v.Verdict, v.Reason = pack.Uncertain, clipText("no place that the reviewer names is in the source: "+v.Reason, maxShort)
		}
	}
	out.object, err = r.put(ctx, "review-"+q.unit+".json", v)
	out.detail = v.Verdict + ": " + v.Reason
	return out, err
}

// refuteResult applies the verdicts.
func (r *run) refuteResult(ctx context.Context, in verified, groups []claimGroup, left int, why gap) (result, error) {
	verdicts := map[events.Fingerprint]review{}
	res := result{status: events.StageDone}
	failed := 0
	failure := gap{codeFailed, ""}
	for _, g := range groups {
		u, recorded := r.units[unitName{stageRefute, g.unit}]
		if !recorded {
			continue
		}
		res.artifacts = append(res.artifacts, u.Artifacts...)
		if u.Status == events.StageFailed {
			failed++
			failure.why = u.Detail
			if n := len(u.Reasons); n > 0 {
				failure.code = u.Reasons[n-1].Code
			}
			continue
		}
		var v review
		if err := r.read(ctx, u.Result, &v); err != nil {
			return result{}, err
		}
		verdicts[g.fingerprint] = v
	}
	out := verified{Refused: in.Refused}
	for _, g := range groups { // in their order, which is always the same
		if verdicts[g.fingerprint].Verdict == pack.Refuted {
			out.Refuted = append(out.Refuted, g.fingerprint)
		}
	}
	counts := map[string]int{}
	for _, v := range verdicts {
		counts[v.Verdict]++
	}
	for _, f := range in.Files {
		kept := f
		kept.Candidates = nil
		for _, c := range f.Candidates {
			v, reviewed := verdicts[c.fingerprint()]
			if c.Stage != stageAudit || !reviewed {
				kept.Candidates = append(kept.Candidates, c)
				continue
			}
			if v.Verdict == pack.Refuted {
				res.rejected++
				if len(out.Refused) < maxRefusals {
					out.Refused = append(out.Refused, refusal{c.Rule, cleanText(c.File), c.StartLine, cleanText("refuted: " + v.Reason)})
				}
				r.log(ctx, fmt.Sprintf("refuted %s at %s:%d: %s", c.Rule, c.File, c.StartLine, v.Reason))
				continue
			}
			kept.Candidates = append(kept.Candidates, v.apply(c))
		}
		if len(kept.Candidates) > 0 {
			out.Files = append(out.Files, kept)
		}
	}
	res.detail = fmt.Sprintf("%d claims reviewed: %d stand, %d refuted, %d uncertain", len(verdicts), counts[pack.Stands], counts[pack.Refuted], counts[pack.Uncertain])
	if left > 0 {
		res.reasons = append(res.reasons, events.CoverageReason{Stage: stageRefute, Code: why.code, Message: cleanText(fmt.Sprintf("%d claims were not reviewed independently: %s", left, why.why))})
	}
	if failed > 0 {
		res.reasons = append(res.reasons, events.CoverageReason{Stage: stageRefute, Code: failure.code, Message: cleanText(fmt.Sprintf("the review of %d claims failed: %s", failed, failure.why))})
		if len(verdicts) == 0 {
			res.status = events.StageFailed
		}
	}
	var err error
	res.object, err = r.put(ctx, resultReviewed, out)
	return res, err
}

// apply is a claim that was reviewed and not refuted.
func (v review) apply(c candidate) candidate {
	note := "Independent review: " + v.Reason
	if len(v.Checked) > 0 {
		note += " Checked: " + strings.Join(v.Checked[:min(len(v.Checked), 10)], ", ") + "."
	}
	if v.Verdict == pack.Stands {
		c.Validation = events.IndependentlyReviewed
	} else {
		c.Confidence = events.ConfidenceLow
		note = "An independent review could not decide: " + v.Reason
	}
	if v.Severity != "" && v.Severity != c.Severity && v.Severity.Rank() < len(events.Severities()) {
		note += fmt.Sprintf(" Severity %s instead of %s: %s", v.Severity, c.Severity, v.SeverityReason)
		c.Severity = v.Severity
	}
	c.Evidence = clipText(strings.TrimSpace(c.Evidence+"\n\n"+note), 2*maxShort)
	return c
}

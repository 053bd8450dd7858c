package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"vega/events"
	"vega/services/engine/pack"
)

const (
	resultAudit = "audit.json"
	// maxFindingsPerComponent is what one audit is asked for at most.
	maxFindingsPerComponent = 40
	// reviewPart of what is left of the budget when the audit begins is kept for the reviews: one part in so many.
	reviewPart = 5
)

// componentResult is what one component's audit stores.
type componentResult struct {
	candidates
	Component   string         `json:"component"`
	Examined    []string       `json:"examined"`
	NotExamined []pack.LeftOut `json:"not_examined"`
	Summary     string         `json:"summary"`
	Dropped     []string       `json:"dropped,omitempty"` // claims that could not be accepted, and why
}

// auditResult is what the stage stores: the candidates of all components, and what was said about each.
type auditResult struct {
	candidates
	Components []componentSummary `json:"components"`
}

type componentSummary struct {
	ID       string   `json:"id"`
	Title    string   `json:"title"`
	Paths    []string `json:"paths"`
	Status   string   `json:"status"` // completed, failed, not_audited
	Detail   string   `json:"detail"`
	Examined int      `json:"examined_files"`
	Summary  string   `json:"summary,omitempty"`
}

// audit has the components of the plan looked at, a few at once, each by an agent of its own. Components that were not audited, or only in part, are named in the coverage.
func (r *run) audit(ctx context.Context, b brief) (result, error) {
	a := b.agent
	var p plan
	if err := r.result(ctx, stagePlan, &p); err != nil {
		return result{}, err
	}
	switch {
	case r.done[stagePlan].Result == nil:
		why, code := "there is no plan to audit by: "+r.done[stagePlan].Detail, codeFailed
		if reasons := r.done[stagePlan].Reasons; len(reasons) > 0 {
			code = reasons[0].Code
		}
		return result{status: events.StageFailed, detail: cleanText(why), reasons: []events.CoverageReason{{Stage: stageAudit, Code: code, Message: cleanText(why)}}}, nil
	case len(p.Components) == 0:
		return result{status: events.StageDone, detail: "nothing to audit"}, nil
	}
	masked, err := r.maskedPlaces(ctx)
	if err != nil {
		return result{}, err
	}
	var pieces []piece
	for i, c := range p.Components {
		var others []string
		for j, o := range p.Components {
			if j != i {
				others = append(others, o.Title)
			}
		}
		pieces = append(pieces, piece{unit: c.ID, title: c.Title, ask: func(ctx context.Context, pace pacer) (unitResult, error) {
			prompt, err := r.pack.AuditPrompt(pack.AuditInput{
				Subject: r.subject(b.inv), Profile: b.profile, Component: c, Others: others, Guides: r.pack.Guides(factsOf(b.inv, b.code, c.Paths)), MaxFindings: maxFindingsPerComponent,
			})
			if err != nil {
				return unitResult{}, err
			}
			return r.auditOne(ctx, a, c, question{stage: stageAudit, unit: c.ID, name: pack.Audit, prompt: prompt, pace: pace}, b.code, masked)
		}})
	}
	left, why, err := r.eachPiece(ctx, a, &purse{a: a, keep: reviewPart, useful: 4}, stageAudit, pieces)
	if err != nil {
		return result{}, err
	}
	return r.auditResult(ctx, p, left, why)
}

// auditOne asks about one component and keeps what was answered, as candidates.
func (r *run) auditOne(ctx context.Context, a *agent, c pack.Component, q question, code []codeFile, masked map[string][]span) (unitResult, error) {
	rep, err := a.ask(ctx, q)
	var out unitResult
	if rep.transcript != nil {
		out.artifacts = []events.Object{*rep.transcript}
	}
	if err != nil {
		return out, err
	}
	if rep.looked == 0 {
		// An answer about code that nobody has read would be shown as a clean audit.
		return out, errors.New("the agent answered without having read anything" + a.sandboxHint)
	}
	var answer pack.AuditAnswer
	if err := json.Unmarshal(rep.answer, &answer); err != nil {
		return out, fmt.Errorf("read the audit: %w", err)
	}
	answer.Findings = union(answer.Findings, rep.first)
	res := componentResult{Component: c.ID, Summary: a.redact.text(ctx, answer.Summary), Examined: []string{}, NotExamined: []pack.LeftOut{}}
	for _, name := range answer.Examined {
		if name = r.inTree(name); r.holds(name) {
			res.Examined = append(res.Examined, name)
		}
	}
	if rep.finished != "" {
		out.reasons = append(out.reasons, events.CoverageReason{Stage: stageAudit, Code: codeOfFinish(rep.finished),
			Message: cleanText(fmt.Sprintf("component %q (%s) was audited only in part: %s", c.Title, strings.Join(c.Paths, ", "), rep.finished))})
	}
	lost, example := 0, ""
	for _, what := range rep.taken {
		what = cleanText(a.redact.text(ctx, what))
		res.Dropped = append(res.Dropped, what)
		r.log(ctx, fmt.Sprintf("audit %s: not accepted: %s", c.ID, what))
		if strings.HasPrefix(what, "findings[") { // of the lists of files, what is missing is not looked at
			lost, example = lost+1, cmp.Or(example, what)
		}
	}
	if lost > 0 {
		out.reasons = append(out.reasons, events.CoverageReason{Stage: stageAudit, Code: codeFailed,
			Message: cleanText(fmt.Sprintf("%s: %d claims could not be accepted, also when the model was asked again: %s", c.Title, lost, example))})
	}
	if n := rep.claims - len(answer.Findings) - lost; n > 0 {
		res.Dropped = append(res.Dropped, fmt.Sprintf("%d claims of the first answer are not in the repaired one", n))
		out.reasons = append(out.reasons, events.CoverageReason{Stage: stageAudit, Code: codeLimit,
			Message: cleanText(fmt.Sprintf("%s: %d claims of the model's first answer, which was not in the required form, are not in the one that was accepted", c.Title, n))})
	}
	for _, l := range answer.NotExamined {
		if l.Path = r.inTree(l.Path); !r.holds(l.Path) {
			continue
		}
		l.Reason = a.redact.text(ctx, l.Reason)
		res.NotExamined = append(res.NotExamined, l)
		if rep.finished == "" {
			out.reasons = append(out.reasons, events.CoverageReason{Stage: stageAudit, Path: cleanText(l.Path), Code: codeSkipped, Message: cleanText(fmt.Sprintf("%s: not examined: %s", c.Title, l.Reason))})
		}
	}
	out.reasons = append(out.reasons, r.notLookedAt(c, code, res)...)
	res.Files = r.claims(ctx, a, answer.Findings, masked)
	out.object, err = r.put(ctx, "audit-"+c.ID+".json", res)
	if err != nil {
		return out, err
	}
	out.reasons = out.reasons[:min(len(out.reasons), maxReasons)]
	out.detail = fmt.Sprintf("%d claims, %d files examined", res.count(), len(res.Examined))
	if n := len(res.Dropped); n > 0 {
		out.detail += fmt.Sprintf(", %d not accepted", n)
	}
	if rep.finished != "" {
		out.detail += "; cut short: " + rep.finished
	}
	return out, nil
}

// notLookedAt names the code of a component that its audit says neither to have examined nor why not.
func (r *run) notLookedAt(c pack.Component, code []codeFile, res componentResult) []events.CoverageReason {
	missed := gaps{stage: stageAudit}
	for _, f := range code {
		if !within(f.path, c.Paths) || slices.ContainsFunc(res.Examined, func(p string) bool { return within(f.path, []string{p}) }) ||
			slices.ContainsFunc(res.NotExamined, func(l pack.LeftOut) bool { return within(f.path, []string{l.Path}) }) {
			continue
		}
		missed.add(f.path, codeSkipped, "%s: the audit does not say that it was examined", c.Title)
	}
	return missed.list()
}

// union adds to findings what an earlier answer had at other places.
func union(findings []pack.AuditFinding, earlier []byte) []pack.AuditFinding {
	var first pack.AuditAnswer
	if len(earlier) == 0 || json.Unmarshal(earlier, &first) != nil {
		return findings
	}
	for _, f := range first.Findings {
		if !slices.ContainsFunc(findings, func(g pack.AuditFinding) bool {
			return g.Rule == f.Rule && g.File == f.File && g.StartLine == f.StartLine
		}) {
			findings = append(findings, f)
		}
	}
	return findings
}

// codeOfFinish tells the end of a budget from that of time.
func codeOfFinish(why string) string {
	if strings.Contains(why, "budget") {
		return codeCap
	}
	return codeTimedOut
}

// auditResult puts the components' results together, in the plan's order.
func (r *run) auditResult(ctx context.Context, p plan, left []piece, why gap) (result, error) {
	var out auditResult
	res := result{status: events.StageDone}
	var audited, failed int
	for _, c := range p.Components {
		s := componentSummary{ID: c.ID, Title: c.Title, Paths: c.Paths, Status: "not_audited", Detail: why.why}
		u, recorded := r.units[unitName{stageAudit, c.ID}]
		switch {
		case !recorded:
			if !slices.ContainsFunc(left, func(x piece) bool { return x.unit == c.ID }) {
				return result{}, fmt.Errorf("component %s was neither audited nor left", c.ID) // a defect of ours
			}
			res.reasons = append(res.reasons, events.CoverageReason{Stage: stageAudit, Code: why.code,
				Message: cleanText(fmt.Sprintf("component %q (%s) was not audited: %s", c.Title, strings.Join(c.Paths, ", "), why.why))})
		case u.Status == events.StageFailed:
			failed++
			s.Status, s.Detail = "failed", u.Detail
			res.artifacts = append(res.artifacts, u.Artifacts...)
			code := codeFailed
			if len(u.Reasons) > 0 {
				code = u.Reasons[len(u.Reasons)-1].Code
			}
			res.reasons = append(res.reasons, events.CoverageReason{Stage: stageAudit, Code: code,
				Message: cleanText(fmt.Sprintf("component %q (%s) was not audited: %s", c.Title, strings.Join(c.Paths, ", "), u.Detail))})
		default:
			var one componentResult
			if err := r.read(ctx, u.Result, &one); err != nil {
				return result{}, err
			}
			audited++
			out.Files = append(out.Files, one.Files...)
			s.Status, s.Detail, s.Examined, s.Summary = "completed", u.Detail, len(one.Examined), one.Summary
			res.artifacts = append(res.artifacts, u.Artifacts...)
			res.reasons = append(res.reasons, u.Reasons...)
		}
		out.Components = append(out.Components, s)
	}
	res.detail = fmt.Sprintf("%d of %d components audited, %d claims to verify", audited, len(p.Components), out.count())
	if audited == 0 {
		res.status = events.StageFailed
	}
	if over := len(res.reasons) - 2*maxReasons; over > 0 {
		res.reasons = append(res.reasons[:2*maxReasons:2*maxReasons], events.CoverageReason{Stage: stageAudit, Code: codeLimit, Message: fmt.Sprintf("%d more reasons", over)})
	}
	var err error
	res.object, err = r.put(ctx, resultAudit, out)
	if err == nil {
		res.artifacts = append(res.artifacts, *res.object)
	}
	return res, err
}

// maskedPlaces are the places of credentials by file, as the secrets stage found them.
func (r *run) maskedPlaces(ctx context.Context) (map[string][]span, error) {
	var found secretsResult
	if err := r.result(ctx, stageSecrets, &found); err != nil {
		return nil, err
	}
	out := make(map[string][]span, len(found.Files))
	for _, f := range found.Files {
		out[f.Path] = f.Masked
	}
	return out, nil
}

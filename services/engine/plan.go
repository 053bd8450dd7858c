package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"vega/events"
	"vega/services/engine/pack"
)

const resultPlan = "plan.json"

// plan is the stored result of the stage: what is to be audited, in order, and what is not.
type plan struct {
	Components []pack.Component `json:"components"`
	LeftOut    []pack.LeftOut   `json:"left_out"`
	Dropped    []string         `json:"dropped,omitempty"`    // paths that the plan named and that do not exist
	Unassigned []string         `json:"unassigned,omitempty"` // code that the plan does not mention, the first maxReasons files
	More       int              `json:"unassigned_more,omitempty"`
}

// plan asks which parts of the tree to audit. What the answer names and the tree does not have is dropped; code that it does not mention becomes a reason in the coverage.
func (r *run) plan(ctx context.Context, b brief) (result, error) {
	a, code := b.agent, b.code
	if len(code) == 0 {
		object, err := r.put(ctx, resultPlan, plan{Components: []pack.Component{}, LeftOut: []pack.LeftOut{}})
		return result{status: events.StageDone, detail: "there is no code to audit", object: object}, err
	}
	prompt, err := r.pack.PlanPrompt(pack.PlanInput{Subject: r.subject(b.inv), Profile: b.profile, MaxComponents: r.maxComponents, Folders: foldersOf(code)})
	if err != nil {
		return result{}, err
	}
	return r.single(ctx, a, question{stage: stagePlan, name: pack.Plan, prompt: prompt}, func(ctx context.Context, rep reply) (result, error) {
		var answer pack.PlanAnswer
		if err := json.Unmarshal(rep.answer, &answer); err != nil {
			return result{}, fmt.Errorf("read the plan: %w", err)
		}
		p, reasons := r.usePlan(ctx, a, answer, code)
		object, err := r.put(ctx, resultPlan, p)
		if err != nil {
			return result{}, err
		}
		res := result{status: events.StageDone, detail: fmt.Sprintf("%d components", len(p.Components)), object: object, artifacts: []events.Object{*object}, reasons: reasons}
		if len(p.Components) == 0 {
			res.status, res.detail = events.StageFailed, "the plan names nothing that exists"
			res.reasons = append(res.reasons, events.CoverageReason{Stage: stagePlan, Code: codeFailed, Message: res.detail})
		}
		return res, nil
	})
}

// usePlan keeps of an answer what the tree has.
func (r *run) usePlan(ctx context.Context, a *agent, answer pack.PlanAnswer, code []codeFile) (plan, []events.CoverageReason) {
	p := plan{Components: []pack.Component{}, LeftOut: []pack.LeftOut{}}
	missed := gaps{stage: stagePlan}
	ids := map[string]bool{}
	for _, c := range answer.Components {
		var paths []string
		for _, asked := range c.Paths {
			name := r.inTree(asked)
			if !r.holds(name) {
				p.Dropped = append(p.Dropped, cleanText(asked))
				r.log(ctx, fmt.Sprintf("plan: %s is not in the source", asked))
				continue
			}
			if !slices.Contains(paths, name) {
				paths = append(paths, name)
			}
		}
		if len(paths) == 0 {
			continue
		}
		for n, id := 2, c.ID; ids[c.ID]; n++ { // each is recorded by its id
			c.ID = fmt.Sprintf("%s-%d", id, n)
		}
		ids[c.ID] = true
		c.Paths, c.Title, c.Why = paths, a.redact.text(ctx, c.Title), a.redact.text(ctx, c.Why)
		if len(p.Components) == r.maxComponents {
			missed.add("", codeLimit, "component %q (%s) is beyond the %d that a scan audits (VEGA_V16_MAX_COMPONENTS)", c.Title, strings.Join(paths, ", "), r.maxComponents)
			continue
		}
		p.Components = append(p.Components, c)
	}
	left := map[string]bool{}
	for _, l := range answer.LeftOut {
		name := r.inTree(l.Path)
		if !r.holds(name) || left[name] || p.covers(name) {
			continue
		}
		left[name] = true
		l.Path, l.Reason = name, a.redact.text(ctx, l.Reason)
		p.LeftOut = append(p.LeftOut, l)
		if slices.ContainsFunc(code, func(c codeFile) bool { return within(c.path, []string{name}) && !p.covers(c.path) }) {
			missed.add(name, codeSkipped, "the plan leaves it out: %s", l.Reason)
		}
	}
	for _, c := range code {
		if p.covers(c.path) || slices.ContainsFunc(p.LeftOut, func(l pack.LeftOut) bool { return within(c.path, []string{l.Path}) }) {
			continue
		}
		missed.add(c.path, codeSkipped, "the plan does not mention it")
		if len(p.Unassigned) < maxReasons {
			p.Unassigned = append(p.Unassigned, c.path)
		} else {
			p.More++
		}
	}
	return p, missed.list()
}

// covers says that a file or folder lies in a component.
func (p plan) covers(name string) bool {
	return slices.ContainsFunc(p.Components, func(c pack.Component) bool { return within(name, c.Paths) })
}

// inTree is a path as the tree has it: the model may give the folder of the tree with it.
func (r *run) inTree(name string) string {
	for _, root := range []string{r.job.Dir + "/", "/source/"} {
		name = strings.TrimPrefix(name, root)
	}
	return path.Clean(strings.TrimPrefix(name, "./"))
}

// holds says that a path is a file of the tree or a folder with one in it.
func (r *run) holds(name string) bool {
	if name == "." {
		return len(r.tree.files) > 0
	}
	if _, file := r.tree.byPath[name]; file {
		return true
	}
	return slices.ContainsFunc(r.tree.files, func(f file) bool { return strings.HasPrefix(f.path, name+"/") })
}

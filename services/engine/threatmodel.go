package engine

import (
	"context"
	"encoding/json"
	"fmt"

	"vega/events"
	"vega/services/engine/pack"
)

const resultThreatModel = "threat-model.json"

// threatModel drafts a profile where people gave none.
func (r *run) threatModel(ctx context.Context) (result, error) {
	if r.job.Profile != nil {
		return result{status: events.StageSkipped, detail: "a threat profile was given"}, nil
	}
	return aided(stageThreatModel, (*run).draftProfile)(r, ctx)
}

func (r *run) draftProfile(ctx context.Context, b brief) (result, error) {
	a := b.agent
	prompt, err := r.pack.ThreatModelPrompt(pack.ThreatModelInput{Subject: r.subject(b.inv)})
	if err != nil {
		return result{}, err
	}
	return r.single(ctx, a, question{stage: stageThreatModel, name: pack.ThreatModel, prompt: prompt}, func(ctx context.Context, rep reply) (result, error) {
		var drafted pack.ThreatModelAnswer
		if err := json.Unmarshal(rep.answer, &drafted); err != nil {
			return result{}, fmt.Errorf("read the threat model: %w", err)
		}
		p := drafted.ThreatProfile
		p.Summary = a.redact.text(ctx, p.Summary)
		for _, list := range []*[]string{&p.Assets, &p.EntryPoints, &p.TrustBoundaries, &p.Risks, &p.OutOfScope} {
			for i, s := range *list {
				(*list)[i] = a.redact.text(ctx, s)
			}
		}
		object, err := r.put(ctx, resultThreatModel, p)
		if err != nil {
			return result{}, err
		}
		return result{
			status: events.StageDone, detail: fmt.Sprintf("%d risks, %d entry points, %d trust boundaries", len(p.Risks), len(p.EntryPoints), len(p.TrustBoundaries)),
			object: object, artifacts: []events.Object{*object},
		}, nil
	})
}

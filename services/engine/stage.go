package engine

import (
	"context"
	"strings"

	"vega/events"
)

// The names of the stages, as events and the API carry them.
const (
	stageInventory   = "inventory"
	stageSecrets     = "secrets"
	stageThreatModel = "threat_model"
	stagePlan        = "plan"
	stageAudit       = "audit"
	stageVerify      = "verify"
	stageMerge       = "merge"
	stageReport      = "report"
)

// stage is one row of the table. weight is its share of the work, as far as that can be known before: the two stages that read
// every file carry nearly all of it.
type stage struct {
	name       string
	needsModel bool
	weight     int
	run        func(*run, context.Context) (result, error)
}

// stageTable is the order of a scan. A row is never renamed: logs hold its name.
func stageTable() []stage {
	return []stage{
		{stageInventory, false, 30, (*run).inventory},
		{stageSecrets, false, 60, (*run).secrets},
		{stageThreatModel, true, 0, (*run).threatModel},
		{stagePlan, true, 0, needsModel(stagePlan)},
		{stageAudit, true, 0, needsModel(stageAudit)},
		{stageVerify, false, 4, (*run).verify},
		{stageMerge, false, 3, (*run).merge},
		{stageReport, false, 3, (*run).report},
	}
}

// StageNames lists the stages in their order.
func StageNames() []string {
	var names []string
	for _, s := range stageTable() {
		names = append(names, s.name)
	}
	return names
}

// result is what a stage came to. detail is one sentence for people.
type result struct {
	status    events.StageStatus
	detail    string
	object    *events.Object
	artifacts []events.Object
	reasons   []events.CoverageReason
	rejected  int
}

// threatModel drafts a profile where people gave none.
func (r *run) threatModel(ctx context.Context) (result, error) {
	if r.job.Profile != nil {
		return result{status: events.StageSkipped, detail: "a threat profile was given"}, nil
	}
	return needsModel(stageThreatModel)(r, ctx)
}

// needsModel stands in the table for a stage that only a model can do: it says in the coverage what would turn it on.
func needsModel(name string) func(*run, context.Context) (result, error) {
	return func(r *run, _ context.Context) (result, error) {
		why := "this build has no stages that use a model"
		if len(r.missing) > 0 {
			why = "needs a model; set " + strings.Join(r.missing, ", ")
		}
		return result{
			status:  events.StageNotConfigured,
			detail:  why,
			reasons: []events.CoverageReason{{Stage: name, Code: codeNotConfigured, Message: why}},
		}, nil
	}
}

// failed is the result of a stage that could not do its work.
func failed(name string, err error) result {
	return result{
		status:  events.StageFailed,
		detail:  err.Error(),
		reasons: []events.CoverageReason{{Stage: name, Code: codeFailed, Message: err.Error()}},
	}
}

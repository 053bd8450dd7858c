package engine

import (
	"context"

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
	stageRefute      = "refute"
	stageMerge       = "merge"
	stageReport      = "report"
)

// stage is one row of the table. Its weights are its share of the work, as far as that can be known before, without a model and with one.
type stage struct {
	name          string
	weight, aided int
	run           func(*run, context.Context) (result, error)
}

// stageTable is the order of a scan. A row is never renamed: logs hold its name.
func stageTable() []stage {
	return []stage{
		{stageInventory, 30, 3, (*run).inventory},
		{stageSecrets, 60, 7, (*run).secrets},
		{stageThreatModel, 0, 6, (*run).threatModel},
		{stagePlan, 0, 6, aided(stagePlan, (*run).plan)},
		{stageAudit, 0, 50, aided(stageAudit, (*run).audit)},
		{stageVerify, 4, 2, (*run).verify},
		{stageRefute, 0, 22, aided(stageRefute, (*run).refute)},
		{stageMerge, 3, 2, (*run).merge},
		{stageReport, 3, 2, (*run).report},
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
	compared  *events.Compared
}

// failed is the result of a stage that could not do its work.
func failed(name string, err error) result {
	return result{
		status:  events.StageFailed,
		detail:  err.Error(),
		reasons: []events.CoverageReason{{Stage: name, Code: codeFailed, Message: err.Error()}},
	}
}

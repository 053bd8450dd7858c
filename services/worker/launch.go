package worker

import (
	"context"

	"vega/events"
	"vega/services/scan"
)

// Tasks runs claimed scans elsewhere than in this process, one task each. Calls are concurrent.
type Tasks interface {
	// Ready blocks while no task should be started, because the last ones found no room. Its error is ctx's.
	Ready(ctx context.Context) error
	// Token is the secret that the runner of the claim with this command id has to show: the same id, the same secret.
	Token(claim events.CommandID) string
	// Launch starts the task of a claimed scan and returns when the slot is free again. What happened is in the log by then, or the task goes on
	// without this process because ctx has ended.
	Launch(ctx context.Context, c Claimed)
	// Look says that something happened to a scan; an empty id means to any of them. It does not block.
	Look(id events.ScanID)
}

// Claimed is a scan that this worker has just claimed.
type Claimed struct {
	Scan  scan.Scan
	ID    events.ScanID
	Head  events.Head // of the claim
	Token string      // what the runner has to show; the claim holds its digest
	Trace string      // W3C traceparent of what queued the scan, or empty
}

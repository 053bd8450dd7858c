package api

import (
	"context"
	"encoding/json"
	"time"

	"vega/events"
	"vega/projections"
)

type historyBody struct {
	Sequence events.Seq     `json:"sequence"`
	Version  events.Version `json:"version"`
	Type     events.Kind    `json:"type"`
	At       time.Time      `json:"at"`
	Actor    events.Actor   `json:"actor"`
	Cause    string         `json:"cause"`
	Data     any            `json:"data"`
}

// history is every event of an aggregate, oldest first, as it lies in the log.
func (s *Server) history(ctx context.Context, a events.Aggregate, in *PageIn) (*many[historyBody], error) {
	after, _, err := projections.ReadSeqCursor(projections.Cursor(in.Cursor))
	if err != nil {
		return nil, err
	}
	past, _, err := s.Store.Load(ctx, a, events.Head{})
	if err != nil {
		return nil, err
	}
	for len(past) > 0 && past[0].Seq <= after {
		past = past[1:]
	}
	var next projections.Cursor
	if size := in.page().Size(); len(past) > size {
		past = past[:size]
		next = projections.SeqCursor(past[size-1].Seq)
	}
	return list(past, next, shapeHistory), nil
}

func shapeHistory(r events.Recorded) historyBody {
	b := historyBody{r.Seq, r.Version, r.Kind, r.At, r.Actor, r.Cause, r.Event}
	if u, newer := r.Event.(events.Unknown); newer {
		b.Data = json.RawMessage(u.Body)
	}
	return b
}

func (s *Server) getScanHistory(ctx context.Context, in *PageIn) (*many[historyBody], error) {
	return s.history(ctx, events.ScanOf(s.region, callOf(ctx).scan.ID), in)
}

func (s *Server) getFindingHistory(ctx context.Context, in *PageIn) (*many[historyBody], error) {
	return s.history(ctx, events.FindingOf(s.region, callOf(ctx).finding.ID), in)
}

package api

import (
	"context"

	"vega/events"
	"vega/events/eventstore"
	"vega/projections"
	"vega/services/catalog"
)

type findingFilterIn struct {
	PageIn
	Severity []events.Severity    `query:"severity" enum:"critical,high,medium,low,info" doc:"Several by comma"`
	State    []events.TriageState `query:"state" enum:"open,confirmed,dismissed" doc:"Several by comma"`
}

func (s *Server) findings(ctx context.Context, f projections.FindingFilter, in *findingFilterIn) (*many[findingBody], error) {
	f.Severities, f.States, f.Member = in.Severity, in.State, callOf(ctx).member()
	rows, next, err := s.Model.Findings(ctx, f, in.page())
	if err != nil {
		return nil, err
	}
	return list(rows, next, shapeFinding), nil
}

func (s *Server) listFindings(ctx context.Context, in *findingFilterIn) (*many[findingBody], error) {
	return s.findings(ctx, projections.FindingFilter{}, in)
}

func (s *Server) listScanFindings(ctx context.Context, in *findingFilterIn) (*many[findingBody], error) {
	return s.findings(ctx, projections.FindingFilter{Scan: callOf(ctx).scan.ID}, in)
}

func (s *Server) listRepositoryFindings(ctx context.Context, in *findingFilterIn) (*many[findingBody], error) {
	return s.findings(ctx, projections.FindingFilter{Repository: callOf(ctx).repository.ID}, in)
}

func (s *Server) getFinding(ctx context.Context, _ *nothing) (*one[findingBody], error) {
	v := callOf(ctx).finding
	return &one[findingBody]{ETag: etag(v.TriageVersion), Body: shapeFinding(v)}, nil
}

type triageIn struct {
	Body struct {
		State  events.TriageState   `json:"state" enum:"open,confirmed,dismissed"`
		Reason events.DismissReason `json:"reason,omitempty" maxLength:"100" doc:"With dismissed: false_positive, accepted_risk, will_not_fix or already_fixed"`
		Note   string               `json:"note,omitempty" maxLength:"4000"`
	}
}

// triageFinding records what people decided about a weakness. It is bound to the fingerprint, so it holds for every scan of the repository.
func (s *Server) triageFinding(ctx context.Context, in *triageIn) (*one[findingBody], error) {
	c := callOf(ctx)
	v := c.finding
	state, made, err := eventstore.Do(ctx, s.Store, events.FindingOf(s.region, v.ID), c.meta(s.Now()), func(f catalog.Finding, h events.Head) ([]events.Event, error) {
		if err := c.matches(h.Version); err != nil {
			return nil, err
		}
		return f.Decide(events.FindingTriaged{Project: v.Project, Repository: v.Repository, Fingerprint: v.Fingerprint, State: in.Body.State, Reason: in.Body.Reason, Note: in.Body.Note})
	})
	if err != nil {
		return nil, err
	}
	s.settle(ctx, made)
	v.Triage, v.TriageVersion = state.Triage, state.Version // as decided, whether or not the read model has it yet
	return &one[findingBody]{ETag: etag(v.TriageVersion), Sequence: seqHeader(made), Body: shapeFinding(v)}, nil
}

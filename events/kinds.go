package events

import (
	"encoding/json"
	"fmt"
	"reflect"
)

// Kind is the wire name of a fact: "<aggregate>.<past participle>". It stands in ce-type and in every history.
type Kind string

// kindRow says how one fact is written. upcast[i] turns a body of schema i+1 into one of schema i+2; there are schema-1.
type kindRow struct {
	kind   Kind
	schema int
	goType reflect.Type
	decode func([]byte) (Event, error)
	upcast []func(json.RawMessage) (json.RawMessage, error)
}

// kinds is the one table of wire names. A new fact is a new row here and a golden file; a row is never removed.
var kinds = []kindRow{
	row[ScanQueued]("scan.queued", 1),
	row[ScanAbandoned]("scan.abandoned", 1),
	row[AttemptClaimed]("scan.claimed", 1),
	row[RunnerJoined]("scan.runner_joined", 1),
	row[AttemptStarted]("scan.started", 1),
	row[StageCompleted]("scan.stage_completed", 1),
	row[UnitCompleted]("scan.unit_completed", 1),
	row[FindingsRecorded]("scan.findings_recorded", 1),
	row[CancelRequested]("scan.cancel_requested", 1),
	row[AttemptReleased]("scan.released", 1),
	row[AttemptExpired]("scan.expired", 1),
	row[ScanCompleted]("scan.completed", 1),
	row[ScanFailed]("scan.failed", 1),
	row[ScanCancelled]("scan.cancelled", 1),
	row[Slots]("slots.taken", 1),
	row[UsageRecorded]("usage.recorded", 1),
	row[FindingTriaged]("finding.triaged", 1),
	row[APIKeyCreated]("api_key.created", 1),
	row[APIKeyRevoked]("api_key.revoked", 1),
	row[ProjectCreated]("project.created", 1),
	row[ProjectRenamed]("project.renamed", 1),
	row[MemberSet]("project.member_set", 1),
	row[MemberRemoved]("project.member_removed", 1),
	row[ProjectDeleted]("project.deleted", 1),
	row[RepositoryCreated]("repository.created", 1),
	row[IngestStarted]("repository.ingest_started", 1),
	row[IngestFailed]("repository.ingest_failed", 1),
	row[SnapshotTaken]("repository.snapshot_taken", 1),
	row[ThreatProfileSet]("repository.threat_profile_set", 1),
	row[RepositoryDeleted]("repository.deleted", 1),
}

var (
	kindByType = indexBy(func(r kindRow) reflect.Type { return r.goType })
	kindByName = indexBy(func(r kindRow) Kind { return r.kind })
)

func row[T Event](kind Kind, schema int, upcast ...func(json.RawMessage) (json.RawMessage, error)) kindRow {
	if len(upcast) != schema-1 {
		panic(fmt.Sprintf("events: %s has schema %d and %d upcasters", kind, schema, len(upcast)))
	}
	return kindRow{kind, schema, reflect.TypeFor[T](), decodeAs[T], upcast}
}

func decodeAs[T Event](b []byte) (Event, error) {
	var v T
	err := json.Unmarshal(b, &v)
	return v, err
}

func indexBy[K comparable](key func(kindRow) K) map[K]kindRow {
	m := make(map[K]kindRow, len(kinds))
	for _, r := range kinds {
		if _, twice := m[key(r)]; twice {
			panic(fmt.Sprintf("events: %s stands twice in the kinds table", r.kind))
		}
		m[key(r)] = r
	}
	return m
}

// KindOf is the wire name of e; empty when e may not be appended.
func KindOf(e Event) Kind { return kindByType[reflect.TypeOf(e)].kind }

// Kinds lists every wire name this build knows, in the order of the table.
func Kinds() []Kind {
	ks := make([]Kind, len(kinds))
	for i, r := range kinds {
		ks[i] = r.kind
	}
	return ks
}

// decodeBody reads a body of any schema up to ours. What a newer release wrote comes back as Unknown, not as an error.
func decodeBody(kind Kind, schema int, body []byte) (Event, error) {
	r, ok := kindByName[kind]
	if !ok || schema > r.schema {
		return Unknown{Kind: kind, Schema: schema, Body: body}, nil
	}
	if schema < 1 {
		return nil, fmt.Errorf("%s: schema %d", kind, schema)
	}
	for _, up := range r.upcast[schema-1:] {
		var err error
		if body, err = up(body); err != nil {
			return nil, fmt.Errorf("upcast %s: %w", kind, err)
		}
	}
	e, err := r.decode(body)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", kind, err)
	}
	return e, nil
}

func kindRowOf(e Event) (kindRow, bool) {
	r, ok := kindByType[reflect.TypeOf(e)]
	return r, ok
}

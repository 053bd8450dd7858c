package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"vega/events"
	"vega/events/eventstore"
	"vega/projections"
	"vega/services/catalog"
	"vega/services/scan"
)

type repositoryIn struct {
	Body struct {
		Name       string            `json:"name" maxLength:"1000" doc:"1 to 200 characters"`
		SourceType events.SourceType `json:"source_type" enum:"upload,git,push"`
		GitURL     string            `json:"git_url,omitempty" maxLength:"5000" doc:"With source_type git: https, http or ssh, without credentials"`
		GitRef     string            `json:"git_ref,omitempty" maxLength:"1000" doc:"A branch, tag or commit"`
	}
}

func (s *Server) createRepository(ctx context.Context, in *repositoryIn) (*one[repositoryBody], error) {
	c := callOf(ctx)
	id := events.NewRepositoryID(s.region)
	if c.key != "" {
		id = events.RepositoryIDFor(s.region, c.who.User, c.key)
	}
	want := events.RepositoryCreated{Project: c.project.ID, Name: in.Body.Name, SourceType: in.Body.SourceType, GitURL: in.Body.GitURL, GitRef: in.Body.GitRef}
	_, made, err := eventstore.Do(ctx, s.Store, events.RepositoryOf(s.region, id), c.meta(s.Now()), func(r catalog.Repository, _ events.Head) ([]events.Event, error) {
		return r.Create(want)
	})
	if err != nil {
		return nil, err
	}
	if e, ok := first[events.RepositoryCreated](made); !ok || e != want {
		return nil, errKeyReused
	}
	return s.showRepository(ctx, id, made)
}

// showRepository answers a write with the repository as it is now.
func (s *Server) showRepository(ctx context.Context, id events.RepositoryID, made []events.Recorded) (*one[repositoryBody], error) {
	s.settle(ctx, made)
	row, err := s.Model.Repository(ctx, id)
	var latest *projections.Snapshot
	if err != nil || row.Seq < lastSeq(made) {
		f, _, ferr := s.foldOf(ctx, events.RepositoryOf(s.region, id), 0)
		if ferr != nil {
			return nil, ferr
		}
		row = f.repository
		if snapshot, ok := f.snapshots[row.Latest]; ok {
			latest = &snapshot
		}
	} else if latest, err = s.latest(ctx, row); err != nil {
		return nil, err
	}
	return &one[repositoryBody]{ETag: etag(row.Version), Sequence: seqHeader(made), Body: shapeRepository(row, latest)}, nil
}

// latest is the snapshot that a repository shows, nil when it has none.
func (s *Server) latest(ctx context.Context, r projections.Repository) (*projections.Snapshot, error) {
	if r.Latest == "" {
		return nil, nil
	}
	snapshot, err := s.Model.Snapshot(ctx, r.ID, r.Latest)
	if err != nil {
		return nil, err
	}
	return &snapshot, nil
}

func (s *Server) listRepositories(ctx context.Context, in *PageIn) (*many[repositoryBody], error) {
	rows, next, err := s.Model.Repositories(ctx, callOf(ctx).project.ID, in.page())
	if err != nil {
		return nil, err
	}
	var broken error
	out := list(rows, next, func(r projections.Repository) repositoryBody {
		latest, err := s.latest(ctx, r)
		broken = errors.Join(broken, err)
		return shapeRepository(r, latest)
	})
	return out, broken
}

func (s *Server) getRepository(ctx context.Context, _ *nothing) (*one[repositoryBody], error) {
	row := callOf(ctx).repository
	latest, err := s.latest(ctx, row)
	if err != nil {
		return nil, err
	}
	return &one[repositoryBody]{ETag: etag(row.Version), Body: shapeRepository(row, latest)}, nil
}

func (s *Server) listSnapshots(ctx context.Context, in *PageIn) (*many[snapshotBody], error) {
	rows, next, err := s.Model.Snapshots(ctx, callOf(ctx).repository.ID, in.page())
	if err != nil {
		return nil, err
	}
	return list(rows, next, shapeSnapshot), nil
}

// changeRepository decides on the repository that the path names.
func (s *Server) changeRepository(ctx context.Context, decide func(catalog.Repository) ([]events.Event, error)) ([]events.Recorded, error) {
	c := callOf(ctx)
	_, made, err := eventstore.Do(ctx, s.Store, events.RepositoryOf(s.region, c.repository.ID), c.meta(s.Now()), func(r catalog.Repository, h events.Head) ([]events.Event, error) {
		if err := c.matches(h.Version); err != nil {
			return nil, err
		}
		return decide(r)
	})
	return made, err
}

// deleteRepository hides a repository, cancels its scans, and removes the objects of its snapshots that no other repository shares.
func (s *Server) deleteRepository(ctx context.Context, _ *nothing) (*gone, error) {
	c := callOf(ctx)
	made, err := s.changeRepository(ctx, catalog.Repository.Delete)
	if err != nil {
		return nil, err
	}
	// A crash here leaves scans running whose repository is gone, and objects that no repository names.
	s.cancelAll(ctx, "the repository was deleted", func(r projections.Scan) bool { return r.Repository == c.repository.ID })
	s.settle(ctx, made)
	s.removeSnapshots(ctx, c.repository.ID, lastSeq(made))
	return &gone{Sequence: seqHeader(made)}, nil
}

// removeSnapshots removes the objects of a deleted repository's snapshots, unless another repository has the same tree or the read model cannot
// tell yet. What it leaves is only disk space.
func (s *Server) removeSnapshots(ctx context.Context, id events.RepositoryID, deleted events.Seq) {
	s.objects.Lock() // an upload of the same tree in this process is either in the log by now, or stores its objects anew after this
	defer s.objects.Unlock()
	info, err := s.Store.Info(ctx)
	if err != nil {
		return
	}
	wait, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	if s.Runner.WaitFor(wait, max(info.Last, deleted)) != nil {
		return
	}
	for page := (projections.Page{Limit: projections.MaxLimit}); ; {
		rows, next, err := s.Model.Snapshots(ctx, id, page)
		if err != nil {
			return
		}
		for _, snapshot := range rows {
			if n, err := s.Model.SnapshotUsers(ctx, snapshot.ID); err != nil || n > 0 {
				continue
			}
			// The manifest first: while it is there, the snapshot counts as there whole.
			for _, key := range []string{snapshot.Manifest.Key, snapshot.Pack.Key} {
				if err := s.Files.Delete(ctx, key); err != nil {
					s.log.Warn("snapshot not removed", "seq", deleted, "err", err)
					return
				}
			}
		}
		if next == "" {
			return
		}
		page.After = next
	}
}

// cancelAll cancels the unfinished scans that which picks. What cannot be cancelled now is logged and left to end by itself.
func (s *Server) cancelAll(ctx context.Context, reason string, which func(projections.Scan) bool) {
	rows, err := s.Model.Unfinished(ctx)
	if err != nil {
		s.log.Warn("scans not cancelled", "err", err)
		return
	}
	meta := callOf(ctx).meta(s.Now())
	for _, r := range rows {
		if !which(r) {
			continue
		}
		_, _, err := eventstore.Do(ctx, s.Store, events.ScanOf(s.region, r.ID), meta, func(state scan.Scan, _ events.Head) ([]events.Event, error) {
			return scan.Decide(state, scan.RequestCancel{Reason: reason})
		})
		if _, over := errors.AsType[*scan.NotAllowedError](err); err != nil && !over {
			s.log.Warn("scan not cancelled", "scan_id", r.ID, "err", err)
		}
	}
}

func (s *Server) getThreatProfile(ctx context.Context, _ *nothing) (*one[profileBody], error) {
	row := callOf(ctx).repository
	return &one[profileBody]{ETag: etag(row.Version), Body: shapeProfile(row)}, nil
}

type profileIn struct {
	Body struct {
		Summary         string   `json:"summary" maxLength:"20000"`
		Assets          []string `json:"assets,omitempty" maxItems:"200"`
		EntryPoints     []string `json:"entry_points,omitempty" maxItems:"200"`
		TrustBoundaries []string `json:"trust_boundaries,omitempty" maxItems:"200"`
		Risks           []string `json:"risks,omitempty" maxItems:"200"`
		OutOfScope      []string `json:"out_of_scope,omitempty" maxItems:"200"`
	}
}

func (s *Server) putThreatProfile(ctx context.Context, in *profileIn) (*one[profileBody], error) {
	return s.setProfile(ctx, events.ThreatProfile(in.Body))
}

// threatStage is the engine's stage whose result is a threat profile.
const threatStage = "threat_model"

// maxDraft bounds what is read of a drafted profile, in bytes; a larger one would not be taken.
const maxDraft = 8 << 20

// generateThreatProfile takes over what the engine has drafted: of the newest completed scan that drafted anything.
func (s *Server) generateThreatProfile(ctx context.Context, _ *nothing) (*one[profileBody], error) {
	filter := projections.ScanFilter{Repository: callOf(ctx).repository.ID, Statuses: []scan.Status{scan.Completed}}
	for page := (projections.Page{Limit: 100}); ; {
		rows, next, err := s.Model.Scans(ctx, filter, page)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			for _, st := range r.Stages {
				if st.Stage == threatStage && st.Status == events.StageDone && st.Result != nil && st.Result.Bytes <= maxDraft {
					return s.takeDraft(ctx, r.ID, *st.Result)
				}
			}
		}
		if next == "" {
			return nil, fail(http.StatusConflict, "no_draft", "no completed scan of this repository has drafted a threat profile; a scan with a model and without a profile does")
		}
		page.After = next
	}
}

func (s *Server) takeDraft(ctx context.Context, id events.ScanID, o events.Object) (*one[profileBody], error) {
	b, err := s.readObject(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("draft of a threat profile: %w", err)
	}
	var draft events.ThreatProfile
	if err := json.Unmarshal(b, &draft); err != nil {
		return nil, fmt.Errorf("draft of a threat profile of %s: %w", id, err)
	}
	out, err := s.setProfile(ctx, draft)
	if e, ok := errors.AsType[*catalog.InvalidError](err); ok { // nothing that the client sent
		return nil, &failure{status: http.StatusConflict, code: "draft_not_usable", message: "what scan " + string(id) + " has drafted is no threat profile: " + e.Field + " is not " + e.Want,
			details: map[string]any{"scan_id": id}, cause: err}
	}
	return out, err
}

// setProfile records a new version of the threat profile and answers with it.
func (s *Server) setProfile(ctx context.Context, t events.ThreatProfile) (*one[profileBody], error) {
	made, err := s.changeRepository(ctx, func(r catalog.Repository) ([]events.Event, error) { return r.SetProfile(t) })
	if err != nil {
		return nil, err
	}
	s.settle(ctx, made)
	id := callOf(ctx).repository.ID
	row, err := s.Model.Repository(ctx, id)
	if err != nil || row.Seq < lastSeq(made) {
		f, _, ferr := s.foldOf(ctx, events.RepositoryOf(s.region, id), 0)
		if ferr != nil {
			return nil, ferr
		}
		row = f.repository
	}
	return &one[profileBody]{ETag: etag(row.Version), Sequence: seqHeader(made), Body: shapeProfile(row)}, nil
}

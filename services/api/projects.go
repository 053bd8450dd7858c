package api

import (
	"context"
	"slices"
	"strings"

	"vega/events"
	"vega/events/eventstore"
	"vega/projections"
	"vega/services/catalog"
)

type nameIn struct {
	Body struct {
		Name string `json:"name" maxLength:"1000" doc:"1 to 200 characters"`
	}
}

func (s *Server) createProject(ctx context.Context, in *nameIn) (*one[projectBody], error) {
	c := callOf(ctx)
	id := events.NewProjectID(s.region)
	if c.key != "" {
		id = events.ProjectIDFor(s.region, c.who.User, c.key)
	}
	_, made, err := eventstore.Do(ctx, s.Store, events.ProjectOf(s.region, id), c.meta(s.Now()), func(p catalog.Project, _ events.Head) ([]events.Event, error) {
		return p.Create(in.Body.Name, c.who.User)
	})
	if err != nil {
		return nil, err
	}
	if e, ok := first[events.ProjectCreated](made); !ok || e.Name != in.Body.Name {
		return nil, errKeyReused
	}
	c.role = events.RoleOwner
	return s.showProject(ctx, id, made)
}

// first is the first event of a write, when it is an E. A write that made nothing has none: the thing was there before, made by another
// request with the same key.
func first[E events.Event](made []events.Recorded) (E, bool) {
	var none E
	if len(made) == 0 {
		return none, false
	}
	e, ok := made[0].Event.(E)
	return e, ok
}

// showProject answers a write with the project as it is now.
func (s *Server) showProject(ctx context.Context, id events.ProjectID, made []events.Recorded) (*one[projectBody], error) {
	s.settle(ctx, made)
	row, err := s.Model.Project(ctx, id)
	if err != nil || row.Seq < lastSeq(made) {
		f, _, ferr := s.foldOf(ctx, events.ProjectOf(s.region, id), 0)
		if ferr != nil {
			return nil, ferr
		}
		row = f.project
	}
	return &one[projectBody]{ETag: etag(row.Version), Sequence: seqHeader(made), Body: shapeProject(row, callOf(ctx).role)}, nil
}

func (s *Server) listProjects(ctx context.Context, in *PageIn) (*many[projectBody], error) {
	c := callOf(ctx)
	rows, next, err := s.Model.Projects(ctx, projections.ProjectFilter{User: c.member()}, in.page())
	if err != nil {
		return nil, err
	}
	return list(rows, next, func(p projections.Project) projectBody {
		role := p.Members[c.who.User]
		if c.who.Admin {
			role = events.RoleOwner
		}
		return shapeProject(p, role)
	}), nil
}

func (s *Server) getProject(ctx context.Context, _ *nothing) (*one[projectBody], error) {
	c := callOf(ctx)
	b := shapeProject(c.project, c.role)
	sum, err := s.Model.Rollup(ctx, c.project.ID)
	switch {
	case s.model.missed(err): // without its sums
	case err != nil:
		return nil, err
	default:
		b.Rollup = &rollupBody{sum.Open, sum.Repositories, sum.LastScan, shapeUsage(sum.Usage)}
	}
	return &one[projectBody]{ETag: etag(c.project.Version), Body: b}, nil
}

func (s *Server) renameProject(ctx context.Context, in *nameIn) (*one[projectBody], error) {
	made, err := s.changeProject(ctx, func(p catalog.Project) ([]events.Event, error) { return p.Rename(in.Body.Name) })
	if err != nil {
		return nil, err
	}
	return s.showProject(ctx, callOf(ctx).project.ID, made)
}

func (s *Server) changeProject(ctx context.Context, decide func(catalog.Project) ([]events.Event, error)) ([]events.Recorded, error) {
	c := callOf(ctx)
	_, made, err := eventstore.Do(ctx, s.Store, events.ProjectOf(s.region, c.project.ID), c.meta(s.Now()), func(p catalog.Project, h events.Head) ([]events.Event, error) {
		if err := c.matches(h.Version); err != nil {
			return nil, err
		}
		return decide(p)
	})
	return made, err
}

// deleteProject hides a project with everything in it and cancels what runs there.
func (s *Server) deleteProject(ctx context.Context, _ *nothing) (*gone, error) {
	c := callOf(ctx)
	made, err := s.changeProject(ctx, catalog.Project.Delete)
	if err != nil {
		return nil, err
	}
	// A crash here leaves scans running whose project is gone; they end by themselves and nobody sees them.
	s.cancelAll(ctx, "the project was deleted", func(r projections.Scan) bool { return r.Project == c.project.ID })
	s.settle(ctx, made)
	return &gone{Sequence: seqHeader(made)}, nil
}

func (s *Server) listMembers(ctx context.Context, _ *nothing) (*many[memberBody], error) {
	var rows []memberBody
	for u, r := range callOf(ctx).project.Members {
		rows = append(rows, memberBody{u, r})
	}
	slices.SortFunc(rows, func(a, b memberBody) int { return strings.Compare(string(a.User), string(b.User)) })
	return list(rows, "", func(m memberBody) memberBody { return m }), nil
}

type memberIn struct {
	User string `path:"user_id"`
	Body struct {
		Role events.Role `json:"role" enum:"owner,editor,viewer"`
	}
}

func (s *Server) setMember(ctx context.Context, in *memberIn) (*one[memberBody], error) {
	user := events.UserID(in.User)
	made, err := s.changeProject(ctx, func(p catalog.Project) ([]events.Event, error) { return p.SetMember(user, in.Body.Role) })
	if err != nil {
		return nil, err
	}
	s.settle(ctx, made)
	return &one[memberBody]{Sequence: seqHeader(made), Body: memberBody{user, in.Body.Role}}, nil
}

type memberPath struct {
	User string `path:"user_id"`
}

func (s *Server) removeMember(ctx context.Context, in *memberPath) (*gone, error) {
	made, err := s.changeProject(ctx, func(p catalog.Project) ([]events.Event, error) { return p.RemoveMember(events.UserID(in.User)) })
	if err != nil {
		return nil, err
	}
	s.settle(ctx, made)
	return &gone{Sequence: seqHeader(made)}, nil
}

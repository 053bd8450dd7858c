package catalog

import (
	"maps"

	"vega/events"
)

// Project is the state of one project.
type Project struct {
	Name    string
	Members map[events.UserID]events.Role
	Exists  bool
	Deleted bool
	Version events.Version
}

// MaxMembers bounds a project.
const MaxMembers = 500

// Evolve returns the state after r.
func (p Project) Evolve(r events.Recorded) Project {
	p.Version = r.Version
	switch e := r.Event.(type) {
	case events.ProjectCreated:
		p.Exists, p.Name = true, e.Name
		p.Members = map[events.UserID]events.Role{e.Owner: events.RoleOwner}
	case events.ProjectRenamed:
		p.Name = e.Name
	case events.MemberSet:
		p.Members = maps.Clone(p.Members)
		p.Members[e.User] = e.Role
	case events.MemberRemoved:
		p.Members = maps.Clone(p.Members)
		delete(p.Members, e.User)
	case events.ProjectDeleted:
		p.Deleted = true
	default:
	}
	return p
}

// Create makes the project; nothing when it exists already.
func (p Project) Create(name string, owner events.UserID) ([]events.Event, error) {
	if p.Deleted {
		return nil, &GoneError{"project"}
	}
	if p.Exists {
		return nil, nil
	}
	if err := checkText("name", name, 1, 200, false); err != nil {
		return nil, err
	}
	return []events.Event{events.ProjectCreated{Name: name, Owner: owner}}, nil
}

// Rename gives it another name; nothing when it has that one.
func (p Project) Rename(name string) ([]events.Event, error) {
	if err := p.live(); err != nil {
		return nil, err
	}
	if err := checkText("name", name, 1, 200, false); err != nil {
		return nil, err
	}
	if p.Name == name {
		return nil, nil
	}
	return []events.Event{events.ProjectRenamed{Name: name}}, nil
}

// SetMember adds a member or changes a role. The last owner stays one.
func (p Project) SetMember(user events.UserID, role events.Role) ([]events.Event, error) {
	if err := p.live(); err != nil {
		return nil, err
	}
	if role.Rank() == 0 {
		return nil, &InvalidError{"role", "owner, editor or viewer"}
	}
	if err := events.CheckID("user_id", string(user)); err != nil {
		return nil, &InvalidError{"user_id", "the id of a user"}
	}
	if p.Members[user] == role {
		return nil, nil
	}
	if err := p.keepsOwner(user); role != events.RoleOwner && err != nil {
		return nil, err
	}
	if _, known := p.Members[user]; !known && len(p.Members) >= MaxMembers {
		return nil, &ConflictError{"too_many_members", "a project has at most 500 members"}
	}
	return []events.Event{events.MemberSet{User: user, Role: role}}, nil
}

// RemoveMember takes a member out; nothing when there is none of that id.
func (p Project) RemoveMember(user events.UserID) ([]events.Event, error) {
	if err := p.live(); err != nil {
		return nil, err
	}
	if _, ok := p.Members[user]; !ok {
		return nil, nil
	}
	if err := p.keepsOwner(user); err != nil {
		return nil, err
	}
	return []events.Event{events.MemberRemoved{User: user}}, nil
}

// Delete hides the project; nothing when it is deleted.
func (p Project) Delete() ([]events.Event, error) {
	if !p.Exists {
		return nil, &GoneError{"project"}
	}
	if p.Deleted {
		return nil, nil
	}
	return []events.Event{events.ProjectDeleted{}}, nil
}

func (p Project) live() error {
	if !p.Exists || p.Deleted {
		return &GoneError{"project"}
	}
	return nil
}

func (p Project) keepsOwner(without events.UserID) error {
	for u, r := range p.Members {
		if u != without && r == events.RoleOwner {
			return nil
		}
	}
	if p.Members[without] != events.RoleOwner {
		return nil
	}
	return &ConflictError{"last_owner", "a project keeps at least one owner"}
}

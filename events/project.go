package events

// Role is what a member may do in a project: a viewer reads, an editor also changes and scans, an owner also manages
// members and deletes.
type Role string

const (
	RoleOwner  Role = "owner"
	RoleEditor Role = "editor"
	RoleViewer Role = "viewer"
)

// Rank is 3 for owner, 2 for editor, 1 for viewer, 0 for none.
func (r Role) Rank() int {
	switch r {
	case RoleOwner:
		return 3
	case RoleEditor:
		return 2
	case RoleViewer:
		return 1
	}
	return 0
}

// ProjectCreated makes a project; its creator is its first owner.
type ProjectCreated struct {
	Name  string `json:"name"`
	Owner UserID `json:"owner"`
}

// ProjectRenamed gives it another name.
type ProjectRenamed struct {
	Name string `json:"name"`
}

// MemberSet adds a member or changes a member's role.
type MemberSet struct {
	User UserID `json:"user_id"`
	Role Role   `json:"role"`
}

// MemberRemoved takes a member out.
type MemberRemoved struct {
	User UserID `json:"user_id"`
}

// ProjectDeleted hides a project and everything in it. Its history stays in the log.
type ProjectDeleted struct{}

func (ProjectCreated) event() {}
func (ProjectRenamed) event() {}
func (MemberSet) event()      {}
func (MemberRemoved) event()  {}
func (ProjectDeleted) event() {}

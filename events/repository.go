package events

// SourceType is where a repository's source comes from.
type SourceType string

const (
	SourceUpload SourceType = "upload"
	SourceGit    SourceType = "git"
	SourcePush   SourceType = "push"
)

// RepositoryCreated makes a source target. GitURL never holds credentials.
type RepositoryCreated struct {
	Project    ProjectID  `json:"project_id"`
	Name       string     `json:"name"`
	SourceType SourceType `json:"source_type"`
	GitURL     string     `json:"git_url,omitempty"`
	GitRef     string     `json:"git_ref,omitempty"`
}

// IngestStarted says that a source is coming in. A crash leaves it without an end; the next start or upload ends it.
type IngestStarted struct {
	Upload string `json:"upload_id"`
}

// IngestFailed ends an ingestion that was refused or broke. Code is stable, Message names entry and limit.
type IngestFailed struct {
	Upload  string         `json:"upload_id"`
	Code    string         `json:"code"`
	Message string         `json:"message"`
	Details map[string]any `json:"details,omitempty"`
}

// SnapshotTaken ends an ingestion that worked: the source is captured under its manifest's digest.
type SnapshotTaken struct {
	Upload   string          `json:"upload_id"`
	Snapshot SnapshotID      `json:"snapshot_id"`
	Files    int             `json:"files"`
	Bytes    int64           `json:"bytes"` // uncompressed
	Manifest Object          `json:"manifest"`
	Pack     Object          `json:"pack"`
	Warnings []IngestWarning `json:"warnings,omitempty"` // the first 100
	Warned   int             `json:"warned,omitempty"`   // how many there were
}

// IngestWarning is something odd about an entry that was kept, or left out with a note.
type IngestWarning struct {
	Path string `json:"path"`
	Code string `json:"code"`
}

// ThreatProfile is what an application does and which risks matter in it.
type ThreatProfile struct {
	Summary         string   `json:"summary"`
	Assets          []string `json:"assets,omitempty"`
	EntryPoints     []string `json:"entry_points,omitempty"`
	TrustBoundaries []string `json:"trust_boundaries,omitempty"`
	Risks           []string `json:"risks,omitempty"`
	OutOfScope      []string `json:"out_of_scope,omitempty"`
}

// ThreatProfileSet is a new version of a repository's threat profile. Number counts from 1.
type ThreatProfileSet struct {
	Number  int           `json:"number"`
	Profile ThreatProfile `json:"profile"`
}

// RepositoryDeleted hides a repository. Its history stays in the log.
type RepositoryDeleted struct{}

func (RepositoryCreated) event() {}
func (IngestStarted) event()     {}
func (IngestFailed) event()      {}
func (SnapshotTaken) event()     {}
func (ThreatProfileSet) event()  {}
func (RepositoryDeleted) event() {}

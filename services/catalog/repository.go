package catalog

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"vega/events"
)

// IngestStatus is how far a repository's source is.
type IngestStatus string

const (
	Pending   IngestStatus = "pending"
	Ingesting IngestStatus = "ingesting"
	Ready     IngestStatus = "ready"  // it has a snapshot, though its last ingestion may have failed
	IngestBad IngestStatus = "failed" // no ingestion has brought a snapshot yet
)

// Repository is the state of one source target.
type Repository struct {
	Created   events.RepositoryCreated
	Exists    bool
	Deleted   bool
	Status    IngestStatus
	Upload    string // the ingestion that is going on
	Failure   *events.IngestFailed
	Snapshots []events.SnapshotTaken // oldest first; the same snapshot may stand here more than once
	Profile   *events.ThreatProfileSet
	Version   events.Version
}

// Evolve returns the state after r.
func (p Repository) Evolve(r events.Recorded) Repository {
	p.Version = r.Version
	switch e := r.Event.(type) {
	case events.RepositoryCreated:
		p.Exists, p.Created, p.Status = true, e, Pending
	case events.IngestStarted:
		p.Status, p.Upload, p.Failure = Ingesting, e.Upload, nil
	case events.IngestFailed:
		if e.Upload == p.Upload {
			p.Status, p.Upload, p.Failure = IngestBad, "", &e
			if len(p.Snapshots) > 0 {
				p.Status = Ready // what was captured before is there as it was
			}
		}
	case events.SnapshotTaken:
		if e.Upload == p.Upload {
			p.Status, p.Upload, p.Failure = Ready, "", nil
		}
		p.Snapshots = append(p.Snapshots[:len(p.Snapshots):len(p.Snapshots)], e)
	case events.ThreatProfileSet:
		p.Profile = &e
	case events.RepositoryDeleted:
		p.Deleted = true
	default:
	}
	return p
}

// Snapshot finds a captured source by its id, or the latest one when id is empty.
func (p Repository) Snapshot(id events.SnapshotID) (events.SnapshotTaken, bool) {
	for _, s := range slices.Backward(p.Snapshots) {
		if id == "" || s.Snapshot == id {
			return s, true
		}
	}
	return events.SnapshotTaken{}, false
}

// Create makes the repository; nothing when it exists already.
func (p Repository) Create(e events.RepositoryCreated) ([]events.Event, error) {
	if p.Deleted {
		return nil, &GoneError{"repository"}
	}
	if p.Exists {
		return nil, nil
	}
	if err := checkText("name", e.Name, 1, 200, false); err != nil {
		return nil, err
	}
	switch e.SourceType {
	case events.SourceUpload, events.SourcePush:
		if e.GitURL != "" || e.GitRef != "" {
			return nil, &InvalidError{"git_url", fmt.Sprintf("none with source_type %s", e.SourceType)}
		}
	case events.SourceGit:
		if err := checkGit(e.GitURL, e.GitRef); err != nil {
			return nil, err
		}
	default:
		return nil, &InvalidError{"source_type", "upload, git or push"}
	}
	return []events.Event{e}, nil
}

// StartIngest begins to take a source in. An ingestion that is going on is in the way, unless it is known to be over (its process died):
// then takeover is true.
func (p Repository) StartIngest(upload string, takeover bool) ([]events.Event, error) {
	if err := p.live(); err != nil {
		return nil, err
	}
	if p.Status == Ingesting && !takeover {
		return nil, &ConflictError{"ingest_in_progress", "a source is being taken in already"}
	}
	return []events.Event{events.IngestStarted{Upload: upload}}, nil
}

// FailIngest ends an ingestion with its reason; nothing when another one has begun since.
func (p Repository) FailIngest(e events.IngestFailed) ([]events.Event, error) {
	if p.Status != Ingesting || p.Upload != e.Upload {
		return nil, nil
	}
	return []events.Event{e}, nil
}

// FinishIngest ends an ingestion with its snapshot. It is refused when another one has begun since, or the repository is gone.
func (p Repository) FinishIngest(e events.SnapshotTaken) ([]events.Event, error) {
	if err := p.live(); err != nil {
		return nil, err
	}
	if p.Status != Ingesting || p.Upload != e.Upload {
		return nil, &ConflictError{"ingest_superseded", "another source was taken in meanwhile"}
	}
	return []events.Event{e}, nil
}

// Limits of a threat profile.
const (
	maxProfileText  = 20_000 // characters of the summary
	maxProfileItems = 200    // entries of each list
	maxProfileItem  = 2_000  // characters of an entry
)

// SetProfile records a new version of the threat profile.
func (p Repository) SetProfile(t events.ThreatProfile) ([]events.Event, error) {
	if err := p.live(); err != nil {
		return nil, err
	}
	if err := checkText("summary", t.Summary, 1, maxProfileText, true); err != nil {
		return nil, err
	}
	for _, l := range []struct {
		field string
		items []string
	}{{"assets", t.Assets}, {"entry_points", t.EntryPoints}, {"trust_boundaries", t.TrustBoundaries}, {"risks", t.Risks}, {"out_of_scope", t.OutOfScope}} {
		if len(l.items) > maxProfileItems {
			return nil, &InvalidError{l.field, fmt.Sprintf("at most %d entries", maxProfileItems)}
		}
		for i, s := range l.items {
			if err := checkText(fmt.Sprintf("%s[%d]", l.field, i), s, 1, maxProfileItem, true); err != nil {
				return nil, err
			}
		}
	}
	n := 1
	if p.Profile != nil {
		n = p.Profile.Number + 1
	}
	return []events.Event{events.ThreatProfileSet{Number: n, Profile: t}}, nil
}

// Delete hides the repository; nothing when it is deleted.
func (p Repository) Delete() ([]events.Event, error) {
	if !p.Exists {
		return nil, &GoneError{"repository"}
	}
	if p.Deleted {
		return nil, nil
	}
	return []events.Event{events.RepositoryDeleted{}}, nil
}

func (p Repository) live() error {
	if !p.Exists || p.Deleted {
		return &GoneError{"repository"}
	}
	return nil
}

// checkGit refuses remotes that would make git do anything but fetch over the network, and credentials, which would become part of the log.
func checkGit(remote, ref string) error {
	u, err := url.Parse(remote)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http" && u.Scheme != "ssh") || u.Host == "" || len(remote) > 2000 || strings.HasPrefix(u.Host, "-") {
		return &InvalidError{"git_url", "an https, http or ssh URL of at most 2000 characters"}
	}
	if _, has := u.User.Password(); has || (u.User != nil && u.Scheme != "ssh") || u.RawQuery != "" || u.Fragment != "" {
		return &InvalidError{"git_url", "a URL without credentials, query and fragment"}
	}
	if strings.HasPrefix(ref, "-") || strings.ContainsAny(ref, " ~^:?*[\\") || strings.Contains(ref, "..") || len(ref) > 250 {
		return &InvalidError{"git_ref", "the name of a branch, tag or commit"}
	}
	return checkText("git_ref", ref, 0, 250, false)
}

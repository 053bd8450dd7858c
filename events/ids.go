package events

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"
)

// The identifiers. Each is an opaque string of [a-z0-9_-], at most 100 bytes, so it may stand in a subject, a URL path and
// a file name as it is. Those that name an aggregate carry the region that is its home: kind_region_random.
type (
	ScanID       string
	ProjectID    string
	RepositoryID string
	FindingID    string // stable over scans: derived from the repository and the fingerprint
	APIKeyID     string // no secret
	UserID       string // opaque: never an address, never a name
	WorkerID     string // new at every start of a worker process
	Region       string // [a-z0-9-], 1 to 32 bytes
)

// SnapshotID is "sha256:" and the hex digest of a snapshot's manifest: the same tree has the same id everywhere.
type SnapshotID string

// CommandID names one intent of one caller. The same command id never produces a second event, however late the retry.
// 1 to 100 bytes of [A-Za-z0-9_.:/-].
type CommandID string

// Seq is a position in one region's event stream, counted from 1; 0 means "before everything".
type Seq uint64

// Version counts the events of one aggregate: 1..n; 0 means that it does not exist.
type Version uint64

// Digest is "sha256:" and 64 hex digits.
type Digest string

// DigestOf is the digest of b.
func DigestOf(b []byte) Digest { return Digest(fmt.Sprintf("sha256:%x", sha256.Sum256(b))) }

// NewScanID returns a random scan id whose home is r.
func NewScanID(r Region) ScanID { return ScanID(newID("scan", r)) }

// ScanIDFor returns the scan id that belongs to a user's idempotency key: the same two always give the same id.
func ScanIDFor(r Region, user UserID, key string) ScanID {
	return ScanID(derivedID("scan", r, string(user), key))
}

// NewProjectID returns a random project id whose home is r.
func NewProjectID(r Region) ProjectID { return ProjectID(newID("proj", r)) }

// ProjectIDFor returns the project id that belongs to a user's idempotency key.
func ProjectIDFor(r Region, user UserID, key string) ProjectID {
	return ProjectID(derivedID("proj", r, string(user), key))
}

// NewRepositoryID returns a random repository id whose home is r.
func NewRepositoryID(r Region) RepositoryID { return RepositoryID(newID("repo", r)) }

// RepositoryIDFor returns the repository id that belongs to a user's idempotency key.
func RepositoryIDFor(r Region, user UserID, key string) RepositoryID {
	return RepositoryID(derivedID("repo", r, string(user), key))
}

// FindingIDFor returns the id that a weakness keeps over all scans of a repository.
func FindingIDFor(r Region, repo RepositoryID, f Fingerprint) FindingID {
	return FindingID(derivedID("find", r, string(repo), string(f)))
}

// UserIDFor returns the opaque id of the subject that an identity provider vouches for.
func UserIDFor(issuer, subject string) UserID {
	return UserID("user_" + digest26(issuer, subject))
}

// NewAPIKeyID returns a random API key id whose home is r.
func NewAPIKeyID(r Region) APIKeyID { return APIKeyID(newID("key", r)) }

// APIKeyIDFor returns the API key id that belongs to a user's idempotency key.
func APIKeyIDFor(r Region, user UserID, key string) APIKeyID {
	return APIKeyID(derivedID("key", r, string(user), key))
}

// NewWorkerID returns the id of a worker process that is starting now.
func NewWorkerID(r Region) WorkerID { return WorkerID(newID("work", r)) }

// NewCommandID returns a random command id.
func NewCommandID() CommandID { return CommandID("cmd_" + strings.ToLower(rand.Text())) }

// CommandIDFor derives a command id from what makes the command one and the same: retries of it give the same id.
func CommandIDFor(parts ...string) CommandID { return CommandID("cmd_" + digest26(parts...)) }

// HomeOf is the region that an aggregate's id names as its home; false when the id has another form.
func HomeOf(id string) (Region, bool) {
	f := strings.Split(id, "_")
	if len(f) != 3 || CheckRegion(Region(f[1])) != nil {
		return "", false
	}
	return Region(f[1]), true
}

// CheckRegion says what is wrong with a region's name, or nil.
func CheckRegion(r Region) error {
	if len(r) == 0 || len(r) > 32 || strings.Trim(string(r), "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("region %.40q: want 1 to 32 characters of a-z, 0-9 and '-'", string(r))
	}
	return nil
}

// CheckID says what is wrong with an identifier from outside, or nil. what names the field in the error.
func CheckID(what, id string) error {
	if len(id) == 0 || len(id) > 100 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
		return fmt.Errorf("%s %.40q: want 1 to 100 characters of a-z, 0-9, '_' and '-'", what, id)
	}
	return nil
}

// MaxModel bounds a model's name, in bytes.
const MaxModel = 100

// CheckModel says what is wrong with the name of a model, or nil: it stands in events, in the agent's configuration and on the wire.
func CheckModel(name string) error {
	const first = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	if len(name) == 0 || len(name) > MaxModel || !strings.Contains(first, name[:1]) || strings.Trim(name, first+"._:/@-") != "" {
		return fmt.Errorf("model %.40q: want 1 to %d letters, digits and ._:/@-, of which the first is a letter or a digit", name, MaxModel)
	}
	return nil
}

func newID(kind string, r Region) string {
	return kind + "_" + string(r) + "_" + strings.ToLower(rand.Text())
}

func derivedID(kind string, r Region, parts ...string) string {
	return kind + "_" + string(r) + "_" + digest26(parts...)
}

// digest26 is 130 bits over the length-prefixed parts, so ("ab","c") and ("a","bc") differ.
func digest26(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil)))[:26]
}

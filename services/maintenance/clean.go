package maintenance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/files"
	"vega/services/intake"
	"vega/services/scan"
)

// cleanAge is how long ago an object was stored, and a scan ended, before anything of theirs is removed.
const cleanAge = time.Hour

// Removed is what clean-ups have removed.
type Removed struct {
	Objects int
	Bytes   int64
	Uploads int // to the file storage that had been begun and abandoned
}

// cleaner is what a clean-up knows from the one before, so that it reads only the histories of scans that have something new.
type cleaner struct {
	last  time.Time              // start of the last one that went through
	later map[events.ScanID]bool // scans that had objects then and were not old enough
}

// Clean removes objects that nobody needs: those of scans' attempts that no event of the scan names, and snapshots that no repository has any more.
// The log alone says so, asked right before each removal; nothing is touched that is younger than an hour, older than the log, or of a scan that the
// log does not know: it may belong to another log. Exports and uploads, which no event names, are removed by age. A crash in the middle leaves the rest for
// the next clean-up.
func (m *Maintenance) Clean(ctx context.Context, now time.Time) (Removed, error) {
	m.sweeping.Lock()
	defer m.sweeping.Unlock()
	if m.Files == nil {
		return Removed{}, nil
	}
	info, err := m.Store.Info(ctx)
	if err != nil {
		return Removed{}, err
	}
	c := &cleaning{m: m, now: now, from: info.Created}
	err = errors.Join(c.scans(ctx), c.snapshots(ctx), c.exports(ctx), c.uploads(ctx))
	m.mu.Lock()
	m.status.Removed.Objects += c.removed.Objects
	m.status.Removed.Bytes += c.removed.Bytes
	m.status.Removed.Uploads += c.removed.Uploads
	m.status.LastClean = now
	m.mu.Unlock()
	if c.removed.Objects+c.removed.Uploads > 0 {
		m.Log.Info("left-over objects removed", "objects", c.removed.Objects, "bytes", c.removed.Bytes, "uploads", c.removed.Uploads)
	}
	if err != nil {
		return c.removed, fmt.Errorf("clean up: %w", err)
	}
	return c.removed, nil
}

// cleaning is one clean-up.
type cleaning struct {
	m       *Maintenance
	now     time.Time
	from    time.Time // when the log was made
	removed Removed
}

// mine says that an object is of an age at which it may be removed.
func (c *cleaning) mine(o files.Object) bool {
	return o.Modified.After(c.from) && c.now.Sub(o.Modified) > cleanAge
}

func (c *cleaning) remove(ctx context.Context, o files.Object) error {
	if err := c.m.Files.Delete(ctx, o.Key); err != nil {
		return err
	}
	c.removed.Objects++
	c.removed.Bytes += o.Bytes
	return nil
}

const scansFolder = "scans/"

// scans looks at the objects of scans, one scan after the other.
func (c *cleaning) scans(ctx context.Context) error {
	later := map[events.ScanID]bool{}
	var (
		id  events.ScanID
		all []files.Object // of that scan
	)
	finish := func() error {
		if id == "" {
			return nil
		}
		again, err := c.scan(ctx, id, all)
		if again {
			later[id] = true
		}
		return err
	}
	for o, err := range c.m.Files.List(ctx, scansFolder) {
		if err != nil {
			return err
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(o.Key, scansFolder), "/")
		if events.ScanID(name) != id {
			if err := finish(); err != nil {
				return err
			}
			id, all = events.ScanID(name), all[:0]
		}
		all = append(all, o)
	}
	if err := finish(); err != nil {
		return err
	}
	c.m.clean = cleaner{c.now, later}
	return nil
}

// scan removes what no event of a scan names, once the scan is over for long enough. True: look again next time.
func (c *cleaning) scan(ctx context.Context, id events.ScanID, all []files.Object) (again bool, err error) {
	newest := slices.MaxFunc(all, func(a, b files.Object) int { return a.Modified.Compare(b.Modified) }).Modified
	if !c.m.clean.later[id] && newest.Before(c.m.clean.last.Add(-2*cleanAge)) {
		return false, nil // the last clean-up saw all of this
	}
	if events.CheckID("scan_id", string(id)) != nil {
		return false, nil // not ours
	}
	if c.m.census.unfinished(id) {
		return true, nil
	}
	past, _, err := c.m.Store.Load(ctx, events.ScanOf(c.m.Store.Region(), id), events.Head{})
	if err != nil {
		if errors.Is(err, eventstore.ErrUnavailable) || ctx.Err() != nil {
			return false, err
		}
		c.m.Log.Warn("scan not cleaned up", "scan_id", id, "err", err) // its history cannot be read: it keeps all that it has
		return false, nil
	}
	var s scan.Scan
	named := map[string]bool{}
	for _, r := range past {
		switch e := r.Event.(type) {
		case events.Unknown:
			return false, nil // a later release may name objects in it
		case events.StageCompleted:
			for _, o := range append(slices.Clone(e.Artifacts), deref(e.Result)...) {
				named[o.Key] = true
			}
			if e.Compared != nil {
				for _, o := range deref(e.Compared.Ledger) {
					named[o.Key] = true
				}
			}
		case events.UnitCompleted:
			for _, o := range append(slices.Clone(e.Artifacts), deref(e.Result)...) {
				named[o.Key] = true
			}
		default: // names no object
		}
		s = s.Evolve(r)
	}
	switch {
	case s.Status == scan.None:
		return false, nil
	case !s.Status.Terminal() || c.now.Sub(s.FinishedAt) < cleanAge:
		return true, nil
	}
	// Nothing is appended to a scan that is over: what is not named now never will be.
	for _, o := range all {
		switch {
		case named[o.Key]:
		case !c.mine(o):
			again = again || o.Modified.After(c.from)
		default:
			if err := c.remove(ctx, o); err != nil {
				return true, err
			}
		}
	}
	return again, nil
}

func deref(o *events.Object) []events.Object {
	if o == nil {
		return nil
	}
	return []events.Object{*o}
}

const snapshotsFolder = "snapshots/"

// snapshots looks at the objects of snapshots. Which of them are needed is folded from all repositories' events, and read on before each removal.
func (c *cleaning) snapshots(ctx context.Context) error {
	stored := map[events.SnapshotID][]files.Object{}
	for o, err := range c.m.Files.List(ctx, snapshotsFolder) {
		if err != nil {
			return err
		}
		digest, _, _ := strings.Cut(strings.TrimPrefix(o.Key, snapshotsFolder), "/")
		id := events.SnapshotID("sha256:" + digest)
		if o.Key == intake.ManifestKey(string(id)) || o.Key == intake.PackKey(string(id)) {
			stored[id] = append(stored[id], o)
		}
	}
	for id, objects := range stored {
		if slices.ContainsFunc(objects, func(o files.Object) bool { return !c.mine(o) }) {
			delete(stored, id)
		}
	}
	if len(stored) == 0 {
		return nil
	}
	use := &usage{store: c.m.Store, of: stored, by: map[events.SnapshotID]map[events.RepositoryID]bool{}, deleted: map[events.RepositoryID]bool{}, ingesting: map[events.RepositoryID]string{}}
	scanned := c.m.census.sources()
	for id, objects := range stored {
		if err := use.readOn(ctx); err != nil {
			return err
		}
		// An upload of the same tree that is on its way may have found these objects and be about to name them. One that begins from here on takes longer
		// to get there than the removal.
		if use.unsure || len(use.ingesting) > 0 {
			return nil // next time
		}
		if use.needed(id) || scanned[id] {
			continue
		}
		// The manifest first: while it is there, the snapshot counts as there whole.
		slices.SortFunc(objects, func(a, b files.Object) int { return strings.Compare(a.Key, b.Key) })
		for _, o := range objects {
			if err := c.remove(ctx, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// usage is which repositories have which of the stored snapshots.
type usage struct {
	store     *eventstore.Store
	of        map[events.SnapshotID][]files.Object
	at        events.Seq
	by        map[events.SnapshotID]map[events.RepositoryID]bool
	deleted   map[events.RepositoryID]bool
	ingesting map[events.RepositoryID]string
	unsure    bool // some event could not be understood
}

// readOn folds what has happened to repositories up to now.
func (u *usage) readOn(ctx context.Context) error {
	last, known, err := u.store.LoadLast(ctx, events.Aggregate{Region: u.store.Region(), Kind: events.RepositoryAggregate, ID: "*"}) // of all
	if err != nil || !known || last.Seq <= u.at {
		return err
	}
	for batch, err := range u.store.FollowBatches(ctx, u.at, censusBatch, events.KindFilter(u.store.Region(), events.RepositoryAggregate)) {
		if bad, ok := errors.AsType[*eventstore.UnreadableError](err); ok {
			u.unsure, u.at = true, max(u.at, bad.Event.Seq)
		} else if err != nil {
			return err
		}
		for _, r := range batch {
			u.fold(r)
		}
		if u.at >= last.Seq {
			return nil
		}
	}
	return ctx.Err()
}

func (u *usage) fold(r events.Recorded) {
	u.at = r.Seq
	id := events.RepositoryID(r.Aggregate.ID)
	switch e := r.Event.(type) {
	case events.Unknown:
		u.unsure = true
	case events.IngestStarted:
		u.ingesting[id] = e.Upload
	case events.IngestFailed:
		if u.ingesting[id] == e.Upload {
			delete(u.ingesting, id)
		}
	case events.SnapshotTaken:
		if u.ingesting[id] == e.Upload {
			delete(u.ingesting, id)
		}
		if u.of[e.Snapshot] == nil {
			return
		}
		if u.by[e.Snapshot] == nil {
			u.by[e.Snapshot] = map[events.RepositoryID]bool{}
		}
		u.by[e.Snapshot][id] = true
	case events.RepositoryDeleted:
		u.deleted[id] = true
		delete(u.ingesting, id)
	default: // about no source
	}
}

func (u *usage) needed(id events.SnapshotID) bool {
	for repository := range u.by[id] {
		if !u.deleted[repository] {
			return true
		}
	}
	return false
}

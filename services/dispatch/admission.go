package dispatch

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"sync"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/scan"
)

// reservationLife is how long an id may sit in a user's slots before its scan exists. Its creator is then dead, or so slow that it conflicts.
const reservationLife = 30 * time.Second

// Admission makes scans within each user's limit. It is safe for concurrent use and exact over any number of processes: the set of active
// scans is an aggregate of its own.
type Admission struct {
	store *eventstore.Store
	limit int
	// queues keep this process's requests of one user from racing each other for the same append; other processes are kept away by the log.
	queues [64]queue
}

// queue is where users of one hash take turns.
type queue struct {
	mu   sync.Mutex                        // held over a user's load and append
	last map[events.UserID]events.Recorded // slots as this process last saw them; a hint, forgotten when it is large or wrong
}

// maxRemembered bounds what a queue remembers.
const maxRemembered = 1000

// NewAdmission returns an admission of at most limit active scans a user.
func NewAdmission(store *eventstore.Store, limit int) *Admission {
	return &Admission{store: store, limit: limit}
}

// Limit is the number of active scans a user may have.
func (a *Admission) Limit() int { return a.limit }

// Create makes the scan id as asked for and returns its state and the event that made it. The same id again returns the scan as it is by
// now. It returns *scan.LimitError when the user has too many active ones, *scan.NotAllowedError when id was abandoned, and the log's
// errors; after those the same call may be repeated with the same meta.Command.
func (a *Admission) Create(ctx context.Context, meta events.Meta, id events.ScanID, req events.ScanQueued) (scan.Scan, []events.Recorded, error) {
	if err := a.take(ctx, meta, id, req.User); err != nil {
		return scan.Scan{}, nil, err
	}
	// A crash here leaves an id in the slots without a scan; after reservationLife it is abandoned by whoever needs the place.
	agg, queue := events.ScanOf(a.store.Region(), id), scan.Queue{Request: req}
	evs, err := scan.Decide(scan.Scan{}, queue)
	if err != nil {
		return scan.Scan{}, nil, err
	}
	// An id is nearly always new: say so without asking first, and ask only when the log disagrees.
	recorded, err := a.store.Append(ctx, agg, events.Head{}, meta, evs...)
	if err == nil {
		return scan.Scan{}.Evolve(recorded[0]), recorded, nil
	}
	if !errors.Is(err, eventstore.ErrConflict) {
		return scan.Scan{}, nil, err
	}
	return eventstore.Do(ctx, a.store, agg, meta, func(s scan.Scan, _ events.Head) ([]events.Event, error) {
		return scan.Decide(s, queue)
	})
}

func (a *Admission) take(ctx context.Context, meta events.Meta, id events.ScanID, user events.UserID) error {
	h := fnv.New32a()
	_, _ = h.Write([]byte(user)) // a hash never fails
	q := &a.queues[h.Sum32()%uint32(len(a.queues))]
	q.mu.Lock()
	defer q.mu.Unlock()
	slots := events.SlotsOf(a.store.Region(), user)
	for fresh := false; ctx.Err() == nil; fresh = true {
		last, known := q.last[user]
		if fresh || !known {
			var err error
			if last, known, err = a.store.LoadLast(ctx, slots); err != nil {
				return err
			}
			fresh = true
		}
		var (
			state scan.Slots
			head  events.Head
		)
		if known {
			state, head = state.Evolve(last), last.Head()
		}
		var broken error
		evs, err := state.Take(user, id, meta.At, a.limit, func(s events.Slot) bool {
			over, err := a.over(ctx, meta.At, user, s)
			broken = errors.Join(broken, err)
			return over
		})
		if broken != nil {
			return broken
		}
		if (err != nil || len(evs) == 0) && !fresh {
			continue // only what the log says now may refuse
		}
		if err != nil || len(evs) == 0 {
			return err
		}
		// Being in the set is what makes a retry harmless here, so each try is a command of its own: an id that was dropped may come back.
		try := meta
		try.Command = events.CommandIDFor(string(meta.Command), "slot", strconv.FormatUint(uint64(head.Seq), 10))
		recorded, err := a.store.Append(ctx, slots, head, try, evs...)
		if err == nil {
			q.remember(user, recorded[0])
			return nil
		}
		if !errors.Is(err, eventstore.ErrConflict) {
			return err
		}
	}
	return ctx.Err()
}

// remember needs mu.
func (q *queue) remember(user events.UserID, r events.Recorded) {
	if q.last == nil || len(q.last) >= maxRemembered {
		q.last = map[events.UserID]events.Recorded{}
	}
	q.last[user] = r
}

// over asks the log whether a scan still counts. An id that has no event long after it was reserved is closed here; should its creator
// be alive after all, one of the two appends conflicts.
func (a *Admission) over(ctx context.Context, now time.Time, user events.UserID, s events.Slot) (bool, error) {
	agg := events.ScanOf(a.store.Region(), s.Scan)
	last, known, err := a.store.LoadLast(ctx, agg)
	if err != nil {
		return false, err
	}
	if known {
		return scan.Ends(last.Kind), nil
	}
	if now.Sub(s.At) < reservationLife {
		return false, nil
	}
	meta := events.Meta{Command: events.CommandIDFor("abandon", string(s.Scan)), Actor: events.BySystem("admission"), Cause: "slot without a scan", At: now}
	_, err = a.store.Append(ctx, agg, events.Head{}, meta, events.ScanAbandoned{User: user})
	if errors.Is(err, eventstore.ErrConflict) {
		return false, nil // it has just become a scan
	}
	if err != nil {
		return false, fmt.Errorf("abandon %s: %w", s.Scan, err)
	}
	return true, nil
}

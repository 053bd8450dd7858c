package llmproxy

import (
	"context"
	"errors"
	"time"

	"vega/events"
	"vega/events/eventstore"
)

// Spent is what a scan has spent so far, calls on their way at what is reserved for them. A scan without calls has spent nothing. Errors are those of the log.
func Spent(ctx context.Context, store *eventstore.Store, id events.ScanID) (events.Usage, error) {
	r, _, err := store.LoadLast(ctx, events.UsageOf(store.Region(), id))
	if err != nil {
		return events.Usage{}, err
	}
	e, _ := r.Event.(events.UsageRecorded)
	return e.Total(), nil
}

// ChargeLost charges a scan's calls whose time was over before now: their process is gone, and what they cost is not known. It returns how many. Doing it twice, or in two
// processes, is doing it once. Errors are those of the log.
func ChargeLost(ctx context.Context, store *eventstore.Store, id events.ScanID, now time.Time) (int, error) {
	return charge(ctx, store, id, now, overdue(now))
}

// ChargeLeft is ChargeLost for all calls of a scan that are on their way: only a process that knows that no proxy is alive, and answers no calls itself yet, may call it.
func ChargeLeft(ctx context.Context, store *eventstore.Store, id events.ScanID, now time.Time) (int, error) {
	return charge(ctx, store, id, now, func(events.Reservation) bool { return true })
}

func charge(ctx context.Context, store *eventstore.Store, id events.ScanID, now time.Time, lost func(events.Reservation) bool) (int, error) {
	for {
		r, _, err := store.LoadLast(ctx, events.UsageOf(store.Region(), id))
		if err != nil {
			return 0, err
		}
		e, ok := r.Event.(events.UsageRecorded)
		if !ok {
			return 0, nil // none, or a newer release's
		}
		l := after(e)
		l.chargeLost(lost)
		if len(l.Calls) == 0 {
			return 0, nil
		}
		of, _, err := store.LoadLast(ctx, events.ScanOf(store.Region(), id))
		if err != nil {
			return 0, err
		}
		meta := events.Meta{Command: events.NewCommandID(), Actor: events.BySystem("maintenance"), At: now.UTC()}
		_, err = store.AppendUsage(ctx, id, r.Head(), of.Seq, meta, l.UsageRecorded)
		if errors.Is(err, eventstore.ErrConflict) {
			continue // somebody else has written, perhaps just this
		}
		return len(l.Calls), err
	}
}

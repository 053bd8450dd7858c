package jsonfile

import (
	"cmp"
	"slices"

	"vega/events"
	"vega/projections"
	"vega/services/scan"
)

// queue knows the scans that wait for a worker, by priority and in the order in which they became ready, so that a scan's place is found
// without walking them all.
type queue struct {
	lines map[events.Priority][]place
	at    map[events.ScanID]standing
}

type place struct {
	ready events.Seq
	scan  events.ScanID
}

// standing is where a scan is in the lines.
type standing struct {
	priority events.Priority
	ready    events.Seq
}

func newQueue() *queue {
	return &queue{lines: map[events.Priority][]place{}, at: map[events.ScanID]standing{}}
}

// look takes note of a scan's row. Ready sequences only grow, so a newcomer nearly always goes to the end of its line.
func (q *queue) look(r *projections.Scan) {
	now := standing{r.Priority, r.Ready}
	was, waits := q.at[r.ID]
	if waits && r.Status == scan.Queued && was == now {
		return
	}
	if waits {
		if i, ok := q.index(was); ok {
			q.lines[was.priority] = slices.Delete(q.lines[was.priority], i, i+1)
		}
		delete(q.at, r.ID)
	}
	if r.Status == scan.Queued {
		i, _ := q.index(now)
		q.lines[now.priority] = slices.Insert(q.lines[now.priority], i, place{r.Ready, r.ID})
		q.at[r.ID] = now
	}
}

func (q *queue) index(s standing) (int, bool) {
	return slices.BinarySearchFunc(q.lines[s.priority], s.ready, func(p place, ready events.Seq) int { return cmp.Compare(p.ready, ready) })
}

// position is the scan's place among all that wait, from 1; 0 when it does not wait.
func (q *queue) position(id events.ScanID) int {
	s, waits := q.at[id]
	if !waits {
		return 0
	}
	before := 0
	for _, p := range events.Priorities() {
		if p == s.priority {
			i, _ := q.index(s)
			return before + i + 1
		}
		before += len(q.lines[p])
	}
	return 0
}

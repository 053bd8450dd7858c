package maintenance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"vega/events"
	"vega/events/eventstore"
	"vega/services/fleet"
)

// judge finds out which owners of scans are gone. It pings all of them on their own subjects and looks at the heartbeat entries of those that do not
// answer.
//
//   - "Nobody listens" has to be said twice, and for the whole grace. A worker that was not heard on the connection that this process has now may be the
//     one of the two that has not come back yet, so its grace is an eighth of the TTL, or 5 seconds, or the usual one, whichever is longest.
//   - A worker that is connected and silent is judged by its entry alone, and only when neither this process's connection nor the bucket has been made
//     anew for one TTL: until then entries of living workers may be missing.
//   - A worker that answers and does not hold a scan that is its own has forgotten it.
//   - The end of a one-scan runner is for its launcher to report, who knows why it stopped; when the launcher is gone, or says nothing for one TTL, it is
//     judged like any other.
type judge struct {
	m      *Maintenance
	pinger *fleet.Pinger
	wake   chan struct{} // buffered 1: a ping is due sooner than was thought

	mu      sync.Mutex // guards what follows, never held over I/O
	peers   map[events.WorkerID]*peer
	changes uint64 // of the census, when peers were last compared with it
	count   int    // peers that are watched
	link    uint64
	since   time.Time // of the present connection; zero: there is none
	bucket  fleet.Bucket
	trusted time.Time // since when nothing was lost from the bucket; zero: not known
}

// peer is one worker as this process sees it.
type peer struct {
	watched bool      // it has scans; else it is only remembered
	left    time.Time // when it had none any more
	next    time.Time // when it is pinged
	waiting time.Time // when the oldest ping since its last answer was sent; zero: none is open

	heard  time.Time // its last answer on this connection; zero: none
	gone   time.Time // since when nobody listens on its subject; zero: somebody does
	silent time.Time // since when its pings are not answered; zero: they are
	absent bool      // its entry was not there when that was looked at

	missing map[events.ScanID]*missing // what it does not hold though it should
}

// missing is a scan that its owner did not name in its answers.
type missing struct {
	generation  events.Seq
	since, last time.Time // of the answers
	answers     int
}

const (
	pingEvery    = 100 * time.Millisecond
	pingCost     = time.Millisecond      // a worker more makes the round so much longer: at most 1,000 pings a second
	confirmAfter = 50 * time.Millisecond // a living worker reconnects in less
	confirmEvery = 20 * time.Millisecond
	roundFloor   = 5 * time.Millisecond   // between two looks at who is due
	notHeldAfter = 5 * time.Second        // of answers without the scan
	answerGap    = 2 * time.Second        // answers that lie further apart say nothing about the time between
	remembered   = time.Hour              // that a worker without scans was heard
	silenceMost  = time.Second            // without an answer, at most, until a worker is suspicious
	lookMost     = 5 * time.Second        // between two looks at the entries of the suspicious, at most
	lookLeast    = 100 * time.Millisecond // and at least
	lookPatience = 2 * time.Second        // for one question about the bucket
	comeBack     = 5 * time.Second        // a living worker has connected and stored its entry again by then, however short the TTL is
	lookAtOnce   = 8                      // entries
)

func newJudge(m *Maintenance) *judge {
	return &judge{m: m, wake: make(chan struct{}, 1), peers: map[events.WorkerID]*peer{}}
}

// run judges until ctx ends. It may be called once.
func (j *judge) run(ctx context.Context) error {
	pinger, err := fleet.NewPinger(j.m.Store, j.answer)
	if err != nil {
		return err
	}
	defer pinger.Close()
	j.mu.Lock()
	j.pinger = pinger
	j.mu.Unlock()
	var looking sync.WaitGroup
	defer looking.Wait()
	looking.Go(func() { j.looks(ctx) })
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-j.wake:
		case <-j.m.census.fresh:
		case <-ctx.Done():
			return nil
		}
		t.Reset(j.round(time.Now()))
	}
}

// round pings who is due and returns how long it is until somebody is again.
func (j *judge) round(now time.Time) time.Duration {
	due := j.due(now)
	for _, id := range due {
		if events.CheckID("worker", string(id)) != nil {
			continue // no such subject: its entry decides
		}
		if err := j.pinger.Ping(id); err != nil {
			break // the connection is gone: so is the round
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.count == 0 {
		return min(j.m.opt.HeartbeatTTL/4, 10*time.Second) // whoever claims next wakes us
	}
	next := now.Add(time.Second)
	for _, p := range j.peers {
		if p.watched && p.next.Before(next) {
			next = p.next
		}
	}
	return max(next.Sub(now), roundFloor)
}

// due brings the peers up to date and takes those whose ping is due.
func (j *judge) due(now time.Time) []events.WorkerID {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.checkLink(now)
	watched, changes := j.m.census.watched(j.changes)
	if changes != j.changes {
		j.changes = changes
		j.watch(watched, now)
	}
	if j.since.IsZero() {
		return nil
	}
	every := max(pingEvery, time.Duration(j.count)*pingCost)
	silence := min(silenceMost, j.m.opt.HeartbeatTTL/8)
	var due []events.WorkerID
	for id, p := range j.peers {
		if !p.watched {
			continue
		}
		if !p.waiting.IsZero() && p.silent.IsZero() && now.Sub(p.waiting) > silence {
			p.silent = p.waiting
		}
		if p.next.After(now) {
			continue
		}
		due = append(due, id)
		p.next = now.Add(every)
		if p.waiting.IsZero() {
			p.waiting = now
		}
	}
	return due
}

// checkLink notices that the connection was made anew: then nothing is known about anybody. It needs mu.
func (j *judge) checkLink(now time.Time) {
	link, connected := j.pinger.Link(), j.pinger.Connected()
	if connected && link == j.link && !j.since.IsZero() {
		return
	}
	j.link, j.since = link, time.Time{}
	if connected {
		j.since = now
	}
	for _, p := range j.peers {
		p.waiting, p.heard, p.gone, p.silent, p.next, p.missing = time.Time{}, time.Time{}, time.Time{}, time.Time{}, time.Time{}, nil
	}
}

// watch makes the peers those that have scans. It needs mu.
func (j *judge) watch(ids []events.WorkerID, now time.Time) {
	want := make(map[events.WorkerID]bool, len(ids))
	for _, id := range ids {
		want[id] = true
		p := j.peers[id]
		if p == nil {
			p = &peer{}
			j.peers[id] = p
		}
		if !p.watched {
			p.watched, p.next, p.waiting, p.silent, p.gone, p.absent = true, time.Time{}, time.Time{}, time.Time{}, time.Time{}, false
		}
	}
	j.count = len(ids)
	for id, p := range j.peers {
		switch {
		case want[id]:
		case p.watched:
			p.watched, p.left, p.missing = false, now, nil
		case now.Sub(p.left) > remembered:
			delete(j.peers, id)
		}
	}
}

// answer is called for each answer to a ping, one at a time.
func (j *judge) answer(a fleet.Answer) {
	now := time.Now()
	j.mu.Lock()
	defer j.mu.Unlock()
	p := j.peers[a.Worker]
	if p == nil || a.Link != j.link || j.since.IsZero() || j.pinger.Link() != a.Link {
		return // it was asked over a connection that is no more
	}
	p.waiting = time.Time{}
	if !a.Gone {
		p.heard, p.silent = now, time.Time{}
		if !a.Sent.Before(p.gone) {
			p.gone = time.Time{}
		}
		j.compare(a, p, now)
		return
	}
	if p.gone.IsZero() {
		p.gone = a.Sent
	}
	grace := j.grace(p)
	if a.Sent.Sub(p.gone) >= grace {
		j.condemn(a.Worker, Disconnected, p.gone, now)
		return
	}
	// It is asked more often at first: one that lost its connection twice in a row was there in between.
	next := p.gone.Add(grace)
	if a.Sent.Sub(p.gone) < confirmAfter-confirmEvery {
		next = a.Sent.Add(confirmEvery)
	}
	if p.next.After(next) {
		p.next = next
		select {
		case j.wake <- struct{}{}:
		default: // it looks anyway
		}
	}
}

// grace is how long nobody has to listen on a worker's subject until it is gone. It needs mu.
func (j *judge) grace(p *peer) time.Duration {
	if p.heard.IsZero() {
		return max(j.m.opt.DisconnectGrace, j.m.opt.HeartbeatTTL/8, comeBack)
	}
	return max(j.m.opt.DisconnectGrace, confirmAfter)
}

// compare notes which of its scans a worker does not name. A moment after its claim, and a moment before its end is in the log, that is as it should
// be; it counts when it goes on while the worker keeps answering. It needs mu.
func (j *judge) compare(a fleet.Answer, p *peer, now time.Time) {
	if a.Pong.Held == nil || !p.watched {
		return
	}
	gap := max(answerGap, 2*time.Duration(j.count)*pingCost)
	found := map[events.ScanID]*missing{}
	for _, h := range j.m.census.of(a.Worker) {
		if a.Pong.Held[h.scan] == h.generation {
			continue
		}
		x := p.missing[h.scan]
		if x == nil || x.generation != h.generation || now.Sub(x.last) > gap {
			x = &missing{generation: h.generation, since: now}
		}
		x.last = now
		x.answers++
		found[h.scan] = x
		if x.answers >= 3 && now.Sub(x.since) >= notHeldAfter && !j.launcherReports(h, x.since, now) {
			j.m.submit(verdict{h.scan, h.generation, h.worker, h.launcher, NotHeld})
		}
	}
	p.missing = found
}

// condemn says that a worker is gone since a moment. It needs mu.
func (j *judge) condemn(id events.WorkerID, reason string, since, now time.Time) {
	for _, h := range j.m.census.of(id) {
		if !j.launcherReports(h, since, now) {
			j.m.submit(verdict{h.scan, h.generation, h.worker, h.launcher, reason})
		}
	}
}

// launcherReports says that the scan belongs to a runner whose launcher is alive and still has time to report why it ended. It needs mu.
func (j *judge) launcherReports(h holding, since, now time.Time) bool {
	if h.launcher == "" || now.Sub(since) > j.m.opt.HeartbeatTTL {
		return false
	}
	l := j.peers[h.launcher]
	if l == nil {
		return true // it will be watched in a moment
	}
	disconnected := !l.gone.IsZero() && now.Sub(l.gone) >= j.grace(l)
	return !disconnected && !(l.absent && j.trusts(now))
}

// trusts says that an entry that is not there now is missing because its worker let it expire. It needs mu.
func (j *judge) trusts(now time.Time) bool {
	quiet := max(j.m.opt.HeartbeatTTL, comeBack)
	return !j.since.IsZero() && !j.trusted.IsZero() && now.Sub(j.since) >= quiet && now.Sub(j.trusted) >= quiet && j.pinger.Link() == j.link && j.pinger.Connected()
}

// looks watches over the bucket, and over the entries of workers that are suspicious.
func (j *judge) looks(ctx context.Context) {
	ttl := j.m.opt.HeartbeatTTL
	every := min(max(ttl/8, lookLeast), lookMost)
	var last time.Time
	for ; ctx.Err() == nil; _ = wait(ctx, every) {
		now := time.Now()
		suspects := j.suspects()
		if len(suspects) == 0 && now.Sub(last) < ttl/4 {
			continue
		}
		last = now
		if !j.bucketIsWhole(ctx) {
			continue
		}
		absent, err := j.absent(ctx, suspects)
		// What was lost while we looked was not missing before.
		if err != nil || !j.bucketIsWhole(ctx) {
			j.distrust(err)
			continue
		}
		j.sentence(suspects, absent, time.Now())
	}
}

// suspects are the watched workers that do not answer.
func (j *judge) suspects() []events.WorkerID {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []events.WorkerID
	for id, p := range j.peers {
		if p.watched && p.suspicious() {
			out = append(out, id)
		}
	}
	return out
}

func (p *peer) suspicious() bool { return !p.silent.IsZero() || !p.gone.IsZero() }

// bucketIsWhole looks at the bucket, makes it again when it is gone, and notes when something was lost from it.
func (j *judge) bucketIsWhole(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	b, err := fleet.LookAtBucket(ctx, j.m.Store)
	if errors.Is(err, fleet.ErrNoBucket) {
		if err = eventstore.EnsureHeartbeats(ctx, j.m.Store.JetStream(), j.m.Store.Region()); err == nil {
			j.m.Log.Info("heartbeat bucket made again")
			b, err = fleet.LookAtBucket(ctx, j.m.Store)
		}
	}
	if err != nil {
		j.distrust(err)
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	whole := !j.trusted.IsZero() && b.Succeeds(j.bucket)
	if !whole {
		j.trusted = time.Now()
	}
	j.bucket = b
	return whole
}

// distrust begins the TTL without verdicts anew when the bucket could not be asked: it may be that workers could not reach it either.
func (j *judge) distrust(err error) {
	if err == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.trusted = time.Time{}
}

// absent asks for the entries of ids and returns those that have none.
func (j *judge) absent(ctx context.Context, ids []events.WorkerID) (map[events.WorkerID]bool, error) {
	var (
		asking sync.WaitGroup
		mu     sync.Mutex // guards what follows
		none   = map[events.WorkerID]bool{}
		failed error
	)
	for part := range slices.Chunk(ids, max(1, (len(ids)+lookAtOnce-1)/lookAtOnce)) {
		asking.Go(func() {
			for _, id := range part {
				once, cancel := context.WithTimeout(ctx, lookPatience)
				there, err := false, error(nil)
				if events.CheckID("worker", string(id)) == nil { // else no such worker can have an entry
					there, err = fleet.Beating(once, j.m.Store, id)
				}
				cancel()
				mu.Lock()
				failed = cmp.Or(failed, err)
				if !there {
					none[id] = true
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	asking.Wait()
	return none, failed
}

// sentence judges the suspects that are still suspicious by whether they have an entry.
func (j *judge) sentence(suspects []events.WorkerID, absent map[events.WorkerID]bool, now time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, id := range suspects {
		p := j.peers[id]
		if p == nil || !p.watched {
			continue
		}
		p.absent = absent[id]
		if p.absent && p.suspicious() && j.trusts(now) {
			j.condemn(id, HeartbeatLost, p.doubted(), now)
		}
	}
}

// doubted is since when the worker is suspicious.
func (p *peer) doubted() time.Time {
	if p.silent.IsZero() || (!p.gone.IsZero() && p.gone.Before(p.silent)) {
		return p.gone
	}
	return p.silent
}

// detail says in words what a verdict rests on.
func (j *judge) detail(v verdict) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	p := j.peers[v.worker]
	if p == nil {
		return ""
	}
	now := time.Now()
	ago := func(t time.Time) string { return now.Sub(t).Round(time.Millisecond).String() }
	switch v.reason {
	case Disconnected:
		if !p.gone.IsZero() {
			return fmt.Sprintf("no connection of its worker for %s", ago(p.gone))
		}
	case HeartbeatLost:
		if t := p.doubted(); !t.IsZero() {
			return fmt.Sprintf("no heartbeat of its worker within %s, no answer for %s", j.m.opt.HeartbeatTTL, ago(t))
		}
	case NotHeld:
		if x := p.missing[v.scan]; x != nil {
			return fmt.Sprintf("its worker has answered without it for %s", ago(x.since))
		}
	}
	return ""
}

func (j *judge) describe(s *Status) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for id, p := range j.peers {
		if !p.watched {
			continue
		}
		s.Watched++
		switch {
		case p.suspicious():
			s.Suspects = append(s.Suspects, id)
		case !p.heard.IsZero():
			s.Heard++
		}
	}
	slices.Sort(s.Suspects)
}

package auth

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"vega/events"
)

// LimitKind is a kind of caller that a limit holds for. It is also the name of the policy in the headers.
type LimitKind string

const (
	LimitUser   LimitKind = "user"
	LimitAPIKey LimitKind = "api_key"
)

// Limited is one caller: a kind and an id within it.
type Limited struct {
	Kind LimitKind
	ID   string
}

// LimiterOptions are what a Limiter needs.
type LimiterOptions struct {
	Limits RateLimits
	NATS   *nats.Conn       // to the other processes; nil: there are none
	Region events.Region    // limits are per region
	Now    func() time.Time // nil: time.Now; the same clock as Allow is given
	Every  time.Duration    // between batches of what was admitted; 0: tellEvery
}

const (
	limitWindow = time.Minute           // of every limit
	tellEvery   = 50 * time.Millisecond // how long an admission may be kept from the others
	// tellShare of a caller's limit, admitted and not told, is told at once.
	tellShare    = 8
	tellBatch    = 500     // callers in one message
	maxLimited   = 100_000 // buckets kept; about 15 MB
	maxLimitedID = 128     // bytes of an id that another process tells
)

// Limiter holds callers to so many requests a minute over all processes of a region, without a store. It is safe for concurrent use.
//
// Each caller has a bucket of the limit's size that fills at the limit's pace (GCRA: one number, the time at which it will be full). Every process has
// its own and takes from it what it admits and what the others say they admitted. So:
//
//   - one process is exact;
//   - several admit too much at most what each admits of one caller before the others hear of it: tellEvery, or an eighth of the limit if that is sooner,
//     and the message's way. It is paid back, because what comes late is taken from the bucket too, even below empty;
//   - a process that starts knows what is admitted from then on, so a restart forgets one minute at most;
//   - without NATS each process holds the limits by itself.
//
// Whoever may publish in the region's control subjects may use up somebody's limit.
type Limiter struct {
	o    LimiterOptions
	self string        // tells own messages from others'
	base time.Time     // buckets count from here, so that a clock that is set changes nothing
	user pace          // of LimitUser
	key  pace          // of LimitAPIKey
	wake chan struct{} // there is something to tell
	now  chan struct{} // it should not wait
	cap  int           // maxLimited

	mu      sync.Mutex // guards what follows; never held over I/O
	full    map[Limited]time.Duration
	untold  map[Limited]int
	sweepAt int           // buckets at which full ones are looked for
	swept   time.Duration // when that was done last
}

// pace is a limit as GCRA has it.
type pace struct {
	limit int
	step  time.Duration // between two requests
	burst time.Duration // limit steps
}

func newPace(limit int) pace {
	if limit <= 0 {
		return pace{}
	}
	step := limitWindow / time.Duration(limit)
	return pace{limit, step, step * time.Duration(limit)}
}

// NewLimiter returns a limiter. It tells and hears nothing until Run runs.
func NewLimiter(o LimiterOptions) *Limiter {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Every == 0 {
		o.Every = tellEvery
	}
	return &Limiter{
		o: o, self: rand.Text(), base: o.Now(), user: newPace(o.Limits.UserPerMinute), key: newPace(o.Limits.APIKeyPerMinute),
		wake: make(chan struct{}, 1), now: make(chan struct{}, 1), cap: maxLimited, sweepAt: 1024,
		full: map[Limited]time.Duration{}, untold: map[Limited]int{},
	}
}

// On reports whether any limit is set.
func (l *Limiter) On() bool { return l.user.limit > 0 || l.key.limit > 0 }

func (l *Limiter) pace(k LimitKind) pace {
	switch k {
	case LimitUser:
		return l.user
	case LimitAPIKey:
		return l.key
	default:
		return pace{}
	}
}

// Decision is what a limit says of one request.
type Decision struct {
	Allowed bool
	Policy  LimitKind
	Limit   int // requests a minute; 0: there is no limit, and the rest says nothing
	// Remaining is how many more requests would be admitted now.
	Remaining int
	// ResetAfter is when the whole limit is there again, or with Remaining 0 when the next request is.
	ResetAfter time.Duration
	// RetryAfter is when a refused request would be admitted; 0 when it was.
	RetryAfter time.Duration
}

// Decisions are those of all limits that hold for one request.
type Decisions []Decision

// Allow takes one request from a caller's bucket, or refuses it.
func (l *Limiter) Allow(now time.Time, kind LimitKind, id string) Decision {
	p := l.pace(kind)
	if p.limit == 0 {
		return Decision{Allowed: true, Policy: kind}
	}
	at, who := now.Sub(l.base), Limited{kind, id}
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := p.look(kind, l.full[who], at); !d.Allowed {
		return d
	}
	return l.admit(who, p, at)
}

// AllowAll takes one request from the buckets of all callers that a request comes from (a user and the key in their name), or from none when one of
// them refuses. Callers without a limit have no decision.
func (l *Limiter) AllowAll(now time.Time, callers ...Limited) Decisions {
	at, out := now.Sub(l.base), make(Decisions, 0, len(callers))
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, who := range callers {
		if p := l.pace(who.Kind); p.limit > 0 {
			out = append(out, p.look(who.Kind, l.full[who], at))
		}
	}
	if !out.Allowed() {
		return out
	}
	out = out[:0]
	for _, who := range callers {
		if p := l.pace(who.Kind); p.limit > 0 {
			out = append(out, l.admit(who, p, at))
		}
	}
	return out
}

// look says what a bucket that will be full at full has for a request at at, and takes nothing.
func (p pace) look(policy LimitKind, full, at time.Duration) Decision {
	owed := max(0, full-at)
	d := Decision{Policy: policy, Limit: p.limit, Allowed: true, Remaining: int(max(0, p.burst-owed) / p.step), ResetAfter: owed}
	if d.Remaining == 0 {
		d.Allowed = false
		d.RetryAfter = owed + p.step - p.burst
		d.ResetAfter = d.RetryAfter
	}
	return d
}

// admit takes one request from a bucket, under mu, notes that the others are to know, and says what is left.
func (l *Limiter) admit(who Limited, p pace, at time.Duration) Decision {
	l.take(who, p, 1, at)
	d := p.look(who.Kind, l.full[who], at)
	d.Allowed, d.RetryAfter = true, 0
	if l.o.NATS == nil {
		return d
	}
	l.untold[who]++
	if len(l.untold) == 1 {
		signal(l.wake)
	}
	if l.untold[who] > p.limit/tellShare {
		signal(l.wake)
		signal(l.now)
	}
	return d
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// take takes n requests from a bucket, under mu; it may owe one more bucket than it holds.
func (l *Limiter) take(who Limited, p pace, n int, at time.Duration) {
	full, known := l.full[who]
	if !known && len(l.full) >= min(l.sweepAt, l.cap) {
		l.makeRoom(at)
	}
	l.full[who] = min(max(full, at)+time.Duration(n)*p.step, at+2*p.burst)
}

// makeRoom drops buckets that are full, which is what a bucket that is not there is too. When as many callers as the cap are at work at once, one of them,
// whichever comes first, starts anew.
func (l *Limiter) makeRoom(at time.Duration) {
	if len(l.full) < l.cap || at-l.swept > time.Second { // not for every request of a crowd
		l.sweep(at)
	}
	if len(l.full) < l.cap {
		return
	}
	for who := range l.full {
		delete(l.full, who)
		return
	}
}

func (l *Limiter) sweep(at time.Duration) {
	for who, full := range l.full {
		if full <= at {
			delete(l.full, who)
		}
	}
	l.swept, l.sweepAt = at, max(1024, 2*len(l.full))
}

// Run tells the other processes what this one admits, and hears what they do, until ctx ends; it returns ctx's error. That NATS is away ends nothing.
func (l *Limiter) Run(ctx context.Context) error {
	if !l.On() {
		<-ctx.Done()
		return ctx.Err()
	}
	if l.o.NATS != nil {
		sub, err := l.o.NATS.Subscribe(events.LimitsSubject(l.o.Region), func(m *nats.Msg) { l.hear(m.Data) })
		if err != nil {
			return fmt.Errorf("follow what other processes admit: %w", err)
		}
		defer func() { _ = sub.Unsubscribe() }() // fails when the connection is closed
	}
	minute := time.NewTicker(limitWindow)
	defer minute.Stop()
	for {
		select {
		case <-l.wake:
		case <-minute.C:
			l.mu.Lock()
			l.sweep(l.o.Now().Sub(l.base))
			l.mu.Unlock()
			continue
		case <-ctx.Done():
			l.tell() // what was admitted before the end
			return ctx.Err()
		}
		soon := time.NewTimer(l.o.Every)
		select {
		case <-soon.C:
		case <-l.now:
		case <-ctx.Done():
		}
		soon.Stop()
		l.tell()
	}
}

// admitted is the message: how many requests of whom a process admitted since its last one.
type admitted struct {
	From string                       `json:"from"`
	Took map[LimitKind]map[string]int `json:"took"`
}

// tell publishes what is untold. What cannot be told now never is: the others would take it for news when it is long over.
func (l *Limiter) tell() {
	l.mu.Lock()
	untold := l.untold
	l.untold = make(map[Limited]int, min(len(untold), 64))
	l.mu.Unlock()
	if l.o.NATS == nil || !l.o.NATS.IsConnected() {
		return
	}
	m, n := admitted{l.self, map[LimitKind]map[string]int{}}, 0
	publish := func() {
		if data, err := json.Marshal(m); err == nil && n > 0 {
			_ = l.o.NATS.Publish(events.LimitsSubject(l.o.Region), data) // what fails is not told
		}
		m.Took, n = map[LimitKind]map[string]int{}, 0
	}
	for who, count := range untold {
		if m.Took[who.Kind] == nil {
			m.Took[who.Kind] = map[string]int{}
		}
		m.Took[who.Kind][who.ID] = count
		if n++; n == tellBatch {
			publish()
		}
	}
	publish()
}

// hear takes from the buckets what another process admitted.
func (l *Limiter) hear(data []byte) {
	var m admitted
	if json.Unmarshal(data, &m) != nil || m.From == l.self {
		return
	}
	at := l.o.Now().Sub(l.base)
	l.mu.Lock()
	defer l.mu.Unlock()
	for kind, took := range m.Took {
		p := l.pace(kind)
		if p.limit == 0 {
			continue // this process has no such limit
		}
		for id, n := range took {
			if n > 0 && len(id) <= maxLimitedID {
				l.take(Limited{kind, id}, p, min(n, 2*p.limit), at)
			}
		}
	}
}

// Allowed reports whether no limit refused.
func (ds Decisions) Allowed() bool {
	for _, d := range ds {
		if !d.Allowed {
			return false
		}
	}
	return true
}

// Write writes the decisions into the headers of an answer: RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-11), the older
// RateLimit-Limit, -Remaining and -Reset for the limit that is nearest, and Retry-After when a limit refused. Without a limit it writes nothing.
func (ds Decisions) Write(h http.Header) {
	var policies, limits []string
	var tightest Decision
	var retry time.Duration
	for _, d := range ds {
		if d.Limit == 0 {
			continue
		}
		policies = append(policies, fmt.Sprintf("%q;q=%d;w=%d", d.Policy, d.Limit, int(limitWindow.Seconds())))
		limits = append(limits, fmt.Sprintf("%q;r=%d;t=%d", d.Policy, d.Remaining, seconds(d.ResetAfter)))
		if tightest.Limit == 0 || d.Remaining < tightest.Remaining || d.Remaining == tightest.Remaining && d.RetryAfter > tightest.RetryAfter {
			tightest = d
		}
		if !d.Allowed {
			retry = max(retry, d.RetryAfter)
		}
	}
	if len(policies) == 0 {
		return
	}
	h.Set("RateLimit-Policy", strings.Join(policies, ", "))
	h.Set("RateLimit", strings.Join(limits, ", "))
	h.Set("RateLimit-Limit", strconv.Itoa(tightest.Limit))
	h.Set("RateLimit-Remaining", strconv.Itoa(tightest.Remaining))
	h.Set("RateLimit-Reset", strconv.Itoa(seconds(tightest.ResetAfter)))
	if !ds.Allowed() {
		h.Set("Retry-After", strconv.Itoa(max(1, seconds(retry))))
	}
}

// Write writes one decision; see Decisions.Write.
func (d Decision) Write(h http.Header) { Decisions{d}.Write(h) }

// seconds rounds up: who waits that long is not too early.
func seconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }

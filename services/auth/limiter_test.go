package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"vega/events"
	"vega/events/eventstore/natstest"
)

const region = events.Region("local")

// running is a limiter whose Run runs until the test ends, once it follows the others.
func running(t testing.TB, o LimiterOptions) *Limiter {
	t.Helper()
	l := NewLimiter(o)
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := l.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
	})
	t.Cleanup(func() { stop(); wg.Wait() })
	until(t, "the limiter follows the others", func() bool { return o.NATS == nil || o.NATS.NumSubscriptions() > 0 })
	if o.NATS != nil {
		if err := o.NATS.Flush(); err != nil { // the server knows of it
			t.Fatal(err)
		}
	}
	return l
}

// until waits for a condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick, end := time.NewTicker(time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// left is how many requests a limiter would admit of a caller.
func (l *Limiter) left(now time.Time, kind LimitKind, id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pace(kind).look(kind, l.full[Limited{kind, id}], now.Sub(l.base)).Remaining
}

// owed is how many requests a caller's bucket lacks, in whole ones.
func (l *Limiter) owed(now time.Time, kind LimitKind, id string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int((l.full[Limited{kind, id}] - now.Sub(l.base)) / l.pace(kind).step)
}

func TestOneProcessAdmitsExactlyTheLimit(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 7, 60, 1000, 333_333, 1_000_000} {
		clk := newClock()
		l := NewLimiter(LimiterOptions{Limits: RateLimits{UserPerMinute: limit}, Now: clk.Now})
		var admitted atomic.Int64
		crowd := func(tries int) {
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					for range tries/64 + 1 {
						if l.Allow(clk.Now(), LimitUser, "user_a").Allowed {
							admitted.Add(1)
						}
					}
				})
			}
			wg.Wait()
		}
		crowd(limit + 1000)
		if got := admitted.Load(); got != int64(limit) {
			t.Errorf("limit %d: admitted %d", limit, got)
		}
		step := newPace(limit).step
		for i, d := range []time.Duration{step - 1, 1, step, 30 * time.Second} {
			before := admitted.Load()
			clk.pass(d)
			crowd(limit + 1000)
			want := []int64{0, 1, 1, int64(30 * time.Second / step)}[i]
			if got := admitted.Load() - before; got != want {
				t.Errorf("limit %d: after %s more: admitted %d, want %d", limit, d, got, want)
			}
		}
		clk.pass(time.Hour) // a bucket does not hold more than the limit
		before := admitted.Load()
		crowd(limit + 1000)
		if got := admitted.Load() - before; got != int64(limit) {
			t.Errorf("limit %d: after an idle hour: admitted %d", limit, got)
		}
	}
}

func TestDecisionsSayWhatIsLeftAndWhenToComeAgain(t *testing.T) {
	t.Parallel()
	clk := newClock()
	l := NewLimiter(LimiterOptions{Limits: RateLimits{UserPerMinute: 3}, Now: clk.Now})
	for i, want := range []Decision{
		{Allowed: true, Remaining: 2, ResetAfter: 20 * time.Second},
		{Allowed: true, Remaining: 1, ResetAfter: 40 * time.Second},
		{Allowed: true, Remaining: 0, ResetAfter: 20 * time.Second},
		{Allowed: false, Remaining: 0, ResetAfter: 20 * time.Second, RetryAfter: 20 * time.Second},
	} {
		want.Policy, want.Limit = LimitUser, 3
		if got := l.Allow(clk.Now(), LimitUser, "user_a"); got != want {
			t.Errorf("request %d: %+v, want %+v", i+1, got, want)
		}
	}
	if d := l.Allow(clk.Now(), LimitUser, "user_b"); !d.Allowed {
		t.Errorf("another user: %+v", d)
	}
	if d := l.Allow(clk.Now(), LimitAPIKey, "key_a"); !d.Allowed || d.Limit != 0 {
		t.Errorf("without a limit: %+v", d)
	}
	clk.pass(20*time.Second - 1)
	if d := l.Allow(clk.Now(), LimitUser, "user_a"); d.Allowed || d.RetryAfter != 1 {
		t.Errorf("a moment too early: %+v", d)
	}
	clk.pass(1)
	if d := l.Allow(clk.Now(), LimitUser, "user_a"); !d.Allowed {
		t.Errorf("after RetryAfter: %+v", d)
	}
}

func TestARefusalTakesNothingFromAnyBucket(t *testing.T) {
	t.Parallel()
	clk := newClock()
	l := NewLimiter(LimiterOptions{Limits: RateLimits{UserPerMinute: 5, APIKeyPerMinute: 2}, Now: clk.Now})
	user, key := Limited{LimitUser, "user_a"}, Limited{LimitAPIKey, "key_a"}
	for i, want := range []struct {
		ok        bool
		user, key int
	}{{true, 4, 1}, {true, 3, 0}, {false, 3, 0}, {false, 3, 0}} {
		ds := l.AllowAll(clk.Now(), user, key)
		if ds.Allowed() != want.ok || len(ds) != 2 || ds[0].Remaining != want.user || ds[1].Remaining != want.key {
			t.Errorf("request %d: %+v, want %+v", i+1, ds, want)
		}
	}
	if ds := l.AllowAll(clk.Now(), user, Limited{LimitAPIKey, "key_b"}); !ds.Allowed() {
		t.Errorf("with another key: %+v", ds)
	}
	if ds := NewLimiter(LimiterOptions{}).AllowAll(clk.Now(), user, key); !ds.Allowed() || len(ds) != 0 {
		t.Errorf("without limits: %+v", ds)
	}
}

func TestHeadersAreThoseOfTheDraftAndTheOlderOnes(t *testing.T) {
	t.Parallel()
	user := Decision{Allowed: true, Policy: LimitUser, Limit: 100, Remaining: 40, ResetAfter: 35500 * time.Millisecond}
	last := Decision{Allowed: true, Policy: LimitAPIKey, Limit: 10, Remaining: 0, ResetAfter: 6 * time.Second}
	refused := Decision{Policy: LimitAPIKey, Limit: 10, ResetAfter: 5200 * time.Millisecond, RetryAfter: 5200 * time.Millisecond}
	atOnce := Decision{Policy: LimitUser, Limit: 1000000, ResetAfter: time.Microsecond, RetryAfter: time.Microsecond}
	for _, tc := range []struct {
		name string
		ds   Decisions
		want map[string]string
	}{
		{"no limit", Decisions{{Allowed: true, Policy: LimitUser}}, map[string]string{}},
		{"one", Decisions{user}, map[string]string{"RateLimit-Policy": `"user";q=100;w=60`, "RateLimit": `"user";r=40;t=36`,
			"RateLimit-Limit": "100", "RateLimit-Remaining": "40", "RateLimit-Reset": "36"}},
		{"two", Decisions{user, last}, map[string]string{"RateLimit-Policy": `"user";q=100;w=60, "api_key";q=10;w=60`, "RateLimit": `"user";r=40;t=36, "api_key";r=0;t=6`,
			"RateLimit-Limit": "10", "RateLimit-Remaining": "0", "RateLimit-Reset": "6"}},
		{"refused", Decisions{user, refused}, map[string]string{"RateLimit-Policy": `"user";q=100;w=60, "api_key";q=10;w=60`, "RateLimit": `"user";r=40;t=36, "api_key";r=0;t=6`,
			"RateLimit-Limit": "10", "RateLimit-Remaining": "0", "RateLimit-Reset": "6", "Retry-After": "6"}},
		{"refused for a moment", Decisions{atOnce}, map[string]string{"RateLimit-Policy": `"user";q=1000000;w=60`, "RateLimit": `"user";r=0;t=1`,
			"RateLimit-Limit": "1000000", "RateLimit-Remaining": "0", "RateLimit-Reset": "1", "Retry-After": "1"}},
	} {
		h := http.Header{}
		tc.ds.Write(h)
		if len(h) != len(tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, h, tc.want)
		}
		for name, want := range tc.want {
			if got := h.Get(name); got != want {
				t.Errorf("%s: %s: %s, want %s", tc.name, name, got, want)
			}
		}
	}
}

// processes are n limiters over one NATS server, each with a connection of its own, as n processes would have.
func processes(t *testing.T, n int, limits RateLimits, now func() time.Time) []*Limiter {
	t.Helper()
	url := natstest.Listen(t)
	var out []*Limiter
	for range n {
		out = append(out, running(t, LimiterOptions{Limits: limits, NATS: natstest.Dial(t, url), Region: region, Now: now}))
	}
	return out
}

func TestWhatOneProcessAdmitsTheOthersCount(t *testing.T) {
	t.Parallel()
	clk := newClock()
	const limit = 90
	ls := processes(t, 3, RateLimits{UserPerMinute: limit, APIKeyPerMinute: 10}, clk.Now)
	total := 0
	for round := 0; total < limit; round++ {
		for range 10 {
			if ls[round%3].Allow(clk.Now(), LimitUser, "user_a").Allowed {
				total++
			}
		}
		for i, l := range ls {
			until(t, fmt.Sprintf("process %d knows of %d", i, total), func() bool { return l.left(clk.Now(), LimitUser, "user_a") == limit-total })
		}
	}
	for i, l := range ls {
		if d := l.Allow(clk.Now(), LimitUser, "user_a"); d.Allowed {
			t.Errorf("process %d admitted request %d of %d", i, total+1, limit)
		}
		if got := l.left(clk.Now(), LimitUser, "user_b"); got != limit {
			t.Errorf("process %d: another user has %d left, want %d", i, got, limit)
		}
	}
}

// What others have not been told of is all that they can admit too much: here each process gets a burst between two tellings, and the
// telling is done by hand, so that the bound does not hang on time.
func TestOvershootIsWhatOneTellingCovers(t *testing.T) {
	t.Parallel()
	clk := newClock()
	const limit, replicas = 100, 3
	for _, burst := range []int{1, 4, 9, 30, 1000} {
		url := natstest.Listen(t)
		var ls []*Limiter
		for range replicas {
			nc := natstest.Dial(t, url)
			l := NewLimiter(LimiterOptions{Limits: RateLimits{UserPerMinute: limit}, NATS: nc, Region: region, Now: clk.Now})
			if _, err := nc.Subscribe(events.LimitsSubject(region), func(m *nats.Msg) { l.hear(m.Data) }); err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			ls = append(ls, l)
		}
		total := 0
		for admittedNow := true; admittedNow; {
			admittedNow = false
			for _, l := range ls {
				for range burst {
					if l.Allow(clk.Now(), LimitUser, "user_a").Allowed {
						total++
						admittedNow = true
					}
				}
			}
			for _, l := range ls {
				l.tell()
			}
			for i, l := range ls {
				until(t, fmt.Sprintf("process %d knows of %d", i, total), func() bool { return l.owed(clk.Now(), LimitUser, "user_a") == min(total, 2*limit) })
			}
		}
		over, bound := total-limit, (replicas-1)*min(burst, limit)
		t.Logf("bursts of %d between tellings: %d too many of %d, at most %d", burst, over, limit, bound)
		if over < 0 || over > bound {
			t.Errorf("bursts of %d: admitted %d, want %d to %d", burst, total, limit, limit+bound)
		}
		// What was too much is paid back: half a minute later as many fewer are admitted.
		clk.pass(limitWindow / 2)
		want, got := max(0, limit-(min(total, 2*limit)-limit/2)), 0
		for range limit {
			if ls[0].Allow(clk.Now(), LimitUser, "user_a").Allowed {
				got++
			}
		}
		if got != want {
			t.Errorf("bursts of %d: admitted %d in half a minute more, want %d", burst, got, want)
		}
	}
}

// Requests over HTTP as fast as they come, told by Run: the sum lies between the limit and what processes that hear nothing would admit. How near it
// is to the limit is this machine's affair and only printed.
func TestACrowdAtThreeProcesses(t *testing.T) {
	t.Parallel()
	clk := newClock()
	const limit = 3000
	ls := processes(t, 3, RateLimits{UserPerMinute: limit}, clk.Now)
	var total atomic.Int64
	var wg sync.WaitGroup
	for _, l := range ls {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			d := l.Allow(clk.Now(), LimitUser, "user_a")
			d.Write(w.Header())
			if !d.Allowed {
				w.WriteHeader(http.StatusTooManyRequests)
			}
		}))
		t.Cleanup(srv.Close)
		for range 4 {
			wg.Go(func() {
				for {
					res, err := srv.Client().Get(srv.URL)
					if err != nil {
						t.Error(err)
						return
					}
					_ = res.Body.Close()
					if res.StatusCode != http.StatusOK {
						if res.Header.Get("Retry-After") == "" || res.Header.Get("RateLimit-Policy") != `"user";q=3000;w=60` {
							t.Errorf("refused with %v", res.Header)
						}
						return
					}
					total.Add(1)
				}
			})
		}
	}
	wg.Wait()
	t.Logf("admitted %d of %d", total.Load(), limit)
	if got := total.Load(); got < limit || got > 3*limit {
		t.Errorf("admitted %d, want %d to %d", got, limit, 3*limit)
	}
	for i, l := range ls {
		until(t, fmt.Sprintf("process %d knows that nothing is left", i), func() bool { return l.left(clk.Now(), LimitUser, "user_a") == 0 })
	}
}

func TestWithoutNATSEachProcessHoldsTheLimit(t *testing.T) {
	t.Parallel()
	clk := newClock()
	url := natstest.Listen(t)
	proxy := natstest.NewProxy(t, url)
	nc := natstest.Dial(t, proxy.URL, nats.ReconnectWait(10*time.Millisecond), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1))
	near := running(t, LimiterOptions{Limits: RateLimits{UserPerMinute: 100}, NATS: nc, Region: region, Now: clk.Now})
	far := running(t, LimiterOptions{Limits: RateLimits{UserPerMinute: 100}, NATS: natstest.Dial(t, url), Region: region, Now: clk.Now})
	proxy.Close()
	until(t, "the connection is gone", func() bool { return !nc.IsConnected() })
	for i := range 120 {
		if got := near.Allow(clk.Now(), LimitUser, "user_a").Allowed; got != (i < 100) {
			t.Fatalf("request %d while NATS is away: %v", i+1, got)
		}
	}
	until(t, "nothing is kept for later", func() bool {
		near.mu.Lock()
		defer near.mu.Unlock()
		return len(near.untold) == 0
	})
	proxy.Open(t)
	until(t, "the connection is back", nc.IsConnected)
	if !near.Allow(clk.Now(), LimitUser, "user_b").Allowed {
		t.Fatal("refused")
	}
	until(t, "the other hears again", func() bool { return far.left(clk.Now(), LimitUser, "user_b") == 99 })
	if got := far.left(clk.Now(), LimitUser, "user_a"); got != 100 {
		t.Errorf("what was admitted during the outage was told after it: %d left", got)
	}
}

func TestAProcessThatStartsCountsFromThenOn(t *testing.T) {
	t.Parallel()
	clk := newClock()
	url := natstest.Listen(t)
	limits := RateLimits{UserPerMinute: 10}
	old := running(t, LimiterOptions{Limits: limits, NATS: natstest.Dial(t, url), Region: region, Now: clk.Now})
	for range 10 {
		old.Allow(clk.Now(), LimitUser, "user_a")
	}
	fresh := running(t, LimiterOptions{Limits: limits, NATS: natstest.Dial(t, url), Region: region, Now: clk.Now})
	if got := fresh.left(clk.Now(), LimitUser, "user_a"); got > 10 {
		t.Errorf("a new process admits %d", got)
	}
	clk.pass(limitWindow) // at most a minute is forgotten
	if a, b := old.left(clk.Now(), LimitUser, "user_a"), fresh.left(clk.Now(), LimitUser, "user_a"); a != 10 || b != 10 {
		t.Errorf("a minute later: %d and %d left, want 10", a, b)
	}
}

func TestMessagesOfOthersAreBounded(t *testing.T) {
	t.Parallel()
	clk := newClock()
	l := NewLimiter(LimiterOptions{Limits: RateLimits{UserPerMinute: 10}, Now: clk.Now})
	long := fmt.Sprintf(`{"from":"x","took":{"user":{"%0200d":1}}}`, 1)
	for _, m := range []string{"", "{", "null", "[]", `{"took":{"user":7}}`, `{"took":{"user":{"a":-5}}}`, `{"took":{"user":{"a":1e99}}}`, `{"took":{"nobody":{"a":1}}}`, `{"took":{"api_key":{"a":1}}}`,
		`{"from":"` + l.self + `","took":{"user":{"a":5}}}`, long} {
		l.hear([]byte(m))
	}
	if len(l.full) != 0 {
		t.Errorf("took %v from nonsense", l.full)
	}
	l.hear([]byte(`{"from":"x","took":{"user":{"a":9000000000000000000}}}`))
	if l.Allow(clk.Now(), LimitUser, "a").Allowed {
		t.Error("admitted what another process has used up")
	}
	clk.pass(2 * limitWindow) // nobody is shut out for longer
	if got := l.left(clk.Now(), LimitUser, "a"); got != 10 {
		t.Errorf("two minutes later: %d left, want 10", got)
	}
}

func TestIdleBucketsAreDroppedAndTheirNumberIsBounded(t *testing.T) {
	t.Parallel()
	clk := newClock()
	l := NewLimiter(LimiterOptions{Limits: RateLimits{UserPerMinute: 10}, Now: clk.Now})
	l.cap = 5000
	most := 0
	for i := range 200_000 {
		if !l.Allow(clk.Now(), LimitUser, strconv.Itoa(i)).Allowed {
			t.Fatalf("user %d: refused", i)
		}
		most = max(most, len(l.full))
		if i%100 == 0 {
			clk.pass(time.Second) // a bucket is full again after six
		}
	}
	if most > 2500 {
		t.Errorf("%d buckets at once, though 600 were not full", most)
	}
	for i := range 20_000 { // all at once
		l.Allow(clk.Now(), LimitUser, "crowd"+strconv.Itoa(i))
		most = max(most, len(l.full))
	}
	if most > l.cap {
		t.Errorf("%d buckets at once, want at most %d", most, l.cap)
	}
	clk.pass(limitWindow)
	l.sweep(clk.Now().Sub(l.base))
	if len(l.full) != 0 {
		t.Errorf("%d buckets are kept of callers who were idle for a minute", len(l.full))
	}
}

func BenchmarkLimiterAllow(b *testing.B) {
	for _, callers := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l := running(b, LimiterOptions{Limits: RateLimits{UserPerMinute: 1_000_000}, NATS: natstest.Dial(b, natstest.Listen(b)), Region: region})
			ids := make([]string, callers)
			for i := range ids {
				ids[i] = string(UserID(strconv.Itoa(i)))
			}
			var next atomic.Int64
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					l.Allow(time.Now(), LimitUser, ids[next.Add(1)%int64(callers)])
				}
			})
		})
	}
}

package maintenance_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
	"vega/services/fleet"
	"vega/services/maintenance"
	"vega/services/scan"
)

func TestAScanIsTakenFromAWorkerWhoseConnectionIsGone(t *testing.T) {
	for _, c := range []struct{ grace, least, most time.Duration }{
		{0, 50 * time.Millisecond, 160 * time.Millisecond},
		{5 * time.Second, 5 * time.Second, 5200 * time.Millisecond},
	} {
		t.Run(c.grace.String(), func(t *testing.T) {
			virtual(t, func(w *world) {
				u := w.upkeep(c.grace)
				defer u.end()
				dies, lives := w.worker("work_test_dies"), w.worker("work_test_lives")
				defer lives.end()
				defer dies.close()
				w.take(dies, "scan_test_a")
				w.take(dies, "scan_test_b")
				w.take(lives, "scan_test_c")
				w.heard(u, 2)
				dies.die()
				took := w.until("scan_test_a", expired)
				if took < c.least || took > c.most {
					t.Errorf("it took %v, want %v to %v", took, c.least, c.most)
				}
				w.until("scan_test_b", expired)
				w.pass(10 * time.Second)
				for id, want := range map[events.ScanID]string{"scan_test_a": claimedAndStarted + " expired(disconnected)", "scan_test_b": claimedAndStarted + " expired(disconnected)", "scan_test_c": claimedAndStarted} {
					w.wantHistory(id, want)
				}
				last := w.load("scan_test_a")[3]
				if e := last.Event.(events.AttemptExpired); e.Worker != "work_test_dies" || e.Detail == "" || last.Cause == "" {
					t.Errorf("recorded %+v, cause %q", e, last.Cause)
				}
				if s := u.Status(); s.Expired[maintenance.Disconnected] != 2 || s.Unfinished != 3 || s.Watched != 1 {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
}

func TestAWorkerThatReconnectsKeepsItsScans(t *testing.T) {
	virtual(t, func(w *world) {
		u := w.upkeep(0)
		defer u.end()
		h := w.worker("work_test_a")
		defer h.end()
		w.take(h, "scan_test_a")
		w.heard(u, 1)
		for range 50 {
			h.cut()
			w.pass(330 * time.Millisecond)
		}
		w.wantHistory("scan_test_a", claimedAndStarted)
	})
}

func TestAWorkerThatComesBackWithinTheGraceKeepsItsScans(t *testing.T) {
	virtual(t, func(w *world) {
		u := w.upkeep(10 * time.Second)
		defer u.end()
		h := w.worker("work_test_a")
		defer h.end()
		w.take(h, "scan_test_a")
		w.heard(u, 1)
		for range 3 {
			h.kill()
			w.pass(7 * time.Second)
			h.revive()
			w.pass(10 * time.Second)
		}
		w.wantHistory("scan_test_a", claimedAndStarted)
	})
}

func TestAPausedWorkerIsKnownByItsHeartbeatAlone(t *testing.T) {
	virtual(t, func(w *world) {
		u := w.upkeep(0)
		defer u.end()
		h, other := w.worker("work_test_a"), w.worker("work_test_b")
		defer h.die()
		defer other.end()
		w.take(h, "scan_test_a")
		w.take(other, "scan_test_b")
		w.heard(u, 2)
		w.pass(2 * ttl)
		h.pause()
		took := w.until("scan_test_a", expired)
		if took < ttl-10*time.Second || took > ttl*3/2 {
			t.Errorf("it took %v, want about %v and at most %v", took, ttl, ttl*3/2)
		}
		w.wantHistory("scan_test_a", claimedAndStarted+" expired(heartbeat_lost)")
		w.wantHistory("scan_test_b", claimedAndStarted)
	})
}

func TestAPausedWorkerThatWakesUpInTimeKeepsItsScans(t *testing.T) {
	virtual(t, func(w *world) {
		u := w.upkeep(0)
		defer u.end()
		h := w.worker("work_test_a")
		defer h.end()
		w.take(h, "scan_test_a")
		w.heard(u, 1)
		w.pass(2 * ttl)
		for range 3 {
			h.pause()
			w.pass(ttl / 2)
			if s := u.Status(); len(s.Suspects) != 1 {
				t.Errorf("status %+v, want one suspect", s)
			}
			h.resume()
			w.pass(ttl)
		}
		w.wantHistory("scan_test_a", claimedAndStarted)
	})
}

func TestAWorkerThatWasNeverHeardHasLongerToComeBack(t *testing.T) {
	for _, grace := range []time.Duration{0, ttl / 4} {
		t.Run(grace.String(), func(t *testing.T) {
			virtual(t, func(w *world) {
				w.put("scan_test_a", queued, events.AttemptClaimed{Attempt: 1, Worker: "work_test_ghost"})
				w.put("scan_test_b", queued, events.AttemptClaimed{Attempt: 1}) // by nobody that could be asked
				u := w.upkeep(grace)
				defer u.end()
				begin := time.Now()
				w.until("scan_test_a", expired)
				if took, least := time.Since(begin), max(grace, ttl/8); took < least || took > least+time.Second {
					t.Errorf("it took %v, want %v and a moment", took, least)
				}
				w.until("scan_test_b", expired)
				if took := time.Since(begin); took < ttl || took > ttl*3/2 {
					t.Errorf("without an address it took %v, want %v to %v", took, ttl, ttl*3/2)
				}
				w.wantHistory("scan_test_a", "queued claimed expired(disconnected)")
				w.wantHistory("scan_test_b", "queued claimed expired(heartbeat_lost)")
			})
		})
	}
}

func TestAWorkerThatComesBackLongAfterMaintenanceDidKeepsItsScans(t *testing.T) {
	virtual(t, func(w *world) {
		u := w.upkeep(0)
		defer u.end()
		h := w.worker("work_test_a")
		defer h.end()
		w.take(h, "scan_test_a")
		w.heard(u, 1)
		for range 3 {
			h.kill()
			w.down()
			w.pass(2 * ttl)
			w.up()
			w.pass(ttl / 10) // and up to two seconds more, until its client tries again
			h.revive()
			w.heard(u, 1)
			w.pass(ttl)
		}
		w.wantHistory("scan_test_a", claimedAndStarted)
	})
}

func TestARestartOfTheServerCostsNoLivingWorkerItsScans(t *testing.T) {
	for _, away := range []time.Duration{time.Second, ttl / 2, 3 * ttl} {
		t.Run(away.String(), func(t *testing.T) {
			virtual(t, func(w *world) {
				u := w.upkeep(0)
				defer u.end()
				var hands []*hand
				for i := range 4 {
					h := w.worker(events.WorkerID(fmt.Sprint("work_test_", i)))
					defer h.end()
					hands = append(hands, h)
					w.take(h, events.ScanID(fmt.Sprint("scan_test_", i)))
				}
				gone := w.worker("work_test_gone")
				defer gone.close()
				w.take(gone, "scan_test_gone")
				w.heard(u, 5)
				for range 2 {
					w.down()
					w.pass(away)
					w.up()
					w.pass(2 * ttl)
				}
				w.down()
				gone.die() // while nobody can see it
				w.pass(away)
				w.up()
				w.pass(2 * ttl)
				for i := range hands {
					w.wantHistory(events.ScanID(fmt.Sprint("scan_test_", i)), claimedAndStarted)
				}
				w.wantHistory("scan_test_gone", claimedAndStarted+" expired(disconnected)")
				alive, err := fleet.List(w.t.Context(), w.admin)
				if err != nil || len(alive) != 4 {
					t.Errorf("%d workers are listed, %v", len(alive), err)
				}
				w.heard(u, 4)
				hands[0].kill() // the usual way works again
				if took := w.until("scan_test_0", expired); took > 200*time.Millisecond {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

func TestALostBucketIsMadeAgainAndJudgesNobodyForOneTTL(t *testing.T) {
	virtual(t, func(w *world) {
		u := w.upkeep(0)
		defer u.end()
		h, silent := w.worker("work_test_a"), w.worker("work_test_silent")
		defer h.end()
		defer silent.die()
		w.take(h, "scan_test_a")
		w.take(silent, "scan_test_b")
		w.heard(u, 2)
		w.pass(2 * ttl)
		silent.pause()
		w.pass(ttl / 2)
		if err := w.admin.JetStream().DeleteKeyValue(w.t.Context(), eventstore.HeartbeatBucket); err != nil {
			t.Fatal(err)
		}
		// The silent worker's entry is gone half a TTL before it would have expired: that proves nothing.
		took := w.until("scan_test_b", expired)
		if took < ttl || took > ttl*3/2 {
			t.Errorf("it took %v after the bucket was lost, want %v to %v", took, ttl, ttl*3/2)
		}
		w.wantHistory("scan_test_a", claimedAndStarted)
		if alive, err := fleet.List(w.t.Context(), w.admin); err != nil || len(alive) != 1 {
			t.Errorf("%d workers are listed, %v", len(alive), err)
		}
	})
}

func TestAScanThatItsWorkerHasForgottenIsTakenFromIt(t *testing.T) {
	virtual(t, func(w *world) {
		u := w.upkeep(0)
		defer u.end()
		h := w.worker("work_test_a")
		defer h.end()
		w.take(h, "scan_test_kept")
		g := w.take(h, "scan_test_a")
		w.heard(u, 1)
		w.pass(time.Minute)
		h.Gave("scan_test_a", g)
		if took := w.until("scan_test_a", expired); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("it took %v", took)
		}
		w.wantHistory("scan_test_a", claimedAndStarted+" expired(not_held)")
		if got := <-h.Looks(); got != "scan_test_a" {
			t.Errorf("the worker was told to look at %q", got)
		}
		// A claim that the worker itself does not know to be stored yet.
		late := w.put("scan_test_late", queued, events.AttemptClaimed{Attempt: 1, Worker: h.ID()})
		w.pass(4 * time.Second)
		h.Took("scan_test_late", late[1].Seq)
		w.pass(time.Minute)
		w.wantHistory("scan_test_late", "queued claimed")
		w.wantHistory("scan_test_kept", claimedAndStarted)
	})
}

func TestARunnersEndIsItsLaunchersToReportForOneTTL(t *testing.T) {
	for name, c := range map[string]struct {
		launcherDies bool
		least, most  time.Duration
	}{
		"launcher alive": {false, ttl, ttl * 3 / 2},
		"launcher dead":  {true, 0, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(w *world) {
				u := w.upkeep(0)
				defer u.end()
				launcher, runner := w.worker("work_test_launcher"), w.worker("work_test_runner")
				defer runner.close()
				defer launcher.end()
				g := w.put("scan_test_a", queued, events.AttemptClaimed{Attempt: 1, Worker: launcher.ID(), RunnerToken: scan.TokenDigest("x")},
					events.RunnerJoined{Attempt: 1, JTI: "j", Worker: runner.ID()}, events.AttemptStarted{Attempt: 1, Worker: runner.ID()})
				runner.Took("scan_test_a", g[1].Seq)
				w.heard(u, 2)
				w.pass(2 * ttl)
				if c.launcherDies {
					launcher.kill()
				}
				w.pass(5 * time.Second) // a runner outlives its launcher
				w.wantHistory("scan_test_a", "queued claimed runner_joined started")
				runner.die()
				if took := w.until("scan_test_a", expired); took < c.least || took > c.most {
					t.Errorf("it took %v, want %v to %v", took, c.least, c.most)
				}
				w.wantHistory("scan_test_a", "queued claimed runner_joined started expired(disconnected)")
			})
		})
	}
}

func TestALostScanEndsWhenThatWasAskedForOrItWasTheLastAttempt(t *testing.T) {
	virtual(t, func(w *world) {
		u := w.upkeep(0)
		defer u.end()
		h := w.worker("work_test_a")
		defer h.close()
		w.take(h, "scan_test_cancelled")
		w.put("scan_test_cancelled", events.CancelRequested{})
		g := w.put("scan_test_last", queued, events.AttemptClaimed{Attempt: 1, Worker: h.ID()}, events.AttemptExpired{Attempt: 1, Priority: events.Normal}, events.AttemptClaimed{Attempt: 2, Worker: h.ID()})
		h.Took("scan_test_last", g[3].Seq)
		w.heard(u, 1)
		h.die()
		w.until("scan_test_cancelled", "scan.cancelled")
		w.until("scan_test_last", "scan.failed")
		w.wantHistory("scan_test_last", "queued claimed expired() claimed failed")
		if e := w.load("scan_test_last")[4].Event.(events.ScanFailed); e.Code != "attempts_exhausted" {
			t.Errorf("failed with %+v", e)
		}
		w.pass(time.Second)
		if s := u.Status(); s.Unfinished != 0 {
			t.Errorf("%d scans are still known", s.Unfinished)
		}
	})
}

func TestTwoMaintenancesMakeOneEvent(t *testing.T) {
	virtual(t, func(w *world) {
		a, b := w.upkeep(0), w.upkeep(0)
		defer a.end()
		defer b.end()
		for i := range 20 {
			h := w.worker(events.WorkerID(fmt.Sprint("work_test_", i)))
			defer h.close()
			id := events.ScanID(fmt.Sprint("scan_test_", i))
			w.take(h, id)
			w.heard(a, 1)
			w.heard(b, 1)
			h.die()
			w.until(id, expired)
			w.pass(time.Second)
			w.wantHistory(id, claimedAndStarted+" expired(disconnected)")
		}
	})
}

func TestNoLivingWorkerIsEverJudged(t *testing.T) {
	virtual(t, func(w *world) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 1))
		a, b := w.upkeep(0), w.upkeep(0)
		defer a.end()
		defer b.end()
		var lines []*line
		const n = 8
		for i := range n {
			h := w.worker(events.WorkerID(fmt.Sprint("work_test_", i)))
			defer h.end()
			w.take(h, events.ScanID(fmt.Sprint("scan_test_", i)))
			lines = append(lines, h.line)
		}
		lines = append(lines, a.line, b.line)
		for range 400 {
			switch r.IntN(40) {
			case 0:
				w.down()
				w.pass(time.Duration(r.Int64N(int64(2 * ttl))))
				w.up()
			default:
				lines[r.IntN(len(lines))].cut()
			}
			w.pass(time.Duration(r.Int64N(int64(800 * time.Millisecond))))
		}
		w.pass(2 * ttl)
		for i := range n {
			w.wantHistory(events.ScanID(fmt.Sprint("scan_test_", i)), claimedAndStarted)
		}
	})
}

func TestAThousandWorkersAreWatched(t *testing.T) {
	virtual(t, func(w *world) {
		u := w.upkeep(0)
		defer u.end()
		const lines, each = 10, 100
		var all [][]*hand
		for i := range lines {
			l := w.line()
			s := l.open()
			var hands []*hand
			for k := range each {
				h := w.workerOn(l, s, events.WorkerID(fmt.Sprintf("work_test_%d-%d", i, k)))
				defer h.stop()
				w.take(h, events.ScanID(fmt.Sprintf("scan_test_%d-%d", i, k)))
				hands = append(hands, h)
			}
			defer l.close()
			all = append(all, hands)
		}
		w.heard(u, lines*each)
		all[1][0].pause() // a hundred that are connected and do not answer hold up nobody
		defer all[1][0].kill()
		w.pass(3 * time.Second)
		all[0][0].kill() // with its line, a hundred workers
		begin := time.Now()
		judged := 0
		for r, err := range w.admin.Follow(w.t.Context(), 0, events.KindFilter(natstest.Region, events.ScanAggregate)) {
			if err != nil {
				t.Fatal(err)
			}
			if r.Kind != expired {
				continue
			}
			if !strings.HasPrefix(r.Aggregate.ID, "scan_test_0-") {
				t.Errorf("%s was taken from its worker", r.Aggregate.ID)
			}
			if judged++; judged == each {
				break
			}
		}
		if took := time.Since(begin); took > 1300*time.Millisecond {
			t.Errorf("the last of them was known after %v", took)
		}
		w.pass(10 * time.Second)
		if s := u.Status(); s.Expired[maintenance.Disconnected] != each || len(s.Suspects) != each {
			t.Errorf("%v are taken and %d suspects, want %d and %d", s.Expired, len(s.Suspects), each, each)
		}
	})
}

func TestAScanOfANewerReleaseIsLeftToIt(t *testing.T) {
	virtual(t, func(w *world) {
		h := w.worker("work_test_a")
		defer h.close()
		w.take(h, "scan_test_newer")
		w.take(h, "scan_test_a")
		past := w.load("scan_test_newer")
		agg := events.ScanOf(natstest.Region, "scan_test_newer")
		meta := events.Meta{Command: events.NewCommandID(), Actor: events.BySystem("test"), At: time.Now()}
		msgs, _, err := events.Encode(agg, past[2].Head(), meta, events.FindingsRecorded{Attempt: 1})
		if err != nil {
			t.Fatal(err)
		}
		msgs[0].Header["ce-dataschema"] = "vega:scan.findings_recorded/99"
		w.publish(msgs[0].Subject, msgs[0].Header, msgs[0].Body)
		w.publish(events.ScanOf(natstest.Region, "scan_test_bad").Subject(events.AttemptStarted{}), map[string]string{"ce-type": "scan.started"}, []byte("?"))
		u := w.upkeep(0)
		defer u.end()
		w.heard(u, 1)
		h.die()
		w.until("scan_test_a", expired)
		w.pass(time.Second)
		if last, _, err := w.admin.LoadLast(w.t.Context(), agg); err != nil || last.Version != 4 {
			t.Errorf("its last event is %d, %v; want the 4th, which was there", last.Version, err)
		}
		if s := u.Status(); s.Newer != 1 || s.Unreadable != 1 {
			t.Errorf("status %+v", s)
		}
	})
}

// publish stores a message in the event stream as it is.
func (w *world) publish(subject string, header map[string]string, body []byte) {
	w.t.Helper()
	m := &nats.Msg{Subject: subject, Data: body, Header: nats.Header{}}
	for k, v := range header {
		m.Header[k] = []string{v}
	}
	if _, err := w.admin.JetStream().PublishMsg(w.t.Context(), m); err != nil {
		w.t.Fatal(err)
	}
}

func TestACutTCPConnectionIsSurvivedAndALostOneNoticed(t *testing.T) {
	t.Parallel()
	url := natstest.Listen(t)
	proxy := natstest.NewProxy(t, url)
	w := &world{t: t, admin: natstest.OpenOver(t, natstest.Dial(t, url))}
	l := &line{w: w, nc: natstest.Dial(t, url)}
	p := maintenance.Parts{Store: l.open()}
	u := w.started(l, p, maintenance.Options{HeartbeatTTL: ttl, Config: maintenance.Config{RunningStale: forever, IngestStale: forever}})
	defer u.end()
	far := &line{w: w, nc: natstest.Dial(t, proxy.URL)}
	h := w.workerOn(far, far.open(), "work_test_a")
	defer h.end()
	w.take(h, "scan_test_a")
	w.heard(u, 1)
	for range 5 {
		before := far.nc.Stats().Reconnects
		proxy.Cut()
		for far.nc.Stats().Reconnects == before {
			w.pass(time.Millisecond)
		}
		w.heard(u, 1)
	}
	w.wantHistory("scan_test_a", claimedAndStarted)
	proxy.Close()
	w.until("scan_test_a", expired)
	w.wantHistory("scan_test_a", claimedAndStarted+" expired(disconnected)")
}

package api

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"

	"vega/config/secret"
	"vega/events"
	"vega/events/eventstore/natstest"
	"vega/services/auth"
)

// BenchmarkCreateScan is POST scans over HTTP, answered when the read model has the scan; the baseline is an empty chi handler over HTTP that
// makes the same two appends and nothing else. Goal: at most twice the baseline.
func BenchmarkCreateScan(b *testing.B) {
	for _, always := range []bool{true, false} {
		for _, clients := range []int{1, 64} {
			name := fmt.Sprintf("sync_always=%v/clients=%d", always, clients)
			b.Run(name+"/api", func(b *testing.B) { benchmarkAPI(b, clients, always) })
			b.Run(name+"/baseline", func(b *testing.B) { benchmarkBaseline(b, clients, always) })
		}
	}
}

// benchUsers share the scans, so that no user's set of active ones becomes unusually large.
const benchUsers = 1000

func benchmarkAPI(b *testing.B, clients int, always bool) {
	accounts := append([]auth.Account(nil), testAccounts...)
	for i := range benchUsers {
		accounts = append(accounts, auth.Account{Email: fmt.Sprintf("u%d@example.com", i), Password: secret.New("password"), Admin: true})
	}
	w := newWorld(b, options{limit: 1000, accounts: accounts, quiet: true, store: natstest.OpenWith(b, b.TempDir(), always)})
	path := w.url + "/repositories/" + w.admin.ready(w.admin.project()) + "/scans"
	tokens := make([]string, benchUsers)
	for i := range tokens {
		t, err := w.auth.Login(b.Context(), accounts[len(testAccounts)+i].Email, "password")
		must(b, err)
		tokens[i] = t.Access
	}
	post(b, clients, func(i int) *http.Request {
		r, err := http.NewRequestWithContext(b.Context(), "POST", path, strings.NewReader("{}"))
		must(b, err)
		r.Header.Set("Authorization", "Bearer "+tokens[i%benchUsers])
		return r
	})
}

func benchmarkBaseline(b *testing.B, clients int, always bool) {
	store := natstest.OpenWith(b, b.TempDir(), always)
	router := chi.NewMux()
	router.Post("/scans", func(w http.ResponseWriter, r *http.Request) {
		id := events.NewScanID(natstest.Region)
		user := events.UserID("user_" + string(id))
		meta := events.Meta{Command: events.NewCommandID(), Actor: events.ByUser(user), At: time.Now().UTC()}
		_, err := store.Append(r.Context(), events.SlotsOf(natstest.Region, user), events.Head{}, meta, events.Slots{User: user, Active: []events.Slot{{Scan: id, At: meta.At}}})
		if err == nil {
			_, err = store.Append(r.Context(), events.ScanOf(natstest.Region, id), events.Head{}, meta, events.ScanQueued{Project: "proj_test_1", Repository: "repo_test_1",
				Snapshot: events.SnapshotID(events.DigestOf(nil)), User: user, Priority: events.Normal, MaxAttempts: 3})
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	})
	server := httptest.NewServer(router)
	b.Cleanup(server.Close)
	post(b, clients, func(int) *http.Request {
		r, err := http.NewRequestWithContext(b.Context(), "POST", server.URL+"/scans", strings.NewReader("{}"))
		must(b, err)
		return r
	})
}

// post sends b.N requests from so many clients and wants 202 for each.
func post(b *testing.B, clients int, request func(i int) *http.Request) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	numbers := make(chan int, clients)
	b.ResetTimer()
	done := make(chan error, clients)
	for range clients {
		go func() {
			for i := range numbers {
				res, err := client.Do(request(i))
				if err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
					if res.StatusCode != http.StatusAccepted {
						err = fmt.Errorf("status %d", res.StatusCode)
					}
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for i := range b.N {
		numbers <- i
	}
	close(numbers)
	for range clients {
		must(b, <-done)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "scans/s")
	client.CloseIdleConnections()
}

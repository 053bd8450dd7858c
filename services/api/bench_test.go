package api

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"

	"vega/events"
	"vega/events/eventstore/natstest"
)

// BenchmarkCreateScan sets a scan created over HTTP (authorised, checked, admitted, appended, answered when the read model has it) beside what it cannot do
// without: its two appends, and an empty handler of the same router. All three take turns in one run. Goal: ratio at most 2.
func BenchmarkCreateScan(b *testing.B) {
	for _, always := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync_always=%v", always), func(b *testing.B) {
			w := newWorld(b, options{limit: 4, store: natstest.OpenWith(b, b.TempDir(), always)})
			repo := w.user.ready(w.user.project())
			bare := natstest.OpenWith(b, b.TempDir(), always)
			router := chi.NewRouter()
			router.Post("/empty", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusAccepted) })
			empty := httptest.NewServer(router)
			b.Cleanup(empty.Close)

			var whole, appends, handler time.Duration
			n := 0
			var slots events.Head
			for b.Loop() {
				n++
				start := time.Now()
				scan := w.user.do("POST", "/repositories/"+repo+"/scans", object{}).want(202)
				whole += time.Since(start)
				b.StopTimer()
				w.user.do("POST", "/scans/"+scan.id()+"/cancel", nil).want(202) // gives its slot back

				start = time.Now()
				res, err := http.Post(empty.URL+"/empty", "application/json", http.NoBody)
				must(b, err)
				_, err = io.Copy(io.Discard, res.Body)
				must(b, err)
				must(b, res.Body.Close())
				handler += time.Since(start)

				id := events.ScanID(fmt.Sprintf("scan_test_%d", n))
				meta := events.Meta{Command: events.CommandID(fmt.Sprintf("c%d", n)), Actor: events.BySystem("bench"), At: time.Now()}
				start = time.Now()
				one, err := bare.Append(b.Context(), events.SlotsOf(natstest.Region, "user_bench"), slots, meta, events.Slots{User: "user_bench", Active: []events.Slot{{Scan: id}}})
				must(b, err)
				_, err = bare.Append(b.Context(), events.ScanOf(natstest.Region, id), events.Head{}, meta, events.ScanQueued{Project: "p", Repository: "r", Snapshot: "s", User: "u", Priority: events.Normal, MaxAttempts: 3})
				must(b, err)
				appends += time.Since(start)
				slots = one[0].Head()
				b.StartTimer()
			}
			b.ReportMetric(float64(whole.Microseconds())/float64(n), "µs/create")
			b.ReportMetric(float64(appends.Microseconds())/float64(n), "µs/two-appends")
			b.ReportMetric(float64(handler.Microseconds())/float64(n), "µs/empty-handler")
			b.ReportMetric(float64(whole)/float64(appends+handler), "ratio")
		})
	}
}

package dispatch

import (
	"encoding/json"
	"testing"

	"vega/events"
)

func FuzzAMessageIsOursOrRefused(f *testing.F) {
	for _, seed := range []string{
		`{"v":1,"region":"test","scan_id":"scan_test_1","sequence":7,"attempt":1,"priority":"high","traceparent":"00-0-0-01"}`,
		`{"v":1,"region":"test","scan_id":"scan_test_1","sequence":18446744073709551615}`,
		`{"v":2}`, `{"v":"1"}`, `{}`, `null`, `[]`, `1e999`, ``, `{"v":1,"region":null}`, `{"v":1,"scan_id":{}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		m, err := parseMessage(body, "test")
		if err != nil {
			return
		}
		if m.Version != 1 || m.Region != "test" || m.Seq == 0 || events.CheckID("scan_id", string(m.Scan)) != nil {
			t.Errorf("taken for ours: %+v", m)
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := parseMessage(string(again), "test"); err != nil || back != m {
			t.Errorf("%s reads as %+v, %v", again, back, err)
		}
	})
}

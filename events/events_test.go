package events

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

var testMeta = Meta{Command: "cmd_1", Actor: ByUser("user_a"), Cause: "request 1", Trace: "00-aa-bb-01", At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}

func encode(t testing.TB, head Head, evs ...Event) ([]Message, Head) {
	t.Helper()
	m, h, err := Encode(ScanOf("local", "scan_local_a"), head, testMeta, evs...)
	if err != nil {
		t.Fatal(err)
	}
	return m, h
}

func TestDecodeReturnsWhatEncodeWasGiven(t *testing.T) {
	t.Parallel()
	evs := []Event{ScanQueued{User: "user_a", Priority: High, MaxAttempts: 3}, AttemptClaimed{Attempt: 1, Worker: "w"}}
	msgs, head := encode(t, Head{}, evs...)
	if msgs[0].Subject != "vega.local.scan.scan_local_a.ready.high" || msgs[1].Subject != "vega.local.scan.scan_local_a.e" {
		t.Errorf("subjects %s, %s", msgs[0].Subject, msgs[1].Subject)
	}
	for i, m := range msgs {
		r, err := Decode(m, Seq(10+i))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(r.Event, evs[i]) || r.Meta != testMeta || r.Version != Version(i+1) || r.Aggregate != ScanOf("local", "scan_local_a") {
			t.Errorf("event %d = %+v", i, r)
		}
	}
	if head.Version != 2 || string(head.Hash) != msgs[1].Header[headerHash] {
		t.Errorf("head = %+v", head)
	}
}

func TestAnyChangeOfAMessageBreaksItsLink(t *testing.T) {
	t.Parallel()
	msgs, _ := encode(t, Head{}, CancelRequested{Reason: "x"})
	want := Link("", msgs[0])
	if string(want) != msgs[0].Header[headerHash] {
		t.Fatal("the stored hash is not the link")
	}
	for name, change := range map[string]func(*Message){
		"body":    func(m *Message) { m.Body = []byte(`{"reason":"y"}`) },
		"subject": func(m *Message) { m.Subject += "x" },
		"actor":   func(m *Message) { m.Header[headerActor] = "user:else" },
		"cause":   func(m *Message) { m.Header[headerCause] = "else" },
		"time":    func(m *Message) { m.Header["ce-time"] = "2027-01-02T03:04:05Z" },
		"version": func(m *Message) { m.Header[headerVersion] = "2" },
		"added":   func(m *Message) { m.Header["ce-extra"] = "1" },
		"removed": func(m *Message) { delete(m.Header, headerCause) },
	} {
		m := Message{Subject: msgs[0].Subject, Body: msgs[0].Body, Header: map[string]string{}}
		for k, v := range msgs[0].Header {
			m.Header[k] = v
		}
		change(&m)
		if Link("", m) == want {
			t.Errorf("%s: the link is the same", name)
		}
	}
	if Link("other", msgs[0]) == want {
		t.Error("another predecessor gives the same link")
	}
}

func TestAFactOfALaterReleaseIsUnknownNotAnError(t *testing.T) {
	t.Parallel()
	msgs, _ := encode(t, Head{}, CancelRequested{})
	for _, change := range []map[string]string{
		{"ce-type": "scan.teleported", "ce-dataschema": "vega:scan.teleported/1"},
		{"ce-dataschema": "vega:scan.cancel_requested/99"},
	} {
		m := msgs[0]
		m.Header = map[string]string{}
		for k, v := range msgs[0].Header {
			m.Header[k] = v
		}
		for k, v := range change {
			m.Header[k] = v
		}
		r, err := Decode(m, 1)
		if _, ok := r.Event.(Unknown); err != nil || !ok {
			t.Errorf("%v decodes as %T, %v", change, r.Event, err)
		}
		if _, _, err := Encode(ScanOf("local", "a"), Head{}, testMeta, r.Event); err == nil {
			t.Error("an unknown fact could be appended")
		}
	}
}

func TestEncodeRefusesWhatMustNotBeStored(t *testing.T) {
	t.Parallel()
	a := ScanOf("local", "scan_local_a")
	for name, f := range map[string]func() error{
		"no actor":   func() error { m := testMeta; m.Actor = ""; return second(Encode(a, Head{}, m, CancelRequested{})) },
		"no command": func() error { m := testMeta; m.Command = ""; return second(Encode(a, Head{}, m, CancelRequested{})) },
		"header break": func() error {
			m := testMeta
			m.Cause = "a\r\nb: c"
			return second(Encode(a, Head{}, m, CancelRequested{}))
		},
		"space that a header loses": func() error {
			m := testMeta
			m.Cause = "why "
			return second(Encode(a, Head{}, m, CancelRequested{}))
		},
		"no time": func() error {
			m := testMeta
			m.At = time.Time{}
			return second(Encode(a, Head{}, m, CancelRequested{}))
		},
		"other aggregate": func() error { return second(Encode(a, Head{}, testMeta, ProjectDeleted{})) },
		"too large": func() error {
			return second(Encode(a, Head{}, testMeta, CancelRequested{Reason: strings.Repeat("x", MaxBody)}))
		},
	} {
		if f() == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func second(_ []Message, _ Head, err error) error { return err }

func TestSubjectsParseBack(t *testing.T) {
	t.Parallel()
	for _, k := range AggregateKinds() {
		a := Aggregate{"eu-1", k, "x_eu-1_abc"}
		got, p, err := ParseSubject(a.Subject(CancelRequested{}))
		if err != nil || got != a || p != "" {
			t.Errorf("ParseSubject = %v, %q, %v; want %v", got, p, err, a)
		}
	}
	for _, bad := range []string{"", "vega", "vega.local.scan.a", "vega.local.scan.a.e.x", "vega.local.scan.a.ready.urgent", "vega.LOCAL.scan.a.e", "vega.local.scan.A*.e", "other.local.scan.a.e"} {
		if _, _, err := ParseSubject(bad); err == nil {
			t.Errorf("ParseSubject(%q) succeeded", bad)
		}
	}
}

func TestFingerprintsSurviveMovesAndRewording(t *testing.T) {
	t.Parallel()
	base := NewFingerprint("aws-key", nil, "a/b.go", "", "key = abc")
	for name, same := range map[string]Fingerprint{
		"white space": NewFingerprint("aws-key", nil, "a/b.go", "", "  key   =\n\tabc "),
		"leading /":   NewFingerprint("aws-key", nil, "/a/b.go", "", "key = abc"),
		"cwe ignored": NewFingerprint("aws-key", []string{"CWE-1"}, "a/b.go", "", "key = abc"),
	} {
		if same != base {
			t.Errorf("%s changes the fingerprint", name)
		}
	}
	if NewFingerprint("", []string{"CWE-2", "CWE-1"}, "f", "main", "a") != NewFingerprint("", []string{"CWE-1", "CWE-2", "CWE-1"}, "f", "main", "b") {
		t.Error("order of CWEs or the snippet inside a symbol changes the fingerprint")
	}
	for name, other := range map[string]Fingerprint{
		"rule": NewFingerprint("x", nil, "a/b.go", "", "key = abc"), "file": NewFingerprint("aws-key", nil, "a/c.go", "", "key = abc"),
		"snippet": NewFingerprint("aws-key", nil, "a/b.go", "", "key = abd"), "symbol": NewFingerprint("aws-key", nil, "a/b.go", "key=abc", ""),
	} {
		if other == base {
			t.Errorf("another %s gives the same fingerprint", name)
		}
	}
}

func TestDerivedIDsDependOnEveryPart(t *testing.T) {
	t.Parallel()
	if ScanIDFor("r", "ab", "c") == ScanIDFor("r", "a", "bc") {
		t.Error("moving a border between parts gives the same id")
	}
	if id := NewScanID("eu-1"); CheckID("id", string(id)) != nil {
		t.Errorf("%s is no id", id)
	} else if home, ok := HomeOf(string(id)); !ok || home != "eu-1" {
		t.Errorf("HomeOf(%s) = %s, %v", id, home, ok)
	}
}

func FuzzDecode(f *testing.F) {
	msgs, _, err := Encode(ScanOf("local", "scan_local_a"), Head{}, testMeta, ScanQueued{Priority: Low}, FindingsRecorded{Findings: []Finding{{Severity: SeverityHigh}}})
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range msgs {
		f.Add(m.Subject, m.Header["ce-type"], m.Header["ce-dataschema"], m.Header["ce-time"], m.Header[headerVersion], m.Body)
	}
	f.Add("vega.local.scan.a.ready.low", "scan.expired", "vega:scan.expired/1", "x", "0", []byte("{"))
	f.Fuzz(func(t *testing.T, subject, kind, schema, at, version string, body []byte) {
		m := Message{Subject: subject, Body: body, Header: map[string]string{"ce-specversion": "1.0", "ce-type": kind, "ce-dataschema": schema, "ce-time": at, headerVersion: version}}
		r, err := Decode(m, 1)
		if err != nil {
			return
		}
		if r.Version == 0 || r.Event == nil {
			t.Errorf("decoded %+v", r)
		}
		if _, unknown := r.Event.(Unknown); !unknown {
			if _, err := json.Marshal(r.Event); err != nil {
				t.Errorf("%T cannot be written again: %v", r.Event, err)
			}
		}
	})
}

func TestNamesOfModels(t *testing.T) {
	t.Parallel()
	for name, good := range map[string]bool{
		"gpt-5.4": true, "openai/gpt-5:free": true, "5": true, "m@2026": true, strings.Repeat("m", MaxModel): true,
		"": false, "-c": false, "../../x": false, "a b": false, "gpt\n": false, "gpt\"": false, "\u00e9": false, strings.Repeat("m", MaxModel+1): false,
	} {
		if err := CheckModel(name); (err == nil) != good {
			t.Errorf("CheckModel(%q) = %v", name, err)
		}
	}
}

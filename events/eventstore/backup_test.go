package eventstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
)

func fill(t *testing.T, s *eventstore.Store) {
	t.Helper()
	for i := range 5 {
		a := events.ScanOf(natstest.Region, events.ScanID(fmt.Sprintf("scan_test_%d", i)))
		one, err := s.Append(t.Context(), a, events.Head{}, meta("c1"), queued(3))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Append(t.Context(), a, one[0].Head(), meta("c2"), events.AttemptClaimed{Attempt: 1, Worker: "w"}, events.AttemptStarted{Attempt: 1, Worker: "w"}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestABackupRestoresEverySequenceAndChain(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	fill(t, s)
	var b bytes.Buffer
	head, err := eventstore.Backup(t.Context(), s, &b)
	if err != nil || head.Last != 15 {
		t.Fatalf("Backup = %+v, %v", head, err)
	}
	fresh := natstest.Open(t)
	if _, err := eventstore.Restore(t.Context(), fresh, bytes.NewReader(b.Bytes())); err != nil {
		t.Fatal(err)
	}
	if v, err := eventstore.Verify(t.Context(), fresh); err != nil || v.Events != 15 || v.Aggregates != 5 {
		t.Errorf("Verify = %+v, %v", v, err)
	}
	a := events.ScanOf(natstest.Region, "scan_test_3")
	want, _, err := s.Load(t.Context(), a, events.Head{})
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := fresh.Load(t.Context(), a, events.Head{})
	if err != nil || len(got) != len(want) {
		t.Fatalf("Load = %d events, %v; want %d", len(got), err, len(want))
	}
	for i := range want {
		if got[i].Envelope != want[i].Envelope || got[i].Seq != want[i].Seq {
			t.Errorf("event %d = %+v, want %+v", i, got[i].Envelope, want[i].Envelope)
		}
	}
	if _, err := eventstore.Restore(t.Context(), fresh, bytes.NewReader(b.Bytes())); !errors.Is(err, eventstore.ErrNotEmpty) {
		t.Errorf("second Restore = %v, want ErrNotEmpty", err)
	}
}

func TestADamagedBackupIsRefused(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	fill(t, s)
	var b bytes.Buffer
	if _, err := eventstore.Backup(t.Context(), s, &b); err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(b.String(), "\n")
	for name, bad := range map[string]string{
		"cut off":         strings.Join(lines[:len(lines)-2], ""),
		"event missing":   strings.Join(append(append([]string{}, lines[:3]...), lines[4:]...), ""),
		"event changed":   strings.Replace(b.String(), `"attempt":1`, `"attempt":2`, 1),
		"another region":  strings.Replace(b.String(), `"region":"test"`, `"region":"else"`, 1),
		"something else":  "hello\n",
		"nothing at all":  "",
		"digest of lines": strings.Replace(b.String(), `"sha256":"`, `"sha256":"0`, 1),
	} {
		if _, err := eventstore.Restore(t.Context(), natstest.Open(t), strings.NewReader(bad)); err == nil {
			t.Errorf("%s: restored", name)
		}
	}
}

package eventstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
)

// A byte that changes on the disk makes the server skip the event without a word, to consumers and to readers. Followers see the hole in the sequence,
// readers the hole in the aggregate's versions.
func TestAByteChangedOnTheDiskIsNoticed(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 2, 4} { // the first, a middle, the last of five events
		t.Run(fmt.Sprintf("event %d of 5", n+1), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s, stop := natstest.Start(t, dir, false)
			a := events.ScanOf(natstest.Region, "scan_test_one")
			other := events.ScanOf(natstest.Region, "scan_test_other")
			var head events.Head
			for i := range 5 {
				got, err := s.Append(t.Context(), a, head, meta(fmt.Sprintf("c%d", i)), events.CancelRequested{Reason: fmt.Sprintf("reason-%d", i)})
				if err != nil {
					t.Fatal(err)
				}
				head = got[0].Head()
			}
			if _, err := s.Append(t.Context(), other, events.Head{}, meta("c"), events.CancelRequested{}); err != nil {
				t.Fatal(err)
			}
			stop()
			changeOnDisk(t, dir, fmt.Sprintf("reason-%d", n), fmt.Sprintf("reasom-%d", n))

			s = natstest.OpenWith(t, dir, false)
			if _, err := eventstore.Verify(t.Context(), s); !noticed(err) {
				t.Errorf("Verify = %v, want a gap or a broken chain", err)
			}
			var followed error
			for r, err := range s.Follow(t.Context(), 0) {
				if followed = err; err != nil || r.Seq >= 6 {
					break
				}
			}
			if gap, ok := errors.AsType[*eventstore.GapError](followed); !ok || int(gap.After) != n {
				t.Errorf("Follow = %v, want a gap after %d", followed, n)
			}
			got, _, err := s.Load(t.Context(), a, events.Head{})
			if !noticed(err) {
				t.Errorf("Load = %d events, %v; want a broken chain", len(got), err)
			}
			if _, _, err := s.Load(t.Context(), a, head); n == 4 && !noticed(err) {
				t.Errorf("Load after what the caller saw = %v, want a broken chain", err)
			}
			if _, _, err := s.Load(t.Context(), other, events.Head{}); err != nil {
				t.Errorf("Load of another aggregate = %v", err)
			}
			do := func(evs ...events.Event) error {
				_, _, err := eventstore.Do(t.Context(), s, a, meta("new"), func(state, events.Head) ([]events.Event, error) { return evs, nil })
				return err
			}
			if err := do(); !noticed(err) {
				t.Errorf("Do of nothing = %v, want a broken chain", err)
			}
			if err := do(queued(3)); err == nil { // the server finds nothing either, and takes a new beginning
				if _, err := eventstore.Verify(t.Context(), s); !noticed(err) {
					t.Errorf("Verify after a new beginning = %v, want a gap or a broken chain", err)
				}
			} else if !noticed(err) {
				t.Errorf("Do = %v, want a broken chain", err)
			}
		})
	}
}

func noticed(err error) bool {
	_, gap := errors.AsType[*eventstore.GapError](err)
	_, chain := errors.AsType[*eventstore.ChainError](err)
	return gap || chain
}

func changeOnDisk(t *testing.T, dir, from, to string) {
	t.Helper()
	changed := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".blk") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(b, []byte(from)) {
			return err
		}
		changed++
		return os.WriteFile(path, bytes.Replace(b, []byte(from), []byte(to), 1), 0o600)
	})
	if err != nil || changed != 1 {
		t.Fatalf("changed %d files, %v; want 1", changed, err)
	}
}

// Whoever can publish can add events, and whoever knows the format can number them right, but not without the chain's last link.
func TestAnInsertedEventBreaksTheChain(t *testing.T) {
	t.Parallel()
	for name, forge := range map[string]func(h nats.Header){
		"a wrong hash":    func(h nats.Header) { h["Audit-Hash"] = []string{strings.Repeat("0", 64)} },
		"another actor":   func(h nats.Header) { h["Vega-Actor"] = []string{"user:somebody"} },
		"another time":    func(h nats.Header) { h["ce-time"] = []string{"2020-01-01T00:00:00Z"} },
		"a version again": func(h nats.Header) { h["Agg-Version"] = []string{"1"} },
		"a version ahead": func(h nats.Header) { h["Agg-Version"] = []string{"3"} },
		"another command": func(h nats.Header) { h["Vega-Command"] = []string{"other"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := natstest.Open(t)
			a := events.ScanOf(natstest.Region, "scan_test_one")
			got, err := s.Append(t.Context(), a, events.Head{}, meta("c1"), queued(3))
			if err != nil {
				t.Fatal(err)
			}
			msgs, _, err := events.Encode(a, got[0].Head(), meta("c2"), events.CancelRequested{})
			if err != nil {
				t.Fatal(err)
			}
			h := nats.Header{}
			for k, v := range msgs[0].Header {
				h[k] = []string{v}
			}
			forge(h)
			if _, err := s.JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: msgs[0].Subject, Header: h, Data: msgs[0].Body}); err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.Load(t.Context(), a, events.Head{}); !noticed(err) {
				t.Errorf("Load = %v, want a broken chain", err)
			}
			if _, _, err := s.Load(t.Context(), a, got[0].Head()); !noticed(err) {
				t.Errorf("Load of the rest = %v, want a broken chain", err)
			}
			if _, err := eventstore.Verify(t.Context(), s); !noticed(err) {
				t.Errorf("Verify = %v, want a broken chain", err)
			}
			if _, _, err := eventstore.Do(t.Context(), s, a, meta("c3"), func(state, events.Head) ([]events.Event, error) {
				return []events.Event{events.CancelRequested{}}, nil
			}); !noticed(err) {
				t.Errorf("Do = %v, want a broken chain", err)
			}
		})
	}
}

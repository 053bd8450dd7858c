package eventstore_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
)

// What Open asserts is what the server says of the stream, not what was once asked for.
func TestOpenRefusesAStreamThatCouldLoseEvents(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*jetstream.StreamConfig)
		want   string
	}{
		"deletes are allowed":            {func(c *jetstream.StreamConfig) { c.DenyDelete = false }, "messages can be deleted"},
		"purges are allowed":             {func(c *jetstream.StreamConfig) { c.DenyPurge = false }, "the stream can be purged"},
		"rollup":                         {func(c *jetstream.StreamConfig) { c.AllowRollup, c.DenyPurge = true, false }, "rollup is allowed"},
		"message TTL":                    {func(c *jetstream.StreamConfig) { c.AllowMsgTTL = true }, "message TTL is allowed"},
		"schedules undo DenyPurge":       {func(c *jetstream.StreamConfig) { c.AllowMsgSchedules, c.Discard = true, jetstream.DiscardOld }, "the stream can be purged"},
		"delete markers":                 {func(c *jetstream.StreamConfig) { c.SubjectDeleteMarkerTTL = time.Hour; c.AllowMsgTTL = true }, "the stream can be purged"},
		"a limit by number":              {func(c *jetstream.StreamConfig) { c.MaxMsgs = 10 }, "limits"},
		"a limit by size":                {func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 }, "limits"},
		"a limit by age":                 {func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour }, "limits"},
		"a limit by subject":             {func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 5 }, "limits"},
		"memory":                         {func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, "storage is not file"},
		"no batches":                     {func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false }, "atomic batches are off"},
		"no direct reads":                {func(c *jetstream.StreamConfig) { c.AllowDirect = false }, "direct reads are off"},
		"work queue":                     {func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, "retention"},
		"subjects that swallow requests": {func(c *jetstream.StreamConfig) { c.Subjects = []string{"vega.test.>"} }, "subjects"},
		"sealed":                         {nil, "sealed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := natstest.Open(t)
			js := s.JetStream()
			name := eventstore.StreamName(natstest.Region)
			st, err := js.Stream(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			cfg := st.CachedInfo().Config
			if c.change == nil {
				cfg.Sealed = true
				if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
					t.Fatal(err)
				}
			} else {
				c.change(&cfg)
				if err := js.DeleteStream(t.Context(), name); err != nil {
					t.Fatal(err)
				}
				if _, err := js.CreateStream(t.Context(), cfg); err != nil {
					t.Fatal(err)
				}
			}
			_, err = eventstore.Open(t.Context(), s.Conn(), eventstore.Options{Region: natstest.Region})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Open = %v, want an error with %q", err, c.want)
			}
			if err := eventstore.Setup(t.Context(), js, natstest.Region, 1); err == nil {
				t.Error("Setup accepted the stream")
			}
		})
	}
}

// A stream of an earlier release lacks the aggregates that came later; one of a later release has more.
func TestSetupAddsTheSubjectsOfNewAggregates(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	js, name := s.JetStream(), eventstore.StreamName(natstest.Region)
	st, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	cfg := st.CachedInfo().Config
	all := cfg.Subjects
	cfg.Subjects = append([]string{"vega.test.later.>"}, all[1:]...)
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := eventstore.Open(t.Context(), s.Conn(), eventstore.Options{Region: natstest.Region}); err == nil || !strings.Contains(err.Error(), all[0]+": 'vega setup' adds it") {
		t.Errorf("Open without %s = %v, want an error that says how to add it", all[0], err)
	}
	if err := eventstore.Setup(t.Context(), js, natstest.Region, 1); err != nil {
		t.Fatal(err)
	}
	again, err := eventstore.Open(t.Context(), s.Conn(), eventstore.Options{Region: natstest.Region})
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if st, err = js.Stream(t.Context(), name); err != nil || len(st.CachedInfo().Config.Subjects) != len(all)+1 {
		t.Errorf("subjects are %v, %v; want %v and the later one", st.CachedInfo().Config.Subjects, err, all)
	}
}

func TestEventsCanNeitherBeDeletedNorPurged(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	a := events.ScanOf(natstest.Region, "scan_test_one")
	got, err := s.Append(t.Context(), a, events.Head{}, meta("c1"), queued(3))
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.JetStream().Stream(t.Context(), eventstore.StreamName(natstest.Region))
	if err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func(context.Context) error{
		"DeleteMsg":        func(ctx context.Context) error { return st.DeleteMsg(ctx, uint64(got[0].Seq)) },
		"SecureDeleteMsg":  func(ctx context.Context) error { return st.SecureDeleteMsg(ctx, uint64(got[0].Seq)) },
		"Purge":            func(ctx context.Context) error { return st.Purge(ctx) },
		"Purge by subject": func(ctx context.Context) error { return st.Purge(ctx, jetstream.WithPurgeSubject(a.Filter())) },
		"undoing DenyDelete": func(ctx context.Context) error {
			cfg := st.CachedInfo().Config
			cfg.DenyDelete = false
			_, err := s.JetStream().UpdateStream(ctx, cfg)
			return err
		},
		"undoing DenyPurge": func(ctx context.Context) error {
			cfg := st.CachedInfo().Config
			cfg.DenyPurge = false
			_, err := s.JetStream().UpdateStream(ctx, cfg)
			return err
		},
	} {
		if err := do(t.Context()); err == nil {
			t.Errorf("%s succeeded", name)
		}
	}
	if rest, _, err := s.Load(t.Context(), a, events.Head{}); err != nil || len(rest) != 1 {
		t.Errorf("Load = %d events, %v; want 1", len(rest), err)
	}
}

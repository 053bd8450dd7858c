package modeltest

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
	"vega/events/eventstore"
	"vega/events/eventstore/natstest"
)

// History writes a log by hand: every event gets the sequence, version and hash that it would have in a real one. Its clock starts at a fixed
// moment and moves by a second and a nanosecond an event, so answers are the same at every run and a backend that rounds times is noticed.
type History struct {
	Messages []events.Message  // as they lie in the log, in order
	Events   []events.Recorded // the same, decoded

	tb    testing.TB
	heads map[events.Aggregate]events.Head
	skew  time.Duration // of the clock, by what Later added
}

// NewHistory returns an empty log.
func NewHistory(tb testing.TB) *History {
	return &History{tb: tb, heads: map[events.Aggregate]events.Head{}}
}

// Add appends evs to a as one command of actor. It returns the sequence of the last.
func (h *History) Add(a events.Aggregate, actor events.Actor, evs ...events.Event) events.Seq {
	h.tb.Helper()
	n := len(h.Events)
	meta := events.Meta{
		Command: events.CommandID(fmt.Sprintf("cmd_%d", n+1)), Actor: actor,
		At: time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC).Add(time.Duration(n)*(time.Second+1) + h.skew),
	}
	msgs, head, err := events.Encode(a, h.heads[a], meta, evs...)
	if err != nil {
		h.tb.Fatal(err)
	}
	for _, m := range msgs {
		r, err := events.Decode(m, events.Seq(len(h.Events)+1))
		if err != nil {
			h.tb.Fatal(err)
		}
		h.Messages, h.Events = append(h.Messages, m), append(h.Events, r)
	}
	head.Seq = h.Last()
	h.heads[a] = head
	return head.Seq
}

// Last is the sequence of the last event.
func (h *History) Last() events.Seq { return events.Seq(len(h.Events)) }

// Publish stores the messages from sequence from on in an empty or equally long log, without waiting for each.
func (h *History) Publish(tb testing.TB, s *eventstore.Store, from events.Seq) {
	tb.Helper()
	for _, m := range h.Messages[from-1:] {
		header := make(nats.Header, len(m.Header))
		for k, v := range m.Header {
			header[k] = []string{v}
		}
		delete(header, events.HeaderMsgID) // no need to remember 100,000 ids
		if _, err := s.JetStream().PublishMsgAsync(&nats.Msg{Subject: m.Subject, Header: header, Data: m.Body}, jetstream.WithStallWait(time.Minute)); err != nil {
			tb.Fatal(err)
		}
	}
	select {
	case <-s.JetStream().PublishAsyncComplete():
	case <-tb.Context().Done():
		tb.Fatal("the log did not take the history")
	}
	info, err := s.Info(tb.Context())
	if err != nil || info.Last != h.Last() {
		tb.Fatalf("the log ends at %d, %v; want %d", info.Last, err, h.Last())
	}
}

// Replay reads a log's n events with an ordered consumer, looks at none of them, and returns how long that took: what a runner cannot be quicker than.
func Replay(b *testing.B, s *eventstore.Store, n int) time.Duration {
	b.Helper()
	cons, err := s.JetStream().OrderedConsumer(b.Context(), eventstore.StreamName(natstest.Region), jetstream.OrderedConsumerConfig{})
	if err != nil {
		b.Fatal(err)
	}
	begun := time.Now()
	seen, all := 0, make(chan struct{})
	cc, err := cons.Consume(func(jetstream.Msg) {
		if seen++; seen == n {
			close(all)
		}
	}, jetstream.PullMaxMessages(4096))
	if err != nil {
		b.Fatal(err)
	}
	<-all
	took := time.Since(begun)
	cc.Stop()
	<-cc.Closed()
	return took
}

// The ids of hand-made histories are short and readable.
func project(n int) events.ProjectID { return events.ProjectID(fmt.Sprintf("proj_test_%d", n)) }
func repository(n int) events.RepositoryID {
	return events.RepositoryID(fmt.Sprintf("repo_test_%d", n))
}
func keyID(n int) events.APIKeyID { return events.APIKeyID(fmt.Sprintf("key_test_%d", n)) }
func scanID(n int) events.ScanID  { return events.ScanID(fmt.Sprintf("scan_test_%d", n)) }
func user(n int) events.UserID    { return events.UserID(fmt.Sprintf("user_%d", n)) }
func snapshot(n int) events.SnapshotID {
	return events.SnapshotID(fmt.Sprintf("sha256:%064x", n))
}

func ofProject(n int) events.Aggregate    { return events.ProjectOf(natstest.Region, project(n)) }
func ofRepository(n int) events.Aggregate { return events.RepositoryOf(natstest.Region, repository(n)) }
func ofKey(n int) events.Aggregate        { return events.APIKeyOf(natstest.Region, keyID(n)) }
func ofScan(n int) events.Aggregate       { return events.ScanOf(natstest.Region, scanID(n)) }

// Typical returns the history of a busy service: one project with ten repositories, and n scans of eleven events each (slots, queued, claimed, started,
// five stages, findings, completed), 200 of them under way at any time. For benchmarks and crash tests.
func Typical(tb testing.TB, n int) *History {
	h := NewHistory(tb)
	h.Add(ofProject(1), events.ByUser(user(1)), events.ProjectCreated{Name: "shop", Owner: user(1)})
	for r := range 10 {
		h.Add(ofRepository(r), events.ByUser(user(1)),
			events.RepositoryCreated{Project: project(1), Name: fmt.Sprintf("service %d", r), SourceType: events.SourceUpload},
			events.IngestStarted{Upload: "up_1"},
			events.SnapshotTaken{Upload: "up_1", Snapshot: snapshot(r), Files: 1200, Bytes: 5 << 20, Manifest: object("manifest.json", r), Pack: object("pack.tar", r)})
	}
	const open = 200
	for first := 0; first < n; first += open {
		for step := range 10 {
			for i := first; i < min(first+open, n); i++ {
				h.typicalStep(i, step)
			}
		}
	}
	return h
}

func (h *History) typicalStep(i, step int) {
	worker := events.WorkerID(fmt.Sprintf("work_test_%d", i%8))
	switch step {
	case 0:
		h.Add(events.SlotsOf(natstest.Region, user(i)), events.ByUser(user(1)), events.Slots{User: user(i), Active: []events.Slot{{Scan: scanID(i), At: time.Unix(1e9, 0).UTC()}}})
		h.Add(ofScan(i), events.ByUser(user(1)), events.ScanQueued{Project: project(1), Repository: repository(i % 10), Snapshot: snapshot(i % 10), User: user(1), Priority: events.Normal, MaxAttempts: 3})
	case 1:
		h.Add(ofScan(i), events.ByWorker(worker), events.AttemptClaimed{Attempt: 1, Worker: worker, Host: "host-1"})
	case 2:
		h.Add(ofScan(i), events.ByWorker(worker), events.AttemptStarted{Attempt: 1, Worker: worker, Engine: "1.0.0"})
	case 3, 4, 5, 6, 7:
		result := object("result.json", i*10+step)
		h.Add(ofScan(i), events.ByWorker(worker), events.StageCompleted{Attempt: 1, Stage: fmt.Sprintf("stage_%d", step), Status: events.StageDone, StartedAt: time.Unix(1e9, 0).UTC(), Result: &result})
	case 8:
		h.Add(ofScan(i), events.ByWorker(worker), events.FindingsRecorded{Attempt: 1, Stage: "stage_5", Findings: []events.Finding{finding(i%10, 1, events.SeverityHigh), finding(i%10, 2, events.SeverityLow)}})
	case 9:
		h.Add(ofScan(i), events.ByWorker(worker), events.ScanCompleted{Attempt: 1, Coverage: events.Coverage{State: events.CoveragePartial, Reasons: []events.CoverageReason{{Stage: "audit", Code: "not_configured", Message: "no model is configured"}}}, Counts: events.Counts{High: 1, Low: 1}})
	}
}

func object(name string, n int) events.Object {
	return events.Object{Name: name, Key: fmt.Sprintf("scans/%d/%s", n, name), Digest: events.Digest(fmt.Sprintf("sha256:%064x", n)), Bytes: int64(1000 + n), MediaType: "application/json"}
}

// finding is weakness n of a repository: the same id in every scan of it.
func finding(repo, n int, s events.Severity) events.Finding {
	file := fmt.Sprintf("src/file%02d.go", n)
	fp := events.NewFingerprint("rule", nil, file, "", fmt.Sprintf("secret %d", n))
	return events.Finding{
		ID: events.FindingIDFor(natstest.Region, repository(repo), fp), Fingerprint: fp, Rule: "rule", Stage: "secrets", Severity: s,
		Title: fmt.Sprintf("Credential %d", n), Description: "A credential is committed.", File: file, StartLine: n, EndLine: n, Snippet: "key = \"AKIA****\"",
		CWE: []string{"CWE-798"}, Confidence: events.ConfidenceHigh, Validation: events.NotValidated, Remediation: "Revoke it.",
	}
}

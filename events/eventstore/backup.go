package eventstore

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"vega/events"
)

// A backup is lines of JSON: a head, one line per event in order with everything the log holds of it, and an end with their number and the
// digest of all lines before, so a cut-off backup is noticed. It can be read without Vega.
type (
	backupLine struct {
		Head  *BackupHead  `json:"head,omitempty"`
		Event *backupEvent `json:"event,omitempty"`
		End   *backupEnd   `json:"end,omitempty"`
	}
	// BackupHead says what a backup is of.
	BackupHead struct {
		Format  string        `json:"format"`
		Region  events.Region `json:"region"`
		Stream  string        `json:"stream"`
		Created time.Time     `json:"stream_created"`
		Last    events.Seq    `json:"last"`
	}
	backupEvent struct {
		Seq     events.Seq        `json:"seq"`
		Subject string            `json:"subject"`
		Header  map[string]string `json:"header"`
		Body    json.RawMessage   `json:"body"`
	}
	backupEnd struct {
		Events uint64 `json:"events"`
		SHA256 string `json:"sha256"`
	}
)

const backupFormat = "vega-event-log/1"

// Backup writes the log as it stands now to w and returns what it wrote. It checks every aggregate's hash chain on the way and fails with a *ChainError
// or *GapError rather than keep what is damaged.
func Backup(ctx context.Context, s *Store, w io.Writer) (BackupHead, error) {
	info, err := s.Info(ctx)
	if err != nil {
		return BackupHead{}, err
	}
	head := BackupHead{backupFormat, s.region, info.Name, info.Created, info.Last}
	sum := sha256.New()
	out := bufio.NewWriterSize(w, 1<<20)
	put := func(l backupLine) error {
		b, err := json.Marshal(l)
		if err != nil {
			return err
		}
		if l.End == nil {
			sum.Write(append(b, '\n'))
		}
		_, err = out.Write(append(b, '\n'))
		return err
	}
	if err := put(backupLine{Head: &head}); err != nil {
		return head, fmt.Errorf("write backup: %w", err)
	}
	chains := map[events.Aggregate]events.Head{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for m, err := range s.raw(ctx, head.Last) {
		if err != nil {
			return head, err
		}
		if err := extend(chains, m); err != nil {
			return head, err
		}
		if err := put(backupLine{Event: &backupEvent{m.seq, m.msg.Subject, kept(m.msg.Header), m.msg.Body}}); err != nil {
			return head, fmt.Errorf("write backup: %w", err)
		}
	}
	if err := put(backupLine{End: &backupEnd{uint64(head.Last), hex.EncodeToString(sum.Sum(nil))}}); err != nil {
		return head, fmt.Errorf("write backup: %w", err)
	}
	if err := out.Flush(); err != nil {
		return head, fmt.Errorf("write backup: %w", err)
	}
	return head, nil
}

// ErrNotEmpty is returned by Restore when the log has events already.
var ErrNotEmpty = errors.New("the event log is not empty")

// Restore reads a backup into an empty log of the same region: every event gets the sequence it had. It reads the whole backup first and checks all hash
// chains and its end, so a damaged one is refused before anything is written. A crash in the middle leaves a part; Restore then refuses to go on,
// and the stream has to be removed first. Read models of the old log do not fit the new stream: they are built anew.
func Restore(ctx context.Context, s *Store, r io.ReadSeeker) (BackupHead, error) {
	info, err := s.Info(ctx)
	if err != nil {
		return BackupHead{}, err
	}
	if info.Last > 0 {
		return BackupHead{}, fmt.Errorf("%w: it ends at sequence %d", ErrNotEmpty, info.Last)
	}
	head, err := readBackup(r, s.region, func(stored) error { return ctx.Err() })
	if err != nil {
		return head, err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return head, fmt.Errorf("read backup: %w", err)
	}
	return readBackup(r, s.region, func(m stored) error { return s.putBack(ctx, m) })
}

// readBackup calls each with every event of a backup, in order, and checks chains, order, region and end.
func readBackup(r io.Reader, region events.Region, each func(stored) error) (BackupHead, error) {
	var head BackupHead
	in := bufio.NewReaderSize(r, 1<<20)
	sum := sha256.New()
	chains := map[events.Aggregate]events.Head{}
	var last events.Seq
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return head, fmt.Errorf("backup line %d: it ends too early: %w", n, err)
		}
		var l backupLine
		if err := json.Unmarshal(line, &l); err != nil {
			return head, fmt.Errorf("backup line %d: %w", n, err)
		}
		switch {
		case n == 1:
			if l.Head == nil || l.Head.Format != backupFormat {
				return head, errors.New("this is not a backup of an event log")
			}
			if head = *l.Head; head.Region != region {
				return head, fmt.Errorf("the backup is of region %s, this is region %s", head.Region, region)
			}
		case l.Event != nil:
			m := stored{l.Event.Seq, events.Message{Subject: l.Event.Subject, Header: l.Event.Header, Body: l.Event.Body}}
			if m.seq != last+1 {
				return head, fmt.Errorf("backup line %d: %w", n, &GapError{last, m.seq})
			}
			if err := extend(chains, m); err != nil {
				return head, fmt.Errorf("backup line %d: %w", n, err)
			}
			if err := each(m); err != nil {
				return head, err
			}
			last = m.seq
		case l.End != nil:
			if l.End.Events != uint64(last) || l.End.SHA256 != hex.EncodeToString(sum.Sum(nil)) {
				return head, fmt.Errorf("the backup is damaged: it ends with %d events, %d were read, or their digest differs", l.End.Events, last)
			}
			return head, nil
		default:
			return head, fmt.Errorf("backup line %d: neither an event nor the end", n)
		}
		sum.Write(line)
	}
}

// putBack publishes one event where it was. The expectation keeps a retry from storing it twice.
func (s *Store) putBack(ctx context.Context, m stored) error {
	h := make(nats.Header, len(m.msg.Header))
	for k, v := range m.msg.Header {
		h[k] = []string{v}
	}
	ack, err := s.js.PublishMsg(ctx, &nats.Msg{Subject: m.msg.Subject, Header: h, Data: m.msg.Body}, jetstream.WithExpectLastSequence(uint64(m.seq)-1))
	if err != nil {
		return fmt.Errorf("restore sequence %d: %w", m.seq, err)
	}
	if events.Seq(ack.Sequence) != m.seq {
		return fmt.Errorf("restore sequence %d: it was stored as %d", m.seq, ack.Sequence)
	}
	return nil
}

// extend checks that m continues its aggregate's chain.
func extend(chains map[events.Aggregate]events.Head, m stored) error {
	a, _, err := events.ParseSubject(m.msg.Subject)
	if err != nil {
		return err
	}
	r, err := link(a, chains[a], m)
	if err != nil {
		return err
	}
	chains[a] = r.Head()
	return nil
}

// kept drops the headers that belonged to one way of publishing.
func kept(h map[string]string) map[string]string {
	out := make(map[string]string, len(h))
	for k, v := range h {
		switch k {
		case jetstream.ExpectedStreamHeader, jetstream.ExpectedLastSeqHeader, jetstream.ExpectedLastSubjSeqHeader, jetstream.ExpectedLastSubjSeqSubjHeader,
			headerBatchID, headerBatchSeq, headerBatchCommit:
		default:
			out[k] = v
		}
	}
	return out
}

// raw yields the messages 1..last as they are stored.
func (s *Store) raw(ctx context.Context, last events.Seq) func(func(stored, error) bool) {
	return func(yield func(stored, error) bool) {
		if last == 0 {
			return
		}
		in, stop, err := s.consume(ctx, 0, 1024, nil)
		if err != nil {
			yield(stored{}, err)
			return
		}
		defer stop()
		var msgs []jetstream.Msg
		for seq := events.Seq(1); seq <= last; {
			// The server is silent about an event that it cannot read, so after a while it is asked for the one that should come next.
			silence, cancel := context.WithTimeout(ctx, requestTimeout)
			msgs, err = in.take(silence, msgs, int(min(last-seq+1, 1024)))
			cancel()
			if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				if err = s.readable(ctx, seq); err == nil {
					continue
				}
			}
			if err != nil {
				yield(stored{}, err)
				return
			}
			for _, m := range msgs {
				md, err := m.Metadata()
				if err == nil && events.Seq(md.Sequence.Stream) != seq {
					err = &GapError{seq - 1, events.Seq(md.Sequence.Stream)}
				}
				if err != nil {
					yield(stored{}, err)
					return
				}
				if !yield(stored{seq, events.Message{Subject: m.Subject(), Header: fromHeader(m.Headers()), Body: m.Data()}}, nil) {
					return
				}
				seq++
			}
		}
	}
}

// readable asks the leader for an event that has been stored; a *GapError says that the log does not have it any more.
func (s *Store) readable(ctx context.Context, seq events.Seq) error {
	m, err := s.leaderGet(ctx, map[string]any{"seq": seq})
	if err == nil && m.seq != seq {
		return &GapError{seq - 1, seq + 1}
	}
	return err
}

// VerifyResult says what Verify has read.
type VerifyResult struct {
	Events     events.Seq
	Aggregates int
}

// Verify reads the whole log and checks that no event is missing and that every aggregate's hash chain holds. It returns *ChainError or *GapError with the
// first sequence that is wrong.
func Verify(ctx context.Context, s *Store) (VerifyResult, error) {
	info, err := s.Info(ctx)
	if err != nil {
		return VerifyResult{}, err
	}
	chains := map[events.Aggregate]events.Head{}
	for m, err := range s.raw(ctx, info.Last) {
		if err == nil {
			err = extend(chains, m)
		}
		if err != nil {
			return VerifyResult{m.seq, len(chains)}, err
		}
	}
	return VerifyResult{info.Last, len(chains)}, nil
}

package jsonfile

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"vega/events"
	"vega/projections"
	"vega/projections/modeltest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("JSONFILE_TEST_CHILD"); dir != "" {
		child(dir)
		return
	}
	os.Exit(m.Run())
}

func dump(t testing.TB, m *Model) string {
	t.Helper()
	var b bytes.Buffer
	if err := m.Dump(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// fold is what the rows are after the history's events up to seq.
func fold(t testing.TB, h *modeltest.History, seq events.Seq) string {
	t.Helper()
	rows, c := newRowSet(), events.Seq(0)
	tx := newTx(rows, c)
	for _, e := range h.Events[:seq] {
		if err := projections.Apply(tx, e); err != nil {
			t.Fatal(err)
		}
	}
	tx.commit()
	return dump(t, &Model{live: &edition{rows: rows}})
}

func mustOpen(t testing.TB, dir string) *Model {
	t.Helper()
	m, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// checkFolder opens what a crash left and expects one whole model at a checkpoint from least on, and no other files.
func checkFolder(t testing.TB, dir string, h *modeltest.History, least events.Seq) events.Seq {
	t.Helper()
	m, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	c := m.live.check
	if c.Seq < least {
		t.Errorf("reopened at sequence %d, want at least %d", c.Seq, least)
	}
	if dump(t, m) != fold(t, h, c.Seq) {
		t.Errorf("reopened rows differ from a fold up to sequence %d", c.Seq)
	}
	noLeftovers(t, dir, m.live)
	return c.Seq
}

func noLeftovers(t testing.TB, dir string, e *edition) {
	t.Helper()
	allowed := []string{"current"}
	edition := filepath.Base(e.dir)
	for g := 1; g <= e.generation; g++ {
		allowed = append(allowed, fmt.Sprintf("%s/tail.%d.jsonl", edition, g), fmt.Sprintf("%s/snapshot.%d.jsonl", edition, g))
	}
	snapshots := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if strings.Contains(name, "snapshot") {
			snapshots++
		}
		if !slices.Contains(allowed, name) {
			t.Errorf("%s was left behind", name)
		}
		return nil
	})
	if err != nil || snapshots > 1 {
		t.Errorf("%d snapshots, %v; want at most 1", snapshots, err)
	}
}

func TestATailThatIsCutAnywhereHoldsItsWholeTransactions(t *testing.T) {
	t.Parallel()
	h := modeltest.Story(t)
	dir := t.TempDir()
	m := mustOpen(t, dir)
	path := m.live.path("tail", 1)
	ends := []int64{0} // of the tail after each event
	for _, e := range h.Events {
		modeltest.Apply(t, m, []events.Recorded{e}, 1)
		ends = append(ends, m.live.size)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	last := len(ends) - 1
	want := map[int]string{}
	for n := last - 2; n <= last; n++ {
		want[n] = fold(t, h, events.Seq(n))
	}
	for cut := ends[last-2]; cut <= ends[last]; cut++ {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		n := last
		for ends[n] > cut {
			n--
		}
		m, err := Open(dir)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if m.live.check.Seq != events.Seq(n) || m.live.size != ends[n] || dump(t, m) != want[n] {
			t.Fatalf("cut at byte %d: reopened at sequence %d and %d bytes, want %d and %d with the rows of a fold", cut, m.live.check.Seq, m.live.size, n, ends[n])
		}
		if cut%31 == 0 { // and it goes on from there
			modeltest.Apply(t, m, h.Events[n:], 1)
			if dump(t, m) != want[last] {
				t.Fatalf("cut at byte %d: going on gave other rows", cut)
			}
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWhatAPowerCutLeavesInATailIsCutOff(t *testing.T) {
	t.Parallel()
	h := modeltest.Story(t)
	for _, c := range []struct {
		name   string
		damage func(tail []byte, lines [][]byte) []byte
		least  events.Seq // the rows may be of no earlier sequence
	}{
		{"zeros behind the end", func(tail []byte, _ [][]byte) []byte { return append(tail, make([]byte, 8192)...) }, h.Last()},
		{"garbage behind the end", func(tail []byte, _ [][]byte) []byte { return append(tail, "\x00\xff{]\n\n{\"end\"\n"...) }, h.Last()},
		{"a line of something else behind the end", func(tail []byte, _ [][]byte) []byte { return append(tail, "{}\n\"x\"\n"...) }, h.Last()},
		{"an end that lies about where it begins", func(tail []byte, _ [][]byte) []byte {
			return append(tail, "{\"end\":{\"seq\":999,\"stream\":\"s\",\"created\":\"2026-01-01T00:00:00Z\"},\"after\":998}\n"...)
		}, h.Last()},
		{"an end without a checkpoint", func(tail []byte, _ [][]byte) []byte { return append(tail, "{\"end\":null,\"after\":0}\n"...) }, h.Last()},
		{"an older end again", func(tail []byte, lines [][]byte) []byte { return append(tail, lines[len(lines)-1]...) }, h.Last()},
		{"a page in the middle is zero", func(tail []byte, _ [][]byte) []byte {
			clear(tail[len(tail)/2 : len(tail)/2+100])
			return tail
		}, 1},
		{"a transaction in the middle is missing", func(_ []byte, lines [][]byte) []byte {
			var out []byte
			n := 0
			for _, l := range lines {
				if n != 5 {
					out = append(out, l...)
				}
				if bytes.HasPrefix(l, []byte(`{"end"`)) {
					n++
				}
			}
			return out
		}, 5},
		{"everything is zero", func(tail []byte, _ [][]byte) []byte { clear(tail); return tail }, 0},
		{"everything is gone", func([]byte, [][]byte) []byte { return nil }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			m := mustOpen(t, dir)
			modeltest.Apply(t, m, h.Events, 1)
			path := m.live.path("tail", 1)
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			tail, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, c.damage(tail, bytes.SplitAfter(tail, []byte("\n"))), 0o600); err != nil {
				t.Fatal(err)
			}
			checkFolder(t, dir, h, c.least)
			again := mustOpen(t, dir)
			modeltest.Apply(t, again, h.Events[again.live.check.Seq:], 3)
			if dump(t, again) != fold(t, h, h.Last()) {
				t.Error("going on gave other rows")
			}
		})
	}
}

// A tail lost its end in a power cut, and the next generation's tail, written later, did not.
func TestATailThatDoesNotFollowTheOneBeforeIsLeftOut(t *testing.T) {
	t.Parallel()
	h := modeltest.Story(t)
	dir := t.TempDir()
	m := mustOpen(t, dir)
	modeltest.Apply(t, m, h.Events[:20], 1)
	one := m.live.path("tail", 1)
	if err := m.live.tail.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.live.startTail(2); err != nil {
		t.Fatal(err)
	}
	modeltest.Apply(t, m, h.Events[20:], 1)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if got := checkFolder(t, copyFolder(t, dir), h, h.Last()); got != h.Last() {
		t.Errorf("two whole tails reopened at %d, want %d", got, h.Last())
	}
	b, err := os.ReadFile(one)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(one, b[:len(b)-10], 0o600); err != nil {
		t.Fatal(err)
	}
	if got := checkFolder(t, dir, h, 19); got != 19 {
		t.Errorf("reopened at %d, want 19: what came after the hole does not follow", got)
	}
	again := mustOpen(t, dir)
	modeltest.Apply(t, again, h.Events[19:], 1)
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	checkFolder(t, dir, h, h.Last())
}

func copyFolder(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestACrashBetweenAnyTwoStepsLeavesOneWholeModel(t *testing.T) {
	t.Parallel()
	h := modeltest.Typical(t, 60)
	dir := t.TempDir()
	m := mustOpen(t, dir)
	m.grow = 20_000 // several generations
	type state struct {
		step, dir string
	}
	var states []state
	seen := map[string]int{}
	m.step = func(step string) {
		if seen[step]++; seen[step] <= 4 {
			states = append(states, state{step, copyFolder(t, dir)})
		}
	}
	at := len(h.Events) / 2
	wait := func() { // the steps of a snapshot come from its own goroutine: one at a time
		m.writing.Lock()
		defer m.writing.Unlock()
		if err := m.snapshotDone(true); err != nil {
			t.Error(err)
		}
	}
	for _, e := range h.Events[:at] {
		modeltest.Apply(t, m, []events.Recorded{e}, 1)
		wait()
	}
	rebuildOver(t, m, h, at)
	for _, e := range h.Events[at:] {
		modeltest.Apply(t, m, []events.Recorded{e}, 1)
		wait()
	}
	for _, step := range []string{"transaction written", "next tail made", "snapshot written", "current written", "draft made", "draft saved", "draft is current"} {
		if seen[step] == 0 {
			t.Errorf("step %q never happened", step)
		}
	}
	for _, s := range states {
		t.Run(s.step, func(t *testing.T) { checkFolder(t, s.dir, h, 1) })
	}
}

// rebuildOver makes a second edition of the first at events and swaps it in.
func rebuildOver(t testing.TB, m *Model, h *modeltest.History, at int) {
	t.Helper()
	d, err := m.Beside(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	put := func(from, to int) {
		t.Helper()
		end := projections.Checkpoint{Seq: events.Seq(to), Stream: c.Stream, Created: c.Created}
		err := d.Update(t.Context(), end, func(tx projections.Tx) error {
			for _, e := range h.Events[from:to] {
				if err := projections.Apply(tx, e); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	put(0, at/2)
	if err := d.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(at/2, at)
	if err := d.Swap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.Discard(); err != nil {
		t.Fatal(err)
	}
}

func TestADiscardedDraftLeavesNothing(t *testing.T) {
	t.Parallel()
	h := modeltest.Story(t)
	dir := t.TempDir()
	m := mustOpen(t, dir)
	modeltest.Apply(t, m, h.Events, 10)
	for _, save := range []bool{false, true} {
		d, err := m.Beside(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if save {
			if err := d.Save(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Swap(t.Context()); err == nil {
			t.Error("a draft that is behind was swapped in")
		}
		if err := d.Discard(); err != nil {
			t.Error(err)
		}
	}
	noLeftovers(t, dir, m.live)
	if dump(t, m) != fold(t, h, h.Last()) {
		t.Error("the live rows changed")
	}
}

func TestAWriteThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	h := modeltest.Story(t)
	dir := t.TempDir()
	m := mustOpen(t, dir)
	modeltest.Apply(t, m, h.Events[:50], 10)
	good := m.live.tail
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0) // every write: no space left on device
	if err != nil {
		t.Fatal(err)
	}
	m.live.tail = full
	if err := modeltest.Update(t.Context(), m, h.Events[50:60]); err == nil {
		t.Error("Update on a full disk succeeded")
	}
	if m.live.check.Seq != 50 || dump(t, m) != fold(t, h, 50) {
		t.Error("a write that failed changed the rows")
	}
	m.live.tail = good
	checkFolder(t, copyFolder(t, dir), h, 50)
	// Half a transaction reached the disk before the error.
	if _, err := good.WriteAt([]byte(`{"t":"project","v":{"id":"x"}}`+"\n"+`{"t":"scan","v":{"id":"half, and much longer than what is written over it, `+strings.Repeat("x", 5000)), m.live.size); err != nil {
		t.Fatal(err)
	}
	modeltest.Apply(t, m, h.Events[50:], 10)
	if err := errors.Join(full.Close(), m.Close()); err != nil {
		t.Fatal(err)
	}
	checkFolder(t, dir, h, 50)
	if err := modeltest.Update(t.Context(), m, h.Events[:1]); err == nil {
		t.Error("Update after Close succeeded")
	}
	if err := m.Close(); err != nil {
		t.Errorf("second Close = %v", err)
	}
}

func TestASnapshotThatFailsIsToldOnceAndTriedAgain(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"snapshot", "tail"} {
		t.Run(in, func(t *testing.T) {
			t.Parallel()
			h := modeltest.Typical(t, 60)
			dir := t.TempDir()
			m := mustOpen(t, dir)
			m.grow = 20_000
			blocker := m.live.path(in, 2)
			if err := os.Mkdir(blocker, 0o700); err != nil {
				t.Fatal(err)
			}
			failed, unblocked := 0, false
			for at := 0; at < len(h.Events); {
				err := modeltest.Update(t.Context(), m, h.Events[at:at+1])
				m.work.Wait() // the snapshot, if one was begun, has ended
				if err != nil {
					failed++
					if failed == 1 && in == "snapshot" {
						checkFolder(t, copyFolder(t, dir), h, events.Seq(at))
					}
					if !unblocked {
						unblocked = true
						if err := os.Remove(blocker); err != nil {
							t.Fatal(err)
						}
					}
					continue
				}
				at++
			}
			if failed != 1 {
				t.Errorf("%d transactions failed, want 1", failed)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			if m.live.based == 0 {
				t.Error("no snapshot was written after the one that failed")
			}
			checkFolder(t, dir, h, h.Last())
		})
	}
}

// child folds the typical history again and again with its rebuilds until it is killed, and prints every sequence that it committed.
func child(dir string) {
	tb := &failing{}
	h := modeltest.Typical(tb, 300)
	m, err := Open(dir)
	if err != nil {
		panic(err)
	}
	m.grow = 100_000
	out := bufio.NewWriter(os.Stdout)
	random := rand.New(rand.NewPCG(uint64(os.Getpid()), 1))
	for at := int(m.live.check.Seq); at < len(h.Events); {
		n := min(1+random.IntN(20), len(h.Events)-at)
		if err := modeltest.Update(tb.Context(), m, h.Events[at:at+n]); err != nil {
			panic(err)
		}
		at += n
		fmt.Fprintln(out, at)
		if err := out.Flush(); err != nil {
			panic(err)
		}
		if random.IntN(40) == 0 {
			rebuildOver(tb, m, h, at)
		}
	}
	fmt.Println("done")
	select {}
}

// failing is a testing.TB outside of a test: whatever fails panics.
type failing struct{ testing.TB }

func (*failing) Context() context.Context  { return context.Background() }
func (*failing) Helper()                   {}
func (*failing) Fatal(args ...any)         { panic(fmt.Sprint(args...)) }
func (*failing) Fatalf(s string, a ...any) { panic(fmt.Sprintf(s, a...)) }

func TestKillingTheProcessAtAnyMomentLosesNoCommittedTransaction(t *testing.T) {
	t.Parallel()
	h := modeltest.Typical(t, 300)
	dir := t.TempDir()
	for round := range killRounds {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "JSONFILE_TEST_CHILD="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(time.Duration(rand.IntN(120))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		committed, done := 0, false
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if done = lines.Text() == "done"; done {
				break
			}
			n, err := strconv.Atoi(lines.Text())
			if err != nil {
				t.Fatalf("the child said %q", lines.Text())
			}
			if committed == 0 && round%2 == 1 { // half of the rounds die soon after their first commit
				kill.Reset(time.Duration(rand.IntN(20)) * time.Millisecond)
			}
			committed = n
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		kill.Stop()
		checkFolder(t, dir, h, events.Seq(committed))
		if done {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
}

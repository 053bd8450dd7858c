package jsonfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"vega/projections"
)

// Model is the read model in a folder. It implements projections.Model and projections.Rebuilder.
type Model struct {
	dir string

	mu   sync.RWMutex // guards live's rows and checkpoint, and which edition is live; held for writing while a transaction or a swap becomes visible
	live *edition

	// still is held by a transaction, and by a rebuild while there must be none.
	still sync.Mutex

	// Only Update, Close and a swap touch what follows, one at a time under writing.
	writing sync.Mutex
	closed  bool
	making  chan made // the snapshot that is being written, buffered 1; nil when there is none
	work    sync.WaitGroup

	grow int64        // how large a tail grows at least before the next generation, bytes
	step func(string) // called after every durable step with its name; tests look at the folder there
}

// ErrClosed is returned by Update and Beside after Close.
var ErrClosed = errors.New("read models are closed")

// minSnapshot is how large a tail grows at least before the next generation; beyond, until it is as large as the snapshot.
const minSnapshot = 32 << 20

// Open opens the model in dir, or makes an empty one. What a crash left is repaired; a model of another schema is thrown away and starts
// from nothing, to be filled from the log.
func Open(dir string) (*Model, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open read models: %w", err)
	}
	cur, err := readCurrent(dir)
	if err != nil {
		return nil, err
	}
	m := &Model{dir: dir, grow: minSnapshot, step: func(string) {}}
	if cur.Schema == projections.Schema && cur.Edition > 0 {
		if err := removeOthers(dir, cur.Edition); err != nil {
			return nil, err
		}
		m.live, err = openEdition(dir, cur)
		return m, err
	}
	// None yet, or of another schema. A crash before current is written: the next Open does the same.
	if err := removeOthers(dir, 0); err != nil {
		return nil, err
	}
	if m.live, err = newEdition(dir, 1); err != nil {
		return nil, err
	}
	if err := m.live.startTail(1); err != nil {
		return nil, err
	}
	return m, writeCurrent(dir, current{projections.Schema, 1, 1})
}

// Close waits for a snapshot that is being written and closes the files. It returns that snapshot's error, which loses nothing: the rows are in
// the tails.
func (m *Model) Close() error {
	m.writing.Lock()
	defer m.writing.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	err := m.snapshotDone(true)
	return errors.Join(err, m.live.tail.Close())
}

// Removal says how to remove the model.
func (m *Model) Removal() string { return "remove the folder " + m.dir }

// Checkpoint is that of the last commit.
func (m *Model) Checkpoint(context.Context) (projections.Checkpoint, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.live.check, nil
}

// Update runs f and commits what it put together with c. After an error nothing has changed; a snapshot that could not be written in the
// background is such an error once, and another one is tried when the tail has grown again.
func (m *Model) Update(_ context.Context, c projections.Checkpoint, f func(projections.Tx) error) error {
	m.still.Lock()
	defer m.still.Unlock()
	m.writing.Lock()
	defer m.writing.Unlock()
	if m.closed {
		return ErrClosed
	}
	if err := m.snapshotDone(false); err != nil {
		return err
	}
	t, err := m.live.stage(c, f)
	if err != nil {
		return err
	}
	if err := m.live.append(t, c); err != nil {
		return err
	}
	// A crash here: the transaction is in the tail and holds after the next Open.
	m.step("transaction written")
	m.mu.Lock()
	m.live.commit(t, c)
	m.mu.Unlock()
	if m.live.size > max(m.grow, m.live.based) && m.making == nil {
		m.rotate()
	}
	return nil
}

// made is how writing a snapshot ended.
type made struct {
	size int64
	err  error
}

// rotate begins the next generation and writes its snapshot in the background. What fails here is told by the next Update or Close: this
// transaction holds.
func (m *Model) rotate() {
	e := m.live
	done := make(chan made, 1)
	m.making = done
	old, next := e.tail, e.generation+1
	if err := e.startTail(next); err != nil {
		done <- made{e.based, err} // the old tail goes on
		return
	}
	// A crash from here on: Open reads the old snapshot and tail, then this one.
	m.step("next tail made")
	rows, check := e.rows.freeze(), e.check
	m.work.Go(func() {
		size, err := m.snapshot(e, next, rows, check)
		done <- made{size, errors.Join(err, old.Close())}
	})
}

// snapshot writes a generation's snapshot and makes current name it.
func (m *Model) snapshot(e *edition, generation int, rows frozen, check projections.Checkpoint) (int64, error) {
	size, err := e.writeSnapshot(generation, rows, check)
	if err != nil {
		return 0, err
	}
	// A crash here leaves a snapshot that nobody names; Open removes it.
	m.step("snapshot written")
	if err := writeCurrent(m.dir, current{projections.Schema, e.number, generation}); err != nil {
		return 0, err
	}
	// A crash here leaves files of the generation before; Open removes them.
	m.step("current written")
	return size, e.sweep(generation)
}

// snapshotDone collects how the snapshot that was being written ended: waiting for it, or only when it has.
func (m *Model) snapshotDone(wait bool) error {
	if m.making == nil {
		return nil
	}
	var r made
	if wait {
		r = <-m.making
	} else {
		select {
		case r = <-m.making:
		default:
			return nil
		}
	}
	m.making = nil
	m.work.Wait() // it has nothing left to do
	m.live.based = r.size
	return r.err
}

// Dump writes all rows in the order of their keys, and no checkpoint: two models that went through the same events dump the same bytes.
func (m *Model) Dump(w io.Writer) error {
	m.mu.RLock()
	rows := m.live.rows.freeze()
	m.mu.RUnlock()
	return rows.each(func(t frozenTable) error { return t.sorted(w) })
}

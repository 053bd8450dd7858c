package jsonfile

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"vega/projections"
)

// Model is the read model in a folder. It implements projections.Model.
type Model struct {
	dir string

	mu    sync.RWMutex // guards rows and check: held for reading by a query, for writing while a transaction becomes visible
	rows  *rowSet
	check projections.Checkpoint

	// Only Update and Close touch what follows, one at a time under writing.
	writing    sync.Mutex
	tail       *os.File
	size       int64 // of the tail, bytes
	based      int64 // size of the snapshot this generation began with
	generation int
	making     sync.WaitGroup // the snapshot that is being written
	makeErr    chan error     // its error, buffered 1
}

// current is the file that names the generation that holds.
type current struct {
	Schema     int `json:"schema"`
	Generation int `json:"generation"`
}

// minSnapshot is how large a tail grows at least before the next generation; beyond, until it is as large as the snapshot.
const minSnapshot = 16 << 20

// Open opens the model in dir, or makes an empty one. What a crash left is repaired; a model of another schema is thrown away and starts
// from nothing, to be filled from the log.
func Open(dir string) (*Model, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open read models: %w", err)
	}
	m := &Model{dir: dir, rows: newRowSet(), makeErr: make(chan error, 1)}
	cur, err := readCurrent(dir)
	if err != nil {
		return nil, err
	}
	if cur.Schema != 0 && cur.Schema != projections.Schema {
		if err := removeGenerations(dir, -1); err != nil {
			return nil, err
		}
		cur = current{}
	}
	m.generation = cur.Generation
	if err := m.readSnapshot(); err != nil {
		return nil, err
	}
	// A new generation's tail may exist before its snapshot does: its transactions follow those of the tail before.
	for g := cur.Generation; ; g++ {
		path := m.path("tail", g)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			break
		}
		if m.tail != nil {
			_ = m.tail.Close() // read to its end; nothing of ours is in it
		}
		if m.tail, m.size, err = m.readTail(path); err != nil {
			return nil, err
		}
		m.generation = g
	}
	if m.tail == nil {
		if m.tail, err = os.OpenFile(m.path("tail", m.generation), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
			return nil, fmt.Errorf("open read models: %w", err)
		}
	}
	if cur.Schema == 0 {
		if err := writeCurrent(dir, current{projections.Schema, m.generation}); err != nil {
			return nil, err
		}
	}
	if err := m.sweep(cur.Generation); err != nil {
		return nil, err
	}
	return m, nil
}

// Close waits for a snapshot that is being written and closes the files.
func (m *Model) Close() error {
	m.writing.Lock()
	defer m.writing.Unlock()
	m.making.Wait()
	return m.tail.Close()
}

// Checkpoint is that of the last commit.
func (m *Model) Checkpoint(context.Context) (projections.Checkpoint, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.check, nil
}

// Update runs f and commits what it put together with c. A failed write leaves the transaction undone and the tail cut back to where it was.
func (m *Model) Update(ctx context.Context, c projections.Checkpoint, f func(projections.Tx) error) error {
	m.writing.Lock()
	defer m.writing.Unlock()
	t := newTx(m.rows)
	if err := f(t); err != nil {
		return err
	}
	var buf bytes.Buffer
	if err := t.write(&buf); err != nil {
		return err
	}
	end, err := json.Marshal(map[string]projections.Checkpoint{"end": c})
	if err != nil {
		return err
	}
	buf.Write(append(end, '\n'))
	n, err := m.tail.Write(buf.Bytes())
	if err != nil {
		// A part of the transaction may be in the file: without its end it never happened, but the next one must not follow it.
		if terr := m.tail.Truncate(m.size); terr != nil {
			return fmt.Errorf("write read models: %w; and cutting the tail back: %w", err, terr)
		}
		_, serr := m.tail.Seek(m.size, io.SeekStart)
		return errors.Join(fmt.Errorf("write read models: %w", err), serr)
	}
	// A crash here: the transaction is in the tail and holds after the next Open.
	m.size += int64(n)
	m.mu.Lock()
	t.commit()
	m.check = c
	m.mu.Unlock()
	if m.size > max(minSnapshot, m.based) {
		return m.rotate()
	}
	return nil
}

// rotate begins the next generation and writes its snapshot in the background.
func (m *Model) rotate() error {
	m.making.Wait()
	select {
	case err := <-m.makeErr:
		if err != nil {
			return err
		}
	default:
	}
	next := m.generation + 1
	tail, err := os.OpenFile(m.path("tail", next), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("write read models: %w", err)
	}
	// A crash from here on: Open reads the old snapshot and tail, then this one.
	old := m.tail
	m.tail, m.generation, m.size = tail, next, 0
	var buf bytes.Buffer // rows as of now; the transactions that follow go on beside
	if err := writeSnapshot(&buf, m.rows, m.check); err != nil {
		return err
	}
	m.based = int64(buf.Len())
	m.making.Go(func() {
		_ = old.Close() // all of it was written long ago
		err := writeFileSync(m.path("snapshot", next), buf.Bytes())
		if err == nil {
			// A crash here leaves a snapshot that nobody names; sweep removes it.
			err = writeCurrent(m.dir, current{projections.Schema, next})
		}
		if err == nil {
			err = m.sweep(next)
		}
		select {
		case m.makeErr <- err:
		default:
		}
	})
	return nil
}

// Dump writes all rows in the order of their keys, and no checkpoint: two models that went through the same events dump the same bytes.
func (m *Model) Dump(w io.Writer) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.rows.each(func(_ string, t anyTable) error { return t.sorted(w) })
}

func (m *Model) path(kind string, generation int) string {
	return filepath.Join(m.dir, kind+"."+strconv.Itoa(generation)+".jsonl")
}

func writeSnapshot(w io.Writer, rows *rowSet, c projections.Checkpoint) error {
	head, err := json.Marshal(map[string]projections.Checkpoint{"checkpoint": c})
	if err != nil {
		return err
	}
	if _, err := w.Write(append(head, '\n')); err != nil {
		return err
	}
	return rows.each(func(_ string, t anyTable) error { return t.write(w) })
}

func (m *Model) readSnapshot() error {
	f, err := os.Open(m.path("snapshot", m.generation))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the first generation has none
	}
	if err != nil {
		return fmt.Errorf("open read models: %w", err)
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	for n := 1; ; n++ {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			m.based, err = f.Seek(0, io.SeekCurrent)
			return err
		}
		if err != nil {
			return fmt.Errorf("%s line %d: %w", f.Name(), n, err)
		}
		if n == 1 {
			var head struct{ Checkpoint projections.Checkpoint }
			if err := json.Unmarshal(line, &head); err != nil {
				return fmt.Errorf("%s line %d: %w", f.Name(), n, err)
			}
			m.check = head.Checkpoint
			continue
		}
		if err := m.rows.readLine(line); err != nil {
			return fmt.Errorf("%s line %d: %w", f.Name(), n, err)
		}
	}
}

// readTail applies the whole transactions of a tail and cuts off the rest.
func (m *Model) readTail(path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("open read models: %w", err)
	}
	r := bufio.NewReaderSize(f, 1<<20)
	var good, at int64
	var pending [][]byte
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			break // the file ends, perhaps inside a line
		}
		at += int64(len(line))
		if !json.Valid(line) {
			break // what a power cut left
		}
		if !bytes.HasPrefix(line, []byte(`{"end":`)) {
			pending = append(pending, line)
			continue
		}
		var end struct{ End projections.Checkpoint }
		if err := json.Unmarshal(line, &end); err != nil {
			break
		}
		if end.End.Seq > m.check.Seq { // a snapshot may hold it already
			for _, l := range pending {
				if err := m.rows.readLine(l); err != nil {
					return nil, 0, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
				}
			}
			m.check = end.End
		}
		pending, good = pending[:0], at
	}
	if err := f.Truncate(good); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("open read models: %w", err), f.Close())
	}
	if _, err := f.Seek(good, io.SeekStart); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("open read models: %w", err), f.Close())
	}
	return f, good, nil
}

func (s *rowSet) readLine(line []byte) error {
	var row struct {
		T string          `json:"t"`
		V json.RawMessage `json:"v"`
	}
	if err := json.Unmarshal(line, &row); err != nil {
		return err
	}
	found := false
	err := s.each(func(name string, t anyTable) error {
		if name != row.T {
			return nil
		}
		found = true
		return t.read(row.V)
	})
	if err == nil && !found {
		return fmt.Errorf("unknown kind of row %.40q", row.T)
	}
	return err
}

// sweep removes what belongs to no generation from keep on: older files, snapshots nobody names, half-written files.
func (m *Model) sweep(keep int) error { return removeGenerations(m.dir, keep) }

func removeGenerations(dir string, keep int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("clean read models: %w", err)
	}
	for _, e := range entries {
		f := strings.Split(e.Name(), ".")
		stale := strings.HasSuffix(e.Name(), ".tmp")
		if len(f) == 3 && (f[0] == "tail" || f[0] == "snapshot") {
			g, err := strconv.Atoi(f[1])
			stale = stale || (err == nil && (keep < 0 || g < keep || (f[0] == "snapshot" && g > keep)))
		}
		if stale {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("clean read models: %w", err)
			}
		}
	}
	return nil
}

func readCurrent(dir string) (current, error) {
	var c current
	b, err := os.ReadFile(filepath.Join(dir, "current"))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("open read models: %w", err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("open read models: %s: %w", filepath.Join(dir, "current"), err)
	}
	return c, nil
}

func writeCurrent(dir string, c current) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "current")
	if err := writeFileSync(path+".tmp", append(b, '\n')); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("write read models: %w", err)
	}
	// A crash here: either name may be found after a power cut, and both are whole.
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write read models: %w", err)
	}
	defer d.Close()
	return d.Sync()
}

func writeFileSync(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write read models: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write read models: %w", err)
	}
	return nil
}

package jsonfile

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"vega/events"
	"vega/projections"
)

// edition is one whole set of rows with its files, in a folder of its own. The model has one that is live and, while a rebuild runs, a
// second. Whoever owns it says who may call what when.
type edition struct {
	dir    string
	number int
	rows   *rowSet
	check  projections.Checkpoint

	buf        bytes.Buffer // of the transaction that is being written
	tail       *os.File     // nil: nothing is logged yet
	size       int64        // of the tail's whole transactions, bytes
	based      int64        // size of the newest snapshot, bytes
	generation int          // of the tail
}

// keepBuffer is how large a buffer is kept for the next transaction.
const keepBuffer = 16 << 20

// end is the last line of a transaction.
type end struct {
	End   *projections.Checkpoint `json:"end"`
	After events.Seq              `json:"after"` // the checkpoint of the transaction before
}

func editionPath(dir string, number int) string {
	return filepath.Join(dir, "edition."+strconv.Itoa(number))
}

// newEdition makes an empty folder for an edition without files.
func newEdition(dir string, number int) (*edition, error) {
	e := &edition{dir: editionPath(dir, number), number: number, rows: newRowSet()}
	if err := os.RemoveAll(e.dir); err != nil {
		return nil, fmt.Errorf("make read models: %w", err)
	}
	if err := os.Mkdir(e.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make read models: %w", err)
	}
	return e, nil
}

// openEdition reads the edition that current names.
func openEdition(dir string, cur current) (*edition, error) {
	e := &edition{dir: editionPath(dir, cur.Edition), number: cur.Edition, rows: newRowSet()}
	err := e.read(cur.Generation)
	if err == nil {
		err = e.sweep(cur.Generation)
	}
	if err != nil {
		if e.tail != nil {
			err = errors.Join(err, e.tail.Close())
		}
		return nil, fmt.Errorf("open read models: %w (the log holds everything: remove the folder %s to build them anew)", err, dir)
	}
	return e, nil
}

// read reads a generation's snapshot and the tails that follow it.
func (e *edition) read(generation int) error {
	if err := e.readSnapshot(generation); err != nil {
		return err
	}
	// A new generation's tail exists before its snapshot does: its transactions follow those of the tail before.
	for g := generation; ; g++ {
		f, err := os.OpenFile(e.path("tail", g), os.O_RDWR, 0o600)
		if errors.Is(err, fs.ErrNotExist) && g > generation {
			return nil
		}
		if err != nil {
			return err
		}
		if e.tail != nil {
			err = e.tail.Close()
		}
		e.tail, e.generation = f, g
		if err != nil {
			return err
		}
		if e.size, err = e.readTail(f); err != nil {
			return err
		}
	}
}

func (e *edition) path(kind string, generation int) string {
	return filepath.Join(e.dir, kind+"."+strconv.Itoa(generation)+".jsonl")
}

// stage runs f over the rows. It returns projections.ErrMoved unless c is beyond them.
func (e *edition) stage(c projections.Checkpoint, f func(projections.Tx) error) (*tx, error) {
	if c.Seq <= e.check.Seq {
		return nil, fmt.Errorf("%w: they are at sequence %d, the transaction goes to %d", projections.ErrMoved, e.check.Seq, c.Seq)
	}
	t := newTx(e.rows, e.check.Seq)
	return t, f(t)
}

// append writes a transaction behind the tail. After an error the tail ends where it did.
func (e *edition) append(t *tx, c projections.Checkpoint) error {
	e.buf.Reset()
	if e.buf.Cap() > keepBuffer {
		e.buf = bytes.Buffer{}
	}
	enc := json.NewEncoder(&e.buf)
	enc.SetEscapeHTML(false)
	if err := t.write(enc); err != nil {
		return err
	}
	if err := enc.Encode(end{&c, e.check.Seq}); err != nil {
		return fmt.Errorf("write read models: %w", err)
	}
	n, err := e.tail.WriteAt(e.buf.Bytes(), e.size)
	if err != nil {
		// A part of the transaction may be in the file. It has no end, and the next one is written over it; should cutting it off fail too, Open does it.
		return errors.Join(fmt.Errorf("write read models: %w", err), e.tail.Truncate(e.size))
	}
	e.size += int64(n)
	return nil
}

// commit makes a transaction's rows visible.
func (e *edition) commit(t *tx, c projections.Checkpoint) {
	t.commit()
	e.check = c
}

// startTail makes an empty tail and writes there from now on.
func (e *edition) startTail(generation int) error {
	f, err := os.OpenFile(e.path("tail", generation), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("write read models: %w", err)
	}
	e.tail, e.generation, e.size = f, generation, 0
	return nil
}

// writeSnapshot writes rows to a generation's snapshot, synced, and returns its size.
func (e *edition) writeSnapshot(generation int, rows frozen, c projections.Checkpoint) (int64, error) {
	f, err := os.OpenFile(e.path("snapshot", generation), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, fmt.Errorf("write read models: %w", err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	err = enc.Encode(snapshotHead{&c})
	if err == nil {
		err = rows.each(func(t frozenTable) error { return t.write(enc) })
	}
	if err == nil {
		err = w.Flush()
	}
	var size int64
	if err == nil {
		size, err = f.Seek(0, io.SeekCurrent)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = syncFolder(e.dir)
	}
	if err != nil {
		return 0, fmt.Errorf("write read models: %w", err)
	}
	return size, nil
}

type snapshotHead struct {
	Checkpoint *projections.Checkpoint `json:"checkpoint"`
}

// readSnapshot reads the rows that a generation began with. The first generation of an edition that was never rebuilt began with none.
func (e *edition) readSnapshot(generation int) error {
	f, err := os.Open(e.path("snapshot", generation))
	if errors.Is(err, fs.ErrNotExist) && generation == 1 {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	for n := 1; ; n++ {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 && n > 1 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s line %d: %w", f.Name(), n, err)
		}
		e.based += int64(len(line))
		if n == 1 {
			var head snapshotHead
			if err := json.Unmarshal(line, &head); err != nil || head.Checkpoint == nil {
				return fmt.Errorf("%s line %d: no checkpoint: %w", f.Name(), n, err)
			}
			e.check = *head.Checkpoint
			continue
		}
		put, err := e.rows.readLine(line)
		if err != nil {
			return fmt.Errorf("%s line %d: %w", f.Name(), n, err)
		}
		put()
	}
}

// readTail applies the whole transactions of a tail that follow what was read before, cuts off the rest, and returns where it ends.
func (e *edition) readTail(f *os.File) (int64, error) {
	r := bufio.NewReaderSize(f, 1<<20)
	var good, at int64
	var pending []func() // what the rows of a transaction do when its end is there
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			break // the file ends, perhaps inside a line
		}
		at += int64(len(line))
		if !bytes.HasPrefix(line, []byte(`{"end":`)) {
			put, err := e.rows.readLine(line)
			if err != nil {
				break // what a power cut left
			}
			pending = append(pending, put)
			continue
		}
		var l end
		if err := json.Unmarshal(line, &l); err != nil || l.End == nil || l.After != e.check.Seq || l.End.Seq <= l.After {
			break // a power cut took transactions before this one: the log brings them again
		}
		for _, put := range pending {
			put()
		}
		e.check = *l.End
		pending, good = pending[:0], at
	}
	return good, f.Truncate(good)
}

// sweep removes what belongs to no generation from keep on: older files, and snapshots that nobody names.
func (e *edition) sweep(keep int) error {
	entries, err := os.ReadDir(e.dir)
	if err != nil {
		return fmt.Errorf("clean read models: %w", err)
	}
	for _, x := range entries {
		f := strings.Split(x.Name(), ".")
		if len(f) != 3 {
			continue
		}
		g, err := strconv.Atoi(f[1])
		if err != nil || g == keep || (f[0] == "tail" && g > keep) {
			continue
		}
		if err := os.Remove(filepath.Join(e.dir, x.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("clean read models: %w", err)
		}
	}
	return nil
}

// current is the file that names the edition and the generation that hold.
type current struct {
	Schema     int `json:"schema"`
	Edition    int `json:"edition"`
	Generation int `json:"generation"`
}

func readCurrent(dir string) (current, error) {
	var c current
	path := filepath.Join(dir, "current")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		if err = json.Unmarshal(b, &c); err != nil {
			err = fmt.Errorf("%s: %w (the log holds everything: remove the folder %s to build them anew)", path, err, dir)
		}
	}
	if err != nil {
		return c, fmt.Errorf("open read models: %w", err)
	}
	return c, nil
}

// writeCurrent replaces current. A power cut leaves the old one or the new one, whole.
func writeCurrent(dir string, c current) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "current")
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.Write(append(b, '\n'))
		if err == nil {
			err = f.Sync()
		}
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err == nil {
		err = syncFolder(dir)
	}
	if err != nil {
		return fmt.Errorf("write read models: %w", err)
	}
	return nil
}

// removeOthers removes every edition but one, and a current that was being written.
func removeOthers(dir string, keep int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("clean read models: %w", err)
	}
	for _, x := range entries {
		if x.Name() == "current.tmp" || (strings.HasPrefix(x.Name(), "edition.") && x.Name() != filepath.Base(editionPath(dir, keep))) {
			if err := os.RemoveAll(filepath.Join(dir, x.Name())); err != nil {
				return fmt.Errorf("clean read models: %w", err)
			}
		}
	}
	return nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

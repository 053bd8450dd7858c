package jsonfile

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"sync"

	"vega/projections"
)

// draft is a second edition beside the live one. One goroutine uses it.
type draft struct {
	model *Model
	*edition
	swapped bool
}

// Beside makes an empty draft in a folder of its own. A draft that was left behind is replaced; a crash leaves a folder that nobody names, and the
// next Open removes it.
func (m *Model) Beside(context.Context) (projections.Draft, error) {
	m.writing.Lock()
	defer m.writing.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	e, err := newEdition(m.dir, m.live.number+1)
	if err != nil {
		return nil, err
	}
	m.step("draft made")
	return &draft{model: m, edition: e}, nil
}

// Checkpoint is that of the draft's last Update.
func (d *draft) Checkpoint(context.Context) (projections.Checkpoint, error) { return d.check, nil }

// Update keeps the rows in memory until Save; from then on it also writes them.
func (d *draft) Update(_ context.Context, c projections.Checkpoint, f func(projections.Tx) error) error {
	t, err := d.stage(c, f)
	if err != nil {
		return err
	}
	if d.tail != nil {
		if err := d.append(t, c); err != nil {
			return err
		}
	}
	d.commit(t, c)
	return nil
}

// Hold keeps transactions of the live edition waiting until release is called.
func (d *draft) Hold(ctx context.Context) (projections.Checkpoint, func(), error) {
	d.model.still.Lock()
	c, err := d.model.Checkpoint(ctx)
	return c, sync.OnceFunc(d.model.still.Unlock), err
}

// Save writes what the draft has as its first snapshot, so that little is left to write when it becomes live.
func (d *draft) Save(context.Context) error {
	size, err := d.writeSnapshot(1, d.rows.freeze(), d.check)
	if err != nil {
		return err
	}
	d.based = size
	d.model.step("draft saved")
	return d.startTail(1)
}

// Compare freezes both as they stand and yields how they differ. Nothing waits while it does.
func (d *draft) Compare(context.Context) (iter.Seq2[projections.Difference, error], error) {
	d.model.mu.RLock()
	live, at := d.model.live.rows.freeze(), d.model.live.check.Seq
	d.model.mu.RUnlock()
	if at != d.check.Seq {
		return nil, fmt.Errorf("%w: they are at sequence %d, the draft at %d", projections.ErrMoved, at, d.check.Seq)
	}
	rebuilt := d.rows.freeze()
	return func(yield func(projections.Difference, error) bool) {
		for i, t := range live {
			more := true
			err := t.differences(rebuilt[i], func(x projections.Difference) bool {
				more = yield(x, nil)
				return more
			})
			if err != nil {
				more = yield(projections.Difference{}, err)
			}
			if !more {
				return
			}
		}
	}, nil
}

// Swap makes the draft the live edition. Readers see one or the other, whole.
func (d *draft) Swap(context.Context) error {
	m := d.model
	m.writing.Lock()
	defer m.writing.Unlock()
	if m.closed {
		return ErrClosed
	}
	if d.tail == nil {
		return errors.New("swap read models: the draft is not saved")
	}
	if m.live.check != d.check {
		return fmt.Errorf("%w: they are at sequence %d, the draft at %d", projections.ErrMoved, m.live.check.Seq, d.check.Seq)
	}
	// The snapshot that is being written would name the old edition again after us.
	if err := m.snapshotDone(true); err != nil {
		return err
	}
	if err := writeCurrent(m.dir, current{projections.Schema, d.number, d.generation}); err != nil {
		return err
	}
	// A crash before this line: the old edition holds, and Open removes ours. After it: the other way round.
	m.step("draft is current")
	old := m.live
	m.mu.Lock()
	m.live = d.edition
	m.mu.Unlock()
	d.swapped = true
	return errors.Join(old.tail.Close(), os.RemoveAll(old.dir))
}

// Discard removes a draft that was not swapped in.
func (d *draft) Discard() error {
	if d.swapped {
		return nil
	}
	d.swapped = true
	var err error
	if d.tail != nil {
		err = d.tail.Close()
	}
	return errors.Join(err, os.RemoveAll(d.dir))
}

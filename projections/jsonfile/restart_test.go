package jsonfile_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"

	"vega/events"
	"vega/events/eventstore/natstest"
	"vega/projections"
	"vega/projections/jsonfile"
	"vega/projections/modeltest"
)

// counting counts what transactions begin with.
type counting struct {
	projections.Model
	mu    sync.Mutex
	first events.Seq // where the first transaction began
	begun bool
}

func (c *counting) Update(ctx context.Context, to projections.Checkpoint, f func(projections.Tx) error) error {
	return c.Model.Update(ctx, to, func(tx projections.Tx) error {
		c.mu.Lock()
		if !c.begun {
			c.begun, c.first = true, tx.At()
		}
		c.mu.Unlock()
		return f(tx)
	})
}

func TestReopeningGoesOnFromTheCheckpoint(t *testing.T) {
	t.Parallel()
	s := natstest.Open(t)
	h := modeltest.Typical(t, 100)
	half := modeltest.NewHistory(t)
	half.Messages, half.Events = h.Messages[:500], h.Events[:500]
	half.Publish(t, s, 1)
	dir := t.TempDir()
	t.Run("first half", func(t *testing.T) {
		r := modeltest.Follow(t, s, open(t, dir))
		if err := r.WaitFor(t.Context(), 500); err != nil {
			t.Fatal(err)
		}
	})
	m := open(t, dir)
	c := &counting{Model: m}
	r := modeltest.Follow(t, s, c)
	if r.At() != 500 {
		t.Errorf("the runner begins at %d, want 500", r.At())
	}
	h.Publish(t, s, 501)
	if err := r.WaitFor(t.Context(), h.Last()); err != nil {
		t.Fatal(err)
	}
	if c.first != 500 {
		t.Errorf("the first transaction began at %d, want 500: the log was replayed", c.first)
	}
	straight := open(t, t.TempDir())
	modeltest.Apply(t, straight, h.Events, 1000)
	var have, want bytes.Buffer
	if err := m.Dump(&have); err != nil {
		t.Fatal(err)
	}
	if err := straight.Dump(&want); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have.Bytes(), want.Bytes()) {
		t.Error("rows after a restart differ from those of one run")
	}
}

func TestAModelOfAnotherSchemaStartsFromNothing(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"newer schema": `{"schema":99,"edition":1,"generation":1}`,
		"no edition":   fmt.Sprintf(`{"schema":%d,"generation":3}`, projections.Schema),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			m, err := jsonfile.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			modeltest.Apply(t, m, modeltest.Story(t).Events, 10)
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			write(t, dir+"/current", content)
			again := open(t, dir)
			if c, err := again.Checkpoint(t.Context()); err != nil || c.Seq != 0 {
				t.Errorf("Checkpoint = %+v, %v; want none", c, err)
			}
			modeltest.Apply(t, again, modeltest.Story(t).Events, 10)
			modeltest.Golden(t, again)
		})
	}
}

func TestDamagedFilesAreRefusedWithWhatToDo(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, dir string){
		"current": func(t *testing.T, dir string) { write(t, dir+"/current", "{") },
		"a row": func(t *testing.T, dir string) {
			write(t, dir+"/edition.1/snapshot.1.jsonl", "{\"checkpoint\":{\"seq\":1}}\n{\"t\":\"dragon\",\"v\":{}}\n")
		},
		"snapshot": func(t *testing.T, dir string) { write(t, dir+"/edition.1/snapshot.1.jsonl", "") },
		"the snapshot is gone": func(t *testing.T, dir string) {
			write(t, dir+"/current", fmt.Sprintf(`{"schema":%d,"edition":1,"generation":2}`, projections.Schema))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			m, err := jsonfile.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			damage(t, dir)
			if _, err := jsonfile.Open(dir); err == nil || !bytes.Contains([]byte(err.Error()), []byte("remove the folder")) {
				t.Errorf("Open = %v, want an error that says what to do", err)
			}
		})
	}
}

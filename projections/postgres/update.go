package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"vega/events"
	"vega/projections"
)

// writer writes the rows of one schema, one transaction at a time.
type writer struct {
	schema string

	mu  sync.Mutex // held for one transaction
	mem memory
}

// Update runs f and commits what it put together with c. After an error nothing has changed, except that a commit whose answer was lost may hold: then the next Update
// finds the checkpoint moved. It returns ErrMoved, wraps ErrUnavailable when the database does not answer, and ErrRefused when it cannot hold a row.
func (m *Model) Update(ctx context.Context, c projections.Checkpoint, f func(projections.Tx) error) error {
	conn, err := m.acquire(ctx, m.work)
	if err != nil {
		return m.tell(ctx, "write read models", err)
	}
	defer conn.Release()
	at, err := m.live.update(ctx, m.timeout, conn.Conn(), c, f)
	if err == nil {
		m.saw(onPrimary, c.Seq)
	}
	if errors.Is(err, projections.ErrMoved) {
		m.saw(onPrimary, at)
	}
	if e, ok := errors.AsType[*projections.ModelError](err); ok {
		err = e.Err
	}
	if e, ok := errors.AsType[*callbackError](err); ok {
		return e.err
	}
	return m.tell(ctx, "write read models", err)
}

// callbackError is what f returned about an event, not about the database.
type callbackError struct{ err error }

func (e *callbackError) Error() string { return e.err.Error() }

// update is Update on a connection, without the words. It returns the checkpoint that it found.
func (w *writer) update(ctx context.Context, timeout time.Duration, conn *pgx.Conn, c projections.Checkpoint, f func(projections.Tx) error) (at events.Seq, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	// A server that is there ends each statement in time; this is for one that is not.
	ctx, cancel := context.WithTimeout(ctx, 4*timeout)
	defer cancel()
	begun := false
	defer func() {
		if err == nil {
			return
		}
		if begun && !conn.IsClosed() {
			back, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTime)
			defer cancel()
			if _, e := conn.Exec(back, "ROLLBACK"); e != nil {
				_ = conn.Close(back) // the pool makes another one
			}
		}
	}()
	var s standing
	var none bool
	for same := false; !same; {
		begun = true
		if s, none, same, err = w.begin(ctx, conn); err != nil {
			return 0, err
		}
		if !same { // a rebuild exchanged the tables while we waited for its lock
			if _, err := conn.Exec(ctx, "ROLLBACK"); err != nil {
				return 0, err
			}
		}
	}
	if err := s.fits(); err != nil {
		return 0, err
	}
	if c.Seq <= s.Seq {
		return s.Seq, fmt.Errorf("%w: they are at sequence %d, the transaction goes to %d", projections.ErrMoved, s.Seq, c.Seq)
	}
	if w.mem.edition != s.edition || w.mem.at != s.Seq {
		w.mem = memory{edition: s.edition, at: s.Seq}
	}
	t := newTx(ctx, conn, s.Seq, &w.mem)
	t.noneParked = none
	if err := f(t); err != nil {
		if _, broken := errors.AsType[*projections.ModelError](err); broken {
			return 0, err
		}
		return 0, &callbackError{err}
	}
	if err := t.flush(); err != nil {
		return 0, err
	}
	if err := w.finish(ctx, conn, s, c); err != nil {
		w.mem = memory{} // whether it holds is not known
		return 0, err
	}
	// A crash here: the transaction holds, and the next one begins after it.
	t.remember()
	w.mem.at = c.Seq
	return c.Seq, nil
}

// begin starts a transaction that holds the checkpoint. same is false when the row that was waited for belongs to tables that are no longer the live ones.
func (w *writer) begin(ctx context.Context, conn *pgx.Conn) (s standing, noneParked, same bool, err error) {
	var b pgx.Batch
	var locked, live uint32
	b.Queue("BEGIN")
	b.Queue("SELECT " + standingColumns + ", tableoid FROM checkpoint FOR UPDATE").QueryRow(func(row pgx.Row) error { return row.Scan(append(s.into(), &locked)...) })
	b.Queue("SELECT 'checkpoint'::regclass::oid, NOT EXISTS (SELECT FROM parked)").QueryRow(func(row pgx.Row) error { return row.Scan(&live, &noneParked) })
	err = conn.SendBatch(ctx, &b).Close()
	return s, noneParked, locked == live, err
}

// finish moves the checkpoint, commits and tells the other processes.
func (w *writer) finish(ctx context.Context, conn *pgx.Conn, s standing, c projections.Checkpoint) error {
	created, err := nanoseconds(c.Created)
	if err != nil {
		return err
	}
	var b pgx.Batch
	moved := int64(0)
	b.Queue("UPDATE checkpoint SET seq = $1, stream = $2, created_ns = $3 WHERE seq = $4 AND edition = $5", int64(c.Seq), escape(c.Stream), created, int64(s.Seq), s.edition).Query(func(rows pgx.Rows) error {
		rows.Close()
		moved = rows.CommandTag().RowsAffected()
		return rows.Err()
	})
	if w.schema == liveSchema {
		b.Queue("SELECT pg_notify($1, $2)", channel, strconv.FormatUint(uint64(c.Seq), 10))
	}
	if err := conn.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	if moved != 1 {
		return fmt.Errorf("%w: somebody wrote in spite of the lock", projections.ErrMoved)
	}
	end, err := conn.Exec(ctx, "COMMIT")
	if err == nil && end.String() != "COMMIT" {
		err = errors.New("the transaction had failed and was rolled back")
	}
	return err
}

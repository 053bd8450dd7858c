package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"vega/projections"
)

// draft is a second set of tables in a schema of its own. One goroutine uses it, except that Save may run while differences are read.
type draft struct {
	m     *Model
	conn  *pgx.Conn // of the draft's schema; its session holds the lock of rebuilds
	w     writer
	check projections.Checkpoint
	held  *pgx.Conn // in a transaction that holds the live checkpoint, between Hold and its release
	done  bool      // swapped in or discarded
}

// Beside makes an empty draft. Its connection holds a lock of the database, so there is one over all processes: another one's is ErrRebuilding. What a crash of an earlier one left is
// removed first.
func (m *Model) Beside(ctx context.Context) (_ projections.Draft, err error) {
	conn, err := m.dial(ctx, draftSchema)
	if err != nil {
		return nil, m.tell(ctx, "rebuild", err)
	}
	defer func() {
		if err != nil {
			m.hangUp(conn)
		}
	}()
	var alone bool
	if err := m.ask(ctx, conn, "SELECT pg_try_advisory_lock($1, $2)", []any{lockFamily, lockRebuild}, &alone); err != nil {
		return nil, m.tell(ctx, "rebuild", err)
	}
	if !alone {
		return nil, projections.ErrRebuilding
	}
	d := &draft{m: m, conn: conn, w: writer{schema: draftSchema}}
	// A draft is nothing until it is swapped in, and that commit is synced.
	for _, sql := range []string{"SET synchronous_commit = off", "SET enable_seqscan = off", drop(draftSchema), drop(oldSchema)} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return nil, m.tell(ctx, "rebuild", err)
		}
	}
	if err := m.makeTables(ctx, conn, draftSchema); err != nil {
		return nil, m.tell(ctx, "rebuild", err)
	}
	// A crash from here on leaves this schema; the next Beside drops it.
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return restart(ctx, tx) })
	return d, m.tell(ctx, "rebuild", err)
}

func drop(schema string) string { return "DROP SCHEMA IF EXISTS " + schema + " CASCADE" }

// Checkpoint is that of the draft's last Update.
func (d *draft) Checkpoint(context.Context) (projections.Checkpoint, error) { return d.check, nil }

// Update is a transaction in the draft's tables.
func (d *draft) Update(ctx context.Context, c projections.Checkpoint, f func(projections.Tx) error) error {
	_, err := d.w.update(ctx, time.Hour, d.conn, c, f)
	if err == nil {
		d.check = c
	}
	if e, ok := errors.AsType[*projections.ModelError](err); ok {
		err = e.Err
	}
	if e, ok := errors.AsType[*callbackError](err); ok {
		return e.err
	}
	return d.m.tell(ctx, "write the draft", err)
}

// Hold locks the live checkpoint, so that no process commits a transaction.
func (d *draft) Hold(ctx context.Context) (projections.Checkpoint, func(), error) {
	var s standing
	conn, err := d.m.dial(ctx, liveSchema)
	if err != nil {
		return s.Checkpoint, nil, d.m.tell(ctx, "hold read models", err)
	}
	if _, err = conn.Exec(ctx, "BEGIN"); err == nil {
		err = conn.QueryRow(ctx, "SELECT "+standingColumns+" FROM checkpoint FOR UPDATE").Scan(s.into()...)
	}
	if err != nil {
		d.m.hangUp(conn)
		return s.Checkpoint, nil, d.m.tell(ctx, "hold read models", err)
	}
	d.held = conn
	return s.Checkpoint, func() {
		d.m.hangUp(conn) // what was not committed is rolled back
		d.held = nil
	}, nil
}

// Save collects statistics, so that the first queries after the swap are planned well. The rows are durable with the swap's commit.
func (d *draft) Save(ctx context.Context) error {
	_, err := d.conn.Exec(ctx, "ANALYZE "+strings.Join(tableNames, ", "))
	return d.m.tell(ctx, "save the draft", err)
}

// Compare opens a transaction that sees both as they stand and yields how they differ. Nothing waits while it does.
func (d *draft) Compare(ctx context.Context) (iter.Seq2[projections.Difference, error], error) {
	conn, err := d.m.dial(ctx, liveSchema)
	if err != nil {
		return nil, d.m.tell(ctx, "compare", err)
	}
	var live, ours standing
	if _, err = conn.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err == nil {
		err = conn.QueryRow(ctx, "SELECT "+standingColumns+" FROM "+liveSchema+".checkpoint").Scan(live.into()...)
	}
	if err == nil {
		err = conn.QueryRow(ctx, "SELECT "+standingColumns+" FROM "+draftSchema+".checkpoint").Scan(ours.into()...)
	}
	if err == nil && live.Seq != ours.Seq {
		err = fmt.Errorf("%w: they are at sequence %d, the draft at %d", projections.ErrMoved, live.Seq, ours.Seq)
	}
	if err != nil {
		d.m.hangUp(conn)
		return nil, d.m.tell(ctx, "compare", err)
	}
	return func(yield func(projections.Difference, error) bool) {
		defer d.m.hangUp(conn)
		for _, f := range []func(context.Context, *pgx.Conn, func(projections.Difference) bool) (bool, error){
			compare(projects), compare(repositories), compare(snapshots), compare(scans), compare(findings), compare(triages), compare(apiKeys), compare(parked), compare(usages), compare(dayUsages),
		} {
			more, err := f(ctx, conn, func(x projections.Difference) bool { return yield(x, nil) })
			if err != nil {
				yield(projections.Difference{}, d.m.tell(ctx, "compare", err))
				return
			}
			if !more {
				return
			}
		}
	}, nil
}

// compareAtOnce is how many rows that differ are read at once.
const compareAtOnce = 200

// compare returns what yields the rows of a table that are not the same in both schemas, by key, until yield returns false.
func compare[R any](t *table[R]) func(context.Context, *pgx.Conn, func(projections.Difference) bool) (bool, error) {
	using := strings.Join(t.keys, ", ")
	// By their bytes, which is quick; what differs there is the same row all the same if it reads the same. As text, because json has no equality. The columns of both are
	// the same migrations'.
	differ := fmt.Sprintf("SELECT %s FROM %s.%s l FULL JOIN %s.%s d USING (%s) WHERE l.%s IS NULL OR d.%s IS NULL OR (l *<> d AND l::text <> d::text) ORDER BY %s",
		using, liveSchema, t.name, draftSchema, t.name, using, t.keys[0], t.keys[0], using)
	return func(ctx context.Context, conn *pgx.Conn, yield func(projections.Difference) bool) (bool, error) {
		got, err := conn.Query(ctx, differ)
		if err != nil {
			return false, err
		}
		keys := make([][]string, len(t.keys)) // by column
		into := make([]any, len(t.keys))
		row := make([]string, len(t.keys))
		for i := range into {
			into[i] = &row[i]
		}
		if _, err := pgx.ForEachRow(got, into, func() error {
			for i, k := range row {
				keys[i] = append(keys[i], k)
			}
			return nil
		}); err != nil {
			return false, err
		}
		for from := 0; from < len(keys[0]); from += compareAtOnce {
			to := min(from+compareAtOnce, len(keys[0]))
			part := make([]any, len(keys))
			for i := range keys {
				part[i] = keys[i][from:to]
			}
			live, err := documents(ctx, conn, t, liveSchema, part)
			if err != nil {
				return false, err
			}
			ours, err := documents(ctx, conn, t, draftSchema, part)
			if err != nil {
				return false, err
			}
			for n := from; n < to; n++ {
				key := make([]string, len(keys))
				for i := range keys {
					key[i] = unescape(keys[i][n])
				}
				k := join(key)
				if !yield(projections.Difference{Kind: t.kind, Key: k, Live: live[k], Rebuilt: ours[k]}) {
					return false, nil
				}
			}
		}
		return true, nil
	}
}

// documents reads rows of a schema as JSON, by key.
func documents[R any](ctx context.Context, conn *pgx.Conn, t *table[R], schema string, keys []any) (map[string]json.RawMessage, error) {
	there := *t
	there.name = schema + "." + t.name
	got, err := conn.Query(ctx, there.byKeys(), keys...)
	if err != nil {
		return nil, err
	}
	defer got.Close()
	out := map[string]json.RawMessage{}
	for got.Next() {
		r := new(R)
		if err := got.Scan(t.into(r)...); err != nil {
			return nil, err
		}
		b, err := json.Marshal(r)
		if err != nil {
			return nil, err
		}
		out[t.key(r)] = b
	}
	return out, got.Err()
}

// swapPatience is how long a swap waits for the readers of the live tables, in rounds that grow: meanwhile new readers wait behind it.
const swapPatience = 30 * time.Second

// Swap exchanges the schemas' names in the transaction that holds the live checkpoint. It waits for every statement that reads the live tables, so none sees some of the old and
// some of the new ones.
func (d *draft) Swap(ctx context.Context) error {
	if d.held == nil {
		return errors.New("swap read models: nobody holds them")
	}
	begun := time.Now()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 3*time.Second) {
		err := d.exchange(ctx, wait)
		if err == nil {
			break
		}
		if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Code != codeLockTimeout && e.Code != codeDeadlock || time.Since(begun) > swapPatience {
			return d.m.tell(ctx, "swap", err)
		}
	}
	// A crash before this line: the old tables are live and the draft is left over. After it: the new ones are, and the old ones are left over. The next Beside
	// drops what is left over.
	d.done = true
	defer d.end()
	_, err := d.conn.Exec(ctx, drop(oldSchema))
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == codeDeadlock { // with a statement that was planned for the old tables
		_, err = d.conn.Exec(ctx, drop(oldSchema))
	}
	if err != nil {
		d.m.log.Warn("old read models not removed; the next rebuild removes them", "err", d.m.tell(ctx, "drop", err))
	}
	return nil
}

// exchange tries once to swap, waiting for readers no longer than wait at a time.
func (d *draft) exchange(ctx context.Context, wait time.Duration) error {
	var live, ours standing
	if _, err := d.held.Exec(ctx, "SAVEPOINT exchange"); err != nil {
		return err
	}
	err := func() error {
		if err := d.held.QueryRow(ctx, "SELECT "+standingColumns+" FROM "+liveSchema+".checkpoint").Scan(live.into()...); err != nil {
			return err
		}
		if err := d.held.QueryRow(ctx, "SELECT "+standingColumns+" FROM "+draftSchema+".checkpoint").Scan(ours.into()...); err != nil {
			return err
		}
		if live.Seq != ours.Seq || live.Stream != ours.Stream || !live.Created.Equal(ours.Created) {
			return fmt.Errorf("%w: they are at sequence %d, the draft at %d", projections.ErrMoved, live.Seq, ours.Seq)
		}
		var same bool
		versions := "(SELECT max(version_id) FROM %s." + versionTable + ")"
		if err := d.held.QueryRow(ctx, "SELECT "+fmt.Sprintf(versions, liveSchema)+" = "+fmt.Sprintf(versions, draftSchema)).Scan(&same); err != nil {
			return err
		}
		if !same {
			return errors.New("the tables were migrated meanwhile; rebuild again")
		}
		for _, sql := range []string{
			fmt.Sprintf("SET LOCAL lock_timeout = %d", wait.Milliseconds()),
			"LOCK TABLE " + liveSchema + ".gate IN ACCESS EXCLUSIVE MODE",
			"ALTER SCHEMA " + liveSchema + " RENAME TO " + oldSchema,
			"ALTER SCHEMA " + draftSchema + " RENAME TO " + liveSchema,
		} {
			if _, err := d.held.Exec(ctx, sql); err != nil {
				return err
			}
		}
		end, err := d.held.Exec(ctx, "COMMIT")
		if err == nil && end.String() != "COMMIT" {
			err = errors.New("the transaction had failed and was rolled back")
		}
		return err
	}()
	if err != nil && !d.held.IsClosed() {
		if _, e := d.held.Exec(ctx, "ROLLBACK TO SAVEPOINT exchange"); e != nil {
			return errors.Join(err, e)
		}
	}
	return err
}

// Discard removes a draft that was not swapped in.
func (d *draft) Discard() error {
	if d.done {
		return nil
	}
	d.done = true
	defer d.end()
	ctx, cancel := context.WithTimeout(context.Background(), 2*d.m.timeout)
	defer cancel()
	if d.conn.IsClosed() {
		return nil // the next rebuild drops what is there
	}
	_, err := d.conn.Exec(ctx, drop(draftSchema))
	return d.m.tell(ctx, "remove the draft", err)
}

// end gives the lock of rebuilds back before it hangs up: the server notices the end of a connection a moment later, and another process may be about to begin.
func (d *draft) end() {
	ctx, cancel := context.WithTimeout(context.Background(), d.m.timeout)
	defer cancel()
	_, _ = d.conn.Exec(ctx, "SELECT pg_advisory_unlock($1, $2)", lockFamily, lockRebuild) // it ends with the connection in any case
	d.m.hangUp(d.conn)
}

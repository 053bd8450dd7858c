// Package postgres keeps the read models in Postgres tables, for any number of API processes.
//
// Everything lies in the schema "vega" of the database that the address names; the schema and its tables are made by the files of package migrations,
// at [Open] or by [Migrate], under a lock of the database. The role needs the right to create a schema in the database. A read-only
// role for a replica is granted what future tables get (ALTER DEFAULT PRIVILEGES … GRANT USAGE ON SCHEMAS, GRANT SELECT ON TABLES), because a rebuild makes
// new ones. Session locks and LISTEN are used: a pooler between here and Postgres must pool sessions, not transactions.
//
// # Writing
//
// [Model.Update] is one transaction: it locks the one row of the table checkpoint, reads at once what the events will ask for, flushes the changed rows in sets (COPY
// for those that are new, one statement for the others) and moves the checkpoint. The lock and the checkpoint are the fence: whoever finds the checkpoint moved has nothing to do, so two writers,
// a commit whose answer was lost, or a server that was killed in the middle neither repeat nor lose an event. Rows that were read or written are remembered
// for the next transaction, as long as the checkpoint is the one that this process wrote last. A crash before the commit leaves nothing,
// after it everything.
//
// One process writes at a time, the one that holds a session lock ([Model.Lead]); the others ask for it twice a second. When its connection goes, so does the lock. Correctness does not
// depend on it.
//
// # Reading
//
// Every query is one statement, so its answer is of one moment. The others learn by NOTIFY, and by looking once a second, how far the rows are
// ([Model.Seen]). A connection is asked how far its
// server is before its first query, so that a server which lost its last commits, or another one behind the same name, is noticed before it answers.
//
// With a replica, queries go there, and Seen is how far the replica is: it is asked all the time while somebody waits, who waits for one that is behind. The primary answers, and Seen follows it,
// while the replica does not answer, does not let us in, or has restarted and shows less than it had shown. Queries that had begun on the replica are begun anew on the primary. The replica
// answers again when it is as far as Seen; under writes without a pause, one that is always behind may stay aside until there is one. Both changes are logged, and no read that was
// told that the rows are as far as a sequence misses it.
//
// # Rows of another shape
//
// The checkpoint holds projections.Schema. Open empties tables of an older number, and the leader fills them from the log's beginning; processes of the older
// release stop writing when they see it. Tables of a newer number, or a newer migration, are refused: an older release does not understand them. Switching from files to Postgres is
// the same: the tables are empty and fill.
//
// # Rebuilding
//
// A rebuild makes the schema "vega_draft" with the same migrations, fills and compares it beside the live one, and renames both in one transaction that holds the checkpoint and waits
// for the queries that have begun (the table gate), so that each sees one or the other. It is refused while another process has one. A crash leaves a draft, or the old rows
// as "vega_old", which the next rebuild removes.
package postgres

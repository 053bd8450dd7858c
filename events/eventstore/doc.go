// Package eventstore is the event log: one JetStream stream per region, appended to with optimistic concurrency, and the only
// truth the system has.
//
//	store, err := eventstore.Open(ctx, nc, eventstore.Options{Region: "local"})
//	past, head, err := store.Load(ctx, aggregate, events.Head{})
//	recorded, err := store.Append(ctx, aggregate, head, meta, somethingHappened)
//
// or, for the usual circle of load, decide, append and try again, [Do].
//
// # Promises
//
//   - An append is all or nothing and happens only where the caller thought the aggregate stood; otherwise ErrConflict.
//   - Usage is appended with [Store.AppendUsage], whose expectation spans the scan as well: a reservation is stored only for a scan that is as it was seen.
//   - The outcome is known when Append returns nil or ErrConflict. A lost acknowledgement is settled by reading the log from its
//     leader and looking for the command's own event ids, never guessed from an error. That begins at once when the connection is lost.
//   - What Append returns is what the log holds: a retry gets the events of the try that was stored, with their moment and contents.
//   - The same command id never makes a second event: [Do] finds what an earlier try stored, however long ago.
//   - Load returns what the leader had at some moment of the call: no less, and no more, though a replica may be ahead of it. So loads and appends to an
//     aggregate are linearizable. It checks the aggregate's hash chain on the way: a changed
//     event is a *ChainError, and so is one that the server can no longer read. (It skips those without a word, and takes new events of an aggregate
//     whose last one it lost; Verify and followers without a filter notice those too.)
//   - Followers ([Store.Follow]) are consumers, never subscriptions: those also see the messages of refused batches.
//
// # Grouping
//
// With sync always every publish costs one fsync, and the server does not group them. So under sync always callers hand their
// commands to one appender per process (appender.go), which commits whatever is waiting while the last commit was on its way: 16
// messages or more go as one atomic batch, fewer as pipelined single publishes. Nobody waits for a timer. With the server's default
// sync a batch is slower than singles, so commands of one event are published by their callers directly.
//
// # A crash
//
// Nothing is kept here between calls. A process that dies in Append leaves either nothing or the whole command in the log; its
// caller's retry with the same command id finds out which.
//
// The shapes of streams and buckets stand in streams.go, the in-process server in embedded.go.
package eventstore

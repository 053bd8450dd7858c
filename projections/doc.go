// Package projections turns the event log into what the API reads: projects, repositories, snapshots, scans, findings, triage, spending.
//
// The log is the truth; what is here can be thrown away and built again. [Apply] says what each event does to the rows, the same for every
// backend. A backend is a [Model]: it keeps rows and checkpoint together and answers the queries of [Reader]. projections/jsonfile
// keeps them in memory and in readable files of one process, projections/postgres in tables of any number of processes; package modeltest holds every backend to the same answers.
//
// [Runner] reads the log in order from the checkpoint, applies what has arrived as one transaction, and tells those who wait for their
// own write. An event that cannot be applied, or not even be read, parks its aggregate: its rows stay as they are, it is listed, and the rest
// goes on. So does an event whose rows the store refuses ([ErrRefused]); the runner finds it by halving the transaction. While the model does not take a transaction the runner tries again; what is in already is left out, so nothing is applied twice, whatever a
// failed commit did and whoever else follows. A model that stands before the next event, because its store lost commits, is read from where it stands.
//
// Of the processes that share a model ([Shared]) one applies events, and another takes its place when it is gone. In each of them [Runner.At] and [Runner.WaitFor] speak of the rows that
// this process's queries see, which a replica may answer.
//
// [Runner.Rebuild] makes a second model from the log's beginning beside the live one, says where the two differ, and swaps it in at once, while all processes go on.
//
// Rows of another [Schema] are of another release: a backend throws older ones away at its start, to be filled from the log, and postgres refuses newer ones. Going from one backend to
// the other is the same: the new one is empty and fills.
//
// A crash at any point loses at most what was applied after the last commit; the next start reads it from the log again, and an event at or
// below the checkpoint changes nothing.
package projections

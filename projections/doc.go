// Package projections turns the event log into what the API reads: projects, repositories, snapshots, scans, findings, triage.
//
// The log is the truth; what is here can be thrown away and built again. [Apply] says what each event does to the rows, the same for every
// backend. A backend is a [Model]: it keeps rows and checkpoint together and answers the queries of [Reader]. projections/jsonfile
// keeps them in memory and in readable files; package modeltest holds every backend to the same answers.
//
// [Runner] reads the log in order from the checkpoint, applies what has arrived as one transaction, and tells those who wait for their
// own write. An event that cannot be applied, or not even be read, parks its aggregate: its rows stay as they are, it is listed, and the rest
// goes on. While the model does not take a transaction the runner tries again; what is in already is left out, so nothing is applied twice, whatever a
// failed commit did and whoever else follows.
//
// [Runner.Rebuild] makes a second model from the log's beginning beside the live one, says where the two differ, and swaps it in at once.
//
// A crash at any point loses at most what was applied after the last commit; the next start reads it from the log again, and an event at or
// below the checkpoint changes nothing.
package projections

// Package jsonfile is the read model of one machine: rows in memory, kept in JSON files that ordinary tools can read.
//
// In the model's folder:
//
//	current                      {"schema":1,"edition":1,"generation":7}: which files hold now
//	edition.1/snapshot.7.jsonl   every row as of the generation's start; the first line is its checkpoint
//	edition.1/tail.7.jsonl       the rows that each transaction changed, one a line, then {"end":{"seq":…},"after":…}: that line is the commit
//
// A row's line is {"t":"scan","v":{…}}. Opening reads the snapshot, then whole transactions of the tail, each of which must follow the
// one before, and cuts off the rest. A transaction that was being written when the process died never happened; the log brings it again.
//
// When the tail has grown, the next generation is made beside: new tail, snapshot written and synced, current renamed over, folder synced,
// old files removed. A rebuild makes a whole second edition in a folder of its own and takes the same last steps ([Model.Beside]). A crash between any
// two of these leaves files that the next Open either uses or removes; there is always one whole model.
//
// The tail is not synced: after a power cut its end may be missing or zero, which reads as an unfinished transaction. The log is what is
// durable.
//
// One process at a time may open a folder; whoever holds the data folder's lock does.
package jsonfile

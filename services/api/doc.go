// Package api is the HTTP API.
//
// routes.go lists every route on one screen; errors.go is the one table from errors of the packages below to answers; shapes.go holds the
// JSON that clients see, whose fields are added and never renamed. In between stands the door (door.go): it knows who is calling, waits for the
// read model where that was asked for, loads the thing that the path names, and checks the caller's role in its project. A handler finds the thing in
// its call, so none can forget the check, and what the caller may not see is the same 404 as what does not exist.
//
// # Reads and writes
//
// Reads come from the read model. Writes are commands to the log: a decider of package catalog or scan says what happens, eventstore.Do
// appends it, and the answer waits up to a second for the read model, so that a client reads its own writes. Where the model has not got that
// far, the answer is folded from the log (fold.go). An Idempotency-Key makes ids and command ids, so the log itself recognises a
// retry; only the hash of the body is kept elsewhere, for a day, to notice a key that is used twice.
//
// Where the read model does not answer, single things are folded from the log too (outage.go): writes go on, lists are refused until it is back.
//
// # Who may what
//
// A caller shows an access token, which Deps.Auth answers for, or an API key, which the log does. A route asks for a role in the project of what its path names, and of a
// key for a scope beside it (routes.go; testdata/scopes.txt lists them). Limits of requests are counted at the door.
//
// # What is spent
//
// The proxy's events of a scan's calls carry running sums, so a scan shows those of the newest one, with what is reserved for calls on their way. They are an aggregate beside the
// scan: they may come after its end, and change neither its version nor its sequence. A scan that is folded from the log, as it was or while the read model is away, takes the
// newest of them up to the same sequence. In the events of a scan they are scan_usage, in the order of the log: of those that are there the newest, then each as it is stored, or the last of several
// that arrive together. After scan_completed a live stream waits for none. All of them are in GET scans/{id}/usage, and summed up by the day on which calls ended in GET billing/usage.
//
// # What has changed since
//
// A scan remembers the repository's last completed scan when it was asked for (its base). The engine compares them and records counts and a ledger of every weakness; compare.go shows
// that, and compares by findings where there is none or another base is asked for.
//
// # Sources and downloads
//
// A source comes as a body (upload.go), or in parts straight to the file storage (direct.go), whose upload's id says everything, so any process goes on with
// it. Both end in the same ingestion. A link to a file is signed by the storage, or by this API where the storage signs none.
//
// # What a crash leaves
//
// A request that died before its append has done nothing; one that died after it has done everything that counts, and its retry with the same key
// finds it. An upload that died is ingesting in the log: a single-machine installation ends it at the next start, anywhere else the next
// upload takes over once the lease of the first has run out.
//
// # Parts
//
// chi routes, huma reads and checks JSON and writes the OpenAPI. Uploads, streams and downloads are chi's alone, because huma buffers bodies and
// drops the id 0 of a stream. huma's error bodies quote what was sent; they are rewritten on the way out.
package api

// Package fleet is who works here: each worker process keeps one entry in the heartbeat bucket and answers pings while it lives.
//
// An entry expires by itself when its worker falls silent; a renewal that finds the entry gone or changed makes it anew, because the bucket lives
// in the server's memory and is empty, or gone, after a restart: whoever misses the bucket makes it again. An entry is a sign of life and no title: who owns
// a scan stands in the log alone.
//
// A worker that dies leaves its entry until the TTL ends and an unanswered ping at once. [Ping] asks one worker, a [Pinger] thousands; [Beating] looks at an
// entry, and [LookAtBucket] says whether its absence means anything.
package fleet

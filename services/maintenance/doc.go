// Package maintenance gives back what its owner can no longer finish, and removes what nobody needs.
//
// It has no read model: a census follows the log and knows every scan that is not over, who owns it and since when. The judge pings the owners on
// their own subjects and looks at the heartbeat entries of those that do not answer. Sweeps, at the start and every minute, find scans that run for too
// long, hints that got lost and sources that stopped coming in; a clean-up, every hour, removes objects that no event names.
//
// # Who decides
//
// The log does. What is found here is a suspicion about one generation of one scan; the scan is loaded, and expired (it is queued again), failed (that was
// the last attempt) or cancelled (that had been asked for) is appended only if the generation still owns it. The command's id comes from the generation,
// so any number of these processes may work side by side, and one that stops in the middle is replaced by the next. A worker that is alive after all
// finds itself superseded at its next write, or sooner: it is told to look.
//
// # How long it takes
//
// A worker whose connection ended: two pings, then the grace. One that is paused or cut off: one TTL, and half a TTL more at most. After this process's own
// connection was lost nobody is known to be alive: a worker that has not been heard since has an eighth of the TTL to come back, or the grace if that is
// longer. After that loss, or that of the heartbeat bucket, no heartbeat is missed before one TTL is over. So a server that was away for longer than the
// TTL costs no living worker its scans.
//
// # Restart
//
// In thread mode the process that holds the data folder's lock knows that no earlier worker lives: [GiveBackScans] gives everything back at once. Whoever
// holds it knows too that nobody else takes uploads in, and, when the only LLM proxy is its own, that no call to the provider is on its way: [EndIngestions] and [EndCalls] end those that a
// crash left open.
package maintenance

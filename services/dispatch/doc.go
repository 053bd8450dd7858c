// Package dispatch brings queued scans to workers.
//
// [Admission] makes scans: it holds a user's limit of active ones exactly, then appends the event that is the work item. A queue brings those events to
// workers as hints ([Hint]). A hint carries the sequence of the event behind it and promises nothing: whoever gets one claims the scan in the log, and the
// log decides. So hints may come twice, late and in any order; what a queue has to see to is that none is lost.
//
// There are three, one for each [Mode], held to one contract by package queuetest:
//
//   - [Local] (thread) follows the log itself and keeps the hints in memory. Nothing is sent anywhere; the next process finds the same events.
//   - [External] is one durable consumer per priority on the log, for workers on any number of machines. A free slot pulls one hint, best priority
//     first; an unacknowledged one is brought again after two seconds.
//   - [SQS] receives from an SQS queue that a [Bridge] fills from one durable consumer. There are no priorities. A message is hidden while a slot
//     holds its hint, deleted once the claim is stored, and comes again when its worker dies. Every giving back counts as a receive, so a redrive policy should allow
//     ten or more of them. FIFO queues work too: the scan is the group, the scan and the sequence are what is sent only once.
//
// [Ensure] makes a mode's durable consumers, beginning before the oldest scan that is not over. They move only while their mode is on, so switching
// a deployment to another mode and back loses no scan that waits; hints of scans that are over by then are brought once and dropped by the claim.
// [Lanes] says how much waits, and up to which event everything was delivered: a scan that is still queued behind that point has lost its hint, and
// maintenance gives it another.
package dispatch

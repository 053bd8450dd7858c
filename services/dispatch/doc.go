// Package dispatch brings queued scans to workers.
//
// [Admission] makes scans: it holds a user's limit of active ones exactly, then appends the event that is the work item. A queue brings
// those events to workers as hints ([Hint]); a hint carries the sequence of the event behind it and promises nothing: whoever gets one loads
// the scan and claims it in the log. [Local] is the queue of one process; it follows the log itself, so nothing is sent anywhere and nothing
// can be lost on the way.
package dispatch

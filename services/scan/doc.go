// Package scan decides what may happen to a scan. It is pure: no clock, no I/O, no log.
//
// A scan's state is the fold of its events ([Scan.Evolve], which cannot fail); a wish is a [Command]; [Decide] answers with the events
// to append, none when the wish is already fulfilled, or a *NotAllowedError. Which event may follow in which status is one table
// (transition.go); Evolve moves by it, Decide consults it, docs/scan-states.md is drawn from it.
//
// Who owns a scan is in its log and nowhere else: the worker of its last claim. The sequence of that event is the attempt's generation, and
// every command of a worker carries it; a worker whose attempt was given away is answered with ErrSuperseded.
//
// The package also holds a user's slots ([Slots]): the set of scans that count against the limit of active ones.
package scan

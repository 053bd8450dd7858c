package events

import (
	"encoding/json"
	"time"
)

// Event is one fact. The set is closed: every implementation is in this package and in the kinds table.
//
//sumtype:decl
type Event interface {
	event()
}

// Unknown is a fact that this build does not know: a newer release wrote it. Read models skip and count it, deciders
// refuse to decide over it, and it can be shown but never appended.
type Unknown struct {
	Kind   Kind
	Schema int
	Body   json.RawMessage
}

func (Unknown) event() {}

// Actor is who caused an event: "user:<id>", "worker:<id>" or "system:<part>". It is never an address or a name.
type Actor string

// ByUser, ByWorker and BySystem build the three forms of an Actor.
func ByUser(id UserID) Actor     { return Actor("user:" + string(id)) }
func ByWorker(id WorkerID) Actor { return Actor("worker:" + string(id)) }
func BySystem(part string) Actor { return Actor("system:" + part) }

// Meta is what the caller of a command adds to its events. Command, Actor and At are required. One command may write
// to several aggregates.
type Meta struct {
	Command CommandID
	Actor   Actor
	Cause   string    // what led to the command: an event id, a request id; may be empty
	Trace   string    // W3C traceparent; may be empty
	At      time.Time // the moment of the decision, UTC
}

// Envelope is everything about a stored or storable event except the fact itself.
type Envelope struct {
	Meta
	Aggregate Aggregate
	ID        string // "<command>/<aggregate kind>/<aggregate id>/<index>": unique in the stream
	Kind      Kind
	Schema    int
	Version   Version // 1..n inside the aggregate
	Hash      Hash    // link of the aggregate's chain that ends here
}

// Recorded is an event that is in the log.
type Recorded struct {
	Envelope
	Seq   Seq
	Event Event
}

// Head is where an aggregate stands: the token of optimistic concurrency. The zero Head is "no event yet".
type Head struct {
	Seq     Seq     // stream sequence of its last event
	Version Version // how many events it has
	Hash    Hash    // last link of its chain
}

// Head returns where the aggregate stood right after r.
func (r Recorded) Head() Head { return Head{Seq: r.Seq, Version: r.Version, Hash: r.Hash} }

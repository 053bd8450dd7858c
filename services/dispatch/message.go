package dispatch

import (
	"encoding/json"
	"errors"
	"fmt"

	"vega/events"
)

// messageVersion is the form of the messages that this build sends and reads.
const messageVersion = 1

// maxMessage bounds what is read of a message, in bytes; ours have a few hundred.
const maxMessage = 16 << 10

// message is a hint on its way through SQS: where the event is that makes a scan work. What it says beyond that is for people and for traces.
type message struct {
	Version  int             `json:"v"`
	Region   events.Region   `json:"region"`
	Scan     events.ScanID   `json:"scan_id"`
	Seq      events.Seq      `json:"sequence"`
	Attempt  int             `json:"attempt"` // that would follow, from 1; 0: the sender could not tell
	Priority events.Priority `json:"priority"`
	Trace    string          `json:"traceparent,omitempty"`
}

// parseMessage reads a message from the queue, where anybody may have put anything. The error says why it is not ours.
func parseMessage(body string, home events.Region) (message, error) {
	if len(body) > maxMessage {
		return message{}, fmt.Errorf("it has %d bytes, at most %d", len(body), maxMessage)
	}
	var version struct {
		Version *int `json:"v"`
	}
	if err := json.Unmarshal([]byte(body), &version); err != nil || version.Version == nil {
		return message{}, errors.New("it is not a message of this program")
	}
	if *version.Version != messageVersion {
		return message{}, fmt.Errorf("its version is %d, this build reads %d", *version.Version, messageVersion)
	}
	var m message
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		return message{}, errors.New("its fields do not have the types of version 1")
	}
	if m.Region != home {
		return message{}, fmt.Errorf("it is for region %.40q", string(m.Region))
	}
	if err := events.CheckID("scan_id", string(m.Scan)); err != nil {
		return message{}, err
	}
	if m.Seq == 0 {
		return message{}, errors.New("it names no sequence")
	}
	return m, nil
}

// nextAttempt is the number of the attempt that a ready event asks for; 0 when the event does not say.
func nextAttempt(r events.Recorded) int {
	switch e := r.Event.(type) {
	case events.AttemptReleased:
		return e.Attempt + 1
	case events.AttemptExpired:
		return e.Attempt + 1
	default:
		if r.Version == 1 {
			return 1
		}
		return 0 // a hint that was given again
	}
}

package codex

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Event is one line of what Codex reports. Lines of kinds that this release does not know come as they are, with their Raw alone; so do lines that are no JSON, with
// Type empty.
type Event struct {
	Type    string // thread.started, turn.started, item.started, item.completed, turn.completed, turn.failed, error, …
	Item    Item
	Message string // of an error, which is also how another try is announced
	Error   struct{ Message string }
	Raw     []byte // the line; valid until the callback returns
	Cut     bool   // the line was longer than is read: Raw is its beginning
}

// Item is a piece of a turn.
type Item struct {
	ID       string
	Type     string // agent_message, reasoning, command_execution, file_change, mcp_tool_call, web_search, error, …
	Text     string
	Message  string
	Command  string
	Output   string `json:"aggregated_output"`
	ExitCode *int   `json:"exit_code"`
	Status   string
}

const (
	maxLine   = 8 << 20  // bytes of one event; lines of more than a megabyte have been seen
	maxOutput = 64 << 20 // bytes of a run
)

var errOutput = errors.New("codex wrote more than is read of a run")

// readEvents calls f with every line, as clean leaves it, until in ends. A line that is too long is cut: f gets its beginning, as one that is no JSON. It returns errOutput when more came than limit
// bytes, f's error, or the reader's.
func readEvents(in io.Reader, limit int64, clean func([]byte) []byte, f func(Event) error) error {
	r := bufio.NewReaderSize(in, 64<<10)
	var line []byte
	var total int64
	cut := false
	for {
		piece, err := r.ReadSlice('\n')
		total += int64(len(piece))
		if total > limit {
			return fmt.Errorf("%w (%d bytes)", errOutput, limit)
		}
		room := min(maxLine-len(line), len(piece))
		line = append(line, piece[:room]...)
		cut = cut || len(bytes.TrimSpace(piece[room:])) > 0
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if trimmed := bytes.TrimSpace(line); len(trimmed) > 0 {
			e := parseEvent(clean(trimmed))
			e.Cut = cut
			if ferr := f(e); ferr != nil {
				return ferr
			}
		}
		line, cut = line[:0], false
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func parseEvent(line []byte) Event {
	var e Event
	if err := json.Unmarshal(line, &e); err != nil {
		// A known name with a value of another shape: a later release. What can be read of it is the type.
		var named struct{ Type string }
		_ = json.Unmarshal(line, &named) // no JSON at all has no type
		e = Event{Type: named.Type}
	}
	e.Raw = line
	return e
}

// outcome folds the events of a run.
type outcome struct {
	answer  string // the newest message of the model
	failed  string // of turn.failed
	notices string // the newest error that was only reported
	ended   bool   // a turn has completed
	cut     bool   // a line could not be read whole
}

// missing says why there is no answer although a turn may have completed.
func (o *outcome) missing() string {
	if o.cut {
		return fmt.Sprintf("codex ended without an answer that can be read: a line of its report was longer than %d bytes", maxLine)
	}
	return "codex ended without an answer"
}

func (o *outcome) take(e Event) {
	if e.Cut { // it may have been the answer; what was said before it was not
		o.cut, o.answer = true, ""
	}
	switch e.Type {
	case "item.completed":
		if e.Item.Type == "agent_message" {
			o.answer = e.Item.Text
		}
	case "turn.completed":
		o.ended = true
	case "turn.failed":
		o.failed = e.Error.Message
		if o.failed == "" {
			o.failed = "the turn failed without a reason"
		}
	case "error":
		o.notices = e.Message
	}
}

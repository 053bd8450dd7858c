package providertest

import (
	"bytes"
	"io"
	"net/http"
	"strings"
)

// Step is a part of a stream. It reports whether the stream goes on.
type Step func(*streaming) bool

// streaming is an answer on its way.
type streaming struct {
	w     http.ResponseWriter
	flush func() error
	r     Recorded
	asked asked
	items []any
}

// Stream answers with server-sent events, each of them flushed.
func Stream(steps ...Step) Answer {
	return func(w http.ResponseWriter, r Recorded) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-cache")
		w.WriteHeader(http.StatusOK)
		s := &streaming{w: w, flush: http.NewResponseController(w).Flush, r: r, asked: ask(r)}
		if s.flush() != nil {
			return
		}
		for _, step := range steps {
			if !step(s) {
				return
			}
		}
	}
}

func (s *streaming) write(text string) bool {
	if _, err := io.WriteString(s.w, text); err != nil {
		return false
	}
	return s.flush() == nil
}

// Raw is bytes as they are.
func Raw(text string) Step { return func(s *streaming) bool { return s.write(text) } }

// Event is one event of the responses API: its type, and what else it has.
func Event(kind string, fields map[string]any) Step {
	return func(s *streaming) bool { return s.event(kind, fields) }
}

func (s *streaming) event(kind string, fields map[string]any) bool {
	body := map[string]any{"type": kind}
	for k, v := range fields {
		body[k] = v
	}
	var b bytes.Buffer
	b.WriteString("event: " + kind + "\ndata: ")
	encode(&b, body) // ends its line
	b.WriteString("\n")
	return s.write(b.String())
}

// Created is the first event of a response.
func Created() Step {
	return func(s *streaming) bool {
		return s.event("response.created", map[string]any{"response": response("in_progress", s.asked.Model, []any{}, Usage{Missing: true})})
	}
}

// Delta is a piece of a message.
func Delta(text string) Step {
	return Event("response.output_text.delta", map[string]any{"item_id": "msg_test", "output_index": 0, "content_index": 0, "delta": text})
}

// Message is a whole message: it begins, comes in pieces of a word each (at most 64), and is done.
func Message(text string) Step {
	return func(s *streaming) bool {
		s.event("response.output_item.added", map[string]any{"output_index": len(s.items), "item": map[string]any{"type": "message", "id": "msg_test", "role": "assistant", "status": "in_progress", "content": []any{}}})
		for _, piece := range strings.SplitAfterN(text, " ", 64) {
			if !Delta(piece)(s) {
				return false
			}
		}
		return Item(messageItem(text))(s)
	}
}

// Item is a complete item of the output.
func Item(item map[string]any) Step {
	return func(s *streaming) bool {
		s.items = append(s.items, item)
		return s.event("response.output_item.done", map[string]any{"output_index": len(s.items) - 1, "item": item})
	}
}

// Completed ends a response, with all its items and its usage.
func Completed(u Usage) Step { return end("response.completed", "completed", u, nil) }

// Incomplete ends a response that ran into a limit.
func Incomplete(reason string, u Usage) Step {
	return end("response.incomplete", "incomplete", u, map[string]any{"incomplete_details": map[string]any{"reason": reason}})
}

// FailedWith ends a response with an error.
func FailedWith(code, message string, u Usage) Step {
	return end("response.failed", "failed", u, map[string]any{"error": map[string]any{"code": code, "message": message}})
}

func end(kind, status string, u Usage, more map[string]any) Step {
	return func(s *streaming) bool {
		body := response(status, s.asked.Model, s.items, u)
		for k, v := range more {
			body[k] = v
		}
		return s.event(kind, map[string]any{"response": body})
	}
}

// Failed answers with a response that has failed before it had any output.
func Failed(code, message string) Answer {
	return Stream(Created(), FailedWith(code, message, Usage{Missing: true}))
}

// Cut closes the connection in the middle of the stream.
func Cut() Step { return func(*streaming) bool { panic(http.ErrAbortHandler) } }

// Pause waits until released is closed. The stream ends when nobody reads it any more.
func Pause(released <-chan struct{}) Step {
	return func(s *streaming) bool {
		select {
		case <-released:
			return true
		case <-s.r.ctx.Done():
			return false
		}
	}
}

// Tell calls f when everything before it was sent.
func Tell(f func()) Step {
	return func(*streaming) bool {
		f()
		return true
	}
}

// ChatDelta is a piece of a message of the chat API.
func ChatDelta(text string) Step {
	return func(s *streaming) bool {
		return s.chunk([]any{map[string]any{"index": 0, "delta": map[string]any{"role": "assistant", "content": text}, "finish_reason": nil}}, Usage{Missing: true})
	}
}

// ChatEnd ends a stream of the chat API: the last piece, the usage in an event of its own unless it is missing, and the end mark.
func ChatEnd(u Usage) Step {
	return func(s *streaming) bool {
		s.chunk([]any{map[string]any{"index": 0, "delta": map[string]any{}, "finish_reason": "stop"}}, Usage{Missing: true})
		if !u.Missing {
			s.chunk([]any{}, u)
		}
		return s.write("data: [DONE]\n\n")
	}
}

func (s *streaming) chunk(choices []any, u Usage) bool {
	var b bytes.Buffer
	b.WriteString("data: ")
	encode(&b, map[string]any{"id": "chatcmpl_test", "object": "chat.completion.chunk", "created": 1, "model": s.asked.Model, "choices": choices, "usage": u.chat()})
	b.WriteString("\n")
	return s.write(b.String())
}

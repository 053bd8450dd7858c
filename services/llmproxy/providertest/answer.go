package providertest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Usage is what an answer says to have cost, in tokens. Cached is a part of Input, Reasoning one of Output.
type Usage struct {
	Input, Cached, Output, Reasoning int64
	Missing                          bool // nothing is said
	Tier                             string
}

// Text answers with a message of the model, in the API that was asked and as a stream if one was asked for.
func Text(message string, u Usage) Answer {
	return func(w http.ResponseWriter, r Recorded) {
		a := ask(r)
		switch {
		case strings.HasPrefix(a.path, "/chat/completions") && a.Stream:
			Stream(ChatDelta(message), ChatEnd(u))(w, r)
		case strings.HasPrefix(a.path, "/chat/completions"):
			JSON(http.StatusOK, map[string]any{
				"id": "chatcmpl_test", "object": "chat.completion", "created": 1, "model": a.Model,
				"choices": []any{map[string]any{"index": 0, "finish_reason": "stop", "message": map[string]any{"role": "assistant", "content": message}}},
				"usage":   u.chat(),
			})(w, r)
		case a.Stream:
			Stream(Created(), Message(message), Completed(u))(w, r)
		default:
			JSON(http.StatusOK, response("completed", a.Model, []any{messageItem(message)}, u))(w, r)
		}
	}
}

// Call answers with a call of a function, whose arguments are JSON.
func Call(name, arguments string, u Usage) Answer {
	return Stream(Created(), Item(map[string]any{"type": "function_call", "id": "fc_test", "call_id": callID(name, arguments), "name": name, "arguments": arguments, "status": "completed"}), Completed(u))
}

// Custom answers with a call of a tool that takes free text.
func Custom(name, input string, u Usage) Answer {
	return Stream(Created(), Item(map[string]any{"type": "custom_tool_call", "id": "ctc_test", "call_id": callID(name, input), "name": name, "input": input, "status": "completed"}), Completed(u))
}

// Shell answers with a call that runs a command line, by whichever of its tools the agent has offered in the request. An agent without such
// a tool is answered with 400.
func Shell(command string, u Usage) Answer {
	return func(w http.ResponseWriter, r Recorded) {
		quoted, err := json.Marshal(command)
		if err != nil {
			panic(err) // of a string
		}
		for _, t := range ask(r).Tools {
			switch t.Name {
			case "exec_command":
				Call(t.Name, fmt.Sprintf(`{"cmd":%s}`, quoted), u)(w, r)
			case "shell_command":
				Call(t.Name, fmt.Sprintf(`{"command":%s}`, quoted), u)(w, r)
			case "shell":
				Call(t.Name, fmt.Sprintf(`{"command":["sh","-c",%s]}`, quoted), u)(w, r)
			default:
				continue
			}
			return
		}
		Status(http.StatusBadRequest, `{"error":{"message":"the agent offers no shell","type":"invalid_request_error","code":"test_no_shell","param":"tools"}}`)(w, r)
	}
}

// Status answers with a status and a body of JSON, which may be empty; header is name, value, name, value.
func Status(code int, body string, header ...string) Answer {
	return func(w http.ResponseWriter, _ Recorded) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body) // a client that is gone reads nothing
	}
}

// Error answers with a status and an error in the provider's shape.
func Error(status int, code, message string, header ...string) Answer {
	var b bytes.Buffer
	encode(&b, map[string]any{"error": map[string]any{"message": message, "type": "test_error", "code": code, "param": nil}})
	return Status(status, b.String(), header...)
}

// JSON answers with a value.
func JSON(status int, v any) Answer {
	var b bytes.Buffer
	encode(&b, v)
	return Status(status, b.String())
}

// Redirect answers with a redirect that nobody should follow.
func Redirect(to string) Answer { return Status(http.StatusTemporaryRedirect, "", "Location", to) }

// Silence answers nothing, not even a header, until released is closed, and then as then says. It ends with the request.
func Silence(released <-chan struct{}, then Answer) Answer {
	return func(w http.ResponseWriter, r Recorded) {
		select {
		case <-released:
			then(w, r)
		case <-r.ctx.Done():
		}
	}
}

// HangUp closes the connection without an answer.
func HangUp() Answer { return func(http.ResponseWriter, Recorded) { panic(http.ErrAbortHandler) } }

// asked is what an answer needs to know of its request.
type asked struct {
	Model  string
	Stream bool
	Tools  []struct{ Type, Name string }
	path   string
}

func ask(r Recorded) asked {
	var a asked
	_ = json.Unmarshal(r.Body, &a) // what is no JSON asks for nothing
	a.path = strings.TrimPrefix(r.Path, "/api/v1")
	return a
}

func response(status, model string, output []any, u Usage) map[string]any {
	m := map[string]any{"id": "resp_test", "object": "response", "created_at": 1, "status": status, "model": model, "output": output}
	if !u.Missing {
		m["usage"] = map[string]any{
			"input_tokens": u.Input, "input_tokens_details": map[string]any{"cached_tokens": u.Cached},
			"output_tokens": u.Output, "output_tokens_details": map[string]any{"reasoning_tokens": u.Reasoning}, "total_tokens": u.Input + u.Output,
		}
	}
	if u.Tier != "" {
		m["service_tier"] = u.Tier
	}
	return m
}

// chat is the usage as chat completions have it, null if missing.
func (u Usage) chat() any {
	if u.Missing {
		return nil
	}
	return map[string]any{
		"prompt_tokens": u.Input, "prompt_tokens_details": map[string]any{"cached_tokens": u.Cached},
		"completion_tokens": u.Output, "completion_tokens_details": map[string]any{"reasoning_tokens": u.Reasoning}, "total_tokens": u.Input + u.Output,
	}
}

func messageItem(text string) map[string]any {
	return map[string]any{"type": "message", "id": "msg_test", "role": "assistant", "status": "completed", "content": []any{map[string]any{"type": "output_text", "text": text, "annotations": []any{}}}}
}

// callID is the same for the same call, so that a request that is repeated is answered alike.
func callID(name, arguments string) string { return fmt.Sprintf("call_%s_%d", name, len(arguments)) }

// encode writes v without escaping what is harmless in JSON.
func encode(w io.Writer, v any) {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // of our own values
	}
}

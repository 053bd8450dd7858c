package wire

import (
	"encoding/json"
	"strconv"
)

// Endpoint is one call that is forwarded: its path below /v1.
type Endpoint string

// The calls that are forwarded.
const (
	Responses       Endpoint = "responses"
	Compact         Endpoint = "responses/compact"
	ChatCompletions Endpoint = "chat/completions"
	Embeddings      Endpoint = "embeddings"
	Models          Endpoint = "models"
)

// TakesLimit reports whether a request of the endpoint can say how many tokens its answer may have.
func (e Endpoint) TakesLimit() bool { return e == Responses || e == ChatCompletions }

// Codes of refusals. Agents and operators may rely on them.
const (
	CodeModel = "vega_model_refused"
	CodeTool  = "vega_tool_refused"
	CodeField = "vega_field_refused"
	CodeBad   = "vega_bad_request"
)

// Refusal is a request that may not go out, and will not if it is sent again.
type Refusal struct {
	Code    string // one of the codes above
	Message string // a sentence for people that names the field, model or tool; short, and with at most a short printable piece of the request
}

// Error is the message.
func (r *Refusal) Error() string { return r.Message }

// quoted is a piece of a request that may be shown: printable ASCII, cut off after 48 bytes.
func quoted[T string | []byte](s T) string {
	const most = 48
	if len(s) > most {
		return strconv.QuoteToASCII(string(s[:most]) + "...")
	}
	return strconv.QuoteToASCII(string(s))
}

// FinalEvent is the text that ends a stream with a sentence of our own, in the shape that agents take as final. midEvent says that the stream is not at a
// boundary (Answer.AtBoundary): what has come of the last event is then closed first.
func FinalEvent(e Endpoint, message string, midEvent bool) []byte {
	const code = "invalid_prompt" // the one code with which the agent neither tries again nor hides the message
	var out []byte
	if midEvent {
		out = append(out, "\n\n"...)
	}
	if e != Responses {
		return append(append(append(out, "data: "...), ErrorBody(code, message)...), "\n\n"...)
	}
	data, _ := json.Marshal(failed{Type: "response.failed", Response: failedResponse{ // strings alone cannot fail
		ID: "resp_vega", Object: "response", Status: "failed", Error: failedError{Code: code, Message: message},
	}})
	return append(append(append(out, "event: response.failed\ndata: "...), data...), "\n\n"...)
}

type failed struct {
	Type     string         `json:"type"`
	Response failedResponse `json:"response"`
}

type failedResponse struct {
	ID     string      `json:"id"`
	Object string      `json:"object"`
	Status string      `json:"status"`
	Error  failedError `json:"error"`
}

type failedError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// ErrorBody is the body of an answer that refuses, in the provider's shape.
func ErrorBody(code, message string) []byte {
	type body struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Code    string  `json:"code"`
		Param   *string `json:"param"`
	}
	out, _ := json.Marshal(struct { // strings alone cannot fail
		Error body `json:"error"`
	}{body{Message: message, Type: "invalid_request_error", Code: code}})
	return out
}

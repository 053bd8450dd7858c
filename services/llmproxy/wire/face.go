package wire

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
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

// TakesLimit reports whether a request of the endpoint can say how long the answer may get.
func (e Endpoint) TakesLimit() bool { return e == Responses || e == ChatCompletions }

// Refusal is a request that may not go out.
type Refusal struct {
	Code    string // vega_model_refused, vega_tool_refused, vega_field_refused or vega_bad_request
	Message string // a sentence for people
}

func (r *Refusal) Error() string { return r.Message }

// Request is a checked request.
type Request struct {
	Model     string
	Tier      string // service_tier as asked for; empty: it was not
	Stream    bool
	MaxOutput int64 // tokens, as asked for; 0: it was not

	endpoint Endpoint
	body     []byte
}

// Parse checks the body of a POST and finds what has to change. It keeps body. Its error is a *Refusal.
func Parse(e Endpoint, body []byte, allowed func(model string) bool) (*Request, error) {
	var fields struct {
		Model               string `json:"model"`
		Tier                string `json:"service_tier"`
		Stream              bool   `json:"stream"`
		MaxOutputTokens     int64  `json:"max_output_tokens"`
		MaxCompletionTokens int64  `json:"max_completion_tokens"`
	}
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, &Refusal{"vega_bad_request", "the body is not a JSON object"}
	}
	if fields.Model == "" || allowed != nil && !allowed(fields.Model) {
		return nil, &Refusal{"vega_model_refused", "the model may not be called"}
	}
	return &Request{Model: fields.Model, Tier: fields.Tier, Stream: fields.Stream, MaxOutput: max(fields.MaxOutputTokens, fields.MaxCompletionTokens), endpoint: e, body: body}, nil
}

// Body is the request to send, with an output limit of at most maxOutput tokens; 0 leaves the limit as it is. It may be called again with another limit.
func (r *Request) Body(maxOutput int64) []byte {
	if maxOutput == 0 || !r.endpoint.TakesLimit() || r.MaxOutput != 0 && r.MaxOutput <= maxOutput {
		return r.body
	}
	name := "max_output_tokens"
	if r.endpoint == ChatCompletions {
		name = "max_completion_tokens"
	}
	var all map[string]json.RawMessage
	_ = json.Unmarshal(r.body, &all)
	all[name] = json.RawMessage(strconv.FormatInt(maxOutput, 10))
	out, _ := json.Marshal(all)
	return out
}

// Usage is what a call has used, as the provider said it.
type Usage struct {
	Input, Cached, Output, Reasoning int64 // tokens; Cached is part of Input, Reasoning of Output
	Tier, Model                      string
}

// Answer reads what passes to the agent.
type Answer struct {
	endpoint Endpoint
	streams  bool
	data     []byte
	usage    *Usage
	ended    bool
}

// NewAnswer reads an answer of the endpoint with that Content-Type.
func NewAnswer(e Endpoint, contentType string) *Answer {
	return &Answer{endpoint: e, streams: strings.HasPrefix(strings.ToLower(contentType), "text/event-stream")}
}

// Write takes the next piece of the body, cut wherever. It never fails.
func (a *Answer) Write(p []byte) (int, error) {
	a.data = append(a.data, p...)
	if a.streams {
		a.read()
	}
	return len(p), nil
}

func (a *Answer) read() {
	for event := range bytes.SplitSeq(a.data, []byte("\n\n")) {
		_, data, ok := bytes.Cut(event, []byte("data: "))
		if ok && bytes.Equal(bytes.TrimSpace(data), []byte("[DONE]")) {
			a.ended = true
		}
		if ok && json.Valid(data) {
			a.document(data)
		}
	}
}

func (a *Answer) document(b []byte) {
	type usage struct {
		Input  int64 `json:"input_tokens"`
		Prompt int64 `json:"prompt_tokens"`
		Cached struct {
			Tokens int64 `json:"cached_tokens"`
		} `json:"input_tokens_details"`
		Output  int64 `json:"output_tokens"`
		Written int64 `json:"completion_tokens"`
	}
	type response struct {
		Model string `json:"model"`
		Tier  string `json:"service_tier"`
		Usage *usage `json:"usage"`
	}
	var d struct {
		response
		Type     string    `json:"type"`
		Response *response `json:"response"`
	}
	if json.Unmarshal(b, &d) != nil {
		return
	}
	switch d.Type {
	case "response.completed", "response.incomplete", "response.failed", "response.cancelled", "error":
		a.ended = true
	}
	r := &d.response
	if d.Response != nil {
		r = d.Response
	}
	if r.Usage != nil {
		a.usage = &Usage{Input: r.Usage.Input + r.Usage.Prompt, Cached: r.Usage.Cached.Tokens, Output: r.Usage.Output + r.Usage.Written, Tier: r.Tier, Model: r.Model}
	}
}

// Close says that the body is over.
func (a *Answer) Close() {
	if a.streams {
		return
	}
	a.ended = true
	a.document(a.data)
}

// Streams reports whether the answer is a stream of events.
func (a *Answer) Streams() bool { return a.streams }

// Ended reports whether the answer is complete: the last event of a stream has passed, or the body is over.
func (a *Answer) Ended() bool { return a.ended }

// AtBoundary reports whether an event may be put in here.
func (a *Answer) AtBoundary() bool {
	return a.streams && (len(a.data) == 0 || bytes.HasSuffix(a.data, []byte("\n\n")))
}

// Usage returns what the provider said that the call has used; false: it did not say.
func (a *Answer) Usage() (Usage, bool) {
	if a.usage == nil {
		return Usage{}, false
	}
	return *a.usage, true
}

// FinalEvent is the text of an event that ends a stream with a sentence of our own. midEvent says that the stream is not at a boundary.
func FinalEvent(e Endpoint, message string, midEvent bool) []byte {
	var out []byte
	if midEvent {
		out = append(out, "\n\n"...)
	}
	if e == Responses {
		data, _ := json.Marshal(map[string]any{"type": "response.failed", "response": map[string]any{
			"id": "resp_vega", "object": "response", "status": "failed", "error": map[string]string{"code": "invalid_prompt", "message": message},
		}})
		out = append(append(out, "event: response.failed\ndata: "...), data...)
	} else {
		out = append(append(out, "data: "...), ErrorBody("invalid_prompt", message)...)
	}
	return append(out, "\n\n"...)
}

// ErrorBody is the body of a refusal in the provider's shape.
func ErrorBody(code, message string) []byte {
	out, _ := json.Marshal(map[string]any{"error": map[string]any{"message": message, "type": "invalid_request_error", "code": code, "param": nil}})
	return out
}

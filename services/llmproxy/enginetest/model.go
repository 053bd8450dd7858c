package enginetest

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"

	pt "vega/services/llmproxy/providertest"
)

// Question is a request of Codex's as the model sees it.
type Question struct {
	N         int    // of the request at the provider, from 1
	Stage     string // threat_model, plan, audit, refute
	Repair    bool   // it asks to put an earlier answer into the required form
	Prompt    string // the engine's own text
	Source    string // the folder of the tree, as Codex has it
	Results   int    // how many tool calls have been answered in this conversation
	Outputs   []string
	Component string // of an audit: its title
	Last      bool   // the model may use no tools any more
	Body      []byte // everything that reached the provider
}

// usage is what every answer says to have cost.
func (q Question) usage() pt.Usage {
	return pt.Usage{Input: int64(len(q.Body) / 4), Cached: int64(q.Results * 1000), Output: 200, Reasoning: 50}
}

// Shell has Codex run a command line in the folder of the source.
func (q Question) Shell(line string) pt.Answer {
	return pt.Shell("cd '"+q.Source+"' && "+line, q.usage())
}

// Answer gives v as JSON, as the last message.
func (q Question) Answer(v any) pt.Answer {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of a test's own value
	}
	return pt.Text(string(b), q.usage())
}

// Say gives text as the last message.
func (q Question) Say(text string) pt.Answer { return pt.Text(text, q.usage()) }

// Model is a running provider.
type Model struct {
	*pt.Provider

	mu    sync.Mutex // guards asked
	asked []Question
}

// Asked are the questions so far, in their order.
func (m *Model) Asked() []Question {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Question(nil), m.asked...)
}

// Count is how many requests belonged to a stage.
func (m *Model) Count(stage string) (n int) {
	for _, q := range m.Asked() {
		if q.Stage == stage {
			n++
		}
	}
	return n
}

// Start starts a provider that ends with the test. A request that belongs to no question fails the test; the proxy's question for a list of models is answered.
func Start(tb testing.TB, answer func(Question) pt.Answer) *Model { return StartWith(tb, nil, answer) }

// StartWith is Start with another answer to the question for a list of models; nil: the usual one.
func StartWith(tb testing.TB, models pt.Answer, answer func(Question) pt.Answer) *Model {
	tb.Helper()
	if models == nil {
		models = pt.JSON(200, map[string]any{"object": "list", "data": []any{}})
	}
	m := &Model{}
	m.Provider = pt.Start(tb, func(n int, r pt.Recorded) pt.Answer {
		if strings.HasSuffix(r.Path, "/models") {
			return models
		}
		q, err := read(n, r)
		if err != nil {
			tb.Errorf("request %d: %v", n, err)
			return pt.Error(400, "test_unknown", err.Error())
		}
		m.mu.Lock()
		m.asked = append(m.asked, q)
		m.mu.Unlock()
		return answer(q)
	})
	return m
}

var componentLine = regexp.MustCompile(`(?m)^\| [Tt]itle: (.*)$`)

var sourceLine = regexp.MustCompile(`The repository is the folder (\S+)\. Begin there`)

// read finds the question in a request: the schema of the answer says which it is.
func read(n int, r pt.Recorded) (Question, error) {
	var body struct {
		Input []struct {
			Type    string
			Role    string
			Content json.RawMessage
			Output  json.RawMessage
		}
		ToolChoice any `json:"tool_choice"`
		Text       struct {
			Format struct {
				Schema struct{ Properties map[string]any }
			}
		}
	}
	q := Question{N: n, Body: r.Body}
	if err := json.Unmarshal(r.Body, &body); err != nil {
		return q, err
	}
	for name, stage := range map[string]string{"trust_boundaries": "threat_model", "components": "plan", "findings": "audit", "verdict": "refute"} {
		if _, ok := body.Text.Format.Schema.Properties[name]; ok {
			q.Stage = stage
		}
	}
	if q.Stage == "" {
		return q, fmt.Errorf("it asks for no answer that the engine knows")
	}
	for _, in := range body.Input {
		switch in.Type {
		case "message", "":
			text := textOf(in.Content)
			if m := sourceLine.FindStringSubmatch(text); m != nil {
				q.Source, q.Prompt = m[1], text
			}
		case "function_call_output", "custom_tool_call_output":
			q.Results++
			q.Outputs = append(q.Outputs, string(in.Output))
		}
	}
	if q.Prompt == "" {
		return q, fmt.Errorf("it has no prompt of the engine's")
	}
	if m := componentLine.FindStringSubmatch(q.Prompt); m != nil {
		q.Component = m[1]
	}
	q.Repair = strings.Contains(q.Prompt, "An answer of yours was not accepted")
	q.Last = body.ToolChoice == "none"
	return q, nil
}

func textOf(content json.RawMessage) string {
	var parts []struct{ Text string }
	if json.Unmarshal(content, &parts) != nil {
		return string(content)
	}
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(p.Text)
	}
	return b.String()
}

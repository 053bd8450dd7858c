package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	"vega/events"
	"vega/services/engine/codex"
)

const (
	maxTranscript = 8 << 20  // bytes of one question's
	maxSaidText   = 16 << 10 // of one string in it
	maxLiveLines  = 400      // that one question puts into the live feed
	maxLiveText   = 500      // bytes of one of them
)

// transcript keeps what Codex reported while it worked on a question: one JSON object for each event, redacted and bounded, whatever its kind. The same lines in short go into the
// live feed: commands, and what the model says between them. It is used by one goroutine at a time.
type transcript struct {
	a     *agent
	q     question
	b     bytes.Buffer
	run   int
	lines int
	full  bool

	commands, succeeded int // that the agent ran, and of these those that ended well
	showed              int // and those that showed something
	lastOutput          string
}

// transcriptLine is one line of it.
type transcriptLine struct {
	At    time.Time `json:"at"`
	Run   int       `json:"run"` // counted in the attempt
	Kind  string    `json:"kind"`
	Event any       `json:"event"`
}

func newTranscript(a *agent, q question) *transcript { return &transcript{a: a, q: q} }

// name is its artifact's.
func (t *transcript) name() string {
	if t.q.unit == "" {
		return "transcript-" + t.q.stage + ".jsonl"
	}
	return "transcript-" + t.q.stage + "-" + strings.Map(plainRune, t.q.unit) + ".jsonl"
}

func plainRune(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
		return r
	}
	return '-'
}

func (t *transcript) begin(run int) {
	t.run = run
	t.write("run_started", map[string]any{"stage": t.q.stage, "unit": t.q.unit, "model": t.a.model})
}

func (t *transcript) end(res codex.Result, err error) {
	ended := map[string]any{"requests": res.Usage.Requests, "input_tokens": res.Usage.Input, "cached_input_tokens": res.Usage.Cached, "output_tokens": res.Usage.Output}
	if res.Finished != "" {
		ended["finished"] = res.Finished
	}
	if err != nil {
		ended["error"] = t.a.redact.text(context.Background(), err.Error())
	}
	t.write("run_ended", ended)
}

// event takes one event of Codex's.
func (t *transcript) event(ctx context.Context, e codex.Event) {
	if e.Type == "item.completed" && e.Item.Type == "command_execution" {
		t.commands++
		// A search without a match, or a pipe whose last part fails, has shown something all the same.
		if e.Item.ExitCode != nil && (*e.Item.ExitCode == 0 || showsSomething(e.Item.Output)) {
			t.succeeded++
			if strings.TrimSpace(e.Item.Output) != "" {
				t.showed++
			}
		}
		t.lastOutput = t.a.redact.text(ctx, lastOf(e.Item.Output))
	}
	if t.full {
		return
	}
	var whole any
	if json.Unmarshal(e.Raw, &whole) != nil {
		whole = string(e.Raw[:min(len(e.Raw), maxSaidText)])
	}
	kind := e.Type
	if kind == "" {
		kind = "unknown"
	}
	t.write(kind, t.redacted(ctx, whole))
	t.live(ctx, e)
}

// redacted is a value with every string in it redacted and bounded.
func (t *transcript) redacted(ctx context.Context, v any) any {
	switch v := v.(type) {
	case string:
		if len(v) > maxSaidText {
			v = v[:maxSaidText/2] + fmt.Sprintf("\n[… %d bytes left out …]\n", len(v)-maxSaidText) + v[len(v)-maxSaidText/2:]
		}
		return t.a.redact.text(ctx, v)
	case []any:
		for i := range v {
			v[i] = t.redacted(ctx, v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = t.redacted(ctx, v[k])
		}
	}
	return v
}

// live says in a line what people who watch want to know.
func (t *transcript) live(ctx context.Context, e codex.Event) {
	line := ""
	switch {
	case e.Type == "item.completed" && e.Item.Type == "command_execution":
		line = "$ " + e.Item.Command
		if e.Item.ExitCode != nil && *e.Item.ExitCode != 0 {
			line += fmt.Sprintf(" (exit %d)", *e.Item.ExitCode)
		}
	case e.Type == "item.completed" && e.Item.Type == "agent_message" && !strings.HasPrefix(strings.TrimSpace(e.Item.Text), "{"):
		line = e.Item.Text
	case e.Type == "item.completed" && e.Item.Type == "error":
		line = "notice: " + e.Item.Message
	case e.Type == "error":
		line = "notice: " + e.Message
	}
	if line != "" {
		t.say(ctx, t.a.redact.text(ctx, line))
	}
}

// say puts one line into the live feed, as long as there are not too many.
func (t *transcript) say(ctx context.Context, line string) {
	t.lines++
	switch {
	case t.lines > maxLiveLines:
		return
	case t.lines == maxLiveLines:
		line = "more lines are in the transcript"
	}
	line = strings.Join(strings.Fields(line), " ")
	if len(line) > maxLiveText {
		line = strings.ToValidUTF8(line[:maxLiveText], "") + "…"
	}
	who := t.q.stage
	if t.q.unit != "" {
		who += " " + t.q.unit
	}
	t.a.r.log(ctx, who+": "+line)
}

func (t *transcript) write(kind string, event any) {
	if t.full {
		return
	}
	line, err := json.Marshal(transcriptLine{t.a.r.opt.Now().UTC().Round(0), t.run, kind, event})
	if err == nil && t.b.Len()+len(line) > maxTranscript {
		t.full = true
		line, err = json.Marshal(transcriptLine{t.a.r.opt.Now().UTC().Round(0), t.run, "full", "later events were not kept"})
	}
	if err == nil {
		t.b.Write(append(line, '\n'))
	}
}

// store makes an artifact of it; nil when nothing was asked. An error is the recorder's.
func (t *transcript) store(ctx context.Context) (*events.Object, error) {
	if t.b.Len() == 0 {
		return nil, nil
	}
	o, err := t.a.r.store(ctx, t.name(), "application/x-ndjson", bytes.NewReader(t.b.Bytes()))
	if err != nil {
		return nil, err
	}
	return &o, nil
}

// lastOf is the last line of a text, as far as a sentence can quote it.
func lastOf(s string) string {
	s = strings.TrimSpace(s)
	s = s[strings.LastIndexByte(s, '\n')+1:]
	return clipText(s, 200)
}

// complaint is a line in which a program says what it cannot do.
var complaint = regexp.MustCompile(`^(?:\S*/)?(?:ba|da|z)?(?:sh|cat|ls|rg|grep|find|sed|nl|head|tail|awk|xargs|cd|error|warning|bwrap|bubblewrap|thread|note)\b[^:]*:`)

// showsSomething says whether the output of a command that failed has anything in it but complaints.
func showsSomething(output string) bool {
	n := 0
	for line := range strings.Lines(output) {
		if line = strings.TrimSpace(line); !complaint.MatchString(line) && !strings.Contains(line, "panicked at") {
			n += len(line)
		}
	}
	return n >= 40
}

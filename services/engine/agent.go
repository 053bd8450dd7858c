package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"vega/config/secret"
	"vega/events"
	"vega/services/engine/codex"
	"vega/services/engine/pack"
)

// Access is how an attempt reaches the model.
type Access struct {
	BaseURL string        // of the LLM proxy, ending in /v1
	Token   secret.String // for this attempt, at that proxy
	Missing []string      // the variables to set before a model can be reached; the rest is then empty
}

// noModel says why the stages that need a model do not run. It is told once, before anything is spent.
type noModel struct {
	configured bool // something was set up, and does not work
	why        string
}

func (e *noModel) Error() string { return e.why }

// agent is what the stages of one run share to ask the model. It is made before the first question.
type agent struct {
	r           *run
	upstream    codex.Upstream
	model       string
	catalog     []byte
	redact      *redactor
	http        *http.Client
	sandboxHint string    // what to look at when no command of the agent succeeds
	deadline    time.Time // the last moment for a run to come to its end; zero: none

	mu   sync.Mutex // guards what follows, for an instant
	runs int        // begun in this attempt, for the names of their folders
	over *gap       // why nothing more is asked in this attempt
}

// gap says why something was not looked at.
type gap struct{ code, why string }

const (
	proxyTime  = 30 * time.Second // for a question to the proxy that costs nothing
	proxyTries = 5
	// What is kept of an attempt's time for the stages after those that need a model: a twentieth, between these, and never more than a quarter.
	lastPart, leastLast, mostLast = 20, 30 * time.Second, 10 * time.Minute
)

// agent returns what asks the model, or a *noModel that says why there is none. It looks once in each attempt: is Codex there, does the proxy answer, does the provider, and may the
// model be asked? None of it costs anything.
func (r *run) agent(ctx context.Context) (*agent, error) {
	if r.theAgent != nil {
		return r.theAgent, nil
	}
	if r.noAgent != nil {
		return nil, r.noAgent
	}
	a, err := r.newAgent(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if no, ok := errors.AsType[*noModel](err); ok {
		r.noAgent = no
		return nil, no
	}
	if err != nil {
		return nil, err
	}
	r.theAgent = a
	return a, nil
}

func (r *run) newAgent(ctx context.Context) (*agent, error) {
	access := r.job.Access
	if len(access.Missing) > 0 {
		return nil, &noModel{why: "needs a model; set " + strings.Join(access.Missing, ", ")}
	}
	if access.BaseURL == "" {
		return nil, &noModel{why: "needs a model, and no LLM proxy serves this process"}
	}
	version, err := r.program.Check(ctx)
	if err != nil {
		return nil, &noModel{true, err.Error()}
	}
	a := &agent{
		r: r, upstream: codex.Upstream{BaseURL: access.BaseURL, Token: access.Token}, model: r.Model(r.job.Model),
		http: &http.Client{Timeout: proxyTime},
	}
	if a.catalog, err = r.pack.Catalog(a.model); err != nil {
		return nil, &noModel{true, err.Error()}
	}
	if err := a.proxyIsReady(ctx); err != nil {
		return nil, &noModel{true, err.Error()}
	}
	left, err := a.allowance(ctx)
	if err != nil {
		return nil, &noModel{true, err.Error()}
	}
	if m, ok := left.Models[a.model]; ok && !m.Allowed {
		return nil, &noModel{true, m.Reason}
	}
	if a.redact, err = r.newRedactor(ctx); err != nil {
		return nil, err
	}
	if end, ok := ctx.Deadline(); ok {
		whole := time.Until(end)
		a.deadline = end.Add(-min(max(whole/lastPart, leastLast), mostLast, whole/4))
	}
	where := "in containers"
	if !version.Contained {
		where = "without a container, so that its commands can read whatever this user can"
		a.sandboxHint = " (if Codex cannot use its sandbox here: VEGA_V16_CODEX_SANDBOX)"
	}
	r.log(ctx, fmt.Sprintf("model %s through Codex %s, %s; engine pack %s", a.model, version.Number, where, r.pack.Version()))
	return a, nil
}

// proxyIsReady asks the proxy whether it and the provider can be used. A proxy of an older release does not know the question.
func (a *agent) proxyIsReady(ctx context.Context) error {
	var err error
	for try := range proxyTries {
		if err = a.askProxy(ctx, "/vega/ready", nil); err == nil || ctx.Err() != nil {
			return err
		}
		if _, answered := errors.AsType[*codex.Refusal](err); answered {
			return err
		}
		pause := time.NewTimer(time.Duration(try) * time.Second / 2)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		}
	}
	return err
}

// askProxy reads one of the proxy's own answers. A 404 leaves v as it is.
func (a *agent) askProxy(ctx context.Context, path string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(a.upstream.BaseURL, "/")+path, nil)
	if err != nil {
		return errors.New("VEGA_LLM_PROXY_BASE_URL is not a URL")
	}
	req.Header.Set("Authorization", "Bearer "+a.upstream.Token.Reveal())
	resp, err := a.http.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return fmt.Errorf("the LLM proxy does not answer: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	switch {
	case err != nil:
		return fmt.Errorf("the LLM proxy broke off: %w", err)
	case resp.StatusCode == http.StatusNotFound:
		return nil
	case resp.StatusCode != http.StatusOK:
		return codex.RefusalOf(resp.StatusCode, body)
	case v == nil:
		return nil
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("the LLM proxy's answer to %s cannot be read: %w", path, err)
	}
	return nil
}

// question is one thing to ask the model.
type question struct {
	stage, unit string // unit is empty where the stage asks one question
	name        pack.Name
	prompt      string
	pace        func(context.Context, codex.Call) (codex.Verdict, string)
}

// reply is what a question came to.
type reply struct {
	answer     []byte
	finished   string         // why the model had to come to an end, if it had
	looked     int            // how many commands it ran that showed something
	taken      []string       // what was taken out of the answer because it could not be accepted
	claims     int            // findings in the first answer, in whatever form, each place once
	first      []byte         // of an answer that was repaired: what could be accepted of the one before
	transcript *events.Object // nil: nothing was said
}

// badAnswer says that the model has answered, twice, what the schema does not allow.
type badAnswer struct{ err error }

func (e *badAnswer) Error() string {
	return "the model's answer was not in the required form: " + e.err.Error()
}

// ask runs Codex with a question until its answer is what the schema says, at most twice: the second run is shown what was wrong. Of an answer that is not, all the same, the entries are
// kept that can be accepted. The transcript of both is stored, whatever becomes of them. Errors: the cause of ctx, the recorder's, *codex.Failure, *badAnswer, and others for this machine's faults.
func (a *agent) ask(ctx context.Context, q question) (reply, error) {
	t := newTranscript(a, q)
	rep, err := a.askTwice(ctx, q, t)
	if ctx.Err() != nil {
		return reply{}, context.Cause(ctx) // the next attempt asks again
	}
	o, serr := t.store(ctx)
	if serr != nil {
		return reply{}, serr
	}
	rep.transcript = o
	return rep, err
}

func (a *agent) askTwice(ctx context.Context, q question, t *transcript) (reply, error) {
	res, err := a.once(ctx, q, t, q.prompt)
	if err != nil {
		return reply{}, err
	}
	if t.commands > 1 && t.succeeded == 0 {
		return reply{}, fmt.Errorf("none of the %d commands that the agent ran succeeded, the last one with %q%s", t.commands, t.lastOutput, a.sandboxHint)
	}
	rep := reply{answer: a.relative([]byte(res.Answer)), finished: res.Finished, looked: t.showed}
	bad, ok := errors.AsType[*pack.AnswerError](a.r.pack.Check(q.name, rep.answer))
	if !ok {
		return rep, nil
	}
	rep.claims = distinctClaims(rep.answer)
	t.say(ctx, "the answer was not in the required form; it is asked for once more")
	first, taken, usable := a.r.pack.Salvage(q.name, rep.answer)
	prompt, err := a.r.pack.RepairPrompt(pack.RepairInput{Problems: bad.Problems, Answer: res.Answer})
	if err != nil {
		return reply{}, err
	}
	// What was over for the first run is not over for this one: it needs a single request, and without it the first was for nothing.
	q.pace = nil
	res, err = a.once(ctx, q, t, prompt)
	if ctx.Err() != nil {
		return reply{}, context.Cause(ctx)
	}
	if err == nil {
		// The repaired answer counts. What the first one had right and this one has not is for the caller to put together.
		repaired := a.relative([]byte(res.Answer))
		if kept, more, ok := a.r.pack.Salvage(q.name, repaired); ok {
			rep.answer, rep.taken = kept, more
			if usable {
				rep.first = first
			}
			return rep, nil
		}
	}
	if usable {
		rep.answer, rep.taken = first, taken
		return rep, nil
	}
	return reply{}, &badAnswer{bad}
}

// distinctClaims counts the findings of an answer, those of one rule and place once. What is no JSON has none.
func distinctClaims(answer []byte) int {
	var loose struct{ Findings []map[string]any }
	if json.Unmarshal(answer, &loose) != nil {
		return 0
	}
	seen := map[string]bool{}
	for _, f := range loose.Findings {
		seen[fmt.Sprint(f["rule"], "\x00", f["file"], "\x00", f["start_line"])] = true
	}
	return len(seen)
}

// pathFields are the fields of answers that hold paths, alone or in lists.
var pathFields = map[string]bool{"file": true, "path": true, "paths": true, "examined": true, "checked": true}

// relative is an answer whose paths are relative to the tree, also where the model gave the folder of the tree with them, and without what may stand around it. What is no JSON stays as it is.
func (a *agent) relative(answer []byte) []byte {
	answer = bare(answer)
	var v any
	if json.Unmarshal(answer, &v) != nil {
		return answer
	}
	changed := false
	var walk func(v any, isPath bool) any
	walk = func(v any, isPath bool) any {
		switch v := v.(type) {
		case string:
			if name := a.r.inTree(v); isPath && name != v && (strings.HasPrefix(v, "/") || strings.HasPrefix(v, "./")) {
				changed = true
				return name
			}
		case []any:
			for i := range v {
				v[i] = walk(v[i], isPath)
			}
		case map[string]any:
			for k := range v {
				v[k] = walk(v[k], pathFields[k])
			}
		}
		return v
	}
	v = walk(v, false)
	if !changed {
		return answer
	}
	out, err := json.Marshal(v)
	if err != nil {
		return answer
	}
	return out
}

// bare is the one JSON object of an answer, without a fence and without the sentences around it. A text with none, or with more than one, stays as it is.
func bare(answer []byte) []byte {
	answer = unfenced(answer)
	start := bytes.IndexByte(answer, '{')
	if start < 0 || json.Valid(answer) {
		return answer
	}
	dec := json.NewDecoder(bytes.NewReader(answer[start:]))
	var one json.RawMessage
	if dec.Decode(&one) != nil || bytes.IndexByte(answer[start+int(dec.InputOffset()):], '{') >= 0 {
		return answer
	}
	return one
}

// unfenced is a text without the fence of Markdown that stands around all of it.
func unfenced(text []byte) []byte {
	inner, ok := bytes.CutPrefix(bytes.TrimSpace(text), []byte("```"))
	if !ok {
		return text
	}
	if inner, ok = bytes.CutSuffix(inner, []byte("```")); !ok {
		return text
	}
	_, inner, _ = bytes.Cut(inner, []byte("\n")) // the name of the language
	return bytes.TrimSpace(inner)
}

// once runs Codex.
func (a *agent) once(ctx context.Context, q question, t *transcript, prompt string) (codex.Result, error) {
	a.mu.Lock()
	a.runs++
	n := a.runs
	a.mu.Unlock()
	dir := filepath.Join(a.r.job.WorkDir, fmt.Sprintf("run-%d", n))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return codex.Result{}, fmt.Errorf("folder of the run: %w", err)
	}
	defer os.RemoveAll(dir) // with the attempt's folder, if not now
	timeout := a.r.runTimeout
	if !a.deadline.IsZero() {
		timeout = max(min(timeout, time.Until(a.deadline)), time.Second)
	}
	soft := time.Now().Add(timeout * 4 / 5)
	task := codex.Task{
		ID: fmt.Sprintf("%s-%d-%d", a.r.job.Scan, a.r.job.Attempt, n), Label: string(a.r.job.Scan), Dir: dir, Folder: filepath.Dir(a.r.job.WorkDir),
		Source: a.r.job.Dir, Model: a.model, Catalog: a.catalog, Schema: a.r.pack.Schema(q.name), Upstream: a.upstream, Timeout: timeout,
		Prompt: "The repository is the folder " + codex.SourcePath + ". Begin there: the folder you are started in is empty. Paths in your answer are relative to the repository.\n\n" + prompt,
		Pace: func(ctx context.Context, c codex.Call) (codex.Verdict, string) {
			if time.Now().After(soft) && c.N > 1 {
				return codex.Finish, "its time is nearly over"
			}
			if q.pace == nil {
				return codex.Go, ""
			}
			return q.pace(ctx, c)
		},
		Waiting: func(why string) {
			of := q.stage
			if q.unit != "" {
				of += " " + q.unit
			}
			a.r.log(ctx, of+": a request waits: "+why)
		},
		OnEvent: func(e codex.Event) { t.event(ctx, e) },
	}
	t.begin(n)
	res, err := a.r.program.Run(ctx, task)
	t.end(res, err)
	return res, err
}

// stopAsking remembers that nothing more is to be asked in this attempt; the first reason counts.
func (a *agent) stopAsking(code, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over == nil {
		a.over = &gap{code, why}
	}
}

// asking is nil, or says why nothing more is asked.
func (a *agent) asking() *gap {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over == nil && !a.deadline.IsZero() && time.Now().After(a.deadline) {
		a.over = &gap{codeTimedOut, "the attempt's time is nearly over (VEGA_SCAN_TIMEOUT_SECONDS)"}
	}
	return a.over
}

// gapOf says what a failed question leaves: with which code, and in words. A failure after which no other question would be answered either stops all further ones.
func (a *agent) gapOf(err error) gap {
	f, ok := errors.AsType[*codex.Failure](err)
	if !ok {
		return gap{codeFailed, err.Error()}
	}
	switch f.Kind {
	case codex.TimedOut:
		if !a.deadline.IsZero() && time.Now().After(a.deadline.Add(-time.Second)) {
			a.stopAsking(codeTimedOut, "the attempt's time is nearly over (VEGA_SCAN_TIMEOUT_SECONDS)")
		}
		return gap{codeTimedOut, f.Message}
	case codex.Stopped:
		return gap{codeCap, f.Message}
	case codex.Refused:
		if f.Refusal == nil {
			break
		}
		switch f.Refusal.Code {
		case "vega_scan_cap_exceeded":
			a.stopAsking(codeCap, f.Message)
			return gap{codeCap, f.Message}
		case "vega_provider_refused", "vega_provider_quota", "vega_provider_misconfigured", "vega_proxy_unreachable", "vega_model_refused", "vega_model_unpriced", "vega_bad_token",
			"vega_scan_ended", "vega_attempt_superseded", "vega_scan_cancelled":
			a.stopAsking(codeFailed, f.Message)
		}
	case codex.Crashed, codex.Flooded:
	}
	return gap{codeFailed, f.Message}
}

// Model is the model that a scan uses which asks for that one; empty: for none in particular.
func (e *Engine) Model(asked string) string {
	if asked != "" {
		return asked
	}
	return e.model
}

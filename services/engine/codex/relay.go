package codex

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"vega/config/secret"
)

// Upstream is the LLM proxy, and the token that it knows the scan's attempt by.
type Upstream struct {
	BaseURL string // ends in /v1 or the like
	Token   secret.String
}

// Call is a request that Codex is about to make.
type Call struct {
	N     int   // counted from 1 in this run
	Bytes int64 // of its body
	Spent Usage // by the run so far
}

// Verdict is what becomes of a request.
type Verdict int

const (
	Go     Verdict = iota // it is made
	Finish                // it is made as the run's last one: without tools, asking for the answer
	Stop                  // it is not made, and the run ends
)

// Refusal is what a request was answered with instead of the model's words.
type Refusal struct {
	Status  int
	Code    string // the proxy's or the provider's: vega_scan_cap_exceeded, …
	Message string
}

func (r *Refusal) Error() string { return r.Message }

// Usage is what a run's requests cost, in tokens, as far as the provider said.
type Usage struct {
	Requests, Input, Cached, Output, Reasoning int64
}

const (
	socketName    = "proxy.sock"
	lifelinePath  = "/vega/lifeline"
	maxBody       = 64 << 20 // of a request; the proxy's own limit is lower
	maxRefusal    = 64 << 10 // of an answer that is no stream
	maxEvent      = 8 << 20  // of one event of a stream, for reading usage
	relayPatience = 2 * time.Minute
	finishedCode  = "vega_run_finished"
)

// relay is one run's way to the model: it listens on loopback and on a socket in the run's folder, and forwards to the proxy.
type relay struct {
	key   string
	port  int
	up    Upstream
	pace  func(context.Context, Call) (Verdict, string)
	waits func(why string) // nil: nobody is told
	http  *http.Client
	srv   *http.Server
	lines []net.Listener
	dir   *os.File // of the socket; open for as long as that is

	ctx    context.Context // of the relay's life
	end    context.CancelFunc
	served sync.WaitGroup

	mu       sync.Mutex // guards what follows, for an instant
	calls    int
	usage    Usage
	refusal  *Refusal // of the newest request; nil once one is answered
	finished string   // why the run was told to finish
}

// startRelay listens. close ends everything that it began.
func startRelay(ctx context.Context, dir string, t Task) (r *relay, err error) {
	r = &relay{key: rand.Text(), up: t.Upstream, pace: t.Pace, waits: t.Waiting}
	r.ctx, r.end = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if _, err := url.Parse(r.up.BaseURL); err != nil {
		return r, errors.New("the LLM proxy's address is not a URL")
	}
	// A run's requests come one after the other, each a stream of minutes: nothing is gained by sharing connections between runs.
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression, transport.Proxy = true, nil
	r.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	listen := new(net.ListenConfig)
	tcp, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return r, fmt.Errorf("relay: %w", err)
	}
	r.lines = append(r.lines, tcp)
	r.port = tcp.Addr().(*net.TCPAddr).Port
	unix, err := r.listenUnix(ctx, dir)
	if err != nil {
		return r, fmt.Errorf("relay: %w", err)
	}
	r.lines = append(r.lines, unix)
	r.srv = &http.Server{Handler: r, ReadHeaderTimeout: 30 * time.Second, ErrorLog: stdlog.New(io.Discard, "", 0), BaseContext: func(net.Listener) context.Context { return r.ctx }}
	for _, l := range r.lines {
		r.served.Go(func() { _ = r.srv.Serve(l) }) // ends with close
	}
	return r, nil
}

// listenUnix makes the socket for a container. The name of a socket may have a hundred bytes or so, which a run's folder may exceed: on Linux it is reached through
// this process's own open folder.
func (r *relay) listenUnix(ctx context.Context, dir string) (net.Listener, error) {
	name := filepath.Join(dir, socketName)
	if runtime.GOOS == "linux" {
		var err error
		if r.dir, err = os.Open(dir); err != nil {
			return nil, err
		}
		name = fmt.Sprintf("/proc/self/fd/%d/%s", r.dir.Fd(), socketName)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", name)
	if err != nil {
		return nil, err
	}
	// The container's user is another one. Who may come near the socket is decided by the folder, which is this user's alone.
	if err := os.Chmod(filepath.Join(dir, socketName), 0o666); err != nil { //nolint:gosec // see above
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// close cuts every connection, the lifelines of containers among them, and waits for the handlers.
func (r *relay) close() {
	r.end()
	if r.srv != nil {
		_ = r.srv.Close() // its connections are to be cut
	}
	for _, l := range r.lines {
		_ = l.Close() // the server has closed it, if there was one
	}
	r.served.Wait()
	if r.dir != nil {
		_ = r.dir.Close() // it was only looked through
	}
	if r.http != nil {
		r.http.CloseIdleConnections()
	}
}

// spent is what the run's requests cost so far, and what the newest one was refused with.
func (r *relay) spent() (Usage, *Refusal, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.usage, r.refusal, r.finished
}

// ServeHTTP answers Codex, or what stands before it in a container.
func (r *relay) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	got := strings.TrimPrefix(q.Header.Get("Authorization"), "Bearer ")
	switch {
	case subtle.ConstantTimeCompare([]byte(got), []byte(r.key)) != 1:
		refuse(w, http.StatusUnauthorized, "vega_bad_key", "this address serves one run of the agent, which has the key")
	case q.Method == http.MethodGet && q.URL.Path == lifelinePath:
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush() // a reader that is gone ends the context
		select {
		case <-q.Context().Done():
		case <-r.ctx.Done():
		}
	case q.Method == http.MethodPost && (q.URL.Path == "/v1/responses" || q.URL.Path == "/v1/responses/compact"):
		r.forward(w, q)
	default:
		refuse(w, http.StatusNotFound, "vega_no_such_path", "the relay forwards requests for responses alone")
	}
}

// forward makes one request of Codex's.
func (r *relay) forward(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, maxBody))
	if err != nil {
		refuse(w, http.StatusBadRequest, "vega_request_too_large", fmt.Sprintf("the request is larger than %d bytes", maxBody))
		return
	}
	r.mu.Lock()
	r.calls++
	call := Call{N: r.calls, Bytes: int64(len(body)), Spent: r.usage}
	over := r.finished
	r.mu.Unlock()
	verdict, why := Go, ""
	switch {
	case over != "": // the answer to the last request was not what Codex wanted; there is no other
		verdict, why = Stop, over
	case r.pace != nil:
		verdict, why = r.pace(q.Context(), call)
	}
	switch verdict {
	case Stop:
		r.note(&Refusal{Status: http.StatusBadRequest, Code: finishedCode, Message: why}, why)
		refuse(w, http.StatusBadRequest, finishedCode, why)
		return
	case Finish:
		if last, err := lastRequest(body, why); err == nil {
			body = last
		}
		r.note(nil, why)
	case Go:
	}
	resp, err := r.send(q, body)
	if err != nil {
		if q.Context().Err() != nil {
			return // nobody waits for it
		}
		r.note(&Refusal{Status: http.StatusBadGateway, Code: "vega_proxy_unreachable", Message: err.Error()}, "")
		refuse(w, http.StatusBadGateway, "vega_proxy_unreachable", err.Error())
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal)) // what cannot be read is a bare status
		r.note(RefusalOf(resp.StatusCode, text), "")
		copyHeader(w.Header(), resp.Header, "Content-Type", "Retry-After")
		w.WriteHeader(resp.StatusCode)
		_, _ = w.Write(text) // a reader that is gone ends the context
		return
	}
	r.note(nil, "")
	copyHeader(w.Header(), resp.Header, "Content-Type", "Cache-Control")
	w.WriteHeader(http.StatusOK)
	r.pass(w, resp.Body)
}

// note remembers how the newest request was answered, and why the run is to finish, if it is.
func (r *relay) note(no *Refusal, finished string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refusal = no
	r.finished = cmp.Or(r.finished, finished)
}

// send asks the proxy, again and again for a while when it is not there or says that it cannot answer just now: neither has cost anything.
func (r *relay) send(q *http.Request, body []byte) (*http.Response, error) {
	deadline := time.Now().Add(relayPatience)
	pause := 250 * time.Millisecond
	for told := false; ; told = true {
		resp, err := r.try(q, body)
		why := err
		if err == nil {
			no := comeAgain(resp)
			if no == nil {
				return resp, nil
			}
			why = no
		}
		wait := pause
		if err == nil {
			if s, aerr := strconv.Atoi(resp.Header.Get("Retry-After")); aerr == nil && s > 0 {
				wait = max(wait, min(time.Duration(s)*time.Second, 15*time.Second))
			}
		} else if !errors.Is(err, errNotSent) {
			return nil, err // it may have been charged; Codex decides
		}
		if time.Now().Add(wait).After(deadline) {
			return resp, err
		}
		if !told && r.waits != nil {
			r.waits(why.Error())
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-q.Context().Done():
			timer.Stop()
			return nil, q.Context().Err()
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// comeAgain is what the proxy says when it asks for patience itself, rather than the provider; else nil. It reads the answer, which stays readable.
func comeAgain(resp *http.Response) *Refusal {
	if resp.StatusCode != http.StatusServiceUnavailable {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal)) // what cannot be read is a bare status
	_ = resp.Body.Close()                                        // it was read
	resp.Body = io.NopCloser(bytes.NewReader(text))
	switch no := RefusalOf(resp.StatusCode, text); no.Code {
	case "vega_busy", "vega_scan_cap_held", "vega_stopping", "vega_unavailable":
		return no
	default:
		return nil
	}
}

// errNotSent says that the proxy has not seen the request.
var errNotSent = errors.New("the LLM proxy does not answer")

func (r *relay) try(q *http.Request, body []byte) (*http.Response, error) {
	out, err := http.NewRequestWithContext(q.Context(), q.Method, strings.TrimSuffix(r.up.BaseURL, "/")+strings.TrimPrefix(q.URL.Path, "/v1"), bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the LLM proxy's address is not a URL")
	}
	copyHeader(out.Header, q.Header, "Accept", "Content-Type", "Content-Encoding", "Openai-Beta", "Traceparent", "User-Agent")
	out.Header.Set("Authorization", "Bearer "+r.up.Token.Reveal())
	resp, err := r.http.Do(out)
	if err == nil {
		return resp, nil
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return nil, fmt.Errorf("%w: %w", errNotSent, op)
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return nil, fmt.Errorf("the LLM proxy broke off: %w", err)
}

// pass hands an answer on as it comes and reads on the way what it cost.
func (r *relay) pass(w http.ResponseWriter, in io.Reader) {
	flush := http.NewResponseController(w)
	meter := usageReader{found: func(u Usage) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.usage.Requests++
		r.usage.Input += u.Input
		r.usage.Cached += u.Cached
		r.usage.Output += u.Output
		r.usage.Reasoning += u.Reasoning
	}}
	buf := make([]byte, 32<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			meter.read(buf[:n])
			if _, werr := w.Write(buf[:n]); werr != nil {
				return
			}
			if flush.Flush() != nil {
				return
			}
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler) // so that the agent sees a broken answer and not the end of a whole one
		}
	}
}

// usageReader finds in a stream of events the one that ends the response, and in it what the response cost.
type usageReader struct {
	line  []byte
	skip  bool // the rest of a line that is too long
	found func(Usage)
}

func (u *usageReader) read(b []byte) {
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		piece := b
		if end >= 0 {
			piece = b[:end]
		}
		if !u.skip {
			u.line = append(u.line, piece...)
			u.skip = len(u.line) > maxEvent
		}
		if end < 0 {
			return
		}
		if !u.skip {
			u.event(u.line)
		}
		u.line, u.skip = u.line[:0], false
		b = b[end+1:]
	}
}

func (u *usageReader) event(line []byte) {
	data, ok := bytes.CutPrefix(line, []byte("data:"))
	if !ok || !bytes.Contains(data, []byte(`"usage"`)) {
		return
	}
	var e struct {
		Type     string
		Response struct {
			Usage *struct {
				Input   int64 `json:"input_tokens"`
				Output  int64 `json:"output_tokens"`
				Details struct {
					Cached int64 `json:"cached_tokens"`
				} `json:"input_tokens_details"`
				OutputDetails struct {
					Reasoning int64 `json:"reasoning_tokens"`
				} `json:"output_tokens_details"`
			}
		}
	}
	if json.Unmarshal(data, &e) != nil || e.Response.Usage == nil {
		return
	}
	switch e.Type {
	case "response.completed", "response.incomplete", "response.failed":
		x := e.Response.Usage
		u.found(Usage{Input: x.Input, Cached: x.Details.Cached, Output: x.Output, Reasoning: x.OutputDetails.Reasoning})
	}
}

// lastRequest makes of a request one that only the answer can follow: the model may use no tool, and is told why. What it has seen stays as it was, in the same
// order, so that the provider's cache still knows it.
func lastRequest(body []byte, why string) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, err
	}
	var input []json.RawMessage
	if err := json.Unmarshal(fields["input"], &input); err != nil {
		return nil, err
	}
	note, err := json.Marshal(map[string]any{"type": "message", "role": "developer", "content": []any{map[string]any{"type": "input_text",
		"text": "This is the last request of this run (" + why + "). Give your answer now, in the required form, from what you have seen. Report only what you can quote, and name what you did not get to as not examined."}}})
	if err != nil {
		return nil, err
	}
	if fields["input"], err = json.Marshal(append(input, note)); err != nil {
		return nil, err
	}
	fields["tool_choice"] = json.RawMessage(`"none"`)
	return json.Marshal(fields)
}

// refusalOf reads an answer in the provider's shape.
// RefusalOf reads an answer that is no success.
func RefusalOf(status int, text []byte) *Refusal {
	var e struct {
		Error struct{ Code, Message string }
	}
	_ = json.Unmarshal(text, &e) // what is not in that shape is a bare status
	return &Refusal{Status: status, Code: e.Error.Code, Message: cmp.Or(e.Error.Message, fmt.Sprintf("the LLM proxy answered %d", status))}
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": message, "type": "invalid_request_error", "code": code, "param": nil}}) // a reader that is gone reads nothing
}

func copyHeader(to, from http.Header, names ...string) {
	for _, n := range names {
		if v := from.Values(n); len(v) > 0 {
			to[http.CanonicalHeaderKey(n)] = v
		}
	}
}

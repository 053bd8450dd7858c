//go:build unix

package ecstest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// Options of a Server. Command is required.
type Options struct {
	Cluster        string   // its name; "scans" when empty
	TaskDefinition string   // the family; "vega-runner" when empty
	Containers     []string // of the task definition, the first one runs the process; "vega" when empty
	AWSVPC         bool     // the task definition's network mode is awsvpc: a network configuration is required, and refused otherwise

	Command []string // what a task runs: the image's entry point; the overrides' command is added
	Env     []string // NAME=value, what the task definition gives a task; the overrides come on top

	Step        time.Duration // how long each status before RUNNING lasts
	StopTimeout time.Duration // from SIGTERM to SIGKILL; 30 s when zero
	Teardown    time.Duration // how long a task whose containers have stopped is DEPROVISIONING
	Output      io.Writer     // what tasks write; nowhere when nil

	// Fault is asked before every call that has no injected fault; nil or a nil answer: the call goes through.
	Fault func(operation string) *Fault
}

// Fault replaces the answer to one call.
type Fault struct {
	Reason, Detail string // RunTask: an entry in failures, such as RESOURCE:MEMORY
	Code, Message  string // an exception
	Status         int    // its HTTP status; 400 when zero
	Lost           bool   // the call is done and the answer is lost
	Always         bool   // stays until Clear
}

// Server is one region of ECS with one cluster and one task definition.
type Server struct {
	opt    Options
	url    string
	http   *http.Server
	served sync.WaitGroup // the HTTP server and the tasks

	out    sync.Mutex // guards writes to opt.Output
	mu     sync.Mutex // guards what follows
	closed bool
	tasks  map[string]*task // by ARN
	tokens map[string]token // by client token
	faults map[string][]Fault
	calls  map[string]int
}

type token struct {
	request string
	arns    []string
}

// Start listens on a free port of 127.0.0.1.
func Start(o Options) (*Server, error) {
	if len(o.Command) == 0 {
		return nil, errors.New("ecstest: no command")
	}
	o.Cluster, o.TaskDefinition, o.StopTimeout = cmp.Or(o.Cluster, "scans"), cmp.Or(o.TaskDefinition, "vega-runner"), cmp.Or(o.StopTimeout, 30*time.Second)
	if len(o.Containers) == 0 {
		o.Containers = []string{"vega"}
	}
	if o.Output == nil {
		o.Output = io.Discard
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("ecstest: %w", err)
	}
	s := &Server{
		opt: o, url: "http://" + l.Addr().String(),
		tasks: map[string]*task{}, tokens: map[string]token{}, faults: map[string][]Fault{}, calls: map[string]int{},
	}
	s.http = &http.Server{Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: 10 * time.Second}
	s.served.Go(func() { _ = s.http.Serve(l) }) // it ends with Close
	return s, nil
}

// Run is Start for a test; the server ends with it.
func Run(tb testing.TB, o Options) *Server {
	tb.Helper()
	s, err := Start(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// URL is the endpoint: what AWS_ENDPOINT_URL_ECS is set to.
func (s *Server) URL() string { return s.url }

// Close kills every process that is left and returns when all have gone.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for _, t := range s.tasks {
		t.kill()
	}
	s.mu.Unlock()
	_ = s.http.Close() // open requests are of clients that are being closed as well
	s.served.Wait()
}

// Inject has the next calls of an operation (RunTask, DescribeTasks, StopTask, ListTasks) answered with faults, one each.
func (s *Server) Inject(operation string, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[operation] = append(s.faults[operation], faults...)
}

// Clear takes back what was injected.
func (s *Server) Clear(operation string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.faults, operation)
}

// Calls is how often an operation was called.
func (s *Server) Calls(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[operation]
}

func (s *Server) fault(operation string) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[operation]++
	if q := s.faults[operation]; len(q) > 0 {
		f := q[0]
		if !f.Always {
			s.faults[operation] = q[1:]
		}
		return &f
	}
	if s.opt.Fault != nil {
		return s.opt.Fault(operation)
	}
	return nil
}

// exception is an error as the service answers it.
type exception struct {
	Code    string `json:"__type"`
	Message string `json:"message"`
	status  int
}

func (e *exception) Error() string { return e.Code + ": " + e.Message }

func invalid(format string, a ...any) *exception {
	return &exception{Code: "InvalidParameterException", Message: fmt.Sprintf(format, a...)}
}

const target = "AmazonEC2ContainerServiceV20141113."

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	operation, ours := strings.CutPrefix(r.Header.Get("X-Amz-Target"), target)
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	var f Fault
	if got := s.fault(operation); got != nil {
		f = *got
	}
	var answer any
	switch {
	case !ours || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-amz-json-1.1":
		err = &exception{Code: "UnknownOperationException", Message: "not a call of this service"}
	case !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential="):
		err = &exception{Code: "MissingAuthenticationTokenException", Message: "Missing Authentication Token"}
	case f.Code != "":
		err = &exception{Code: f.Code, Message: f.Message, status: f.Status}
	case f.Reason != "":
		answer = runTaskOutput{Tasks: []wireTask{}, Failures: []failure{{Reason: f.Reason, Detail: f.Detail}}}
	default:
		answer, err = s.do(operation, body)
	}
	if f.Lost {
		panic(http.ErrAbortHandler) // the connection is cut
	}
	status := http.StatusOK
	if e, ok := errors.AsType[*exception](err); ok {
		status, answer = cmp.Or(e.status, http.StatusBadRequest), e
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // a client that has gone asks again
}

func (s *Server) do(operation string, body []byte) (any, error) {
	switch operation {
	case "RunTask":
		return call(body, s.runTask)
	case "DescribeTasks":
		return call(body, s.describeTasks)
	case "StopTask":
		return call(body, s.stopTask)
	case "ListTasks":
		return call(body, s.listTasks)
	}
	return nil, &exception{Code: "UnknownOperationException", Message: "ecstest knows RunTask, DescribeTasks, StopTask and ListTasks"}
}

// call reads the input and does it. A field that ecstest does not know is refused: nobody could rely on it here.
func call[In, Out any](body []byte, do func(In) (Out, *exception)) (any, error) {
	var in In
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return nil, &exception{Code: "SerializationException", Message: err.Error()}
	}
	out, e := do(in)
	if e != nil {
		return nil, e
	}
	return out, nil
}

// Wait returns when cond holds for the tasks, or with ctx's error. It asks again whenever a task may have changed.
func (s *Server) Wait(ctx context.Context, cond func([]Task) bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond(s.Tasks()) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

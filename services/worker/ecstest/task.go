//go:build unix

package ecstest

import (
	"cmp"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Task is one task as it is now.
type Task struct {
	ARN           string
	Status        string // PROVISIONING, PENDING, RUNNING, STOPPING, DEPROVISIONING, STOPPED
	StopCode      string
	StoppedReason string
	ExitCode      int // once its process has ended; -1 before, and when it never ran
	PID           int // 0 when it has none
	StartedBy     string
	Tags          map[string]string
	Env           map[string]string // the overrides'
	Vanished      bool
	CreatedAt     time.Time
}

// task is guarded by its server's mu.
type task struct {
	arn       string
	in        runTaskInput
	startedBy string
	status    string
	desired   string
	stopCode  string
	reason    string
	exit      *int
	started   time.Time
	created   time.Time
	stopped   time.Time
	vanished  bool
	process   *os.Process   // while it runs
	asked     chan struct{} // closed when it was asked to stop
	killed    chan struct{} // closed when it is to be gone at once
}

func newTask(arn string, in runTaskInput) *task {
	return &task{
		arn: arn, in: in, startedBy: in.StartedBy, status: "PROVISIONING", desired: "RUNNING", created: time.Now(),
		asked: make(chan struct{}), killed: make(chan struct{}),
	}
}

// Tasks are all tasks there were, oldest first.
func (s *Server) Tasks() []Task {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Task
	for _, t := range s.tasks {
		x := Task{
			ARN: t.arn, Status: t.status, StopCode: t.stopCode, StoppedReason: t.reason, ExitCode: -1, StartedBy: t.startedBy,
			Tags: map[string]string{}, Env: map[string]string{}, Vanished: t.vanished, CreatedAt: t.created,
		}
		if t.exit != nil {
			x.ExitCode = *t.exit
		}
		if t.process != nil {
			x.PID = t.process.Pid
		}
		for _, g := range t.in.Tags {
			x.Tags[g.Key] = g.Value
		}
		for _, v := range t.override(s).Environment {
			x.Env[v.Name] = v.Value
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b Task) int { return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ARN, b.ARN)) })
	return out
}

// Vanish kills a task's processes and forgets it: DescribeTasks says MISSING from now on.
func (s *Server) Vanish(arn string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tasks[arn]; t != nil {
		t.vanished = true
		t.kill()
	}
}

// Interrupt stops a task as the service itself does, with a stop code such as SpotInterruption: SIGTERM, and SIGKILL after the stop timeout.
func (s *Server) Interrupt(arn, stopCode, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tasks[arn]; t != nil {
		t.stop(stopCode, reason)
	}
}

// Signal sends a signal to the process of a task, if it runs.
func (s *Server) Signal(arn string, sig os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tasks[arn]; t != nil && t.process != nil {
		_ = t.process.Signal(sig) // it may have just ended
	}
}

// stop and kill are called with the server's mu held, as often as one likes.
func (t *task) stop(code, reason string) {
	if t.desired == "STOPPED" {
		return
	}
	t.desired, t.stopCode, t.reason = "STOPPED", code, reason
	if t.status != "STOPPED" {
		t.status = "STOPPING"
	}
	close(t.asked)
}

func (t *task) kill() {
	select {
	case <-t.killed:
	default:
		close(t.killed)
	}
}

// live takes a task through its statuses.
func (s *Server) live(t *task) {
	if !s.step(t, "PENDING") || !s.step(t, "RUNNING") {
		s.end(t, -1, "TaskFailedToStart", "")
		return
	}
	p, ended, err := s.launch(t)
	if err != nil {
		s.end(t, -1, "TaskFailedToStart", "CannotStartContainerError: "+err.Error())
		return
	}
	asked := t.asked
	var patience <-chan time.Time
	for {
		select {
		case code := <-ended:
			_ = syscall.Kill(-p.Pid, syscall.SIGKILL) // what it has started goes with its container
			s.end(t, code, "EssentialContainerExited", "Essential container in task exited")
			return
		case <-asked:
			asked = nil
			_ = p.Signal(syscall.SIGTERM) // it may have just ended
			timer := time.NewTimer(s.opt.StopTimeout)
			defer timer.Stop()
			patience = timer.C
		case <-patience:
			_ = syscall.Kill(-p.Pid, syscall.SIGKILL)
		case <-t.killed:
			_ = syscall.Kill(-p.Pid, syscall.SIGKILL)
			s.end(t, <-ended, "EssentialContainerExited", "Essential container in task exited")
			return
		}
	}
}

// step waits until the next status is due; false when the task was stopped before.
func (s *Server) step(t *task, to string) bool {
	timer := time.NewTimer(s.opt.Step)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.asked:
		return false
	case <-t.killed:
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.desired == "STOPPED" {
		return false
	}
	t.status = to
	return true
}

// launch starts the process; its exit code comes once through the channel.
func (s *Server) launch(t *task) (*os.Process, <-chan int, error) {
	o := t.override(s)
	argv := append(slices.Clone(s.opt.Command), o.Command...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = slices.Clone(s.opt.Env)
	for _, v := range o.Environment {
		cmd.Env = append(cmd.Env, v.Name+"="+v.Value)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out := &line{s}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second // a grandchild may hold the pipes
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	t.process, t.started = cmd.Process, time.Now()
	ended := make(chan int, 1)
	s.served.Go(func() {
		_ = cmd.Wait() // the state says it better
		code := cmd.ProcessState.ExitCode()
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			code = 128 + int(ws.Signal())
		}
		ended <- code
	})
	return cmd.Process, ended, nil
}

// end says that a task's containers have stopped, and then that the task has. Why it was asked to comes before why it did.
func (s *Server) end(t *task, code int, stopCode, reason string) {
	s.mu.Lock()
	if code >= 0 {
		t.exit = &code
	}
	t.stopCode, t.reason = cmp.Or(t.stopCode, stopCode), cmp.Or(t.reason, reason)
	t.status, t.desired, t.process = "DEPROVISIONING", "STOPPED", nil
	s.mu.Unlock()
	timer := time.NewTimer(s.opt.Teardown)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.killed:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.status, t.stopped = "STOPPED", time.Now()
}

// override is what RunTask said about the container that runs the process.
func (t *task) override(s *Server) containerOverride {
	if t.in.Overrides != nil {
		for _, c := range t.in.Overrides.Containers {
			if c.Name == s.opt.Containers[0] {
				return c
			}
		}
	}
	return containerOverride{}
}

func (t *task) wire(s *Server) wireTask {
	w := wireTask{
		ARN: t.arn, ClusterARN: arnPrefix + "cluster/" + s.opt.Cluster, TaskDefinitionARN: arnPrefix + "task-definition/" + s.opt.TaskDefinition + ":1",
		LastStatus: t.status, DesiredStatus: t.desired, StartedBy: t.startedBy, StopCode: t.stopCode, StoppedReason: t.reason,
		CreatedAt: epoch(t.created), StartedAt: epoch(t.started), StoppedAt: epoch(t.stopped), Overrides: t.in.Overrides, Tags: t.in.Tags,
	}
	for i, name := range s.opt.Containers {
		c := wireContainer{Name: name, LastStatus: "PENDING"}
		switch t.status {
		case "RUNNING", "STOPPING":
			c.LastStatus = "RUNNING"
		case "DEPROVISIONING", "STOPPED":
			c.LastStatus = "STOPPED"
		}
		if i == 0 {
			c.ExitCode = t.exit
			if t.exit == nil && strings.HasPrefix(t.reason, "CannotStart") {
				c.Reason = t.reason
			}
		}
		w.Containers = append(w.Containers, c)
	}
	return w
}

// line writes to the output, one process at a time.
type line struct{ s *Server }

func (l *line) Write(p []byte) (int, error) {
	l.s.out.Lock()
	defer l.s.out.Unlock()
	return l.s.opt.Output.Write(p)
}

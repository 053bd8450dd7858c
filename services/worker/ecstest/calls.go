//go:build unix

package ecstest

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// The wire format, by hand: what the SDK sends and reads.
type (
	runTaskInput struct {
		ClientToken          string             `json:"clientToken"`
		Cluster              string             `json:"cluster"`
		TaskDefinition       string             `json:"taskDefinition"`
		Count                int                `json:"count"`
		LaunchType           string             `json:"launchType"`
		StartedBy            string             `json:"startedBy"`
		Group                string             `json:"group"`
		PropagateTags        string             `json:"propagateTags"`
		EnableECSManagedTags bool               `json:"enableECSManagedTags"`
		EnableExecuteCommand bool               `json:"enableExecuteCommand"`
		PlatformVersion      string             `json:"platformVersion"`
		Tags                 []tag              `json:"tags"`
		NetworkConfiguration *networkConfig     `json:"networkConfiguration"`
		Overrides            *taskOverride      `json:"overrides"`
		CapacityProviders    []capacityProvider `json:"capacityProviderStrategy"`
	}
	networkConfig struct {
		AWSVPC *struct {
			Subnets        []string `json:"subnets"`
			SecurityGroups []string `json:"securityGroups"`
			AssignPublicIP string   `json:"assignPublicIp"`
		} `json:"awsvpcConfiguration"`
	}
	taskOverride struct {
		Containers []containerOverride `json:"containerOverrides,omitempty"`
	}
	containerOverride struct {
		Name        string     `json:"name"`
		Command     []string   `json:"command,omitempty"`
		Environment []variable `json:"environment,omitempty"`
	}
	capacityProvider struct {
		Name   string `json:"capacityProvider"`
		Weight int    `json:"weight"`
		Base   int    `json:"base"`
	}
	variable struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	tag struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	failure struct {
		ARN    string `json:"arn,omitempty"`
		Reason string `json:"reason"`
		Detail string `json:"detail,omitempty"`
	}
	runTaskOutput struct {
		Tasks    []wireTask `json:"tasks"`
		Failures []failure  `json:"failures"`
	}
	describeTasksInput struct {
		Cluster string   `json:"cluster"`
		Tasks   []string `json:"tasks"`
		Include []string `json:"include"`
	}
	stopTaskInput struct {
		Cluster string `json:"cluster"`
		Task    string `json:"task"`
		Reason  string `json:"reason"`
	}
	stopTaskOutput struct {
		Task wireTask `json:"task"`
	}
	listTasksInput struct {
		Cluster       string `json:"cluster"`
		StartedBy     string `json:"startedBy"`
		Family        string `json:"family"`
		DesiredStatus string `json:"desiredStatus"`
		MaxResults    *int   `json:"maxResults"`
		NextToken     string `json:"nextToken"`
	}
	listTasksOutput struct {
		ARNs      []string `json:"taskArns"`
		NextToken string   `json:"nextToken,omitempty"`
	}
	wireTask struct {
		ARN               string          `json:"taskArn"`
		ClusterARN        string          `json:"clusterArn"`
		TaskDefinitionARN string          `json:"taskDefinitionArn"`
		LastStatus        string          `json:"lastStatus"`
		DesiredStatus     string          `json:"desiredStatus"`
		StartedBy         string          `json:"startedBy,omitempty"`
		StopCode          string          `json:"stopCode,omitempty"`
		StoppedReason     string          `json:"stoppedReason,omitempty"`
		CreatedAt         float64         `json:"createdAt"`
		StartedAt         float64         `json:"startedAt,omitempty"`
		StoppedAt         float64         `json:"stoppedAt,omitempty"`
		Containers        []wireContainer `json:"containers"`
		Overrides         *taskOverride   `json:"overrides,omitempty"`
		Tags              []tag           `json:"tags,omitempty"`
	}
	wireContainer struct {
		Name       string `json:"name"`
		LastStatus string `json:"lastStatus"`
		ExitCode   *int   `json:"exitCode,omitempty"`
		Reason     string `json:"reason,omitempty"`
	}
)

const arnPrefix = "arn:aws:ecs:us-test-1:000000000000:"

func (s *Server) checkCluster(name string) *exception {
	if name == "" {
		name = "default"
	}
	if name != s.opt.Cluster && name != arnPrefix+"cluster/"+s.opt.Cluster {
		return &exception{Code: "ClusterNotFoundException", Message: "Cluster not found."}
	}
	return nil
}

func (s *Server) runTask(in runTaskInput) (runTaskOutput, *exception) {
	if e := s.checkRun(&in); e != nil {
		return runTaskOutput{}, e
	}
	raw, _ := json.Marshal(in) // plain data
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return runTaskOutput{}, &exception{Code: "ServerException", Message: "the service is going away", status: 500}
	}
	if known, ok := s.tokens[in.ClientToken]; ok && in.ClientToken != "" {
		if known.request != string(raw) {
			return runTaskOutput{}, &exception{Code: "ConflictException", Message: "The provided clientToken is already in use with a different RunTask request."}
		}
		return runTaskOutput{Tasks: s.wire(known.arns), Failures: []failure{}}, nil
	}
	var arns []string
	for range in.Count {
		id := make([]byte, 16)
		_, _ = rand.Read(id) // never fails
		t := newTask(arnPrefix+"task/"+s.opt.Cluster+"/"+hex.EncodeToString(id), in)
		s.tasks[t.arn] = t
		arns = append(arns, t.arn)
		s.served.Go(func() { s.live(t) })
	}
	if in.ClientToken != "" {
		s.tokens[in.ClientToken] = token{string(raw), arns}
	}
	return runTaskOutput{Tasks: s.wire(arns), Failures: []failure{}}, nil
}

// checkRun refuses what the service refuses, with its words where they are known.
func (s *Server) checkRun(in *runTaskInput) *exception {
	if e := s.checkCluster(in.Cluster); e != nil {
		return e
	}
	family, _, _ := strings.Cut(strings.TrimPrefix(in.TaskDefinition, arnPrefix+"task-definition/"), ":")
	switch {
	case in.TaskDefinition == "":
		return &exception{Code: "ClientException", Message: "TaskDefinition can not be blank."}
	case family != s.opt.TaskDefinition:
		return &exception{Code: "ClientException", Message: "TaskDefinition not found."}
	case len(in.ClientToken) > 64 || strings.ContainsFunc(in.ClientToken, func(r rune) bool { return r < 33 || r > 126 }):
		return invalid("Invalid clientToken: up to 64 characters in the range of 33-126.")
	case len(in.StartedBy) > 128 || strings.Trim(in.StartedBy, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_/") != "":
		return invalid("startedBy is too long or holds invalid characters.")
	case in.LaunchType != "" && !slices.Contains([]string{"EC2", "FARGATE", "EXTERNAL"}, in.LaunchType):
		return invalid("Invalid launch type.")
	case in.LaunchType != "" && len(in.CapacityProviders) > 0:
		return invalid("Specify either launchType or capacityProviderStrategy.")
	case in.PropagateTags != "" && in.PropagateTags != "TASK_DEFINITION" && in.PropagateTags != "NONE":
		return invalid("Invalid value for propagateTags.")
	case in.Count < 0 || in.Count > 10:
		return invalid("Count must be between 1 and 10.")
	}
	in.Count = max(in.Count, 1)
	if e := s.checkNetwork(in.NetworkConfiguration); e != nil {
		return e
	}
	return s.checkContents(in)
}

func (s *Server) checkNetwork(n *networkConfig) *exception {
	switch given := n != nil && n.AWSVPC != nil; {
	case s.opt.AWSVPC && !given:
		return invalid("Network Configuration must be provided when networkMode 'awsvpc' is specified.")
	case !s.opt.AWSVPC && given:
		return invalid("Network Configuration is not valid for the given networkMode of this task definition.")
	case !given:
		return nil
	}
	v := n.AWSVPC
	switch {
	case len(v.Subnets) == 0 || len(v.Subnets) > 16:
		return invalid("subnets can have between 1 and 16 items.")
	case len(v.SecurityGroups) > 5:
		return invalid("securityGroups can have at most 5 items.")
	case v.AssignPublicIP != "" && v.AssignPublicIP != "ENABLED" && v.AssignPublicIP != "DISABLED":
		return invalid("Invalid value for assignPublicIp.")
	}
	return nil
}

func (s *Server) checkContents(in *runTaskInput) *exception {
	if len(in.Tags) > 50 {
		return invalid("Too many tags: at most 50.")
	}
	seen := map[string]bool{}
	for _, t := range in.Tags {
		if n := utf8.RuneCountInString(t.Key); n == 0 || n > 128 || utf8.RuneCountInString(t.Value) > 256 || seen[t.Key] || strings.HasPrefix(strings.ToLower(t.Key), "aws:") {
			return invalid("Invalid tag %q.", t.Key)
		}
		seen[t.Key] = true
	}
	if in.Overrides == nil {
		return nil
	}
	if raw, _ := json.Marshal(in.Overrides); len(raw) > 8192 {
		return invalid("Container Overrides length must be at most 8192.")
	}
	for _, c := range in.Overrides.Containers {
		if !slices.Contains(s.opt.Containers, c.Name) {
			return invalid("Override for container named %s is not a container in the TaskDefinition.", c.Name)
		}
	}
	return nil
}

// maxTasks is how many tasks a page and DescribeTasks hold.
const maxTasks = 100

func (s *Server) describeTasks(in describeTasksInput) (runTaskOutput, *exception) {
	if e := s.checkCluster(in.Cluster); e != nil {
		return runTaskOutput{}, e
	}
	switch {
	case len(in.Tasks) == 0:
		return runTaskOutput{}, invalid("Tasks cannot be empty.")
	case len(in.Tasks) > maxTasks:
		return runTaskOutput{}, invalid("Tasks cannot have more than %d elements.", maxTasks)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := runTaskOutput{Tasks: []wireTask{}, Failures: []failure{}}
	for _, arn := range in.Tasks {
		t := s.find(arn)
		if t == nil {
			out.Failures = append(out.Failures, failure{ARN: arn, Reason: "MISSING"})
			continue
		}
		w := t.wire(s)
		if !slices.Contains(in.Include, "TAGS") {
			w.Tags = nil
		}
		out.Tasks = append(out.Tasks, w)
	}
	return out, nil
}

func (s *Server) stopTask(in stopTaskInput) (stopTaskOutput, *exception) {
	if e := s.checkCluster(in.Cluster); e != nil {
		return stopTaskOutput{}, e
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.find(in.Task)
	if t == nil {
		return stopTaskOutput{}, invalid("The referenced task was not found.")
	}
	reason := in.Reason
	if reason == "" {
		reason = "Task stopped by user"
	}
	t.stop("UserInitiated", reason)
	return stopTaskOutput{t.wire(s)}, nil
}

func (s *Server) listTasks(in listTasksInput) (listTasksOutput, *exception) {
	if e := s.checkCluster(in.Cluster); e != nil {
		return listTasksOutput{}, e
	}
	if in.StartedBy != "" && in.Family != "" {
		return listTasksOutput{}, invalid("startedBy must be the only filter.")
	}
	from, err := strconv.Atoi(in.NextToken)
	if in.NextToken != "" && err != nil {
		return listTasksOutput{}, invalid("Invalid nextToken.")
	}
	size := maxTasks
	if in.MaxResults != nil {
		size = min(max(*in.MaxResults, 1), maxTasks)
	}
	want := in.DesiredStatus
	if want == "" {
		want = "RUNNING"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	arns := []string{}
	for arn, t := range s.tasks {
		if !t.vanished && t.desired == want && (in.StartedBy == "" || t.startedBy == in.StartedBy) {
			arns = append(arns, arn)
		}
	}
	slices.Sort(arns)
	arns = arns[min(from, len(arns)):]
	if len(arns) > size {
		return listTasksOutput{arns[:size], strconv.Itoa(from + size)}, nil
	}
	return listTasksOutput{ARNs: arns}, nil
}

// find takes an ARN or the id that ends it; nil when there is no such task, or not any more. The caller holds mu.
func (s *Server) find(name string) *task {
	t := s.tasks[name]
	if t == nil {
		t = s.tasks[arnPrefix+"task/"+s.opt.Cluster+"/"+name]
	}
	if t == nil || t.vanished {
		return nil
	}
	return t
}

// wire are the tasks by their ARNs; the caller holds mu.
func (s *Server) wire(arns []string) []wireTask {
	out := []wireTask{}
	for _, arn := range arns {
		out = append(out, s.tasks[arn].wire(s))
	}
	return out
}

func epoch(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

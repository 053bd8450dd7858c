//go:build unix

package ecstest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/smithy-go"

	"vega/services/worker/ecstest"
)

func client(s *ecstest.Server) *ecs.Client {
	return ecs.NewFromConfig(aws.Config{
		Region: "us-test-1", BaseEndpoint: aws.String(s.URL()), RetryMaxAttempts: 1, Credentials: credentials.NewStaticCredentialsProvider("key", "secret", ""),
	})
}

// shell starts a server whose tasks run a shell script.
func shell(t *testing.T, script string, o ecstest.Options) (*ecstest.Server, *ecs.Client) {
	t.Helper()
	o.Command = []string{"/bin/sh", "-c", script, "sh"}
	s := ecstest.Run(t, o)
	return s, client(s)
}

func run(t *testing.T, c *ecs.Client, token string, env ...types.KeyValuePair) string {
	t.Helper()
	out, err := c.RunTask(t.Context(), request(token, env...))
	if err != nil || len(out.Tasks) != 1 {
		t.Fatalf("RunTask = %+v, %v", out, err)
	}
	return *out.Tasks[0].TaskArn
}

func request(token string, env ...types.KeyValuePair) *ecs.RunTaskInput {
	return &ecs.RunTaskInput{
		Cluster: aws.String("scans"), TaskDefinition: aws.String("vega-runner:3"), ClientToken: aws.String(token), StartedBy: aws.String("vega-test"),
		Tags:      []types.Tag{{Key: aws.String("vega:scan"), Value: aws.String("x")}},
		Overrides: &types.TaskOverride{ContainerOverrides: []types.ContainerOverride{{Name: aws.String("vega"), Command: []string{"argument"}, Environment: env}}},
	}
}

func until(t *testing.T, s *ecstest.Server, status string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := s.Wait(ctx, func(ts []ecstest.Task) bool { return len(ts) == 1 && ts[0].Status == status }); err != nil {
		t.Fatalf("waiting for %s: %+v", status, s.Tasks())
	}
}

// say is what a task writes, and when it has.
type say struct {
	mu   sync.Mutex
	text strings.Builder
	said chan struct{}
}

func newSay() *say { return &say{said: make(chan struct{}, 100)} }

func (s *say) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said <- struct{}{}
	return s.text.Write(p)
}

func (s *say) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func describe(t *testing.T, c *ecs.Client, arn string) types.Task {
	t.Helper()
	out, err := c.DescribeTasks(t.Context(), &ecs.DescribeTasksInput{Cluster: aws.String("scans"), Tasks: []string{arn}, Include: []types.TaskField{types.TaskFieldTags}})
	if err != nil || len(out.Tasks) != 1 {
		t.Fatalf("DescribeTasks = %+v, %v", out, err)
	}
	return out.Tasks[0]
}

func TestATaskIsAProcessWithTheOverrides(t *testing.T) {
	t.Parallel()
	out := newSay()
	s, c := shell(t, `echo "$1 $OURS $BASE"; exit 3`, ecstest.Options{Output: out, Env: []string{"BASE=base", "OURS=replaced"}})
	arn := run(t, c, "t", types.KeyValuePair{Name: aws.String("OURS"), Value: aws.String("override")})
	until(t, s, "STOPPED")
	if got, want := out.String(), "argument override base\n"; got != want {
		t.Errorf("the task wrote %q, want %q", got, want)
	}
	d := describe(t, c, arn)
	if *d.Containers[0].ExitCode != 3 || d.StopCode != types.TaskStopCodeEssentialContainerExited || *d.Tags[0].Key != "vega:scan" || d.StoppedAt.IsZero() {
		t.Errorf("described as %+v", d)
	}
}

func TestAStoppedTaskGetsSIGTERMAndThenSIGKILL(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		trap string
		exit int32
	}{"it listens": {"exit 7", 7}, "it does not": {"", 137}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := newSay()
			s, c := shell(t, `trap '`+tc.trap+`' TERM; echo ready; while :; do sleep 0.01; done`, ecstest.Options{Output: out, StopTimeout: 200 * time.Millisecond})
			arn := run(t, c, "t")
			<-out.said
			if _, err := c.StopTask(t.Context(), &ecs.StopTaskInput{Cluster: aws.String("scans"), Task: aws.String(arn), Reason: aws.String("why")}); err != nil {
				t.Fatal(err)
			}
			until(t, s, "STOPPED")
			if d := describe(t, c, arn); *d.Containers[0].ExitCode != tc.exit || d.StopCode != types.TaskStopCodeUserInitiated || *d.StoppedReason != "why" {
				t.Errorf("exit code %d, %s, %q", *d.Containers[0].ExitCode, d.StopCode, *d.StoppedReason)
			}
		})
	}
}

func TestAVanishedTaskIsMissingAndItsProcessesAreGone(t *testing.T) {
	t.Parallel()
	out := newSay()
	s, c := shell(t, `sleep 600 & echo $!; wait`, ecstest.Options{Output: out})
	arn := run(t, c, "t")
	<-out.said
	s.Vanish(arn)
	d, err := c.DescribeTasks(t.Context(), &ecs.DescribeTasksInput{Cluster: aws.String("scans"), Tasks: []string{arn}})
	if err != nil || len(d.Tasks) != 0 || *d.Failures[0].Reason != "MISSING" {
		t.Errorf("DescribeTasks = %+v, %v", d, err)
	}
	s.Close() // returns when all have gone
	var child int
	if _, err := fmt.Sscan(out.String(), &child); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = s.Wait(ctx, func([]ecstest.Task) bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		return err != nil || strings.Contains(string(stat), ") Z ") // an orphan may wait for somebody to reap it
	})
	if err != nil {
		t.Errorf("what the task started still runs as %d", child)
	}
}

func TestAClientTokenStartsOneTask(t *testing.T) {
	t.Parallel()
	s, c := shell(t, `exit 0`, ecstest.Options{})
	a, b := run(t, c, "t"), run(t, c, "t")
	if a != b || len(s.Tasks()) != 1 {
		t.Errorf("tasks %s and %s", a, b)
	}
	_, err := c.RunTask(t.Context(), request("t", types.KeyValuePair{Name: aws.String("X"), Value: aws.String("y")}))
	if e, ok := errors.AsType[*types.ConflictException](err); !ok {
		t.Errorf("the same token with another request = %v", e)
	}
}

func TestListTasksGivesPagesOfWhatRuns(t *testing.T) {
	t.Parallel()
	_, c := shell(t, `exit 0`, ecstest.Options{Step: time.Hour})
	for i := range 11 {
		in := request(fmt.Sprint(i))
		in.Count = aws.Int32(10)
		if _, err := c.RunTask(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	pages, n := 0, 0
	p := ecs.NewListTasksPaginator(c, &ecs.ListTasksInput{Cluster: aws.String("scans"), StartedBy: aws.String("vega-test")})
	var arns []string
	for p.HasMorePages() {
		page, err := p.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		arns, pages, n = page.TaskArns, pages+1, n+len(page.TaskArns)
	}
	if pages != 2 || n != 110 {
		t.Errorf("%d tasks on %d pages", n, pages)
	}
	if _, err := c.StopTask(t.Context(), &ecs.StopTaskInput{Cluster: aws.String("scans"), Task: aws.String(arns[0])}); err != nil {
		t.Fatal(err)
	}
	out, err := c.ListTasks(t.Context(), &ecs.ListTasksInput{Cluster: aws.String("scans"), DesiredStatus: types.DesiredStatusStopped})
	if err != nil || len(out.TaskArns) != 1 {
		t.Errorf("stopped tasks %v, %v", out, err)
	}
}

func TestWhatTheServiceRefuses(t *testing.T) {
	t.Parallel()
	s, c := shell(t, `exit 0`, ecstest.Options{})
	for name, tc := range map[string]struct {
		change func(*ecs.RunTaskInput)
		code   string
	}{
		"no cluster":        {func(in *ecs.RunTaskInput) { in.Cluster = nil }, "ClusterNotFoundException"},
		"no such family":    {func(in *ecs.RunTaskInput) { in.TaskDefinition = aws.String("x") }, "ClientException"},
		"unknown container": {func(in *ecs.RunTaskInput) { in.Overrides.ContainerOverrides[0].Name = aws.String("x") }, "InvalidParameterException"},
		"long client token": {func(in *ecs.RunTaskInput) { in.ClientToken = aws.String(strings.Repeat("x", 65)) }, "InvalidParameterException"},
		"startedBy":         {func(in *ecs.RunTaskInput) { in.StartedBy = aws.String("a b") }, "InvalidParameterException"},
		"count":             {func(in *ecs.RunTaskInput) { in.Count = aws.Int32(11) }, "InvalidParameterException"},
		"large overrides": {func(in *ecs.RunTaskInput) {
			in.Overrides.ContainerOverrides[0].Command = []string{strings.Repeat("x", 8192)}
		}, "InvalidParameterException"},
		"reserved tag": {func(in *ecs.RunTaskInput) { in.Tags[0].Key = aws.String("aws:x") }, "InvalidParameterException"},
		"network of another mode": {func(in *ecs.RunTaskInput) {
			in.NetworkConfiguration = &types.NetworkConfiguration{AwsvpcConfiguration: &types.AwsVpcConfiguration{Subnets: []string{"s"}}}
		}, "InvalidParameterException"},
	} {
		in := request("t")
		tc.change(in)
		_, err := c.RunTask(t.Context(), in)
		if e, ok := errors.AsType[smithy.APIError](err); !ok || e.ErrorCode() != tc.code {
			t.Errorf("%s: %v, want %s", name, err, tc.code)
		}
	}
	if _, err := c.DescribeTasks(t.Context(), &ecs.DescribeTasksInput{Cluster: aws.String("scans"), Tasks: make([]string, 101)}); err == nil {
		t.Error("101 tasks were described")
	}
	if _, err := c.StopTask(t.Context(), &ecs.StopTaskInput{Cluster: aws.String("scans"), Task: aws.String("x")}); err == nil {
		t.Error("an unknown task was stopped")
	}
	if got := len(s.Tasks()); got != 0 {
		t.Errorf("%d tasks were started", got)
	}
}

func TestInjectedFaultsReplaceAnswers(t *testing.T) {
	t.Parallel()
	s, c := shell(t, `exit 0`, ecstest.Options{})
	s.Inject("RunTask", ecstest.Fault{Reason: "RESOURCE:CPU", Detail: "d"}, ecstest.Fault{Code: "ServerException", Message: "m", Status: 500}, ecstest.Fault{Lost: true})
	out, err := c.RunTask(t.Context(), request("t"))
	if err != nil || len(out.Tasks) != 0 || *out.Failures[0].Reason != "RESOURCE:CPU" {
		t.Errorf("RunTask = %+v, %v", out, err)
	}
	_, err = c.RunTask(t.Context(), request("t"))
	if e, ok := errors.AsType[*types.ServerException](err); !ok {
		t.Errorf("RunTask = %v, %v", e, err)
	}
	if _, err := c.RunTask(t.Context(), request("t")); err == nil || len(s.Tasks()) != 1 {
		t.Errorf("a lost answer = %v with %d tasks", err, len(s.Tasks()))
	}
	if run(t, c, "t"); len(s.Tasks()) != 1 || s.Calls("RunTask") != 4 {
		t.Errorf("%d tasks after %d calls", len(s.Tasks()), s.Calls("RunTask"))
	}
}

// The SDK finds the server by its own variable, which is all that a deployment has to set.
func TestTheEndpointVariableIsEnough(t *testing.T) {
	s, err := ecstest.Start(ecstest.Options{Command: []string{"/bin/true"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL_ECS": s.URL(), "AWS_REGION": "us-test-1", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_CONFIG_FILE": "/nonexistent",
		"AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
	} {
		t.Setenv(name, value)
	}
	cfg, err := awsconfig.LoadDefaultConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	run(t, ecs.NewFromConfig(cfg), "t")
	if got := len(s.Tasks()); got != 1 {
		t.Errorf("%d tasks", got)
	}
}

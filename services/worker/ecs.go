package worker

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/smithy-go"

	"vega/events"
)

// The command and the environment of a task: what a one-scan runner is started with.
const (
	RunCommand       = "run-scan"
	EnvRunScan       = "VEGA_RUN_SCAN"
	EnvRunGeneration = "VEGA_RUN_GENERATION"
	EnvRunAttempt    = "VEGA_RUN_ATTEMPT"
	EnvRunToken      = "VEGA_RUN_TOKEN"
	EnvTrace         = "TRACEPARENT"
)

// Tags of a task, by which a launcher that knows nothing of it finds its scan.
const (
	tagScan       = "vega:scan"
	tagGeneration = "vega:generation"
	tagAttempt    = "vega:attempt"
	tagRegion     = "vega:region"
)

// cluster is the part of ECS that a launcher uses: tasks of one task definition in one cluster. The SDK signs, and retries throttling and faults a few
// times; what is left is classified here.
type cluster struct {
	api    *ecs.Client
	cfg    ECS
	region events.Region
}

// callTimeout bounds one call, the SDK's own retries included.
const callTimeout = 30 * time.Second

// maxDescribed is how many tasks DescribeTasks takes.
const maxDescribed = 100

// run starts the task of c and returns its ARN. The same claim always gives the same request with the same client token, so a second call after a
// lost answer finds the task of the first. Every error is a *launchError.
func (k *cluster) run(ctx context.Context, c Claimed) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out, err := k.api.RunTask(ctx, k.request(c))
	switch {
	case err != nil:
		return "", classify(err, c.Token)
	case len(out.Tasks) > 0:
		return aws.ToString(out.Tasks[0].TaskArn), nil
	case len(out.Failures) > 0:
		f := out.Failures[0]
		reason := tidy(aws.ToString(f.Reason), 100)
		return "", &launchError{kind: noRoom, reason: reason, text: explain(reason, aws.ToString(f.Detail))}
	}
	return "", &launchError{kind: noAnswer, reason: "RunTask answered with neither a task nor a failure"}
}

func (k *cluster) request(c Claimed) *ecs.RunTaskInput {
	generation, attempt := strconv.FormatUint(uint64(c.Scan.Generation), 10), strconv.Itoa(c.Scan.Attempt)
	env := []types.KeyValuePair{
		{Name: aws.String(EnvRunScan), Value: aws.String(string(c.ID))},
		{Name: aws.String(EnvRunGeneration), Value: aws.String(generation)},
		{Name: aws.String(EnvRunAttempt), Value: aws.String(attempt)},
		{Name: aws.String(EnvRunToken), Value: aws.String(c.Token)},
	}
	if c.Trace != "" {
		env = append(env, types.KeyValuePair{Name: aws.String(EnvTrace), Value: aws.String(c.Trace)})
	}
	in := &ecs.RunTaskInput{
		ClientToken:    aws.String(clientToken(c)),
		Cluster:        aws.String(k.cfg.Cluster),
		TaskDefinition: aws.String(k.cfg.TaskDefinition),
		Count:          aws.Int32(1),
		LaunchType:     types.LaunchType(k.cfg.LaunchType), // empty: the cluster's default capacity providers decide
		StartedBy:      aws.String(k.startedBy()),
		Overrides: &types.TaskOverride{ContainerOverrides: []types.ContainerOverride{{
			Name: aws.String(k.cfg.ContainerName), Command: []string{RunCommand}, Environment: env,
		}}},
		Tags: []types.Tag{
			{Key: aws.String(tagScan), Value: aws.String(string(c.ID))},
			{Key: aws.String(tagGeneration), Value: aws.String(generation)},
			{Key: aws.String(tagAttempt), Value: aws.String(attempt)},
			{Key: aws.String(tagRegion), Value: aws.String(string(k.region))},
		},
		EnableECSManagedTags: true,
		PropagateTags:        types.PropagateTagsTaskDefinition,
	}
	if len(k.cfg.Subnets) > 0 {
		public := types.AssignPublicIpDisabled
		if k.cfg.AssignPublicIP {
			public = types.AssignPublicIpEnabled
		}
		in.NetworkConfiguration = &types.NetworkConfiguration{AwsvpcConfiguration: &types.AwsVpcConfiguration{
			Subnets: k.cfg.Subnets, SecurityGroups: k.cfg.SecurityGroups, AssignPublicIp: public,
		}}
	}
	return in
}

// clientToken is one and the same for every try to start the task of a claim, and no other's.
func clientToken(c Claimed) string {
	sum := sha256.Sum256([]byte(string(c.ID) + "/" + strconv.FormatUint(uint64(c.Scan.Generation), 10)))
	return "vega-" + hex.EncodeToString(sum[:20])
}

// startedBy marks the region's tasks; the tags say more.
func (k *cluster) startedBy() string {
	s := "vega-" + string(k.region)
	return s[:min(len(s), 36)]
}

// taskState is what ECS says about a task.
type taskState struct {
	arn     string
	status  string // PROVISIONING, PENDING, …
	stopped bool   // nothing of it runs any more
	why     string // once stopped, in words
	clean   bool   // once stopped: every container ended with exit code 0
	// From the tags, when they were asked for and are ours.
	scan       events.ScanID
	generation events.Seq
	attempt    int
}

// describe asks about at most maxDescribed tasks; those that ECS does not know come back in missing.
func (k *cluster) describe(ctx context.Context, arns []string, tags bool) (found []taskState, missing []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	in := &ecs.DescribeTasksInput{Cluster: aws.String(k.cfg.Cluster), Tasks: arns}
	if tags {
		in.Include = []types.TaskField{types.TaskFieldTags}
	}
	out, err := k.api.DescribeTasks(ctx, in)
	if err != nil {
		return nil, nil, fmt.Errorf("describe tasks: %w", err)
	}
	for _, t := range out.Tasks {
		found = append(found, k.state(t))
	}
	for _, f := range out.Failures {
		if aws.ToString(f.Reason) == "MISSING" {
			missing = append(missing, aws.ToString(f.Arn))
		}
	}
	return found, missing, nil
}

func (k *cluster) state(t types.Task) taskState {
	s := taskState{arn: aws.ToString(t.TaskArn), status: aws.ToString(t.LastStatus)}
	// STOPPED is said when the network is taken down as well, which can take half a minute; the processes are gone before that.
	ended := func(c types.Container) bool { return aws.ToString(c.LastStatus) == "STOPPED" }
	s.stopped = s.status == "STOPPED" || len(t.Containers) > 0 && !slices.ContainsFunc(t.Containers, func(c types.Container) bool { return !ended(c) })
	if s.stopped {
		s.why, s.clean = stopReason(t)
	}
	tags := map[string]string{}
	for _, g := range t.Tags {
		tags[aws.ToString(g.Key)] = aws.ToString(g.Value)
	}
	generation, err := strconv.ParseUint(tags[tagGeneration], 10, 64)
	if err == nil && tags[tagRegion] == string(k.region) && events.CheckID("scan", tags[tagScan]) == nil {
		s.scan, s.generation = events.ScanID(tags[tagScan]), events.Seq(generation)
		s.attempt, _ = strconv.Atoi(tags[tagAttempt]) // 0 when it is not a number: for people only
	}
	return s
}

// maxStopReason bounds what an event says about a task's end, in bytes.
const maxStopReason = 500

// stopReason says in words why a task stopped, and whether its containers ended well.
func stopReason(t types.Task) (why string, clean bool) {
	var parts []string
	head := string(t.StopCode)
	if r := aws.ToString(t.StoppedReason); r != "" {
		head = strings.TrimPrefix(head+": "+r, ": ")
	}
	if head != "" {
		parts = append(parts, head)
	}
	clean = len(t.Containers) > 0
	for _, c := range t.Containers {
		said := "container " + aws.ToString(c.Name)
		switch {
		case c.ExitCode != nil:
			said += " exit code " + strconv.Itoa(int(*c.ExitCode))
			clean = clean && *c.ExitCode == 0
		default:
			said += " has no exit code"
			clean = false
		}
		if r := aws.ToString(c.Reason); r != "" {
			said += " (" + r + ")"
		}
		parts = append(parts, said)
	}
	return tidy(cmp.Or(strings.Join(parts, "; "), "no reason given"), maxStopReason), clean
}

// stop asks a task to end: SIGTERM, and SIGKILL when it has not gone in the container's stop timeout.
func (k *cluster) stop(ctx context.Context, arn, reason string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := k.api.StopTask(ctx, &ecs.StopTaskInput{Cluster: aws.String(k.cfg.Cluster), Task: aws.String(arn), Reason: aws.String(tidy(reason, 255))})
	if err != nil {
		return fmt.Errorf("stop task: %w", err)
	}
	return nil
}

// list returns the ARNs of the region's tasks that run or are about to. startedBy may be the only filter.
func (k *cluster) list(ctx context.Context) ([]string, error) {
	var arns []string
	pages := ecs.NewListTasksPaginator(k.api, &ecs.ListTasksInput{Cluster: aws.String(k.cfg.Cluster), StartedBy: aws.String(k.startedBy())})
	for pages.HasMorePages() {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		page, err := pages.NextPage(ctx)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("list tasks: %w", err)
		}
		arns = append(arns, page.TaskArns...)
	}
	return arns, nil
}

// launchKind is what a failed RunTask means for its scan.
type launchKind int

const (
	noAnswer launchKind = iota // whether a task was started is not known; trying again finds out
	noRoom                     // nothing was started; trying again later may help
	refused                    // nothing was started and nothing will be, whatever is tried
)

// launchError says why ECS did not start a task.
type launchError struct {
	kind   launchKind
	reason string // short: RESOURCE:MEMORY, ThrottlingException
	text   string // for people; may be empty
	err    error  // for the log of the process; may be nil
}

func (e *launchError) Error() string {
	if e.text == "" {
		return e.reason
	}
	return e.reason + ": " + e.text
}
func (e *launchError) Unwrap() error { return e.err }

// refusals are the errors that no repetition helps against: something is configured wrongly.
var refusals = []string{
	"InvalidParameterException", "ClientException", "ClusterNotFoundException", "AccessDeniedException", "AccessDenied", "UnsupportedFeatureException",
	"PlatformUnknownException", "PlatformTaskDefinitionIncompatibilityException", "BlockedException", "ConflictException", "ResourceNotFoundException",
	"ValidationException",
}

// limits are the errors that time helps against.
var limits = []string{"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded", "LimitExceededException", "ServiceQuotaExceededException"}

// scarcity are what messages of those errors say when they mean want of room after all: an autoscaled cluster without an instance, an account's limits.
var scarcity = []string{"capacity is unavailable", "no container instances were found", "reached the limit", "limit on the number", "rate exceeded", "throttl", "too many"}

// classify says what an error of RunTask means. The runner's token is in no text, whatever the other side repeats.
func classify(err error, token string) *launchError {
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return &launchError{kind: noAnswer, reason: "no answer from ECS", err: err}
	}
	e := &launchError{kind: noAnswer, reason: tidy(api.ErrorCode(), 100), err: err} // a fault may come after the task was made
	message := api.ErrorMessage()
	if token != "" {
		message = strings.ReplaceAll(message, token, "[token]")
	}
	e.text = tidy(message, 300)
	short := strings.ToLower(message)
	switch {
	case slices.ContainsFunc(scarcity, func(s string) bool { return strings.Contains(short, s) }), slices.Contains(limits, api.ErrorCode()):
		e.kind = noRoom
	case slices.Contains(refusals, api.ErrorCode()):
		e.kind = refused
	}
	return e
}

// explain says what a placement failure means, by its reason.
func explain(reason, detail string) string {
	text := ""
	switch key, _, _ := strings.Cut(reason, " "); {
	case strings.HasPrefix(key, "RESOURCE:CPU"):
		text = "no instance of the cluster has enough CPU units free"
	case strings.HasPrefix(key, "RESOURCE:MEMORY"):
		text = "no instance of the cluster has enough memory free"
	case strings.HasPrefix(key, "RESOURCE:PORTS"):
		text = "a port that the task needs is taken on every instance"
	case strings.HasPrefix(key, "RESOURCE:ENI"):
		text = "no instance has a network interface left; the awsvpc mode needs one for each task"
	case strings.HasPrefix(key, "RESOURCE:GPU"):
		text = "no instance has enough GPUs free"
	case strings.HasPrefix(key, "RESOURCE"):
		text = "no instance has enough of a resource free"
	case key == "AGENT":
		text = "the instance's ECS agent is not connected"
	case key == "ATTRIBUTE":
		text = "no instance has an attribute that the task definition requires"
	case key == "INACTIVE":
		text = "the instance is not active"
	case key == "LOCATION":
		text = "no instance is in a place that the task may run in"
	}
	return strings.TrimSuffix(strings.TrimPrefix(text+"; "+tidy(detail, 200), "; "), "; ")
}

// tidy makes one line of at most n bytes of what came from outside.
func tidy(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n-len("…")], "") + "…"
	}
	return strings.TrimSpace(s)
}

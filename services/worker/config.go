package worker

import "time"

// Config says how a worker runs the scans it has claimed.
type Config struct {
	// RunMode is where a claimed scan runs.
	RunMode RunMode `env:"VEGA_SCAN_WORKER_EXECUTION_MODE, default=local" oneof:"local ecs" doc:"How the worker runs scans: local runs them in the worker process, ecs starts one ECS task per scan."`

	// Slots is the number of scans that run at a time.
	Slots int `env:"VEGA_WORKER_SLOTS, default=2" min:"1" max:"1000" doc:"How many scans one worker runs at a time."`

	// MaxAttempts is how often a scan is tried before it is a dead letter; the first attempt counts.
	MaxAttempts int `env:"VEGA_SCAN_MAX_ATTEMPTS, default=3" min:"1" max:"100" doc:"How many attempts a scan gets, the first one included, before it fails and becomes a dead letter."`

	// ScanTimeout bounds one attempt.
	ScanTimeout time.Duration `env:"VEGA_SCAN_TIMEOUT_SECONDS, default=14400" unit:"seconds" min:"1" max:"604800" doc:"How long one attempt of a scan may run before it is stopped."`

	// DrainGrace is what running scans get at shutdown before they are released.
	DrainGrace time.Duration `env:"VEGA_WORKER_DRAIN_SECONDS, default=5" unit:"seconds" min:"0" max:"86400" doc:"How long running scans may go on when the process is asked to stop; what is not finished then is queued again without counting the attempt."`

	// ECS says how tasks are started; used in RunECS alone.
	ECS ECS
}

// ECS is what RunTask needs to start the runner of one scan.
type ECS struct {
	// Cluster is the cluster's name or ARN.
	Cluster string `env:"VEGA_ECS_CLUSTER" doc:"ECS cluster (name or ARN) that scan tasks run in. Required when VEGA_SCAN_WORKER_EXECUTION_MODE=ecs."`

	// TaskDefinition is the family, family:revision or ARN.
	TaskDefinition string `env:"VEGA_ECS_TASK_DEFINITION" doc:"ECS task definition (family, family:revision or ARN) of a scan task. Required when VEGA_SCAN_WORKER_EXECUTION_MODE=ecs."`

	// ContainerName is the container of the task definition that gets the scan in its environment.
	ContainerName string `env:"VEGA_ECS_CONTAINER_NAME" doc:"Container of the task definition that runs vega. Required when VEGA_SCAN_WORKER_EXECUTION_MODE=ecs."`

	// Subnets and SecurityGroups are the task's network (awsvpc mode).
	Subnets        []string `env:"VEGA_ECS_SUBNETS" doc:"Subnets of a scan task, by comma."`
	SecurityGroups []string `env:"VEGA_ECS_SECURITY_GROUPS" doc:"Security groups of a scan task, by comma."`

	// AssignPublicIP gives the task a public address: without one, a subnet needs another way to the image's registry.
	AssignPublicIP bool `env:"VEGA_ECS_ASSIGN_PUBLIC_IP, default=false" doc:"Give a scan task a public address; used with VEGA_ECS_SUBNETS."`

	// LaunchType is what RunTask asks for.
	LaunchType string `env:"VEGA_ECS_LAUNCH_TYPE" oneof:"EC2 FARGATE EXTERNAL" shown:"(the cluster's default)" doc:"Launch type of a scan task. Without it the cluster's default capacity providers decide."`
}

// RunMode is where a claimed scan runs.
type RunMode string

const (
	RunLocal RunMode = "local" // in the worker process
	RunECS   RunMode = "ecs"   // in an ECS task of its own
)

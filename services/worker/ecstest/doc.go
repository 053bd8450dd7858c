//go:build unix

// Package ecstest is an ECS that starts real processes: the part of its API that runs single tasks, over HTTP on loopback, for the real SDK client.
//
// A task is a process with the command and environment that [Options] and the overrides of RunTask give it, in a process group of its own. It goes through
// PROVISIONING, PENDING, RUNNING, STOPPING and STOPPED, keeps its exit code and why it stopped, gets SIGTERM and then SIGKILL when it is stopped,
// and can be interrupted or vanish. Requests are checked as the service checks them, and every answer can be replaced by a failure, an exception or
// silence. What the service does in seconds happens at once, unless [Options] say otherwise.
//
// Close kills what was started and nothing else.
package ecstest

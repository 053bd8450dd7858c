// Package codextest runs the agent's real program, Codex CLI, for tests: as a process of its own, in a home of its own, with a configuration that keeps it
// to one provider on loopback.
//
// The program comes from npm in the releases that scripts/test-deps.sh pins; a test that needs one which is not there fails with the command that
// installs it. At most four run at once in a test binary, each takes about 150 MB. What a process leaves behind is killed when its test ends: its group,
// and everything that still has its home folder in the environment, which is how commands that moved to another session are found.
package codextest

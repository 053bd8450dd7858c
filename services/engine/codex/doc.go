// Package codex runs the Codex CLI once, for one question about a source tree, and returns its answer or why there is none.
//
//	program, err := codex.New(codex.Options{Bin: "codex", …})
//	version, err := program.Check(ctx)            // is it there, and is it one that works?
//	result, err := program.Run(ctx, codex.Task{Prompt: …, Schema: …, Source: dir, …})
//
// # What Codex gets
//
// A folder of its own for the run ([Task.Dir]) is its CODEX_HOME: configuration (config.go), catalogue of models, output schema. It works in an empty folder inside
// it, never in the source: a Codex that starts in a repository takes the repository's .codex, skills and instruction files for its user's, and some
// releases start the programs that they name. Whatever lies in the source is thus a file to be read and nothing else. Its environment has nothing of this
// process's but the search path.
//
// The model is reached through a relay (relay.go) that lives as long as the run. Codex knows an address on loopback and a key that is good for this run alone; the token of
// the scan stays here. The relay counts requests, reads what they cost, waits for a proxy that restarts, and asks the caller before each request whether it may
// go on ([Task.Pace]): a run that is told to finish gets one last request, in which the model has no tools and is asked for its answer, so what was found is not lost.
//
// # In a container or plain
//
// [Options.Bin] is run in the same way whether it is codex itself or a script that runs it in a container. The script says so in its answer to --version (a second
// line), finds what it needs in variables that begin with VEGA_CODEX_ (run.go lists them), and takes --remove.
//
// # The end of a run
//
// When Run returns, nothing of the run is left: its process group, what moved out of that group, its container. It ends by itself, because ctx ended, or because it
// exceeded a limit: time, bytes of output, requests. If this process is killed, the relay's connections break, which ends a container at once; processes on this machine are
// found by their mark (package process), containers by their label ([Program.RemoveLeft]), at the next start.
package codex

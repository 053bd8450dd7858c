// Command vega-codex is the first program in the container that Codex audits a source in: its entry point, and the other end of
// scripts/codex-in-target-container.sh. It gives Codex what it needs, and sees to it that the container does not outlive whoever wants the result.
//
// The container has no network and no folder of the machine but /source, which is read-only. Two things lead out of it: the standard streams, and the unix socket
// of the engine's relay to the LLM proxy. So the program, in this order,
//
//  1. reads its standard input to the end: a line with the key, a tar of the files for Codex's home, the prompt. The files go to CODEX_HOME, which is memory;
//     the key is in nothing that can be seen from outside ([input]);
//  2. opens the lifeline, a request to the relay that is answered for as long as somebody wants this run ([openLifeline]);
//  3. listens on the port of 127.0.0.1 that Codex takes for the LLM proxy, and forwards every connection to the socket ([forwarder]);
//  4. runs Codex, and ends with its exit code ([supervise]).
//
// Its own end is the container's: then the kernel ends everything else in there, what the model has started in sessions of its own included.
//
// What is left when somebody dies: The worker, and its relay with it: the lifeline ends, so Codex is killed and the container goes (exit 143). The script, or docker's
// command: nothing, at first; the engine closes the lifeline of a run that it gave up. This program, which happens when memory runs out: the container ends
// with it, and the worker sees docker's exit code 137. Codex: its exit code is passed on. The Docker engine: the container may go on, with its lifeline, until
// Codex has finished. Docker's configuration says "--rm", so an ended container is removed by whoever of them is left.
//
// Called with --version it prints Codex's version and its own instead.
package main

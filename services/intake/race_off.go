//go:build !race

package intake

// memoryLimited says whether the child process limits its memory.
const memoryLimited = true

// childEnv is the child's environment: empty, and not nil, which would be ours.
func childEnv() []string { return []string{} }

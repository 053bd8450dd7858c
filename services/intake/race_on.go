//go:build race

package intake

// The race detector's shadow memory would count against the child's limit,
// several times over, so under it there is none. And the detector makes every
// process wait a second before it exits, unless it is told otherwise.
const memoryLimited = false

func childEnv() []string { return []string{"GORACE=atexit_sleep_ms=0"} }

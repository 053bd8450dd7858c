package eventstore_test

import (
	"os"
	"testing"

	"vega/events/eventstore/natstest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("EVENTSTORE_TEST_CHILD"); dir != "" {
		appendUntilKilled(dir, os.Getenv("EVENTSTORE_TEST_SYNC") == "always", os.Getenv("EVENTSTORE_TEST_ROUND"))
		return
	}
	natstest.Main(m)
}

package maintenance_test

import (
	"testing"

	"vega/events/eventstore/natstest"
)

func TestMain(m *testing.M) { natstest.Main(m) }

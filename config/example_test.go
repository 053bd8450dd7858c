package config_test

import (
	"fmt"

	"vega/config"
)

func ExampleLoad() {
	_, err := config.Load([]string{"VEGA_SCAN_EXECUTION_MODE=sqs", "VEGA_WORKER_SLOTS=none"}, "")
	fmt.Println(err)
	// Output:
	// the configuration has 2 problems:
	//   VEGA_SCAN_QUEUE_URL: not set, and VEGA_SCAN_EXECUTION_MODE=sqs requires it
	//   VEGA_WORKER_SLOTS="none": want a whole number from 1 to 1000
}

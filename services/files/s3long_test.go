//go:build long

package files_test

import "testing"

func TestTwoGigabytesGoThroughLittleMemory(t *testing.T) {
	streams(t, 2<<30)
}

//go:build !long

package eventstore_test

// How much chaos the quick suite has.
const (
	stepDowns  = 4
	killRounds = 4
	cuts       = 15
	histories  = 1
)

//go:build long

package eventstore_test

// How much chaos the long suite has.
const (
	stepDowns  = 100
	killRounds = 60
	cuts       = 500
	histories  = 40
)

//go:build !long

package postgres_test

const (
	kills  = 5 // of the server, under writes
	stride = 6 // between the writes of a rebuild that are broken
)

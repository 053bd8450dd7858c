//go:build long

package postgres_test

const (
	kills  = 50
	stride = 1
)

//go:build long

package postgres_test

const (
	kills    = 50
	stride   = 1
	rebuildN = 1_000_000
	listN    = 1_000_000
)

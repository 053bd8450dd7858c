//go:build !long

package postgres_test

const (
	kills    = 5       // of the server, under writes
	stride   = 6       // between the writes of a rebuild that are broken
	rebuildN = 20_000  // events of the rebuild's benchmark
	listN    = 100_000 // scans of the lists' benchmark
)

package jsonfile_test

import (
	"testing"

	"vega/projections"
	"vega/projections/jsonfile"
	"vega/projections/modeltest"
)

func open(t *testing.T, dir string) *jsonfile.Model {
	t.Helper()
	m, err := jsonfile.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestConformance(t *testing.T) {
	t.Parallel()
	modeltest.Run(t, func(t *testing.T) projections.Model { return open(t, t.TempDir()) })
}

package jsonfile_test

import (
	"os"
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

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Golden answers also after a restart: what is read back from JSON is what was put.
func TestReopenedModelsAnswerTheSame(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m, err := jsonfile.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	modeltest.Apply(t, m, modeltest.Story(t).Events, 9)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	modeltest.Golden(t, open(t, dir))
}

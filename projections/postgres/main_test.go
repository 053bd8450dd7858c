package postgres_test

import (
	"context"
	"os"
	"testing"

	"vega/config/secret"
	"vega/projections"
	"vega/projections/modeltest"
	"vega/projections/pgtest"
	"vega/projections/postgres"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m.Run)) }

// options are those of a model in the database that an address names.
func options(address string) postgres.Options {
	return postgres.Options{Config: projections.Config{DatabaseURL: secret.NewURL(address), Postgres: projections.Postgres{AutoMigrate: true, MaxConnections: 4}}}
}

// open opens the model in a database and closes it when the test ends.
func open(t testing.TB, o postgres.Options) *postgres.Model {
	t.Helper()
	m, err := postgres.Open(t.Context(), o)
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

// fresh opens an empty model in a database of its own.
func fresh(t testing.TB) *postgres.Model {
	t.Helper()
	return open(t, options(pgtest.Shared(t).Database(t)))
}

var background = context.Background()

func TestConformance(t *testing.T) {
	t.Parallel()
	modeltest.Run(t, func(t *testing.T) projections.Model { return fresh(t) })
}

// Golden answers also through another process's model: what is read back is what was put.
func TestReopenedModelsAnswerTheSame(t *testing.T) {
	t.Parallel()
	url := pgtest.Shared(t).Database(t)
	m := open(t, options(url))
	modeltest.Apply(t, m, modeltest.Story(t).Events, 9)
	modeltest.Golden(t, open(t, options(url)))
	modeltest.Golden(t, m)
}

package api

import (
	"flag"
	"os"
	"testing"
)

//go:generate go test . -run "^(TestOpenAPIIsCommitted|TestScopesOfRoutes)$" -update

var update = flag.Bool("update", false, "write docs/openapi.json and the scopes of routes")

// TestOpenAPIIsCommitted makes every change of the interface a diff that people read.
func TestOpenAPIIsCommitted(t *testing.T) {
	t.Parallel()
	const path = "../../docs/openapi.json"
	got, err := newWorld(t, options{}).api.OpenAPI()
	must(t, err)
	if *update {
		must(t, os.WriteFile(path, got, 0o644))
		return
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if string(got) != string(want) {
		t.Errorf("%s is not what the program serves: run go generate ./services/api and look at the diff", path)
	}
}

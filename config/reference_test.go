package config

import (
	"bufio"
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"
)

//go:generate go test . -run TestReference -update

var update = flag.Bool("update", false, "write docs/configuration.md")

// TestReference keeps docs/configuration.md what the tags say.
func TestReference(t *testing.T) {
	const path = "../docs/configuration.md"
	want := []byte(Reference())
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the settings say: run make gen and read the difference", path)
	}
}

// TestThePagesVariablesAndDefaultsHold compares with testdata/page.txt, every variable and default that users configure Vega
// by. A line there is never removed or changed.
func TestThePagesVariablesAndDefaultsHold(t *testing.T) {
	t.Parallel()
	f, err := os.Open("testdata/page.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	defaults := map[string]string{}
	for _, f := range fieldsOf(new(Config)) {
		defaults[f.name] = f.def()
	}
	shown := map[string]string{}
	c := mustLoad(t)
	for v := range c.Values() {
		shown[v.Name] = v.Text
	}
	lines := 0
	for s := bufio.NewScanner(f); s.Scan(); lines++ {
		name, want, ok := strings.Cut(s.Text(), "\t")
		if !ok {
			t.Fatalf("testdata/page.txt line %d: %q", lines+1, s.Text())
		}
		got, ok := defaults[name]
		if !ok {
			t.Errorf("%s is not a setting", name)
			continue
		}
		if got != want {
			t.Errorf("%s: default %s, want %s", name, got, want)
		}
		if !strings.HasPrefix(want, "(") && shown[name] != want {
			t.Errorf("%s: in force %s, want %s", name, shown[name], want)
		}
	}
	if lines != 36 {
		t.Errorf("testdata/page.txt has %d lines, want 36", lines)
	}
}

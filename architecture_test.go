// Package vega_test holds the project's shape to what ARCHITECTURE.md says of it.
package vega_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
)

//go:generate go test . -run TestTheLinterKnowsTheFloors -update

var update = flag.Bool("update", false, "write the floors into .golangci.yml")

const module = "vega"

// floor is one row of the table in ARCHITECTURE.md.
type floor struct {
	number int
	folder string
	stdlib bool // imports no module but this one
}

// readFloors parses the table.
func readFloors(t *testing.T) []floor {
	t.Helper()
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, begun := strings.Cut(string(text), "<!-- floors:begin -->\n")
	table, _, ended := strings.Cut(table, "<!-- floors:end -->")
	if !begun || !ended {
		t.Fatal("ARCHITECTURE.md has no table between floors:begin and floors:end")
	}
	var floors []floor
	for i, line := range strings.Split(strings.TrimSpace(table), "\n") {
		if i < 2 { // the heading
			continue
		}
		cells := strings.Split(line, "|")
		if len(cells) != 6 {
			t.Fatalf("ARCHITECTURE.md: the floors' row %q has not four cells", line)
		}
		number, err := strconv.Atoi(strings.TrimSpace(cells[1]))
		folder := strings.Trim(cells[2], " `")
		modules := strings.TrimSpace(cells[3])
		if err != nil || folder == "" || modules != "any" && modules != "none" {
			t.Fatalf("ARCHITECTURE.md: the floors' row %q is not: number, folder, any or none, text", line)
		}
		floors = append(floors, floor{number: number, folder: folder, stdlib: modules == "none"})
	}
	return floors
}

// floorOf finds the row of a package of this module: the one with the longest folder that contains it.
func floorOf(floors []floor, path string) (floor, bool) {
	var best floor
	for _, f := range floors {
		folder := module + "/" + f.folder
		if (path == folder || strings.HasPrefix(path, folder+"/")) && len(f.folder) > len(best.folder) {
			best = f
		}
	}
	return best, best.folder != ""
}

// listed is what go list says of a package.
type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func goList(t *testing.T) []listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		packages = append(packages, p)
	}
}

func TestImportsGoDownOnly(t *testing.T) {
	t.Parallel()
	floors := readFloors(t)
	for _, p := range goList(t) {
		if p.ImportPath == module {
			continue // this test
		}
		from, ok := floorOf(floors, p.ImportPath)
		if !ok {
			t.Errorf("%s stands on no floor: give it a row in ARCHITECTURE.md", p.ImportPath)
			continue
		}
		for _, path := range p.Imports {
			for _, complaint := range judge(floors, from, path, false) {
				t.Errorf("%s (floor %d) imports %s: %s", p.ImportPath, from.number, path, complaint)
			}
		}
		for _, path := range slices.Concat(p.TestImports, p.XTestImports) {
			for _, complaint := range judge(floors, from, path, true) {
				t.Errorf("the tests of %s (floor %d) import %s: %s", p.ImportPath, from.number, path, complaint)
			}
		}
	}
}

// judge says what is wrong with an import from a floor, in a test or outside.
func judge(floors []floor, from floor, path string, inTest bool) []string {
	if path != module && !strings.HasPrefix(path, module+"/") {
		host, _, _ := strings.Cut(path, "/")
		if from.stdlib && !inTest && strings.Contains(host, ".") {
			return []string{"this floor uses the standard library alone"}
		}
		return nil
	}
	to, ok := floorOf(floors, path)
	switch {
	case !ok:
		return []string{"it stands on no floor"}
	case to.folder == from.folder || to.number < from.number || inTest && to.number == from.number:
		return nil
	case to.number == from.number:
		return []string{"it stands on the same floor"}
	default:
		return []string{fmt.Sprintf("it stands on floor %d", to.number)}
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	floors := []floor{{number: 2, folder: "config"}, {number: 1, folder: "a"}, {number: 1, folder: "b"}, {number: 0, folder: "config/secret", stdlib: true}}
	for _, tc := range []struct {
		from, to string
		inTest   bool
		fine     bool
	}{
		{"a", "vega/config/secret", false, true},
		{"a", "vega/config", false, false},
		{"a", "vega/config", true, false},
		{"a", "vega/a/deep", false, true},
		{"a", "vega/b", false, false},
		{"a", "vega/b/deep", true, true},
		{"a", "vega/elsewhere", false, false},
		{"a", "example.com/x", false, true},
		{"config/secret", "example.com/x", false, false},
		{"config/secret", "example.com/x", true, true},
		{"config/secret", "net/url", false, true},
		{"config", "vega/config/secret", false, true},
	} {
		from, _ := floorOf(floors, module+"/"+tc.from)
		if got := judge(floors, from, tc.to, tc.inTest); (got == nil) != tc.fine {
			t.Errorf("%s imports %s (in a test: %v): %q, want fine = %v", tc.from, tc.to, tc.inTest, got, tc.fine)
		}
	}
}

// TestTheLinterKnowsTheFloors keeps depguard's rules in .golangci.yml what the table says.
func TestTheLinterKnowsTheFloors(t *testing.T) {
	const path, begin, end = ".golangci.yml", "        # floors:begin\n", "        # floors:end\n"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, begun := strings.Cut(string(text), begin)
	_, tail, ended := strings.Cut(rest, end)
	if !begun || !ended {
		t.Fatalf("%s has no lines floors:begin and floors:end", path)
	}
	want := head + begin + depguard(readFloors(t)) + end + tail
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(text) != want {
		t.Errorf("%s does not hold ARCHITECTURE.md's floors: run make gen", path)
	}
}

// depguard writes one rule per folder that may not import everything.
func depguard(floors []floor) string {
	var b strings.Builder
	for _, f := range floors {
		var denied []floor
		for _, other := range floors {
			if other.number >= f.number && other.folder != f.folder {
				denied = append(denied, other)
			}
		}
		if len(denied) == 0 {
			continue
		}
		fmt.Fprintf(&b, "        %s:\n          files: [\"!$test\", \"**/%s/*.go\"", strings.ReplaceAll(f.folder, "/", "-"), f.folder)
		for _, inner := range innerFolders(floors, f) {
			fmt.Fprintf(&b, ", %q", inner)
		}
		b.WriteString("]\n          deny:\n")
		for _, d := range denied {
			pkg := module + "/" + d.folder // a prefix, so subfolders are meant too
			if hasRowsBelow(floors, d) {
				pkg += "$" // exactly this one
			}
			fmt.Fprintf(&b, "            - {pkg: %q, desc: \"floor %d is not below floor %d\"}\n", pkg, d.number, f.number)
		}
	}
	return b.String()
}

// innerFolders are the globs of a folder's subfolders, left out where a subfolder has a row of its own.
func innerFolders(floors []floor, f floor) []string {
	if hasRowsBelow(floors, f) {
		return nil
	}
	return []string{"**/" + f.folder + "/**/*.go"}
}

func hasRowsBelow(floors []floor, f floor) bool {
	return slices.ContainsFunc(floors, func(other floor) bool { return strings.HasPrefix(other.folder, f.folder+"/") })
}

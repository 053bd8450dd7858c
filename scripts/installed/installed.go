// Package installed finds and runs, for tests, what scripts/test-deps.sh has installed below .tools.
package installed

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Tool is the path of a program or folder below .tools; the error says how to install it.
func Tool(name ...string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(append([]string{root, ".tools"}, name...)...)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not installed, run scripts/test-deps.sh test: %w", name[len(name)-1], err)
	}
	return path, nil
}

// Root is the project's: the folder of go.mod, above the one that the test runs in.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if b, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && strings.HasPrefix(string(b), "module vega\n") {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("no go.mod above the test's folder")
		}
		dir = up
	}
}

// Node is a server that a script of ours runs on loopback with the package of npm that it is made of. The script is given the package's folder, prints the
// server's port, obeys "down" and "up" by answering with the same word, and ends with its standard input. It is safe for concurrent use.
type Node struct {
	URL string // http://127.0.0.1:port

	name string
	mu   sync.Mutex // held over a command and its answer
	in   io.WriteCloser
	out  *bufio.Scanner
}

// StartNode starts a server that ends with the test, and with the test's process if that is killed. script is a path from the project's root.
func StartNode(tb testing.TB, pkg, script string) *Node {
	tb.Helper()
	folder, err := Tool("npm", "node_modules", pkg)
	if err != nil {
		tb.Fatal(err)
	}
	root, err := Root()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command("node", "--no-deprecation", filepath.Join(root, filepath.FromSlash(script)), folder)
	cmd.Dir, cmd.Stderr = tb.TempDir(), os.Stderr
	cmd.Env = append(cmd.Environ(), "AWS_SDK_JS_SUPPRESS_MAINTENANCE_MODE_MESSAGE=1")
	n := &Node{name: pkg}
	if n.in, err = cmd.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start %s: %v", pkg, err)
	}
	tb.Cleanup(func() {
		_ = n.in.Close() // ends it
		_ = cmd.Wait()
	})
	n.out = bufio.NewScanner(out)
	if !n.out.Scan() {
		tb.Fatalf("%s did not start: %v", pkg, n.out.Err())
	}
	port, err := strconv.Atoi(n.out.Text())
	if err != nil {
		tb.Fatalf("%s said %q instead of its port", pkg, n.out.Text())
	}
	n.URL = fmt.Sprintf("http://127.0.0.1:%d", port)
	return n
}

// Stop closes the port and every connection; the server keeps what it has.
func (n *Node) Stop(tb testing.TB) { n.tell(tb, "down") }

// Restart opens the same port again.
func (n *Node) Restart(tb testing.TB) { n.tell(tb, "up") }

func (n *Node) tell(tb testing.TB, command string) {
	tb.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, err := io.WriteString(n.in, command+"\n"); err != nil {
		tb.Fatalf("tell %s %q: %v", n.name, command, err)
	}
	if !n.out.Scan() || n.out.Text() != command {
		tb.Fatalf("%s answered %q to %q", n.name, n.out.Text(), command)
	}
}

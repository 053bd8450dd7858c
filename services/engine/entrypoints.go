package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// entryPoint is where execution or a request comes into the application.
type entryPoint struct {
	Path string `json:"path"`
	Line int    `json:"line"`
	// Kind is program (a process starts here), server (it listens), container, or command (a package's named command).
	Kind   string `json:"kind"`
	Detail string `json:"detail,omitempty"`
}

const (
	kindProgram   = "program"
	kindServer    = "server"
	kindContainer = "container"
	kindCommand   = "command"

	maxEntryPerFile = 20
)

// hint is a line that makes a file an entry point. Patterns match whole lines outside of line comments, so that text about code
// is not taken for code; they are few, because a wrong entry point costs more than a missing one.
type hint struct {
	language string // as go-enry names it
	kind     string
	pattern  *regexp.Regexp
}

var hints = []hint{
	{"Go", kindProgram, regexp.MustCompile(`(?m)^func main\(\)`)},
	{"Go", kindServer, regexp.MustCompile(`(?m)^[^/"\x60\n]*\b(?:http\.ListenAndServe(?:TLS)?|http\.Serve|grpc\.NewServer)\(`)},
	{"Python", kindProgram, regexp.MustCompile(`(?m)^if __name__ == ["']__main__["']`)},
	{"Python", kindServer, regexp.MustCompile(`(?m)^\w+\s*=\s*(?:flask\.)?(?:Flask|FastAPI|Starlette|Sanic)\(`)},
	{"JavaScript", kindServer, regexp.MustCompile(`(?m)^\s*(?:\w+\s*=\s*)?(?:const \w+ = )?(?:app|server|http|httpServer)\.listen\(`)},
	{"TypeScript", kindServer, regexp.MustCompile(`(?m)^\s*(?:await )?(?:app|server|http|httpServer)\.listen\(`)},
	{"Java", kindProgram, regexp.MustCompile(`(?m)^\s*public static void main\(\s*(?:final )?String`)},
	{"Java", kindServer, regexp.MustCompile(`(?m)^\s*@(?:RestController|Controller|WebServlet)\b`)},
	{"Kotlin", kindProgram, regexp.MustCompile(`(?m)^(?:suspend )?fun main\(`)},
	{"Scala", kindProgram, regexp.MustCompile(`(?m)^\s*def main\(\s*args`)},
	{"C#", kindProgram, regexp.MustCompile(`(?m)^\s*(?:(?:public|private|internal) )?static (?:async )?(?:void|int|Task(?:<int>)?) Main\(`)},
	{"C#", kindServer, regexp.MustCompile(`(?m)^\s*var \w+ = WebApplication\.CreateBuilder\(`)},
	{"Rust", kindProgram, regexp.MustCompile(`(?m)^(?:pub )?(?:async )?fn main\(\)`)},
	{"C", kindProgram, regexp.MustCompile(`(?m)^(?:int|void)\s+main\s*\(`)},
	{"C++", kindProgram, regexp.MustCompile(`(?m)^(?:int|void|auto)\s+main\s*\(`)},
	{"Swift", kindProgram, regexp.MustCompile(`(?m)^@main\b`)},
	{"Dart", kindProgram, regexp.MustCompile(`(?m)^(?:void |Future<void> )?main\(`)},
	{"Elixir", kindServer, regexp.MustCompile(`(?m)^\s*use Phoenix\.Endpoint\b`)},
}

var (
	goMainPackage = regexp.MustCompile(`(?m)^package main\b`)
	dockerStart   = regexp.MustCompile(`(?mi)^\s*(?:ENTRYPOINT|CMD)\s.*$`)
	pythonScripts = regexp.MustCompile(`(?m)^\[(?:project|tool\.poetry)\.scripts\]\s*$`)
	pythonScript  = regexp.MustCompile(`^([\w.-]+)\s*=\s*["']([^"'\n]*)["']`)
)

// entryPointsOf finds the entry points of one text file that is neither vendored nor generated. Tests and examples
// start no application.
func entryPointsOf(p, lang string, head []byte) []entryPoint {
	if isExample(p) {
		return nil
	}
	var out []entryPoint
	at := func(off int, kind, detail string) {
		if len(out) < maxEntryPerFile {
			out = append(out, entryPoint{p, lineOf(head, off), kind, cleanText(detail)})
		}
	}
	switch base := path.Base(p); {
	case base == "package.json":
		return packageCommands(p, head)
	case isDockerfile(p):
		// The last one counts: earlier ones belong to other build stages or are overridden.
		all := dockerStart.FindAllIndex(head, -1)
		if len(all) == 0 {
			at(0, kindContainer, "")
			return out
		}
		last := all[len(all)-1]
		line := head[last[0]:last[1]]
		skipped := len(line) - len(bytes.TrimSpace(line))
		at(last[0]+max(0, min(skipped, len(line)-1)), kindContainer, string(bytes.TrimSpace(line)))
		return out
	case base == "pyproject.toml":
		if table := pythonScripts.FindIndex(head); table != nil {
			off := table[1]
			for line := range bytes.Lines(head[off:]) {
				if bytes.HasPrefix(bytes.TrimSpace(line), []byte("[")) {
					break
				}
				if m := pythonScript.FindSubmatch(line); m != nil {
					at(off, kindCommand, fmt.Sprintf("%s = %s", m[1], m[2]))
				}
				off += len(line)
			}
		}
		return out
	case base == "manage.py" || base == "config.ru" || base == "wsgi.py" || base == "asgi.py":
		at(0, kindProgram, base)
		return out
	}
	if lang == "Go" && !goMainPackage.Match(head) {
		lang = "Go library"
	}
	for _, h := range hints {
		if h.language != lang && !(lang == "Go library" && h.language == "Go" && h.kind == kindServer) {
			continue
		}
		if m := h.pattern.FindIndex(head); m != nil {
			line := head[m[0]:m[1]]
			blank := len(line) - len(bytes.TrimLeft(line, " \t\r\n"))
			at(m[0]+blank, h.kind, strings.TrimSpace(string(line)))
		}
	}
	return out
}

// packageCommands are the entry points that a package.json names.
func packageCommands(p string, head []byte) []entryPoint {
	var pkg struct {
		Main    string            `json:"main"`
		Bin     any               `json:"bin"`
		Name    string            `json:"name"`
		Scripts map[string]string `json:"scripts"`
	}
	if json.Unmarshal(head, &pkg) != nil {
		return nil
	}
	commands := make(map[string]string)
	switch bin := pkg.Bin.(type) {
	case string:
		commands[pkg.Name] = bin
	case map[string]any:
		for name, target := range bin {
			if s, ok := target.(string); ok {
				commands[name] = s
			}
		}
	}
	if s := pkg.Scripts["start"]; s != "" {
		commands["start"] = s
	}
	if pkg.Main != "" {
		commands["main"] = pkg.Main
	}
	var out []entryPoint
	for name, target := range commands {
		kind := kindCommand
		if name == "start" || name == "main" {
			kind = kindProgram
		}
		line := 1
		if quoted, err := json.Marshal(target); err == nil {
			if i := bytes.Index(head, quoted); i >= 0 {
				line = lineOf(head, i)
			}
		}
		out = append(out, entryPoint{p, line, kind, cleanText(name + " = " + target)})
	}
	slices.SortFunc(out, func(a, b entryPoint) int { return strings.Compare(a.Detail, b.Detail) })
	return out[:min(len(out), maxEntryPerFile)]
}

// isDockerfile knows Dockerfile, Dockerfile.dev, api.Dockerfile and their Containerfile twins.
func isDockerfile(p string) bool {
	base := strings.ToLower(path.Base(p))
	for _, name := range []string{"dockerfile", "containerfile"} {
		if base == name || strings.HasPrefix(base, name+".") || strings.HasSuffix(base, "."+name) {
			return true
		}
	}
	return false
}

// lineOf is the number, from 1, of the line that holds the byte at off.
func lineOf(content []byte, off int) int { return bytes.Count(content[:off], []byte("\n")) + 1 }

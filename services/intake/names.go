package intake

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// cleanName turns the name of an archive entry into the path that the snapshot
// gives it: relative, slash-separated, without "." and empty components, valid
// UTF-8. Names that lead out of the tree, on Linux or when somebody takes
// backslashes for separators, are refused. The path is "" for the root itself
// ("./" in a tar). The flags say what to warn about.
func cleanName(name string, backslashes bool) (path string, flags nameFlags, err error) {
	if name == "" {
		return "", 0, refuse(CodeBadName, name, "an entry has an empty name")
	}
	if len(name) > maxPathBytes {
		return "", 0, overLimit(CodeNameTooLong, name, "path_bytes", maxPathBytes, int64(len(name)), "bytes in one path")
	}
	if strings.Contains(name, `\`) {
		if err := checkEscape(strings.ReplaceAll(name, `\`, "/"), name); err != nil {
			return "", 0, err
		}
		if backslashes {
			name = strings.ReplaceAll(name, `\`, "/")
			flags |= flagBackslash
		}
	}
	if err := checkEscape(name, name); err != nil {
		return "", 0, err
	}
	if !utf8.ValidString(name) {
		name = escapeInvalid(name)
		flags |= flagNotUTF8
	}

	depth, clean := 0, true
	for component := range strings.SplitSeq(name, "/") {
		if component == "" || component == "." {
			clean = false
			continue
		}
		depth++
		if len(component) > maxComponentBytes {
			return "", 0, overLimit(CodeNameTooLong, name, "name_bytes", maxComponentBytes, int64(len(component)), "bytes in one name")
		}
		more, err := classify(component, name)
		if err != nil {
			return "", 0, err
		}
		flags |= more
	}
	if depth > maxDepth {
		return "", 0, overLimit(CodeTooDeep, name, "path_depth", maxDepth, int64(depth), "folders in one path")
	}
	if clean {
		return name, flags, nil
	}
	kept := make([]string, 0, depth)
	for component := range strings.SplitSeq(name, "/") {
		if component != "" && component != "." {
			kept = append(kept, component)
		}
	}
	return strings.Join(kept, "/"), flags, nil
}

// nameFlags says what is remarkable about a path.
type nameFlags uint8

const (
	flagBackslash nameFlags = 1 << iota
	flagNotUTF8
	flagWindows
	flagBidi
	flagGit   // lies in, or is, a .git
	flagAgent // lies in, or is, configuration of a coding agent
)

// checkEscape refuses absolute names and names with "..".
func checkEscape(name, shown string) error {
	if name[0] == '/' {
		return refuse(CodePathEscape, shown, "an entry has an absolute path")
	}
	if len(name) >= 3 && name[1] == ':' && name[2] == '/' && isLetter(name[0]) {
		return refuse(CodePathEscape, shown, "an entry has an absolute path with a drive letter")
	}
	if !strings.Contains(name, "..") {
		return nil
	}
	for component := range strings.SplitSeq(name, "/") {
		if component == ".." {
			return refuse(CodePathEscape, shown, `an entry's path has ".." in it`)
		}
	}
	return nil
}

// classify looks at one component of a path, valid UTF-8 and not empty.
func classify(component, name string) (nameFlags, error) {
	var flags nameFlags
	ascii := true
	for i := range len(component) {
		switch c := component[i]; {
		case c < 0x20 || c == 0x7f:
			return 0, refuse(CodeBadName, name, "an entry's name has a control character in it")
		case c >= utf8.RuneSelf:
			ascii = false
		case strings.IndexByte(`<>:"|?*\`, c) >= 0:
			flags |= flagWindows
		}
	}
	if !ascii {
		for _, r := range component {
			if unicode.IsControl(r) {
				return 0, refuse(CodeBadName, name, "an entry's name has a control character in it")
			}
			if unicode.Is(unicode.Bidi_Control, r) || r == '\u200b' || r == '\ufeff' {
				flags |= flagBidi
			}
		}
	}
	if last := component[len(component)-1]; last == '.' || last == ' ' {
		flags |= flagWindows
	}
	lower := strings.ToLower(component)
	if windowsDevice(lower) {
		flags |= flagWindows
	}
	if lower == ".git" {
		flags |= flagGit
	}
	if agentConfig[lower] {
		flags |= flagAgent
	}
	return flags, nil
}

// windowsDevice reports whether Windows takes the name for a device, whatever
// its extension.
func windowsDevice(lower string) bool {
	stem, _, _ := strings.Cut(lower, ".")
	switch stem = strings.TrimRight(stem, " "); stem {
	case "con", "prn", "aux", "nul", "conin$", "conout$":
		return true
	}
	return len(stem) == 4 && (stem[:3] == "com" || stem[:3] == "lpt") && '1' <= stem[3] && stem[3] <= '9'
}

// agentConfig lists, in lower case, the file and folder names from which coding
// agents take instructions.
var agentConfig = map[string]bool{
	"agents.md": true, "agents.override.md": true, ".codex": true,
	"claude.md": true, "claude.local.md": true, ".claude": true,
	"gemini.md": true, ".gemini": true,
	".cursor": true, ".cursorrules": true, ".windsurf": true, ".windsurfrules": true,
	".clinerules": true, ".roo": true, ".aider.conf.yml": true, ".mcp.json": true,
	"copilot-instructions.md": true,
}

// fold maps paths that a file system without case or with another Unicode form
// takes for one to the same string.
func fold(path string) string {
	for i := range len(path) {
		if path[i] >= utf8.RuneSelf {
			return strings.ToLower(strings.ToUpper(norm.NFC.String(path)))
		}
	}
	return strings.ToLower(path)
}

// escapeInvalid writes each byte that is not UTF-8 as %XX.
func escapeInvalid(name string) string {
	var b strings.Builder
	for i, r := range name {
		if r == utf8.RuneError && !strings.HasPrefix(name[i:], "\uFFFD") {
			fmt.Fprintf(&b, "%%%02X", name[i])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// linkLeaves reports whether a symbolic link at path with that target leads out
// of the tree.
func linkLeaves(path, target string) bool {
	target = strings.ReplaceAll(target, `\`, "/")
	if target == "" || target[0] == '/' || len(target) >= 2 && target[1] == ':' && isLetter(target[0]) {
		return true
	}
	depth := strings.Count(path, "/")
	for component := range strings.SplitSeq(target, "/") {
		switch component {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}

func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

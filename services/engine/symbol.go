package engine

import (
	"path"
	"regexp"
	"strings"
)

// definition is how a language begins what has a name: functions, methods, types. The name is the first group that matched.
type definition struct {
	suffixes []string
	pattern  *regexp.Regexp
	byIndent bool // what is inside is indented deeper; else a definition holds until the next one
}

var definitions = []definition{
	{[]string{".go"}, regexp.MustCompile(`^func\s+(?:\([^)]*?\*?(\w+)(?:\[[^\]]*\])?\)\s*)?(\w+)|^type\s+(\w+)`), false},
	{[]string{".py", ".pyi"}, regexp.MustCompile(`^\s*(?:async\s+)?(?:def|class)\s+(\w+)`), true},
	{[]string{".rb"}, regexp.MustCompile(`^\s*(?:def\s+((?:self\.)?[\w?!=]+)|class\s+([\w:]+)|module\s+([\w:]+))`), true},
	{[]string{".rs"}, regexp.MustCompile(`^\s*(?:pub(?:\([^)]*\))?\s+)?(?:async\s+|const\s+|unsafe\s+|extern\s+"[^"]*"\s+)*(?:fn|struct|enum|trait|mod|impl(?:<[^>]*>)?)\s+(\w+)`), true},
	{[]string{".js", ".jsx", ".mjs", ".cjs", ".ts", ".tsx", ".mts", ".vue", ".svelte"}, regexp.MustCompile(
		`^\s*(?:export\s+)?(?:default\s+)?(?:async\s+)?function\s*\*?\s*(\w+)` +
			`|^\s*(?:export\s+)?(?:default\s+)?(?:abstract\s+)?class\s+(\w+)` +
			`|^\s*(?:export\s+)?(?:const|let|var)\s+(\w+)\s*=\s*(?:async\s*)?(?:function\b|\([^)]*\)\s*(?::[^=]+)?=>|\w+\s*=>)` +
			`|^\s*(?:module\.)?exports\.(\w+)\s*=\s*(?:async\s*)?(?:function\b|\()` +
			`|^\s*((?:app|router|server|api)\.(?:get|post|put|patch|delete|use|all)\(\s*['"\x60][^'"\x60]*['"\x60])` +
			`|^\s+(?:public\s+|private\s+|protected\s+|static\s+|async\s+|get\s+|set\s+|#)*(\w+)\s*\([^;]*\)\s*(?::[^{]+)?\{\s*$`), true},
	{[]string{".java", ".kt", ".kts", ".cs", ".scala", ".groovy", ".swift", ".dart"}, regexp.MustCompile(
		`^\s*(?:@\w+(?:\([^)]*\))?\s+)*(?:(?:public|private|protected|internal|static|final|abstract|open|override|sealed|data|async|suspend|virtual|partial|synchronized|inline)\s+)*(?:class|interface|enum|object|struct|record|trait|protocol|extension)\s+(\w+)` +
			`|^\s*(?:(?:public|private|protected|internal|static|final|open|override|suspend|inline|mutating|async)\s+)*(?:fun|func|def)\s+(?:<[^>]*>\s*)?(?:\w+\.)?(\w+)` +
			`|^\s*(?:@\w+(?:\([^)]*\))?\s+)*(?:(?:public|private|protected|internal|static|final|abstract|override|async|virtual|synchronized|native)\s+)+[\w<>\[\],.? ]+\s+(\w+)\s*\(`), true},
	{[]string{".php"}, regexp.MustCompile(`^\s*(?:(?:public|private|protected|static|final|abstract|readonly)\s+)*(?:function\s+&?(\w+)|(?:class|interface|trait|enum)\s+(\w+))`), true},
	{[]string{".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".hh", ".m", ".mm"}, regexp.MustCompile(`^(?:[A-Za-z_][\w:<>*&,\s]*?[\s*&])([A-Za-z_~][\w:~]*)\s*\([^;]*$|^(?:class|struct|namespace|enum)\s+(\w+)`), false},
	{[]string{".sh", ".bash"}, regexp.MustCompile(`^\s*(?:function\s+)?([\w-]+)\s*\(\)\s*\{?|^\s*function\s+([\w-]+)`), false},
	{[]string{".tf", ".hcl"}, regexp.MustCompile(`^(?:resource|data|module|provider|variable|output)\s+("[^"]+"(?:\s+"[^"]+")?)`), false},
	{[]string{".sql"}, regexp.MustCompile(`(?i)^\s*create\s+(?:or\s+replace\s+)?(?:function|procedure|table|view|trigger)\s+([\w."]+)`), false},
}

// words of languages that look like the name of a method.
var notNames = map[string]bool{"if": true, "for": true, "while": true, "switch": true, "catch": true, "return": true, "else": true, "do": true, "try": true, "with": true, "function": true, "new": true, "await": true, "typeof": true}

// maxSymbolReach is how many lines above a place a definition is looked for.
const maxSymbolReach = 2000

// enclosingSymbol is the name of what a line lies in, from the outside in ("Server.handle"), or empty where that cannot be told. It looks at the text alone, which is right
// for code that is laid out as its language usually is; all that depends on it is whether a finding is recognised once code around it has moved.
func enclosingSymbol(name string, content []byte, lines lineIndex, line int) string {
	d := definitionOf(name)
	if d == nil || line < 1 || line > len(lines) {
		return ""
	}
	text := func(n int) string {
		from, to := lines.bounds(content, n)
		return strings.TrimRight(string(content[from:min(to, from+1000)]), "\r")
	}
	at := text(line)
	depth := indent(at)
	if strings.TrimSpace(at) == "" {
		depth = 1 << 20
	}
	var found []string
	for n := line; n >= 1 && n > line-maxSymbolReach && len(found) < 4; n-- {
		l := text(n)
		if strings.TrimSpace(l) == "" {
			continue
		}
		if d.byIndent && n != line && indent(l) >= depth {
			continue
		}
		// What is not indented deeper than this line cannot lie in what begins below it.
		if d.byIndent {
			depth = min(depth, indent(l))
		}
		symbol := nameIn(d.pattern.FindStringSubmatch(l))
		if symbol == "" {
			continue
		}
		found = append(found, symbol)
		if !d.byIndent || depth == 0 {
			break
		}
	}
	for i, j := 0, len(found)-1; i < j; i, j = i+1, j-1 {
		found[i], found[j] = found[j], found[i]
	}
	return strings.Join(found, ".")
}

// nameIn joins the groups of a definition that matched: a receiver and a method, or one name.
func nameIn(groups []string) string {
	var names []string
	for _, g := range groups[min(len(groups), 1):] {
		if g != "" && !notNames[g] {
			names = append(names, strings.Join(strings.Fields(g), " "))
		}
	}
	return strings.Join(names, ".")
}

func definitionOf(name string) *definition {
	ext := strings.ToLower(path.Ext(name))
	for i := range definitions {
		for _, s := range definitions[i].suffixes {
			if s == ext {
				return &definitions[i]
			}
		}
	}
	return nil
}

// indent is the width of the white space that a line begins with; a tab is eight.
func indent(l string) (n int) {
	for _, c := range l {
		switch c {
		case ' ':
			n++
		case '\t':
			n += 8
		default:
			return n
		}
	}
	return n
}

package intake

import (
	"bufio"
	"io"
	"strings"
)

// The matcher of gitignore patterns is ours because no library that can be had
// matches as git does: go-git's, the maintained one, builds on filepath.Match
// and so misreads "[!a]", trailing spaces, escapes and patterns below a
// re-included folder. It is small, and a test compares it with git itself.

// ignorePattern is one line of a .gitignore.
type ignorePattern struct {
	literal  string // what comes before the first special character
	glob     string // the rest
	negated  bool   // "!": re-includes
	folder   bool   // trailing "/": folders only
	anywhere bool   // no other "/": matched against the last component alone
}

// ignoreFile holds the patterns of one .gitignore, which are about paths
// relative to its folder.
type ignoreFile []ignorePattern

// maxIgnoreBytes is how much of an ignore file is read.
const maxIgnoreBytes = 8 << 20

// parseIgnore reads patterns as git does.
func parseIgnore(r io.Reader) (ignoreFile, error) {
	var f ignoreFile
	lines := bufio.NewReader(io.LimitReader(r, maxIgnoreBytes))
	for first := true; ; first = false {
		line, err := lines.ReadString('\n')
		if first {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		if p, ok := parseIgnoreLine(line); ok {
			f = append(f, p)
		}
		if err == io.EOF {
			return f, nil
		}
		if err != nil {
			return f, err
		}
	}
}

func parseIgnoreLine(line string) (ignorePattern, bool) {
	if rest, ok := strings.CutSuffix(line, "\n"); ok {
		line = strings.TrimSuffix(rest, "\r")
	}
	if line == "" || line[0] == '#' {
		return ignorePattern{}, false
	}
	line = trimSpaces(line)
	var p ignorePattern
	line, p.negated = strings.CutPrefix(line, "!")
	line, p.folder = strings.CutSuffix(line, "/")
	p.anywhere = !strings.Contains(line, "/")
	glob := strings.TrimPrefix(line, "/")
	special := strings.IndexAny(glob, `*?[\`)
	if special < 0 {
		special = len(glob)
	}
	// Git, too, compares this part literally and matches the rest for itself,
	// so that "**" directly after it counts as standing at the beginning.
	p.literal, p.glob = glob[:special], glob[special:]
	return p, line != ""
}

// trimSpaces removes the trailing spaces that no backslash keeps.
func trimSpaces(line string) string {
	end := 0
	for i := 0; i < len(line); i++ {
		if line[i] == '\\' {
			i++
			end = min(i+1, len(line))
		} else if line[i] != ' ' {
			end = i + 1
		}
	}
	return line[:end]
}

// match reports whether one of the patterns decides about the path, and how.
// The last pattern that matches decides. Paths below a folder that is ignored
// are never asked about.
func (f ignoreFile) match(path string, isFolder bool) (ignored, decided bool) {
	for i := len(f) - 1; i >= 0; i-- {
		p := &f[i]
		if p.folder && !isFolder {
			continue
		}
		subject := path
		if p.anywhere {
			subject = path[strings.LastIndexByte(path, '/')+1:]
		}
		rest, ok := strings.CutPrefix(subject, p.literal)
		if ok && wildMatch(p.glob, rest) == wildYes {
			return !p.negated, true
		}
	}
	return false, false
}

// wildResult is what a (partial) match says to the star it was tried for.
type wildResult int

const (
	wildNo            wildResult = iota
	wildYes                      // all of the text matched
	wildEnd                      // the text ended first: shorter rests will not match either
	wildNeedsTwoStars            // a slash is in the way of this star: only "**" could go on
)

// wildMatch matches as git's wildmatch does for paths: "*" and "?" stop at
// slashes, "**" between slashes (or the ends) does not. The special results
// keep many stars from taking exponential time.
func wildMatch(pattern, text string) wildResult {
	for at := 0; at < len(pattern); at++ {
		c := pattern[at]
		if text == "" && c != '*' {
			return wildEnd
		}
		switch c {
		case '*':
			return matchStar(pattern, at, text)
		case '?':
			if text[0] == '/' {
				return wildNo
			}
		case '[':
			length, ok := matchBracket(pattern[at:], text[0])
			if length == 0 {
				return wildEnd // the bracket is never closed
			}
			if !ok || text[0] == '/' {
				return wildNo
			}
			at += length - 1
		case '\\':
			if at++; at == len(pattern) || text[0] != pattern[at] {
				return wildNo
			}
		default:
			if text[0] != c {
				return wildNo
			}
		}
		text = text[1:]
	}
	if text != "" {
		return wildNo
	}
	return wildYes
}

// matchStar goes on from the star, or the stars, at pattern[at].
func matchStar(pattern string, at int, text string) wildResult {
	rest := strings.TrimLeft(pattern[at:], "*")
	stars := len(pattern) - at - len(rest)
	crosses := stars >= 2 && (at == 0 || pattern[at-1] == '/') &&
		(rest == "" || rest[0] == '/' || strings.HasPrefix(rest, `\/`))
	if crosses && strings.HasPrefix(rest, "/") {
		// "**/" matches no folder at all, too.
		if wildMatch(rest[1:], text) == wildYes {
			return wildYes
		}
	}
	if rest == "" {
		if !crosses && strings.Contains(text, "/") {
			return wildNeedsTwoStars
		}
		return wildYes
	}
	if !crosses && rest[0] == '/' {
		slash := strings.IndexByte(text, '/')
		if slash < 0 {
			return wildEnd
		}
		return wildMatch(rest[1:], text[slash+1:])
	}
	for ; text != ""; text = text[1:] {
		if result := wildMatch(rest, text); result != wildNo {
			if !crosses || result != wildNeedsTwoStars {
				return result
			}
		} else if !crosses && text[0] == '/' {
			return wildNeedsTwoStars
		}
	}
	return wildEnd
}

// matchBracket matches c against the bracket expression at the start of the
// pattern and returns the expression's length, 0 when it has no end.
func matchBracket(pattern string, c byte) (length int, ok bool) {
	at := 1
	negated := at < len(pattern) && (pattern[at] == '!' || pattern[at] == '^')
	if negated {
		at++
	}
	for first := true; ; first = false {
		if at >= len(pattern) {
			return 0, false
		}
		if pattern[at] == ']' && !first {
			return at + 1, ok != negated
		}
		if strings.HasPrefix(pattern[at:], "[:") {
			if end := strings.IndexByte(pattern[at+2:], ']'); end > 0 && pattern[at+2+end-1] == ':' {
				in, known := inClass(pattern[at+2:at+2+end-1], c)
				if !known {
					return 0, false
				}
				ok = ok || in
				at += 2 + end + 1
				continue
			}
		}
		low, n := bracketByte(pattern[at:])
		if n == 0 {
			return 0, false
		}
		at += n
		high := low
		if at+1 < len(pattern) && pattern[at] == '-' && pattern[at+1] != ']' {
			if high, n = bracketByte(pattern[at+1:]); n == 0 {
				return 0, false
			}
			at += 1 + n
		}
		ok = ok || low <= c && c <= high
	}
}

// bracketByte reads one, possibly escaped, byte of a bracket expression.
func bracketByte(pattern string) (c byte, length int) {
	if pattern[0] != '\\' {
		return pattern[0], 1
	}
	if len(pattern) < 2 {
		return 0, 0
	}
	return pattern[1], 2
}

// inClass reports whether c is in the POSIX class of that name.
func inClass(name string, c byte) (in, known bool) {
	var (
		upper = 'A' <= c && c <= 'Z'
		lower = 'a' <= c && c <= 'z'
		digit = '0' <= c && c <= '9'
		graph = 0x20 < c && c < 0x7f
	)
	switch name {
	case "alnum":
		return upper || lower || digit, true
	case "alpha":
		return upper || lower, true
	case "blank":
		return c == ' ' || c == '\t', true
	case "cntrl":
		return c < 0x20 || c == 0x7f, true
	case "digit":
		return digit, true
	case "graph":
		return graph, true
	case "lower":
		return lower, true
	case "print":
		return graph || c == ' ', true
	case "punct":
		return graph && !upper && !lower && !digit, true
	case "space":
		return c == ' ' || '\t' <= c && c <= '\r', true
	case "upper":
		return upper, true
	case "xdigit":
		return digit || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F', true
	}
	return false, false
}

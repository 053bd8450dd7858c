package engine

import (
	"bytes"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/go-enry/go-enry/v2"
)

// ruleGeneric is the one rule that knows no form of credential: it takes a random-looking value next to a word such as "key".
// Half of what it matches in real projects are names, constants and checksums, so it alone is asked again here.
const ruleGeneric = "generic-api-key"

var (
	// notACredential are names of values that are random-looking and public.
	notACredential = regexp.MustCompile(`(?i)(?:version|commit|revision|sha-?\d*|digest|checksum|integrity|hash|h1|(?:next|continuation|page|request|idempotency)[_-]?token|result[_-]?key|store[_-]?id)["'\s]*(?:[:=]|:=|=>)\s*["'\x60]?$`)
	// uuid is how records are numbered; it is a credential only where the name says so.
	uuid        = regexp.MustCompile(`^(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	namesSecret = regexp.MustCompile(`(?i)secret|token|passw|api|auth|credential`)
	// words is an identifier or a path of them: letters with at most a number at the end of each part.
	words = regexp.MustCompile(`^[A-Za-z]+\d{0,4}(?:[_.-]+(?:[A-Za-z]+\d{0,4}|\d{1,4}))+$`)
	// oneName is a single camel-case name with at most one number, such as KeyAlgoMLDSA65.
	oneName = regexp.MustCompile(`^(?:[A-Z]+[a-z]*|[a-z]+)(?:[A-Z][a-z]+|[A-Z]+)+\d{0,4}$`)
)

// plausible says whether a match may be a credential. Values made of words, checksums and versions are none. In program text a
// credential is a literal: what stands outside of quotes is a name. In tests and examples, where values are made up and keys
// are test vectors, looking random says nothing.
func plausible(p string, content []byte, m match) bool {
	if m.rule != ruleGeneric {
		return true
	}
	if isExample(p) {
		return false
	}
	value := string(content[m.Off:m.end()])
	bare := strings.Trim(value, `"'`+"`")
	if words.MatchString(bare) || oneName.MatchString(bare) {
		return false
	}
	line := content[bytes.LastIndexByte(content[:m.Off], '\n')+1 : m.Off]
	if notACredential.Match(line) {
		return false
	}
	if uuid.MatchString(bare) && !namesSecret.Match(line) {
		return false
	}
	quoted := bare != value || len(line) > 0 && bytes.IndexByte([]byte(`"'`+"`"), line[len(line)-1]) >= 0
	return quoted || !isProgram(p)
}

// isProgram says whether a file is program text in which a bare word is a name. Shell scripts and the like are not: there a bare
// word is a value.
func isProgram(p string) bool {
	name, _ := enry.GetLanguageByExtension(path.Base(p))
	if name == "" || enry.GetLanguageType(name) != enry.Programming {
		return false
	}
	return !slices.Contains([]string{"Shell", "PowerShell", "Batchfile", "Dockerfile", "Makefile", "HCL", "Nix", "Tcl", "Vim Script"}, name)
}

// isExample says whether a file shows how something looks rather than making it work: tests, fixtures, documentation.
func isExample(p string) bool {
	words := strings.FieldsFunc(strings.ToLower(p), func(r rune) bool { return r == '/' || r == '.' })
	return enry.IsTest(p) || enry.IsDocumentation(p) || slices.ContainsFunc(words, func(s string) bool {
		switch strings.Trim(s, "_") {
		case "test", "tests", "testing", "testdata", "testutil", "testutils", "test-data", "fixture", "fixtures", "mock", "mocks",
			"example", "examples", "sample", "samples", "corpus", "doc", "docs":
			return true
		}
		return false
	})
}

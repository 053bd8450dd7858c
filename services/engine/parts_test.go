package engine

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vega/config/secret"
	"vega/events"
	"vega/services/engine/codex"
	"vega/v16"
)

// runOn is a run over a tree, without a recorder.
func runOn(t *testing.T, files map[string]string) *run {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	e, err := New(Config{MaskSecret: secret.New("k")}, Options{Pack: v16.Files(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	tr, err := openTree(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.close)
	f, err := openFeed(Job{WorkDir: t.TempDir()}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	return &run{Engine: e, tree: tr, feed: f, rec: quiet{}, job: Job{Dir: dir}}
}

// quiet is a Recorder that nothing is expected of.
type quiet struct{ Recorder }

func (quiet) Progress(context.Context, Progress) {}
func (quiet) Log(context.Context, string)        {}

func TestCheckBelievesOnlyWhatIsThere(t *testing.T) {
	t.Parallel()
	content := []byte("package a\n\nfunc f() {\n\tdb.Query(\"select \" + name)\n}\n")
	good := candidate{Finding: events.Finding{File: "a.go", StartLine: 3, EndLine: 4, Snippet: "func f() {\n    db.Query(\"select \" + name)"}}
	r := runOn(t, nil)
	for name, c := range map[string]struct {
		change func(*candidate)
		want   string
	}{
		"as it is":         {func(*candidate) {}, ""},
		"part of a line":   {func(c *candidate) { c.Snippet = `db.Query("select " + name)` }, ""},
		"other file":       {func(c *candidate) { c.File = "b.go" }, "another file"},
		"line 0":           {func(c *candidate) { c.StartLine = 0 }, "no lines 0 to 4"},
		"turned round":     {func(c *candidate) { c.EndLine = 2 }, "no lines 3 to 2"},
		"past the end":     {func(c *candidate) { c.EndLine = 6 }, "no lines 3 to 6"},
		"no quote":         {func(c *candidate) { c.Snippet = " \n" }, "quotes nothing"},
		"invented quote":   {func(c *candidate) { c.Snippet = `db.Exec("drop")` }, "not in those lines"},
		"quote elsewhere":  {func(c *candidate) { c.StartLine, c.EndLine = 1, 2 }, "not in those lines"},
		"the file as such": {func(c *candidate) { c.WholeFile, c.StartLine, c.Snippet = true, 0, "" }, ""},
	} {
		c0 := good
		c.change(&c0)
		err := r.check("a.go", content, indexLines(content), nil, c0)
		if got := fmt.Sprint(err); c.want == "" && err != nil || c.want != "" && !strings.Contains(got, c.want) {
			t.Errorf("%s: check = %v, want %q", name, err, c.want)
		}
	}
}

func TestMergeKeepsTheWorstOfTooMany(t *testing.T) {
	t.Parallel()
	var in candidates
	severities := events.Severities()
	for i := range events.MaxFindingsPerScan + 500 {
		f := events.Finding{Rule: "r", File: fmt.Sprintf("f%d", i), StartLine: 1, EndLine: 1, Severity: severities[i%len(severities)]}
		in.Files = append(in.Files, foundIn{Path: f.File, Candidates: []candidate{{Finding: f, Identity: "x"}}})
	}
	all := mergeByFingerprint("local", "repo_local_r", in)
	if len(all) != events.MaxFindingsPerScan+500 {
		t.Fatalf("%d findings, want all", len(all))
	}
	if !slices.IsSortedFunc(all, func(a, b events.Finding) int { return cmp.Compare(a.Severity.Rank(), b.Severity.Rank()) }) {
		t.Error("the worst do not come first")
	}
	if last := all[events.MaxFindingsPerScan-1].Severity; last != events.SeverityInfo {
		t.Errorf("the last that is kept is %s, want info: everything worse fits", last)
	}
}

func TestGenericPiecesMissNothing(t *testing.T) {
	t.Parallel()
	d, err := theDetector()
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	value := func(n int) string {
		const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
		b := make([]byte, n)
		for i := range b {
			b[i] = alphabet[r.IntN(len(alphabet))]
		}
		return string(b)
	}
	names := []string{"api_key", "PASSWORD", "client.secret", "token", "x-auth", "my_access", "creds", "plain"}
	links := []string{" = ", ": ", "=", " => ", `":"`, "= '", " := \"", ",  ", "\n  = \n "}
	ends := []string{"\n", "\"\n", "' ", ";", "\\n", "`"}
	for range 100 {
		var b strings.Builder
		for range 1 + r.IntN(20) {
			b.WriteString(strings.Repeat("word and more ", r.IntN(30)))
			b.WriteString(names[r.IntN(len(names))] + links[r.IntN(len(links))] + value(8+r.IntN(60)) + ends[r.IntN(len(ends))])
		}
		content := []byte(b.String())
		var whole, pieces []int
		for _, m := range detectIn(t.Context(), d.generic, "a.txt", content, 0, len(content)) {
			whole = append(whole, m.Off)
		}
		for from, to := range d.genericPieces(content) {
			for _, m := range detectIn(t.Context(), d.generic, "a.txt", content, from, to) {
				pieces = append(pieces, m.Off)
			}
		}
		for _, off := range whole {
			if bytes.ContainsAny(content[off:min(off+8, len(content))], "0123456789") && !slices.Contains(pieces, off) {
				t.Fatalf("missed the value at %d of\n%s", off, content)
			}
		}
	}
}

func TestAMaskTellsNothingButItsBeginning(t *testing.T) {
	t.Parallel()
	a, b := masker{key: []byte("a")}, masker{key: []byte("b")}
	long := strings.Repeat("s3cr3t", 5)
	if a.mask([]byte(long)) == b.mask([]byte(long)) {
		t.Error("two keys give the same mask")
	}
	if a.mask([]byte("ab\r\ncd")) != a.mask([]byte("abcd")) {
		t.Error("white space makes another mask")
	}
	for in, begin := range map[string]string{long: "s3cr[masked:", "short-one": "sh[masked:", "abc": "[masked:", "\x00\x1b[31m and more of it": "??[3[masked:"} {
		if got := a.mask([]byte(in)); !strings.HasPrefix(got, begin) || !maskPattern.MatchString(got) {
			t.Errorf("mask(%q) = %q, want it to begin with %q", in, got, begin)
		}
	}
}

func TestSnippetsOfLongLinesShowThePlace(t *testing.T) {
	t.Parallel()
	m := masker{key: []byte("k")}
	secretWord := strings.Repeat("Zx9", 12)
	content := []byte("first\n" + strings.Repeat("é;", 5000) + "key=" + secretWord + strings.Repeat(";é", 5000) + "\nlast\n")
	off := bytes.Index(content, []byte(secretWord))
	s := span{off, len(secretWord)}
	got := m.snippet(content, indexLines(content), s, []span{s})
	if !strings.Contains(got, "key=Zx9Z[masked:") || len(got) > maxSnippetLine+20 || strings.Contains(got, secretWord) {
		t.Errorf("snippet = %q", got)
	}
}

func TestAFileThatVanishedIsAGap(t *testing.T) {
	t.Parallel()
	r := runOn(t, map[string]string{"a.txt": "x", "b.txt": "y"})
	if err := os.Remove(filepath.Join(r.job.Dir, "a.txt")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.contentOf("a.txt"); err == nil {
		t.Error("a vanished file was read")
	}
	if _, _, err := r.contentOf("../b.txt"); !errors.Is(err, errNotInTree) {
		t.Errorf("a path outside = %v, want errNotInTree", err)
	}
}

func TestAPanicOverAFileIsAGapAndNoMore(t *testing.T) {
	t.Parallel()
	r := runOn(t, map[string]string{"a": "1", "b": "2", "c": "3"})
	var broken []string
	worked := make([]bool, 3)
	err := r.forEachFile(t.Context(), func(_ context.Context, i int, f file) error {
		if f.path == "b" {
			panic("parser defect")
		}
		worked[i] = true
		return nil
	}, func(f file) { broken = append(broken, f.path) })
	if err != nil || !slices.Equal(broken, []string{"b"}) || !worked[0] || !worked[2] {
		t.Errorf("err %v, broken %v, worked %v: want b broken and the others done", err, broken, worked)
	}
}

func TestTheFeedFileIsBounded(t *testing.T) {
	t.Parallel()
	r := runOn(t, nil)
	line := strings.Repeat("x", 1<<20)
	for range 12 {
		r.feed.write("scan_log", map[string]string{"message": line})
	}
	in, err := r.feed.reader()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(in); err != nil {
		t.Fatal(err)
	}
	if b.Len() > maxFeedBytes+1000 || !strings.Contains(b.String(), "the log is full") {
		t.Errorf("%d bytes, want at most %d and a last line that says so", b.Len(), maxFeedBytes)
	}
}

func TestLineIndex(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		"":        nil,
		"a":       {"a"},
		"a\n":     {"a"},
		"\n":      {""},
		"a\nb":    {"a", "b"},
		"a\n\n\n": {"a", "", ""},
	} {
		l := indexLines([]byte(in))
		var got []string
		for i := range l {
			from, to := l.bounds([]byte(in), i+1)
			got = append(got, in[from:to])
			if l.at(from) != i+1 || l.at(to) != i+1 {
				t.Errorf("%q: line %d is at %d and %d", in, i+1, l.at(from), l.at(to))
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("lines of %q = %q, want %q", in, got, want)
		}
	}
}

// BenchmarkFind searches program text that speaks much of keys.
func BenchmarkFind(b *testing.B) {
	d, err := theDetector()
	if err != nil {
		b.Fatal(err)
	}
	source, err := os.ReadFile("secrets_test.go")
	if err != nil {
		b.Fatal(err)
	}
	content := bytes.Repeat(source, 20)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		if _, more := d.find(b.Context(), "a.go", content); more {
			b.Fatal("more than there are")
		}
	}
}

// What a component is told is about what it is made of.
func TestFactsAreThoseOfTheComponent(t *testing.T) {
	t.Parallel()
	inv := inventory{Dependencies: []dependency{{Name: "django", Path: "backend/requirements.txt"}, {Name: "react", Path: "web/package.json"}, {Name: "common", Path: "package.json"}}}
	code := []codeFile{{"backend/app.py", 100, "Python"}, {"web/app.tsx", 300, "TSX"}, {"web/tool.py", 10, "Python"}}
	for _, c := range []struct {
		paths []string
		want  string
	}{
		{[]string{"backend"}, "{[Python] [django common] [backend/app.py]}"},
		{[]string{"web"}, "{[TSX Python] [react common] [web/app.tsx web/tool.py]}"},
		{[]string{"web/app.tsx"}, "{[TSX] [react common] [web/app.tsx]}"},
		{[]string{"."}, "{[TSX Python] [django react common] [backend/app.py web/app.tsx web/tool.py]}"},
	} {
		if got := fmt.Sprint(factsOf(inv, code, c.paths)); got != c.want {
			t.Errorf("%v: %s, want %s", c.paths, got, c.want)
		}
	}
}

func TestAQuoteIsFoundWhereItStands(t *testing.T) {
	t.Parallel()
	content := []byte("one\n\ttwo(a)\nthree\n\ttwo(a)\nfour(b)\nfive\n")
	lines := indexLines(content)
	for _, c := range []struct {
		name       string
		quote      string
		start, end int
		from, to   int
		ok         bool
	}{
		{"in its line", "two(a)", 2, 2, 2, 2, true},
		{"without its white space", "  two(a)  ", 4, 4, 4, 4, true},
		{"narrowed", "four(b)", 3, 6, 5, 5, true},
		{"over two lines", "two(a)\nfour(b)", 4, 5, 4, 5, true},
		{"somewhere else, once", "four(b)", 1, 1, 5, 5, true},
		{"somewhere else, twice", "two(a)", 1, 1, 0, 0, false},
		{"nowhere", "six", 1, 2, 0, 0, false},
		{"in lines that do not exist", "four(b)", 7, 9, 0, 0, false},
		{"backwards", "one", 3, 2, 0, 0, false},
		{"nothing", " \n", 1, 1, 0, 0, false},
	} {
		from, to, ok := locateQuote(content, lines, c.quote, c.start, c.end)
		if from != c.from || to != c.to || ok != c.ok {
			t.Errorf("%s: %d to %d, %v; want %d to %d, %v", c.name, from, to, ok, c.from, c.to, c.ok)
		}
	}
}

// A purse divides what is left by the pieces that are left, keeps its part for later, and never begins what could not end.
func TestSharesOfABudget(t *testing.T) {
	t.Parallel()
	cap := func(spent, limit int64) meter { return meter{Spent: spent, Cap: limit} }
	p := &purse{keep: 5}
	if l := p.left(allowance{Requests: cap(10, 110), Tokens: cap(1000, 0)}); l.requests != 80 || l.tokens != noLimit {
		t.Errorf("left %+v, want 80 requests after a fifth was kept, and no limit on tokens", l)
	}
	if l := p.left(allowance{Requests: cap(90, 110)}); l.requests != 0 {
		t.Errorf("left %+v, want none: the last 20 are kept", l)
	}
	money := &purse{}
	if l := money.left(allowance{Tokens: cap(100_000, 0), Cost: cap(2e9, 3e9)}); l.tokens != 50_000 {
		t.Errorf("left %+v, want what a dollar buys at the price so far", l)
	}
	if l := money.left(allowance{Tokens: cap(0, 0), Cost: cap(0, 3e9)}); l.tokens != noLimit {
		t.Errorf("left %+v: what a token costs is not known yet", l)
	}
}

// What a run is told about its next request, by what is left for it and the others.
func TestVerdictsOfABudget(t *testing.T) {
	t.Parallel()
	all := leftover{noLimit, noLimit}
	for _, c := range []struct {
		name            string
		call            codex.Call
		left            leftover
		running, pieces int64
		want            codex.Verdict
	}{
		{"no limit", codex.Call{N: 50, Spent: codex.Usage{Requests: 49}}, all, 3, 9, codex.Go},
		{"nothing left", codex.Call{N: 1}, leftover{0, noLimit}, 1, 1, codex.Stop},
		{"the first request", codex.Call{N: 1}, leftover{1, noLimit}, 1, 5, codex.Go},
		{"the last request of the scan", codex.Call{N: 2, Spent: codex.Usage{Requests: 1}}, leftover{1, noLimit}, 1, 5, codex.Finish},
		{"one for each run", codex.Call{N: 2, Spent: codex.Usage{Requests: 1}}, leftover{3, noLimit}, 3, 3, codex.Finish},
		{"within its share", codex.Call{N: 6, Spent: codex.Usage{Requests: 5}}, leftover{25, noLimit}, 1, 3, codex.Go},
		{"at the end of its share", codex.Call{N: 10, Spent: codex.Usage{Requests: 9}}, leftover{21, noLimit}, 1, 3, codex.Finish},
		{"its share has grown: it is alone", codex.Call{N: 10, Spent: codex.Usage{Requests: 9}}, leftover{21, noLimit}, 1, 1, codex.Go},
		{"a small share is six requests", codex.Call{N: 5, Spent: codex.Usage{Requests: 4}}, leftover{8, noLimit}, 2, 8, codex.Go},
		{"tokens within its share", codex.Call{N: 2, Bytes: 30_000, Spent: codex.Usage{Requests: 1, Input: 10_000}}, leftover{noLimit, 300_000}, 1, 3, codex.Go},
		{"tokens at the end of its share", codex.Call{N: 5, Bytes: 30_000, Spent: codex.Usage{Requests: 4, Input: 90_000}}, leftover{noLimit, 200_000}, 1, 3, codex.Finish},
		{"tokens for an answer and no more", codex.Call{N: 2, Bytes: 30_000, Spent: codex.Usage{Requests: 1}}, leftover{noLimit, 20_000}, 1, 1, codex.Finish},
	} {
		if got, why := verdict(c.call, c.left, c.running, c.pieces, allowance{}); got != c.want {
			t.Errorf("%s: %v (%s), want %v", c.name, got, why, c.want)
		}
	}
}

// A piece for which there is not enough waits for the ones that run; when none does, it is not begun, and neither is any after it.
func TestAPieceWaitsForThoseThatRun(t *testing.T) {
	t.Parallel()
	p := &purse{waiting: 3, useful: 3}
	if ended, over := p.enter(leftover{5, noLimit}, allowance{}); ended != nil || over != nil {
		t.Fatalf("the first piece is not begun: %v", over)
	}
	ended, over := p.enter(leftover{5, noLimit}, allowance{})
	if ended == nil || over != nil {
		t.Fatalf("the second piece does not wait: %v", over)
	}
	p.end()
	<-ended
	if ended, over := p.enter(leftover{2, noLimit}, allowance{}); ended != nil || over == nil || over.code != codeCap {
		t.Errorf("with two requests left and nobody running a piece is begun or waits: %v", over)
	}
	if _, over := p.enter(leftover{100, noLimit}, allowance{}); over == nil {
		t.Error("a piece is begun after one was not")
	}
}

func TestAFailedCommandMayHaveShownSomething(t *testing.T) {
	t.Parallel()
	for output, want := range map[string]bool{
		"": false,
		"cat: missing: No such file or directory\n":                                                   false,
		"/bin/bash: line 1: cd: /nowhere: No such file or directory\n":                                false,
		"thread 'main' (12) panicked at launcher.rs:60:\nbwrap: no permissions to make a namespace\n": false,
		"package main\n\nfunc main() {\n\tprintln(\"hello there\")\n}\ncat: b: No such file\n":        true,
	} {
		if got := showsSomething(output); got != want {
			t.Errorf("%q: %v", output, got)
		}
	}
}

func TestTheOneObjectOfAnAnswer(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		`{"a":1}`: `{"a":1}`, "```json\n{\"a\":1}\n```": `{"a":1}`, `Here it is: {"a":{"b":1}} Let me know!`: `{"a":{"b":1}}`, "```\n{}\n```\nDone.": `{}`,
		`{"a":1} {"a":2}`: `{"a":1} {"a":2}`, `{"a":1`: `{"a":1`, "nothing": "nothing", "": "", `[1]`: `[1]`,
	} {
		if got := string(bare([]byte(answer))); got != want {
			t.Errorf("bare(%q) = %q, want %q", answer, got, want)
		}
	}
	for answer, want := range map[string]int{
		`{"findings":[{"rule":"a","file":"f","start_line":1},{"rule":"a","file":"f","start_line":1},{"rule":"b","file":"f","start_line":"1"}]}`: 2, `{"findings":[]}`: 0, `{"findings":3}`: 0, "": 0,
	} {
		if got := distinctClaims([]byte(answer)); got != want {
			t.Errorf("distinctClaims(%s) = %d, want %d", answer, got, want)
		}
	}
}

func TestPlacesInTheSource(t *testing.T) {
	t.Parallel()
	r := runOn(t, map[string]string{"a.py": "1\n2\n3\n", "Makefile": "all:\n", "with blank.py": "1\n"})
	for place, want := range map[string]bool{
		"a.py:1": true, "a.py:3": true, "a.py:2-3": true, "Makefile:1": true, "with blank.py:1": true, "./a.py:1": true, "/source/a.py:1": true,
		"a.py:5": false, "a.py:2-99": false, "a.py:0": false, "b.py:1": false, "a.py": false, "../a.py:1": false, "": false,
	} {
		if got := r.isThere(place); got != want {
			t.Errorf("isThere(%q) = %v", place, got)
		}
	}
	got := r.notThere(r.tree.names(), "b.py:1 calls a.py:3 and a.py:3, lib/a.py:2-9, net/http/server.go:3 on example.com:443", "a.py:77 and b.py:1 and x/b.py:1-2")
	if want := []string{"b.py:1", "lib/a.py:2-9", "a.py:77", "x/b.py:1-2"}; !slices.Equal(got, want) {
		t.Errorf("notThere = %q, want %q", got, want)
	}
}

package engine_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"vega/events"
	"vega/services/engine"
	"vega/services/report"
)

// Test credentials are made here and now, so that the project itself holds none.

// awsKey is a made-up access key id of the real form. n makes different ones.
func awsKey(n uint64) string { return "AK" + "IA" + word(n, 16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") }

// apiKey is a made-up value without a form.
func apiKey(n uint64) string { return word(n, 40, "abcdefghijklmnopqrstuvwxyz0123456789") }

func word(n uint64, length int, alphabet string) string {
	r := rand.New(rand.NewPCG(n, 7))
	b := make([]byte, length)
	for i := range b {
		b[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(b)
}

// privateKey is a PEM block and its body.
func privateKey(t testing.TB) (block, body string) {
	t.Helper()
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE" + " KEY", Bytes: der}))
	lines := strings.Split(strings.TrimSpace(block), "\n")
	return block, strings.Join(lines[1:len(lines)-1], "\n")
}

func TestPlantedKeysInARealProjectAreFoundAndNothingElse(t *testing.T) {
	t.Parallel()
	const module = "github.com/spf13/viper"
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatalf("find %s: %v", module, err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(strings.TrimSpace(string(out)))); err != nil {
		t.Fatal(err)
	}
	block, body := privateKey(t)
	aws := awsKey(1)
	appendTo(t, filepath.Join(dir, "deploy.sh"), "#!/bin/sh\n\nexport AWS_ACCESS_KEY_ID="+aws+"\n")
	goFile := filepath.Join(dir, "viper.go")
	before, err := os.ReadFile(goFile)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Count(before, []byte("\n"))
	if err := os.Chmod(goFile, 0o644); err != nil { // the module cache is read-only
		t.Fatal(err)
	}
	appendTo(t, goFile, "\nvar signingKey = `"+block+"`\n")

	rec, got := scan(t, dir)
	type place struct {
		Severity   events.Severity
		Rule, File string
		Start, End int
	}
	var places []place
	for _, f := range rec.findings {
		places = append(places, place{f.Severity, f.Rule, f.File, f.StartLine, f.EndLine})
	}
	want := []place{
		{events.SeverityCritical, "private-key", "viper.go", lines + 2, lines + 1 + strings.Count(block, "\n")},
		{events.SeverityHigh, "aws-access-token", "deploy.sh", 3, 3},
	}
	if fmt.Sprint(places) != fmt.Sprint(want) {
		t.Errorf("found %v, want %v", places, want)
	}
	if got.Counts != (events.Counts{Critical: 1, High: 1}) || got.Rejected != 0 {
		t.Errorf("outcome %+v, want one critical, one high, none rejected", got)
	}
	if got.Coverage.State != events.CoveragePartial || len(got.Coverage.Reasons) != 4 {
		t.Errorf("coverage %+v, want partial for the four stages that need a model", got.Coverage)
	}
	assertNowhere(t, rec, aws, body, strings.Split(body, "\n")[0])
	assertLineHashes(t, rec, dir)
}

func TestCredentialsAreFoundAtTheirLines(t *testing.T) {
	t.Parallel()
	block, _ := privateKey(t)
	filler := strings.Repeat("x = compute(y)  # nothing here\n", 12_000) // several windows
	aws, api := awsKey(1), apiKey(2)
	for name, c := range map[string]struct {
		file, content string
		start, end    int
		rule          string
	}{
		"first line":                {"a.env", "KEY=" + aws + "\nb\n", 1, 1, "aws-access-token"},
		"last line, no line feed":   {"a.env", "a\nb\nKEY=" + aws, 3, 3, "aws-access-token"},
		"alone in its file":         {"a.txt", aws, 1, 1, "aws-access-token"},
		"windows line ends":         {"a.env", "a\r\nb\r\nKEY=" + aws + "\r\nc\r\n", 3, 3, "aws-access-token"},
		"value on the next line":    {"a.yaml", "a: 1\napi_key:\n  " + api + "\n", 3, 3, "generic-api-key"},
		"after many windows":        {"a.py", filler + "KEY = \"" + aws + "\"\n", 12_001, 12_001, "aws-access-token"},
		"in a very long line":       {"a.js", "a\n" + strings.Repeat("f(1);", 25_000) + "k=\"" + aws + "\";" + strings.Repeat("f(1);", 25_000), 2, 2, "aws-access-token"},
		"generic, after windows":    {"a.py", filler + "api_key = \"" + api + "\"\n", 12_001, 12_001, "generic-api-key"},
		"pem block":                 {"key.pem", "# note\n" + block, 2, 1 + strings.Count(block, "\n"), "private-key"},
		"pem block, windows":        {"key.pem", strings.ReplaceAll(block, "\n", "\r\n"), 1, strings.Count(block, "\n"), "private-key"},
		"pem in one line":           {"a.json", "{\n\"key\": \"" + strings.ReplaceAll(block, "\n", `\n`) + "\"\n}\n", 2, 2, "private-key"},
		"pem over a window's end":   {"a.txt", strings.Repeat("y", 96<<10-100) + "\n" + block, 2, 1 + strings.Count(block, "\n"), "private-key"},
		"with a gitleaks:allow":     {"a.env", "KEY=" + aws + " # gitleaks:allow\n", 1, 1, "aws-access-token"},
		"not UTF-8":                 {"a.env", "\xff\xfe\xfd\nKEY=" + aws + " \xff\n", 2, 2, "aws-access-token"},
		"UTF-16":                    {"a.ps1", utf16LE("a\r\nb\r\n$KEY = '" + aws + "'\r\n"), 3, 3, "aws-access-token"},
		"a form before its context": {"a.sh", "curl -H \"Authorization: Bearer gh" + "p_" + word(3, 36, "abcdefghijABCDEFGHIJ0123456789") + "\" https://x\n", 1, 1, "github-pat"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rec, _ := scan(t, tree(t, map[string]string{c.file: c.content}))
			if len(rec.findings) != 1 {
				t.Fatalf("%d findings, want 1: %+v", len(rec.findings), rec.findings)
			}
			f := rec.findings[0]
			if f.Rule != c.rule || f.StartLine != c.start || f.EndLine != c.end {
				t.Errorf("found %s at %d-%d, want %s at %d-%d", f.Rule, f.StartLine, f.EndLine, c.rule, c.start, c.end)
			}
			if !strings.Contains(f.Snippet, "[masked:") || len(f.Snippet) > 2000 {
				t.Errorf("snippet %.300q", f.Snippet)
			}
			assertNowhere(t, rec, aws, api)
		})
	}
}

// utf16LE is a text as PowerShell writes it.
func utf16LE(s string) string {
	b := []byte{0xFF, 0xFE}
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return string(b)
}

func TestEveryCredentialOfALineIsMasked(t *testing.T) {
	t.Parallel()
	aws, second, password := awsKey(1), word(9, 40, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/+"), "hunter"+"2pass"
	line := fmt.Sprintf("run(%q, %q, \"postgres://app:%s@db/x\") // again %s\n", aws, second, password, aws)
	rec, _ := scan(t, tree(t, map[string]string{"run.py": line}))
	if len(rec.findings) != 1 {
		t.Fatalf("%d findings, want 1", len(rec.findings))
	}
	f := rec.findings[0]
	if n := strings.Count(f.Snippet, "[masked:"); n != 4 {
		t.Errorf("%d masks in %q, want 4", n, f.Snippet)
	}
	if !strings.Contains(f.Snippet, "AKIA[masked:") {
		t.Errorf("the snippet %q does not show the first characters", f.Snippet)
	}
	assertNowhere(t, rec, aws, second, password)
}

func TestWhatOnlyLooksLikeACredentialIsNone(t *testing.T) {
	t.Parallel()
	random := apiKey(1)
	for name, file := range map[string][2]string{
		"a name in program text":     {"a.go", "var key = keys.Ed25519PrivateKeyV2\n"},
		"a bare word in a comment":   {"a.go", "// use the key: " + random + "\n"},
		"a constant's name":          {"a.go", "const key = \"ALTSRP_GCM_AES128_REKEY\"\n"},
		"a single name":              {"a.yaml", "key: KeyAlgoMLDSA65Standard\n"},
		"a commit":                   {"Dockerfile", "ARG API_VERSION=" + word(4, 40, "0123456789abcdef") + "\n"},
		"a checksum":                 {"a.yaml", "token_sha256: " + word(4, 64, "0123456789abcdef") + "\n"},
		"a test vector":              {"aes_test.go", "var key = \"" + random + "\"\n"},
		"documentation":              {"docs/login.md", "api_key = \"" + random + "\"\n"},
		"an example":                 {"config.example.yaml", "api_key: " + random + "\n"},
		"a record's number":          {"a.json", "{\"key\": \"" + word(5, 8, "0123456789abcdef") + "-1b2c-4d3e-8f4a-" + word(6, 12, "0123456789abcdef") + "\"}\n"},
		"a page's token":             {"a.json", "{\"nextToken\": \"" + random + "\"}\n"},
		"a placeholder":              {".env", "AWS_ACCESS_KEY_ID=AK" + "IAIOSFODNN7EXAMPLE\n"},
		"a variable":                 {".env", "API_KEY=${API_KEY_FROM_VAULT_2}\n"},
		"a lock file":                {"package-lock.json", "{\"integrity\": \"sha512-" + random + "==\", \"token\": \"" + random + "\"}\n"},
		"a public key":               {"key.pub", "-----BEGIN PUBLIC" + " KEY-----\n" + strings.Repeat(word(8, 64, "abcDEF0123")+"\n", 4) + "-----END PUBLIC" + " KEY-----\n"},
		"a private key's first line": {"a.go", "if strings.HasPrefix(s, \"-----BEGIN RSA PRIVATE" + " KEY-----\") {\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rec, _ := scan(t, tree(t, map[string]string{file[0]: file[1]}))
			for _, f := range rec.findings {
				t.Errorf("found %s in %q", f.Rule, f.Snippet)
			}
		})
	}
}

func TestSeverityAndConfidence(t *testing.T) {
	t.Parallel()
	block, _ := privateKey(t)
	rec, _ := scan(t, tree(t, map[string]string{
		"prod/key.pem":          block,
		"prod/.env":             "KEY=" + awsKey(1) + "\n",
		"prod/app.yaml":         "api_key: " + apiKey(2) + "\n",
		"pkg/testdata/key.pem":  block,
		"prod/keystore.p12":     "\x00\x01binary",
		"pkg/client_test.go":    "var k = \"" + awsKey(4) + "\"\n",
		"prod/nothing-here.txt": "plain\n",
	}))
	got := make(map[string]string)
	for _, f := range rec.findings {
		got[f.File] = fmt.Sprintf("%s %s %s %s", f.Rule, f.Severity, f.Confidence, strings.Join(f.CWE, ","))
		if f.Validation != events.NotValidated || f.Remediation == "" || f.Evidence == "" || f.Description == "" {
			t.Errorf("%s: incomplete finding %+v", f.File, f)
		}
	}
	want := map[string]string{
		"prod/key.pem":         "private-key critical high CWE-321,CWE-798",
		"pkg/testdata/key.pem": "private-key critical low CWE-321,CWE-798",
		"prod/.env":            "aws-access-token high high CWE-798",
		"prod/app.yaml":        "generic-api-key high medium CWE-798",
		"pkg/client_test.go":   "aws-access-token high low CWE-798",
		"prod/keystore.p12":    "pkcs12-file high low CWE-798",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestIdentitySurvivesMovesAndKnowsTheFile(t *testing.T) {
	t.Parallel()
	line := "KEY=" + awsKey(1) + "\n"
	ids := func(files map[string]string) (out []events.FindingID) {
		rec, _ := scan(t, tree(t, files))
		for _, f := range rec.findings {
			out = append(out, f.ID)
		}
		return out
	}
	first := ids(map[string]string{"a.env": line})
	moved := ids(map[string]string{"a.env": "# moved\n\n\n  " + line})
	elsewhere := ids(map[string]string{"b.env": line})
	other := ids(map[string]string{"a.env": "KEY=" + awsKey(2) + "\n"})
	if len(first) != 1 || fmt.Sprint(first) != fmt.Sprint(moved) {
		t.Errorf("id %v, moved by lines %v, want the same one", first, moved)
	}
	if fmt.Sprint(first) == fmt.Sprint(elsewhere) || fmt.Sprint(first) == fmt.Sprint(other) {
		t.Errorf("ids %v, %v in another file, %v for another key, want three", first, elsewhere, other)
	}
}

func TestTheSameCredentialInOneFileIsOneFinding(t *testing.T) {
	t.Parallel()
	key := awsKey(1)
	rec, out := scan(t, tree(t, map[string]string{
		"a.env": "A=" + key + "\n\nB=" + key + "\n" + strings.Repeat("C="+key+"\n", 30),
		"b.env": "A=" + key + "\n",
	}))
	if len(rec.findings) != 2 || out.Counts.High != 2 {
		t.Fatalf("%d findings, counts %+v, want one for each file", len(rec.findings), out.Counts)
	}
	f := rec.findings[0]
	if f.StartLine != 1 || len(f.Also) != 20 || f.Also[0] != "a.env:3" {
		t.Errorf("at line %d, also at %v, want line 1 and 20 more from a.env:3 on", f.StartLine, f.Also)
	}
}

func TestAFullFileOfCredentialsIsBounded(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range uint64(3000) {
		fmt.Fprintf(&b, "K%d=%s\n", i, awsKey(i))
	}
	rec, out := scan(t, tree(t, map[string]string{"dump.txt": b.String()}))
	if len(rec.findings) != 200 {
		t.Errorf("%d findings, want 200", len(rec.findings))
	}
	if !hasReason(out, "secrets", "dump.txt", "limit_reached") {
		t.Errorf("coverage does not say that there are more: %+v", out.Coverage.Reasons)
	}
}

func TestWhatWasNotSearchedIsInTheCoverage(t *testing.T) {
	t.Parallel()
	dir := tree(t, map[string]string{
		"big.sql":                    strings.Repeat("insert;\n", 400_000),
		"big.bin":                    "\x00" + strings.Repeat("b", 3<<20),
		"logo.png":                   "\x89PNG\x00",
		"lib/gradle.jar":             "PK\x03\x04\x00\x00",
		"node_modules/left/index.js": "var apiKey = \"" + apiKey(1) + "\"\n",
		"package-lock.json":          "{}",
		"empty":                      "",
	})
	_, out := scan(t, dir)
	for _, want := range [][3]string{
		{"secrets", "big.sql", "too_large"}, {"secrets", "", "binary"}, {"secrets", "", "skipped"},
		{"threat_model", "", "not_configured"}, {"plan", "", "not_configured"}, {"audit", "", "not_configured"},
	} {
		if !hasReason(out, want[0], want[1], want[2]) {
			t.Errorf("no reason %v in %+v", want, out.Coverage.Reasons)
		}
	}
	if len(out.Coverage.Reasons) != 7 {
		t.Errorf("%d reasons, want 7: %+v", len(out.Coverage.Reasons), out.Coverage.Reasons)
	}
	for _, r := range out.Coverage.Reasons {
		if r.Code == "not_configured" && !strings.Contains(r.Message, "VEGA_LLM_PROVIDER_API_KEY") {
			t.Errorf("reason %+v names no variable", r)
		}
	}
}

func TestReasonsAreBounded(t *testing.T) {
	t.Parallel()
	files := make(map[string]string)
	for i := range 150 {
		files[fmt.Sprintf("f%03d.txt", i)] = "0123456789abcdef"
	}
	rec := newRecorder()
	out, err := newEngine(t, engine.Options{MaxFileBytes: 10}).Run(t.Context(), jobOn(t, tree(t, files)), rec)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, r := range out.Coverage.Reasons {
		if r.Stage == "secrets" {
			n++
		}
	}
	if n != 101 || !hasReason(out, "secrets", "", "limit_reached") {
		t.Errorf("%d reasons of one stage, want 100 and a total", n)
	}
}

func hasReason(out engine.Outcome, stage, path, code string) bool {
	for _, r := range out.Coverage.Reasons {
		if r.Stage == stage && r.Path == path && r.Code == code {
			return true
		}
	}
	return false
}

func appendTo(t *testing.T, file, text string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// assertNowhere fails when something that the scan let out holds one of the secrets.
func assertNowhere(t *testing.T, rec *recorder, secrets ...string) {
	t.Helper()
	all := rec.everything(t)
	for _, s := range secrets {
		if i := strings.Index(all, s); i >= 0 {
			t.Errorf("a credential got out: …%.60s…", strings.ReplaceAll(all[max(0, i-60):i], "\n", " "))
		}
	}
}

// assertLineHashes holds the line hashes of the report against the files.
func assertLineHashes(t *testing.T, rec *recorder, dir string) {
	t.Helper()
	var doc report.Document
	if err := json.Unmarshal(rec.artifact(t, "v16-report.json"), &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Findings) != len(rec.findings) {
		t.Errorf("the report has %d findings, want %d", len(doc.Findings), len(rec.findings))
	}
	for _, f := range doc.Findings {
		in, err := os.Open(filepath.Join(dir, f.File))
		if err != nil {
			t.Fatal(err)
		}
		want := ""
		err = report.LineHashes(in, func(line int, hash string) {
			if line == f.StartLine {
				want = hash
			}
		})
		_ = in.Close()
		if err != nil || f.LineHash == "" || f.LineHash != want {
			t.Errorf("%s:%d: line hash %q, want %q (%v)", f.File, f.StartLine, f.LineHash, want, err)
		}
	}
}

package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// secretful sets every setting that may hold a secret, and puts one into places where none belongs.
var secretful = []string{
	"VEGA_PERSISTENCE_BACKEND=postgres",
	"VEGA_DATABASE_URL=postgresql://vega:hunter2@db:5432/vega?sslpassword=hunter2",
	"VEGA_NATS_URL=nats://hunter2@127.0.0.1:4222,nats://u:hunter2@127.0.0.1:4223",
	"VEGA_AUTH_SECRET=hunter2hunter2hunter2",
	"VEGA_DEBUG_PASSWORD=hunter2",
	"VEGA_LLM_PROXY_AUTH_SECRET=hunter2hunter2hunter2",
	"VEGA_LLM_PROVIDER_API_KEY=hunter2",
	"VEGA_MASK_SECRET=hunter2hunter2hunter2",
}

func TestNoSecretIsPrinted(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, secretful...)
	var out bytes.Buffer
	for _, err := range []error{c.Print(&out), c.PrintJSON(&out), json.NewEncoder(&out).Encode(c)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	logger := slog.New(slog.NewJSONHandler(&out, nil))
	logger.Info("all", "config", c, "auth", c.Auth, "url", c.Projections.DatabaseURL, "key", c.LLM.ProviderAPIKey)
	slog.New(slog.NewTextHandler(&out, nil)).Info("all", "config", c, "key", c.LLM.ProviderAPIKey)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb, c, c.LLM.ProviderAPIKey, &c)
	}
	// In a field that the printing package cannot reach.
	fmt.Fprintf(&out, "%+v %#v", struct{ hidden any }{c.LLM}, struct{ c Config }{c})
	for _, leak := range []string{"hunter2", "68756e7465723", "104 117 110 116"} {
		if strings.Contains(out.String(), leak) {
			i := strings.Index(out.String(), leak)
			t.Errorf("%q is printed: …%s…", leak, out.String()[max(0, i-80):i+len(leak)])
		}
	}
	if got := c.LLM.ProviderAPIKey.Reveal(); got != "hunter2" {
		t.Errorf("Reveal = %q", got)
	}
}

func TestNoSecretIsInAProblem(t *testing.T) {
	t.Parallel()
	var environ []string
	for _, f := range fieldsOf(new(Config)) {
		value := "x://u:hunter2@h/\x01"
		if f.secret {
			value = "hunter2\x01"
		}
		environ = append(environ, f.name+"="+value)
	}
	lines := problems(t, environ...)
	if len(lines) < len(environ)-1 {
		t.Errorf("%d problems for %d wrong values", len(lines), len(environ))
	}
	if all := strings.Join(lines, "\n"); strings.Contains(all, "hunter2") || strings.Contains(all, "\x01") {
		t.Errorf("a problem shows a secret or a control character:\n%s", all)
	}
}

func TestPrintShowsValueAndOrigin(t *testing.T) {
	t.Parallel()
	path := write(t, ".env", "VEGA_REGION=eu-1\n")
	c, err := Load(append([]string{"DATABASE_URL=postgres://u:p@h/db", "VEGA_REGON=x"}, "VEGA_PERSISTENCE_BACKEND=postgres", "VEGA_AUTH_SECRET=0123456789abcdef"), path)
	if err != nil {
		t.Fatal(err)
	}
	var table, document bytes.Buffer
	if err := c.Print(&table); err != nil {
		t.Fatal(err)
	}
	var words []string
	for line := range strings.Lines(table.String()) {
		words = append(words, strings.Join(strings.Fields(line), " "))
	}
	for _, want := range []string{
		"NAME VALUE ORIGIN",
		"VEGA_SERVICE_ROLE api default",
		"VEGA_REGION eu-1 .env",
		"VEGA_DATABASE_URL postgres://u:xxxxx@h/db environment (DATABASE_URL)",
		"VEGA_AUTH_SECRET [redacted] environment",
		"VEGA_MASK_SECRET [redacted] generated",
		"VEGA_LLM_PROVIDER_API_KEY - default",
		"VEGA_SCAN_TIMEOUT_SECONDS 14400 default",
		"VEGA_LOG_LEVEL info default",
		"warning: VEGA_REGON: no such setting; did you mean VEGA_REGION?",
	} {
		if !slices.Contains(words, want) {
			t.Errorf("no line %q in\n%s", want, table.String())
		}
	}
	if err := c.PrintJSON(&document); err != nil {
		t.Fatal(err)
	}
	var got struct {
		SchemaVersion int `json:"schema_version"`
		Values        []Value
		Warnings      []Warning
	}
	if err := json.Unmarshal(document.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.SchemaVersion != 1 || !slices.Equal(got.Values, slices.Collect(c.Values())) || !slices.Equal(got.Warnings, c.Warnings) {
		t.Errorf("the document differs from the values:\n%s", document.String())
	}
}

func TestGeneratedSecretsAreKeptAndShared(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	configs := make([]Config, 8)
	var wg sync.WaitGroup
	for i := range configs {
		configs[i] = mustLoad(t, "VEGA_DATA_DIR="+dir)
		wg.Go(func() {
			if err := configs[i].KeepSecrets(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	first := configs[0]
	if len(first.Auth.Secret.Reveal()) < 32 || first.Auth.Secret == first.LLM.AuthSecret || first.Engine.MaskSecret.IsZero() {
		t.Error("the secrets are short, equal or missing")
	}
	for i, c := range configs {
		if c.Auth.Secret != first.Auth.Secret || c.LLM.AuthSecret != first.LLM.AuthSecret || c.Engine.MaskSecret != first.Engine.MaskSecret {
			t.Errorf("process %d has other secrets than the first", i)
		}
	}
	entries, err := os.ReadDir(filepath.Join(dir, secretsFolder))
	if err != nil || len(entries) != 3 {
		t.Fatalf("files %v, error %v; want three", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, error %v", e.Name(), info.Mode(), err)
		}
	}
	given := mustLoad(t, "VEGA_DATA_DIR="+dir, "VEGA_AUTH_SECRET=given by the operator")
	if err := given.KeepSecrets(); err != nil || given.Auth.Secret.Reveal() != "given by the operator" {
		t.Errorf("a given secret became %q, error %v", given.Auth.Secret.Reveal(), err)
	}
}

func TestACrashWhileKeepingASecretIsRepaired(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := mustLoad(t, "VEGA_DATA_DIR="+dir)
	if err := os.MkdirAll(filepath.Join(dir, secretsFolder), 0o700); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(dir, secretsFolder, "auth.new")
	if err := os.WriteFile(half, []byte("HAL"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.KeepSecrets(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half); !os.IsNotExist(err) {
		t.Errorf("the half-written file is still there: %v", err)
	}
	if len(c.Auth.Secret.Reveal()) < 32 {
		t.Error("the half-written secret was used")
	}
	// A kept secret that was emptied is not replaced: what it signed would become worthless without a word.
	if err := os.WriteFile(filepath.Join(dir, secretsFolder, "mask"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.KeepSecrets(); err == nil || !strings.Contains(err.Error(), "VEGA_MASK_SECRET") {
		t.Errorf("an emptied secret: error %v, want one that names VEGA_MASK_SECRET", err)
	}
}

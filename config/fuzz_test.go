package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzLoad reads any environment and any .env file: no panic, every problem in one line of text, no secret in what is shown.
func FuzzLoad(f *testing.F) {
	f.Add("VEGA_SERVICE_ROLE=worker\x00VEGA_WORKER_SLOTS=3", "VEGA_REGION=eu-1\n")
	f.Add("VEGA_ENVIRONMENT=prod\x00VEGA_SCAN_EXECUTION_MODE=sqs", "export VEGA_APP_NAME='x'\n# comment\n")
	f.Add("DATABASE_URL=postgres://u:p@h/db\x00VEGA_PERSISTENCE_BACKEND=postgres", "VEGA_AUTH_SECRET=\"a\nb\"\n")
	f.Add("VEGA_NATS_URL=nats://a:1,tls://b:2\x00VEGA_LISTEN_ADDR=[::]:80", "A=$B\nnot a line\n")
	f.Add("VEGA_LLM_PROXY_MAX_COST_USD_PER_SCAN=1.000000001\x00VEGA_WORKER_SLOTS=010", "=\n:\n'")
	for _, line := range secretful {
		f.Add(line, line)
	}
	f.Fuzz(func(t *testing.T, environ, dotenv string) {
		if len(dotenv) > 4096 || len(environ) > 4096 {
			return
		}
		path := filepath.Join(t.TempDir(), ".env")
		if err := os.WriteFile(path, []byte(dotenv), 0o600); err != nil {
			t.Fatal(err)
		}
		const canary = "canary-7f3a9c"
		entries := append(strings.Split(environ, "\x00"), "VEGA_LLM_PROVIDER_API_KEY="+canary)
		c, err := Load(entries, path)
		var out bytes.Buffer
		if err != nil {
			e, ok := errors.AsType[*Error](err)
			if !ok || len(e.Problems) == 0 {
				t.Fatalf("Load returned %T: %v", err, err)
			}
			for _, p := range e.Problems {
				if line := p.String(); strings.ContainsAny(line, "\n\r\x1b") || p.Variable == "" || p.Message == "" {
					t.Errorf("problem %q", line)
				}
			}
			out.WriteString(err.Error())
		}
		if err := errors.Join(c.Print(&out), c.PrintJSON(&out)); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), canary) && !strings.Contains(environ+dotenv, canary) {
			t.Errorf("the provider's key is shown:\n%s", out.String())
		}
	})
}

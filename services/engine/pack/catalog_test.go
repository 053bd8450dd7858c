package pack_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vega/scripts/installed"
	"vega/services/llmproxy/providertest"
)

func TestACatalogHasOneModelUnderAnyName(t *testing.T) {
	t.Parallel()
	p := builtIn(t)
	var before map[string]any
	for _, name := range []string{"gpt-5.4", "house/model-7b@2026:latest", strings.Repeat("m", 100)} {
		got, err := p.Catalog(name)
		if err != nil {
			t.Fatal(err)
		}
		var c struct{ Models []map[string]any }
		if err := json.Unmarshal(got, &c); err != nil || len(c.Models) != 1 {
			t.Fatalf("Catalog(%q) = %s, %v", name, got, err)
		}
		m := c.Models[0]
		if m["slug"] != name || m["context_window"] != 272000.0 || m["supports_parallel_tool_calls"] != true || m["default_reasoning_summary"] != "none" {
			t.Errorf("model = %v", m)
		}
		if s, _ := m["base_instructions"].(string); !strings.Contains(s, "security auditor") {
			t.Errorf("base_instructions = %.60q", s)
		}
		delete(m, "slug")
		delete(m, "display_name")
		if before != nil && fmt.Sprint(m) != fmt.Sprint(before) {
			t.Errorf("%s differs from other models", name)
		}
		before = m
	}
	for _, name := range []string{"", " ", "gpt 5", "-m", "a\"b", "a\nb", "ü", strings.Repeat("m", 101)} {
		if _, err := p.Catalog(name); err == nil {
			t.Errorf("Catalog(%q) has no error", name)
		}
	}
}

// The catalog is for a program that we do not build, so each release of it that we know has to take it.
func TestTheAgentTakesTheCatalogAndOffersAShell(t *testing.T) {
	t.Parallel()
	p := builtIn(t)
	for _, release := range installed.CodexReleases {
		for _, model := range []string{"gpt-5.4", "house/model-7b"} {
			t.Run(release+" "+strings.ReplaceAll(model, "/", "_"), func(t *testing.T) {
				t.Parallel()
				usage := providertest.Usage{Input: 10, Output: 5}
				provider := providertest.Start(t, providertest.InTurn(
					providertest.Shell("echo catalog-$((40+2))", usage),
					providertest.Text("{}", usage),
				))
				catalog, err := p.Catalog(model)
				if err != nil {
					t.Fatal(err)
				}
				out := agent(t, release, model, catalog, provider)
				requests := provider.Requests()
				if len(requests) != 2 {
					t.Fatalf("the agent made %d requests, want 2; it said %s", len(requests), out)
				}
				var asked struct {
					Model        string
					Instructions string
					Input        []struct {
						Role    string
						Content json.RawMessage
					}
					Tools     []struct{ Type, Name string }
					Parallel  bool `json:"parallel_tool_calls"`
					Reasoning map[string]any
				}
				if err := json.Unmarshal(requests[0].Body, &asked); err != nil {
					t.Fatal(err)
				}
				// Older releases send the instructions as a field, newer ones as the first message of the developer.
				instructions := asked.Instructions
				if instructions == "" && len(asked.Input) > 0 && asked.Input[0].Role == "developer" {
					instructions = string(asked.Input[0].Content)
				}
				if !strings.Contains(instructions, "You are a careful security auditor") || bytes.Contains(requests[0].Body, []byte("You are Codex")) {
					t.Errorf("instructions = %.100q", instructions)
				}
				var tools []string
				for _, tool := range asked.Tools {
					tools = append(tools, tool.Name)
					if tool.Name == "apply_patch" || strings.HasPrefix(tool.Type, "web_search") {
						t.Errorf("the agent offers %s %s", tool.Type, tool.Name)
					}
				}
				if !strings.Contains(strings.Join(tools, " "), "exec_command") {
					t.Errorf("the tools are %v, want exec_command among them", tools)
				}
				if asked.Model != model || !asked.Parallel || asked.Reasoning["effort"] != "medium" || asked.Reasoning["summary"] != nil {
					t.Errorf("model %q, parallel %v, reasoning %v", asked.Model, asked.Parallel, asked.Reasoning)
				}
				if !bytes.Contains(requests[1].Body, []byte("catalog-42")) {
					t.Error("the command's output did not come back")
				}
			})
		}
	}
}

// agent runs a release once, with a catalog and a provider, and returns what it wrote.
func agent(t *testing.T, release, model string, catalog []byte, provider *providertest.Provider) string {
	t.Helper()
	program, err := installed.Codex(release)
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(home, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("config.toml", fmt.Sprintf(`model = %q
model_provider = "vega"
model_catalog_json = %q
approval_policy = "never"
check_for_update_on_startup = false
web_search = "disabled"

[analytics]
enabled = false

[features]
plugins = false
apps = false
goals = false
unbounded_connection_retries = false
shell_snapshot = false

[model_providers.vega]
name = "Vega"
base_url = %q
env_key = "VEGA_TEST_KEY"
wire_api = "responses"
supports_websockets = false
request_max_retries = 0
stream_max_retries = 0
`, model, write("catalog.json", string(catalog)), provider.URL))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "exec", "--json", "--skip-git-repo-check", "--ephemeral", "--dangerously-bypass-approvals-and-sandbox", "Go.")
	cmd.Dir = t.TempDir()
	cmd.Env = []string{"HOME=" + home, "CODEX_HOME=" + home, "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "VEGA_TEST_KEY=" + provider.Key}
	cmd.WaitDelay = 5 * time.Second // for commands that hold its output open
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("codex %s: %v; it wrote %s", release, err, out)
	}
	return string(out)
}

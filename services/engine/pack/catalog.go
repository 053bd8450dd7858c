package pack

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"vega/events"
)

// modelFile is models.json: what the agent is told about any model, without its name and the instructions.
type modelFile struct {
	Schema int        `json:"schema_version"`
	Model  modelEntry `json:"model"`
}

// modelEntry has the fields of the agent's model catalog that the pack sets. The agent refuses a catalog that lacks one of those up to
// ExperimentalTools; it ignores fields that it does not know, so a misspelled one would go unnoticed without this type.
type modelEntry struct {
	ReasoningLevels   []reasoningLevel `json:"supported_reasoning_levels"`
	ShellType         string           `json:"shell_type"` // unified_exec: commands run by exec_command
	Visibility        string           `json:"visibility"`
	SupportedInAPI    bool             `json:"supported_in_api"`
	Priority          int              `json:"priority"`
	SupportVerbosity  bool             `json:"support_verbosity"`
	Truncation        truncation       `json:"truncation_policy"` // of what a command prints
	ExperimentalTools []string         `json:"experimental_supported_tools"`

	DefaultReasoning    string   `json:"default_reasoning_level"`
	ReasoningSummaries  bool     `json:"supports_reasoning_summaries"`
	DefaultSummary      string   `json:"default_reasoning_summary"` // none: no summary is asked for
	ParallelToolCalls   bool     `json:"supports_parallel_tool_calls"`
	ContextWindow       int      `json:"context_window"` // tokens
	MaxContextWindow    int      `json:"max_context_window"`
	InputModalities     []string `json:"input_modalities"`
	SearchTool          bool     `json:"supports_search_tool"`
	IncludeSkillsUsage  bool     `json:"include_skills_usage_instructions"`
	IncludePluginsUsage bool     `json:"include_plugin_usage_instructions"`
	IncludeAppsUsage    bool     `json:"include_apps_usage_instructions"`
}

type reasoningLevel struct {
	Effort      string `json:"effort"`
	Description string `json:"description"`
}

type truncation struct {
	Mode  string `json:"mode"`  // tokens or bytes
	Limit int    `json:"limit"` // of Mode
}

// Catalog is the model catalog (the agent's model_catalog_json) with one model: the same entry under any name, with the pack's own base
// instructions. So the agent offers the same tools in every release, whether it knows the model or not.
func (p *Pack) Catalog(model string) ([]byte, error) {
	if err := events.CheckModel(model); err != nil {
		return nil, err
	}
	entry := make(map[string]any)
	if err := json.Unmarshal(p.model, &entry); err != nil {
		return nil, fmt.Errorf("catalog for %s: %w", model, err)
	}
	entry["slug"], entry["display_name"], entry["base_instructions"] = model, model, p.base
	out, err := json.MarshalIndent(map[string]any{"models": []any{entry}}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("catalog for %s: %w", model, err)
	}
	return append(out, '\n'), nil
}

// models reads the model's entry.
func (s *source) models(name string, line int) json.RawMessage {
	var m modelFile
	root := s.decode(name, manifestFile, line, &m)
	if root == nil {
		return nil
	}
	at := root.field("model")
	refuse := func(field string, bad bool, format string, args ...any) {
		if bad {
			s.add(name, at.at(field), format, args...)
		}
	}
	if m.Schema != schemaVersion {
		s.add(name, root.at("schema_version"), "schema_version is %d, want %d", m.Schema, schemaVersion)
	}
	e := m.Model
	oneOf := func(field, got string, want ...string) {
		if slices.Contains(want, got) {
			return
		}
		refuse(field, true, "%s is %q, want one of %s", field, got, strings.Join(want, ", "))
	}
	oneOf("shell_type", e.ShellType, "default", "local", "unified_exec", "shell_command")
	oneOf("visibility", e.Visibility, "list", "hide", "none")
	oneOf("default_reasoning_summary", e.DefaultSummary, "auto", "concise", "detailed", "none")
	oneOf("truncation_policy", e.Truncation.Mode, "bytes", "tokens")
	refuse("truncation_policy", e.Truncation.Limit < 1000, "truncation_policy has the limit %d, want at least 1000", e.Truncation.Limit)
	refuse("context_window", e.ContextWindow < 16_000, "context_window is %d tokens, want at least 16000", e.ContextWindow)
	refuse("max_context_window", e.MaxContextWindow < e.ContextWindow, "max_context_window is less than context_window")
	var efforts []string
	for _, l := range e.ReasoningLevels {
		efforts = append(efforts, l.Effort)
		oneOf("supported_reasoning_levels", l.Effort, "none", "minimal", "low", "medium", "high", "xhigh")
	}
	refuse("supported_reasoning_levels", len(efforts) == 0, "supported_reasoning_levels is empty")
	if len(efforts) > 0 {
		oneOf("default_reasoning_level", e.DefaultReasoning, efforts...)
	}
	raw, err := json.Marshal(e)
	if err != nil {
		s.add(name, 1, "%v", err)
	}
	return raw
}

// baseInstructions reads the text that stands before every prompt. The agent fills in templates of its own there, so it has no braces.
func (s *source) baseInstructions(name string, line int) string {
	content, ok := s.text(name, manifestFile, line)
	if !ok {
		return ""
	}
	if i := strings.Index(content, "{{"); i >= 0 {
		s.add(name, lineAt([]byte(content), i), "has {{, which the agent would take for a template")
	}
	return strings.TrimSpace(content) + "\n"
}

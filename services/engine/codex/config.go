package codex

import (
	"fmt"
	"strconv"

	"vega/services/engine/process"
)

const (
	keyVariable = "VEGA_RUN_KEY" // holds the relay's key; the model's commands do not see it
	catalogFile = "models.json"
	schemaFile  = "schema.json"
	configFile  = "config.toml"
	workFolder  = "work" // where Codex works; empty
)

// configTOML is Codex's configuration for one run. Everything that would take settings, tools or instructions from elsewhere is off, and so is whatever makes it call anybody but the
// relay. A failing relay is asked again only a few times: it has waited already.
func configTOML(model string, port int, mark process.Mark) string {
	return fmt.Sprintf(`model = %s
model_provider = "vega"
model_catalog_json = %q
approval_policy = "never"
check_for_update_on_startup = false
web_search = "disabled"
project_doc_max_bytes = 0
include_apps_instructions = false
include_collaboration_mode_instructions = false
include_permissions_instructions = false

[analytics]
enabled = false

[agents]
enabled = false

[skills]
include_instructions = false

[skills.bundled]
enabled = false

[tools.experimental_request_user_input]
enabled = false

[features]
plugins = false
apps = false
goals = false
hooks = false
memories = false
image_generation = false
browser_use = false
computer_use = false
tool_suggest = false
view_image = false
unbounded_connection_retries = false
shell_snapshot = false

[shell_environment_policy]
inherit = "core"
set = { %s = %s }

[model_providers.vega]
name = "Vega"
base_url = "http://127.0.0.1:%d/v1"
env_key = %q
wire_api = "responses"
supports_websockets = false
request_max_retries = 0
stream_max_retries = 2
stream_idle_timeout_ms = 600000
`, tomlString(model), catalogFile, process.MarkName, tomlString(mark.Value), port, keyVariable)
}

// tomlString is s as a basic string of TOML, whose escapes are those of JSON and, for what is printable, of Go.
func tomlString(s string) string { return strconv.QuoteToASCII(s) }

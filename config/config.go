package config

import (
	"log/slog"
	"strings"

	"vega/events"
	"vega/events/eventstore"
	"vega/projections"
	"vega/services/api"
	"vega/services/auth"
	"vega/services/dispatch"
	"vega/services/engine"
	"vega/services/files"
	"vega/services/fleet"
	"vega/services/intake"
	"vega/services/llmproxy"
	"vega/services/maintenance"
	"vega/services/worker"
)

// Config is everything a process is configured with: its own part first, then one struct per package.
// It is a value; nothing changes it after [Load] and [Config.KeepSecrets].
type Config struct {
	// ServiceRole is what this process does.
	ServiceRole Role `env:"VEGA_SERVICE_ROLE, default=api" oneof:"api worker maintenance llm-proxy" section:"Application" doc:"What this process does: api, worker, maintenance, or llm-proxy."`

	// Environment labels logs; "prod" (see Prod) turns the production rules on.
	Environment string `env:"VEGA_ENVIRONMENT, default=dev" form:"name" doc:"Environment name. Affects log labels; in prod, what suits one laptop only is refused."`

	// Region is where this process runs.
	Region events.Region `env:"VEGA_REGION, default=local" form:"region" doc:"This process's region."`

	// DataDir is the folder that holds everything kept locally.
	DataDir string `env:"VEGA_DATA_DIR, default=data" doc:"Folder for everything that is kept locally."`

	// LogLevel is the least level that is logged.
	LogLevel slog.Level `env:"VEGA_LOG_LEVEL, default=info" oneof:"debug info warn error" doc:"Least level that is logged."`

	// LogFormat is FormatText or FormatJSON; empty: text on a terminal, else JSON, which the caller finds out.
	LogFormat LogFormat `env:"VEGA_LOG_FORMAT" oneof:"text json" shown:"(text on a terminal, else json)" doc:"How log lines are written."`

	// AllowInsecureProd lets what the production rules refuse start all the same, with a warning.
	AllowInsecureProd bool `env:"VEGA_ALLOW_INSECURE_PROD, default=false" doc:"Start in prod although thread mode, json persistence, local files, custom sign-in or a missing model would be refused; each becomes a warning."`

	// HealthAddr is where a process that is not the API answers for itself; empty: nowhere.
	HealthAddr string `env:"VEGA_HEALTH_LISTEN_ADDR" form:"address" doc:"Where a worker or a maintenance process serves healthz, readyz and metrics; unset, it listens nowhere. The API has them on its own address."`

	API         api.Config         `section:"Application"`
	Log         eventstore.Config  `section:"Event log"`
	Projections projections.Config `section:"Storage and persistence"`
	Files       files.Config       `section:"Storage and persistence"`
	Dispatch    dispatch.Config    `section:"Scan execution"`
	Worker      worker.Config      `section:"Scan execution"`
	Fleet       fleet.Config       `section:"Scan execution"`
	Maintenance maintenance.Config `section:"Scan execution"`
	Engine      engine.Config      `section:"v16 and Codex"`
	LLM         llmproxy.Config    `section:"LLM proxy"`
	Auth        auth.Config        `section:"Authentication"`
	Intake      intake.Config      `section:"Source limits"`

	// Warnings is what was noticed and does not stop a start.
	Warnings []Warning

	values   []Value // in the order of the fields; printable, so without any secret
	generate []generated
}

// Role is what one process does.
type Role string

const (
	RoleAPI         Role = "api"
	RoleWorker      Role = "worker"
	RoleMaintenance Role = "maintenance"
	RoleLLMProxy    Role = "llm-proxy"
)

// LogFormat is how log lines are written.
type LogFormat string

const (
	FormatText LogFormat = "text"
	FormatJSON LogFormat = "json"
)

// Prod reports whether the production rules apply: the environment is called prod or production, in any case.
func (c *Config) Prod() bool {
	return strings.EqualFold(c.Environment, "prod") || strings.EqualFold(c.Environment, "production")
}

// OneMachine reports whether the log is this machine's own embedded server, so that every process of the installation shares
// the data folder.
func (c *Config) OneMachine() bool { return c.Log.NATSURL.IsZero() }

// Load reads the configuration of a process from environ (as os.Environ returns it) and from the file dotenvPath, which need
// not exist; "" means none. A variable of the environment wins over one of the file, even an empty one. An empty value means
// the default.
//
// The returned error is an [*Error] with every problem. The Config that comes with it holds what could be read, for printing.
func Load(environ []string, dotenvPath string) (Config, error) {
	l := newLoader(environ, dotenvPath)
	l.decode()
	l.derive()
	l.checkRules()
	l.warnUnknown()
	return l.finish()
}

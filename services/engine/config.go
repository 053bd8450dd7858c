package engine

import (
	"time"

	"vega/config/secret"
)

// Config says where the engine finds its pack, Codex and the model.
type Config struct {
	// Root is the folder of the engine pack: prompts, schemas and rules.
	Root string `env:"VEGA_V16_ROOT, default=v16/" doc:"Path to the engine pack: prompts, output schemas and rules. When it is not set, the copy of the project's v16/ inside the binary is used, whatever lies in the current folder."`

	// RuntimeRoot holds the working files of running scans.
	RuntimeRoot string `env:"VEGA_V16_RUNTIME_ROOT" shown:"(data dir)" doc:"Where the engine writes its working files during a scan; by default the folder v16 under VEGA_DATA_DIR."`

	// CodexBin is the command that runs Codex.
	CodexBin string `env:"VEGA_V16_CODEX_BIN, default=scripts/codex-in-target-container.sh" doc:"Command used to invoke Codex. The default runs Codex in an isolated Docker container; when this is not set, the copy of that script inside the binary is used. Override with a plain codex binary for debugging."`

	// CodexDockerImage is the image that the default CodexBin starts.
	CodexDockerImage string `env:"VEGA_V16_CODEX_DOCKER_IMAGE, default=vega-codex-runner:latest" form:"image" doc:"Docker image used for Codex isolation."`

	// Model is the model's name as the provider knows it.
	Model string `env:"VEGA_V16_MODEL, default=gpt-5.4" doc:"AI model name passed to Codex."`

	// Parallel is how many components of a scan are audited at once.
	Parallel int `env:"VEGA_V16_PARALLEL, default=3" min:"1" max:"64" doc:"How many agents work on one scan at once."`

	// MaxComponents is how many components a scan's plan may have.
	MaxComponents int `env:"VEGA_V16_MAX_COMPONENTS, default=12" min:"1" max:"100" doc:"How many components a scan audits at most."`

	// RunTimeout bounds one run of Codex.
	RunTimeout time.Duration `env:"VEGA_V16_RUN_TIMEOUT_SECONDS, default=1800" unit:"seconds" min:"10" max:"86400" doc:"How long one run of Codex may take. When four fifths of it are over, the model is asked for its answer."`

	// CodexSandbox confines a plain codex.
	CodexSandbox string `env:"VEGA_V16_CODEX_SANDBOX, default=read-only" oneof:"read-only none" doc:"What confines a plain codex binary: its own sandbox (read-only), or nothing but what the process runs in (none). The container script does not use it."`

	// CodexMemory, CodexPIDs and CodexCPUs bound the container of one run.
	CodexMemory string `env:"VEGA_V16_CODEX_MEMORY, default=2g" form:"memory" doc:"Memory of the container of one run, as Docker writes it."`
	CodexPIDs   int    `env:"VEGA_V16_CODEX_PIDS, default=256" min:"16" max:"65536" doc:"Processes in the container of one run."`
	CodexCPUs   string `env:"VEGA_V16_CODEX_CPUS, default=2" form:"cpus" doc:"Processors that the container of one run may use, as Docker writes it."`

	// MaskSecret keys the HMAC that stands for a found credential in events and findings.
	MaskSecret secret.String `env:"VEGA_MASK_SECRET" secret:"true" shown:"(generated)" doc:"Key of the HMAC that stands for a found credential, so that the same credential is recognised without being kept. Generated and kept under the data folder if unset; workers on several machines need the same one."`

	// What follows is filled in by package config, not by a variable of its own.

	// RootGiven says that VEGA_V16_ROOT was set. Root counts only then: its default names a folder of the project's source, not of whatever the process was started in.
	RootGiven bool
	// CodexBinGiven says the same of VEGA_V16_CODEX_BIN.
	CodexBinGiven bool
	// ModelAccess says whether the stages that need a model can reach one.
	ModelAccess ModelAccess
}

// ModelAccess says whether and where the stages that need a model reach one.
type ModelAccess struct {
	// ProxyBaseURL is the LLM proxy that Codex is pointed at; empty: the proxy in this process.
	ProxyBaseURL string
	// Missing names the variables that have to be set before a model can be reached, in the order of the documentation;
	// empty: everything is configured.
	Missing []string
}

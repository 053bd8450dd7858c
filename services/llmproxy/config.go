package llmproxy

import (
	"time"

	"vega/config/secret"
	"vega/services/llmproxy/price"
)

// Config says where the proxy listens, which provider it forwards to and what a scan may spend.
type Config struct {
	// ListenAddr is where a process of the llm-proxy role listens.
	ListenAddr string `env:"VEGA_LLM_PROXY_LISTEN_ADDR, default=127.0.0.1:8001" form:"address" doc:"Where the LLM proxy listens; a container sets 0.0.0.0:8001."`

	// BaseURL is where runners reach the proxy; empty: the proxy in this process.
	BaseURL string `env:"VEGA_LLM_PROXY_BASE_URL" form:"http-url" doc:"Internal URL of the proxy service. Set this in runner containers so Codex routes through the proxy. Without it the proxy inside the process is used; separate roles require it."`

	// AuthSecret signs and verifies the tokens that name one scan.
	AuthSecret secret.String `env:"VEGA_LLM_PROXY_AUTH_SECRET" secret:"true" doc:"Secret used to sign and verify per-scan proxy tokens. On one machine it is generated and kept under the data folder; separate roles require it."`

	// PreviousAuthSecrets still verify tokens, and sign none.
	PreviousAuthSecrets secret.String `env:"VEGA_LLM_PROXY_PREVIOUS_AUTH_SECRETS" secret:"true" doc:"Secrets that VEGA_LLM_PROXY_AUTH_SECRET had before, by comma: tokens signed with them are still accepted."`

	// ProviderBaseURL is the provider's OpenAI-compatible endpoint.
	ProviderBaseURL string `env:"VEGA_LLM_PROVIDER_BASE_URL" form:"http-url" doc:"The AI provider's API base URL (e.g., OpenAI-compatible endpoint)."`

	// ProviderAPIKey is added to every forwarded request.
	ProviderAPIKey secret.String `env:"VEGA_LLM_PROVIDER_API_KEY" secret:"true" doc:"Provider API key. Owned by the proxy service, not the runners."`

	// MaxRequestsPerScan counts calls to the provider, retries included; 0 means no limit.
	MaxRequestsPerScan int64 `env:"VEGA_LLM_PROXY_MAX_REQUESTS_PER_SCAN, default=0" min:"0" doc:"Hard cap on AI requests per scan. 0 means no limit."`

	// MaxTokensPerScan counts input and output tokens; 0 means no limit.
	MaxTokensPerScan int64 `env:"VEGA_LLM_PROXY_MAX_TOKENS_PER_SCAN, default=0" min:"0" doc:"Hard cap on tokens per scan. 0 means no limit."`

	// MaxCostPerScan is the estimated cost; 0 means no limit.
	MaxCostPerScan price.NanoUSD `env:"VEGA_LLM_PROXY_MAX_COST_USD_PER_SCAN, default=0" allowed:"US dollars, such as 2.50, with at most nine decimals" doc:"Hard cap on estimated cost per scan in USD. 0 means no limit."`

	// AllowedModels are the models that may be called; empty: any.
	AllowedModels []string `env:"VEGA_LLM_PROXY_ALLOWED_MODELS" doc:"Models that may be called, by comma; a name that ends in * stands for all that begin so. Without it any model may be, but under a cap on cost only one whose price is known."`

	// PricesFile overrides and adds to the prices that the binary carries.
	PricesFile string `env:"VEGA_LLM_PROXY_PRICES_FILE" doc:"A JSON file with prices that replace or add to those that the binary carries."`

	// MaxRequestBytes bounds the body of one request.
	MaxRequestBytes int64 `env:"VEGA_LLM_PROXY_MAX_REQUEST_BYTES, default=33554432" unit:"bytes" min:"1024" doc:"The largest request that is forwarded."`

	// MaxOutputTokens is the output limit that a request without one gets.
	MaxOutputTokens int64 `env:"VEGA_LLM_PROXY_MAX_OUTPUT_TOKENS, default=32768" min:"256" doc:"The most tokens that one answer may have, reasoning included. Requests that ask for more, or for no limit, are changed to it."`

	// MaxInFlightPerScan bounds the calls of one scan that are on their way at once, in each proxy process.
	MaxInFlightPerScan int `env:"VEGA_LLM_PROXY_MAX_IN_FLIGHT_PER_SCAN, default=16" min:"1" max:"1000" doc:"Calls of one scan that may be on their way at once in each proxy process; as many again wait a short while."`

	// IdleTimeout ends an answer of which nothing has come for so long.
	IdleTimeout time.Duration `env:"VEGA_LLM_PROXY_IDLE_TIMEOUT_SECONDS, default=300" unit:"seconds" min:"1" doc:"How long the provider may be silent in a call before it is cut off."`

	// DrainTimeout is what calls get to finish when the process stops.
	DrainTimeout time.Duration `env:"VEGA_LLM_PROXY_DRAIN_SECONDS, default=15" unit:"seconds" min:"0" doc:"What calls on their way get to finish when a process of the llm-proxy role is asked to stop. What is cut off then is charged as reserved."`

	// TotalTimeout ends a call.
	TotalTimeout time.Duration `env:"VEGA_LLM_PROXY_CALL_TIMEOUT_SECONDS, default=1800" unit:"seconds" min:"1" doc:"How long one call may take in all. What a crashed proxy had reserved is charged after as long."`
}

// Caps are what one scan may spend.
func (c Config) Caps() Caps {
	return Caps{Requests: c.MaxRequestsPerScan, Tokens: c.MaxTokensPerScan, Cost: c.MaxCostPerScan}
}

// withDefaults is what a Config that nobody read from an environment means: tests'.
func (c Config) withDefaults() Config {
	for _, d := range []struct {
		field *int64
		value int64
	}{{&c.MaxRequestBytes, 32 << 20}, {&c.MaxOutputTokens, 32768}, {(*int64)(&c.IdleTimeout), int64(5 * time.Minute)}, {(*int64)(&c.TotalTimeout), int64(30 * time.Minute)}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if c.MaxInFlightPerScan <= 0 {
		c.MaxInFlightPerScan = 16
	}
	return c
}

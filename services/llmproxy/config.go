package llmproxy

import (
	"errors"
	"math"
	"strconv"
	"strings"

	"vega/config/secret"
)

// Config says where the proxy listens, which provider it forwards to and what a scan may spend.
type Config struct {
	// ListenAddr is where a process of the llm-proxy role listens.
	ListenAddr string `env:"VEGA_LLM_PROXY_LISTEN_ADDR, default=127.0.0.1:8001" form:"address" doc:"Where the LLM proxy listens; a container sets 0.0.0.0:8001."`

	// BaseURL is where runners reach the proxy; empty: the proxy in this process.
	BaseURL string `env:"VEGA_LLM_PROXY_BASE_URL" form:"http-url" doc:"Internal URL of the proxy service. Set this in runner containers so Codex routes through the proxy. Without it the proxy inside the process is used; separate roles require it."`

	// AuthSecret signs and verifies the tokens that name one scan.
	AuthSecret secret.String `env:"VEGA_LLM_PROXY_AUTH_SECRET" secret:"true" doc:"Secret used to sign and verify per-scan proxy tokens. On one machine it is generated and kept under the data folder; separate roles require it."`

	// ProviderBaseURL is the provider's OpenAI-compatible endpoint.
	ProviderBaseURL string `env:"VEGA_LLM_PROVIDER_BASE_URL" form:"http-url" doc:"The AI provider's API base URL (e.g., OpenAI-compatible endpoint)."`

	// ProviderAPIKey is added to every forwarded request.
	ProviderAPIKey secret.String `env:"VEGA_LLM_PROVIDER_API_KEY" secret:"true" doc:"Provider API key. Owned by the proxy service, not the runners."`

	// MaxRequestsPerScan counts calls to the provider, retries included; 0 means no limit.
	MaxRequestsPerScan int64 `env:"VEGA_LLM_PROXY_MAX_REQUESTS_PER_SCAN, default=0" min:"0" doc:"Hard cap on AI requests per scan. 0 means no limit."`

	// MaxTokensPerScan counts input and output tokens; 0 means no limit.
	MaxTokensPerScan int64 `env:"VEGA_LLM_PROXY_MAX_TOKENS_PER_SCAN, default=0" min:"0" doc:"Hard cap on tokens per scan. 0 means no limit."`

	// MaxCostPerScan is the estimated cost; 0 means no limit.
	MaxCostPerScan NanoUSD `env:"VEGA_LLM_PROXY_MAX_COST_USD_PER_SCAN, default=0" allowed:"US dollars, such as 2.50, with at most nine decimals" doc:"Hard cap on estimated cost per scan in USD. 0 means no limit."`
}

// NanoUSD is an amount of money in billionths of a US dollar. Sums of it are exact.
type NanoUSD int64

const nanosPerUSD = 1_000_000_000

// ErrAmount is what UnmarshalText returns for a text that is no amount.
var ErrAmount = errors.New("not an amount of US dollars")

// UnmarshalText reads a decimal amount of dollars such as "2.50", never negative, with at most nine decimals.
// It returns ErrAmount for anything else.
func (n *NanoUSD) UnmarshalText(b []byte) error {
	whole, fraction, dotted := strings.Cut(string(b), ".")
	if len(fraction) > 9 || dotted && fraction == "" || !digits(whole) || !digits(fraction) || whole == "" {
		return ErrAmount
	}
	dollars, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || dollars > math.MaxInt64/nanosPerUSD-1 {
		return ErrAmount
	}
	nanos, err := strconv.ParseInt((fraction + "000000000")[:9], 10, 64)
	if err != nil {
		return ErrAmount
	}
	*n = NanoUSD(dollars*nanosPerUSD + nanos)
	return nil
}

// String writes the amount in dollars, without trailing zeros: "2.5".
func (n NanoUSD) String() string {
	sign, v := "", uint64(n)
	if n < 0 {
		sign, v = "-", -v
	}
	s := strconv.FormatUint(v/nanosPerUSD, 10)
	if rest := v % nanosPerUSD; rest != 0 {
		s += "." + strings.TrimRight(strconv.FormatUint(nanosPerUSD+rest, 10)[1:], "0")
	}
	return sign + s
}

// MarshalText is what encoding/json writes: the same as String.
func (n NanoUSD) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

func digits(s string) bool { return strings.Trim(s, "0123456789") == "" }

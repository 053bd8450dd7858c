package auth

import (
	"time"

	"vega/config/secret"
)

// Config says who may sign in and how.
type Config struct {
	// Provider is who vouches for a user.
	Provider ProviderKind `env:"VEGA_AUTH_PROVIDER, default=custom" oneof:"custom cognito" doc:"Who vouches for a user: custom uses simple debug credentials, cognito uses AWS Cognito JWTs (required for production)."`

	// Secret signs the tokens of ProviderCustom.
	Secret secret.String `env:"VEGA_AUTH_SECRET" secret:"true" shown:"(generated)" doc:"Signing secret for local auth tokens. Generated and kept under the data folder if unset."`

	// DebugEmail and DebugPassword are the one login of ProviderCustom.
	DebugEmail    string        `env:"VEGA_DEBUG_EMAIL, default=debug@example.com" form:"email" doc:"E-mail address of the custom sign-in."`
	DebugPassword secret.String `env:"VEGA_DEBUG_PASSWORD, default=vega-debug-password" secret:"true" doc:"Password of the custom sign-in. The default is refused when the API listens on an address that is not loopback."`

	// Cognito says whose tokens are accepted with ProviderCognito.
	Cognito UserPool

	// RateLimits hold for every caller, whoever vouches for them.
	RateLimits RateLimits
}

// UserPool names a Cognito user pool, and what is expected of its tokens.
type UserPool struct {
	Region      string `env:"VEGA_COGNITO_REGION" form:"name" doc:"AWS region of the Cognito user pool, e.g. us-west-1."`
	UserPoolID  string `env:"VEGA_COGNITO_USER_POOL_ID" form:"name" doc:"Cognito user pool ID."`
	AppClientID string `env:"VEGA_COGNITO_APP_CLIENT_ID" form:"name" doc:"Cognito app client ID."`

	// Issuer is the "iss" that a token must have; package config derives it from the region and the pool when it is not set.
	Issuer string `env:"VEGA_COGNITO_ISSUER" form:"http-url" shown:"(from region and pool)" doc:"Issuer that tokens must name, for servers that are compatible with Cognito."`

	// JWKSURL is where the issuer publishes its keys; package config derives it from the issuer when it is not set.
	JWKSURL string `env:"VEGA_COGNITO_JWKS_URL" form:"http-url" shown:"(from the issuer)" doc:"Where the issuer's keys are published."`

	// AdminGroups are the groups whose members are admins; names are compared exactly.
	AdminGroups []string `env:"VEGA_COGNITO_ADMIN_GROUP, default=admin" doc:"Cognito groups whose members are admins, by comma."`

	// ClockSkew is how far the clocks of the pool and of this machine may differ.
	ClockSkew time.Duration `env:"VEGA_COGNITO_CLOCK_SKEW_SECONDS, default=60" unit:"seconds" min:"0" max:"300" doc:"How far this machine's clock may differ from the user pool's when tokens begin and expire."`

	// SignInURL is where people sign in; empty: the issuer is named instead.
	SignInURL string `env:"VEGA_COGNITO_SIGN_IN_URL" form:"http-url" shown:"(the issuer)" doc:"Where people sign in, such as the pool's hosted page. The login routes answer with it."`
}

// RateLimits say how many requests one caller may make in a minute; 0 is no limit.
type RateLimits struct {
	UserPerMinute   int `env:"VEGA_RATE_LIMIT_USER_PER_MINUTE, default=0" min:"0" max:"1000000" shown:"0 (disabled)" doc:"Requests that one user may make in a minute, over all processes. 0 means no limit."`
	APIKeyPerMinute int `env:"VEGA_RATE_LIMIT_API_KEY_PER_MINUTE, default=0" min:"0" max:"1000000" shown:"0 (disabled)" doc:"Requests that may be made with one API key in a minute, over all processes. 0 means no limit."`
}

// ProviderKind is who vouches for a user.
type ProviderKind string

const (
	ProviderCustom  ProviderKind = "custom"  // one login from the configuration, tokens signed with Secret
	ProviderCognito ProviderKind = "cognito" // JWTs of a Cognito user pool
)

// DefaultDebugPassword is the password of the custom sign-in when none is configured.
const DefaultDebugPassword = "vega-debug-password"

package config

import (
	"path/filepath"
	"slices"
	"strings"

	"vega/config/secret"
	"vega/projections"
	"vega/services/auth"
	"vega/services/dispatch"
	"vega/services/files"
	"vega/services/worker"
)

// generated is a secret that is made at the first start because it was not set.
type generated struct {
	variable string
	file     string // its name under the data folder's secrets
	shared   bool   // every process of the installation needs the same one
	target   func(*Config) *secret.String
}

// derive sets what follows from other settings.
func (l *loader) derive() {
	c := l.c

	// A worker has no API process to be a thread of, and what such a process runs needs no maintenance by others.
	if (c.ServiceRole == RoleWorker || c.ServiceRole == RoleMaintenance) && c.Dispatch.Mode == dispatch.ModeThread {
		c.Dispatch.Mode = dispatch.ModeExternal
		l.origin["VEGA_SCAN_EXECUTION_MODE"] = OriginDerived
	}
	if c.Engine.RuntimeRoot == "" {
		c.Engine.RuntimeRoot = filepath.Join(c.DataDir, "v16")
		l.origin["VEGA_V16_RUNTIME_ROOT"] = OriginDerived
	}
	c.Engine.RootGiven = l.given("VEGA_V16_ROOT")
	c.Engine.CodexBinGiven = l.given("VEGA_V16_CODEX_BIN")

	l.deriveCognito()
	l.deriveSecrets()
	l.deriveModelAccess()
}

// deriveCognito finds a pool's issuer and keys where AWS publishes them.
func (l *loader) deriveCognito() {
	p := &l.c.Auth.Cognito
	if p.Issuer == "" && p.Region != "" && p.UserPoolID != "" {
		domain := "amazonaws.com"
		if strings.HasPrefix(p.Region, "cn-") {
			domain += ".cn"
		}
		p.Issuer = "https://cognito-idp." + p.Region + "." + domain + "/" + p.UserPoolID
		l.origin["VEGA_COGNITO_ISSUER"] = OriginDerived
	}
	if p.JWKSURL == "" && p.Issuer != "" {
		p.JWKSURL = strings.TrimSuffix(p.Issuer, "/") + "/.well-known/jwks.json"
		l.origin["VEGA_COGNITO_JWKS_URL"] = OriginDerived
	}
}

// deriveSecrets decides which secrets KeepSecrets has to make.
func (l *loader) deriveSecrets() {
	c := l.c
	runsScans := c.ServiceRole == RoleAPI || c.ServiceRole == RoleWorker
	candidates := []struct {
		generated
		wanted bool
	}{
		{generated{"VEGA_AUTH_SECRET", "auth", true, func(c *Config) *secret.String { return &c.Auth.Secret }},
			c.ServiceRole == RoleAPI && c.Auth.Provider == auth.ProviderCustom},
		// A proxy that is a process of its own cannot know a secret made here; the one in this process can.
		{generated{"VEGA_LLM_PROXY_AUTH_SECRET", "llm-proxy", false, func(c *Config) *secret.String { return &c.LLM.AuthSecret }},
			runsScans && c.LLM.BaseURL == ""},
		{generated{"VEGA_MASK_SECRET", "mask", true, func(c *Config) *secret.String { return &c.Engine.MaskSecret }},
			runsScans},
	}
	for _, g := range candidates {
		if g.wanted && !l.given(g.variable) {
			c.generate = append(c.generate, g.generated)
			l.origin[g.variable] = OriginGenerated
		}
	}
}

// ForOneProcess makes of c the configuration of a process that does everything itself, in its own data folder, whatever the deployment is that c was written
// for: what the one-machine default would be, with the limits and the engine's settings of c. Call it before KeepSecrets.
func (c *Config) ForOneProcess() {
	c.ServiceRole, c.Dispatch.Mode, c.Worker.RunMode, c.Log.NATSURL = RoleAPI, dispatch.ModeThread, worker.RunLocal, secret.URL{}
	c.Projections.Backend, c.Files.Backend, c.Auth.Provider = projections.BackendJSON, files.BackendLocal, auth.ProviderCustom
	c.LLM.ListenAddr = "127.0.0.1:0" // another process may have the configured port
	if c.LLM.BaseURL != "" {         // that proxy reads another log
		c.LLM.BaseURL, c.Engine.ModelAccess.ProxyBaseURL, c.Engine.ModelAccess.Missing = "", "", nil
		if c.LLM.ProviderBaseURL == "" {
			c.Engine.ModelAccess.Missing = append(c.Engine.ModelAccess.Missing, "VEGA_LLM_PROVIDER_BASE_URL")
		}
		if c.LLM.ProviderAPIKey.IsZero() {
			c.Engine.ModelAccess.Missing = append(c.Engine.ModelAccess.Missing, "VEGA_LLM_PROVIDER_API_KEY")
		}
	}
	own := generated{"VEGA_AUTH_SECRET", "auth", true, func(c *Config) *secret.String { return &c.Auth.Secret }}
	made := slices.ContainsFunc(c.generate, func(g generated) bool { return g.variable == own.variable })
	if c.Auth.Secret.IsZero() && !made {
		c.generate = append(slices.Clip(c.generate), own)
	}
}

// deriveModelAccess tells the engine whether a model can be reached and which variables are missing.
func (l *loader) deriveModelAccess() {
	access := &l.c.Engine.ModelAccess
	access.ProxyBaseURL = l.c.LLM.BaseURL
	needed := []string{"VEGA_LLM_PROVIDER_BASE_URL", "VEGA_LLM_PROVIDER_API_KEY"}
	if access.ProxyBaseURL != "" {
		needed = []string{"VEGA_LLM_PROXY_AUTH_SECRET"}
	}
	for _, variable := range needed {
		if !l.set(variable) {
			access.Missing = append(access.Missing, variable)
		}
	}
}

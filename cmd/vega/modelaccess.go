package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vega/config"
	"vega/config/secret"
	"vega/services/engine"
	"vega/services/llmproxy"
)

// modelAccess says how the attempts of this process reach the model: through the LLM proxy that the configuration names, or else through the one inside the API process of this
// machine, which is this process or the one that holds the data folder.
type modelAccess struct {
	cfg    config.Config
	own    string // of the proxy inside this process; empty when there is none
	tokens llmproxy.Tokens
}

func newModelAccess(cfg config.Config, own string) (*modelAccess, error) {
	m := &modelAccess{cfg: cfg, own: own}
	if cfg.LLM.AuthSecret.IsZero() {
		return m, nil // Access says what is missing
	}
	var err error
	m.tokens, err = llmproxy.NewTokens(cfg.LLM.AuthSecret, secret.String{})
	return m, err
}

// Access implements worker.Model.
func (m *modelAccess) Access(_ context.Context, g llmproxy.Grant, expires time.Time) (engine.Access, error) {
	base, missing := m.proxy()
	if len(missing) > 0 {
		return engine.Access{Missing: missing}, nil
	}
	token, err := m.tokens.Issue(g, time.Now(), expires)
	return engine.Access{BaseURL: base, Token: token}, err
}

// proxy is the address of the LLM proxy, or what has to be set before there is one.
func (m *modelAccess) proxy() (base string, missing []string) {
	switch {
	case m.cfg.LLM.BaseURL != "":
		return m.cfg.LLM.BaseURL, m.cfg.Engine.ModelAccess.Missing
	case m.own != "":
		return "http://" + m.own + "/v1", nil
	case !m.cfg.OneMachine():
		return "", []string{"VEGA_LLM_PROXY_BASE_URL", "VEGA_LLM_PROXY_AUTH_SECRET"}
	case m.cfg.ServiceRole == config.RoleWorker:
		// The API process of this machine knows whether it has a provider; a worker's own settings say nothing about that.
		f, err := os.Open(filepath.Join(m.cfg.DataDir, "vega.lock"))
		if err == nil {
			h := readHolder(f)
			_ = f.Close() // it was only read
			if h.Proxy != "" {
				return "http://" + h.Proxy + "/v1", nil
			}
		}
		return "", []string{"VEGA_LLM_PROVIDER_BASE_URL", "VEGA_LLM_PROVIDER_API_KEY"}
	default:
		return "", m.cfg.Engine.ModelAccess.Missing
	}
}

// hostEnviron is what the programs that run Codex get of this process's environment.
func hostEnviron(environ []string) []string {
	var out []string
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		if slices.Contains([]string{"PATH", "HOME", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "XDG_RUNTIME_DIR"}, name) {
			out = append(out, e)
		}
	}
	return out
}

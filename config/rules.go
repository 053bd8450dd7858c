package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"vega/projections"
	"vega/services/auth"
	"vega/services/files"
)

// condition is that a variable has a value, or that it is set at all when value is "".
type condition struct{ variable, value string }

// String is "VEGA_X=value", or "VEGA_X" alone.
func (c condition) String() string {
	if c.value == "" {
		return c.variable
	}
	return c.variable + "=" + c.value
}

// requirement is a combination that cannot work: something is chosen, and what it needs is not set.
type requirement struct {
	when   condition
	needs  []string
	unless string // a variable that makes it unnecessary when set
}

var requirements = []requirement{
	{when: condition{"VEGA_PERSISTENCE_BACKEND", "postgres"}, needs: []string{"VEGA_DATABASE_URL"}},
	{when: condition{"VEGA_FILE_STORAGE_BACKEND", "s3"}, needs: []string{"VEGA_S3_SOURCE_BUCKET", "VEGA_S3_ARTIFACTS_BUCKET"}},
	{when: condition{"VEGA_SCAN_EXECUTION_MODE", "sqs"}, needs: []string{"VEGA_SCAN_QUEUE_URL"}},
	{when: condition{"VEGA_SCAN_WORKER_EXECUTION_MODE", "ecs"}, needs: []string{"VEGA_ECS_CLUSTER", "VEGA_ECS_TASK_DEFINITION", "VEGA_ECS_CONTAINER_NAME"}},
	{when: condition{"VEGA_AUTH_PROVIDER", "cognito"}, needs: []string{"VEGA_COGNITO_REGION", "VEGA_COGNITO_USER_POOL_ID"}, unless: "VEGA_COGNITO_ISSUER"},
	{when: condition{"VEGA_AUTH_PROVIDER", "cognito"}, needs: []string{"VEGA_COGNITO_APP_CLIENT_ID"}},
	{when: condition{"VEGA_LLM_PROXY_BASE_URL", ""}, needs: []string{"VEGA_LLM_PROXY_AUTH_SECRET"}},
	{when: condition{"VEGA_SERVICE_ROLE", "llm-proxy"}, needs: []string{"VEGA_LLM_PROXY_AUTH_SECRET", "VEGA_LLM_PROVIDER_BASE_URL", "VEGA_LLM_PROVIDER_API_KEY"}},
	{when: condition{"VEGA_NATS_CREDS", ""}, needs: []string{"VEGA_NATS_URL"}},
}

// refusal is what one laptop may do and production may not. VEGA_ALLOW_INSECURE_PROD=true turns it into a warning.
type refusal struct {
	roles   []Role    // whose process it concerns
	what    condition // with a value "" refused when the variable is *not* set
	instead string
}

var refusals = []refusal{
	{[]Role{RoleAPI}, condition{"VEGA_SCAN_EXECUTION_MODE", "thread"}, "a scan would die with the API process; use sqs or external"},
	{[]Role{RoleAPI, RoleMaintenance}, condition{"VEGA_PERSISTENCE_BACKEND", "json"}, "one process alone can own the files; use postgres"},
	{[]Role{RoleAPI, RoleWorker, RoleMaintenance}, condition{"VEGA_FILE_STORAGE_BACKEND", "local"}, "other machines cannot read them; use s3"},
	{[]Role{RoleAPI}, condition{"VEGA_AUTH_PROVIDER", "custom"}, "everybody would share one login; use cognito"},
	{[]Role{RoleWorker}, condition{"VEGA_LLM_PROXY_BASE_URL", ""}, "a worker has no model without it"},
}

// rule is a combination that cannot work and is neither a requirement nor a refusal.
type rule struct {
	variable string // the one that is named
	reads    []string
	says     string // for the documentation, and for the message after the variable's name
	broken   func(*loader) bool
}

var rules = []rule{
	{
		variable: "VEGA_NATS_REPLICAS",
		reads:    []string{"VEGA_NATS_URL"},
		says:     "more than one replica needs a cluster, named by VEGA_NATS_URL; the embedded server is one",
		broken:   func(l *loader) bool { return l.c.Log.Replicas > 1 && l.c.Log.NATSURL.IsZero() },
	},
	{
		variable: "VEGA_DEBUG_PASSWORD",
		reads:    []string{"VEGA_SERVICE_ROLE", "VEGA_AUTH_PROVIDER", "VEGA_LISTEN_ADDR"},
		says:     "the default password is refused while the API listens on an address that is not loopback (VEGA_LISTEN_ADDR); set another",
		broken: func(l *loader) bool {
			host, _, _ := net.SplitHostPort(l.c.API.ListenAddr)
			return l.c.ServiceRole == RoleAPI && l.c.Auth.Provider == auth.ProviderCustom &&
				l.c.Auth.DebugPassword.Reveal() == auth.DefaultDebugPassword && !isLoopback(host)
		},
	},
	{
		variable: "VEGA_LLM_PROXY_LISTEN_ADDR",
		reads:    []string{"VEGA_SERVICE_ROLE", "VEGA_LISTEN_ADDR"},
		says:     "the API and the LLM proxy of one process cannot listen on the same address; VEGA_LISTEN_ADDR is the same",
		broken: func(l *loader) bool {
			_, port, _ := net.SplitHostPort(l.c.LLM.ListenAddr)
			return l.c.ServiceRole == RoleAPI && l.c.LLM.ListenAddr == l.c.API.ListenAddr && strings.Trim(port, "0") != ""
		},
	},
	{
		variable: "VEGA_LLM_PROVIDER_BASE_URL",
		says:     "has a query, which would be shown where a secret is not; the key belongs into VEGA_LLM_PROVIDER_API_KEY",
		broken: func(l *loader) bool {
			u, err := url.Parse(l.c.LLM.ProviderBaseURL)
			return err == nil && (u.RawQuery != "" || u.Fragment != "")
		},
	},
	{
		variable: "VEGA_S3_SSE_KMS_KEY_ID",
		reads:    []string{"VEGA_S3_SSE"},
		says:     "names a key that is not used without VEGA_S3_SSE=aws:kms",
		broken:   func(l *loader) bool { return l.c.Files.S3.SSEKMSKeyID != "" && l.c.Files.S3.SSE != files.SSEKMS },
	},
	{
		variable: "VEGA_DATABASE_REPLICA_URL",
		reads:    []string{"VEGA_PERSISTENCE_BACKEND"},
		says:     "has no effect without VEGA_PERSISTENCE_BACKEND=postgres",
		broken: func(l *loader) bool {
			return l.given("VEGA_DATABASE_REPLICA_URL") && l.c.Projections.Backend != projections.BackendPostgres
		},
	},
	{
		variable: "VEGA_COGNITO_USER_POOL_ID",
		reads:    []string{"VEGA_COGNITO_REGION", "VEGA_COGNITO_ISSUER"},
		says:     "begins with the pool's region, which is not that of VEGA_COGNITO_REGION; one of the two is wrong",
		broken: func(l *loader) bool {
			pool := l.c.Auth.Cognito
			of, _, named := strings.Cut(pool.UserPoolID, "_")
			return named && pool.Region != "" && of != pool.Region && !l.given("VEGA_COGNITO_ISSUER") // a compatible server may name its pools as it likes
		},
	},
	{
		variable: "VEGA_API_PREFIX",
		says:     "its first part is taken: docs, healthz, metrics, openapi.json and readyz are routes of their own",
		broken: func(l *loader) bool {
			first, _, _ := strings.Cut(strings.TrimPrefix(l.c.API.Prefix, "/"), "/")
			return slices.Contains([]string{"docs", "healthz", "metrics", "openapi.json", "readyz"}, first)
		},
	},
}

// secretsOfOurs are the keys that this installation signs and masks with.
var secretsOfOurs = []string{"VEGA_AUTH_SECRET", "VEGA_LLM_PROXY_AUTH_SECRET", "VEGA_MASK_SECRET"}

// minSecret is the length in bytes below which a signing key is refused.
const minSecret = 8

// checkRules applies every rule whose variables could all be read.
func (l *loader) checkRules() {
	reported := make(map[string]bool)
	for _, r := range requirements {
		for _, variable := range r.needs {
			if l.unreadable(variable, r.when.variable) || !l.holds(r.when) || l.set(variable) || l.set(r.unless) || reported[variable] {
				continue
			}
			reported[variable] = true
			l.problems = append(l.problems, Problem{Variable: variable, Message: "not set, and " + r.when.String() + " requires it"})
		}
	}
	for _, r := range rules {
		if !l.unreadable(append(r.reads, r.variable)...) && r.broken(l) {
			l.report(r.variable, r.says)
		}
	}
	for _, variable := range secretsOfOurs {
		if l.given(variable) && !l.unreadable(variable) && len(l.raw[variable]) < minSecret {
			l.report(variable, fmt.Sprintf("shorter than %d bytes; a secret of that length can be tried out", minSecret))
		}
	}
	l.checkProd()
	l.warnUnlikely()
}

// checkProd applies what holds in production alone.
func (l *loader) checkProd() {
	if l.unreadable("VEGA_ENVIRONMENT", "VEGA_SERVICE_ROLE", "VEGA_ALLOW_INSECURE_PROD") || !l.c.Prod() {
		return
	}
	for _, r := range refusals {
		if l.unreadable(r.what.variable) || !slices.Contains(r.roles, l.c.ServiceRole) || l.holds(r.what) == (r.what.value == "") {
			continue
		}
		state := "not set"
		if r.what.value != "" {
			state = r.what.value
		}
		if l.c.AllowInsecureProd {
			l.warn(r.what.variable, fmt.Sprintf("%s in prod: %s", state, r.instead))
			continue
		}
		l.report(r.what.variable, fmt.Sprintf("%s is refused in prod: %s (or set VEGA_ALLOW_INSECURE_PROD=true)", state, r.instead))
	}
}

// report adds a problem with the variable's present value.
func (l *loader) report(variable, message string) {
	f := l.fields[l.position[variable]]
	p := Problem{Variable: variable, Message: message}
	if text, ok := l.raw[variable]; ok {
		p.Value, p.Origin = f.printable(text), l.origin[variable]
	}
	l.problems = append(l.problems, p)
}

// holds reports whether a condition is true of the values read.
func (l *loader) holds(c condition) bool {
	if c.value == "" {
		return l.set(c.variable)
	}
	return l.is(c.variable, c.value)
}

func (l *loader) is(variable, value string) bool {
	return l.fields[l.position[variable]].text() == value
}

// set reports whether a setting has a value of its own: one that was given or, for a secret, will be generated.
func (l *loader) set(variable string) bool {
	return variable != "" && (l.given(variable) || l.origin[variable] == OriginGenerated)
}

func (l *loader) unreadable(variables ...string) bool {
	return slices.ContainsFunc(variables, func(v string) bool { return l.broken[v] })
}

// shortSecret is the length in bytes below which a signing key is called weak.
const shortSecret = 16

// warnUnlikely notes combinations that work and are probably not meant.
func (l *loader) warnUnlikely() {
	c := l.c
	prod, one := c.Prod(), c.OneMachine()
	switch {
	case prod && one && c.ServiceRole == RoleAPI:
		l.warn("VEGA_NATS_URL", "not set in prod: the log is embedded in this process, and only workers of this machine can join")
	case one && l.is("VEGA_SCAN_WORKER_EXECUTION_MODE", "ecs"):
		l.warn("VEGA_NATS_URL", "not set with VEGA_SCAN_WORKER_EXECUTION_MODE=ecs: the tasks cannot reach this machine's embedded log")
	}
	if !one && l.given("VEGA_NATS_SYNC") {
		l.warn("VEGA_NATS_SYNC", "has no effect on an external server; set sync_interval there")
	}
	if !one && c.ServiceRole == RoleWorker && l.is("VEGA_FILE_STORAGE_BACKEND", "local") {
		l.warn("VEGA_FILE_STORAGE_BACKEND", "local files are seen by a worker only when it shares VEGA_DATA_DIR with the API")
	}
	if l.is("VEGA_FILE_STORAGE_BACKEND", "local") && l.is("VEGA_SCAN_WORKER_EXECUTION_MODE", "ecs") {
		l.warn("VEGA_FILE_STORAGE_BACKEND", "local files are seen by ECS tasks only when they mount the folder that VEGA_DATA_DIR names here; use s3")
	}
	for _, g := range c.generate {
		if !one && g.shared {
			l.warn(g.variable, "not set: this machine generates its own, and other machines have another")
		}
	}
	if c.Maintenance.RunningStale < c.Worker.ScanTimeout {
		l.warn("VEGA_SCAN_RUNNING_STALE_SECONDS", "smaller than VEGA_SCAN_TIMEOUT_SECONDS: healthy scans are recovered before they may end")
	}
	for _, variable := range secretsOfOurs {
		if l.given(variable) && len(l.raw[variable]) < shortSecret && len(l.raw[variable]) >= minSecret {
			l.warn(variable, fmt.Sprintf("shorter than %d bytes: it can be guessed", shortSecret))
		}
	}
	if u, err := url.Parse(c.LLM.ProviderBaseURL); err == nil && u.Scheme == "http" && !isLoopback(u.Hostname()) {
		l.warn("VEGA_LLM_PROVIDER_BASE_URL", "http:// sends the provider's key and the source in the clear")
	}
}

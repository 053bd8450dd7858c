package config

import (
	"slices"
	"strings"
	"testing"

	"vega/services/auth"
)

// names cuts problems down to the variables they name.
func names(lines []string) []string {
	var out []string
	for _, line := range lines {
		out = append(out, line[:strings.IndexAny(line, "=: ")])
	}
	return out
}

// cognito is an environment that signs in with Cognito.
func cognito(more ...string) []string {
	return append([]string{"VEGA_AUTH_PROVIDER=cognito", "VEGA_COGNITO_APP_CLIENT_ID=client"}, more...)
}

func TestAPoolOfAnotherRegionNamesBothSettings(t *testing.T) {
	t.Parallel()
	got := problems(t, cognito("VEGA_COGNITO_REGION=eu-west-1", "VEGA_COGNITO_USER_POOL_ID=us-west-1_abc")...)
	if len(got) != 1 || !strings.Contains(got[0], "us-west-1_abc") || !strings.Contains(got[0], "VEGA_COGNITO_REGION") {
		t.Errorf("problems %q, want one that names the pool and the region", got)
	}
}

func TestCombinationsThatCannotWork(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		environ []string
		want    []string // the variables that are named
	}{
		{"sqs without a queue", []string{"VEGA_SCAN_EXECUTION_MODE=sqs"}, []string{"VEGA_SCAN_QUEUE_URL"}},
		{"postgres without a database", []string{"VEGA_PERSISTENCE_BACKEND=postgres"}, []string{"VEGA_DATABASE_URL"}},
		{"cognito without its ids", []string{"VEGA_AUTH_PROVIDER=cognito"}, []string{"VEGA_COGNITO_REGION", "VEGA_COGNITO_USER_POOL_ID", "VEGA_COGNITO_APP_CLIENT_ID"}},
		{"a compatible server needs no pool", []string{"VEGA_AUTH_PROVIDER=cognito", "VEGA_COGNITO_ISSUER=http://127.0.0.1:9229/pool"}, []string{"VEGA_COGNITO_APP_CLIENT_ID"}},
		{"a pool of another region", cognito("VEGA_COGNITO_REGION=eu-west-1", "VEGA_COGNITO_USER_POOL_ID=us-west-1_abc"), []string{"VEGA_COGNITO_USER_POOL_ID"}},
		{"a pool of its region", cognito("VEGA_COGNITO_REGION=us-west-1", "VEGA_COGNITO_USER_POOL_ID=us-west-1_abc"), nil},
		{"a compatible server's pool of another region", cognito("VEGA_COGNITO_REGION=eu-west-1", "VEGA_COGNITO_USER_POOL_ID=us-west-1_abc", "VEGA_COGNITO_ISSUER=http://127.0.0.1:9229/pool"), nil},
		{"s3 without buckets", []string{"VEGA_FILE_STORAGE_BACKEND=s3", "VEGA_S3_EXPORTS_BUCKET=exports"}, []string{"VEGA_S3_SOURCE_BUCKET", "VEGA_S3_ARTIFACTS_BUCKET"}},
		{"s3 without an exports bucket", []string{"VEGA_FILE_STORAGE_BACKEND=s3", "VEGA_S3_SOURCE_BUCKET=source", "VEGA_S3_ARTIFACTS_BUCKET=artifacts"}, nil},
		{"ecs without a cluster", []string{"VEGA_SCAN_WORKER_EXECUTION_MODE=ecs", "VEGA_FILE_STORAGE_BACKEND=s3", "VEGA_S3_SOURCE_BUCKET=source", "VEGA_S3_ARTIFACTS_BUCKET=artifacts"},
			[]string{"VEGA_ECS_CLUSTER", "VEGA_ECS_TASK_DEFINITION", "VEGA_ECS_CONTAINER_NAME"}},
		{"credentials without a server", []string{"VEGA_NATS_CREDS=/x.creds"}, []string{"VEGA_NATS_URL"}},
		{"replicas of one embedded server", []string{"VEGA_NATS_REPLICAS=3"}, []string{"VEGA_NATS_REPLICAS"}},
		{"a proxy without its secret", []string{"VEGA_LLM_PROXY_BASE_URL=http://proxy:8001"}, []string{"VEGA_LLM_PROXY_AUTH_SECRET"}},
		{"the proxy's role", []string{"VEGA_SERVICE_ROLE=llm-proxy"}, []string{"VEGA_LLM_PROXY_AUTH_SECRET", "VEGA_LLM_PROVIDER_BASE_URL", "VEGA_LLM_PROVIDER_API_KEY"}},
		{"both listen on one address", []string{"VEGA_LISTEN_ADDR=127.0.0.1:8001"}, []string{"VEGA_LLM_PROXY_LISTEN_ADDR"}},
		{"both choose a port", []string{"VEGA_LISTEN_ADDR=127.0.0.1:0", "VEGA_LLM_PROXY_LISTEN_ADDR=127.0.0.1:0"}, nil},
		{"the default password for everybody", []string{"VEGA_LISTEN_ADDR=0.0.0.0:8000"}, []string{"VEGA_DEBUG_PASSWORD"}},
		{"the default password on every address", []string{"VEGA_LISTEN_ADDR=:8000"}, []string{"VEGA_DEBUG_PASSWORD"}},
		{"the default password, spelt out", []string{"VEGA_LISTEN_ADDR=0.0.0.0:8000", "VEGA_DEBUG_PASSWORD=" + auth.DefaultDebugPassword}, []string{"VEGA_DEBUG_PASSWORD"}},
		{"the default password on a name", []string{"VEGA_LISTEN_ADDR=vega.internal:8000"}, []string{"VEGA_DEBUG_PASSWORD"}},
		{"the default password on loopback", []string{"VEGA_LISTEN_ADDR=localhost:8000"}, nil},
		{"another password for everybody", []string{"VEGA_LISTEN_ADDR=0.0.0.0:8000", "VEGA_DEBUG_PASSWORD=correct horse"}, nil},
		{"a worker has no sign-in", []string{"VEGA_LISTEN_ADDR=0.0.0.0:8000", "VEGA_SERVICE_ROLE=worker"}, nil},
		{"a choice that cannot be read asks for nothing", []string{"VEGA_SCAN_EXECUTION_MODE=sqss", "VEGA_SCAN_QUEUE_URL=x"}, []string{"VEGA_SCAN_EXECUTION_MODE", "VEGA_SCAN_QUEUE_URL"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := names(problems(t, tc.environ...))
			slices.Sort(got)
			slices.Sort(tc.want)
			if !slices.Equal(got, tc.want) {
				t.Errorf("problems name %q, want %q", got, tc.want)
			}
		})
	}
}

func TestProductionRefusesWhatSuitsOneLaptop(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		role string
		want []string
	}{
		{"api", []string{"VEGA_PERSISTENCE_BACKEND", "VEGA_FILE_STORAGE_BACKEND", "VEGA_SCAN_EXECUTION_MODE", "VEGA_AUTH_PROVIDER"}},
		{"worker", []string{"VEGA_FILE_STORAGE_BACKEND", "VEGA_LLM_PROXY_BASE_URL"}},
		{"maintenance", []string{"VEGA_PERSISTENCE_BACKEND", "VEGA_FILE_STORAGE_BACKEND"}},
	} {
		for _, environment := range []string{"prod", "PROD", "production"} {
			environ := []string{"VEGA_ENVIRONMENT=" + environment, "VEGA_SERVICE_ROLE=" + tc.role}
			if got := names(problems(t, environ...)); !slices.Equal(got, tc.want) {
				t.Errorf("%s as %s: problems name %q, want %q", environment, tc.role, got, tc.want)
			}
			c := mustLoad(t, append(environ, "VEGA_ALLOW_INSECURE_PROD=true")...)
			warned := map[string]bool{}
			for _, w := range c.Warnings {
				warned[w.Variable] = true
			}
			for _, variable := range tc.want {
				if !warned[variable] {
					t.Errorf("%s as %s, insecure allowed: no warning about %s", environment, tc.role, variable)
				}
			}
		}
	}
	if got := problems(t, "VEGA_ENVIRONMENT=staging"); got != nil {
		t.Errorf("staging: problems %q", got)
	}
}

func TestUnlikelyCombinationsAreWarnings(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		environ []string
		want    string
	}{
		{[]string{"VEGA_SCAN_RUNNING_STALE_SECONDS=60"}, "VEGA_SCAN_RUNNING_STALE_SECONDS"},
		{[]string{"VEGA_AUTH_SECRET=short-one"}, "VEGA_AUTH_SECRET"},
		{[]string{"VEGA_LLM_PROVIDER_BASE_URL=http://api.example.com/v1"}, "VEGA_LLM_PROVIDER_BASE_URL"},
		{[]string{"VEGA_NATS_URL=nats://127.0.0.1:4222", "VEGA_NATS_SYNC=always", "VEGA_MASK_SECRET=0123456789abcdef", "VEGA_AUTH_SECRET=0123456789abcdef"}, "VEGA_NATS_SYNC"},
		{[]string{"VEGA_NATS_URL=nats://nats:4222", "VEGA_SERVICE_ROLE=worker", "VEGA_MASK_SECRET=0123456789abcdef"}, "VEGA_FILE_STORAGE_BACKEND"},
		{[]string{"VEGA_NATS_URL=nats://nats:4222", "VEGA_AUTH_SECRET=0123456789abcdef"}, "VEGA_MASK_SECRET"},
	} {
		c := mustLoad(t, tc.environ...)
		if len(c.Warnings) != 1 || c.Warnings[0].Variable != tc.want {
			t.Errorf("Load(%q) warns of %v, want one about %s", tc.environ, c.Warnings, tc.want)
		}
	}
}

func TestTheEngineHearsWhatIsMissingForAModel(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		environ []string
		want    []string
	}{
		{nil, []string{"VEGA_LLM_PROVIDER_BASE_URL", "VEGA_LLM_PROVIDER_API_KEY"}},
		{[]string{"VEGA_LLM_PROVIDER_BASE_URL=https://api.example.com/v1"}, []string{"VEGA_LLM_PROVIDER_API_KEY"}},
		{[]string{"VEGA_LLM_PROVIDER_BASE_URL=https://api.example.com/v1", "VEGA_LLM_PROVIDER_API_KEY=k"}, nil},
		{[]string{"VEGA_LLM_PROXY_BASE_URL=http://proxy:8001", "VEGA_LLM_PROXY_AUTH_SECRET=0123456789abcdef"}, nil},
	} {
		if got := mustLoad(t, tc.environ...).Engine.ModelAccess.Missing; !slices.Equal(got, tc.want) {
			t.Errorf("Load(%q): missing %q, want %q", tc.environ, got, tc.want)
		}
	}
	c := mustLoad(t, "VEGA_V16_ROOT=v16/")
	if !c.Engine.RootGiven || c.Engine.CodexBinGiven {
		t.Errorf("root given %v, codex given %v; want true, false", c.Engine.RootGiven, c.Engine.CodexBinGiven)
	}
}

func TestAKeyInAProvidersAddressIsRefusedAndNotShown(t *testing.T) {
	t.Parallel()
	c, err := Load([]string{"VEGA_LLM_PROVIDER_BASE_URL=https://api.example.com/v1?api_key=hunter2", "VEGA_LLM_PROVIDER_API_KEY=k"}, "")
	if err == nil || !strings.Contains(err.Error(), "VEGA_LLM_PROVIDER_API_KEY") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Load = %v", err)
	}
	var out strings.Builder
	if err := c.Print(&out); err != nil || strings.Contains(out.String(), "hunter2") {
		t.Errorf("printed %s, %v", out.String(), err)
	}
}

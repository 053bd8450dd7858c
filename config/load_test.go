package config

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vega/projections"
	"vega/services/dispatch"
	"vega/services/worker"
)

// mustLoad loads an environment that has no problem.
func mustLoad(t *testing.T, environ ...string) Config {
	t.Helper()
	c, err := Load(environ, "")
	if err != nil {
		t.Fatalf("Load(%q): %v", environ, err)
	}
	return c
}

// problems loads an environment and returns what is wrong with it, a line each.
func problems(t *testing.T, environ ...string) []string {
	t.Helper()
	_, err := Load(environ, "")
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("Load(%q) returned a %T: %v", environ, err, err)
	}
	var lines []string
	for _, p := range e.Problems {
		lines = append(lines, p.String())
	}
	return lines
}

// write puts a file into a folder of the test.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWithoutAnySettingOneMachineWorks(t *testing.T) {
	t.Parallel()
	c := mustLoad(t)
	if len(c.Warnings) > 0 {
		t.Errorf("warnings = %v, want none", c.Warnings)
	}
	if c.ServiceRole != RoleAPI || c.Dispatch.Mode != dispatch.ModeThread || c.Projections.Backend != projections.BackendJSON || c.Worker.RunMode != worker.RunLocal {
		t.Errorf("role %s, mode %s, backend %s, run mode %s", c.ServiceRole, c.Dispatch.Mode, c.Projections.Backend, c.Worker.RunMode)
	}
	if c.API.ListenAddr != "127.0.0.1:8000" || c.LogLevel != slog.LevelInfo || c.DataDir != "data" {
		t.Errorf("listens on %s, logs %s, keeps %s", c.API.ListenAddr, c.LogLevel, c.DataDir)
	}
	if c.Fleet.HeartbeatTTL != 2*time.Minute || c.Maintenance.RunningStale != 6*time.Hour || c.Worker.ScanTimeout != 4*time.Hour || c.Fleet.DisconnectGrace != 5*time.Second {
		t.Errorf("durations: %v %v %v %v", c.Fleet.HeartbeatTTL, c.Maintenance.RunningStale, c.Worker.ScanTimeout, c.Fleet.DisconnectGrace)
	}
	if got, want := c.Engine.RuntimeRoot, filepath.Join("data", "v16"); got != want {
		t.Errorf("runtime root = %s, want %s", got, want)
	}
	if got, want := c.Engine.ModelAccess.Missing, []string{"VEGA_LLM_PROVIDER_BASE_URL", "VEGA_LLM_PROVIDER_API_KEY"}; !slices.Equal(got, want) {
		t.Errorf("missing for a model = %v, want %v", got, want)
	}
}

func TestThePagesExamplesLoad(t *testing.T) {
	t.Parallel()
	if c := mustLoad(t, "VEGA_SCAN_EXECUTION_MODE=external"); c.Dispatch.Mode != dispatch.ModeExternal {
		t.Errorf("mode = %s", c.Dispatch.Mode)
	}
	if c := mustLoad(t, "VEGA_SERVICE_ROLE=worker"); c.Dispatch.Mode != dispatch.ModeExternal {
		t.Errorf("a worker that sees thread has mode %s, want external", c.Dispatch.Mode)
	}
	c := mustLoad(t,
		"VEGA_ENVIRONMENT=prod",
		"VEGA_PERSISTENCE_BACKEND=postgres",
		"VEGA_DATABASE_URL=postgresql://user:pass@host:5432/vega",
		"VEGA_FILE_STORAGE_BACKEND=s3",
		"VEGA_S3_SOURCE_BUCKET=vega-prod-source-abc123",
		"VEGA_S3_ARTIFACTS_BUCKET=vega-prod-artifacts-abc123",
		"VEGA_SCAN_EXECUTION_MODE=sqs",
		"VEGA_SCAN_QUEUE_URL=https://sqs.us-west-1.amazonaws.com/123/vega-prod-scans",
		"VEGA_AUTH_PROVIDER=cognito",
		"VEGA_COGNITO_REGION=us-west-1",
		"VEGA_COGNITO_USER_POOL_ID=us-west-1_xxxxx",
		"VEGA_COGNITO_APP_CLIENT_ID=xxxxx",
	)
	if got, want := c.Auth.Cognito.JWKSURL, "https://cognito-idp.us-west-1.amazonaws.com/us-west-1_xxxxx/.well-known/jwks.json"; got != want {
		t.Errorf("key set = %s, want %s", got, want)
	}
	if len(c.Warnings) != 1 || c.Warnings[0].Variable != "VEGA_NATS_URL" {
		t.Errorf("warnings = %v, want one, about the embedded log", c.Warnings)
	}
}

func TestFiveMistakesAreFiveProblems(t *testing.T) {
	t.Parallel()
	got := problems(t,
		"VEGA_SERVICE_ROLE=apii",
		"VEGA_LISTEN_ADDR=8000",
		"VEGA_SCAN_EXECUTION_MODE=sqs",
		"VEGA_WORKER_SLOTS=many",
		"VEGA_DATABASE_URL=mysql://root:hunter2@db/vega",
	)
	want := []string{
		`VEGA_SERVICE_ROLE="apii": want api, worker, maintenance or llm-proxy`,
		`VEGA_LISTEN_ADDR="8000": want host:port, such as 127.0.0.1:8000`,
		`VEGA_DATABASE_URL=[redacted]: want postgresql://user:pass@host:5432/database`,
		`VEGA_SCAN_QUEUE_URL: not set, and VEGA_SCAN_EXECUTION_MODE=sqs requires it`,
		`VEGA_WORKER_SLOTS="many": want a whole number from 1 to 1000`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	_, err := Load([]string{"VEGA_SERVICE_ROLE=apii", "VEGA_WORKER_SLOTS=0"}, "")
	const message = "the configuration has 2 problems:\n" +
		"  VEGA_SERVICE_ROLE=\"apii\": want api, worker, maintenance or llm-proxy\n" +
		"  VEGA_WORKER_SLOTS=\"0\": want a whole number from 1 to 1000"
	if err.Error() != message {
		t.Errorf("Error() =\n%s\nwant\n%s", err, message)
	}
}

func TestWrongValuesAreRefused(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ variable, value string }{
		{"VEGA_WORKER_SLOTS", "0"},
		{"VEGA_WORKER_SLOTS", "-1"},
		{"VEGA_WORKER_SLOTS", "010"}, // octal elsewhere
		{"VEGA_WORKER_SLOTS", "0x10"},
		{"VEGA_WORKER_SLOTS", "2.0"},
		{"VEGA_WORKER_SLOTS", "1001"},
		{"VEGA_SCAN_TIMEOUT_SECONDS", "4h"},
		{"VEGA_SCAN_TIMEOUT_SECONDS", "99999999999999999999"},
		{"VEGA_SCAN_TIMEOUT_SECONDS", "604801"},
		{"VEGA_WORKER_DISCONNECT_GRACE_SECONDS", "-1"},
		{"VEGA_MAX_ACTIVE_SCANS_PER_USER", "0"},
		{"VEGA_MAX_SOURCE_BYTES", "2GB"},
		{"VEGA_MAX_SOURCE_BYTES", "-1"},
		{"VEGA_MAX_SOURCE_BYTES", "9223372036854775808"},
		{"VEGA_LLM_PROXY_MAX_COST_USD_PER_SCAN", "1e3"},
		{"VEGA_LLM_PROXY_MAX_COST_USD_PER_SCAN", "-1"},
		{"VEGA_LLM_PROXY_MAX_COST_USD_PER_SCAN", "0.0000000001"},
		{"VEGA_LLM_PROXY_MAX_TOKENS_PER_SCAN", "-5"},
		{"VEGA_ALLOW_INSECURE_PROD", "maybe"},
		{"VEGA_LOG_LEVEL", "verbose"},
		{"VEGA_LOG_FORMAT", "xml"},
		{"VEGA_REGION", "eu.west"},
		{"VEGA_REGION", "EU"},
		{"VEGA_REGION", strings.Repeat("a", 33)},
		{"VEGA_ENVIRONMENT", "my env"},
		{"VEGA_LISTEN_ADDR", "127.0.0.1"},
		{"VEGA_LISTEN_ADDR", "127.0.0.1:65536"},
		{"VEGA_LISTEN_ADDR", "127.0.0.1:http"},
		{"VEGA_LISTEN_ADDR", "http://127.0.0.1:8000"},
		{"VEGA_LISTEN_ADDR", "bad host:80"},
		{"VEGA_API_PREFIX", "v1"},
		{"VEGA_API_PREFIX", "/v1/"},
		{"VEGA_API_PREFIX", "/"},
		{"VEGA_API_PREFIX", "/a/../b"},
		{"VEGA_API_PREFIX", "/docs"},
		{"VEGA_APP_NAME", "line\nbreak"},
		{"VEGA_DATABASE_URL", "host=db user=vega"},
		{"VEGA_NATS_URL", "localhost:4222"},
		{"VEGA_NATS_URL", "nats://a:4222,http://b:4222"},
		{"VEGA_NATS_REPLICAS", "2"},
		{"VEGA_NATS_SYNC", "never"},
		{"VEGA_LLM_PROVIDER_BASE_URL", "api.example.com"},
		{"VEGA_LLM_PROVIDER_BASE_URL", "https://key@api.example.com"},
		{"VEGA_LLM_PROVIDER_BASE_URL", "https://:443"},
		{"VEGA_DEBUG_EMAIL", "nobody"},
		{"VEGA_DEBUG_EMAIL", "Debug <debug@example.com>"},
		{"VEGA_ECS_SUBNETS", "subnet-1,,subnet-2"},
		{"VEGA_PERSISTENCE_BACKEND", "Postgres"},
		{"VEGA_FILE_STORAGE_BACKEND", "disk"},
		{"VEGA_S3_SSE", "aes"},
		{"VEGA_S3_SSE_KMS_KEY_ID", "key-1"},
		{"VEGA_S3_PUBLIC_ENDPOINT", "s3.example.com"},
		{"VEGA_DATABASE_REPLICA_URL", "postgresql://u@replica/vega"},
		{"VEGA_DATABASE_MAX_CONNECTIONS", "0"},
		{"VEGA_RATE_LIMIT_USER_PER_MINUTE", "-1"},
		{"VEGA_HEALTH_LISTEN_ADDR", "8002"},
		{"VEGA_AUTH_PROVIDER", "none"},
		{"VEGA_SCAN_WORKER_EXECUTION_MODE", "docker"},
		{"VEGA_AUTH_SECRET", "ends with a line break\n"},
	} {
		t.Run(tc.variable+"="+tc.value, func(t *testing.T) {
			t.Parallel()
			got := problems(t, tc.variable+"="+tc.value)
			if len(got) != 1 || !strings.HasPrefix(got[0], tc.variable+"=") {
				t.Errorf("problems = %q, want one, about %s", got, tc.variable)
			}
		})
	}
}

func TestUnusualValuesAreTaken(t *testing.T) {
	t.Parallel()
	c := mustLoad(t,
		"VEGA_LISTEN_ADDR=[::1]:0",
		"VEGA_API_PREFIX=/api/v1.2",
		"VEGA_NATS_URL=nats://u:p@127.0.0.1:4222,tls://localhost:4223",
		"VEGA_NATS_REPLICAS=3",
		"VEGA_WORKER_DISCONNECT_GRACE_SECONDS=0",
		"VEGA_LLM_PROXY_MAX_COST_USD_PER_SCAN=2.50",
		"VEGA_ECS_SUBNETS=subnet-1, subnet-2",
		"VEGA_ALLOW_INSECURE_PROD=1",
		"VEGA_APP_NAME=  Vega für uns  ",
		"VEGA_DATABASE_URL=postgresql:///vega?host=/var/run/postgresql",
		"VEGA_ENVIRONMENT=QA_2",
	)
	if c.LLM.MaxCostPerScan != 2_500_000_000 {
		t.Errorf("cost = %d", c.LLM.MaxCostPerScan)
	}
	if !slices.Equal(c.Worker.ECS.Subnets, []string{"subnet-1", "subnet-2"}) {
		t.Errorf("subnets = %q", c.Worker.ECS.Subnets)
	}
	if c.Fleet.DisconnectGrace != 0 || !c.AllowInsecureProd || c.API.AppName != "Vega für uns" {
		t.Errorf("grace %v, insecure %v, name %q", c.Fleet.DisconnectGrace, c.AllowInsecureProd, c.API.AppName)
	}
}

func TestTheEnvironmentWinsOverTheFile(t *testing.T) {
	t.Parallel()
	path := write(t, ".env", "# comment\nexport VEGA_APP_NAME='From $file'\nVEGA_REGION=eu-1\nVEGA_WORKER_SLOTS=7\nVEGA_MODEL=x\n")
	c, err := Load([]string{"VEGA_REGION=us-1", "VEGA_REGION=second", "VEGA_WORKER_SLOTS="}, path)
	if err != nil {
		t.Fatal(err)
	}
	if c.API.AppName != "From $file" || c.Region != "us-1" || c.Worker.Slots != 2 {
		t.Errorf("name %q, region %s, slots %d; want the file's, the environment's, and the default", c.API.AppName, c.Region, c.Worker.Slots)
	}
	origins := map[string]Origin{}
	for v := range c.Values() {
		origins[v.Name] = v.Origin
	}
	for variable, want := range map[string]Origin{
		"VEGA_APP_NAME":         OriginFile,
		"VEGA_REGION":           OriginEnvironment,
		"VEGA_WORKER_SLOTS":     OriginDefault,
		"VEGA_V16_RUNTIME_ROOT": OriginDerived,
		"VEGA_AUTH_SECRET":      OriginGenerated,
	} {
		if origins[variable] != want {
			t.Errorf("origin of %s = %s, want %s", variable, origins[variable], want)
		}
	}
}

func TestABrokenDotenvIsOneProblemAndShowsNothingOfIt(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"no name":      "VEGA_REGION=eu\nthis is hunter2\nVEGA_APP_NAME=x\n",
		"open quote":   "VEGA_REGION=eu\nVEGA_AUTH_SECRET=\"hunter2\n",
		"folder":       "",
		"pipe":         "", // which is not waited for
		"many lines":   strings.Repeat("A=b\n", 600) + "hunter2 is here\n",
		"larger still": strings.Repeat("#", maxDotenv+1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := write(t, ".env", text)
			if name == "folder" {
				path = filepath.Dir(path)
			}
			if name == "pipe" {
				path += ".pipe"
				if err := syscall.Mkfifo(path, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := Load([]string{"VEGA_WORKER_SLOTS=x"}, path)
			e, ok := errors.AsType[*Error](err)
			if !ok || len(e.Problems) != 2 {
				t.Fatalf("Load = %v, want the file and the slots", err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the file's text: %v", err)
			}
			if (name == "no name" || name == "open quote") && !strings.Contains(err.Error(), "line 2 ") {
				t.Errorf("the error does not name line 2: %v", err)
			}
		})
	}
}

func TestDatabaseURLIsTakenOnlyForPostgres(t *testing.T) {
	t.Parallel()
	const url = "DATABASE_URL=postgres://u:p@h/db"
	if c := mustLoad(t, url, "VEGA_PERSISTENCE_BACKEND=postgres"); c.Projections.DatabaseURL.Reveal() != "postgres://u:p@h/db" {
		t.Error("DATABASE_URL was not taken for postgres")
	}
	if c := mustLoad(t, "DATABASE_URL=mysql://somebody/elses"); !c.Projections.DatabaseURL.IsZero() {
		t.Error("DATABASE_URL was taken for json")
	}
	if c := mustLoad(t, url, "VEGA_DATABASE_URL=postgres://own/db", "VEGA_PERSISTENCE_BACKEND=postgres"); c.Projections.DatabaseURL.Reveal() != "postgres://own/db" {
		t.Error("DATABASE_URL won over VEGA_DATABASE_URL")
	}
	got := problems(t, "DATABASE_URL=mysql://u:hunter2@h/db", "VEGA_PERSISTENCE_BACKEND=postgres")
	if want := []string{"DATABASE_URL=[redacted]: want postgresql://user:pass@host:5432/database"}; !slices.Equal(got, want) {
		t.Errorf("problems = %q, want %q", got, want)
	}
}

func TestAMisspeltVariableIsAWarningWithTheNearestName(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, "VEGA_LISTN_ADDR=0.0.0.0:1", "vega_region=x", "VEGA_TOTALLY_DIFFERENT=1", "OTHER=1")
	want := []Warning{
		{"VEGA_LISTN_ADDR", "no such setting; did you mean VEGA_LISTEN_ADDR?"},
		{"VEGA_TOTALLY_DIFFERENT", "no such setting"},
		{"vega_region", "no such setting; did you mean VEGA_REGION?"},
	}
	if diff := cmp.Diff(want, c.Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

func TestEverySettingSaysWhatItIs(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, f := range fieldsOf(new(Config)) {
		if seen[f.name] {
			t.Errorf("%s is declared twice", f.name)
		}
		seen[f.name] = true
		if !strings.HasPrefix(f.name, "VEGA_") || !strings.HasSuffix(f.doc, ".") || f.section == "" || f.want() == "" {
			t.Errorf("%s: doc %q, section %q, allowed %q", f.name, f.doc, f.section, f.want())
		}
		if strings.HasSuffix(f.name, "_SECONDS") != (f.value.Type() == reflect.TypeFor[time.Duration]()) {
			t.Errorf("%s is a %s", f.name, f.value.Type())
		}
		hides := f.value.Type().PkgPath() == "vega/config/secret"
		if f.secret != hides {
			t.Errorf("%s: secret is %v, its type is %s", f.name, f.secret, f.value.Type())
		}
		if f.initial != "" {
			if err := f.decode(f.initial); err != nil {
				t.Errorf("%s: its default %q is not %s", f.name, f.initial, f.want())
			}
		}
	}
	named := func(variable string) {
		if variable != "" && !seen[variable] {
			t.Errorf("a rule names %s, which is no setting", variable)
		}
	}
	for _, r := range requirements {
		named(r.when.variable)
		named(r.unless)
		for _, variable := range r.needs {
			named(variable)
		}
	}
	for _, r := range refusals {
		named(r.what.variable)
	}
	for _, r := range rules {
		named(r.variable)
		for _, variable := range r.reads {
			named(variable)
		}
	}
}

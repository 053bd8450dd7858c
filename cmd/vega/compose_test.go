package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/nats-io/nats.go"

	"vega/projections/pgtest"
	"vega/services/dispatch/sqstest"
	"vega/services/files/s3test"
)

// composeEnv is what scripts/compose-env.sh prints, with a provider filled in.
func composeEnv(t *testing.T) types.Mapping {
	t.Helper()
	cmd := exec.Command(filepath.Join("..", "..", "scripts", "compose-env.sh"))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LLM_PROVIDER_BASE_URL=http://127.0.0.1:1/v1", "LLM_PROVIDER_API_KEY=a-provider-key"}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("scripts/compose-env.sh: %v", err)
	}
	env := types.Mapping{}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if len(value) < 8 {
			t.Errorf("scripts/compose-env.sh: %s has a value of %d bytes", name, len(value))
		}
		env[name] = value
	}
	return env
}

// loadCompose reads compose.yaml as docker compose does, with an environment.
func loadCompose(ctx context.Context, env types.Mapping) (*types.Project, error) {
	return loader.LoadWithContext(ctx, types.ConfigDetails{
		WorkingDir: filepath.Join("..", ".."), Environment: env, ConfigFiles: []types.ConfigFile{{Filename: filepath.Join("..", "..", "compose.yaml")}},
	}, func(o *loader.Options) { o.SetProjectName("vega", true) })
}

func composed(t *testing.T, env types.Mapping) *types.Project {
	t.Helper()
	p, err := loadCompose(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// ours are the services that run Vega's image.
func ours(p *types.Project) []string {
	var names []string
	for name, s := range p.Services {
		if strings.HasPrefix(s.Image, "vega:") {
			names = append(names, name)
		}
	}
	return slices.Sorted(slices.Values(names))
}

func TestComposeRunsNothingAsRootAndNothingUnpinned(t *testing.T) {
	t.Parallel()
	p := composed(t, composeEnv(t))
	pinned := regexp.MustCompile(`^[a-z0-9./-]+:[A-Za-z0-9._-]*[0-9][A-Za-z0-9._-]*$`)
	nobody := regexp.MustCompile(`^[1-9][0-9]*:[1-9][0-9]*$`)
	for name, s := range p.Services {
		once := s.Restart == "no"
		for what, ok := range map[string]bool{
			"the image has a version":                pinned.MatchString(s.Image) || s.Image == "vega:dev",
			"it runs as a number that is not root":   nobody.MatchString(s.User),
			"its file system is read-only":           s.ReadOnly,
			"/tmp is memory":                         slices.ContainsFunc(s.Tmpfs, func(m string) bool { return strings.HasPrefix(m, "/tmp:") }),
			"it has no capabilities":                 slices.Equal(s.CapDrop, []string{"ALL"}) && len(s.CapAdd) == 0 && !s.Privileged,
			"it gains no privileges":                 slices.Contains(s.SecurityOpt, "no-new-privileges:true"),
			"its processes are counted":              s.PidsLimit > 0,
			"its logs are bounded":                   s.Logging != nil && s.Logging.Options["max-size"] != "",
			"it is not part of the machine":          s.Pid == "" && s.Ipc == "" && s.NetworkMode != "host" && len(s.Devices) == 0,
			"its health is asked for, if it stays":   once || s.HealthCheck != nil && !s.HealthCheck.Disable && len(s.HealthCheck.Test) > 1,
			"it is started again, if it is to stay":  once || s.Restart == "unless-stopped",
			"no folder of the machine is mounted":    !slices.ContainsFunc(s.Volumes, func(v types.ServiceVolumeConfig) bool { return v.Type == types.VolumeTypeBind }),
			"what it publishes is on loopback alone": !slices.ContainsFunc(s.Ports, func(p types.ServicePortConfig) bool { return p.HostIP != "127.0.0.1" }),
		} {
			if !ok {
				t.Errorf("%s: not so: %s", name, what)
			}
		}
		for other, d := range s.DependsOn {
			o := p.Services[other]
			want := types.ServiceConditionHealthy
			if o.Restart == "no" {
				want = types.ServiceConditionCompletedSuccessfully
			}
			if d.Condition != want {
				t.Errorf("%s waits for %s by %s, want %s", name, other, d.Condition, want)
			}
		}
	}
	if want := []string{"api", "llm-proxy", "maintenance", "migrate", "own-nats-1", "own-nats-2", "own-nats-3", "own-s3", "setup", "worker"}; !slices.Equal(ours(p), want) {
		t.Errorf("Vega's services are %v, want %v", ours(p), want)
	}
	worker := p.Services["worker"]
	if n := worker.GetScale(); n != 2 {
		t.Errorf("%d workers, want 2", n)
	}
	// The servers are those that the tests run against, where Go modules say which those are.
	mod, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`nats-server/v2 v([0-9.]+)`).FindSubmatch(mod)
	for _, name := range []string{"nats-1", "nats-2", "nats-3"} {
		if got := p.Services[name].Image; version == nil || !strings.HasPrefix(got, "nats:"+string(version[1])+"-") {
			t.Errorf("%s runs %s, want the version in go.mod, %s", name, got, version)
		}
	}
}

func TestComposeHasNoDefaultForASecret(t *testing.T) {
	t.Parallel()
	env := composeEnv(t)
	text, err := os.ReadFile(filepath.Join("..", "..", "compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	secret := regexp.MustCompile(`(PASSWORD|SECRET|KEY)$`)
	asked := map[string]bool{}
	for _, m := range regexp.MustCompile(`\$\{([A-Z0-9_]+)([^}]*)\}`).FindAllStringSubmatch(string(text), -1) {
		if secret.MatchString(m[1]) && strings.Contains(m[2], "-") && !strings.HasPrefix(m[2], ":?") {
			t.Errorf("%s has a default", m[0])
		}
		if strings.HasPrefix(m[2], ":?") {
			asked[m[1]] = true
		}
	}
	if got, want := slices.Sorted(maps.Keys(env)), slices.Sorted(maps.Keys(asked)); !slices.Equal(got, want) {
		t.Errorf("scripts/compose-env.sh gives %v, compose.yaml asks for %v", got, want)
	}
	for name := range env {
		without := maps.Clone(env)
		delete(without, name)
		if _, err := loadCompose(t.Context(), without); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v, want an error that names it", name, err)
		}
	}
	// No secret is written where it is not needed.
	p := composed(t, env)
	needs := map[string][]string{
		"LLM_PROVIDER_API_KEY": {"llm-proxy"}, "AUTH_SECRET": {"api"}, "DEBUG_PASSWORD": {"api"}, "LLM_PROXY_SECRET": {"llm-proxy", "worker"}, "MASK_SECRET": {"api", "worker"},
		"POSTGRES_PASSWORD": {"api", "maintenance", "migrate", "postgres"}, "NATS_SYSTEM_PASSWORD": {"nats-1", "nats-2", "nats-3"},
		"S3_SECRET_KEY": {"api", "buckets", "maintenance", "s3", "worker"}, "NATS_PASSWORD": {"api", "llm-proxy", "maintenance", "nats-1", "nats-2", "nats-3", "setup", "worker"},
	}
	for name, want := range needs {
		var got []string
		for service, s := range p.Services {
			for _, value := range s.Environment {
				if value != nil && strings.Contains(*value, env[name]) {
					got = append(got, service)
					break
				}
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s is told to %v, want %v", name, got, want)
		}
	}
}

// imageEnv is what the Dockerfile sets for every container.
func imageEnv(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^(?:ENV|   ) (VEGA_[A-Z_]+)=(\S+)`).FindAllStringSubmatch(string(b), -1) {
		env[m[1]] = m[2]
	}
	if env["VEGA_DATA_DIR"] == "" {
		t.Fatalf("the Dockerfile's environment was not found: %v", env)
	}
	return env
}

// onThisMachine are the local counterparts of compose.yaml's servers, and how names and addresses in its environment are called here.
type onThisMachine struct {
	t        *testing.T
	project  *types.Project
	replacer *strings.Replacer
	postgres string // the database's address, whose user and password are the local server's own
	s3       *s3test.Server
	ports    map[string]int
}

// counterparts starts NATS as compose.yaml configures it, and the servers that its other images stand for.
func counterparts(t *testing.T, p *types.Project) *onThisMachine {
	t.Helper()
	m := &onThisMachine{t: t, project: p, ports: map[string]int{}}
	pg, objects, queues := pgtest.Start(t, pgtest.Options{}), s3test.Start(t), sqstest.Start(t)
	m.postgres, m.s3 = pg.Database(t), objects

	var renames []string
	ports := freePorts(t, 9)
	config := p.Configs["nats"].Content
	cluster := &natsCluster{t: t}
	for i := range 3 {
		name := fmt.Sprintf("nats-%d", i+1)
		renames = append(renames, name+":4222", fmt.Sprintf("127.0.0.1:%d", ports[i]), name+":6222", fmt.Sprintf("127.0.0.1:%d", ports[3+i]))
	}
	for i := range 3 {
		name := fmt.Sprintf("nats-%d", i+1)
		n := &natsNode{dir: t.TempDir(), port: ports[i]}
		here := strings.NewReplacer(append(slices.Clone(renames), "0.0.0.0:4222", fmt.Sprintf("127.0.0.1:%d", ports[i]), "0.0.0.0:6222", fmt.Sprintf("127.0.0.1:%d", ports[3+i]),
			"127.0.0.1:8222", fmt.Sprintf("127.0.0.1:%d", ports[6+i]), "store_dir: /data", fmt.Sprintf("store_dir: %q", n.dir))...)
		text := here.Replace(strings.ReplaceAll(config, "$$", "$")) + "server_name: " + name + "\n"
		if strings.Contains(text, "0.0.0.0") || strings.Contains(text, "/data") {
			t.Fatalf("the server's configuration would leave this machine: %s", text)
		}
		if err := os.WriteFile(filepath.Join(n.dir, "nats.conf"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, v := range []string{"NATS_PASSWORD", "NATS_SYSTEM_PASSWORD"} {
			n.env = append(n.env, v+"="+*p.Services[name].Environment[v])
		}
		cluster.nodes = append(cluster.nodes, n)
		t.Cleanup(func() { cluster.kill(i) })
		cluster.start(i)
	}
	renames = append(renames, "http://s3:9000", objects.URL, fmt.Sprintf("http://127.0.0.1:%d", 9000), objects.URL, "http://sqs:9324", queues.URL)
	for service, port := range map[string]int{"api": 8000, "llm-proxy": 8001} {
		m.ports[service] = freePorts(t, 1)[0]
		renames = append(renames, fmt.Sprintf("%s:%d", service, port), fmt.Sprintf("127.0.0.1:%d", m.ports[service]))
	}
	m.replacer = strings.NewReplacer(renames...)

	// The cluster is ready when the one who may look says so.
	url := m.replacer.Replace(*p.Services["setup"].Environment["VEGA_NATS_URL"])
	untilLed(t, url)
	if _, err := nats.Connect(strings.ReplaceAll(url, "vega:", "vega:x")); err == nil {
		t.Error("NATS lets somebody in with a wrong password")
	}

	// What the images of compose.yaml make of their configuration: the buckets and the queue.
	for _, arg := range p.Services["buckets"].Command {
		if bucket, ok := strings.CutPrefix(arg, "vega/"); ok {
			if _, err := objects.Client().CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String(bucket)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	queue := regexp.MustCompile(`(?m)^  ([a-z-]+) \{$`).FindStringSubmatch(p.Configs["queues"].Content)
	if queue == nil {
		t.Fatal("compose.yaml makes no queue")
	}
	made, err := queues.Client().CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String(queue[1])})
	if err != nil {
		t.Fatal(err)
	}
	if want := m.replacer.Replace(*p.Services["api"].Environment["VEGA_SCAN_QUEUE_URL"]); *made.QueueUrl != want {
		t.Errorf("the queue is %s, and the API is told %s", *made.QueueUrl, want)
	}
	return m
}

// environment is a service's own, and the image's below it, with this machine's addresses.
func (m *onThisMachine) environment(service, dir string) []string {
	env := imageEnv(m.t)
	for name, value := range m.project.Services[service].Environment {
		if value != nil {
			env[name] = *value
		}
	}
	env["VEGA_DATA_DIR"] = dir
	for _, name := range []string{"VEGA_LISTEN_ADDR", "VEGA_LLM_PROXY_LISTEN_ADDR", "VEGA_HEALTH_LISTEN_ADDR"} {
		env[name] = fmt.Sprintf("127.0.0.1:%d", freePorts(m.t, 1)[0])
	}
	if port := m.ports[service]; port != 0 {
		env[map[string]string{"api": "VEGA_LISTEN_ADDR", "llm-proxy": "VEGA_LLM_PROXY_LISTEN_ADDR"}[service]] = fmt.Sprintf("127.0.0.1:%d", port)
	}
	for name, value := range env {
		env[name] = m.replacer.Replace(value)
		switch name {
		case "VEGA_DATABASE_URL":
			env[name] = m.postgres
		case "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION": // the local server's own
			for _, theirs := range m.s3.Env() {
				if n, v, _ := strings.Cut(theirs, "="); n == name {
					env[name] = v
				}
			}
		}
	}
	var list []string
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	return list
}

// The settings that compose.yaml names for production leave no role something to object to.
func TestComposeWithCognitoIsAProductionDeployment(t *testing.T) {
	t.Parallel()
	env := composeEnv(t)
	maps.Copy(env, types.Mapping{"VEGA_ENVIRONMENT": "prod", "VEGA_AUTH_PROVIDER": "cognito", "COGNITO_REGION": "us-west-1", "COGNITO_USER_POOL_ID": "us-west-1_abc", "COGNITO_APP_CLIENT_ID": "client",
		"COGNITO_SIGN_IN_URL": "https://example.auth.us-west-1.amazoncognito.com/login"})
	p := composed(t, env)
	for _, name := range ours(p) {
		all := imageEnv(t)
		for variable, value := range p.Services[name].Environment {
			all[variable] = *value
		}
		var list []string
		for variable, value := range all {
			list = append(list, variable+"="+value)
		}
		if strings.HasPrefix(name, "own-") {
			continue // reads no configuration
		}
		out, errs, code := vega(t, t.TempDir(), list, "config")
		if code != 0 || strings.Contains(errs, "warning") {
			t.Errorf("%s: exit %d: %s", name, code, errs)
		}
		for variable, value := range env {
			if (strings.HasSuffix(variable, "PASSWORD") || strings.HasSuffix(variable, "SECRET") || strings.HasSuffix(variable, "KEY")) && strings.Contains(out, value) {
				t.Errorf("%s: vega config prints %s", name, variable)
			}
		}
	}
}

// What compose.yaml starts works together: each of Vega's services is started with the environment that it has there, as a process, against the servers' local
// counterparts.
func TestEveryRoleOfComposeStartsWithItsEnvironment(t *testing.T) {
	t.Parallel()
	p := composed(t, composeEnv(t))
	m := counterparts(t, p)
	for _, once := range []string{"own-s3", "setup", "migrate"} {
		if out, errs, code := vega(t, t.TempDir(), m.environment(once, t.TempDir()), p.Services[once].Command...); code != 0 || strings.Contains(errs, "warning") {
			t.Fatalf("%s: exit %d\n%s%s", once, code, out, errs)
		}
	}
	type started struct {
		*process
		env []string
	}
	var all []started
	begun := map[string]bool{}
	var start func(name string)
	start = func(name string) { // after what it waits for
		s := p.Services[name]
		if begun[name] || s.Restart == "no" || !strings.HasPrefix(s.Image, "vega:") {
			return
		}
		begun[name] = true
		for _, other := range slices.Sorted(maps.Keys(s.DependsOn)) {
			start(other)
		}
		for range s.GetScale() {
			dir := t.TempDir()
			one := started{env: append([]string{"VEGA_V16_CODEX_BIN=" + newestCodex(t)}, m.environment(name, dir)...)} // which no container of the file has
			one.process = newProcess(t, name, dir, one.env, s.Command...)
			one.start()
			one.up()
			all = append(all, one)
		}
	}
	for _, name := range ours(p) {
		start(name)
	}
	if len(all) != 5 {
		t.Errorf("%d processes, want an API, two workers, maintenance and the proxy", len(all))
	}
	for _, one := range all {
		test := p.Services[one.name].HealthCheck.Test
		if !slices.Equal(test, []string{"CMD", "/vega", "healthcheck"}) {
			t.Errorf("%s: its health is asked for by %q", one.name, test)
		}
		if out, errs, code := vega(t, t.TempDir(), one.env, "healthcheck"); code != 0 {
			t.Errorf("%s: healthcheck: exit %d\n%s%s", one.name, code, out, errs)
		}
		until(t, time.Minute, one.name+" says that it is ready", func() bool {
			_, _, code := vega(t, t.TempDir(), one.env, "healthcheck", "--ready")
			return code == 0
		})
		log, err := os.ReadFile(one.log.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{"warning", `"WARN"`, `"ERROR"`} {
			if bytes.Contains(log, []byte(bad)) {
				t.Errorf("%s is not content: %s", one.name, log)
			}
		}
	}
	api := m.project.Services["api"].Environment
	c := newClient(fmt.Sprintf("http://127.0.0.1:%d/v1", m.ports["api"]), "")
	if err := c.login(t.Context(), *api["VEGA_DEBUG_EMAIL"], *api["VEGA_DEBUG_PASSWORD"]); err != nil {
		t.Fatal(err)
	}
	var workers struct{ Items []json.RawMessage }
	if err := c.call(t.Context(), http.MethodGet, "/ops/workers", "", nil, &workers); err != nil || len(workers.Items) != 2 {
		t.Errorf("the API knows of %d workers, %v; want 2", len(workers.Items), err)
	}
	if out, errs, code := vega(t, t.TempDir(), m.environment("api", t.TempDir()), "doctor"); code != 0 || strings.Contains(out, "PROBLEM") {
		t.Errorf("doctor: exit %d\n%s%s", code, out, errs)
	}
	for _, one := range all {
		if err := one.stop(); err != nil {
			t.Errorf("%s: %v", one.name, err)
		}
	}
}

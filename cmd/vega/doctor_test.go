package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vega/events/eventstore/natstest"
	"vega/projections/pgtest"
	"vega/services/dispatch/sqstest"
	"vega/services/files/s3test"
	"vega/services/llmproxy/providertest"
)

// standing is every part of a production-like configuration, on this machine, and the environment that names them.
type standing struct {
	postgres *pgtest.Server
	sqs      *sqstest.Server
	env      []string
}

func stand(t *testing.T) *standing {
	t.Helper()
	s := &standing{postgres: pgtest.Start(t, pgtest.Options{}), sqs: sqstest.Start(t)}
	provider := providertest.Start(t, providertest.Always(providertest.JSON(200, map[string]any{"object": "list", "data": []any{}})))
	buckets := s3test.Start(t)
	source, artifacts, exports := buckets.Buckets(t)
	queue, _ := s.sqs.Queue(t, sqstest.Options{})
	s.env = slices.Concat(buckets.Env(), s.sqs.Env()[:1], []string{
		"VEGA_NATS_URL=" + natstest.Listen(t), "VEGA_REGION=" + string(natstest.Region),
		"VEGA_PERSISTENCE_BACKEND=postgres", "VEGA_DATABASE_URL=" + s.postgres.Database(t),
		"VEGA_FILE_STORAGE_BACKEND=s3", "VEGA_S3_PATH_STYLE=true", "VEGA_S3_SOURCE_BUCKET=" + source, "VEGA_S3_ARTIFACTS_BUCKET=" + artifacts, "VEGA_S3_EXPORTS_BUCKET=" + exports,
		"VEGA_SCAN_EXECUTION_MODE=sqs", "VEGA_SCAN_QUEUE_URL=" + queue,
		"VEGA_MASK_SECRET=a secret for masks, 32 bytes long", "VEGA_AUTH_SECRET=a secret for tokens, 32 bytes long", "VEGA_LOG_FORMAT=json",
		"VEGA_LLM_PROXY_AUTH_SECRET=a secret for tokens of the proxy", "VEGA_LLM_PROVIDER_BASE_URL=" + provider.URL, "VEGA_LLM_PROVIDER_API_KEY=" + provider.Key, "VEGA_V16_CODEX_BIN=" + newestCodex(t),
	})
	return s
}

// queueURL is the URL of the standing queue.
func (s *standing) queueURL() string {
	i := slices.IndexFunc(s.env, func(v string) bool { return strings.HasPrefix(v, "VEGA_SCAN_QUEUE_URL=") })
	return strings.TrimPrefix(s.env[i], "VEGA_SCAN_QUEUE_URL=")
}

// told is one line of doctor's.
type told struct {
	Part, Check, Problem, Setting string
	OK                            bool
}

// doctor examines a role whose environment is changed.
func (s *standing) doctor(t *testing.T, role string, change ...string) []told {
	t.Helper()
	out, errs, code := vega(t, t.TempDir(), slices.Concat(s.env, []string{"VEGA_SERVICE_ROLE=" + role}, change), "doctor", "--json")
	var said struct{ Checks []told }
	if err := json.Unmarshal([]byte(out), &said); err != nil {
		t.Fatalf("doctor: exit %d, %v\n%s%s", code, err, out, errs)
	}
	if bad := slices.ContainsFunc(said.Checks, func(l told) bool { return !l.OK }); bad != (code == exitUnhealthy) {
		t.Errorf("doctor: exit %d with %+v", code, said.Checks)
	}
	return said.Checks
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	s := stand(t)
	if err := s.postgres.Exec(t.Context(), "postgres", "CREATE ROLE narrow LOGIN PASSWORD 'narrow-password'"); err != nil {
		t.Fatal(err)
	}
	if err := s.postgres.Exec(t.Context(), "postgres", "CREATE DATABASE guarded"); err != nil {
		t.Fatal(err)
	}
	prepared := s.postgres.Database(t)
	if err := s.postgres.Exec(t.Context(), pgtest.DatabaseOf(t, prepared), "CREATE SCHEMA vega; GRANT USAGE ON SCHEMA vega TO narrow"); err != nil {
		t.Fatal(err)
	}
	as := func(address string) string {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword("narrow", "narrow-password")
		return u.String()
	}

	// What a role does not use is not its problem.
	everything := []string{"Codex", "Postgres", "S3", "SQS queue", "data folder", "engine v16", "event log", "provider of models", "sign-in"}
	for _, tc := range []struct {
		role, broken string // broken is what this role does not use, and what does not work
		parts        []string
	}{
		{"api", "", slices.DeleteFunc(slices.Clone(everything), func(p string) bool { return p == "provider of models" || p == "Codex" || p == "engine v16" })},
		{"worker", "VEGA_DATABASE_URL=postgres://vega:a-password@127.0.0.1:1/vega", []string{"Codex", "S3", "SQS queue", "data folder", "engine v16", "event log"}},
		{"maintenance", "VEGA_DATABASE_URL=postgres://vega:a-password@127.0.0.1:1/vega", []string{"S3", "SQS queue", "event log"}},
		{"llm-proxy", "VEGA_SCAN_QUEUE_URL=http://127.0.0.1:1/0/scans", []string{"event log", "provider of models"}},
	} {
		t.Run(tc.role+" is examined for what it uses", func(t *testing.T) {
			t.Parallel()
			var change []string
			if tc.broken != "" {
				change = append(change, tc.broken)
			}
			var parts []string
			for _, l := range s.doctor(t, tc.role, change...) {
				if !l.OK {
					t.Errorf("problem %+v", l)
				}
				at := slices.IndexFunc(everything, func(p string) bool { return strings.HasPrefix(l.Part, p) })
				if at < 0 {
					t.Errorf("part %q", l.Part)
				} else if !slices.Contains(parts, everything[at]) {
					parts = append(parts, everything[at])
				}
			}
			slices.Sort(parts)
			if !slices.Equal(parts, tc.parts) {
				t.Errorf("parts %q, want %q", parts, tc.parts)
			}
		})
	}

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	strict := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved/models" {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(strict.Close)
	for _, tc := range []struct {
		name    string
		change  []string
		part    string // with the one problem
		setting string
		says    []string
	}{
		{"streams kept by too few servers", []string{"VEGA_NATS_REPLICAS=3"}, "event log", "VEGA_NATS_REPLICAS", []string{"VEGA_EVENTS_test_1 is kept by 1", "KV_VEGA_EXPIRING", "'vega setup'"}},
		{"NATS that is down", []string{"VEGA_NATS_URL=nats://ann:a-password@127.0.0.1:1"}, "event log", "VEGA_NATS_URL", []string{"127.0.0.1:1"}},
		{"NATS credentials that are not there", []string{"VEGA_NATS_CREDS=/nowhere.creds"}, "event log", "VEGA_NATS_CREDS", []string{"/nowhere.creds"}},
		{"a region without streams", []string{"VEGA_REGION=elsewhere"}, "event log", "VEGA_REGION", []string{"'vega setup'"}},
		{"Postgres that is down", []string{"VEGA_DATABASE_URL=postgres://vega:a-password@127.0.0.1:1/vega"}, "Postgres", "VEGA_DATABASE_URL", []string{"127.0.0.1:1"}},
		{"a replica that is down", []string{"VEGA_DATABASE_REPLICA_URL=postgres://vega:a-password@127.0.0.1:1/vega"}, "Postgres replica", "VEGA_DATABASE_REPLICA_URL", []string{"127.0.0.1:1"}},
		{"pending migrations that nobody applies", []string{"VEGA_DATABASE_AUTO_MIGRATE=false"}, "Postgres", "VEGA_DATABASE_AUTO_MIGRATE", []string{"'vega migrate up'"}},
		{"a user who may make no schema", []string{"VEGA_DATABASE_URL=" + as(s.postgres.URL("guarded"))}, "Postgres", "VEGA_DATABASE_URL", []string{"pending", "GRANT CREATE ON DATABASE"}},
		{"a user who may make no tables", []string{"VEGA_DATABASE_URL=" + as(prepared)}, "Postgres", "VEGA_DATABASE_URL", []string{"pending", "GRANT CREATE ON SCHEMA"}},
		{"a bucket that is not there", []string{"VEGA_S3_SOURCE_BUCKET=nowhere"}, "S3", "VEGA_S3_SOURCE_BUCKET", []string{`"nowhere"`, "does not exist"}},
		{"a queue that is not there", []string{"VEGA_SCAN_QUEUE_URL=" + s.queueURL() + "-gone"}, "SQS queue", "VEGA_SCAN_QUEUE_URL", []string{"does not exist"}},
		{"a queue that does not answer", []string{"AWS_ENDPOINT_URL_SQS=http://127.0.0.1:1"}, "SQS queue", "AWS_ENDPOINT_URL_SQS", []string{"http://127.0.0.1:1"}},
		{"a provider that is down", []string{"VEGA_LLM_PROVIDER_BASE_URL=http://127.0.0.1:1/v1"}, "provider of models", "VEGA_LLM_PROVIDER_BASE_URL", []string{"127.0.0.1:1"}},
		{"a key that the provider refuses", []string{"VEGA_LLM_PROVIDER_BASE_URL=" + strict.URL}, "provider of models", "VEGA_LLM_PROVIDER_API_KEY", []string{"does not accept the key"}},
		{"a provider that has moved", []string{"VEGA_LLM_PROVIDER_BASE_URL=" + strict.URL + "/moved"}, "provider of models", "VEGA_LLM_PROVIDER_BASE_URL", []string{"redirect"}},
		{"prices that are not there", []string{"VEGA_LLM_PROXY_PRICES_FILE=/nowhere.json"}, "provider of models", "VEGA_LLM_PROXY_PRICES_FILE", []string{"/nowhere.json"}},
		{"a data folder that is a file", []string{"VEGA_DATA_DIR=" + file}, "data folder", "VEGA_DATA_DIR", []string{file}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			found := 0
			role := "api"
			if tc.part == "provider of models" {
				role = "llm-proxy"
			}
			for _, l := range s.doctor(t, role, tc.change...) {
				if l.OK {
					continue
				}
				found++
				if !strings.Contains(l.Part, tc.part) || l.Setting != tc.setting {
					t.Errorf("problem %+v, want one of %s with %s", l, tc.part, tc.setting)
				}
				for _, want := range tc.says {
					if !strings.Contains(l.Problem, want) {
						t.Errorf("it says %q, want %q in it", l.Problem, want)
					}
				}
				if strings.Contains(l.Problem, "password") || strings.Contains(l.Problem, "operation error") {
					t.Errorf("it says %q", l.Problem)
				}
			}
			if found == 0 {
				t.Error("nothing was found")
			}
		})
	}
}

func TestAQueueThatRefusesStopsTheStartAndOneThatIsAwayDoesNot(t *testing.T) {
	t.Parallel()
	s := stand(t)
	for _, role := range []string{"api", "worker", "maintenance"} {
		as := slices.Clip(slices.Concat(s.env, []string{"VEGA_SERVICE_ROLE=" + role})) // each process appends its own
		t.Run(role+" without a queue", func(t *testing.T) {
			t.Parallel()
			out, errs, code := vega(t, t.TempDir(), append(as, "VEGA_SCAN_QUEUE_URL="+s.queueURL()+"-gone"))
			if code == 0 || !strings.Contains(errs, "of VEGA_SCAN_QUEUE_URL does not exist") {
				t.Errorf("exit %d\n%s%s", code, out, errs)
			}
		})
		t.Run(role+" while SQS is away", func(t *testing.T) {
			t.Parallel()
			addr := fmt.Sprint("127.0.0.1:", freePorts(t, 1)[0])
			p := newProcess(t, role, t.TempDir(), append(as, "AWS_ENDPOINT_URL_SQS=http://127.0.0.1:1", "VEGA_LISTEN_ADDR="+addr, "VEGA_HEALTH_LISTEN_ADDR="+addr))
			p.start()
			p.up()
			until(t, 30*time.Second, "readyz names SQS", func() bool {
				res, err := http.Get("http://" + addr + "/readyz")
				if err != nil {
					return false
				}
				defer res.Body.Close()
				var said struct {
					Error struct {
						Details struct {
							Failing  []string
							Problems map[string]string
						}
					}
				}
				return json.NewDecoder(res.Body).Decode(&said) == nil && slices.Equal(said.Error.Details.Failing, []string{"sqs"}) &&
					strings.Contains(said.Error.Details.Problems["sqs"], "AWS_ENDPOINT_URL_SQS")
			})
			if err := p.stop(); err != nil {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}
